"""What rendering may use: the standing limits of pages and of the browser, and which browser."""

from typing import Any, Final

import attrs
from attrs import validators

__all__ = ["OFF", "RESOURCE_TYPES", "RenderLimits"]

OFF: Final = "off"
"""The value of ``browser`` with which nothing is rendered."""

RESOURCE_TYPES: Final = {
    "image": "Image",
    "media": "Media",
    "font": "Font",
    "stylesheet": "Stylesheet",
    "script": "Script",
    "texttrack": "TextTrack",
    "manifest": "Manifest",
    "ping": "Ping",
    "prefetch": "Prefetch",
}
"""What can be left out of a page: our word, and ``Network.ResourceType`` of the protocol."""

_MIB: Final = 1024 * 1024


def _positive(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value}; it must be more than 0")


def _known_types(_: object, attribute: "attrs.Attribute[Any]", value: tuple[str, ...]) -> None:
    for name in value:
        if name not in RESOURCE_TYPES:
            known = ", ".join(RESOURCE_TYPES)
            raise ValueError(f"{attribute.name} has {name!r}; known are {known}")


@attrs.frozen(kw_only=True)
class RenderLimits:
    """Which browser renders pages, and what pages and browser may take.

    Raises:
      ValueError: a value that makes no sense; the message names it.
    """

    browser: str = attrs.field(default=OFF, validator=validators.min_len(1))
    """``off``; ``auto``, the first of chromium-headless-shell, chromium and google-chrome; the path
    of one; or the DevTools endpoint of one that runs already: ``ws://...`` or ``http://HOST:PORT``.
    """

    sandbox: bool = True
    """Whether Chromium's own sandbox must hold. It cannot for root: there the server does not
    start. Nor can it in containers that allow no user namespaces: there no page is rendered."""

    max_pages: int = attrs.field(default=4, validator=_positive)
    """Pages that are rendered at once; further ones wait."""

    page_seconds: float = attrs.field(default=30.0, validator=_positive)
    """How long one attempt at a page may take, the browser's start not included."""

    load_seconds: float = attrs.field(default=15.0, validator=_positive)
    """How long a page's ``load`` event is waited for; then it is taken as far as it has come."""

    quiet_seconds: float = attrs.field(default=0.5, validator=_positive)
    """How long no request may be under way for a page to count as settled."""

    settle_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long a loaded page may take to settle, and again after each scroll step."""

    selector_seconds: float = attrs.field(default=15.0, validator=_positive)
    """How long ``dynamic_wait_for`` is waited for; without it there is no document then."""

    max_html_bytes: int = attrs.field(default=10 * _MIB, validator=_positive)
    """Of a rendered document, in UTF-8."""

    max_requests: int = attrs.field(default=2000, validator=_positive)
    """Requests of one page, those left out included."""

    max_navigations: int = attrs.field(default=10, validator=_positive)
    """Redirects of a page, by status, script or ``meta`` element, that are followed."""

    left_out: tuple[str, ...] = attrs.field(
        default=("image", "media", "font"), validator=_known_types
    )
    """What is not loaded: of image, media, font, stylesheet, script, texttrack, manifest, ping and
    prefetch."""

    page_memory_bytes: int = attrs.field(default=1024 * _MIB, validator=_positive)
    """What the process of a page may hold; over it the process is killed."""

    browser_memory_bytes: int = attrs.field(default=2048 * _MIB, validator=_positive)
    """What all processes of a browser may hold; over it the browser takes no further page."""

    memory_check_seconds: float = attrs.field(default=0.25, validator=_positive)
    """How often the memory of the browser's processes is looked at."""

    pages_per_browser: int = attrs.field(default=500, validator=_positive)
    """Pages after which a browser is replaced by a fresh one: what it leaked goes with it."""

    idle_seconds: float = attrs.field(default=60.0, validator=_positive)
    """How long a browser is kept without a page; the next page starts another."""

    start_seconds: float = attrs.field(default=20.0, validator=_positive)
    """How long a browser may take to start, or an endpoint to answer."""

    restart_seconds: float = attrs.field(default=1.0, validator=_positive)
    """How long a browser stays down that failed twice without a page; doubled each time."""

    max_restart_seconds: float = attrs.field(default=30.0, validator=_positive)
    """The longest that it stays down."""

    command_seconds: float = attrs.field(default=10.0, validator=_positive)
    """How long the browser may take to answer a command; it is replaced if it does not."""

    max_message_bytes: int = attrs.field(default=16 * _MIB, validator=_positive)
    """Of one message of the browser. The document comes in pieces well below it."""

    max_event_bytes: int = attrs.field(default=16 * _MIB, validator=_positive)
    """Events of one page that wait to be handled; over it the page is given up."""

    farewell_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long to wait for a killed browser to be gone, or for an endpoint to say goodbye."""
