"""The connection pool: httpcore2's, with the two things that it leaves to us."""

from typing import Any, Final

import httpcore2
import trio

from eventmesh_trio.pipeline.dial import GuardedBackend, GuardedStream

__all__ = ["ConnectionPool", "StaleConnection"]

_CLOSE_SECONDS: Final = 1.0


class StaleConnection(Exception):
    """A kept connection failed before the first byte of the response: the origin had closed it."""


class ConnectionPool(httpcore2.AsyncConnectionPool):
    """A pool whose connections tell stale from broken, and that cancellation cannot leak."""

    def __init__(self, *, network_backend: GuardedBackend, **settings: Any) -> None:
        super().__init__(network_backend=network_backend, **settings)
        self._guarded = network_backend

    def create_connection(self, origin: httpcore2.Origin) -> "_Connection":
        return _Connection(
            _Memory(self._guarded),
            origin=origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_expiry,
        )


class _Memory(httpcore2.AsyncNetworkBackend):
    """Remembers the one stream that a connection has dialled."""

    def __init__(self, backend: GuardedBackend) -> None:
        self._backend = backend
        self.stream: GuardedStream | None = None

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> GuardedStream:
        self.stream = await self._backend.connect_tcp(host, port)
        return self.stream


class _Connection(httpcore2.AsyncHTTPConnection):
    def __init__(self, memory: _Memory, **settings: Any) -> None:
        super().__init__(network_backend=memory, **settings)
        self._memory = memory
        self._requests_begun = 0

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """As httpcore2's, but any failure closes the connection.

        Cancelled between the handshake and the request, httpcore2 (2.16) would keep it open, as
        new, and its place in the pool taken, for ever.

        Raises:
          StaleConnection: it had served a request before, and ended before it answered this one.
        """
        reused = self._requests_begun > 0
        self._requests_begun += 1
        answered = False
        try:
            response = await super().handle_async_request(request)
            answered = True
        except httpcore2.ConnectionNotAvailable:
            answered = True  # not ours to close: it is serving another request
            raise
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as error:
            stream = self._memory.stream
            if reused and stream is not None and stream.head_bytes == 0:
                raise StaleConnection from error
            raise
        finally:
            if not answered:
                # Shielded: we are often here because of a cancellation. Closing never waits.
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self.aclose()
        return response

    async def aclose(self) -> None:
        await super().aclose()
        if self._memory.stream is not None:
            await self._memory.stream.aclose()
