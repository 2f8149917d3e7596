"""Leave out of a page the tags that would nest its tree too deep, or fill it with formatting."""

import re
from typing import Final

from eventmesh_trio.pipeline.extract.source.nesting import Nesting

__all__ = ["prune", "prune_tags"]

_ATTRIBUTES: Final = rb"""(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+>?+"""
_COMMENT: Final = rb"!--(?:-?>|.*?(?:--!?>|\Z))|(?:[!?]|/(?![a-z]))[^>]*+>?+"
_SECTION: Final = rb"!\[CDATA\[.*?(?:\]\]>|\Z)"
_TAG: Final = rb"(?P<end>/?)(?P<name>[a-z][^\s/>]*+)" + _ATTRIBUTES
_RAW: Final = (
    rb"(?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[\s/>])"
    + _ATTRIBUTES
    + rb"(?:[^<]++|<(?!/(?P=raw)[\s/>]))*+(?:</(?P=raw)[^>]*+>?+)?+"
)


def _pattern(*parts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"<(?:" + b"|".join(parts) + b")", re.DOTALL | re.IGNORECASE)


_TOKEN: Final = _pattern(_COMMENT, _RAW, _TAG)
_FOREIGN_TOKEN: Final = _pattern(_SECTION, _COMMENT, rb"(?P<raw>(?!))", _TAG)
"""In drawings and formulas the content of every element is markup, but for that of sections."""
_WITHIN_TOKEN: Final = _pattern(_SECTION, _COMMENT, _RAW, _TAG)
"""In those of their parts that hold HTML."""
_DOCTYPE: Final = re.compile(
    rb"(?>\s++|<!--(?>-?>|.*?--!?>)|<\?[^>]*+>)*+<!doctype\s++html\b([^>]*+)>",
    re.DOTALL | re.IGNORECASE,
)
_MODERN: Final = re.compile(
    rb"\s*+\Z|\s*+system|.*?(?:xhtml 1|html 4\.01//|html 4\.01 .*http)", re.DOTALL | re.IGNORECASE
)
"""What follows in the ``doctype`` of pages that are not of the nineties."""
_DOCTYPE_BYTES: Final = 2048
"""From the page's begin, within which it is looked for."""


def _is_quirky(markup: bytes) -> bool:
    doctype = _DOCTYPE.match(markup, 0, _DOCTYPE_BYTES)
    return doctype is None or _MODERN.match(doctype[1]) is None


def prune_tags(markup: bytes, max_depth: int, max_reopened: int) -> bytes:
    """Return UTF-8 ``markup`` without the tags that nest deeper, or grow the tree, beyond limits.

    No text is lost. Time is linear in the markup.
    """
    return prune(markup, Nesting(max_depth, max_reopened, quirks=_is_quirky(markup)))


def prune(markup: bytes, nesting: Nesting) -> bytes:
    """As `prune_tags`, from what is open already; ``nesting`` tells what is open then."""
    elements = nesting.elements
    kept: list[bytes] = []
    copied = position = 0
    pattern = _TOKEN
    while (match := pattern.search(markup, position)) is not None:
        start = match.start()
        if start > position and (nesting.formatting or elements.top == b"colgroup"):
            nesting.text(blank=markup[position:start].isspace())
        position = match.end()
        end, name, raw = match.group("end", "name", "raw")
        if name is not None:
            name = name.lower()
            if end:
                stay = nesting.end(name)
            elif name == b"plaintext" and nesting.holds_html():
                break
            else:
                stay = nesting.start(name, match[0])
            if not stay:
                kept.append(markup[copied:start])
                copied = position
        elif raw is not None:
            nesting.raw(raw.lower())
        if nesting.formatting and not nesting.formatting_allowed:
            kept.append(markup[copied:position])
            kept.append(nesting.formatting.end_all())
            copied = position
        pattern = _TOKEN
        if elements.in_foreign():
            pattern = _WITHIN_TOKEN if nesting.holds_html() else _FOREIGN_TOKEN
    if not kept:
        return markup
    kept.append(markup[copied:])
    return b"".join(kept)
