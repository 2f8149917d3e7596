"""One body at a time is decoded, and not for long: what keeps many large ones from being one pause.

A body that lets others run every few milliseconds is no trouble. Forty of them that do so are, for
all of them have their turn before the event loop comes round. So they share a turn: between two
rounds of the loop all bodies together take no longer than one of them may.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

__all__ = ["SLICE_SECONDS", "DecodeTurn"]

SLICE_SECONDS: Final = 0.005
"""How long decoding may go on, of all bodies together, without letting other tasks run."""


class DecodeTurn:
    """Shared by all bodies of a fetcher. Fair: who waits is served in the order of coming."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._spent = 0.0  # seconds of decoding since the loop came round
        self._since = 0.0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the turn; a checkpoint only where another has it, or the slice is used up."""
        await self._take()
        try:
            yield
        finally:
            # Cancelled while it waited in `pause`, it does not hold it.
            if self._lock.statistics().owner is trio.lowlevel.current_task():
                self._spent += time.perf_counter() - self._since
                self._lock.release()

    async def pause(self) -> None:  # noqa: ASYNC910  # only when it is time to
        """Within `held`: let others run if the slice is used up, and those who wait go first."""
        now = time.perf_counter()
        self._spent += now - self._since
        self._since = now
        if self._spent > SLICE_SECONDS:
            if self._lock.statistics().tasks_waiting:
                self._lock.release()
            else:
                # Held meanwhile: nobody else decodes before the loop has come round.
                await trio.lowlevel.checkpoint()
                self._begin()
                return
            await self._take()

    async def _take(self) -> None:  # noqa: ASYNC910  # only where it has to wait
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()  # whoever had it released it in an earlier round
            self._begin()
            return
        self._since = time.perf_counter()
        if self._spent > SLICE_SECONDS:
            try:
                await trio.lowlevel.checkpoint()
            except BaseException:
                self._lock.release()
                raise
            self._begin()

    def _begin(self) -> None:
        self._spent = 0.0
        self._since = time.perf_counter()
