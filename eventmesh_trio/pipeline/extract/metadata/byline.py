"""Who wrote a page and when, as its visible text has it: for what is not declared anywhere.

The walk notes the elements that are called an author or a date by their class, link to an author's
page, or are a ``<time>``; a query of its own took 0.25 ms a page. `near_heading` reads the short
lines around the first heading, as readers do.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import attrs
from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.metadata.dates import parse_date
from eventmesh_trio.pipeline.extract.metadata.head import tidy
from eventmesh_trio.pipeline.extract.page.cues import COMMENTS, MAX_NAMES_CHARS
from eventmesh_trio.pipeline.extract.page.outline import Block, Outline
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["Byline", "join_names", "near_heading", "read_byline"]

MAX_NAME_CHARS: Final = 120
MAX_NAMES: Final = 30
"""A paper of physics may have 3,000 authors; whoever wants all of them reads the paper."""
MAX_READ_CHARS: Final = 500_000
"""Of all texts that are read. Elements nest, and each is read with all that is in it."""
_MAX_CLIMB: Final = 24  # levels; the deepest of 791 real pages is 51, and containers are near
_MAX_LINE_CHARS: Final = 120
_BLOCKS_BEFORE: Final = 5
_BLOCKS_AFTER: Final = 25
_MAX_NAME_WORDS: Final = 12

_BY_WORDS: Final = (
    r"(?:written|posted|published|created|submitted|story|words|text|interview|article)\s+by"
    r"|by|authors?|von|autor(?:in|a)?|par|auteurs?|por|di|autore|door|av|af|автор|作者|文|記者|著者"
)
_BY: Final = re.compile(rf"^\W*(?:{_BY_WORDS})(?:\s*[:：/]\s*|\s+(?=\w))", re.IGNORECASE)
_BY_LABEL: Final = re.compile(rf"^\W*(?:{_BY_WORDS})\W*$", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"^(?:https?:|www\.|/|@?\S+@\S+\.)", re.IGNORECASE)
_MAILBOX: Final = re.compile(r"^\S+@\S+\s+\((.+)\)$")
_NAME_END: Final = re.compile(
    r"\s+(?:[|•·–—]|on\s|\d|[^\W\d_]{3,12}\.?\s\d{1,2},?\s\d{4}).*$|,\s*(?:\w+\.?,?\s+){0,3}\d.*$|\s*\((?:https?|@).*$",
    re.DOTALL,
)
_NO_NAME: Final = frozenset(("null", "undefined", "none", "unknown", "n/a", "anonymous", "admin",
                             "administrator", "about the author", "author", "authors"))  # fmt: skip
_UPDATED: Final = re.compile(
    r"\b(?:updated?|modified|revised|edited|reviewed|aktualisiert|geändert|mis à jour|modifié"
    r"|actualizado|atualizado|aggiornato|bijgewerkt|uppdaterad|обновлено|更新)",
    re.IGNORECASE,
)
_AUTHOR_PATH: Final = re.compile(r"/authors?/[^/?#]+", re.IGNORECASE)
_NAME_CLASS: Final = re.compile(r"(?:author|byline)[-_]*name|name[-_]*author")
_AUTHOR_CLASS: Final = re.compile(r"(?:^|[-_])(?:author|byline)s?(?:[-_]*link)?$")
_DATE_CLASS: Final = re.compile(
    r"(?:^|[-_])(?:date|dateline|pubdate|publish(?:ed)?|timestamp|date[-_]*published"
    r"|publish(?:ed)?[-_]*(?:date|on|at|time)|post(?:ed)?[-_]*(?:date|on)|date[-_]*time)$"
)
_LAYOUT: Final = re.compile(r"\b(?:has|with|no|without)[-_]\S*")
_AMID: Final = re.compile(
    r"(?:\b|_)(?:comments?|replies|related|recommend\w*|sidebar|footer|popular|latest|trending)(?:\b|_)"
)
_BESIDE: Final = frozenset(("aside", "nav", "footer"))
_CENTRAL: Final = frozenset(("article", "main", "header"))


@attrs.frozen
class Byline:
    """None: the page does not show it, or not in a way that can be told."""

    author: str | None = None
    date: str | None = None
    modified: str | None = None


def read_byline(elements: Iterable[LexborNode], *, day_first: bool | None) -> Byline:
    """Read author and dates from the elements that are called so (`Outline.signed`).

    Of authors, elements called an author's name come before elements called an author, and these
    before links to an author's page. Of dates, those within the article come before others. What
    stands among comments and lists of other pages counts for neither.
    """
    names: dict[int, str] = {}  # by rank
    dates: dict[bool, str] = {}  # by whether it is of the article
    places: dict[int, bool | None] = {}
    modified: str | None = None
    left = MAX_READ_CHARS
    for element in elements:
        attributes = element.attributes
        classes = _read_classes((attributes.get("class") or "")[:MAX_NAMES_CHARS])
        rank = classes.rank
        if rank is None and _AUTHOR_PATH.search(attributes.get("href") or "") is not None:
            rank = 2
        is_name = rank is not None and rank not in names
        is_date = classes.is_date or element.tag == "time"
        is_date = is_date and (True not in dates or modified is None)
        if not (is_name or is_date) or (place := _place(element, places)) is None:
            continue
        whole = element.text(separator=" ")
        text = tidy(whole)
        left -= len(whole)
        if rank is not None and is_name:
            name = join_names([_NAME_END.sub("", text)])
            if name is not None:
                names[rank] = name
        found = _date_of(attributes, text, day_first) if is_date else None
        if found is not None:
            before = "" if element.prev is None else element.prev.text()
            left -= len(before)
            line = f"{before[-_MAX_LINE_CHARS:]} {text[:_MAX_LINE_CHARS]}"
            if classes.tells_update or _tells_update(line):
                modified = modified or found
            else:
                dates.setdefault(place, found)
        if left < 0:
            break
    author = names[min(names)] if names else None
    return Byline(author, dates.get(True) or dates.get(False), modified)


def _date_of(attributes: dict[str, str | None], text: str, day_first: bool | None) -> str | None:
    found = parse_date(attributes.get("datetime") or attributes.get("content"))
    if found is None and len(text) <= _MAX_LINE_CHARS:
        return parse_date(text, day_first=day_first)
    return found


@attrs.frozen
class _Classes:
    """What an element's classes say."""

    rank: int | None  # as the name of an author
    is_date: bool
    tells_update: bool


