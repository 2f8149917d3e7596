"""Pages that are hard to read: large, deep, malformed, or made so that a parser goes wrong.

Each stays within the 10 MiB that a body may have; what one costs is the reader's to bound.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

__all__ = ["PAGES", "PNG", "prepare"]

_MIB: Final = 2**20
PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\x06\0\0\0" + bytes(range(256)) * 40
_WORDS: Final = b"A page that is hard to read may still have something to say to its readers. "
_MARK: Final = b"<h1>What is left</h1><p>" + _WORDS * 6 + b"</p>"


def _page(inside: bytes, head: bytes = b"") -> bytes:
    return (
        b"<!DOCTYPE html><html><head><title>Hard to read</title>"
        + head
        + b"</head><body><article>"
        + _MARK
        + inside
        + b"</article></body></html>"
    )


def _fill(piece: bytes, nbytes: int) -> bytes:
    return piece * (nbytes // len(piece))


def _attributes() -> bytes:
    return _page(b"<p " + b" ".join(b"a%d='x'" % n for n in range(50_000)) + b">x</p>")


def _links(count: int) -> bytes:
    return _page(b"".join(b"<a href='/l/%d'>link %d</a> " % (n, n) for n in range(count)))


PAGES: Final[dict[str, Callable[[], bytes]]] = {
    "nul bytes here and there": lambda: _page(b"<p>nul \0 and \0 nul</p>"),
    "four thousand nul bytes": lambda: _page(bytes(4000)),
    "bytes that are no text": lambda: _page(b"<p>\xff\xfe\x80 \xed\xa0\x80 \xed\xb0\x80</p>"),
    "10 MB of nested tags": lambda: _fill(b"<b>", 10 * _MIB - 64),
    "10 MB of nested blocks": lambda: _page(_fill(b"<div>", 9 * _MIB)),
    "tags nested fifty thousand deep": lambda: _page(b"<div>" * 50_000 + b"deep"),
    "tables nested ten thousand deep": lambda: _page(b"<table><tr><td>" * 10_000),
    "lists nested ten thousand deep": lambda: _page(b"<ul><li>x" * 10_000),
    "quotes nested ten thousand deep": lambda: _page(b"<blockquote><p>x" * 10_000),
    "formatting that is never closed": lambda: _page(b"<p><b><i><a href=x><font>x" * 5_000),
    "fifty thousand attributes": _attributes,
    "an attribute of 9 MB": lambda: _page(b"<p title='" + _fill(b"x", 9 * _MIB) + b"'>x</p>"),
    "fifty thousand links": lambda: _links(50_000),
    "twenty thousand links": lambda: _links(20_000),
    "one line of 9 MB": lambda: _page(b"<p>" + _fill(_WORDS, 9 * _MIB) + b"</p>"),
    "a word of 9 MB": lambda: _page(b"<p>" + _fill(b"x", 9 * _MIB) + b"</p>"),
    "a title of 9 MB": lambda: b"<title>" + _fill(_WORDS, 9 * _MIB) + b"</title>" + _MARK,
    "9 MB of spaces": lambda: _page(_fill(b" ", 9 * _MIB)),
    "9 MB of control characters": lambda: _page(b"<p>" + _fill(b"\x01", 9 * _MIB)),
    "5 MB that json escapes": lambda: _page(b"<p>" + _fill(b'"\\', 5 * _MIB)),
    "9 MB that utf-8 makes longer": lambda: _page(
        b"<p>" + _fill(b"&#x1F4A9;", 9 * _MIB), b"<meta charset=windows-1252>"
    ),
    "a description of 9 MB": lambda: _page(
        b"", b"<meta name='description' content='" + _fill(_WORDS, 9 * _MIB) + b"'>"
    ),
    "json-ld with a text of 9 MB": lambda: _page(
        b"",
        b'<script type=\'application/ld+json\'>{"@type": "Article", "articleBody": "'
        + _fill(_WORDS, 9 * _MIB)
        + b'"}</script>',
    ),
    "9 MB that markdown escapes": lambda: _page(b"<p>" + _fill(b"*_`[<!", 9 * _MIB)),
    "9 MB of emoji": lambda: _page(b"<p>" + _fill("\U0001f4a9".encode(), 9 * _MIB)),
    "9 MB of entities": lambda: _page(b"<p>" + _fill(b"&amp;", 9 * _MIB)),
    "9 MB of a comment": lambda: _page(b"<!--" + _fill(b"-", 9 * _MIB)),
    "a million short paragraphs": lambda: _page(_fill(b"<p>x", 4 * _MIB)),
    "a script that never ends": lambda: _page(b"<script>" + _fill(b"<script", 4 * _MIB)),
    "json-ld nested a hundred thousand deep": lambda: _page(
        b"", b"<script type='application/ld+json'>" + b"[" * 100_000 + b"</script>"
    ),
    "json-ld with a number of a million digits": lambda: _page(
        b"", b"<script type='application/ld+json'>{\"a\": " + b"9" * _MIB + b"}</script>"
    ),
    "a hundred thousand meta elements": lambda: _page(
        b"", b"".join(b"<meta name='n%d' content='x'>" % n for n in range(100_000))
    ),
    "dates that are no dates": lambda: _page(
        b"",
        b"<meta property='article:published_time' content='%b'>" % (b"9999-99-99T" * 10_000)
        + b"<time datetime='-1'></time>" * 1000,
    ),
    "a base that is no url": lambda: _page(
        b"<a href='x'>x</a>" * 100, b"<base href='http://[::1'><base href='javascript:0'>"
    ),
    "urls that are no urls": lambda: _page(
        b"".join(b"<a href='http://%b'>x</a>" % (b"[" * (n % 50)) for n in range(2000))
    ),
}


def _cached() -> dict[str, Callable[[], bytes]]:
    return {name: cache(make) for name, make in PAGES.items()}


PAGES.update(_cached())


def prepare() -> None:
    """Make every page now: the crawler's time is not for that."""
    for make in PAGES.values():
        make()
