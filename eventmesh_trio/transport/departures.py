"""`Departures`: notices what comes from peers that are only written to: one task for all of them.

Beside each streamed response somebody must wait for the peer to leave. A task for that is 3.6 KiB
of each stream; here it is an entry in an epoll of our own, which one task waits for.
"""

import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import structlog
import trio

__all__ = ["Departures", "Watcher", "open_departures", "until_returned"]

logger = structlog.get_logger("eventmesh_trio.transport")

_AT_ONCE: Final = 256
"""Peers that are looked at before other tasks have their turn."""


class Watcher(Protocol):
    """Whom to tell; it looks at the socket itself, without waiting."""

    def ready(self) -> None:
        """Something has come, or the end: read it, or `Departures.forget` the socket."""
        ...


class Departures:
    """The watched sockets of one server. All but `notice` is synchronous."""

    def __init__(self, epoll: "select.epoll") -> None:
        self._epoll = epoll
        self._watchers: dict[int, Watcher] = {}

    def __len__(self) -> int:
        """How many sockets are watched."""
        return len(self._watchers)

    def watch(self, descriptor: int, watcher: Watcher) -> None:
        """Tell ``watcher`` whenever there is something to read, until it is forgotten."""
        self._watchers[descriptor] = watcher
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int, watcher: Watcher) -> None:
        """Idempotent. The socket may be closed, and its number that of another one."""
        if self._watchers.get(descriptor) is watcher:
            del self._watchers[descriptor]
            with suppress(OSError):  # closed: the kernel has forgotten it
                self._epoll.unregister(descriptor)

    async def notice(self) -> None:
        """The task that tells the watchers. Never returns."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._tell()

    def _tell(self) -> None:
        # Not in the task itself, whose frame would keep the last one that it told.
        for descriptor, _ in self._epoll.poll(0, _AT_ONCE):
            watcher = self._watchers.get(descriptor)
            if watcher is None:
                continue
            try:
                watcher.ready()
            except Exception:  # one connection's fault, in the task of all
                logger.exception("what came from a peer could not be read")
                self.forget(descriptor, watcher)


@asynccontextmanager
async def open_departures() -> AsyncIterator[Departures | None]:
    """One server's, with its task; None where the kernel has no epoll: each stream has one then."""
    if not hasattr(select, "epoll"):
        yield None
        return
    with select.epoll() as epoll:
        departures = Departures(epoll)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(departures.notice)
            yield departures
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def until_returned(wait: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.CancelScope]:
    """Run the block until ``wait`` returns in a task beside it; then the block is cancelled.

    The scope that is given is the block's own. What the block raises comes in a group.
    """

    async def watch() -> None:
        await wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()
