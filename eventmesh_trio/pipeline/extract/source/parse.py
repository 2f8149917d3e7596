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

from eventmesh_trio.pipeline.extract.source.nesting import prune_tags

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
_MANY_ATTRIBUTES: Final = 33
_STRIDE_BYTES: Final = 1536
"""Into which go some `MAX_ATTRIBUTES` attributes: the parser drops those of the same name at once,
and of names of one character there are not many."""
_LOOK_BYTES: Final = 8192
"""Where nothing tells where tags end, they are looked at in so many bytes at a time."""
_BYTES_PER_LOOK: Final = 1024
"""So often a tag that goes beyond them is looked at once more from its beginning: 8 us each."""
_DOUBTS: Final = 64
"""Of longer ones in which others may begin: so many are read to their end, each in 3 ms a megabyte.
Real pages have 31 at most, in scripts; from the last on, a page has all its tags capped."""
_BEFORE_OPENING_QUOTES: Final = b" \t\r\n\f='"

_SPACE: Final = rb" \t\n\r\f"  # a vertical tab is none in HTML, as it is for ``\s``


def _attribute(ends: bytes = b"", *, tame: bool = False) -> bytes:
    """A pattern for exactly what the tokenizer takes as one attribute (13.2.5.32 to 13.2.5.39).

    What is thought to be the end of a tag and is within quotes would hide what follows.

    Args:
      ends: what may stand for the end of a value in quotes.
      tame: only such as has no "<" in it, nor a "=" without a name or without a value.
    """
    parts = {b"sp": _SPACE, b"end": ends, b"not": b"<" if tame else b""}
    parts[b"first"] = b"<=" if tame else b""
    name = rb"[%(sp)s/]*+[^%(sp)s/>%(first)s][^%(sp)s/>=%(not)s]*+" % parts
    quoted = rb""""[^"%(not)s]*+(?:"%(end)s)|'[^'%(not)s]*+(?:'%(end)s)""" % parts
    plain = rb"""[^%(sp)s>"'%(not)s][^%(sp)s>%(not)s]*+""" % parts
    value = b"(?:" + quoted + b"|" + plain + (b")" if tame else b")?+")
    return name + b"(?:[%(sp)s]*+=[%(sp)s]*+" % parts + value + b")?+"


_ATTRIBUTE: Final = re.compile(_attribute())
_PLAIN_REST: Final = (
    rb"""(?:\s++[a-zA-Z][\w:-]*+(?:=(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'=<>`]++))?+)*+\s*+/?>"""
)
"""The rest of a tag that leaves no doubt where it ends."""
# As alternatives without case they would take twice the time.
_FORMATTING_NAME: Final = (
    rb"[bcefistuBCEFISTU](?:(?=[\s/>])(?<=[bisuBISU])|(?<=[eE])[mM]|(?<=[tT])[tT]"
    rb"|(?<=[sS])(?:[mM][aA][lL][lL]|[tT][rR](?:[iI][kK][eE]|[oO][nN][gG]))|(?<=[bB])[iI][gG]"
    rb"|(?<=[cC])[oO][dD][eE]|(?<=[fF])[oO][nN][tT])"
)
_UNENDED: Final = re.compile(
    rb"<(" + _FORMATTING_NAME + rb")(?=[\s/>])(?!" + _PLAIN_REST + rb"[^<]*+"
    rb"(?:<((?i:a|[biu]|em|strong|span|sup|sub|code|font))"
    + _PLAIN_REST
    + rb"[^<]*+</(?i:\2)>[^<]*+)*+"
    rb"</(?i:\1)>)((?:" + _ATTRIBUTE.pattern + rb")*+)"
)
"""Formatting with its attributes, but for such as its end tag ends and that has nothing in it but
words, some of them marked: nothing opens it again."""
_BLOCK: Final = re.compile(
    rb"<(?!(?:[abisuABISU]|(?i:em|tt|big|code|font|small|span|strike|strong|sub|sup))[\s/>])[a-zA-Z]"
)
_WRITTEN_BLOCK: Final = re.compile(_BLOCK.pattern + rb"[^<>]*+>[^<]")
"""One with words right behind its tag."""
_TAG_NAME: Final = re.compile(rb"<[a-zA-Z][^%s/>]*+" % _SPACE)
_LONG_TAG: Final = re.compile(
    _TAG_NAME.pattern + b"(?:" + _ATTRIBUTE.pattern + b"){%d}" % _MANY_ATTRIBUTES
)
_TOO_LONG_TAG: Final = re.compile(
    _TAG_NAME.pattern + b"(?:" + _ATTRIBUTE.pattern + b"){%d}" % (MAX_ATTRIBUTES + 1)
)
_PERHAPS_LONG: Final = re.compile(
    _TAG_NAME.pattern
    + rb"(?:%(one)s){0,%(most)d}+(?:%(one)s|[%(space)s/]*+\Z)"
    % {b"one": _attribute(rb"|\Z"), b"most": _MANY_ATTRIBUTES - 1, b"space": _SPACE}
)
"""A tag with many attributes, or one that has not ended where the search does."""
_TAME_TAG: Final = re.compile(
    rb"<[a-zA-Z][^%(space)s/<>]*+(?:%(one)s){0,%(most)d}+[%(space)s/]*+>"
    % {b"one": _attribute(tame=True), b"most": MAX_ATTRIBUTES, b"space": _SPACE}
)
"""One within the limit, in which no other can be thought to begin."""
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
    start = _first_wild(markup)
    if start is not None:
        markup = _cap_attributes(markup, start)
        tags = None
    if tags is None:
        tags = markup.count(b"<")
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
        [match.group(1, 3) for match in _UNENDED.finditer(markup)]
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


