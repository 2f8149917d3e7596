"""One request to the endpoint of a search provider, over the guarded network of all fetching.

A provider's API is no page: the request may be a POST and carries a key, the answer is small, and a
redirect is never followed, for the key would follow it. So a client dials nothing but the one
endpoint that it was made for.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs
import httpcore2
import trio

from eventmesh_trio.abc import Fields
from eventmesh_trio.errors import NetworkFailure
from eventmesh_trio.pipeline.fetching.body import BodyLimits, BodyReader
from eventmesh_trio.pipeline.fetching.codings import ACCEPT_ENCODING
from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.fetching.pool import ConnectionPool, StaleConnection
from eventmesh_trio.pipeline.network.dial import (
    Connect,
    ConnectName,
    GuardedBackend,
    GuardedStream,
    connect_tcp,
)
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.resolver import Resolver, open_resolver
from eventmesh_trio.pipeline.network.tunnel import OutgoingProxy, Tunnel
from eventmesh_trio.wire.urls import URL

__all__ = ["APIAnswer", "APIClient", "APIRequest", "open_api_client"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class APIRequest:
    """What is sent to the endpoint. ``query`` is encoded; ``fields`` may hold a key."""

    method: str = "GET"
    query: str = ""
    fields: Sequence[tuple[bytes, bytes]] = attrs.field(default=(), repr=False)
    body: bytes = b""


@attrs.frozen
class APIAnswer:
    """A whole response; the body without its content codings, empty unless ``status`` is 200."""

    status: int
    fields: Fields
    body: bytes


@asynccontextmanager
async def open_api_client(
    endpoint: URL,
    *,
    policy: AddressPolicy,
    limits: FetchLimits,
    max_answer_bytes: int,
    max_connections: int,
    user_agent: str,
    resolver: Resolver | None = None,
    connect: Connect = connect_tcp,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator["APIClient"]:
    """Open a client of one endpoint, with its own connections; all are closed at the end, at once.

    Args:
      policy: what may be dialled; it holds for this endpoint alone.
      limits: the times of one connection and exchange. An outgoing proxy that they name leads to
        public addresses only: one that is not is dialled from here.
      resolver: None for the one that ``limits.resolver`` names.
      ssl_context: None for the system's certificate store.
    """
    if ssl_context is None:
        ssl_context = await trio.to_thread.run_sync(httpcore2.default_ssl_context)
    limits = attrs.evolve(
        limits,
        max_connections=max_connections,
        max_idle_connections=max_connections,
        http2=False,  # which is for requests without a body
    )
    async with AsyncExitStack() as stack:
        if resolver is None:
            resolver = await stack.enter_async_context(open_resolver(limits))
        connect_name: ConnectName | None = None
        if limits.proxy:
            proxy = OutgoingProxy.parse(limits.proxy)
            tunnel = Tunnel(proxy, connect, resolver, limits.connect_seconds / 2)
            connect = _outward(tunnel.connect, connect)
            connect_name = tunnel.connect_name if limits.proxy_resolves else None
        pool = ConnectionPool(
            ssl_context=ssl_context,
            network_backend=GuardedBackend(limits, policy, resolver, connect, connect_name),
            limits=limits,
        )
        await stack.enter_async_context(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.expire_forever)
            yield APIClient(
                endpoint,
                policy,
                pool,
                user_agent,
                BodyLimits(max_answer_bytes, max_answer_bytes, any_type=True),
                DecodeTurn(),
            )
            nursery.cancel_scope.cancel()


def _outward(out: Connect, inside: Connect) -> Connect:
    """Connect to public addresses by one way, to all others by the other."""
    world = AddressPolicy(deny_ports=())

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        return await (out if world.is_allowed(address) else inside)(address, port)

    return connect


@attrs.define(eq=False)
class APIClient:
    """Made by `open_api_client`; any number of tasks may use it. The caller owns the deadline."""

    _endpoint: URL
    _policy: AddressPolicy
    _pool: ConnectionPool
    _user_agent: str
    _body: BodyLimits
    _turn: DecodeTurn

    async def ask(self, request: APIRequest) -> APIAnswer:
        """Send a request and read the answer. Cancelled: its connection is closed.

        Raises:
          PageError: of the kind that fits: not reached, too slow, too large, a coding that lies.
        """
        self._policy.judge_url(self._endpoint)
        try:
            return await self._converse(request)
        except StaleConnection:
            await trio.lowlevel.checkpoint()
        try:
            return await self._converse(request)
        except StaleConnection:
            raise NetworkFailure("it closes its connections before it answers") from None

    async def _converse(self, request: APIRequest) -> APIAnswer:
        try:
            response = await self._pool.handle_async_request(self._rendered(request))
        except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
            raise NetworkFailure("the connection was lost before there was a response") from error
        try:
            if response.status == 101:
                raise NetworkFailure("the response is not valid HTTP")
            stream = response.extensions["network_stream"]
            assert isinstance(stream, GuardedStream)
            stream.head_received(self._body.max_body_bytes)
            fields = tuple((name.lower(), value) for name, value in response.headers)
            if response.status != 200:
                return APIAnswer(response.status, fields, b"")
            body = await BodyReader(self._turn).read(response, fields, "", self._body)
            return APIAnswer(response.status, fields, body)
        except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
            raise NetworkFailure("the response body is broken or incomplete") from error
        finally:
            # Shielded: cancelled or not, the connection goes back or is closed. Neither waits.
            with trio.CancelScope(shield=True):
                await response.aclose()

    def _rendered(self, request: APIRequest) -> httpcore2.Request:
        url = self._endpoint
        host = f"[{url.host}]" if ":" in url.host else url.host
        if url.port != _DEFAULT_PORTS[url.scheme]:
            host = f"{host}:{url.port}"
        target = f"{url.target}?{request.query}" if request.query else url.target
        length = [(b"Content-Length", b"%d" % len(request.body))] if request.body else []
        return httpcore2.Request(
            request.method.encode("ascii"),
            httpcore2.URL(
                scheme=url.scheme.encode("ascii"),
                host=url.host.encode("ascii"),
                port=url.port,
                target=target.encode("ascii"),
            ),
            headers=[
                (b"Host", host.encode("ascii")),
                (b"User-Agent", self._user_agent.encode("ascii")),
                (b"Accept", b"application/json"),
                (b"Accept-Encoding", ACCEPT_ENCODING),
                *request.fields,
                *length,
            ],
            content=request.body or None,
            extensions={"sni_hostname": url.host.rstrip(".")},
        )
