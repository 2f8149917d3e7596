"""`Vitals`: how one reader fares: its window, the pace of its writes, its pressure, its counts."""

from math import inf
from typing import Final

import trio

from eventmesh_trio.mesh.pressure import Pressure
from eventmesh_trio.mesh.reader import ReaderSpec, SubscriberStatistics
from eventmesh_trio.mesh.window import DynamicBuffer

__all__ = ["Vitals"]

_NEVER: Final = -inf
"""One for all: a float of its own takes 32 bytes of each idle stream."""


class Vitals:
    """Kept by a `Subscriber`, which tells it everything; it decides nothing but warnings.

    An *episode* of pressure begins when the window reaches its threshold or the reader is judged
    slow, and ends when it is neither and the window is half of the threshold or less.
    """

    __slots__ = (
        "_adaptive",
        "_impeded",
        "_opened_at",
        "_passed",
        "_peak",
        "_samples",
        "_utilizations",
        "_warned_at",
        "_warning_seconds",
        "bytes_sent",
        "coalesced",
        "dropped",
        "episodes",
        "flushes",
        "messages_sent",
        "owes_warning",
        "pressed",
        "pressure",
        "ttfb_ms",
        "warnings",
        "window",
    )

    def __init__(self, spec: ReaderSpec, warning_seconds: float) -> None:
        self.window = DynamicBuffer(
            spec.capacity,
            min_capacity=spec.min_capacity,
            max_capacity=spec.max_capacity,
            growth_factor=spec.growth_factor,
            shrink_factor=spec.shrink_factor,
            adaptive=spec.adaptive,
            warning_events=spec.warning_events,
        )
        self.pressure = Pressure(spec.slow_client_threshold_ms, spec.judged_sends)
        self.pressed = False
        """Whether an episode of pressure goes on."""
        self.ttfb_ms: float | None = None
        self.bytes_sent = self.messages_sent = self.flushes = 0
        self.dropped = self.coalesced = self.warnings = self.episodes = 0
        self._adaptive = spec.adaptive
        self._warning_seconds = warning_seconds
        self._warned_at = _NEVER
        self.owes_warning = False
        """Whether an episode goes on that the reader was not warned of."""
        self._opened_at = trio.current_time()
        self._passed = self._impeded = 0
        self._peak = self._utilizations = 0.0
        self._samples = 0

    def sample(self, used: int) -> None:
        """Note how full the window is; once per batch."""
        utilization = used / self.window.capacity
        self._peak = max(self._peak, utilization)
        self._utilizations += utilization
        self._samples += 1

    def note_write(self, seconds: float) -> None:
        """Note how long one write took."""
        self.flushes += 1
        self.pressure.record(seconds * 1000)

    def note_passed(self, events: int, impeded: int) -> None:
        """Note events that the reader is done with, and how many had to wait for it."""
        self._passed += events
        self._impeded += impeded

    def note_dropped(self, events: int) -> None:
        """Note logged events that the reader will never get; it has still to pass them."""
        self.dropped += events
        self._impeded += events

    def adapt(self) -> bool:
        """Fit the window to what was noted since the last call; whether its capacity changed."""
        changed = self.window.record(self._passed, self._impeded, slow=self.pressure.is_slow)
        self._passed = self._impeded = 0
        return changed

    def judge(self, used: int) -> None:
        """Begin or end an episode of pressure."""
        slow = self.pressure.is_slow
        if not self.pressed and (slow or used >= self.window.threshold):
            self.pressed = True
            self.episodes += 1
            self.owes_warning = self._adaptive
        elif self.pressed and not slow and used <= self.window.threshold // 2:
            self.pressed = self.owes_warning = False

    def warning_is_due(self, now: float) -> bool:
        """Whether to warn: once an episode, and not too soon after the last warning."""
        return self.owes_warning and now >= self._warned_at + self._warning_seconds

    def note_warning(self, now: float) -> None:
        self.owes_warning = False
        self._warned_at = now
        self.warnings += 1

    def statistics(self, *, used: int, pending: int, notices: int) -> SubscriberStatistics:
        """All of it at this moment."""
        window, pressure = self.window, self.pressure
        return SubscriberStatistics(
            used=used,
            pending=pending,
            capacity=window.capacity,
            threshold=window.threshold,
            utilization=used / window.capacity,
            peak_utilization=self._peak,
            avg_utilization=self._utilizations / self._samples if self._samples else 0.0,
            avg_send_time_ms=pressure.average_ms,
            slow_sends=pressure.slow_sends,
            is_slow=pressure.is_slow,
            bytes_sent=self.bytes_sent,
            messages_sent=self.messages_sent,
            flushes=self.flushes,
            dropped=self.dropped,
            coalesced=self.coalesced,
            episodes=self.episodes,
            warnings=self.warnings,
            resizes=window.resizes,
            notices=notices,
            connected_seconds=trio.current_time() - self._opened_at,
            ttfb_ms=self.ttfb_ms,
        )
