"""Any structure, as HTML, as our Markdown, read back by another's parser: the same structure."""

import html
import unicodedata
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from eventmesh_trio.pipeline.extract import extract_document

URL = "https://example.org/a/b"
GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HREFS = (
    "https://example.org/",
    "https://example.org/x_(y)",
    "https://example.org/a)b?c=d*e_f",
    "https://example.org/((((q))))",
)
TAGS = {"strong": "b", "em": "i", "del": "s", "sup": "sup", "sub": "sub"}
EMPHASIS = frozenset("bis")

# A character, the marks it stands in, and the address it links to; "\n" is a hard break, and an
# image is one long "character".
Character = tuple[str, frozenset[str], str]

words = st.text(
    alphabet="abc12 *_`~[]()#+-.!>|<&;\\:=^{}$/\"'@é中「」“”，\u00a0x", min_size=1, max_size=12
).filter(lambda text: bool(text.strip()))
marks = st.frozensets(st.sampled_from(sorted(TAGS.values())), max_size=2)
hrefs = st.one_of(st.just(""), st.sampled_from(HREFS))
runs: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("text"), words, marks, hrefs),
    st.tuples(st.just("text"), words, st.just(frozenset()), st.just("")),
    st.tuples(st.just("code"), words, marks, hrefs),
    st.tuples(st.just("image"), words, st.just(frozenset()), hrefs),
)
lines = st.lists(runs, min_size=1, max_size=5)
contents = st.lists(lines, min_size=1, max_size=3)  # of a paragraph: lines with breaks between
code = st.text(alphabet="ab `~\n\t<&*", max_size=30).filter(lambda text: bool(text.strip()))
cells = st.one_of(st.just([]), lines)
leaves = st.one_of(
    st.tuples(st.just("p"), contents),
    st.tuples(st.just("p"), contents),
    st.tuples(st.just("h"), st.integers(1, 6), lines),
    st.tuples(st.just("pre"), st.sampled_from(["", "python", "c++"]), code),
    st.tuples(
        st.just("table"),
        st.integers(1, 3).flatmap(
            lambda width: st.lists(
                st.lists(lines, min_size=width + 1, max_size=width + 1), min_size=2, max_size=3
            )
        ),
    ),
)
paragraphs = st.tuples(st.just("p"), contents)


