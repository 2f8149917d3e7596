"""Text to a tree, with what makes the parser slow taken out first.

Lexbor is a complete HTML parser and survives any bytes, but its time grows with the square of
nesting depth and of the attributes of one tag: 100,000 nested ``<div>`` took 12 s. Real pages stay
under `MAX_DEPTH` and `MAX_ATTRIBUTES` by far, so a page beyond them loses the tags (never the text)
that go further.

Source: https://html.spec.whatwg.org/multipage/parsing.html
"""

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser

__all__ = ["MAX_ATTRIBUTES", "MAX_DEPTH", "guard", "parse"]

MAX_DEPTH: Final = 512
MAX_ATTRIBUTES: Final = 512

_CHUNK_CHARS: Final = 16 * 1024
_LONG_TAG: Final = re.compile(r"<[a-zA-Z][^<]{4096}")
_TAG_NAME: Final = re.compile(r"<[a-zA-Z][^\s/>]*")
_ATTRIBUTE: Final = re.compile(
    r"""[\s/]*[^\s/<>=][^\s/<>=]*(?:\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s<>"']+))?""",
)
_TAG: Final = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|textarea|title|xmp|iframe|noembed|noframes|plaintext)\b.*?(?:</\1[^>]*>|\Z)"
    r"|<(/?)([a-z][^\s/>]*)[^>]*>",
    re.DOTALL | re.IGNORECASE,
)
_VOID_WORDS: Final = """
    area base br col embed hr img input link meta param source track wbr
"""
_VOID: Final = frozenset(_VOID_WORDS.split())
_VOID_OPENINGS: Final = tuple(
    "<" + name for name in ("br", "img", "input", "meta", "link", "hr", "!")
)
_SIBLINGS: Final = {
    "p": ("p",),
    "li": ("li",),
    "dt": ("dt", "dd"),
    "dd": ("dt", "dd"),
    "tr": ("tr",),
    "td": ("td", "th"),
    "th": ("td", "th"),
    "option": ("option",),
}
"""Elements whose end tag may be left out before the next of their kind (HTML, 13.1.2.4)."""


def parse(text: str) -> LexborHTMLParser:
    """Parse a decoded page after `guard`. Never raises; an empty text gives an empty tree."""
    return LexborHTMLParser(guard(text))


def guard(text: str) -> str:
    """Return ``text`` without tags nested deeper than `MAX_DEPTH` and attributes over the limit."""
    if _LONG_TAG.search(text) is not None:
        text = _cap_attributes(text)
    if len(text) > 3 * MAX_DEPTH and _depth_estimate(text) > MAX_DEPTH:
        text = _cap_depth(text)
    return text


def _depth_estimate(text: str) -> int:
    """Tags opened and not closed, at its highest over chunk borders; unclosed ``<p>`` make it more.

    Counting substrings is ten times quicker than looking at each tag. What a chunk can hide
    (5,000 levels) costs the parser 30 ms at most.
    """
    lowered = text.lower()
    depth = highest = 0
    for start in range(0, len(lowered), _CHUNK_CHARS):
        chunk = lowered[start : start + _CHUNK_CHARS]
        depth += chunk.count("<") - 2 * chunk.count("</")
        depth -= sum(chunk.count(opening) for opening in _VOID_OPENINGS)
        highest = max(highest, depth)
    return highest


def _cap_depth(text: str) -> str:
    kept: list[str] = []
    stack: list[str] = []
    open_counts: dict[str, int] = {}
    dropped: dict[str, int] = {}
    copied = 0
    for match in _TAG.finditer(text):
        name = match[3]
        if name is None:
            continue
        name = name.lower()
        if name in _VOID:
            continue
        if match[2]:
            if dropped.get(name):
                dropped[name] -= 1
                kept.append(text[copied : match.start()])
                copied = match.end()
            elif open_counts.get(name):
                while True:
                    top = stack.pop()
                    open_counts[top] -= 1
                    if top == name:
                        break
            continue
        if stack and stack[-1] in _SIBLINGS.get(name, ()):
            open_counts[stack.pop()] -= 1
        if len(stack) >= MAX_DEPTH:
            dropped[name] = dropped.get(name, 0) + 1
            kept.append(text[copied : match.start()])
            copied = match.end()
        else:
            stack.append(name)
            open_counts[name] = open_counts.get(name, 0) + 1
    if not kept:
        return text
    kept.append(text[copied:])
    return "".join(kept)


def _cap_attributes(text: str) -> str:
    kept: list[str] = []
    copied = position = 0
    while (long_tag := _LONG_TAG.search(text, position)) is not None:
        name = _TAG_NAME.match(text, long_tag.start())
        position = name.end() if name is not None else long_tag.end()
        cut = None
        count = 0
        while (attribute := _ATTRIBUTE.match(text, position)) is not None:
            position = attribute.end()
            count += 1
            if count == MAX_ATTRIBUTES:
                cut = position
        if cut is not None and position > cut:
            kept.append(text[copied:cut])
            copied = position
    kept.append(text[copied:])
    return "".join(kept)
