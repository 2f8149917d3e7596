"""Text to a tree, with what makes the parser slow or the tree huge taken out first.

Lexbor is a complete HTML parser and survives any bytes, but it cannot be interrupted, its time
grows with the square of nesting depth and of the attributes of one tag (100,000 nested ``<div>``
took 25 s), and its tree, as the standard wants it, with the square of unclosed formatting elements
(3,000 ``<font size=1><p>``, 55 kB, took 1.6 GB). Real pages stay far under these limits, so a page
beyond them loses the tags (never the text) that go further.

Most pages are told to be harmless by counting; only the others are gone through tag by tag.

Source: https://html.spec.whatwg.org/multipage/parsing.html
"""

import re
from itertools import islice
from typing import Final

import attrs
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

from eventmesh_trio.pipeline.extract.source.nesting import FORMATTING, prune_tags

__all__ = ["MAX_ATTRIBUTES", "MAX_DEPTH", "MAX_TAGS", "Parsed", "guard", "parse", "parse_page"]

MAX_DEPTH: Final = 512
"""Levels of elements. The deepest of 791 real pages had 51; Blink itself stops at 512."""
MAX_ATTRIBUTES: Final = 512
"""Of one start tag; comparing each with all others takes the parser 0.5 ms at that many."""
MAX_TAGS: Final = 150_000
"""Of a page, that are read; what follows is cut off, and its document says ``truncated``. A tag
takes a kilobyte at most, in the tree and as blocks; the largest of 407 real pages has 20,000."""
_ALWAYS_READ: Final = 25_000
_BYTES_PER_BLOCK: Final = 24
"""Of a page with more tags than `_ALWAYS_READ` that may begin a block: what follows so many as that
is cut off likewise. An item with one letter takes up to 28 us, so that pages of nothing else would
take six seconds a megabyte; real pages have 44 bytes or more, and 6,700 blocks at most."""

_CHUNK_BYTES: Final = 64 * 1024
_MAX_REOPENED: Final = 20_000
"""Formatting elements that a page without end tags for them may add to its tree; some 200 bytes
each."""
_FEW_TAGS: Final = 1700
"""With so few, no nesting takes more than 4 ms, and no formatting elements more than 130 MB."""
_MANY_TAGS: Final = 8000
"""Nested as deep as that they take the parser 80 ms; 39 of 40 real pages have fewer."""
_MAX_STEPS_PER_BYTE: Final = 300
_MAX_STEPS: Final = 300_000_000
"""Start tags times all tags, as if each were looked for among all that are open: 1.7 ns a step, so
half a second a megabyte, and half a second. Real pages have 260 steps a byte at most."""
_MAX_PRODUCT: Final = 1_500_000
"""Formatting tags times start tags: four times the elements that they can add, at 360 bytes each;
that is 135 MB."""

# As alternatives without case they would take twice the time; ``<strange>`` is counted in vain.
_FORMATTING: Final = re.compile(
    rb"<[bcefistuBCEFISTU](?:[\s/>]|(?<=[eE])[mM][\s/>]|(?<=[tT])[tT][\s/>]"
    rb"|(?<=[sS])(?:[mM][aA][lL][lL]|[tT][rR])|(?<=[bB])[iI][gG]|(?<=[cC])[oO][dD][eE]"
    rb"|(?<=[fF])[oO][nN][tT])"
)
_REST_OF_TAG: Final = rb"""(?:\s(?:[^<>"']|"[^"<>]*+")*+)?+>"""
_ENDED: Final = re.compile(
    rb"<(b|i|u|s|em|tt|big|code|font|small|strike|strong)" + _REST_OF_TAG + rb"[^<]*+"
    rb"(?:<(a|b|i|em|strong|span|sup|sub|code)" + _REST_OF_TAG + rb"[^<]*+</\2>[^<]*+){0,4}+</\1>",
    re.IGNORECASE,
)
"""Formatting that its end tag ends, with nothing in it but words, some of them marked: nothing
opens it again."""
_BLOCK: Final = re.compile(
    rb"<(?!(?:[abisuABISU]|(?i:em|tt|big|code|font|small|span|strike|strong|sub|sup))[\s/>])[a-zA-Z]"
)
_WRITTEN_BLOCK: Final = re.compile(_BLOCK.pattern + rb"[^<>]*+>[^<]")
"""One with words right behind its tag."""
_LONG_TAG: Final = re.compile(
    # An attribute with its value, or 16 characters of names without one, 64 times. Atomic: what
    # is not a long tag must not be read in other ways.
    rb"""<[a-zA-Z](?>[^>=]{0,16}+(?:=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"']*+)|(?=[^>=]))){64}"""
)
_LONG_FORMATTING: Final = re.compile(
    rb"<(?:" + b"|".join(sorted(FORMATTING)) + rb")[\s/]", re.IGNORECASE
)
_TAG_NAME: Final = re.compile(rb"<[a-zA-Z][^\s/>]*+")
_ATTRIBUTE: Final = re.compile(
    rb"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+"""
)
_OPTIONS: Final = LexborDocumentOptions.WO_EVENTS.value  # no copies of chosen options in the tree


