"""`Gathering`: what one reader takes from its session, batch by batch, and what it has read.

Positions, gathering and settling are one invariant: what is taken is handed out, what is read frees
the window. Everything here is synchronous, so no checkpoint lies between the two.
"""

from collections.abc import Callable, Collection
from math import inf
from typing import Final, TypeVar

import attrs
import trio

from eventmesh_trio.abc import Encoder
from eventmesh_trio.errors import BufferOverflow
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.first_bytes import FirstBytes
from eventmesh_trio.mesh.flow import Flow, Place, Reader, Track
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.losses import Losses
from eventmesh_trio.mesh.marks import Marks
from eventmesh_trio.mesh.notices import NoticeQueue
from eventmesh_trio.mesh.outlet import Outlet
from eventmesh_trio.mesh.personal import (
    gap_event,
    heartbeat_event,
    personal_event,
    personal_progress,
    warning_event,
)
from eventmesh_trio.mesh.reader import Batch, ReaderSpec, SubscriberStatistics
from eventmesh_trio.mesh.shares import Step
from eventmesh_trio.mesh.vitals import Vitals
from eventmesh_trio.wire.events import Event, Gap, Metadata, Progress, Summary

__all__ = ["Gathering"]

T = TypeVar("T")

_LARGE_EVENT_BYTES: Final = 4096
"""Of such events a batch of the usual 64 KiB has 16 or fewer."""
_MOST_ON_TOP: Final = 2
"""So many times ``batch_bytes`` may be added: who asked for little gets little at once, too."""


