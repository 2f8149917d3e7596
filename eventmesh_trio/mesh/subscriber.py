"""`Subscriber`: one reader of a session: a cursor into its log, a window, and what is its own.

It is the only thing that stands both in the tree of runs and in that of connections, and
everything of it but receiving is synchronous. A writer loops: `receive_batch`, write, `sent`.

Longer than other modules on purpose: positions, gathering and settling are one invariant (what is
taken is handed out, what is read frees the window), and it is easier to check in one place.
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Protocol, TypeVar

import attrs
import trio

from eventmesh_trio.errors import BackpressureExceeded, BufferOverflow, StreamingError
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.flow import Flow, Place, Track
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.losses import Losses
from eventmesh_trio.mesh.notices import NoticeQueue
from eventmesh_trio.mesh.outlet import EncodedOutlet, EventOutlet, Outlet
from eventmesh_trio.mesh.personal import (
    gap_event,
    heartbeat_event,
    personal_event,
    personal_progress,
    warning_event,
)
from eventmesh_trio.mesh.reader import Batch, OverflowStrategy, ReaderSpec, SubscriberStatistics
from eventmesh_trio.mesh.vitals import Vitals
from eventmesh_trio.wire.events import Event, Gap, Progress, Summary

__all__ = ["Batch", "Home", "OverflowStrategy", "ReaderSpec", "Subscriber", "SubscriberStatistics"]

T = TypeVar("T")


class Home(Protocol):
    """The session of a subscriber, as far as the subscriber knows it."""

    @property
    def session_id(self) -> str: ...

    @property
    def log(self) -> EventLog: ...

    @property
    def limits(self) -> MeshLimits: ...

    @property
    def census(self) -> Census: ...

    def leave(self, reader: "Subscriber", *, keep_place: bool) -> None:
        """The reader has gone; its place is dropped, or held for who resumes."""
        ...


@attrs.define
class _Mark:
    """Which state of a run's progress a reader has seen, and when it was sent."""

    version: int = 0
    sent_at: float = -inf