@attrs.frozen
class Parsed:
    """A tree, and whether tags beyond the limit were cut off before."""

    tree: LexborHTMLParser
    truncated: bool


def parse(markup: str | bytes) -> LexborHTMLParser:
    """Parse a decoded page (bytes: UTF-8) as `parse_page` does; only the tree."""
    if isinstance(markup, str):
        markup = markup.encode("utf-8", "replace")  # half a surrogate pair has no UTF-8
    return parse_page(markup).tree


def parse_page(markup: bytes) -> Parsed:
    """Parse UTF-8 up to its last tag that is read, after `guard`. Never raises; b"" gives an empty
    tree."""
    tags = markup.count(b"<")
    most = max(_ALWAYS_READ, len(markup) // _BYTES_PER_BLOCK)
    read = _first_tags(markup, MAX_TAGS) if tags > MAX_TAGS else markup
    if tags <= _ALWAYS_READ:
        return Parsed(_parsed(guard(read, tags)), False)
    # Of what is full of words the guard need not see more than is kept.
    read = _up_to(read, _WRITTEN_BLOCK, most)
    guarded = guard(read)
    kept = _up_to(guarded, _BLOCK, most)
    return Parsed(_parsed(kept), len(read) < len(markup) or len(kept) < len(guarded))


def _up_to(markup: bytes, pattern: re.Pattern[bytes], most: int) -> bytes:
    """Markup up to where a pattern is found once more than ``most`` times."""
    beyond = next(islice(pattern.finditer(markup), most, None), None)
    return markup if beyond is None else markup[: beyond.start()]


def _parsed(markup: bytes) -> LexborHTMLParser:
    return LexborHTMLParser(markup, options=_OPTIONS)


def guard(markup: bytes, tags: int | None = None) -> bytes:
    """Return UTF-8 ``markup`` without tags deeper than `MAX_DEPTH` where they would take time, with
    `MAX_ATTRIBUTES` in a tag, and without the formatting elements that would fill the memory.

    ``tags``: how often it has a "<", if that is known.
    """
    if _LONG_TAG.search(markup) is not None:
        markup = _cap_attributes(markup)
        if any(_LONG_FORMATTING.match(markup, tag.start()) for tag in _LONG_TAG.finditer(markup)):
            return prune_tags(markup, MAX_DEPTH, _MAX_REOPENED)  # copied with all its attributes
    if tags is None:
        tags = markup.count(b"<")
    if tags <= _FEW_TAGS or _is_harmless(markup, tags):
        return markup
    return prune_tags(markup, MAX_DEPTH, _MAX_REOPENED)


def _is_harmless(markup: bytes, tags: int) -> bool:
    """Whether the counts of tags alone tell that they take neither much time nor much memory."""
    formatting = len(_FORMATTING.findall(markup))
    little = tags * formatting <= _MAX_PRODUCT
    if little and tags <= _MANY_TAGS:
        return True
    if not little:
        formatting = len(_FORMATTING.findall(_ENDED.sub(b" ", markup)))
    starts = tags - markup.count(b"</")
    steps = min(_MAX_STEPS, len(markup) * _MAX_STEPS_PER_BYTE)
    return formatting * starts <= _MAX_PRODUCT and (tags <= _MANY_TAGS or starts * tags <= steps)


def _first_tags(markup: bytes, count: int) -> bytes:
    """Markup up to the end of what follows its ``count``-th tag."""
    left = count
    position = 0
    while (found := markup.count(b"<", position, position + _CHUNK_BYTES)) <= left:
        left -= found
        position += _CHUNK_BYTES
    for _ in range(left):
        position = markup.index(b"<", position) + 1
    return markup[: markup.index(b"<", position)]


def _cap_attributes(markup: bytes) -> bytes:
    kept: list[bytes] = []
    copied = position = 0
    while (long_tag := _LONG_TAG.search(markup, position)) is not None:
        name = _TAG_NAME.match(markup, long_tag.start())
        position = name.end() if name is not None else long_tag.end()
        cut = None
        count = 0
        while (attribute := _ATTRIBUTE.match(markup, position)) is not None:
            position = attribute.end()
            count += 1
            if count == MAX_ATTRIBUTES:
                cut = position
        if cut is not None and position > cut:
            kept.append(markup[copied:cut])
            copied = position
    if not kept:
        return markup
    kept.append(markup[copied:])
    return b"".join(kept)