def _first_wild(markup: bytes) -> int | None:
    """Where the first tag begins that may have more than `MAX_ATTRIBUTES`; None if none has.

    Where ``">`` follows on something that is neither "=" nor white space, every tag ends that is
    not within apostrophes. So from one such place to the next, `_STRIDE_BYTES` off at most, no tag
    is long unless there is an apostrophe between them, and only in the other half of a page tags
    are looked at: 0.2 ms a page, where it takes 0.4 for all of them.
    """
    size = len(markup)
    again = size // _BYTES_PER_LOOK
    doubts = _DOUBTS
    position = 0
    while position < size:
        end = markup.rfind(b'">', position + 1, position + _STRIDE_BYTES)
        if end < 0:
            end = position + _LOOK_BYTES
        elif markup.find(b"'", position, end) < 0 and markup[end - 1] not in _BEFORE_OPENING_QUOTES:
            position = end
            continue
        found = _PERHAPS_LONG.search(markup, position, end + 2)
        if found is None:
            position = end
            continue
        start = found.start()
        if start > position and again:
            again -= 1
            position = start  # it ends within the next bytes, most times
            continue
        tame = _TAME_TAG.match(markup, start)
        if tame is not None:
            position = tame.end()
            continue
        doubts -= 1
        if not doubts or _TOO_LONG_TAG.match(markup, start) is not None:
            return start
        position = start + 1
    return None


def _cap_attributes(markup: bytes, start: int) -> bytes:
    """Markup with `MAX_ATTRIBUTES` in each tag at most, from ``start`` on.

    In a tag with many, a "<" is written as the reference that stands for it. If it is no tag after
    all, but part of a comment or script, another may begin in what looks like its attributes.
    """
    kept: list[bytes] = []
    copied = 0
    position = start
    while (long_tag := _LONG_TAG.search(markup, position)) is not None:
        begin = long_tag.start() + 1
        name = _TAG_NAME.match(markup, begin - 1)
        position = cut = name.end() if name is not None else long_tag.end()
        count = 0
        while (attribute := _ATTRIBUTE.match(markup, position)) is not None:
            position = attribute.end()
            count += 1
            if count <= MAX_ATTRIBUTES:
                cut = position
        if position > cut or markup.find(b"<", begin, cut) >= 0:
            kept += (markup[copied:begin], markup[begin:cut].replace(b"<", b"&lt;"))
            copied = position
    if not kept:
        return markup
    kept.append(markup[copied:])
    return b"".join(kept)
