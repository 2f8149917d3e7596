"""What the walk does with an element of a name: skip it, enter it, write it as a mark.

Every element asks, a thousand times a page; so the answers are kept by the parser's number for the
name, which is cheaper to read than the name.
"""

from typing import Final

from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.page.cues import cues_of

__all__ = [
    "LEAF",
    "LINK",
    "MARKED",
    "MARKING",
    "NODE",
    "NOTHING",
    "PLAIN_INLINE",
    "TAGS_SEEN",
    "TEXT_ID",
    "meet",
]

_SKIPPED_WORDS: Final = """
    style noscript template svg iframe object embed canvas audio video map head title
    select option optgroup datalist textarea dialog frameset frame applet annotation
    annotation-xml source track param area base link meta progress meter rp
"""
_SKIPPED: Final = frozenset(_SKIPPED_WORDS.split())
_LEAVES: Final = frozenset(
    ("br", "hr", "img", "amp-img", "input", "script", "math", "mjx-container")
)
_INLINE_WORDS: Final = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q rt ruby
    s samp small span strike strong sub sup time tt u var nobr wbr picture slot output o:p
    g-emoji relative-time
"""
_INLINE: Final = frozenset(_INLINE_WORDS.split())
MARKED: Final = {
    "b": "b",
    "strong": "b",
    "i": "i",
    "em": "i",
    "code": "code",
    "kbd": "code",
    "samp": "code",
    "tt": "code",
    "del": "s",
    "s": "s",
    "strike": "s",
    "sup": "sup",
    "sub": "sub",
}
_PLAIN: Final = _INLINE - {"a", "code", "q", "rt", *MARKED}
"""Elements that leave no trace in a block."""
TEXT_ID: Final = 2
"""The parser's number for text, of which there is as much as of elements: it is asked for first."""
NOTHING: Final = 1  # not looked into
LEAF: Final = 2  # has a meaning of its own, and nothing that is walked
NODE: Final = 3  # can hold blocks; this and the kinds above it are entered
LINK: Final = 4
MARKING: Final = 5  # inline, and leaves a mark in its block
PLAIN_INLINE: Final = 6  # inline, and leaves none
_Tag = tuple[int, str, int]  # one of these kinds, the name, and the cues it gives
_OWN_TAGS: Final = 0xC4
"""Lexbor numbers the names that it knows below it; all others get other numbers in each page."""
TAGS_SEEN: Final[tuple[dict[int, _Tag], dict[int, _Tag]]] = ({}, {})
"""By the parser's number for the name, without and with ``noscript``: names are read once, not
once an element, and equal names are one string."""


def meet(node: LexborNode, *, noscript: bool) -> _Tag:
    """What to do with nodes of that name; remembered in `TAGS_SEEN` if the parser knows it."""
    tag = node.tag or ""
    if tag[:1] in "-_!" or (tag in _SKIPPED and not (noscript and tag == "noscript")):
        kind = NOTHING  # comments too, and processing instructions, which have no name
    elif tag in _LEAVES:
        kind = LEAF
    elif tag in _PLAIN:
        kind = PLAIN_INLINE
    elif tag == "a":
        kind = LINK
    elif tag in _INLINE:
        kind = MARKING
    else:
        kind = NODE
    found = kind, tag, cues_of(tag, {})
    tag_id = node.tag_id
    if tag_id < _OWN_TAGS:
        TAGS_SEEN[noscript][tag_id] = found
    return found
