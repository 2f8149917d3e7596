"""Addresses found in a page: made absolute, and only of schemes that are safe to click."""

from functools import lru_cache
from typing import Final

import can_ada

from eventmesh_trio.pipeline.extract.page.attributes import MAX_ADDRESS_CHARS
from eventmesh_trio.pipeline.extract.page.outline import Outline
from eventmesh_trio.wire.events import Image, Link

__all__ = ["MAX_IMAGES", "MAX_LINKS", "absolute", "anchor_of", "collect", "resolved"]

MAX_LINKS: Final = 2000
MAX_IMAGES: Final = 500
_MAX_CHARS: Final = 2048
_CLICKABLE: Final = ("https:", "http:", "mailto:", "tel:")
_WHOLE: Final = ("https://", "http://")
"""What begins so needs no base, and is read in half the time without."""
_CONTROL: Final = "".join(map(chr, range(33)))


def absolute(href: str, base: str | None, *, clickable: bool = False) -> str | None:
    """The normalised absolute address, or None: unparsable, too long, or of another scheme.

    http and https only; with ``clickable`` also mailto and tel. ``javascript:`` and ``data:``
    never pass, however they are spelled: it is the parsed scheme that is judged.
    Source: https://url.spec.whatwg.org/
    """
    if len(href) > MAX_ADDRESS_CHARS:
        return None
    address = resolved(href, base)
    return address if clickable or address is None or address[:4] == "http" else None


def anchor_of(href: str, base: str | None) -> str:
    """The place on the same page that an address names, or "" for any other address."""
    if href[:1] == "#":
        return href[1:]
    if base is None or "#" not in href:
        return ""
    page, _, anchor = href.partition("#")
    return anchor if page == base.partition("#")[0] else ""


@lru_cache(maxsize=2048)
def resolved(href: str, base: str | None) -> str | None:
    """`absolute`, clickable, of no more than ``MAX_ADDRESS_CHARS``."""
    text = href.strip(_CONTROL)
    if not text or len(text) > _MAX_CHARS:
        return None
    try:
        under = None if base is None or text.startswith(_WHOLE) else _parsed(base)
        parsed = can_ada.parse(text) if under is None else under + text
    except (ValueError, TypeError):
        return None
    address = str(parsed.href)  # normalised: the scheme is in lower case
    return address if address.startswith(_CLICKABLE) else None


@lru_cache(maxsize=64)
def _parsed(base: str) -> can_ada.URL | None:
    try:
        return can_ada.parse(base)
    except (ValueError, TypeError):  # what is not absolute is no base
        return None


def collect(
    page: Outline, kept: list[int], base: str | None
) -> tuple[tuple[Link, ...], tuple[Image, ...]]:
    """Links and images of some blocks, in order, each address once."""
    links: dict[str, Link] = {}
    images: dict[str, Image] = {}
    for index in kept:
        block = page.blocks[index]
        if not (block.links or block.images):
            continue
        address: str | None = None
        text: list[str] = []
        for part in block.parts:
            if isinstance(part, str):
                if address is not None:
                    text.append(part)
                continue
            name = part[0]
            if name == "a":
                address = absolute(part[1], base)
                text = []
            elif name == "/a":
                if address is not None:
                    _add(links, address, text)
                    address = None
            elif name == "img":
                source = absolute(part[1], base)
                if source is not None and source not in images and len(images) < MAX_IMAGES:
                    images[source] = Image(source, " ".join(part[2].split()))
        if address is not None:  # the link goes on in the next block
            _add(links, address, text)
    return tuple(links.values()), tuple(images.values())


def _add(links: dict[str, Link], address: str, text: list[str]) -> None:
    words = " ".join("".join(text).split())
    known = links.get(address)
    if known is None:
        if len(links) < MAX_LINKS:
            links[address] = Link(address, words)
    elif words and not known.text:
        links[address] = Link(address, words)
