"""Addresses found in a page: made absolute, and only of schemes that are safe to click."""

from functools import lru_cache
from typing import Final

import can_ada

from eventmesh_trio.pipeline.extract.page.outline import Outline
from eventmesh_trio.wire.events import Image, Link

__all__ = ["MAX_IMAGES", "MAX_LINKS", "absolute", "anchor_of", "collect"]

MAX_LINKS: Final = 2000
MAX_IMAGES: Final = 500
_MAX_CHARS: Final = 2048
_CLICKABLE: Final = frozenset(("http:", "https:", "mailto:", "tel:"))
_WEB: Final = frozenset(("http:", "https:"))
_CONTROL: Final = "".join(map(chr, range(33)))


def absolute(href: str, base: str | None, *, clickable: bool = False) -> str | None:
    """The normalised absolute address, or None: unparsable, too long, or of another scheme.

    http and https only; with ``clickable`` also mailto and tel. ``javascript:`` and ``data:``
    never pass, however they are spelled: it is the parsed scheme that is judged.
    Source: https://url.spec.whatwg.org/
    """
    address, protocol = _resolved(href, base)
    return address if protocol in (_CLICKABLE if clickable else _WEB) else None


def anchor_of(href: str, base: str | None) -> str:
    """The place on the same page that an address names, or "" for any other address."""
    if href[:1] == "#":
        return href[1:]
    if base is None or "#" not in href:
        return ""
    page, _, anchor = href.partition("#")
    return anchor if page == base.partition("#")[0] else ""


@lru_cache(maxsize=2048)
def _resolved(href: str, base: str | None) -> tuple[str, str]:
    """An address in full, and its scheme with the colon; both "" if there is none."""
    text = href.strip(_CONTROL)
    if not text or len(text) > _MAX_CHARS:
        return "", ""
    try:
        under = _parsed(base) if base is not None else None
        parsed = can_ada.parse(text) if under is None else under + text
    except (ValueError, TypeError):
        return "", ""
    return str(parsed.href), str(parsed.protocol)


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
            elif part[0] == "a":
                address = absolute(part[1], base)
                text = []
            elif part[0] == "/a":
                _add(links, address, text)
                address = None
            elif part[0] == "img":
                source = absolute(part[1], base)
                if source is not None and source not in images and len(images) < MAX_IMAGES:
                    images[source] = Image(source, " ".join(part[2].split()))
        _add(links, address, text)  # the link goes on in the next block
    return tuple(links.values()), tuple(images.values())


def _add(links: dict[str, Link], address: str | None, text: list[str]) -> None:
    if address is None:
        return
    words = " ".join("".join(text).split())
    known = links.get(address)
    if known is None:
        if len(links) < MAX_LINKS:
            links[address] = Link(address, words)
    elif words and not known.text:
        links[address] = Link(address, words)
