"""Full-text search over documents: SQLite's FTS5, with what users type as data.

The index holds no text (`content=''`), only where which word stands: texts are in the store, and
the few that are found are brought from there for their snippets. Words are runs of letters and
digits, compared without case and diacritics (``unicode61``). Scripts that put no spaces between
words are indexed letter by letter, and searched for as phrases, which finds any part of a text.
Source: https://sqlite.org/fts5.html
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import apsw

__all__ = ["SCHEMA", "add", "clean", "match", "remove", "snippets", "terms_of"]

SCHEMA: Final = (
    "CREATE VIRTUAL TABLE words USING fts5(title, text, content='', contentless_delete=1, "
    'tokenize="unicode61 remove_diacritics 2")'
)
_MAX_TERMS: Final = 32
_TITLE_WEIGHT: Final = 4.0  # a word in the title counts as four in the text
_SNIPPET_TOKENS: Final = 32
_SNIPPET_CHARACTERS: Final = 300
_SEPARATOR: Final = "\u200b"  # zero width: no part of any word, and not seen in a snippet
# Thai, Lao, Burmese, Khmer, kana, Han, Hangul, and Han of the supplementary planes.
_UNSPACED: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])"
)
_OF_SPACED: Final = bytes([*range(0xE0), 0xE2])
"""The bytes of UTF-8 of which none begins a letter of those scripts."""
_TERM: Final = re.compile(r'"([^"]*)"|([^\s"]+)')
_BLANKS: Final = re.compile(r"\s+")


def add(connection: apsw.Connection, row: int, title: str, text: str) -> None:
    """Index a document under a row number, in place of what that row was."""
    connection.execute(
        "INSERT OR REPLACE INTO words(rowid, title, text) VALUES(?, ?, ?)",
        (row, _spaced(title), _spaced(text)),
    )


def remove(connection: apsw.Connection, rows: Sequence[int]) -> None:
    """Take rows out of the index; those that are not in it do not matter."""
    connection.executemany("DELETE FROM words WHERE rowid = ?", ((row,) for row in rows))


def terms_of(query: str) -> list[str]:
    """The words and ``"quoted phrases"`` of what a user typed, as FTS5 string literals.

    Nothing in them is an operator. What has neither letter nor digit is not looked for: FTS5
    would find nothing at all then.
    """
    terms: dict[str, None] = {}
    for quoted, bare in _TERM.findall(clean(query)):
        term = quoted or bare
        if any(character.isalnum() for character in term):
            terms['"' + _spaced(term).replace('"', '""') + '"'] = None
    return list(terms)[:_MAX_TERMS]


def match(connection: apsw.Connection, query: str) -> Iterator[int]:
    """The rows that have all words of a query, best first; then those that have some of them.

    Each row comes once. Raises `apsw.InterruptError` when the connection is interrupted.
    """
    terms = terms_of(query)
    if not terms:
        return
    seen: set[int] = set()
    for operator in ("AND", "OR") if len(terms) > 1 else ("AND",):
        rows = connection.execute(
            "SELECT rowid FROM words WHERE words MATCH ? "
            f"ORDER BY bm25(words, {_TITLE_WEIGHT}, 1.0), rowid DESC",
            (f" {operator} ".join(terms),),
        )
        for (row,) in rows:
            if row not in seen:
                seen.add(row)
                yield row


def snippets(query: str, texts: Sequence[str]) -> list[str]:
    """Of each text the part that has most of the query's words; its beginning where none has.

    The texts are indexed once more for it, in memory: they are few.
    """
    terms = terms_of(query)
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(
            'CREATE VIRTUAL TABLE texts USING fts5(text, tokenize="unicode61 remove_diacritics 2")'
        )
        connection.executemany(
            "INSERT INTO texts(rowid, text) VALUES(?, ?)",
            ((row, _spaced(text)) for row, text in enumerate(texts)),
        )
        found: dict[int, str] = {}
        if terms:
            found = dict(
                connection.execute(
                    f"SELECT rowid, snippet(texts, 0, '', '', '…', {_SNIPPET_TOKENS}) "
                    "FROM texts WHERE texts MATCH ?",
                    (" OR ".join(terms),),
                )
            )
    finally:
        connection.close()
    return [_short(found.get(row, text)) for row, text in enumerate(texts)]


def clean(text: str) -> str:
    """A text that SQLite takes whole: lone surrogates and NULs are replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\0", " ")


def _spaced(text: str) -> str:
    """With every letter of a script without spaces a word of its own.

    A page of Japanese in a sixth of the time that substituting takes, which calls a function for
    each of its letters; one of French in a fourth of what looking for such letters takes.
    """
    if text.isascii() or not text.encode("utf-8", "replace").translate(None, _OF_SPACED):
        return text
    return _SEPARATOR.join(_UNSPACED.split(text))


def _short(text: str) -> str:
    text = _BLANKS.sub(" ", text[: 8 * _SNIPPET_CHARACTERS].replace(_SEPARATOR, "")).strip()
    if len(text) <= _SNIPPET_CHARACTERS:
        return text
    return text[: _SNIPPET_CHARACTERS - 1].rstrip() + "…"