class Subscriber(trio.abc.ReceiveChannel[Event]):
    """One reader. Made by `Session.subscribe` or with its run by `Hub.start_run`.

    An event is *taken* when it is handed out with a batch, and *read* when that batch was reported
    by `sent` (or, failing that, when the next is asked for). Only what is read frees the window:
    bytes in a write that stalls still hold their run back, and a reader that leaves in the middle
    of a write keeps its place before them.

    One task at a time may receive, all batches or all events. A cancelled receive took nothing.
    """

    __slots__ = (
        "__weakref__",
        "_attached_events",
        "_attached_top",
        "_closed",
        "_cursor",
        "_failure",
        "_flow",
        "_gap",
        "_health_version",
        "_home",
        "_last_activity",
        "_log",
        "_losses",
        "_marks",
        "_notices",
        "_read",
        "_ready",
        "_taken",
        "_task",
        "_track",
        "_until",
        "_vitals",
        "_waits_seen",
        "_writing",
        "place",
        "read_seq",
        "spec",
    )

    def __init__(
        self, home: Home, spec: ReaderSpec, track: Track | None, after: int, gap: Gap | None
    ) -> None:
        log = home.log
        now = trio.current_time()
        self.spec = spec
        self._home = home
        self._log = log
        self._track = track
        self._flow: Flow = log.flow if track is None else track
        self._until = spec.until
        # Positions: (events, bytes) count within the flow.
        self._cursor = after
        self._taken = log.counted(self._flow, after)
        self.read_seq = after
        self._read = self._taken
        self._attached_top = log.top
        self._attached_events = self._flow.events
        self._vitals = Vitals(spec, home.limits.warning_seconds)
        self.place: Place | None = None
        if spec.lossless:
            self.place = log.add_place(
                self._flow,
                after,
                capacity=self._vitals.window.capacity,
                window_bytes=home.limits.window_bytes,
                owner=self,
            )
        self._gap = gap
        self._losses = None if spec.lossless else Losses(log, self._flow)
        self._marks: dict[Track, _Mark] = {}
        self._notices = NoticeQueue(home.limits.notice_queue)
        self._ready: deque[Event] | None = None
        self._task: trio.lowlevel.Task | None = None
        self._closed = False
        self._failure: StreamingError | None = None
        self._writing: trio.CancelScope | None = None
        self._health_version = home.census.health_version
        self._last_activity = now
        self._waits_seen = 0
        home.census.stream_opened(self)

    def note_opening(self) -> None:
        """Take what the log holds now as there before this reader. For `Hub.start_run`, once.

        A run's first reader attaches before the run's first events, so that none is evicted before
        it is held; but as to any later reader, they are neither lag nor ever dropped.
        """
        self._attached_top = self._log.top
        self._attached_events = self._flow.events

    # --- Receiving ----------------------------------------------------------------------------

    async def receive_batch(self) -> Batch:
        """Everything that the writer should write now, in order; waits where there is nothing.

        In order: notices, a gap, logged events, progress, a warning, the server's health, a
        heartbeat. A batch is bounded by ``spec.batch_bytes``; when idle it is one event, under load
        it grows. Asking for the next batch says that the last one was written.

        Raises:
          trio.EndOfChannel: what ``spec.until`` names has come, and everything was handed out.
          BackpressureExceeded: this reader held its run back longer than ``stall_seconds``.
          SubscriberLagged: it followed one run, and made the log keep too much of others.
          BufferOverflow: it has the ``disconnect`` strategy and fell behind its window.
          trio.ClosedResourceError: it was closed. trio.BusyResourceError: another task receives.
        Cancelled: nothing is lost or handed out twice.
        """
        if self._ready:
            raise RuntimeError("a reader receives either events or batches, not both")
        self._settle()
        while True:
            self._check_open()
            if self._cursor < self._log.top:
                # No full checkpoint: the write that follows is one. A step of the loop for each
                # batch less is 5 % of the time to one reader.
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await self._wait_news()
            self._check_open()
            outlet = EncodedOutlet(self._log, self.spec.encoder_for, self.spec.batch_bytes)
            self._gather(outlet)
            if outlet.items:
                return Batch(outlet.items, outlet.events, outlet.nbytes)
            if self._ended():
                raise trio.EndOfChannel
            self._settle()  # what was passed over without a word: other runs' events

    async def receive(self) -> Event:
        """The next event: as `receive_batch`, unencoded, logged ones with their ``id``.

        An event counts as read when it is returned.
        """
        while True:
            self._check_open()
            if self._ready:
                await trio.lowlevel.checkpoint()
            else:
                await self._wait_news()
                self._check_open()
                outlet = EventOutlet(self._log)
                self._gather(outlet)
                self._ready = deque(outlet.items)
            if self._ready:
                event = self._ready.popleft()
                self._count(1, 0)
                if not self._ready:
                    self._settle()
                return event
            if self._ended():
                raise trio.EndOfChannel
            self._settle()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise trio.ClosedResourceError
        if self._task is not None:
            raise trio.BusyResourceError("another task is receiving from this subscriber")

    async def _wait_news(self) -> None:
        """A checkpoint, always: others' turn before anything is taken, so that nothing is lost."""
        if self._has_news() or self._ended():
            await trio.lowlevel.checkpoint()
        else:
            await self._sleep()

    def _has_news(self) -> bool:
        now = trio.current_time()
        return (
            self._cursor < self._log.top
            or bool(self._notices.items)
            or self._gap is not None
            or self._vitals.warning_is_due(now)
            or self._health_is_news()
            or self._next_due() <= now
        )

    def _ended(self) -> bool:
        log = self._log
        if self._track is not None and self._until == "run":
            return not self._track.live and self._taken[0] == self._track.events
        if self._cursor < log.top or self._notices.items:
            return False
        return not log.live_tracks and (log.closed or self._until == "idle")

    async def _sleep(self) -> None:
        """Wait for the log, a notice, or the time when something of this reader's own is due."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            self._log.sleepers.pop(self, None)
            return trio.lowlevel.Abort.SUCCEEDED

        self._log.sleepers[self] = None
        self._task = trio.lowlevel.current_task()
        with trio.CancelScope(deadline=self._next_due()):
            await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Let a receiver look again. Idempotent; for the log and the hub."""
        task, self._task = self._task, None
        if task is not None:
            self._log.sleepers.pop(self, None)
            trio.lowlevel.reschedule(task)

    def _next_due(self) -> float:
        due = self._last_activity + self.spec.heartbeat_seconds
        if self.spec.progress:
            for track in self._followed():
                if self._has_progress(track):
                    due = min(due, self._progress_due(track))
        return due

    def _followed(self) -> Iterable[Track]:
        """The live runs that this reader follows."""
        if self._track is None:
            return self._log.live_tracks
        return (self._track,) if self._track.live else ()

    # --- Gathering: synchronous, so that what is taken is handed out ---------------------------

    def _gather(self, outlet: Outlet[T]) -> None:
        now = trio.current_time()
        self._vitals.sample(self._used())
        if self._notices.items:  # a welcome goes before all else, the gap included
            outlet.take_notices(self._notices.items)
            self._notices.wake_posters()
        if self._gap is not None and outlet.offer([self._gap], None):
            self._gap = None
        if self._losses is not None:
            self._overflow(self._losses)
        if self._vitals.messages_sent and self._is_crowded():
            # Behind entries that fill the batch, what is due now would never come.
            self._take_extras(outlet, now)
        self._take_entries(outlet)
        if not self._ended():
            self._take_extras(outlet, now)
        if outlet.items:
            self._last_activity = now

    def _is_crowded(self) -> bool:
        """Whether more is waiting than one batch takes."""
        return (
            self._flow.nbytes - self._taken[1] > self.spec.batch_bytes
            or self._log.top - self._cursor > self._home.limits.max_batch_events
        )

    def _take_entries(self, outlet: Outlet[T]) -> None:
        log = self._log
        last = self._cursor + self._home.limits.max_batch_events
        while self._cursor < min(log.top, last) and not outlet.full:
            if self._cursor + 1 < log.first:
                self._pass_evicted(outlet)
                continue
            stop = min(log.top, last)
            if self._losses is not None and self._losses.holes:
                ahead = self._losses.holes[0].start
                if ahead <= self._cursor + 1:
                    self._pass_hole(outlet, self._losses)
                    continue
                stop = min(stop, ahead - 1)
            start = self._cursor + 1
            track, stop = log.stretch(start, stop)
            if self._track is not None and track is not self._track:
                self._cursor = stop
                continue
            count = outlet.take(track, start, stop)
            if count:
                self._pass(start + count - 1, count, log.weight(start, start + count - 1))
            elif not outlet.full and self._offer_personal(outlet, track, start):
                self._pass(start, 1, log.weight(start, start))

    def _pass(self, seq: int, events: int, nbytes: int) -> None:
        self._cursor = seq
        self._taken = (self._taken[0] + events, self._taken[1] + nbytes)

    def _offer_personal(self, outlet: Outlet[T], track: Track, seq: int) -> bool:
        event = self._log.event(seq)
        statistics = self.statistics()
        parts: list[Event] = []
        # The last progress stands before the summary, in a replay too.
        progress = None
        if isinstance(event, Summary) and self.spec.progress:
            mark = self._marks.get(track)
            if mark is None or mark.version != track.version:
                progress = track.progress()
        if progress is not None:
            parts.append(self._personal_progress(progress, track, statistics))
        parts.append(personal_event(event, self.spec, self._home.limits, statistics))
        if not outlet.offer(parts, track.request_id):
            return False
        if progress is not None:
            self._note_progress(track, -inf)
        if isinstance(event, Summary):
            self._marks.pop(track, None)
        return True

    def _take_extras(self, outlet: Outlet[T], now: float) -> None:
        """What is this reader's own and never logged."""
        if self.spec.progress:
            for track in self._followed():
                if self._has_progress(track) and now >= self._progress_due(track):
                    self._offer_progress(outlet, track, now)
        self._judge_pressure()
        if self._vitals.warning_is_due(now):
            warning = warning_event(self.spec.connection_id, self.statistics())
            if outlet.offer([warning], None):
                self._vitals.note_warning(now)
                self._home.census.warned()
        census = self._home.census
        if self._health_is_news() and outlet.offer([census.system_status()], None):
            self._health_version = census.health_version
        silent = not outlet.items and self._cursor == self._log.top
        if silent and now >= self._last_activity + self.spec.heartbeat_seconds:
            beat = heartbeat_event(self._home.session_id, census, self.statistics())
            outlet.offer([beat], None)

    # --- Progress: the newest state, where this reader is ready for it ---------------------------

    def _has_progress(self, track: Track) -> bool:
        """Whether there is news of a run whose first result this reader has taken."""
        if not 0 < track.first_result_seq <= self._cursor:
            return False
        mark = self._marks.get(track)
        return mark is None or mark.version != track.version

    def _progress_due(self, track: Track) -> float:
        mark = self._marks.get(track)
        if mark is None:
            return -inf  # the first comes with the first result
        lags = (
            self._taken[0] + self._skipping() < self._flow.events or self._vitals.pressure.is_slow
        )
        if lags:
            return mark.sent_at + max(
                self.spec.buffer_timeout_ms / 1000, self.spec.flush_interval_seconds
            )
        return mark.sent_at + self.spec.flush_interval_seconds

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
        pending_bytes = max(0, self._flow.nbytes - self._taken[1])
        return personal_progress(
            progress,
            track.request_id,
            self.spec,
            statistics,
            pending_bytes,
            pressed=self._vitals.pressed,
        )

    def _note_progress(self, track: Track, now: float) -> None:
        mark = self._marks.setdefault(track, _Mark())
        skipped = max(0, track.version - mark.version - 1)
        self._vitals.coalesced += skipped
        self._home.census.coalesced(skipped)
        mark.version = track.version
        mark.sent_at = now

    # --- Pressure, and what lossy readers lose ----------------------------------------------------

    def _skipping(self) -> int:
        return 0 if self._losses is None else self._losses.skipping

    def _pending(self) -> int:
        return max(0, self._flow.events - self._read[0] - self._skipping())

    def _used(self) -> int:
        # A replay may have more before it than any window: the window is full, no more.
        return min(self._pending(), self._vitals.window.capacity)

    def _judge_pressure(self) -> None:
        # What a replay has still to read is no pressure.
        self._vitals.judge(self._used() if self.read_seq >= self._attached_top else 0)

    def _health_is_news(self) -> bool:
        return self.spec.system_status and self._health_version != self._home.census.health_version

    def _overflow(self, losses: Losses) -> None:
        """Decide what a lossy reader loses: what came since it attached, beyond its window."""
        counted_from = max(self._taken[0], self._attached_events)
        capacity = self._vitals.window.capacity
        excess = self._flow.events - counted_from - losses.skipping - capacity
        if excess <= 0:
            return
        if self.spec.strategy == "disconnect":
            error = BufferOverflow(
                f"{excess} events more than the window of {capacity} were waiting"
            )
            self.cut_off(error)
            raise error
        after = max(self._cursor, self._attached_top)
        oldest = self.spec.strategy == "drop_oldest"
        self._note_dropped(losses.drop(after, excess, oldest=oldest))

    def _pass_hole(self, outlet: Outlet[T], losses: Losses) -> None:
        hole = losses.holes[0]
        gap = gap_event(hole.start, hole.end, epoch_changed=False)
        if outlet.offer([gap], None):
            losses.take()
            self._cursor = hole.end
            self._taken = self._log.counted(self._flow, hole.end)

    def _pass_evicted(self, outlet: Outlet[T]) -> None:
        """The log has forgotten what comes next: say so, and go on with what it kept."""
        last = self._log.first - 1
        taken = self._log.counted(self._flow, last)
        lost = taken[0] - self._taken[0]
        gap = gap_event(self._cursor + 1, last, epoch_changed=False)
        if lost and not outlet.offer([gap], None):
            return
        if self._losses is not None:
            lost -= self._losses.forget(last)
        self._cursor, self._taken = last, taken
        self._note_dropped(lost)

    def _note_dropped(self, events: int) -> None:
        if events > 0:
            self._vitals.note_dropped(events)
            self._home.census.dropped(events)

    # --- What the writer tells --------------------------------------------------------------------

    def sent(self, events: int, nbytes: int, seconds: float) -> None:
        """Report that the batch was written: it is read now, and its window is free."""
        self._vitals.note_write(seconds)
        self._count(events, nbytes)
        self._last_activity = trio.current_time()
        if self._closed or self._failure is not None:
            return
        self._settle()
        self._adapt()
        self._judge_pressure()

    def first_byte(self, ttfb_ms: float) -> None:
        """Report the time to first byte, which this reader's summary will state."""
        self._vitals.ttfb_ms = ttfb_ms

    def _count(self, events: int, nbytes: int) -> None:
        self._vitals.messages_sent += events
        self._vitals.bytes_sent += nbytes
        self._home.census.sent(events, nbytes)

    def _settle(self) -> None:
        """What was taken is read."""
        if self.read_seq == self._cursor:
            return
        passed = self._taken[0] - self._read[0]
        self.read_seq, self._read = self._cursor, self._taken
        waits, place = 0, self.place
        if place is not None:
            waits, self._waits_seen = place.waits - self._waits_seen, place.waits
            self._log.move_place(place, self.read_seq, *self._read)
        self._vitals.note_passed(passed, waits)

    def _adapt(self) -> None:
        if self._vitals.adapt() and self.place is not None:
            self._log.resize_place(self.place, self._vitals.window.capacity)

    # --- Notices: a connection's own messages -----------------------------------------------------

    def post_nowait(self, notice: bytes) -> None:
        """Queue an encoded message of this connection alone; it goes out before logged events.

        Raises:
          trio.WouldBlock: ``notice_queue`` are waiting; read no more commands before
            `wait_notice_room` has returned.
          trio.ClosedResourceError: the subscriber is closed or cut off.
        """
        self._notices.post_nowait(notice)
        self.wake()

    async def wait_notice_room(self) -> None:
        """Return when `post_nowait` may succeed, or when the subscriber is closed or cut off."""
        await self._notices.wait_room()

    # --- State and end -------------------------------------------------------------------------

    @property
    def last_event_id(self) -> str | None:
        """The id up to which everything was read; None before the first event."""
        return self._log.id_of(self.read_seq) if self.read_seq else None

    @property
    def failure(self) -> StreamingError | None:
        """Why this reader was cut off; None while it was not."""
        return self._failure

    @property
    def track(self) -> Track | None:
        """The one run that this reader follows; None: all of the session."""
        return self._track

    def statistics(self) -> SubscriberStatistics:
        """How this reader fares at this moment."""
        return self._vitals.statistics(
            used=self._used(), pending=self._pending(), notices=len(self._notices.items)
        )

    def end_when_idle(self) -> None:
        """End a channel that would never end when no run is live: the server is draining."""
        if self._until == "never":
            self._until = "idle"
            self.wake()

    def cancel_when_cut_off(self, scope: trio.CancelScope) -> None:
        """Have the scope of this reader's writer cancelled when the reader is cut off.

        An evicted reader is one that does not read: a write to it would not end by itself.
        """
        self._writing = scope
        if self._failure is not None:
            scope.cancel()

    def cut_off(self, error: StreamingError) -> None:
        """Detach the reader; receiving raises ``error``. For publishers and the log."""
        if not self._closed and self._failure is None:
            self._failure = error
            if self._writing is not None:
                self._writing.cancel()
            # Its client can resume, so where nobody else reads the run waits for it to linger.
            self._leave(keep_place=isinstance(error, BackpressureExceeded), failed=True)

    def close(self, keep_place: bool = False) -> None:
        """Detach the reader. Idempotent.

        Args:
          keep_place: its client may come back: while its runs linger, they wait at this place when
            the window is full. Otherwise they go on without waiting.
        """
        if self._closed:
            return
        self._closed = True
        if self._failure is None:
            self._leave(keep_place=keep_place, failed=False)
        self._ready = None

    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _leave(self, *, keep_place: bool, failed: bool) -> None:
        self._home.census.stream_closed(self, failed=failed)
        self._home.leave(self, keep_place=keep_place and self.spec.lossless)
        self.wake()
        self._notices.close()
        self._writing = None
