"""One URL to one `Page`: redirects by hand, every hop judged, everything within its limit.

`open_fetcher` opens the connection pool; `HTTPFetcher` is the `Fetcher` of `eventmesh_trio.abc`.
The HTTP client below it is httpcore2 (HTTP/1.1, so that a body over its limit is cut by closing
the connection), on the network of `eventmesh_trio.pipeline.dial`.
"""

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import httpcore2
import trio

from eventmesh_trio import __version__
from eventmesh_trio.abc import Fields, Page
from eventmesh_trio.errors import (
    BlockedAddress,
    NetworkFailure,
    TooLarge,
    TooManyRedirects,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.body import BodyLimits, BodyReader
from eventmesh_trio.pipeline.codings import ACCEPT_ENCODING
from eventmesh_trio.pipeline.dial import Connect, GuardedBackend, GuardedStream, connect_tcp
from eventmesh_trio.pipeline.fetch_limits import FetchLimits
from eventmesh_trio.pipeline.guard import AddressPolicy
from eventmesh_trio.pipeline.pool import ConnectionPool, StaleConnection
from eventmesh_trio.pipeline.resolver import Resolver, SystemResolver
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = [
    "DEFAULT_USER_AGENT",
    "BeforeHop",
    "FetchLimits",
    "FetcherStatistics",
    "HTTPFetcher",
    "open_fetcher",
    "parse_target",
]

BeforeHop: TypeAlias = Callable[[URL], Awaitable[None]]
"""Asked before a redirect is followed; raises a `PageError` to refuse it."""

DEFAULT_USER_AGENT: Final = f"eventmesh/{__version__}"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ACCEPT: Final = (
    b"text/html,application/xhtml+xml,application/xml;q=0.9,application/json;q=0.8,"
    b"text/*;q=0.8,*/*;q=0.5"
)
_ACCEPT_LANGUAGE: Final = b"en;q=0.9,*;q=0.8"
_CHARSET: Final = re.compile(r";\s*charset\s*=\s*[\"']?([^\"';\s]+)", re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class FetcherStatistics:
    """Of one fetcher since it was opened; ``open_connections`` is of now, idle ones included."""

    requests: int
    connections_made: int
    open_connections: int
    stale_retries: int


@asynccontextmanager
async def open_fetcher(
    limits: FetchLimits | None = None,
    policy: AddressPolicy | None = None,
    *,
    user_agent: str = DEFAULT_USER_AGENT,
    resolver: Resolver | None = None,
    connect: Connect = connect_tcp,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator["HTTPFetcher"]:
    """Open a fetcher with its own connections; all are closed at the end, at once.

    Args:
      user_agent: sent where the options of a fetch name none.
      resolver: None for the system's.
      connect: how one judged address is connected to.
      ssl_context: what certificates are accepted; None for the system's certificate store.
    """
    limits = limits or FetchLimits()
    policy = policy or AddressPolicy()
    if ssl_context is None:
        # The certificate store is a file of some 200 KB, and parsing it takes 10 ms and more.
        ssl_context = await trio.to_thread.run_sync(httpcore2.default_ssl_context)
    backend = GuardedBackend(limits, policy, resolver or SystemResolver(limits), connect)
    pool = ConnectionPool(
        ssl_context=ssl_context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_idle_connections,
        keepalive_expiry=limits.keep_alive_seconds,
        network_backend=backend,
    )
    async with pool:
        yield HTTPFetcher(
            limits=limits, policy=policy, user_agent=user_agent, pool=pool, backend=backend
        )


@attrs.frozen
class _Ask:
    """What is asked of every hop."""

    user_agent: str
    accept: bytes
    body: BodyLimits


@attrs.define
class _Reply:
    """One response of a redirect chain. ``location`` is None for the last."""

    status: int
    fields: Fields
    content_type: str
    location: str | None = None
    body: bytes = b""
    wire_bytes: int = 0


@attrs.define(eq=False)
class HTTPFetcher:
    """Fetches over one connection pool; any number of tasks may call it. Made by `open_fetcher`."""

    _limits: FetchLimits
    _policy: AddressPolicy
    user_agent: str
    _pool: ConnectionPool
    _backend: GuardedBackend
    _requests: int = attrs.field(default=0, init=False)
    _stale_retries: int = attrs.field(default=0, init=False)

    async def fetch(
        self, url: str, options: CrawlOptions, *, before_hop: BeforeHop | None = None
    ) -> Page:
        """GET one URL, following redirects; each hop is parsed and judged anew.

        A response of any status is a `Page`; one of 400 or more whose body is not for us has an
        empty one. No deadline over all is set: the caller does, ``with trio.move_on_after(...)``
        around all attempts. Cancelled: the connection in use is closed.

        Raises:
          BlockedAddress: the URL or a redirect leads where nothing is fetched.
          DNSError, NetworkFailure, TLSFailure, FetchTimeout: there is no whole response.
          TooLarge, UnsupportedContent: there is, and it is not for us.
          TooManyRedirects: more than the limit, or the same URL again.
        """
        ask = _Ask(
            user_agent=options.user_agent or self.user_agent,
            accept=_ACCEPT,
            body=BodyLimits(self._limits.max_body_bytes, self._limits.max_decoded_bytes),
        )
        return await self._follow(url, ask, before_hop)

    async def fetch_file(self, url: str, *, max_bytes: int, user_agent: str | None = None) -> Page:
        """GET a file of any type, of which no more than ``max_bytes`` are read. Else as `fetch`."""
        ask = _Ask(
            user_agent=user_agent or self.user_agent,
            accept=b"text/plain,*/*;q=0.5",
            body=BodyLimits(max_bytes, self._limits.max_decoded_bytes, cut=True, any_type=True),
        )
        return await self._follow(url, ask, None)

    def statistics(self) -> FetcherStatistics:
        return FetcherStatistics(
            requests=self._requests,
            connections_made=self._backend.connections_made,
            open_connections=self._backend.open_connections,
            stale_retries=self._stale_retries,
        )

    # --- redirects ------------------------------------------------------------------------------

    async def _follow(self, asked: str, ask: _Ask, before_hop: BeforeHop | None) -> Page:
        began = trio.current_time()
        url = parse_target(asked)
        seen = {url.href}
        wire_bytes = 0
        while True:
            self._policy.judge_url(url)
            reply = await self._exchange(url, ask)
            wire_bytes += reply.wire_bytes
            if reply.location is None:
                charset = _CHARSET.search(reply.content_type)
                return Page(
                    url=asked,
                    final_url=url.href,
                    status=reply.status,
                    fields=reply.fields,
                    body=reply.body,
                    content_type=reply.content_type,
                    charset=charset[1] if charset else None,
                    wire_bytes=wire_bytes,
                    elapsed_seconds=trio.current_time() - began,
                )
            url = parse_target(reply.location, url)
            if url.href in seen:
                raise TooManyRedirects(
                    "the redirects lead in a circle", context={"redirects": len(seen)}
                )
            if len(seen) > self._limits.max_redirects:
                raise TooManyRedirects(
                    f"there are more than {self._limits.max_redirects} redirects",
                    context={"redirects": len(seen)},
                )
            seen.add(url.href)
            if before_hop is not None:
                await before_hop(url)

    # --- one request and its response -----------------------------------------------------------

    async def _exchange(self, url: URL, ask: _Ask) -> _Reply:
        """One hop. A kept connection that the origin has closed meanwhile is replaced, once."""
        try:
            return await self._converse(url, ask)
        except StaleConnection:
            self._stale_retries += 1
        try:
            return await self._converse(url, ask)
        except StaleConnection:
            raise NetworkFailure("the origin closes its connections before it answers") from None

    async def _converse(self, url: URL, ask: _Ask) -> _Reply:
        self._requests += 1
        try:
            response = await self._pool.handle_async_request(_request(url, ask))
        except httpcore2.RemoteProtocolError as error:
            if str(error).startswith("Server disconnected"):
                raise NetworkFailure(
                    "the origin closed the connection without a response"
                ) from error
            raise NetworkFailure("the response is not valid HTTP") from error
        except httpcore2.NetworkError as error:
            raise NetworkFailure("the connection was lost before there was a response") from error
        try:
            stream = response.extensions["network_stream"]
            assert isinstance(stream, GuardedStream) or response.status == 101
            if response.status == 101:
                raise NetworkFailure("the origin switched protocols without being asked to")
            stream.head_received()
            return await self._read(response, ask)
        except httpcore2.ProtocolError as error:
            raise NetworkFailure("the response body is broken or incomplete") from error
        except httpcore2.NetworkError as error:
            raise NetworkFailure("the connection was lost within the response body") from error
        finally:
            # Shielded: cancelled or not, the connection goes back or is closed. Neither waits.
            with trio.CancelScope(shield=True):
                await response.aclose()

    async def _read(self, response: httpcore2.Response, ask: _Ask) -> _Reply:
        fields = tuple((name.lower(), value) for name, value in response.headers)
        if len(fields) > self._limits.max_header_count:
            raise TooLarge(
                "the response head has too many fields",
                context={"limit_fields": self._limits.max_header_count},
            )
        content_type = (_last(fields, b"content-type") or b"").decode("latin-1").strip()
        reply = _Reply(response.status, fields, content_type)
        body = BodyReader()
        location = _last(fields, b"location") if response.status in _REDIRECTS else None
        if location is not None:
            reply.location = location.decode("utf-8", "replace").strip()
            with trio.move_on_after(self._limits.discard_seconds):
                await body.discard(response, self._limits.max_discard_bytes)
        else:
            try:
                reply.body = await body.read(response, fields, content_type, ask.body)
            except (TooLarge, UnsupportedContent):
                # The status is what there is to tell about an error page, whatever its body is.
                if response.status < 400:
                    raise
        reply.wire_bytes = body.wire_bytes
        return reply  # noqa: ASYNC910  # reading a body checkpoints, cut short or not


def parse_target(text: str, base: URL | None = None) -> URL:
    """Parse a URL that is about to be fetched, or a redirect's target.

    Raises:
      BlockedAddress: not one that is fetched, whatever its address: `parse_url` says why.
    """
    try:
        return parse_url(text, base.href if base else None)
    except ValueError as error:
        subject = "the redirect leads to a URL that" if base else "the URL"
        raise BlockedAddress(f"{subject} {error}") from None


def _request(url: URL, ask: _Ask) -> httpcore2.Request:
    host = f"[{url.host}]" if ":" in url.host else url.host
    if url.port != _DEFAULT_PORTS[url.scheme]:
        host = f"{host}:{url.port}"
    return httpcore2.Request(
        b"GET",
        httpcore2.URL(
            scheme=url.scheme.encode("ascii"),
            host=url.host.encode("ascii"),
            port=url.port,
            target=url.target.encode("ascii"),
        ),
        headers=[
            (b"Host", host.encode("ascii")),
            (b"User-Agent", ask.user_agent.encode("ascii")),
            (b"Accept", ask.accept),
            (b"Accept-Language", _ACCEPT_LANGUAGE),
            (b"Accept-Encoding", ACCEPT_ENCODING),
        ],
        # A fully qualified name ends in a dot; certificates and servers know it without (RFC 6066).
        extensions={"sni_hostname": url.host.rstrip(".")},
    )


def _last(fields: Fields, name: bytes) -> bytes | None:
    return next((value for key, value in reversed(fields) if key == name), None)
