"""Threads of posts: who wrote, when, and what, without the cards, counters and controls around it.

Forum software differs in its markup and agrees in one thing: the bodies of a page's posts carry the
same class (or the same id but for its number), and that class holds nearly all of the page's prose
and little else. That class is looked for, not a list of known ones. The lines with the author and
the date are then searched for in front of each body, inside the post.
"""

import re
from functools import lru_cache
from itertools import accumulate
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.page.cues import MAX_NAMES_CHARS
from eventmesh_trio.pipeline.extract.page.outline import Block, Outline
from eventmesh_trio.pipeline.extract.selection.regions import is_control, strike
from eventmesh_trio.pipeline.extract.selection.scoring import Selection

__all__ = ["select_thread"]

_BODY_TAGS: Final = frozenset(
    ("div", "article", "section", "td", "blockquote", "li", "dd", "main", "shreddit-comment")
)
_HEADINGS: Final = frozenset(("h1", "h2", "h3"))
_MIN_POSTS: Final = 2
_PROSE_CHARS: Final = 25
"""Without links, in one block: what user cards and controls seldom reach, and posts do."""
_MIN_SHARE: Final = 0.5
"""Of the page's prose in the bodies: the lowest of 30 threads that were looked at had 0.70."""
_PURITY: Final = 0.25
"""The square of F's beta: a class that takes cards along with posts is worse than one that misses
a post, for there are others that do not miss it."""

_NUMBER: Final = re.compile(r"\d+")
_SIGNATURE: Final = re.compile(r"(?:^|[-_ ])sig(?:text|block|box)?(?:$|[-_ ])|signature", re.I)

_HEAD_CHARS: Final = 60
_HEAD_BLOCKS: Final = 15
_LONE_HEAD_BLOCKS: Final = 6
"""How far in front of a body its author may stand, in blocks: inside the post, and where the body
is all that there is of the post."""
_NAME: Final = re.compile(
    r"author|user|poster|nick|member|screen-?name|byline|(?:^|[-_ ])by(?:$|[-_ ])|(?:^|[-_ ])name",
    re.I,
)
_NOT_NAME: Final = re.compile(
    r"title|rank|group|avatar|extra|stat|banner|badge|count|photo|info|field|custom|role"
    r"|regist|join|since",
    re.I,
)
_PROFILE: Final = re.compile(
    r"/(?:users?|u|members?|profiles?|author|people|account)(?:[/.?_-]|$)"
    r"|(?:profile|member|user)\.(?:php|cgi|pl|asp)"
    r"|[?&/](?:members?|u|user|uid|userid|profile)[=/]|/@",
    re.I,
)
_DATE: Final = re.compile(
    r"\b(?:19|20)\d\d[-/.年]\s?\d{1,2}[-/.月]\s?\d{1,2}"
    r"|\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d\d)\b"
    r"|[^\W\d]{3,9}\.? \d{1,2}(?:st|nd|rd|th)?,? (?:at )?(?:19|20)\d\d\b"
    r"|\b\d{1,2}\.? (?:de )?[^\W\d]{3,9}\.?,? (?:de )?(?:19|20)\d\d\b"
    r"|^[^\W\d]{3,9} (?:19|20)\d\d$"
)
"""A day, in figures or with the name of a month. How long ago a post was is left out: it is true
only at the moment the page was fetched."""


@attrs.define(eq=False)
class _Tally:
    """What the elements with one class hold together, those inside another of them not counted."""

    prose: int = 0
    chars: int = 0
    end: int = 0
    posts: int = 0  # members with prose in them
    members: list[int] = attrs.field(factory=list)


def select_thread(page: Outline) -> Selection | None:
    """The posts of a page; None where there are not two that look alike."""
    struck = _strike(page)
    bodies = _bodies(page, struck)
    if not bodies:
        return None
    nodes, blocks = page.nodes, page.blocks
    before = [0] * (len(nodes) + 1)  # bodies among the first n nodes
    for index in bodies:
        before[index + 1] = 1
    before = list(accumulate(before))
    kept: list[int] = []
    last = 0
    for index in bodies:
        body = nodes[index]
        post = index
        while (parent := nodes[post].parent) >= 0:
            if before[nodes[parent].end_node] - before[parent] > 1:
                break
            post = parent
        start = max(last or nodes[post].first_block, body.first_block - _HEAD_BLOCKS)
        if start == body.first_block:
            start = max(last, start - _LONE_HEAD_BLOCKS)
        heading = _heading(page, start, body.first_block)
        kept += heading
        kept += [
            i
            for i in range(body.first_block, body.end_block)
            if blocks[i].chars and not struck[i] and not is_control(blocks[i].text)
        ]
        last = body.end_block
        if not heading:  # some sign below
            end = min(nodes[post].end_block, last + _HEAD_BLOCKS)
            kept += _heading(page, last, end)
            last = end
    chars = sum(blocks[i].chars for i in kept)
    links = sum(blocks[i].link_chars for i in kept)
    total = page.chars_before[-1]
    return Selection(kept, 0, "thread", chars / total, links / chars) if chars else None