def _containers(blocks: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.tuples(paragraphs, st.lists(blocks, max_size=2)).map(
        lambda item: [item[0], *item[1]]
    )
    return st.one_of(
        st.tuples(st.just("ul"), st.lists(items, min_size=1, max_size=3)),
        st.tuples(st.just("ol"), st.integers(0, 120), st.lists(items, min_size=1, max_size=3)),
        st.tuples(st.just("quote"), st.lists(blocks, min_size=1, max_size=3)),
    )


documents = st.lists(st.recursive(leaves, _containers, max_leaves=8), min_size=1, max_size=4)


def _markup_of_line(line: list[Any]) -> str:
    pieces = []
    for kind, text, held, href in line:
        if kind == "image":
            piece = f'<img src="/i.png" alt="{html.escape(text)}">'
        else:
            piece = html.escape(text)
        if kind == "code":
            piece = f"<code>{piece}</code>"
        for mark in sorted(held):
            tag = next(tag for tag, name in TAGS.items() if name == mark)
            piece = f"<{tag}>{piece}</{tag}>"
        pieces.append(f'<a href="{href}">{piece}</a>' if href else piece)
    return "".join(pieces)


def _markup(block: Any) -> str:
    match block:
        case ("p", content):
            return f"<p>{'<br>'.join(map(_markup_of_line, content))}</p>"
        case ("h", level, line):
            return f"<h{level}>{_markup_of_line(line)}</h{level}>"
        case ("pre", language, text):
            named = f' class="language-{language}"' if language else ""
            return f"<pre><code{named}>{html.escape(text)}\n</code></pre>"
        case ("table", rows):
            head = "".join(f"<th>{_markup_of_line(cell)}" for cell in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{_markup_of_line(cell)}" for cell in row) for row in rows[1:]
            )
            return f"<table><tr>{head}{body}</table>"
        case ("ul", items):
            return f"<ul>{_markup_of_items(items)}</ul>"
        case ("ol", start, items):
            return f'<ol start="{start}">{_markup_of_items(items)}</ol>'
        case ("quote", blocks):
            return f"<blockquote>{''.join(map(_markup, blocks))}</blockquote>"
    raise AssertionError(block)


def _markup_of_items(items: list[Any]) -> str:
    return "".join(f"<li>{''.join(map(_markup, item))}</li>" for item in items)


def _characters_of_line(line: list[Any]) -> list[Character]:
    found: list[Character] = []
    for kind, text, held, href in line:
        shown = held | {"code"} if kind == "code" else held
        if kind == "image":
            found.append((f"image {' '.join(text.split())}", held, href))
        else:
            found.extend((character, shown, href) for character in text)
    return found


def _shown(characters: list[Character], *, bold: bool = False) -> list[Character]:
    """White space as a browser shows it; what emphasis does to spaces and punctuation left out.

    ``bold``: the place is bold by itself, so the mark says nothing.
    """
    found: list[Character] = []
    for character, marked, href in characters:
        held = marked
        if character.isspace() and character != "\n":
            if not found or found[-1][0] in (" ", "\n"):
                continue
            found.append((" ", frozenset(), ""))
            continue
        if character == "\n":
            while found and found[-1][0] == " ":
                found.pop()
        elif len(character) == 1 and unicodedata.category(character)[0] in "PS":
            held -= EMPHASIS
        if bold:
            held -= {"b"}
        if len(character) > 1:
            held -= EMPHASIS
        found.append((character, held, href))
    while found and found[-1][0] == " ":
        found.pop()
    return found


def _expected(block: Any) -> Any:
    match block:
        case ("p", content):
            characters: list[Character] = []
            for line in content:
                characters.extend([("\n", frozenset(), ""), *_characters_of_line(line)])
            return "p", _shown(characters[1:])
        case ("h", level, line):
            return "h", level, _shown(_characters_of_line(line), bold=True)
        case ("pre", language, text):
            return "pre", language, text + "\n"
        case ("table", rows):
            return (
                "table",
                [
                    [_shown(_characters_of_line(cell), bold=not number) for cell in row]
                    for number, row in enumerate(rows)
                ],
            )
        case ("ul", items):
            return "ul", [[_expected(inner) for inner in item] for item in items]
        case ("ol", start, items):
            return "ol", start, [[_expected(inner) for inner in item] for item in items]
        case ("quote", blocks):
            return "quote", [_expected(inner) for inner in blocks]
    raise AssertionError(block)


def _read_characters(token: Token) -> list[Character]:
    found: list[Character] = []
    held: list[str] = []
    href = ""
    for child in token.children or []:
        now = frozenset(held)
        if child.type == "text":
            found.extend((character, now, href) for character in child.content)
        elif child.type == "code_inline":
            found.extend((character, now | {"code"}, href) for character in child.content)
        elif child.type in ("hardbreak", "softbreak"):
            assert child.type == "hardbreak"
            found.append(("\n", frozenset(), ""))
        elif child.type == "image":
            alt = "".join(inner.content for inner in child.children or [])
            found.append((f"image {alt}", now, href))
            assert child.attrs["src"] == "https://example.org/i.png"
        elif child.type == "link_open":
            href = str(child.attrs["href"])
        elif child.type == "link_close":
            href = ""
        elif child.type == "html_inline":
            name = TAGS[child.content.strip("</>")]
            held.remove(name) if child.content[1] == "/" else held.append(name)
        elif child.nesting == 1:
            held.append(TAGS[child.tag.replace("s", "del") if child.tag == "s" else child.tag])
        elif child.nesting == -1:
            held.remove(TAGS["del" if child.tag == "s" else child.tag])
        else:
            raise AssertionError(child)
    return found


def _read(tokens: list[Token], position: int, end: str) -> tuple[list[Any], int]:
    """The blocks up to a token of type ``end``, and where that is."""
    blocks: list[Any] = []
    while tokens[position].type != end:
        token = tokens[position]
        position += 1
        if token.type == "paragraph_open":
            blocks.append(("p", _shown(_read_characters(tokens[position]))))
            position += 2
        elif token.type == "heading_open":
            line = _shown(_read_characters(tokens[position]), bold=True)
            blocks.append(("h", int(token.tag[1]), line))
            position += 2
        elif token.type == "fence":
            blocks.append(("pre", token.info, token.content))
        elif token.type == "blockquote_open":
            inner, position = _read(tokens, position, "blockquote_close")
            blocks.append(("quote", inner))
            position += 1
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            closing = token.type.replace("open", "close")
            items = []
            while tokens[position].type != closing:
                item, position = _read(tokens, position + 1, "list_item_close")
                items.append(item)
                position += 1
            position += 1
            if token.tag == "ul":
                blocks.append(("ul", items))
            else:
                blocks.append(("ol", token.attrs.get("start", 1), items))
        elif token.type == "table_open":
            rows: list[Any] = []
            while tokens[position].type != "table_close":
                if tokens[position].type == "tr_open":
                    rows.append([])
                elif tokens[position].type == "inline":
                    line = _read_characters(tokens[position])
                    rows[-1].append(_shown(line, bold=len(rows) == 1))
                position += 1
            position += 1
            blocks.append(("table", rows))
        else:
            raise AssertionError(token)
    return blocks, position


def read_back(written: str) -> list[Any]:
    tokens = [*GFM.parse(written), Token("end", "", 0)]
    return _read(tokens, 0, "end")[0]


@settings(deadline=None, max_examples=60)
@given(documents)
def test_markdown_read_back_is_the_structure_and_the_text_of_the_page(document: Any) -> None:
    page = "".join(map(_markup, document))
    written = extract_document(
        f"<!DOCTYPE html><body>{page}</body>".encode(), URL, mode="full", charset="utf-8"
    ).markdown
    assert read_back(written) == [_expected(block) for block in document], written
