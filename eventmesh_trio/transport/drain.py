"""The end of service: who is still connected, and how those who wait are told to go."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

__all__ = ["Drain"]


@attrs.define(eq=False)
class Drain:
    """Shared by the listeners, their connections and whoever ends the service.

    `begin` is synchronous: listeners stop accepting, connections between two requests close,
    responses that start from now on carry ``Connection: close``. Streams and WebSockets are for
    the application to end (`wait_begun`); `wait_empty` then waits for the last connection, and its
    caller sets the deadline.
    """

    connections: int = attrs.field(default=0, init=False)
    _begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    _waiting: set[trio.CancelScope] = attrs.field(factory=set, init=False)
    _empty: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._empty.set()

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """Begin to drain; idempotent."""
        self._begun.set()
        for scope in self._waiting:
            scope.cancel()

    async def wait_begun(self) -> None:
        await self._begun.wait()

    async def wait_empty(self) -> None:
        """Return when no connection is counted (at once if there is none)."""
        await self._empty.wait()

    @contextmanager
    def count(self) -> Iterator[None]:
        """Count one connection for as long as the block runs."""
        if not self.connections:
            self._empty = trio.Event()
        self.connections += 1
        try:
            yield
        finally:
            self.connections -= 1
            if not self.connections:
                self._empty.set()

    @contextmanager
    def interrupting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Have ``scope`` cancelled when the drain begins, or now if it has begun."""
        if self.begun:
            scope.cancel()
        self._waiting.add(scope)
        try:
            yield
        finally:
            self._waiting.discard(scope)
