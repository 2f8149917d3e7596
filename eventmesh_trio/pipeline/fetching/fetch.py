"""One URL to one `Page`: redirects by hand, every hop judged, everything within its limit.

`open_fetcher` opens the connection pool; `HTTPFetcher` is the `Fetcher` of `eventmesh_trio.abc`.
The HTTP client below it is httpcore2 with connections of our own, those of
`eventmesh_trio.pipeline.fetching.pool`: a body over its limit is cut by closing its connection. The
network is that of `eventmesh_trio.pipeline.network.dial`; who does not answer is left alone by
`eventmesh_trio.pipeline.network.breaker`.
"""

import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeAlias

import attrs
import httpcore2
import trio

from eventmesh_trio import __version__
from eventmesh_trio.abc import Fields, Page, Validators
from eventmesh_trio.errors import (
    NetworkFailure,
    TooLarge,
    TooManyRedirects,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.fetching.body import BodyLimits, BodyReader
from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.fetching.pool import ConnectionPool, StaleConnection
from eventmesh_trio.pipeline.fetching.request import Ask, make_request, parse_target
from eventmesh_trio.pipeline.network.breaker import (
    BreakerStatistics,
    CircuitBreaker,
    Permit,
    origin_of,
)
from eventmesh_trio.pipeline.network.dial import (
    Connect,
    ConnectName,
    GuardedBackend,
    GuardedStream,
    connect_tcp,
)
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.resolver import Resolver, open_resolver
from eventmesh_trio.pipeline.network.trace import Phase, begin_hop, current_hop, phase
from eventmesh_trio.pipeline.network.tunnel import OutgoingProxy, Tunnel
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

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
_BODILESS: Final = frozenset({204, 304})  # whatever type and length their fields speak of
TEMPORARY_REDIRECTS: Final = frozenset({302, 303, 307})
_REDIRECTS: Final = TEMPORARY_REDIRECTS | {301, 308}
_ACCEPT: Final = (
    b"text/html,application/xhtml+xml,application/xml;q=0.9,application/json;q=0.8,"
    b"text/*;q=0.8,*/*;q=0.5"
)
_CHARSET: Final = re.compile(r";\s*charset\s*=\s*[\"']?([^\"';\s]+)", re.IGNORECASE)
_FILE_REDIRECTS: Final = 5
_CONNECTING: Final[tuple[Phase, ...]] = ("dns", "connect", "tls")


@attrs.frozen
class FetcherStatistics:
    """Of one fetcher since it was opened; ``open_connections`` is of now, idle ones included."""

    requests: int
    connections_made: int
    open_connections: int
    stale_retries: int
    circuits: BreakerStatistics


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
      resolver: None for the one that ``limits.resolver`` names.
      connect: how one judged address is connected to.
      ssl_context: what certificates are accepted; None for the system's certificate store.
    """
    limits = limits or FetchLimits()
    policy = policy or AddressPolicy()
    if ssl_context is None:
        # The certificate store is a file of some 200 KB, and parsing it takes 10 ms and more.
        ssl_context = await trio.to_thread.run_sync(httpcore2.default_ssl_context)
    async with AsyncExitStack() as stack:
        if resolver is None:
            # Names of the inside are looked up where something inside may be fetched.
            inside = bool(policy.allow_private)
            resolver = await stack.enter_async_context(
                open_resolver(limits, completes_names=inside)
            )
        connect_name: ConnectName | None = None
        if limits.proxy:
            proxy = OutgoingProxy.parse(limits.proxy)
            # Half of a connection's time: a proxy that hangs is told from an origin that does.
            tunnel = Tunnel(proxy, connect, resolver, limits.connect_seconds / 2)
            connect = tunnel.connect
            connect_name = tunnel.connect_name if limits.proxy_resolves else None
        backend = GuardedBackend(limits, policy, resolver, connect, connect_name)
        pool = ConnectionPool(ssl_context=ssl_context, network_backend=backend, limits=limits)
        await stack.enter_async_context(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.expire_forever)
            yield HTTPFetcher(
                limits=limits,
                policy=policy,
                user_agent=user_agent,
                pool=pool,
                backend=backend,
                breaker=CircuitBreaker(limits.breaker),
            )
            nursery.cancel_scope.cancel()


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
    _breaker: CircuitBreaker
    _turn: DecodeTurn = attrs.field(factory=DecodeTurn, init=False)
    _requests: int = attrs.field(default=0, init=False)
    _stale_retries: int = attrs.field(default=0, init=False)

    async def fetch(
        self,
        url: str,
        options: CrawlOptions,
        *,
        before_hop: BeforeHop | None = None,
        validators: Validators | None = None,
    ) -> Page:
        """GET one URL, following redirects; each hop is parsed and judged anew.

        A response of any status is a `Page`; one of 400 or more whose body is not for us has an
        empty one. With ``validators`` the hop whose URL is theirs is asked conditionally; an origin
        that says that nothing has changed gives a `Page` of status 304 with an empty body (its
        fields are the ones to update the stored response with). No deadline over all is set: the
        caller does, ``with trio.move_on_after(...)`` around all attempts. Cancelled: the connection
        in use is closed.

        Raises:
          BlockedAddress: the URL or a redirect leads where nothing is fetched.
          CircuitOpen: the origin has not answered lately, and is not asked now.
          DNSError, NetworkFailure, TLSFailure, FetchTimeout: there is no whole response.
          TooLarge, UnsupportedContent: there is, and it is not for us.
          TooManyRedirects: more than the limit, or the same URL again.
        """
        ask = Ask(
            user_agent=options.user_agent or self.user_agent,
            accept=_ACCEPT,
            body=BodyLimits(self._limits.max_body_bytes, self._limits.max_decoded_bytes),
            max_redirects=self._limits.max_redirects,
            validators=validators,
        )
        return await self._follow(url, ask, before_hop)

    async def fetch_file(self, url: str, *, max_bytes: int, user_agent: str | None = None) -> Page:
        """GET a file of any type, of which no more than ``max_bytes`` are read. Else as `fetch`.

        Five redirects are followed at least, whatever ``max_redirects`` says (RFC 9309, 2.3.1.2).
        """
        ask = Ask(
            user_agent=user_agent or self.user_agent,
            accept=b"text/plain,*/*;q=0.5",
            body=BodyLimits(max_bytes, self._limits.max_decoded_bytes, cut=True, any_type=True),
            max_redirects=max(self._limits.max_redirects, _FILE_REDIRECTS),
        )
        return await self._follow(url, ask, None)

    @property
    def backend(self) -> GuardedBackend:
        """The network under it, for others whose targets have to be judged alike."""
        return self._backend

    def statistics(self) -> FetcherStatistics:
        return FetcherStatistics(
            requests=self._requests,
            connections_made=self._backend.connections_made,
            open_connections=self._backend.open_connections,
            stale_retries=self._stale_retries,
            circuits=self._breaker.statistics(),
        )

    # --- redirects ------------------------------------------------------------------------------

    async def _follow(self, asked: str, ask: Ask, before_hop: BeforeHop | None) -> Page:
        began = trio.current_time()
        url = parse_target(asked)
        known, unconditional = None, ask
        if ask.validators is not None:
            known = parse_target(ask.validators.url).href
            unconditional = attrs.evolve(ask, validators=None)
        seen = {url.href}
        detours: list[Fields] = []
        wire_bytes = 0
        while True:
            self._policy.judge_url(url)
            begin_hop(url.href, "file" if ask.body.any_type else "page")
            reply = await self._exchange(url, ask if url.href == known else unconditional)
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
                    detours=tuple(detours),
                )
            if reply.status in TEMPORARY_REDIRECTS:
                detours.append(reply.fields)
            url = parse_target(reply.location, url)
            if url.href in seen:
                raise TooManyRedirects(
                    "the redirects lead in a circle", context={"redirects": len(seen)}
                )
            if len(seen) > ask.max_redirects:
                raise TooManyRedirects(
                    f"there are more than {ask.max_redirects} redirects",
                    context={"redirects": len(seen)},
                )
            seen.add(url.href)
            if before_hop is not None:
                before = trio.current_time()
                await before_hop(url)
                began += trio.current_time() - before  # the wait for a turn is not the origin's

    # --- one request and its response -----------------------------------------------------------

    async def _exchange(self, url: URL, ask: Ask) -> _Reply:
        """One hop. A kept connection that the origin has closed meanwhile is replaced, once."""
        with self._breaker.permit(origin_of(url)) as permit:
            request = make_request(url, ask)
            try:
                return await self._converse(request, ask, permit)
            except StaleConnection:
                self._stale_retries += 1
                await self._pool.drop_idle(request.url.origin)
            try:
                return await self._converse(request, ask, permit)
            except StaleConnection:
                raise NetworkFailure(
                    "the origin closes its connections before it answers"
                ) from None

    async def _converse(self, request: httpcore2.Request, ask: Ask, permit: Permit) -> _Reply:
        self._requests += 1
        began = trio.current_time()
        origin = request.url.origin
        if not self._pool.has_idle(origin):
            # Out here, where it takes no place in the pool: slow names must not use it up.
            host = origin.host.decode("ascii")
            request.extensions["targets"] = await self._backend.locate(host, origin.port)
        try:
            response = await self._pool.handle_async_request(request)
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
            # A file that is cut has its own limit, for what is kept of it.
            stream.head_received(max(ask.body.max_body_bytes, self._limits.max_body_bytes))
            permit.answered(response.status)
            _note_head(response, trio.current_time() - began)
            return await self._read(response, ask)
        except httpcore2.ProtocolError as error:
            raise NetworkFailure("the response body is broken or incomplete") from error
        except httpcore2.NetworkError as error:
            raise NetworkFailure("the connection was lost within the response body") from error
        finally:
            # Shielded: cancelled or not, the connection goes back or is closed. Neither waits.
            with trio.CancelScope(shield=True):
                await response.aclose()

    async def _read(self, response: httpcore2.Response, ask: Ask) -> _Reply:
        fields = tuple((name.lower(), value) for name, value in response.headers)
        if len(fields) > self._limits.max_header_count:
            raise TooLarge(
                "the response head has too many fields",
                context={"limit_fields": self._limits.max_header_count},
            )
        if (hop := current_hop()) is not None:
            hop.fields = fields
        content_type = (_last(fields, b"content-type") or b"").decode("latin-1").strip()
        reply = _Reply(response.status, fields, content_type)
        body = BodyReader(self._turn)
        location = _last(fields, b"location") if response.status in _REDIRECTS else None
        if location is not None or response.status in _BODILESS:
            if location is not None:
                reply.location = location.decode("utf-8", "replace").strip()
            with trio.move_on_after(self._limits.discard_seconds):
                await body.discard(response, self._limits.max_discard_bytes)
            if hop is not None:
                hop.wire_bytes = body.wire_bytes
        else:
            try:
                with phase("body"):
                    reply.body = await body.read(response, fields, content_type, ask.body)
            except (TooLarge, UnsupportedContent):
                # The status is what there is to tell about an error page, whatever its body is.
                if response.status < 400:
                    raise
            finally:
                if hop is not None:
                    hop.wire_bytes, hop.decoded_bytes = body.wire_bytes, len(reply.body)
        reply.wire_bytes = body.wire_bytes
        return reply  # noqa: ASYNC910  # reading a body checkpoints, cut short or not


def _note_head(response: httpcore2.Response, seconds: float) -> None:
    hop = current_hop()
    if hop is not None:
        hop.status = response.status
        hop.http_version = response.extensions.get("http_version", b"").decode("ascii")
        before = (hop.seconds.get(name, 0.0) for name in _CONNECTING)
        hop.seconds["first_byte"] = max(0.0, seconds - sum(before))


def _last(fields: Fields, name: bytes) -> bytes | None:
    return next((value for key, value in reversed(fields) if key == name), None)
