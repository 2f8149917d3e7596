"""One connection to an origin, as the pool has it: from before it is dialled to its end.

It dials through the guard, speaks HTTP/1.1 or (where wanted and negotiated) HTTP/2, serves one
request at a time, and tells stale from broken.
"""

from typing import TYPE_CHECKING, Any, Final

import httpcore2
import trio

from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.fetching.http11 import HTTP11Connection
from eventmesh_trio.pipeline.fetching.request import RequestNotProcessed
from eventmesh_trio.pipeline.network.dial import GuardedBackend, GuardedStream
from eventmesh_trio.pipeline.network.limits import FetchLimits

if TYPE_CHECKING:
    from eventmesh_trio.pipeline.fetching.http2 import HTTP2Connection

__all__ = ["Connection", "StaleConnection"]

_CLOSE_SECONDS: Final = 1.0


class StaleConnection(Exception):
    """A kept connection failed before the first byte of the response: the origin had closed it."""


class Connection:
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
        self.origin = origin
        self._backend = backend
        self._ssl_context = ssl_context
        self._limits = limits
        self._stream: GuardedStream | None = None
        self._connection: HTTP11Connection | HTTP2Connection | None = None

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Dial where that has not been done, and ask. Any failure closes the connection.

        Raises:
          StaleConnection: it had served a request before, and ended before it answered this one.
          PageError, httpcore2.NetworkError, httpcore2.RemoteProtocolError: there is no response.
        """
        reused = self._connection is not None
        answered = False
        try:
            if self._connection is None:
                self._connection = await self._open(request)
            response = await self._connection.handle_async_request(request)
            if reused and self._stream is not None and self._stream.head_bytes == 0:
                # It came behind the last response, before this request was sent: it answers
                # nothing that was asked, and after it all answers would be one off.
                await response.aclose()
                raise StaleConnection
            answered = True
        except RequestNotProcessed as error:
            raise StaleConnection from error
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
            if reused and self._stream is not None and self._stream.head_bytes == 0:
                raise StaleConnection from error
            raise
        finally:
            if not answered:
                # Shielded: we are often here because of a cancellation. Closing never waits.
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self.aclose()
        return response

    async def _open(self, request: httpcore2.Request) -> "HTTP11Connection | HTTP2Connection":
        host = self.origin.host.decode("ascii")
        targets = request.extensions.get("targets")
        if targets is None:
            targets = await self._backend.locate(host, self.origin.port)
        stream = self._stream = await self._backend.open(targets, self.origin.port)
        protocol: str | None = None
        if self.origin.scheme == b"https":
            protocols = ["h2", "http/1.1"] if self._limits.http2 else ["http/1.1"]
            # Each time: the context may be shared with others.
            self._ssl_context.set_alpn_protocols(protocols)
            await stream.start_tls(self._ssl_context, request.extensions["sni_hostname"])
            protocol = stream.get_extra_info("ssl_object").selected_alpn_protocol()
        if protocol == "h2" and self._limits.http2:
            from eventmesh_trio.pipeline.fetching.http2 import HTTP2Connection  # noqa: PLC0415

            return HTTP2Connection(self.origin, stream, self._limits, self._turn)
        return HTTP11Connection(self.origin, stream, self._limits)

    async def response_closed(self) -> None:
        """Its response is not wanted any more: idle, where it was read to its end, or closed."""
        assert self._connection is not None
        await self._connection.response_closed()

    async def aclose(self) -> None:
        """Close at once; idempotent."""
        if self._connection is not None:
            await self._connection.aclose()
        if self._stream is not None:
            await self._stream.aclose()

    def is_available(self) -> bool:
        """Whether it may serve a request, of those that were dialled."""
        return self._connection is not None and self._connection.is_available()

    def has_expired(self) -> bool:
        """Whether an idle one has been idle for its time, or its origin will not serve more."""
        connection = self._connection
        return connection is None or not connection.is_available() or connection.has_expired()

    def info(self) -> str:
        return "not connected" if self._connection is None else self._connection.info()