class Gathering:
    """A cursor into a log, with the reader's own events between what is logged.

    An event is *taken* when it is handed out with a batch, and *read* when `settle` says so.

    Raises:
      BufferOverflow: by `gather`, of a reader with the ``disconnect`` strategy.
    """

    __slots__ = (
        "_attached_events",
        "_attached_top",
        "_batch_events",
        "_calm_behind_until",
        "_census",
        "_flow",
        "_health_version",
        "_limits",
        "_log",
        "_losses",
        "_marks",
        "_read",
        "_session_id",
        "_step_encoder",
        "_step_track",
        "_track",
        "_waits_seen",
        "calm_until",
        "cursor",
        "first_bytes",
        "gap",
        "last_activity",
        "notices",
        "place",
        "read_seq",
        "spec",
        "taken",
        "until",
        "vitals",
    )

    def __init__(
        self,
        log: EventLog,
        spec: ReaderSpec,
        track: Track | None,
        *,
        after: int,
        gap: Gap | None,
        session_id: str,
        limits: MeshLimits,
        census: Census,
    ) -> None:
        self.spec = spec
        self._log = log
        self._track = track
        self._flow: Flow = log.flow if track is None else track
        self._session_id = session_id
        self._limits = limits
        self._batch_events = int(min(limits.max_batch_events, spec.batch_events))
        self._census = census
        self.until = spec.until
        # Positions: (events, bytes) count within the flow.
        self.cursor = after
        self.taken = log.counted(self._flow, after)
        self.read_seq = after
        self._read = self.taken
        self._attached_top = log.top
        self._attached_events = self._flow.events
        self.vitals = Vitals(spec, limits.warning_seconds)
        self.place: Place | None = None
        self._waits_seen = 0
        self.gap = gap
        self._losses = None if spec.lossless else Losses(log, self._flow)
        self._marks = Marks()
        self.first_bytes: FirstBytes | None = None
        self.notices = NoticeQueue(limits.notice_queue)
        self._health_version = census.health_version
        self.last_activity = trio.current_time()
        self.calm_until = -inf
        """Before this time no progress is due: the reader was told of all its runs lately."""
        self._calm_behind_until = -inf  # the same while it lags, and so is told more seldom
        self._step_track: Track | None = None  # whose events it took last, and how they are encoded
        self._step_encoder: Encoder | None = None

    def hold(self, owner: Reader) -> None:
        """Have the flow's runs wait for this reader: it is lossless."""
        self.place = self._log.add_place(
            self._flow,
            self.cursor,
            capacity=self.vitals.window.capacity,
            window_bytes=self._limits.window_bytes,
            owner=owner,
        )

    def note_opening(self) -> None:
        """Take what the log holds now as there before this reader. For `Hub.start_run`, once.

        A run's first reader attaches before the run's first events, so that none is evicted before
        it is held; but as to any later reader, they are neither lag nor ever dropped.
        """
        self._attached_top = self._log.top
        self._attached_events = self._flow.events

    # --- What there is -----------------------------------------------------------------------

    @property
    def utilization(self) -> float:
        """The use of the window, 0-1."""
        return self._used() / self.vitals.window.capacity

    def statistics(self) -> SubscriberStatistics:
        """How this reader fares at this moment."""
        return self.vitals.statistics(
            used=self._used(), pending=self._pending(), notices=len(self.notices.items)
        )

    def has_news(self) -> bool:
        if self.cursor < self._log.flow.events or self.notices.items or self.gap is not None:
            return True
        now = trio.current_time()
        if self._warning_is_due(now) or self._health_is_news():
            return True
        silence_until = self.last_activity + self.spec.heartbeat_seconds
        return (now >= self.calm_until or now >= silence_until) and self.next_due() <= now

    def ended(self) -> bool:
        log = self._log
        if self._track is not None and self.until == "run":
            return not self._track.live and self.taken[0] == self._track.events
        if self.cursor < log.top or self.notices.items:
            return False
        return not log.live_tracks and (log.closed or self.until == "idle")

    def next_due(self) -> float:
        due = self.last_activity + self.spec.heartbeat_seconds
        if self.spec.progress:
            lags = self._lags()
            for track in self._followed():
                if self._has_progress(track):
                    due = min(due, self._progress_due(track, lags=lags))
        return due

    def _followed(self) -> Collection[Track]:
        """The live runs that this reader follows."""
        if self._track is None:
            return self._log.live_tracks
        return (self._track,) if self._track.live else ()

    def gather(self, outlet: Outlet[T]) -> None:
        now = trio.current_time()
        self.vitals.sample(self._used())
        self._judge_pressure()
        if self.notices.items:  # a welcome goes before all else, the gap included
            outlet.take_notices(self.notices.items)
            self.notices.wake_posters()
        if self.gap is not None and outlet.offer([self.gap], None):
            self.gap = None
        if self._losses is not None:
            self._overflow(self._losses)
        if self.vitals.messages_sent and self.is_crowded():
            # Behind entries that fill the batch, what is due now would never come.
            self._take_extras(outlet, now)
        self._take_entries(outlet)
        if not outlet.full and not self.ended():
            self._take_extras(outlet, now)
        if outlet.items:
            self.last_activity = now
        self._note_calm()

    # --- Steps: the batch of who came before, taken as it is --------------------------------------

    def step(self, writable: Callable[[], int]) -> Batch | None:
        """The batch that another reader at this place was given, where nothing else is due here.

        As `gather` would put it together anew: of 20 readers that keep up, 19 find it so. An event
        that comes alone takes 24 us of processor time to each of them then, and not 36.
        """
        log, vitals = self._log, self.vitals
        if self._step_encoder is None:
            return None
        step = log.shares.steps.get((self._step_encoder, self.cursor + 1))
        if (
            step is None
            or step.track is not self._step_track
            or step.start < log.first
            or step.taken > self._batch_events
            or self.notices.items
            or self.gap is not None
            or (self._losses is not None and self._may_lose(self._losses))
            or self._health_is_news()
        ):
            return None
        used = self._used()
        vitals.judge(used if self.read_seq >= self._attached_top else 0)
        now = trio.current_time()
        lags = self.taken[0] + step.taken < self._flow.events or vitals.pressure.is_slow
        calm_until = self._calm_behind_until if lags else self.calm_until
        if now >= calm_until or self._warning_is_due(now):
            return None
        nbytes = step.batch.nbytes
        if nbytes > self.spec.batch_bytes and nbytes > self.room(writable):
            return None
        vitals.sample(used)
        self._pass(self.cursor + step.taken, step.taken, step.weight)
        self.last_activity = now
        return step.batch

    def leave_step(
        self, start: int, taken: int, track: Track, encoder: Encoder, batch: Batch
    ) -> None:
        """What was gathered is ``taken`` events from ``start`` on, and nothing else."""
        self._step_track, self._step_encoder = track, encoder
        log = self._log
        if log.readers + track.readers > 1:
            weight = log.weight(start, start + taken - 1)
            log.shares.keep_step(encoder, Step(start, taken, weight, track, batch))

    def _note_calm(self) -> None:
        calm_until = calm_behind_until = inf
        if self.spec.progress:
            for track in self._followed():
                calm_until = min(calm_until, self._progress_due(track, lags=False))
                calm_behind_until = min(calm_behind_until, self._progress_due(track, lags=True))
        self.calm_until, self._calm_behind_until = calm_until, calm_behind_until

    def is_crowded(self) -> bool:
        """Whether more is waiting than one batch takes."""
        return (
            self._flow.nbytes - self.taken[1] > self.spec.batch_bytes
            or self._log.top - self.cursor > self._batch_events
        )

    def room(self, writable: Callable[[], int]) -> int:
        """How many bytes the next batch may hold, where more is waiting than `is_crowded` says.

        ``batch_bytes`` are what may have to be held until the socket takes it. What it would take
        at once is held by nobody, so it may come on top: where a batch would have few events, or
        where these are encoded already, for other readers too. What a batch costs, however many
        events it has, is as much as to encode and send four of 20 KB.
        """
        least = self.spec.batch_bytes
        waiting = self._flow.events - self.taken[0]
        readers = self._log.readers + (self._track.readers if self._track is not None else 0)
        if readers > 1 or self._flow.nbytes - self.taken[1] > waiting * _LARGE_EVENT_BYTES:
            return least + min(writable(), _MOST_ON_TOP * least)
        return least

    def _take_entries(self, outlet: Outlet[T]) -> None:
        log = self._log
        last = self.cursor + self._batch_events
        while self.cursor < min(log.top, last) and not outlet.full:
            if self.cursor + 1 < log.first:
                self._pass_evicted(outlet)
                continue
            stop = min(log.top, last)
            if self._losses is not None and self._losses.holes:
                ahead = self._losses.holes[0].start
                if ahead <= self.cursor + 1:
                    self._pass_hole(outlet, self._losses)
                    continue
                stop = min(stop, ahead - 1)
            start = self.cursor + 1
            track, stop = log.stretch(start, stop)
            if self._track is not None and track is not self._track:
                self.cursor = stop
                continue
            count = outlet.take(track, start, stop)
            if count:
                self._pass(start + count - 1, count, log.weight(start, start + count - 1))
            elif not outlet.full and self._offer_personal(outlet, track, start):
                self._pass(start, 1, log.weight(start, start))

    def _pass(self, seq: int, events: int, nbytes: int) -> None:
        self.cursor = seq
        self.taken = (self.taken[0] + events, self.taken[1] + nbytes)

    def _offer_personal(self, outlet: Outlet[T], track: Track, seq: int) -> bool:
        event = self._log.event(seq)
        statistics = self.statistics()
        parts: list[Event] = []
        # The last progress stands before the summary, in a replay too.
        progress = None
        if isinstance(event, Summary) and self.spec.progress and self._marks.is_news(track):
            progress = track.progress()
        if progress is not None:
            parts.append(self._personal_progress(progress, track, statistics))
        if isinstance(event, Summary):
            statistics = attrs.evolve(statistics, ttfb_ms=self._ttfb_ms(track.request_id))
        parts.append(personal_event(event, self.spec, self._limits, statistics))
        if not outlet.offer(parts, track.request_id):
            return False
        if self.first_bytes is not None:
            if isinstance(event, Metadata):
                self.first_bytes.note_opened(track.request_id, trio.current_time())
            elif isinstance(event, Summary):
                self.first_bytes.forget(track.request_id)
        if progress is not None:
            self._note_progress(track, -inf)
        if isinstance(event, Summary):
            self._marks.forget(track)
            self._step_track = self._step_encoder = None
        return True

    def _ttfb_ms(self, request_id: str) -> float | None:
        """Of a run that was asked for on this connection its own, else that of the connection."""
        seconds = self.first_bytes.seconds(request_id) if self.first_bytes else None
        if seconds is None and self.vitals.ttfb_ms is None and self.spec.requested_at is not None:
            seconds = trio.current_time() - self.spec.requested_at  # this batch is the first
        return self.vitals.ttfb_ms if seconds is None else seconds * 1000

    def _take_extras(self, outlet: Outlet[T], now: float) -> None:
        """What is this reader's own and never logged."""
        if self.spec.progress:
            lags = self._lags()
            for track in self._followed():
                if self._has_progress(track) and now >= self._progress_due(track, lags=lags):
                    self._offer_progress(outlet, track, now)
        if self._warning_is_due(now):
            warning = warning_event(self.spec.connection_id, self.statistics())
            if outlet.offer([warning], None):
                self.vitals.note_warning(now)
                self._census.warned()
        census = self._census
        if self._health_is_news() and outlet.offer([census.system_status()], None):
            self._health_version = census.health_version
        silent = not outlet.items and self.cursor == self._log.top
        if silent and now >= self.last_activity + self.spec.heartbeat_seconds:
            beat = heartbeat_event(self._session_id, census, self.statistics())
            outlet.offer([beat], None)

    # --- Progress: the newest state, where this reader is ready for it ---------------------------

    def _has_progress(self, track: Track) -> bool:
        """Whether there is news of a run whose first result this reader has taken."""
        return 0 < track.first_result_seq <= self.cursor and self._marks.is_news(track)

    def _lags(self) -> bool:
        pending = self.taken[0] + self._skipping() < self._flow.events
        return pending or self.vitals.pressure.is_slow

    def _progress_due(self, track: Track, *, lags: bool) -> float:
        due = self._marks.due(track)  # the first comes with the first result
        if lags:
            return max(due, self._marks.told_at(track) + self.spec.buffer_timeout_ms / 1000)
        return due

    def _offer_progress(self, outlet: Outlet[T], track: Track, now: float) -> None:
        progress = track.progress()
        if progress is not None:
            event = self._personal_progress(progress, track, self.statistics())
            if not outlet.offer([event], track.request_id):
                return
        self._note_progress(track, now)

    def _personal_progress(
        self, progress: Progress, track: Track, statistics: SubscriberStatistics
    ) -> Event:
        pending_bytes = max(0, self._flow.nbytes - self.taken[1])
        return personal_progress(
            progress,
            track.request_id,
            self.spec,
            statistics,
            pending_bytes,
            pressed=self.vitals.pressed,
        )

    def _note_progress(self, track: Track, now: float) -> None:
        interval = self.spec.flush_interval_seconds
        readers = self._log.readers + track.readers
        due = track.take_turn(now + interval, interval, readers)
        skipped = self._marks.note(track, now, due)
        self.vitals.coalesced += skipped
        self._census.coalesced(skipped)

    # --- Pressure, and what lossy readers lose ----------------------------------------------------

    def _skipping(self) -> int:
        return 0 if self._losses is None else self._losses.skipping

    def _pending(self) -> int:
        return max(0, self._flow.events - self._read[0] - self._skipping())

    def _used(self) -> int:
        # A replay may have more before it than any window: the window is full, no more.
        pending = self._flow.events - self._read[0]
        if self._losses is not None:
            pending -= self._losses.skipping
        return max(0, min(pending, self.vitals.window.capacity))

    def _judge_pressure(self) -> None:
        # What a replay has still to read is no pressure.
        self.vitals.judge(self._used() if self.read_seq >= self._attached_top else 0)

    def _warning_is_due(self, now: float) -> bool:
        # A socket on which nothing runs carries replies only, however slow its last writes were.
        if not self.vitals.warning_is_due(now):
            return False
        return self.cursor < self._log.top or bool(self._followed())

    def _health_is_news(self) -> bool:
        return self.spec.system_status and self._health_version != self._census.health_version

    def _may_lose(self, losses: Losses) -> bool:
        """Whether there is, or may be, something ahead that this reader will not get."""
        ahead = self._flow.events - self.taken[0]
        return bool(losses.holes) or ahead > self.vitals.window.capacity

    def _overflow(self, losses: Losses) -> None:
        """Decide what a lossy reader loses: what came since it attached, beyond its window."""
        counted_from = max(self.taken[0], self._attached_events)
        capacity = self.vitals.window.capacity
        excess = self._flow.events - counted_from - losses.skipping - capacity
        if excess <= 0:
            return
        if self.spec.strategy == "disconnect":
            raise BufferOverflow(f"{excess} events more than the window of {capacity} were waiting")
        after = max(self.cursor, self._attached_top)
        oldest = self.spec.strategy == "drop_oldest"
        self._note_dropped(losses.drop(after, excess, oldest=oldest))

    def _pass_hole(self, outlet: Outlet[T], losses: Losses) -> None:
        hole = losses.holes[0]
        gap = gap_event(hole.start, hole.end, epoch_changed=False)
        if outlet.offer([gap], None):
            losses.take()
            self.cursor = hole.end
            self.taken = self._log.counted(self._flow, hole.end)

    def _pass_evicted(self, outlet: Outlet[T]) -> None:
        """The log has forgotten what comes next: say so, and go on with what it kept."""
        last = self._log.first - 1
        taken = self._log.counted(self._flow, last)
        lost = taken[0] - self.taken[0]
        gap = gap_event(self.cursor + 1, last, epoch_changed=False)
        if lost and not outlet.offer([gap], None):
            return
        if self._losses is not None:
            lost -= self._losses.forget(last)
        self.cursor, self.taken = last, taken
        self._note_dropped(lost)

    def _note_dropped(self, events: int) -> None:
        if events > 0:
            self.vitals.note_dropped(events)
            self._census.dropped(events)

    def settle(self) -> None:
        """What was taken is read."""
        if self.read_seq == self.cursor:
            return
        passed = self.taken[0] - self._read[0]
        self.read_seq, self._read = self.cursor, self.taken
        waits, place = 0, self.place
        if place is not None:
            waits, self._waits_seen = place.waits - self._waits_seen, place.waits
            self._log.move_place(place, self.read_seq, *self._read)
        self.vitals.note_passed(passed, waits)

    def count(self, events: int, nbytes: int) -> None:
        self.vitals.messages_sent += events
        self.vitals.bytes_sent += nbytes
        self._census.sent(self.spec.protocol, events, nbytes)

    def note_written(self, events: int, nbytes: int, seconds: float) -> None:
        """The batch was written in so many seconds."""
        self.vitals.note_write(seconds)
        self.count(events, nbytes)
        self.last_activity = trio.current_time()

    def advance(self) -> None:
        """`settle`, and fit the window to how the reader fares."""
        self.settle()
        if self.vitals.adapt() and self.place is not None:
            self._log.resize_place(self.place, self.vitals.window.capacity)
        self._judge_pressure()
