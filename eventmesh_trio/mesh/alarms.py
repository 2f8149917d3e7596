"""`Alarms`: wakes sleeping readers when something of their own is due: one task for all of them.

A cancel scope with a deadline around each sleep would do the same, at 0.7 KiB an idle reader and
some microseconds a wake-up. A reader that is woken by an event leaves its alarm as it is: it rings
for nothing, which is once in 30 s, and never for each event.
"""

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

import trio

from eventmesh_trio.mesh.flow import Sleeper

__all__ = ["Alarm", "Alarms"]


class Alarm:
    """One sleeper's next time. ``sleeper`` is None when it has rung, or counts no more."""

    __slots__ = ("due", "sleeper")

    def __init__(self, due: float, sleeper: Sleeper) -> None:
        self.due = due
        self.sleeper: Sleeper | None = sleeper


class Alarms:
    """The alarms of one hub. Times are `trio.current_time`. All but `ring` is synchronous."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._numbers = count()  # two of the same time are not compared any further
        self._live = 0
        self._nap = trio.CancelScope()

    def __len__(self) -> int:
        """How many are still to ring."""
        return self._live

    def set(self, sleeper: Sleeper, due: float, alarm: Alarm | None = None) -> Alarm | None:
        """Have ``sleeper`` woken at ``due`` at the latest; what it is to give as ``alarm`` next.

        Args:
          alarm: its last one, which holds if it rings before ``due``; else it is replaced.
        """
        if alarm is not None and alarm.sleeper is not None:
            if alarm.due <= due:
                return alarm
            self.forget(alarm)
        if due == inf:
            return None
        alarm = Alarm(due, sleeper)
        heappush(self._heap, (due, next(self._numbers), alarm))
        self._live += 1
        if due < self._nap.deadline:  # noqa: PLR1730  (to set what it is already takes 2 us)
            self._nap.deadline = due
        return alarm

    def forget(self, alarm: Alarm | None) -> None:
        """It does not ring any more. Idempotent."""
        if alarm is None or alarm.sleeper is None:
            return
        alarm.sleeper = None
        self._live -= 1
        if len(self._heap) > 2 * self._live:  # so that the last one to go leaves none behind
            self._heap = [entry for entry in self._heap if entry[2].sleeper is not None]
            heapify(self._heap)
            if not self._live:
                self._nap.deadline = inf

    async def ring(self) -> None:
        """The task that wakes them. Never returns."""
        while True:
            self._ring_due(trio.current_time())
            deadline = self._heap[0][0] if self._heap else inf
            with trio.CancelScope(deadline=deadline) as self._nap:
                await trio.sleep_forever()

    def _ring_due(self, now: float) -> None:
        # Not in the task itself, whose frame would keep the last one that it woke.
        while self._heap and self._heap[0][0] <= now:
            alarm = heappop(self._heap)[2]
            if alarm.sleeper is not None:
                sleeper, alarm.sleeper = alarm.sleeper, None
                self._live -= 1
                sleeper.wake()
