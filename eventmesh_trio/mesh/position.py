"""`Position`: how far one reader has come in its session's log, and how full its window is by that.

What is taken is handed out, what is read frees the window: a `Gathering` takes, its `Subscriber`
settles.
"""

from eventmesh_trio.mesh.flow import Flow, Place, Reader, Track
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.losses import Losses
from eventmesh_trio.mesh.vitals import Vitals

__all__ = ["Position"]


class Position:
    """A cursor into a log, as far as events are taken, and behind it what was read.

    An event is *taken* when it is handed out with a batch, and *read* when `settle` says so.
    ``taken`` is events and bytes, counted within ``flow``: of the run ``track``, or of all.
    ``losses`` are those of a reader that is not lossless. ``place`` is where runs wait for it.
    """

    __slots__ = (
        "_attached_events",
        "_read",
        "_waits_seen",
        "attached_top",
        "cursor",
        "flow",
        "log",
        "losses",
        "place",
        "read_seq",
        "taken",
        "track",
        "vitals",
    )

    def __init__(
        self, log: EventLog, track: Track | None, vitals: Vitals, *, after: int, lossless: bool
    ) -> None:
        self.log = log
        self.track = track
        self.flow: Flow = log.flow if track is None else track
        self.vitals = vitals
        self.cursor = after
        self.taken = log.counted(self.flow, after)
        self.read_seq = after
        self._read = self.taken
        self.attached_top = log.top
        """What stands up to here was there before the reader: to lag behind it is no pressure."""
        self._attached_events = self.flow.events
        self.losses = None if lossless else Losses(log, self.flow)
        self.place: Place | None = None
        self._waits_seen = 0

    def hold(self, owner: Reader, window_bytes: int) -> None:
        """Have the flow's runs wait for this reader: it is lossless."""
        self.place = self.log.add_place(
            self.flow,
            self.cursor,
            capacity=self.vitals.window.capacity,
            window_bytes=window_bytes,
            owner=owner,
        )

    def note_opening(self) -> None:
        """Take what the log holds now as there before this reader. For `Hub.start_run`, once.

        A run's first reader attaches before the run's first events, so that none is evicted before
        it is held; but as to any later reader, they are neither lag nor ever dropped.
        """
        self.attached_top = self.log.top
        self._attached_events = self.flow.events

    # --- The window --------------------------------------------------------------------------

    @property
    def utilization(self) -> float:
        """The use of the window, 0-1."""
        return self.used() / self.vitals.window.capacity

    def used(self) -> int:
        """How many events of the window are in use."""
        # A replay may have more before it than any window: the window is full, no more.
        pending = self.flow.events - self._read[0]
        if self.losses is not None:
            pending -= self.losses.skipping
        return max(0, min(pending, self.vitals.window.capacity))

    def pending(self) -> int:
        """How many events the reader has still to read."""
        return max(0, self.flow.events - self._read[0] - self._skipping())

    def lags(self) -> bool:
        """Whether more than was taken is waiting, or the reader is slow."""
        pending = self.taken[0] + self._skipping() < self.flow.events
        return pending or self.vitals.pressure.is_slow

    def judge_pressure(self) -> None:
        """Begin or end an episode of pressure; what a replay has still to read is none."""
        self.vitals.judge(self.used() if self.read_seq >= self.attached_top else 0)

    def may_lose(self, losses: Losses) -> bool:
        """Whether there is, or may be, something ahead that this reader will not get."""
        ahead = self.flow.events - self.taken[0]
        return bool(losses.holes) or ahead > self.vitals.window.capacity

    def excess(self, losses: Losses) -> int:
        """How many of the events that came since it attached are more than its window holds."""
        counted_from = max(self.taken[0], self._attached_events)
        return self.flow.events - counted_from - losses.skipping - self.vitals.window.capacity

    def _skipping(self) -> int:
        return 0 if self.losses is None else self.losses.skipping

    # --- Moving ------------------------------------------------------------------------------

    def take(self, seq: int, events: int, nbytes: int) -> None:
        """So many events up to ``seq`` are taken."""
        self.cursor = seq
        self.taken = (self.taken[0] + events, self.taken[1] + nbytes)

    def skip(self, seq: int, counted: tuple[int, int]) -> None:
        """All up to ``seq``, to which the flow ``counted`` so much, is taken or lost."""
        self.cursor, self.taken = seq, counted

    def settle(self) -> None:
        """What was taken is read."""
        if self.read_seq == self.cursor:
            return
        passed = self.taken[0] - self._read[0]
        self.read_seq, self._read = self.cursor, self.taken
        waits, place = 0, self.place
        if place is not None:
            waits, self._waits_seen = place.waits - self._waits_seen, place.waits
            self.log.move_place(place, self.read_seq, *self._read)
        self.vitals.note_passed(passed, waits)

    def advance(self) -> None:
        """`settle`, and fit the window to how the reader fares."""
        self.settle()
        if self.vitals.adapt() and self.place is not None:
            self.log.resize_place(self.place, self.vitals.window.capacity)
        self.judge_pressure()
