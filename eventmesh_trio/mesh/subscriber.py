"""`Subscriber`: one reader of a session: a cursor into its log, a window, and what is its own.

It is the only thing that stands both in the tree of runs and in that of connections, and
everything of it but receiving is synchronous: its `Position` in the log, its `Asides`, and the
`Gathering` of both into batches. A writer loops: `receive_batch`, write, `sent`.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol, TypeVar

import trio

from eventmesh_trio.errors import BackpressureExceeded, BufferOverflow, StreamingError
from eventmesh_trio.mesh.alarms import Alarm, Alarms
from eventmesh_trio.mesh.asides import Asides
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.first_bytes import FirstBytes
from eventmesh_trio.mesh.flow import Place, Track
from eventmesh_trio.mesh.gathering import Gathering
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.outlet import EncodedOutlet, EventOutlet, Outlet
from eventmesh_trio.mesh.position import Position
from eventmesh_trio.mesh.reader import (
    Batch,
    OverflowStrategy,
    ReaderSpec,
    StreamProtocol,
    SubscriberStatistics,
)
from eventmesh_trio.mesh.vitals import Vitals
from eventmesh_trio.wire.events import Event, Gap

__all__ = ["Batch", "Home", "OverflowStrategy", "ReaderSpec", "Subscriber", "SubscriberStatistics"]

T = TypeVar("T")


def _unknown() -> int:
    return 0


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

    @property
    def alarms(self) -> Alarms: ...

    def leave(self, reader: "Subscriber", *, keep_place: bool) -> None:
        """The reader has gone; its place is dropped, or held for who resumes."""
        ...


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
        "_alarm",
        "_asides",
        "_closed",
        "_failure",
        "_gathering",
        "_home",
        "_position",
        "_ready",
        "_task",
        "_writing",
        "patient",
        "spec",
    )

    def __init__(
        self, home: Home, spec: ReaderSpec, track: Track | None, after: int, gap: Gap | None
    ) -> None:
        self.spec = spec
        self.patient = spec.patient
        self._home = home
        limits, census = home.limits, home.census
        vitals = Vitals(spec, limits.warning_seconds)
        self._position = Position(home.log, track, vitals, after=after, lossless=spec.lossless)
        self._asides = Asides(
            self._position,
            spec,
            census,
            session_id=home.session_id,
            notice_queue=limits.notice_queue,
        )
        self._gathering = Gathering(self._position, self._asides, spec, limits, census, gap)
        if spec.lossless:
            self._position.hold(self, limits.window_bytes)
        self._ready: deque[Event] | None = None
        self._task: trio.lowlevel.Task | None = None
        self._alarm: Alarm | None = None
        self._closed = False
        self._failure: StreamingError | None = None
        self._writing: trio.CancelScope | None = None
        census.stream_opened(self)

    def note_opening(self) -> None:
        """Take what the log holds now as there before this reader. For `Hub.start_run`, once."""
        self._position.note_opening()

    # --- Receiving ----------------------------------------------------------------------------

    async def receive_batch(self, writable: Callable[[], int] = _unknown) -> Batch:
        """Everything that the writer should write now, in order; waits where there is nothing.

        In order: notices, a gap, logged events, progress, a warning, the server's health, a
        heartbeat. A batch is bounded by ``spec.batch_bytes``; when idle it is one event, under load
        it grows. Asking for the next batch says that the last one was written.

        Args:
          writable: how many bytes a write would not have to hold. A batch may be larger by some of
            them, where that is worth while (`Gathering.room`).
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
        self._position.settle()
        while True:
            self._check_open()
            crowded = self._gathering.is_crowded()
            if crowded:
                # No full checkpoint: the write that follows is one. A step of the loop for each
                # batch less is 5 % of the time to one reader. What fills no batch waits for more:
                # there is one batch in seven less to write.
                await trio.lowlevel.checkpoint_if_cancelled()
            elif self._is_idle():
                await self._sleep()
            else:
                await trio.lowlevel.checkpoint()
            self._check_open()
            batch = self._gathering.step(writable)
            if batch is not None:
                return batch
            room = self._gathering.room(writable) if crowded else self.spec.batch_bytes
            outlet = EncodedOutlet(self._position.log, self.spec.encoder_for, room)
            self._gather(outlet)
            if outlet.items:
                asked = self._gathering.first_bytes
                first_bytes = asked.take_fresh() if asked else ()
                batch = Batch(outlet.items, outlet.events, outlet.nbytes, first_bytes)
                if outlet.sole is not None and not first_bytes:
                    self._gathering.leave_step(*outlet.sole, batch)
                return batch
            if self._gathering.ended():
                raise trio.EndOfChannel
            self._position.settle()  # what was passed over without a word: other runs' events

    async def receive(self) -> Event:
        """The next event: as `receive_batch`, unencoded, logged ones with their ``id``.

        An event counts as read when it is returned.
        """
        while True:
            self._check_open()
            if self._ready:
                await trio.lowlevel.checkpoint()
            else:
                # A checkpoint, always: others' turn before anything is taken, so nothing is lost.
                if self._is_idle():
                    await self._sleep()
                else:
                    await trio.lowlevel.checkpoint()
                self._check_open()
                outlet = EventOutlet(self._position.log)
                self._gather(outlet)
                self._ready = deque(outlet.items)
            if self._ready:
                event = self._ready.popleft()
                self._gathering.count(1, 0)
                if not self._ready:
                    self._position.settle()
                return event
            if self._gathering.ended():
                raise trio.EndOfChannel
            self._position.settle()

    def _gather(self, outlet: Outlet[T]) -> None:
        try:
            self._gathering.gather(outlet)
        except BufferOverflow as error:
            self.cut_off(error)
            raise

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise trio.ClosedResourceError
        if self._task is not None:
            raise trio.BusyResourceError("another task is receiving from this subscriber")

    def _is_idle(self) -> bool:
        return not (self._gathering.has_news() or self._gathering.ended())

    async def _sleep(self) -> None:
        """Wait for the log, a notice, or the time when something of this reader's own is due."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            self._position.log.sleepers.pop(self, None)
            return trio.lowlevel.Abort.SUCCEEDED

        self._position.log.sleepers[self] = None
        self._task = trio.lowlevel.current_task()
        alarm, asides = self._alarm, self._asides
        if alarm is None or alarm.sleeper is None or alarm.due > asides.calm_until:
            self._alarm = self._home.alarms.set(self, asides.next_due(), alarm)
        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Let a receiver look again. Idempotent; for the log, the alarms and the hub."""
        task, self._task = self._task, None
        if task is not None:
            self._position.log.sleepers.pop(self, None)
            trio.lowlevel.reschedule(task)

    # --- What the writer tells --------------------------------------------------------------------

    def sent(self, events: int, nbytes: int, seconds: float) -> None:
        """Report that the batch was written: it is read now, and its window is free."""
        self._gathering.note_written(events, nbytes, seconds)
        if not self._closed and self._failure is None:
            self._position.advance()

    def first_byte(self, ttfb_ms: float) -> None:
        """Report the time to first byte, which this reader's summary will state."""
        self._position.vitals.ttfb_ms = ttfb_ms

    def note_asked(self, request_id: str, at: float) -> None:
        """Report when the client asked for a run on this connection (`trio.current_time`).

        That run's summary states the time from then to its own first event.
        """
        gathering = self._gathering
        if gathering.first_bytes is None:
            gathering.first_bytes = FirstBytes()
        gathering.first_bytes.note_asked(request_id, at)

    # --- Notices: a connection's own messages -----------------------------------------------------

    def post_nowait(self, notice: bytes) -> None:
        """Queue an encoded message of this connection alone; it goes out before logged events.

        Raises:
          trio.WouldBlock: ``notice_queue`` are waiting; read no more commands before
            `wait_notice_room` has returned.
          trio.ClosedResourceError: the subscriber is closed or cut off.
        """
        self._asides.notices.post_nowait(notice)
        self.wake()

    async def wait_notice_room(self) -> None:
        """Return when `post_nowait` may succeed, or when the subscriber is closed or cut off."""
        await self._asides.notices.wait_room()

    # --- State and end -------------------------------------------------------------------------

    @property
    def last_event_id(self) -> str | None:
        """The id up to which everything was read; None before the first event."""
        return self._position.log.id_of(self.read_seq) if self.read_seq else None

    @property
    def read_seq(self) -> int:
        """The sequence number up to which everything was read."""
        return self._position.read_seq

    @property
    def place(self) -> Place | None:
        """How far runs wait for this reader; None: it is not lossless, or gave it away."""
        return self._position.place

    def give_place(self) -> Place | None:
        """Part with the place: it is dropped, or held for who resumes. For the session."""
        place, self._position.place = self._position.place, None
        return place

    @property
    def failure(self) -> StreamingError | None:
        """Why this reader was cut off; None while it was not."""
        return self._failure

    @property
    def track(self) -> Track | None:
        """The one run that this reader follows; None: all of the session."""
        return self._position.track

    @property
    def protocol(self) -> StreamProtocol:
        """How this reader is written to."""
        return self.spec.protocol

    @property
    def utilization(self) -> float:
        """The use of the window, 0-1."""
        return self._position.utilization

    @property
    def window(self) -> tuple[int, int]:
        """How many events of the window are used, and its capacity: of `statistics` the start."""
        return self._position.used(), self._position.vitals.window.capacity

    def statistics(self) -> SubscriberStatistics:
        """How this reader fares at this moment."""
        return self._asides.statistics()

    def end_when_idle(self) -> None:
        """End a channel that would never end when no run is live: the server is draining."""
        if self._gathering.until == "never":
            self._gathering.until = "idle"
            self.wake()

    def cancel_when_cut_off(self, scope: trio.CancelScope) -> None:
        """Have the scope of this reader's writer cancelled when the reader is cut off.

        An evicted reader is one that does not read: a write to it would not end by itself.
        """
        self._writing = scope
        self.bound_time()
        if self._failure is not None:
            scope.cancel()

    def bound_time(self) -> None:
        """Give the writer ``spec.max_idle_seconds`` from now, or all time while a run is live.

        For the session, when its first run begins and its last one ends.
        """
        if self._writing is not None:
            live = bool(self._position.log.live_tracks)
            due = inf if live else trio.current_time() + self.spec.max_idle_seconds
            if due != self._writing.deadline:  # to set what it is already takes 2 us
                self._writing.deadline = due

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
        self._home.alarms.forget(self._alarm)
        self._home.leave(self, keep_place=keep_place and self.spec.lossless)
        self.wake()
        self._asides.notices.close()
        self._writing = None
