"""`Gathering`: what one reader takes from its session, batch by batch.

It moves a `Position` over what is logged, and lets `Asides` in between. Everything here is
synchronous, so no checkpoint lies between what is taken and its being handed out.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import attrs
import trio

from eventmesh_trio.abc import Encoder
from eventmesh_trio.errors import BufferOverflow
from eventmesh_trio.mesh.asides import Asides
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.first_bytes import FirstBytes
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.losses import Losses
from eventmesh_trio.mesh.outlet import Outlet
from eventmesh_trio.mesh.personal import gap_event, personal_event
from eventmesh_trio.mesh.position import Position
from eventmesh_trio.mesh.reader import Batch, ReaderSpec
from eventmesh_trio.mesh.shares import Step
from eventmesh_trio.wire.events import Event, Gap, Metadata, Summary

__all__ = ["Gathering"]

T = TypeVar("T")

_LARGE_EVENT_BYTES: Final = 4096
"""Of such events a batch of the usual 64 KiB has 16 or fewer."""
_MOST_ON_TOP: Final = 2
"""So many times ``batch_bytes`` may be added: who asked for little gets little at once, too."""


class Gathering:
    """Kept by a `Subscriber`, which waits until there is something to gather.

    ``gap``: what the reader asked for and is not kept; it is told first.

    Raises:
      BufferOverflow: by `gather`, of a reader with the ``disconnect`` strategy.
    """

    __slots__ = (
        "_asides",
        "_batch_events",
        "_census",
        "_gap",
        "_limits",
        "_position",
        "_spec",
        "_step_encoder",
        "_step_track",
        "first_bytes",
        "until",
    )

    def __init__(
        self,
        position: Position,
        asides: Asides,
        spec: ReaderSpec,
        limits: MeshLimits,
        census: Census,
        gap: Gap | None,
    ) -> None:
        self._position = position
        self._asides = asides
        self._spec = spec
        self._limits = limits
        self._census = census
        self._batch_events = int(min(limits.max_batch_events, spec.batch_events))
        self.until = spec.until
        self._gap = gap
        self.first_bytes: FirstBytes | None = None
        self._step_track: Track | None = None  # whose events it took last, and how they are encoded
        self._step_encoder: Encoder | None = None

    # --- What there is -----------------------------------------------------------------------

    def has_news(self) -> bool:
        position = self._position
        asides = self._asides
        if position.cursor < position.log.flow.events or asides.notices.items or self._gap:
            return True
        return asides.are_due()

    def ended(self) -> bool:
        position = self._position
        log, track = position.log, position.track
        if track is not None and self.until == "run":
            return not track.live and position.taken[0] == track.events
        if position.cursor < log.top or self._asides.notices.items:
            return False
        return not log.live_tracks and (log.closed or self.until == "idle")

    def is_crowded(self) -> bool:
        """Whether more is waiting than one batch takes."""
        position = self._position
        return (
            position.flow.nbytes - position.taken[1] > self._spec.batch_bytes
            or position.log.top - position.cursor > self._batch_events
        )

    def room(self, writable: Callable[[], int]) -> int:
        """How many bytes the next batch may hold, where more is waiting than `is_crowded` says.

        ``batch_bytes`` are what may have to be held until the socket takes it. What it would take
        at once is held by nobody, so it may come on top: where a batch would have few events, or
        where these are encoded already, for other readers too. What a batch costs, however many
        events it has, is as much as to encode and send four of 20 KB.
        """
        least = self._spec.batch_bytes
        position = self._position
        log, track = position.log, position.track
        waiting = position.flow.events - position.taken[0]
        waiting_bytes = position.flow.nbytes - position.taken[1]
        readers = log.readers + (track.readers if track is not None else 0)
        if readers > 1 or waiting_bytes > waiting * _LARGE_EVENT_BYTES:
            return least + self._on_top(writable)
        return least

    def _on_top(self, writable: Callable[[], int]) -> int:
        return min(writable(), _MOST_ON_TOP * self._spec.batch_bytes)

    # --- Steps: the batch of who came before, taken as it is --------------------------------------

    def step(self, writable: Callable[[], int]) -> Batch | None:
        """The batch that is made already for who stands here, where nothing else is due.

        As `gather` would put it together anew. It was given to another reader: of 20 that keep up,
        19 find it so, and an event that comes alone takes 24 us of processor time to each of them,
        not 36. Or it was made ahead, for an only reader that takes full batches.
        """
        if self._step_encoder is None:
            return None
        position, asides = self._position, self._asides
        log = position.log
        step = log.next_step(
            self._step_encoder,
            position.cursor + 1,
            self._batch_events,
            self._spec.batch_bytes,
            partial(self._on_top, writable),
        )
        if (
            step is None
            or step.track is not self._step_track
            or step.start < log.first
            or asides.notices.items
            or self._gap is not None
            or (position.losses is not None and position.may_lose(position.losses))
        ):
            return None
        vitals = position.vitals
        used = position.used()
        vitals.judge(used if position.read_seq >= position.attached_top else 0)
        now = trio.current_time()
        if not asides.are_quiet(now, step.taken):
            return None
        vitals.sample(used)
        position.take(position.cursor + step.taken, step.taken, step.weight)
        asides.last_activity = now
        return step.batch

    def leave_step(
        self, start: int, taken: int, track: Track, encoder: Encoder, batch: Batch
    ) -> None:
        """What was gathered is ``taken`` events from ``start`` on, and nothing else."""
        self._step_track, self._step_encoder = track, encoder
        log = self._position.log
        if log.readers + track.readers > 1:
            weight = log.weight(start, start + taken - 1)
            log.shares.keep_step(encoder, Step(start, taken, weight, track, batch))

    # --- Batches ---------------------------------------------------------------------------------

    def gather(self, outlet: Outlet[T]) -> None:
        now = trio.current_time()
        position, asides = self._position, self._asides
        vitals, notices = position.vitals, asides.notices
        vitals.sample(position.used())
        position.judge_pressure()
        if notices.items:  # a welcome goes before all else, the gap included
            outlet.take_notices(notices.items)
            notices.wake_posters()
        if self._gap is not None and outlet.offer([self._gap], None):
            self._gap = None
        if position.losses is not None:
            self._overflow(position.losses)
        if vitals.messages_sent and self.is_crowded():
            # Behind entries that fill the batch, what is due now would never come.
            asides.take(outlet, now)
        self._take_entries(outlet)
        if not outlet.full and not self.ended():
            asides.take(outlet, now)
        if outlet.items:
            asides.last_activity = now
        asides.note_calm()

    def _take_entries(self, outlet: Outlet[T]) -> None:
        position = self._position
        log, losses = position.log, position.losses
        last = position.cursor + self._batch_events
        while position.cursor < min(log.top, last) and not outlet.full:
            if position.cursor + 1 < log.first:
                self._pass_evicted(outlet)
                continue
            stop = min(log.top, last)
            if losses is not None and losses.holes:
                ahead = losses.holes[0].start
                if ahead <= position.cursor + 1:
                    self._pass_hole(outlet, losses)
                    continue
                stop = min(stop, ahead - 1)
            start = position.cursor + 1
            track, stop = log.stretch(start, stop)
            if position.track is not None and track is not position.track:
                position.cursor = stop
                continue
            count = outlet.take(track, start, stop)
            if count:
                position.take(start + count - 1, count, log.weight(start, start + count - 1))
            elif not outlet.full and self._offer_personal(outlet, track, start):
                position.take(start, 1, log.weight(start, start))

    def _offer_personal(self, outlet: Outlet[T], track: Track, seq: int) -> bool:
        event = self._position.log.event(seq)
        statistics = self._asides.statistics()
        parts: list[Event] = []
        # The last progress stands before the summary, in a replay too.
        progress = None
        if isinstance(event, Summary):
            progress = self._asides.last_progress(track, statistics)
            statistics = attrs.evolve(statistics, ttfb_ms=self._ttfb_ms(track.request_id))
        if progress is not None:
            parts.append(progress)
        parts.append(personal_event(event, self._spec, self._limits, statistics))
        if not outlet.offer(parts, track):
            return False
        if self.first_bytes is not None:
            if isinstance(event, Metadata):
                self.first_bytes.note_opened(track.request_id, trio.current_time())
            elif isinstance(event, Summary):
                self.first_bytes.forget(track.request_id)
        if isinstance(event, Summary):
            self._asides.note_summary(track, told=progress is not None)
            self._step_track = self._step_encoder = None
        return True

    def _ttfb_ms(self, request_id: str) -> float | None:
        """Of a run that was asked for on this connection its own, else that of the connection."""
        vitals, asked_at = self._position.vitals, self._spec.requested_at
        seconds = self.first_bytes.seconds(request_id) if self.first_bytes else None
        if seconds is None and vitals.ttfb_ms is None and asked_at is not None:
            seconds = trio.current_time() - asked_at  # this batch is the first
        return vitals.ttfb_ms if seconds is None else seconds * 1000

    # --- What is lost to this reader --------------------------------------------------------------

    def _overflow(self, losses: Losses) -> None:
        """Decide what a lossy reader loses: what came since it attached, beyond its window."""
        position = self._position
        excess = position.excess(losses)
        if excess <= 0:
            return
        if self._spec.strategy == "disconnect":
            capacity = position.vitals.window.capacity
            raise BufferOverflow(f"{excess} events more than the window of {capacity} were waiting")
        after = max(position.cursor, position.attached_top)
        oldest = self._spec.strategy == "drop_oldest"
        self._note_dropped(losses.drop(after, excess, oldest=oldest))

    def _pass_hole(self, outlet: Outlet[T], losses: Losses) -> None:
        hole = losses.holes[0]
        gap = gap_event(hole.start, hole.end, epoch_changed=False)
        if outlet.offer([gap], None):
            losses.take()
            position = self._position
            position.skip(hole.end, position.log.counted(position.flow, hole.end))

    def _pass_evicted(self, outlet: Outlet[T]) -> None:
        """The log has forgotten what comes next: say so, and go on with what it kept."""
        position = self._position
        last = position.log.first - 1
        counted = position.log.counted(position.flow, last)
        lost = counted[0] - position.taken[0]
        gap = gap_event(position.cursor + 1, last, epoch_changed=False)
        if lost and not outlet.offer([gap], None):
            return
        if position.losses is not None:
            lost -= position.losses.forget(last)
        position.skip(last, counted)
        self._note_dropped(lost)

    def _note_dropped(self, events: int) -> None:
        if events > 0:
            self._position.vitals.note_dropped(events)
            self._census.dropped(events)

    # --- What was written -------------------------------------------------------------------------

    def count(self, events: int, nbytes: int) -> None:
        """So much was given to the reader."""
        vitals = self._position.vitals
        vitals.messages_sent += events
        vitals.bytes_sent += nbytes
        self._census.sent(self._spec.protocol, events, nbytes)

    def note_written(self, events: int, nbytes: int, seconds: float) -> None:
        """The batch was written in so many seconds."""
        self._position.vitals.note_write(seconds)
        self.count(events, nbytes)
        self._asides.last_activity = trio.current_time()
