"""Tags with more attributes than a parser compares in good time, found and shortened.

Lexbor compares each attribute of a tag with all before it: 50,000 in one take it 5 s. Real tags
have a few dozen at most, and most need not be looked at to know that: where they surely end is
near.

Source: https://html.spec.whatwg.org/multipage/parsing.html#tag-open-state
"""

import re
from typing import Final

__all__ = ["ATTRIBUTE", "MAX_ATTRIBUTES", "cap_attributes"]

MAX_ATTRIBUTES: Final = 256
"""Of one start tag; comparing each with all others takes the parser 0.2 ms at that many."""
_STRIDE_BYTES: Final = 1536
"""Into which go twice `MAX_ATTRIBUTES` attributes: the parser drops those of the same name at once,
and of names of one character there are not many."""
_TRIES: Final = 3
"""Of ends that are within quotes, perhaps; with a third 96 of 100 strides of real pages are left
alone, with eight no more."""
_READ_AGAIN: Final = 4
"""Bytes of tags that are read to their end, for each byte of a page, because others may begin in
them: scripts compare with "<" too. Real pages have a half at most; it takes 80 ms a megabyte."""
_BEFORE_QUOTES: Final = b" \t\r\n\f="
_SPACE: Final = rb" \t\r\n\f"  # a vertical tab is none in HTML, as it is for ``\s``

# As the tokenizer takes it (13.2.5.32 to 13.2.5.39). What is thought to be the end of a tag and is
# within quotes would hide what follows.
ATTRIBUTE: Final = (
    rb"""[%(sp)s/]*+[^%(sp)s/>][^%(sp)s/>=]*+"""
    rb"""(?:[%(sp)s]*+=[%(sp)s]*+(?:"[^"]*+"|'[^']*+'|[^%(sp)s>"'][^%(sp)s>]*+)?+)?+"""
) % {b"sp": _SPACE}
"""A pattern for one attribute of a tag, with the white space before it."""
_ATTRIBUTE: Final = re.compile(ATTRIBUTE)
_OPENING: Final = re.compile(rb"<(?=[a-zA-Z])")
_RAW_END: Final = re.compile(rb"</(?:script|style)\b", re.IGNORECASE)
_TAG_NAME: Final = re.compile(rb"<[a-zA-Z][^%s/>]*+" % _SPACE)
_TAG: Final = re.compile(
    _TAG_NAME.pattern + b"(?:%s){0,%d}+[%s/]*+>" % (ATTRIBUTE, MAX_ATTRIBUTES, _SPACE)
)
"""One within the limit."""
_TOO_LONG_TAG: Final = re.compile(
    _TAG_NAME.pattern + b"(?:%s){%d}" % (ATTRIBUTE, MAX_ATTRIBUTES + 1)
)
_ANY_TAG: Final = re.compile(b"(%s)(?:%s)*+" % (_TAG_NAME.pattern, ATTRIBUTE))


def cap_attributes(markup: bytes) -> bytes:
    """Return UTF-8 ``markup`` with `MAX_ATTRIBUTES` in each tag, at most. Time is linear.

    What looks like a tag may be none, but part of a comment, of a script, or of another tag; so
    what begins in one is looked at too. There only a "<" is ever changed, to the reference that
    stands for it, so that the other ends where it did.
    """
    kept: list[bytes] = []
    copied = reach = 0
    left = _READ_AGAIN * len(markup)
    start = _find_doubtful(markup, 0)
    while start >= 0:
        tag = _TAG.match(markup, start)
        too_long = None if tag is not None else _TOO_LONG_TAG.match(markup, start)
        found = tag or too_long
        end = len(markup) if found is None else found.end()  # without an end it is dropped
        inner = markup.find(b"<", start + 1, end)
        if inner < 0 and too_long is None:
            start = _find_doubtful(markup, end)
            continue
        left -= end - start
        if left >= 0 and too_long is None:
            reach = max(reach, end)
            start = _find_doubtful(markup, inner)
            continue
        if start >= reach:
            changed, end, read = _shorten(markup, start, in_script=left >= 0)
            left -= read - end
        elif left >= 0:
            changed, end = b"&lt;", start + 1
        else:
            changed, end = _OPENING.sub(b"&lt;", markup[start:reach]), reach
        kept += (markup[copied:start], changed)
        copied = end
        start = _find_doubtful(markup, end)
    if not kept:
        return markup
    kept.append(markup[copied:])
    return b"".join(kept)


def _find_doubtful(markup: bytes, position: int) -> int:
    """Where the next tag begins that is not seen at once to end within `_STRIDE_BYTES`; or -1.

    A ">" ends whatever tag it is in, but within quotes; and it is within quotes only if the last
    quotation mark of one of the two kinds before it is an opening one, which stand behind a "=", or
    white space. So no tag that begins before such a ">" goes beyond it, and none between is looked
    at: a mean page is passed in 90 steps.
    """
    find, rfind = markup.find, markup.rfind
    start = find(b"<", position)
    while start >= 0:
        end = start + _STRIDE_BYTES
        for _ in range(_TRIES):
            end = rfind(b">", start, end)
            if end < 0:
                break
            quote = rfind(b"'", start, end)
            if quote < 0 or markup[quote - 1] not in _BEFORE_QUOTES:
                quote = rfind(b'"', start, end)
                if quote < 0 or markup[quote - 1] not in _BEFORE_QUOTES:
                    break
            end = quote
        else:
            end = -1
        if end >= 0:
            start = find(b"<", end)
            continue
        opening = _OPENING.search(markup, start)
        if opening is None:
            return -1
        if opening.start() == start:
            return start
        start = opening.start()
    return -1


def _shorten(markup: bytes, start: int, *, in_script: bool) -> tuple[bytes, int, int]:
    """What stays of a tag that is too long, where what follows it begins, and how far it was read.

    ``in_script``: where a script ends within it, it was a comparison in that: what follows is the
    page, and stays.
    """
    cut = end = start + 1
    if (tag := _ANY_TAG.match(markup, start)) is not None:
        cut, end = tag.end(1), tag.end()
    read = end
    raw_end = _RAW_END.search(markup, cut, end) if in_script else None
    if raw_end is not None:
        end = raw_end.start()
    for _ in range(MAX_ATTRIBUTES):
        attribute = _ATTRIBUTE.match(markup, cut)
        if attribute is None or attribute.end() > end:
            break
        cut = attribute.end()
    shortened = markup[start : start + 1] + _OPENING.sub(b"&lt;", markup[start + 1 : cut])
    return shortened if raw_end is None else shortened + b">", end, read
