"""The connection pool: a connection for each request that is under way, and those kept for more.

No connection is leaked by a cancellation. What a connection does is told in
`eventmesh_trio.pipeline.fetching.connection`.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from importlib import import_module
from types import TracebackType
from typing import Any, Final, TypeAlias

import attrs
import httpcore2
import trio

from eventmesh_trio.pipeline.fetching.connection import Connection, StaleConnection
from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.limits import FetchLimits

__all__ = ["ConnectionPool", "StaleConnection"]

logger = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 1.0
_LEAST_EXPIRY_SECONDS: Final = 0.1  # between two looks for what has expired
_Key: TypeAlias = tuple[bytes, bytes, int]  # of an origin: scheme, host, port


@attrs.define(eq=False)
class _Waiter:
    """A request that has no connection yet."""

    origin: httpcore2.Origin
    served: trio.Event = attrs.field(factory=trio.Event)
    connection: Connection | None = None


class ConnectionPool:
    """Connections to all origins: so many at once, idle ones included.

    Who finds no room waits, first come, first served. Giving and taking a connection takes the same
    time however many there are; httpcore2's pool looks through all of them for each request, twice,
    and asks the kernel about each idle one.
    """

    def __init__(
        self, *, network_backend: GuardedBackend, limits: FetchLimits, ssl_context: Any
    ) -> None:
        if limits.http2:
            # Now, not when a connection waits; nor where it is not spoken: its tables are 20 of the
            # 330 ms that a server needs to start.
            import_module("eventmesh_trio.pipeline.fetching.http2")
        self._backend = network_backend
        self._ssl_context = ssl_context
        self._limits = limits
        self._turn = DecodeTurn()
        self._dialled = trio.Event()
        self._active: set[Connection] = set()
        # The idle ones, oldest first, and by origin.
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._kept: dict[_Key, OrderedDict[Connection, None]] = {}
        self._waiting: deque[_Waiter] = deque()
        self._closing: list[Connection] = []  # taken out of the pool, and not yet closed

    async def __aenter__(self) -> "ConnectionPool":
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections, those too that serve a request."""
        for connection in [*self._idle]:
            self._drop(connection)
        self._closing += self._active
        self._active.clear()
        # Shielded: the pool has forgotten them, so all of them are closed. Closing never waits.
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await self._close_dropped()

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request, and receive the head of its response, which must be closed.

        Raises: as `Connection.handle_async_request`; nothing is held then.
        """
        connection = await self._take(request.url.origin)
        answered = False
        try:
            await self._close_dropped()
            response = await connection.handle_async_request(request)
            answered = True
        finally:
            if not answered:  # it has closed itself, unless it was never asked
                self._give_back(connection)
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self._close_dropped()
        assert isinstance(response.stream, AsyncIterable)
        response.stream = _Pooled(response.stream, connection, self._take_back)
        return response

    async def _take(self, origin: httpcore2.Origin) -> Connection:
        """A connection that serves nobody. What had to go for it is left to `_close_dropped`."""
        connection = None if self._waiting else self._find(origin)
        if connection is not None:
            return connection  # noqa: ASYNC910  # the request that follows is a checkpoint
        waiter = _Waiter(origin)
        self._waiting.append(waiter)
        try:
            await waiter.served.wait()
        except trio.Cancelled:
            if waiter.connection is None:
                self._waiting.remove(waiter)
            else:
                self._give_back(waiter.connection)
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self._close_dropped()
            raise
        assert waiter.connection is not None
        return waiter.connection

    def _find(self, origin: httpcore2.Origin) -> Connection | None:
        """The connection to an origin that was used last, or a new one; None: there is no room."""
        while (kept := self._kept.get(_key_of(origin))) is not None:
            connection = next(reversed(kept))
            self._forget(connection)
            if not connection.has_expired():
                self._active.add(connection)
                return connection
            self._closing.append(connection)
        if len(self._active) + len(self._idle) >= self._limits.max_connections:
            if not self._idle:
                return None
            self._drop(next(iter(self._idle)))
        connection = Connection(origin, self._backend, self._ssl_context, self._limits, self._turn)
        self._active.add(connection)
        self._dialled.set()
        return connection

    async def _take_back(self, connection: Connection) -> None:  # noqa: ASYNC910  # likewise
        """End a response, whatever is left of its body; not to be cancelled. It never waits."""
        try:
            await connection.response_closed()
        finally:
            self._give_back(connection)
            if self._closing:
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self._close_dropped()

    def _give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, or forget one that has ended; let others in."""
        self._active.discard(connection)
        if connection.is_available():
            self._idle[connection] = None
            self._kept.setdefault(_key_of(connection.origin), OrderedDict())[connection] = None
        while self._waiting:
            found = self._find(self._waiting[0].origin)
            if found is None:
                break
            waiter = self._waiting.popleft()
            waiter.connection = found
            waiter.served.set()
        while len(self._idle) > self._limits.max_idle_connections:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: Connection) -> None:
        """Take an idle connection out of the pool, to be closed."""
        self._forget(connection)
        self._closing.append(connection)

    def _forget(self, connection: Connection) -> None:
        key = _key_of(connection.origin)
        del self._idle[connection]
        del self._kept[key][connection]
        if not self._kept[key]:
            del self._kept[key]

    async def _close_dropped(self) -> None:  # noqa: ASYNC910  # there is seldom anything to close
        if not self._closing:
            return
        # Shielded: the pool has forgotten them, so all of them are closed. Closing never waits.
        with trio.CancelScope(shield=True):
            while self._closing:
                connection = self._closing.pop()
                try:
                    await connection.aclose()
                except Exception:  # one connection's trouble is not the server's end
                    logger.exception("a connection could not be closed: %s", connection.info())

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
            while self._active or self._idle:
                await trio.sleep(pause)
                for connection in [*self._idle]:
                    if connection.has_expired():
                        self._drop(connection)
                await self._close_dropped()

    def has_idle(self, origin: httpcore2.Origin) -> bool:
        """Whether a request to an origin would find a connection that is kept for it."""
        return _key_of(origin) in self._kept

    async def drop_idle(self, origin: httpcore2.Origin) -> None:
        """Close the idle connections to an origin: when one turned out stale, the others may be."""
        for connection in [*self._kept.get(_key_of(origin), ())]:
            self._drop(connection)
        await self._close_dropped()


def _key_of(origin: httpcore2.Origin) -> _Key:
    return origin.scheme, origin.host, origin.port


class _Pooled:
    """The body of a response, whose end gives its connection back."""

    def __init__(
        self,
        stream: AsyncIterable[bytes],
        connection: Connection,
        take_back: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._take_back = take_back
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:  # noqa: ASYNC910  # nothing to wait for
        """Whatever is left of the body is not wanted; idempotent. Called shielded; never waits."""
        if not self._closed:
            self._closed = True
            await self._take_back(self._connection)