def _strike(page: Outline) -> list[bool]:
    """Navigation and the like, and the lines that members put under all of their posts."""
    struck = strike(page, posts=True)
    nodes = page.nodes
    index = 1
    while index < len(nodes):
        node = nodes[index]
        names = node.attributes.get("class") if node.attributes else None
        if names and _is_signature(names[:MAX_NAMES_CHARS]):
            span = node.end_block - node.first_block
            struck[node.first_block : node.end_block] = [True] * span
            index = node.end_node
        else:
            index += 1
    return struck


@lru_cache(maxsize=1024)
def _is_signature(names: str) -> bool:
    return _SIGNATURE.search(names) is not None


def _bodies(page: Outline, struck: list[bool]) -> list[int]:
    """The elements that are bodies of posts, in order."""
    blocks = page.blocks
    prose = [0, *accumulate(0 if s else _prose(b) for s, b in zip(struck, blocks, strict=True))]
    chars = [0, *accumulate(0 if s else b.chars for s, b in zip(struck, blocks, strict=True))]
    total = prose[-1]
    if not total:
        return []
    tallies: dict[str, _Tally] = {}
    for index, node in enumerate(page.nodes):
        first, end = node.first_block, node.end_block
        if node.tag not in _BODY_TAGS or not node.attributes or chars[end] == chars[first]:
            continue
        for name in _names(node.attributes):
            tally = tallies.get(name)
            if tally is None:
                tally = tallies[name] = _Tally()
            if first < tally.end:
                continue  # inside one that is counted already: a quotation, or a reply
            if prose[end] > prose[first]:
                tally.prose += prose[end] - prose[first]
                tally.posts += 1
            tally.chars += chars[end] - chars[first]
            tally.end = end
            tally.members.append(index)
    best: list[int] = []
    best_score = 0.0
    for tally in tallies.values():
        recall = tally.prose / total
        if tally.posts < _MIN_POSTS or recall < _MIN_SHARE:
            continue
        precision = tally.prose / tally.chars
        score = precision * recall / (_PURITY * precision + recall)
        if score > best_score:
            best, best_score = tally.members, score
    return best


def _prose(block: Block) -> int:
    if block.tag in _HEADINGS:
        return 0
    chars = block.chars - block.link_chars
    if chars < _PROSE_CHARS or (block.chars <= _HEAD_CHARS and _DATE.search(block.text)):
        return 0
    return chars


def _names(attributes: dict[str, str | None]) -> list[str]:
    """What an element has in common with its like: classes, the id without number, microdata."""
    names = (attributes.get("class") or "").split()
    identity = attributes.get("id")
    if identity:
        general = _NUMBER.sub("#", identity)
        if general != identity:
            names.append(general)
    item = attributes.get("itemprop")
    if item:
        names.append("@" + item)
    return names


def _heading(page: Outline, start: int, end: int) -> list[int]:
    """The blocks from ``start`` to ``end`` with the author (the first) and the date (the last)."""
    author = date = None
    for i in range(start, end):
        block = page.blocks[i]
        if not 0 < block.chars <= _HEAD_CHARS or block.tag in ("dd", "button"):
            continue
        if author is None and _is_author(page, block):
            author = i
        if block.tag != "dt" and _DATE.search(block.text) is not None:
            date = i
    return sorted({i for i in (author, date) if i is not None})


def _is_author(page: Outline, block: Block) -> bool:
    text = block.text
    if len(text) < 2 or text[1] == " ":  # the letter that stands for a picture
        return False
    if block.tag == "dt":
        return text[-1] != ":"
    for part in block.parts:
        if not isinstance(part, str) and part[0] == "a" and _PROFILE.search(part[1][:256]):
            return True
    index = block.node
    for _ in range(2):
        if index < 0:
            break
        names = (page.nodes[index].attributes.get("class") or "")[:256]
        if names:
            if _NOT_NAME.search(names) is not None:
                return False
            if _NAME.search(names) is not None:
                return True
        index = page.nodes[index].parent
    return False
