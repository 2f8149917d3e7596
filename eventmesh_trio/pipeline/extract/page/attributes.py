"""What the walk asks of an element's attributes: is it hidden, what picture does it show?"""

import re
from typing import Final

from selectolax.lexbor import LexborNode

__all__ = [
    "MAX_ADDRESS_CHARS",
    "image_source",
    "is_gutter",
    "is_hidden",
    "is_tiny",
]

MAX_ADDRESS_CHARS: Final = 4096
"""Of an address as it stands in the page; a longer one is none. What was read is kept for the next
pages, so that all of it has to be short."""

_LAZY_SOURCES: Final = ("data-src", "data-lazy-src", "data-original")
_SIZE: Final = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)[wx],?")
_GUTTER_WORDS: Final = """
    lineno linenos linenumber linenumbers line-number line-numbers ln lnt lntd gutter rouge-gutter
    gl hljs-ln-numbers react-syntax-highlighter-line-number crayon-nums blob-num
"""
_GUTTER: Final = frozenset(_GUTTER_WORDS.split())
_NUMBERS: Final = re.compile(r"[\d\s.:|]*")
_DRAWN: Final = (".gif", ".png", ".svg")
"""How a spacer ends, in lower case; most pictures are photographs."""
_ENDS_DRAWN: Final = re.compile(r"\.(?:gif|png|svg)(?:[?#]|$)")
_SPACER_NAMES: Final = ("blank", "spacer", "pixel", "transparent", "placeholder", "1x1")
_SPACERS: Final = tuple(edge + name for edge in "/_-" for name in _SPACER_NAMES)
"""How the address of one ends before that. One expression for all takes five times as long."""
_SPACER_TAILS: Final = frozenset(name[-3:] for name in _SPACER_NAMES)
_HIDING_STYLE: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


def is_hidden(attributes: dict[str, str | None]) -> bool:
    """Whether an element is hidden by its own account; style sheets are not read."""
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") == "true":
        return True
    style = attributes.get("style")
    if not style:
        return False
    style = style.lower()
    # Takes a fifth of the time of the expression, and few styles hide.
    if "none" not in style and "hidden" not in style:
        return False
    return _HIDING_STYLE.search(style) is not None


def image_source(attributes: dict[str, str | None]) -> str:
    """The address of an image; a lazy loader's first: its ``src`` is a placeholder."""
    source = _declared_source(attributes)
    return source if len(source) <= MAX_ADDRESS_CHARS else ""


def _declared_source(attributes: dict[str, str | None]) -> str:
    for name in _LAZY_SOURCES:
        source = attributes.get(name)
        if source and source[:5].lower() != "data:":
            return source
    source = attributes.get("src")
    if source and source[:5].lower() != "data:":
        lowered = source.lower()
        if not (lowered.endswith(_DRAWN) or "?" in lowered or "#" in lowered):
            return source
        if not _is_spacer(lowered):
            return source
    return _largest(attributes.get("srcset") or attributes.get("data-srcset") or "")


def _is_spacer(address: str) -> bool:
    """Whether an address, in lower case, is that of a spacer."""
    for suffix in _ENDS_DRAWN.finditer(address):
        end = suffix.start()
        if address[max(0, end - 3) : end] in _SPACER_TAILS and (
            address.endswith(_SPACERS, 0, end) or address[: min(end, 16)] in _SPACER_NAMES
        ):
            return True
    return False


def _largest(candidates: str) -> str:
    """The address of the largest image of a ``srcset``."""
    found, best = "", -1.0
    address = ""
    for word in candidates.split():
        size = _SIZE.fullmatch(word)
        if size is None:
            address = word.rstrip(",")
            if best < 0 and address[:5].lower() != "data:":
                found, best = address, 0.0
        elif float(size[1]) > best and address[:5].lower() != "data:":
            found, best = address, float(size[1])
    return found


def is_gutter(node: LexborNode, attributes: dict[str, str | None]) -> bool:
    """Whether an element holds the line numbers of a listing, and nothing else."""
    names = attributes.get("class")
    if not names or _GUTTER.isdisjoint(names.lower().split()):
        return False
    return _NUMBERS.fullmatch(node.text()) is not None


def is_tiny(attributes: dict[str, str | None]) -> bool:
    """Whether an image is a tracking pixel or an icon by its own width and height."""
    for name in ("width", "height"):
        value = attributes.get(name)
        if value and len(value) < 6 and value.isdecimal() and int(value) < 32:
            return True
    return False
