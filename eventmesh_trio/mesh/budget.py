"""`MemoryBudget`: what the logs of all sessions hold together, and what happens at its limit.

In order: sessions that are only kept for replay are forgotten, live logs give up what all of their
readers have passed, and then runs wait until their own readers have read. A run whose readers have
read everything is never held, so each goes on; and each stuck reader is cut off or times out.
"""

from collections.abc import Callable
from math import inf
from typing import Final

import trio

__all__ = ["STEP_BYTES", "MemoryBudget"]

STEP_BYTES: Final = 32 * 1024
"""A log tells of its growth in steps of this: what is held may be so much more for each log."""

_RELIEF_STEPS: Final = 64


class MemoryBudget:
    """Counts bytes; everything is synchronous.

    Args:
      max_bytes: the limit of ``used``. It is kept by waiting, so what is in hand may pass it.
      relieve: called when the limit is passed, and while it stays passed after every sixty-fourth
        part of it more; it frees what nobody waits for, by `change`.
    """

    __slots__ = ("_look_at", "_relieve", "max_bytes", "used", "waiting")

    def __init__(self, max_bytes: float = inf, relieve: Callable[[], None] | None = None) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self.waiting: dict[trio.lowlevel.ParkingLot, None] = {}
        """Where publishers wait for the limit to hold again."""
        self._relieve = relieve
        self._look_at = max_bytes

    @property
    def exceeded(self) -> bool:
        return self.used > self.max_bytes

    def change(self, nbytes: int) -> None:
        """Note that a log holds so much more, or less."""
        self.used += nbytes
        if self.used > self._look_at:
            # Above what it is now before the relief itself calls this: it must not come again.
            self._look_at = self.used + self.max_bytes / _RELIEF_STEPS
            if self._relieve is not None:
                self._relieve()
        if self.used <= self.max_bytes:
            self._look_at = self.max_bytes
            if self.waiting:
                waiting, self.waiting = self.waiting, {}
                for lot in waiting:
                    lot.unpark_all()