@lru_cache(maxsize=1024)
def _read_classes(value: str) -> _Classes:
    classes = value.lower().split()
    rank = None
    if any(map(_NAME_CLASS.search, classes)):
        rank = 0
    elif any(map(_AUTHOR_CLASS.search, classes)):
        rank = 1
    return _Classes(
        rank,
        any(map(_DATE_CLASS.search, classes)),
        any("updat" in name or "modif" in name for name in classes),
    )


def _place(element: LexborNode, known: dict[int, bool | None]) -> bool | None:
    """Whether an element is within what the page is about; None if it is of something beside it.

    ``known`` remembers that of all that was climbed, by identity: elements have most of what is
    around them in common.
    """
    climbed: list[tuple[int, bool]] = []
    node: LexborNode | None = element
    place: bool | None = False
    for _ in range(_MAX_CLIMB):
        if node is None:
            break
        identity = node.mem_id
        if identity in known:
            place = known[identity]
            break
        tag = node.tag
        if tag in ("body", "html"):
            break
        attributes = node.attributes
        climbed.append((identity, tag in _CENTRAL))
        if tag in _BESIDE or (
            attributes
            and _is_amid(
                (attributes.get("class") or "")[:MAX_NAMES_CHARS],
                (attributes.get("id") or "")[:MAX_NAMES_CHARS],
            )
        ):
            place = None
            break
        node = node.parent
    for identity, is_central in reversed(climbed):
        place = None if place is None else place or is_central
        known[identity] = place
    return place


# The elements around one date are those around the next, mostly.
@lru_cache(maxsize=1024)
def _is_amid(names: str, identity: str) -> bool:
    return _AMID.search(_LAYOUT.sub("", f"{names} {identity}".lower())) is not None


def near_heading(page: Outline, *, day_first: bool | None, comments: bool) -> Byline:
    """Read author and dates from the short lines around the first heading.

    ``comments``: those among comments too; they are the content of a forum.
    """
    author = date = modified = None
    for block in _short_lines(page):
        text = clean(block.text)
        announced = author is None and _BY.match(text) is not None
        found = parse_date(text, day_first=day_first)
        # Few lines say either: only of these it is asked where they stand.
        if not (announced or found is not None) or (not comments and _is_comment(page, block.node)):
            continue
        if announced:
            author = join_names([_NAME_END.sub("", text)])
        if found is not None:
            if _tells_update(text):
                modified = modified or found
            else:
                date = date or found
    return Byline(author, date, modified)


def _tells_update(text: str) -> bool:
    """Whether the first date of a line is that of a change, which is said before it."""
    digit = next((i for i, character in enumerate(text) if character.isdigit()), len(text))
    return _UPDATED.search(text[:digit]) is not None


def _short_lines(page: Outline) -> list[Block]:
    blocks = page.blocks
    start = next((i for i, block in enumerate(blocks) if block.tag == "h1"), 0)
    near = blocks[max(0, start - _BLOCKS_BEFORE) : start + _BLOCKS_AFTER]
    return [block for block in near if 0 < block.chars <= _MAX_LINE_CHARS]


def _is_comment(page: Outline, index: int) -> bool:
    while index >= 0:
        node = page.nodes[index]
        if node.cues & COMMENTS:
            return True
        index = node.parent
    return False


def is_by_label(text: str) -> bool:
    """Whether a text is but the words with which a name is announced: "Written by"."""
    return _BY_LABEL.match(text) is not None


def join_names(values: Iterable[str]) -> str | None:
    """The names among some values, each once, joined by commas; None if there are none."""
    kept: dict[str, str] = {}
    for value in values:
        name = tidy(value)
        if (mailbox := _MAILBOX.match(name)) is not None:
            name = mailbox[1]
        name = _BY.sub("", name).strip(" ,;|-–—•·")
        folded = name.casefold()
        if not name or len(name) > MAX_NAME_CHARS or _ADDRESS.match(name) or folded in _NO_NAME:
            continue
        if not any(map(str.isalpha, name)) or len(name.split()) > _MAX_NAME_WORDS:
            continue
        if len(kept) < MAX_NAMES:
            kept.setdefault(folded, name)
    return ", ".join(kept.values()) or None
