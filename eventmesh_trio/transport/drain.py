"""The end of service: who is still served, and how those who wait are told to go."""

import attrs
import trio

__all__ = ["Drain"]


@attrs.define(eq=False)
class Drain:
    """Shared by the listeners, their connections and whoever ends the service.

    Where a server of somebody else has the connections (ASGI), exchanges are counted instead.

    `begin` is synchronous: listeners stop accepting, connections between two requests close, those
    that wait for their first one do so ``farewell_seconds`` later, responses that start from now on
    carry ``Connection: close``, and what only waits for its peer is cut short. Streams and
    WebSockets are for the application to end (`wait_begun`); `wait_empty` then waits for the last
    connection, and its caller sets the deadline.
    """

    connections: int = attrs.field(default=0, init=False)
    _begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    _stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    _waiting: set["_Interruptible"] = attrs.field(factory=set, init=False)
    _empty: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._empty.set()

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self, *, accepting: bool = False) -> None:
        """Begin to drain; idempotent.

        Args:
          accepting: new connections are still taken, until this is called again without it: their
            clients are told that the service ends, rather than left to guess.
        """
        if not self.begun:
            self._begun.set()
            for waiting in self._waiting:
                waiting.shorten()
        if not accepting:
            self._stopped.set()

    async def wait_begun(self) -> None:
        await self._begun.wait()

    async def wait_stopped(self) -> None:
        """Return when no connection is to be accepted any more."""
        await self._stopped.wait()

    async def wait_empty(self) -> None:
        """Return when no connection is counted (at once if there is none)."""
        await self._empty.wait()

    def count(self) -> "_Counted":
        """Count one connection for as long as the block runs."""
        return _Counted(self)

    def interrupting(self, scope: trio.CancelScope, seconds: float = 0.0) -> "_Interruptible":
        """Have ``scope`` cancelled ``seconds`` after the drain begins, or after now if it has."""
        return _Interruptible(self, scope, seconds)


# Classes, where generators would be shorter: ten thousand idle connections hold one of each.


class _Counted:
    __slots__ = ("_drain",)

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def __enter__(self) -> None:
        drain = self._drain
        if not drain.connections:
            drain._empty = trio.Event()
        drain.connections += 1

    def __exit__(self, *_: object) -> None:
        drain = self._drain
        drain.connections -= 1
        if not drain.connections:
            drain._empty.set()


class _Interruptible:
    __slots__ = ("_drain", "_scope", "_seconds")

    def __init__(self, drain: Drain, scope: trio.CancelScope, seconds: float) -> None:
        self._drain = drain
        self._scope = scope
        self._seconds = seconds

    def __enter__(self) -> None:
        if self._drain.begun:
            self.shorten()
        self._drain._waiting.add(self)

    def __exit__(self, *_: object) -> None:
        self._drain._waiting.discard(self)

    def shorten(self) -> None:
        if not self._seconds:
            self._scope.cancel()
        else:
            deadline = trio.current_time() + self._seconds
            self._scope.deadline = min(self._scope.deadline, deadline)
