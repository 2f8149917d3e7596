"""The demo's origin: a web site with the habits, good and bad, of real ones.

It runs on our own transport. What it serves is in `bundle`; what it does besides is here:
redirects, errors that pass, a slow page, a folder that robots.txt closes.
"""

import errno
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from eventmesh_trio.abc import Exchange
from eventmesh_trio.demo import bundle
from eventmesh_trio.errors import ConnectionBroken
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.listeners import Bind, Listener, open_listeners, serve_listeners
from eventmesh_trio.wire.codec import encode_json

__all__ = ["PATHS", "Site", "serve_site"]

_HTML: Final = "text/html; charset=utf-8"
_SLOW_PIECES: Final = 5
_SLOW_PIECE_SECONDS: Final = 0.3

_FRAMED: Final = {
    "/": "front.html",
    "/news/": "newslist.html",
    "/news/archive?page=2": "archive.html",
    "/news/lighthouse": "lighthouse.html",
    "/news/ferry": "ferry.html",
    "/news/council": "council.html",
    "/news/interview": "interview.html",
    "/tables/tide-heights": "tides.html",
    "/recipes/samphire-omelette": "omelette.html",
    "/events/harbour-day": "harbourday.html",
    "/pictures": "gallery.html",
    "/about": "about.html",
    "/shop/": "shoplist.html",
    "/shop/brass-barometer": "barometer.html",
    "/docs/install": "install.html",
    "/docs/streaming": "streaming.html",
    "/docs/options": "options.html",
    "/blog/why-we-count-birds": "birds.html",
    "/blog/bread-at-low-tide": "bread.html",
    "/blog/fog-horn": "poem.html",
    "/forum/winter-mooring": "mooring.html",
    "/forum/slapping-halyard": "question.html",
    "/de/watt": "german.html",
    "/fr/marche": "french.html",
    "/es/faro": "spanish.html",
    "/ja/tidepool": "japanese.html",
    "/ar/nets": "arabic.html",
    "/moved/here": "moved.html",
    "/private/ledger": "ledger.html",
}
_RAW: Final = {
    "/ru/volga": ("volga.html", "text/html"),  # windows-1251, as only the page itself says
    "/app/tide-clock": ("tide-clock.html", _HTML),
    "/app/tide-clock.js": ("tide-clock.js", "text/javascript; charset=utf-8"),
    "/app/tide-clock.json": ("tide-clock.json", "application/json"),
    "/files/tide-notes.txt": ("tide-notes.txt", "text/plain; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
_MOVED: Final = {
    "/moved/long-ago": (301, "/moved/some-time-ago"),
    "/moved/some-time-ago": (302, "/moved/lately"),
    "/moved/lately": (308, "/moved/here"),
}
_ROBOTS: Final = b"User-agent: *\nDisallow: /private/\n"

PATHS: Final = (
    "/slow",  # first, so that it is seen not to hold up the others
    "/flaky",
    *(path for path in _FRAMED if path != "/moved/here"),
    "/moved/long-ago",
    "/ru/volga",
    "/app/tide-clock",
    "/files/tide-notes.txt",
    "/almanac",
    "/news/no-such-story",
)
"""What the demo crawls, in this order."""


class Site:
    """The site's handler; it counts what it is asked for by path."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._special: dict[str, Callable[[Exchange, str], Awaitable[None]]] = {
            "/slow": self._slow,
            "/flaky": self._flaky,
            "/almanac": self._almanac,
            "/robots.txt": self._robots,
            "/crawl.json": self._crawl_body,
        }

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request. A client that leaves early is its own affair."""
        request = exchange.request
        target = request.path + (f"?{request.query.decode('latin-1')}" if request.query else "")
        origin = f"http://{(request.field(b'host') or b'localhost').decode('latin-1')}"
        self.asked[target] += 1
        try:
            await self._answer(exchange, target, origin)
        except ConnectionBroken:
            return

    async def _answer(self, exchange: Exchange, target: str, origin: str) -> None:
        if exchange.request.method not in ("GET", "HEAD"):
            await exchange.send_response(405, [(b"allow", b"GET, HEAD")])
        elif target in self._special:
            await self._special[target](exchange, origin)
        elif target in _FRAMED:
            await _send(exchange, 200, bundle.page(_FRAMED[target], origin + target), _HTML)
        elif target in _RAW:
            name, content_type = _RAW[target]
            await _send(exchange, 200, bundle.raw(name), content_type)
        elif target in _MOVED:
            status, location = _MOVED[target]
            await exchange.send_response(status, [(b"location", location.encode())])
        else:
            await _send(exchange, 404, bundle.page("missing.html", origin + target), _HTML)

    async def _slow(self, exchange: Exchange, origin: str) -> None:
        """Send the head at once and the body piece by piece."""
        body = bundle.page("slow.html", f"{origin}/slow")
        await exchange.start_response(200, [(b"content-type", _HTML.encode())])
        await exchange.send_some(b"")
        size = len(body) // _SLOW_PIECES + 1
        for start in range(0, len(body), size):
            await trio.sleep(_SLOW_PIECE_SECONDS)
            await exchange.send_some(body[start : start + size])
        await exchange.end_response()

    async def _flaky(self, exchange: Exchange, origin: str) -> None:
        """Fail every other time, beginning with the first."""
        if self.asked["/flaky"] % 2:
            await _send(exchange, 500, bundle.page("broken.html", f"{origin}/flaky"), _HTML)
        else:
            await _send(exchange, 200, bundle.page("flaky.html", f"{origin}/flaky"), _HTML)

    async def _almanac(self, exchange: Exchange, origin: str) -> None:
        await _send(exchange, 200, bundle.almanac(f"{origin}/almanac"), _HTML)

    async def _robots(self, exchange: Exchange, _origin: str) -> None:
        await _send(exchange, 200, _ROBOTS, "text/plain")

    async def _crawl_body(self, exchange: Exchange, origin: str) -> None:
        """The body of a crawl request for the whole site, to be piped to curl."""
        body = encode_json({"urls": [origin + path for path in PATHS]})
        await _send(exchange, 200, body, "application/json")


async def _send(exchange: Exchange, status: int, body: bytes, content_type: str) -> None:
    fields = [(b"content-type", content_type.encode()), (b"vary", b"accept-encoding")]
    if b"gzip" in (exchange.request.field(b"accept-encoding") or b""):
        fields.append((b"content-encoding", b"gzip"))
        body = zlib.compress(body, level=6, wbits=31)  # 31: with a gzip header
    await exchange.send_response(status, fields, body)


async def serve_site(
    site: Site, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve on a free loopback port until cancelled; ``started`` gets ``http://ADDRESS:PORT``."""
    listeners = await _open_loopback()
    serving = partial(serve_listeners, site.handle, listeners, TransportLimits())
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serving)
        task_status.started(address)


async def _open_loopback() -> list[Listener]:
    """Listen on 127.0.0.2 where the system has it.

    The demo's server may fetch from this address and no other private one. As the site has an
    address of its own, that does not open to it what else listens on 127.0.0.1.
    """
    try:
        return await open_listeners([Bind("127.0.0.2", 0)])
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return await open_listeners([Bind("127.0.0.1", 0)])
