"""The connection pool: httpcore2's, with connections of our own under it.

A connection here dials through the guard, speaks HTTP/1.1 or (where wanted and negotiated) HTTP/2,
serves one request at a time, tells stale from broken, and cannot be leaked by a cancellation.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import httpcore2
import trio

from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.fetching.request import RequestNotProcessed
from eventmesh_trio.pipeline.network.dial import GuardedBackend, GuardedStream
from eventmesh_trio.pipeline.network.limits import FetchLimits

if TYPE_CHECKING:
    from eventmesh_trio.pipeline.fetching.http2 import HTTP2Connection

__all__ = ["ConnectionPool", "StaleConnection"]

logger = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 1.0
_LEAST_EXPIRY_SECONDS: Final = 0.1  # between two looks for what has expired


class _HTTP11Connection(httpcore2.AsyncHTTP11Connection):
    READ_NUM_BYTES = 256 * 1024  # of a body: large pages come in fewer reads than by 64 KiB


class StaleConnection(Exception):
    """A kept connection failed before the first byte of the response: the origin had closed it."""


class ConnectionPool(httpcore2.AsyncConnectionPool):
    """Connections to all origins."""

    def __init__(
        self, *, network_backend: GuardedBackend, limits: FetchLimits, **settings: Any
    ) -> None:
        if limits.http2:
            # Now, not when a connection waits; nor where it is not spoken: its tables are 20 of the
            # 330 ms that a server needs to start.
            import_module("eventmesh_trio.pipeline.fetching.http2")
        super().__init__(
            network_backend=network_backend,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_idle_connections,
            keepalive_expiry=limits.keep_alive_seconds,
            **settings,
        )
        self._guarded = network_backend
        self._limits = limits
        self._turn = DecodeTurn()
        self._dialled = trio.Event()

    async def expire_forever(self) -> None:
        """Close what was kept for its time, or was closed by its origin, though nobody asks.

        The pool itself looks only when it is asked for a connection: a server that has nothing
        more to fetch would keep its last descriptors for good. Where there are no connections,
        this sleeps.
        """
        pause = max(self._limits.keep_alive_seconds, _LEAST_EXPIRY_SECONDS)
        while True:
            await self._dialled.wait()
            self._dialled = trio.Event()
            while self._connections:
                await trio.sleep(pause)
                await self._close_each(self._assign_requests_to_connections())

    async def _close_each(self, connections: Sequence[httpcore2.AsyncConnectionInterface]) -> None:
        # Shielded: the pool has forgotten them, so all of them are closed. Closing never waits.
        with trio.CancelScope(shield=True):
            for connection in connections:
                try:
                    await connection.aclose()
                except Exception:  # one connection's trouble is not the server's end
                    logger.exception("a connection could not be closed: %s", connection.info())

    def create_connection(self, origin: httpcore2.Origin) -> "_Connection":
        self._dialled.set()
        return _Connection(origin, self._guarded, self._ssl_context, self._limits, self._turn)

    def has_idle(self, origin: httpcore2.Origin) -> bool:
        """Whether a request to an origin would find a connection that is kept for it."""
        return any(
            connection.is_available() and connection.can_handle_request(origin)
            for connection in self._connections
        )

    async def drop_idle(self, origin: httpcore2.Origin) -> None:
        """Close the idle connections to an origin: when one turned out stale, the others may be."""
        idle = [
            connection
            for connection in self._connections
            if connection.is_idle() and connection.can_handle_request(origin)
        ]
        # Shielded: those taken out are closed, all of them. Closing never waits.
        with trio.CancelScope(shield=True):
            for connection in idle:
                await connection.aclose()


class _Connection(httpcore2.AsyncConnectionInterface):
    """One connection, from before it is dialled."""

    def __init__(
        self,
        origin: httpcore2.Origin,
        backend: GuardedBackend,
        ssl_context: Any,
        limits: FetchLimits,
        turn: DecodeTurn,
    ) -> None:
        self._turn = turn
        self._origin = origin
        self._backend = backend
        self._ssl_context = ssl_context
        self._limits = limits
        self._stream: GuardedStream | None = None
        self._connection: httpcore2.AsyncHTTP11Connection | HTTP2Connection | None = None
        self._requests_begun = 0
        self._failed = False

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Dial where that has not been done, and ask. Any failure closes the connection.

        Raises:
          StaleConnection: it had served a request before, and ended before it answered this one.
          httpcore2.ConnectionNotAvailable: it is serving another request, or closed.
          PageError, httpcore2.NetworkError, httpcore2.RemoteProtocolError: there is no response.
        """
        reused = self._requests_begun > 0
        self._requests_begun += 1
        answered = False
        try:
            if self._connection is None:
                if reused:
                    raise httpcore2.ConnectionNotAvailable
                self._connection = await self._open(request)
            response = await self._connection.handle_async_request(request)
            if reused and self._stream is not None and self._stream.head_bytes == 0:
                # It came behind the last response, before this request was sent: it answers
                # nothing that was asked, and after it all answers would be one off.
                await response.aclose()
                raise StaleConnection
            answered = True
        except httpcore2.ConnectionNotAvailable:
            answered = self._connection is not None  # not ours to close: it serves another request
            raise
        except RequestNotProcessed as error:
            raise StaleConnection from error
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
            if reused and self._stream is not None and self._stream.head_bytes == 0:
                raise StaleConnection from error
            raise
        finally:
            if not answered:
                self._failed = True
                # Shielded: we are often here because of a cancellation. Closing never waits.
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self.aclose()
        return response

    async def _open(
        self, request: httpcore2.Request
    ) -> "httpcore2.AsyncHTTP11Connection | HTTP2Connection":
        host = self._origin.host.decode("ascii")
        targets = request.extensions.get("targets")
        if targets is None:
            targets = await self._backend.locate(host, self._origin.port)
        stream = self._stream = await self._backend.open(targets, self._origin.port)
        protocol: str | None = None
        if self._origin.scheme == b"https":
            protocols = ["h2", "http/1.1"] if self._limits.http2 else ["http/1.1"]
            # Each time: the context may be shared with others.
            self._ssl_context.set_alpn_protocols(protocols)
            await stream.start_tls(self._ssl_context, request.extensions["sni_hostname"])
            protocol = stream.get_extra_info("ssl_object").selected_alpn_protocol()
        if protocol == "h2" and self._limits.http2:
            from eventmesh_trio.pipeline.fetching.http2 import HTTP2Connection  # noqa: PLC0415

            return HTTP2Connection(self._origin, stream, self._limits, self._turn)
        return _HTTP11Connection(
            self._origin, stream, keepalive_expiry=self._limits.keep_alive_seconds
        )

    async def aclose(self) -> None:
        """Close at once; idempotent."""
        if self._connection is not None:
            await self._connection.aclose()
        if self._stream is not None:
            await self._stream.aclose()

    # --- What the pool asks -----------------------------------------------------------------------

    def can_handle_request(self, origin: httpcore2.Origin) -> bool:
        return origin == self._origin

    def is_connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected()

    def is_available(self) -> bool:
        return self._connection is not None and self._connection.is_available()

    def has_expired(self) -> bool:
        return self._failed if self._connection is None else self._connection.has_expired()

    def is_idle(self) -> bool:
        return self._failed if self._connection is None else self._connection.is_idle()

    def is_closed(self) -> bool:
        return self._failed if self._connection is None else self._connection.is_closed()

    def info(self) -> str:
        return "not connected" if self._connection is None else self._connection.info()
