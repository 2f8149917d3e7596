"""`DynamicBuffer`: how many events one reader may lag, adapted to how it reads.

Source: ``streaming-api.md``, "Buffer Management Implementation"; ``docs/wire.rst``.
"""

from math import ceil
from typing import Final

__all__ = ["DynamicBuffer", "warning_threshold"]

_SLOW_WRITES: Final = 10


def warning_threshold(capacity: int) -> int:
    """The number of used events at which a reader is warned (800 of 1024), at least 1."""
    return max(1, capacity * 25 // 32)


class DynamicBuffer:
    """The capacity of one reader's window, in events.

    It grows when more than 1 % of the events of the last window were dropped or had to wait for
    the reader, and shrinks when the reader's sends are mostly slow: a larger window helps who reads
    in gusts, and only costs memory and freshness with who is slow. A window is as many events as
    the capacity, or ten writes to a slow reader; after each judgement a new one begins.
    """

    __slots__ = (
        "_adaptive",
        "_growth",
        "_impeded",
        "_max",
        "_min",
        "_passed",
        "_shrink",
        "_warning_events",
        "_writes",
        "capacity",
        "resizes",
        "threshold",
    )

    def __init__(
        self,
        capacity: int = 256,
        *,
        min_capacity: int = 64,
        max_capacity: int = 2048,
        growth_factor: float = 1.5,
        shrink_factor: float = 0.75,
        adaptive: bool = True,
        warning_events: int = 0,
    ) -> None:
        self._min = min_capacity
        self._max = max_capacity
        self._growth = growth_factor
        self._shrink = shrink_factor
        self._adaptive = adaptive
        self._warning_events = warning_events
        self.capacity = min(max(capacity, min_capacity), max_capacity)
        """How many events the reader may lag now."""
        self._passed = 0
        self._impeded = 0
        self._writes = 0
        self.resizes = 0
        self.threshold = self._find_threshold()
        """`warning_threshold` of the present capacity, or ``warning_events`` if that is less."""

    def _find_threshold(self) -> int:
        threshold = warning_threshold(self.capacity)
        return min(threshold, self._warning_events) if self._warning_events else threshold

    def record(self, passed: int, impeded: int, *, slow: bool) -> bool:
        """Note what one write made the reader pass; whether the capacity changed.

        Args:
          passed: events that were sent or dropped.
          impeded: those of them that were dropped, or for which a run had to wait.
          slow: whether the reader's sends are judged slow now.
        """
        self._passed += passed
        self._impeded += impeded
        self._writes += 1
        if self._passed < self.capacity and not (slow and self._writes >= _SLOW_WRITES):
            return False
        before = self.capacity
        if self._adaptive and slow:
            self.capacity = max(self._min, ceil(before * self._shrink))
        elif self._adaptive and self._impeded * 100 > self._passed:
            self.capacity = min(self._max, ceil(before * self._growth))
        self._passed = self._impeded = self._writes = 0
        if self.capacity == before:
            return False
        self.resizes += 1
        self.threshold = self._find_threshold()
        return True
