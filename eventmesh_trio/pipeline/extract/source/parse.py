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
from collections import Counter
from itertools import islice
from typing import Final

import attrs
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

from eventmesh_trio.pipeline.extract.source.long_tags import (
    ATTRIBUTE,
    MAX_ATTRIBUTES,
    cap_attributes,
)
from eventmesh_trio.pipeline.extract.source.pruning import prune_tags

__all__ = ["MAX_ATTRIBUTES", "MAX_DEPTH", "MAX_TAGS", "Parsed", "guard", "parse", "parse_page"]

MAX_DEPTH: Final = 512
"""Levels of elements. The deepest of 791 real pages had 51; Blink itself stops at 512."""
MAX_TAGS: Final = 150_000
"""Of a page, that are read; what follows is cut off, and its document says ``truncated``. A tag
takes a kilobyte at most, in the tree and as blocks; the largest of 407 real pages has 20,000."""
_MANY_BLOCKS: Final = 22_000
_BYTES_PER_BLOCK: Final = 32
"""Of a page with more tags than `_MANY_BLOCKS` that may begin a block: what follows so many as that
is cut off likewise. An item with one letter takes up to 28 us, so that pages of nothing else would
take six seconds a megabyte; real pages have 44 bytes or more, and 6,700 blocks at most."""

_CHUNK_BYTES: Final = 64 * 1024
_MAX_REOPENED: Final = 20_000
"""Formatting elements that a page without end tags for them may add to its tree; some 200 bytes
each."""
_MANY_TAGS: Final = 8000
"""Nested as deep as that they take the parser 80 ms; 39 of 40 real pages have fewer."""
_MAX_STEPS_PER_BYTE: Final = 300
_MAX_STEPS: Final = 300_000_000
"""Start tags times all tags, as if each were looked for among all that are open: 1.7 ns a step, so
half a second a megabyte, and half a second. Real pages have 260 steps a byte at most."""
_MAX_PRODUCT: Final = 250_000
"""Formatting tags times tags: more than the elements that they can add. Each takes a microsecond to
be read and 320 bytes."""
_MOST_ALIKE: Final = 3
"""Formatting elements with the same attributes, of which no more are opened again (13.2.4.3)."""
_MAX_UNENDED: Final = 3_000_000
"""Likewise of all formatting tags, as often as they stand: no real page has a third of that, and
nothing here is to rest on one rule of the parser's alone."""
_BYTES_PER_COPY: Final = 8
"""Of the attributes of a formatting tag, that count as one element more: they take up to 40 times
their bytes in each copy."""
_PLAIN_REST: Final = (
    rb"""(?:\s++[a-zA-Z][\w:-]*+(?:=(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'=<>`]++))?+)*+\s*+/?>"""
)
"""The rest of a tag that leaves no doubt where it ends."""
# As whole words they would take twice the time, without case four times. It matches a few names
# that there are not, which does no harm.
_FORMATTING_NAME: Final = (
    rb"[bcefistuBCEFISTU](?:[mM][aA][lL][lL]|[tT][rR](?:[iI][kK][eE]|[oO][nN][gG])"
    rb"|[mMtT]|[iI][gG]|[oO](?:[dD][eE]|[nN][tT]))?+"
)
_STROKE: Final = rb"<(%b)" + _PLAIN_REST + rb"(?:[^<]*+</(?i:\%b)\s*+>)?+"
_ICON: Final = (
    rb"</?(?i:svg)"
    + _PLAIN_REST
    + rb"|"
    + _STROKE % (rb"(?i:use|path)", b"3")
    + rb"|<(?i:g)"
    + _PLAIN_REST
    + rb"(?:[^<]*+"
    + _STROKE % (rb"(?i:use|path)", b"4")
    + rb")*+(?:[^<]*+</(?i:g)\s*+>)?+"
)
"""A part of one. What is in it need not end, for the end of the formatting ends it; but no end tag
stands by itself, for it might end an element that was begun before the formatting, and that with
it. Only ``</svg>`` never does."""
_UNENDED: Final = re.compile(
    rb"<(" + _FORMATTING_NAME + rb")(?=[\s/>])(?!" + _PLAIN_REST + rb"[^<]*+"
    rb"(?:(?:<((?i:a|[biu]|em|strong|span|sup|sub|code|font))"
    + _PLAIN_REST
    + rb"[^<]*+</(?i:\2)>|"
    + _ICON
    + rb")[^<]*+)*+</(?i:\1)>)((?:"
    + ATTRIBUTE
    + rb")*+)"
)
"""Formatting with its attributes, but for such as its end tag ends and that has nothing in it but
words, some of them marked, or icons: nothing opens it again."""
_BLOCK: Final = re.compile(
    rb"<(?!(?:[abisuABISU]|(?i:em|tt|big|code|font|small|span|strike|strong|sub|sup))[\s/>])[a-zA-Z]"
)
_WRITTEN_BLOCK: Final = re.compile(_BLOCK.pattern + rb"[^<>]*+>[^<]")
"""One with words right behind its tag."""
_OPTIONS: Final = LexborDocumentOptions.WO_EVENTS.value  # no copies of chosen options in the tree


@attrs.frozen
class Parsed:
    """A tree, and whether tags beyond the limit were cut off before."""

    tree: LexborHTMLParser
    truncated: bool


def parse(markup: str | bytes, tags: int | None = None) -> LexborHTMLParser:
    """Parse a decoded page (bytes: UTF-8) as `parse_page` does; only the tree."""
    if isinstance(markup, str):
        markup = markup.encode("utf-8", "replace")  # half a surrogate pair has no UTF-8
    return parse_page(markup, tags).tree


def parse_page(markup: bytes, tags: int | None = None) -> Parsed:
    """Parse UTF-8 up to its last tag that is read, after `guard`. Never raises; b"" gives an empty
    tree.

    ``tags``: how often it has a "<", if that is known.
    """
    if tags is None:
        tags = markup.count(b"<")
    most = max(_MANY_BLOCKS, len(markup) // _BYTES_PER_BLOCK)
    read = _first_tags(markup, MAX_TAGS) if tags > MAX_TAGS else markup
    if tags <= _MANY_BLOCKS:
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
    capped = cap_attributes(markup)
    if tags is None or capped is not markup:
        tags = capped.count(b"<")
    markup = capped
    if _is_harmless(markup, tags):
        return markup
    return prune_tags(markup, MAX_DEPTH, _MAX_REOPENED)


def _is_harmless(markup: bytes, tags: int) -> bool:
    """Whether the counts of tags alone tell that they take neither much time nor much memory."""
    copies, unended = _copies(markup)
    if tags <= _MANY_TAGS and copies * tags <= _MAX_PRODUCT and unended * tags <= _MAX_UNENDED:
        return True
    starts = tags - markup.count(b"</")
    steps = min(_MAX_STEPS, len(markup) * _MAX_STEPS_PER_BYTE)
    return (
        copies * starts <= _MAX_PRODUCT
        and unended * starts <= _MAX_UNENDED
        and (tags <= _MANY_TAGS or starts * tags <= steps)
    )


def _copies(markup: bytes) -> tuple[int, int]:
    """How many elements of usual size a block may have to open again, at most; and how many tags
    open them, however often the same."""
    copies = unended = 0
    for (_, attributes), count in Counter(
        [match.group(1, 5) for match in _UNENDED.finditer(markup)]
    ).items():
        # What stands in a comment may seem to have others in its attributes.
        tags = 1 + attributes.count(b"<")
        copies += min(count, _MOST_ALIKE) * (tags + len(attributes) // _BYTES_PER_COPY)
        unended += count * tags
    return copies, unended


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
