"""Addresses found in a page: made absolute, and only of schemes that are safe to click."""

from functools import lru_cache
from typing import Final
from urllib.parse import urljoin

import can_ada
from selectolax.lexbor import LexborHTMLParser

from eventmesh_trio.pipeline.extract.outline import Outline
from eventmesh_trio.wire.events import Image, Link

__all__ = ["MAX_IMAGES", "MAX_LINKS", "absolute", "base_url", "collect"]

MAX_LINKS: Final = 2000
MAX_IMAGES: Final = 500
_MAX_CHARS: Final = 2048
_CLICKABLE: Final = frozenset(("http:", "https:", "mailto:", "tel:"))
_WEB: Final = frozenset(("http:", "https:"))
_CONTROL: Final = "".join(map(chr, range(33)))


def base_url(tree: LexborHTMLParser, url: str | None) -> str | None:
    """What relative addresses are relative to: the first ``<base href>``, itself under ``url``."""
    element = tree.css_first("base[href]")
    href = element.attributes.get("href") if element is not None else None
    return (absolute(href, url) if href else None) or url


@lru_cache(maxsize=2048)
def absolute(href: str, base: str | None, *, clickable: bool = False) -> str | None:
    """The normalised absolute address, or None: unparsable, too long, or of another scheme.

    http and https only; with ``clickable`` also mailto and tel. ``javascript:`` and ``data:``
    never pass, however they are spelled: it is the parsed scheme that is judged.
    Source: https://url.spec.whatwg.org/
    """
    text = href.strip(_CONTROL).replace("\t", "").replace("\n", "").replace("\r", "")
    if not text or len(text) > _MAX_CHARS:
        return None
    try:
        if base is not None and not text[:8].lower().startswith(("http://", "https://")):
            text = urljoin(base, text.replace("\\", "/"))
        parsed = can_ada.parse(text)
    except (ValueError, TypeError):
        return None
    if parsed.protocol not in (_CLICKABLE if clickable else _WEB):
        return None
    return str(parsed.href)


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
