"""`Losses`: which logged events a lossy reader will not get, before it comes to them."""

from collections import deque

import attrs

from eventmesh_trio.mesh.flow import Flow
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.wire.events import RunError, Summary

__all__ = ["Hole", "Losses"]


@attrs.define
class Hole:
    """``count`` events of the reader's own, from one sequence number to another, are lost to it."""

    start: int
    end: int
    count: int


class Losses:
    """The holes ahead of one reader, in order. How a run ended is never in one."""

    __slots__ = ("_flow", "_log", "holes", "skipping")

    def __init__(self, log: EventLog, flow: Flow) -> None:
        self._log = log
        self._flow = flow
        self.holes: deque[Hole] = deque()
        self.skipping = 0
        """Events in the holes ahead."""

    def drop(self, after: int, excess: int, *, oldest: bool) -> int:
        """Lose ``excess`` of the events behind ``after`` that are not lost yet; how many it lost.

        Args:
          oldest: the first of them, else the last.
        """
        if self.holes:
            after = max(after, self.holes[-1].end)
        every = self._flow is self._log.flow
        mine = [
            seq
            for seq, owner in self._log.owners(after + 1, self._log.top)
            if every or owner is self._flow
        ]
        dropped, hole = 0, None
        for seq in mine[:excess] if oldest else mine[-excess:]:
            if isinstance(self._log.event(seq), (Summary, RunError)):
                hole = None
                continue
            if hole is None:
                hole = Hole(seq, seq, 0)
                self.holes.append(hole)
            hole.end = seq
            hole.count += 1
            dropped += 1
        self.skipping += dropped
        return dropped

    def take(self) -> Hole:
        """The reader passes the first hole."""
        hole = self.holes.popleft()
        self.skipping -= hole.count
        return hole

    def forget(self, last: int) -> int:
        """The log has evicted all up to ``last``; how many events of that were in holes anyway."""
        before = self.skipping
        while self.holes and self.holes[0].start <= last:
            hole = self.take()
            if hole.end > last:
                # What of it is still kept is told with a gap of its own.
                kept = self._log.counted(self._flow, hole.end)[0]
                rest = kept - self._log.counted(self._flow, last)[0]
                self.holes.appendleft(Hole(last + 1, hole.end, rest))
                self.skipping += rest
                break
        return before - self.skipping
