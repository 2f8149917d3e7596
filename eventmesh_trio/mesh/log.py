"""`EventLog`: what was said in a session, in order, and who may still want it.

Events of all runs of a session stand in one log, each under ``<epoch>-<seq>``. Readers are
cursors into it: none has a channel, and one that stands still costs the others nothing. Appending
is synchronous and O(1).

Everything here is synchronous: between two checkpoints of its caller the log stands still.
"""

from collections.abc import Callable

import trio
from msgspec import UNSET
from msgspec.structs import force_setattr

from eventmesh_trio.errors import SubscriberLagged
from eventmesh_trio.mesh.archive import Archive, weigh
from eventmesh_trio.mesh.budget import STEP_BYTES, MemoryBudget
from eventmesh_trio.mesh.flow import Flow, Place, Reader, Sleeper, Track
from eventmesh_trio.wire.events import PERSONAL, Event, Progress, Result, stamp

__all__ = ["EventLog"]


class EventLog(Archive):
    """The log of one session.

    Args:
      epoch: names this log in its ids; no "-" in it.
      replay_bytes: kept behind the end at least, `weigh`ed events and encoded forms together.
      max_pinned_bytes: what is kept beyond that for a reader of one run while others grow the log.
      budget: what all logs share; None: this one has no limit but its own.
    """

    def __init__(
        self,
        epoch: str,
        *,
        replay_bytes: int,
        max_pinned_bytes: int,
        budget: MemoryBudget | None = None,
    ) -> None:
        super().__init__()
        self.epoch = epoch
        self._id_prefix = f"{epoch}-"
        self.flow = Flow()
        self.live_tracks: dict[Track, None] = {}
        self.sleepers: dict[Sleeper, None] = {}
        self.room = trio.lowlevel.ParkingLot()
        """Where publishers wait; all look again when any window has moved."""
        self.readers = 0
        """Attached readers that follow all runs; those of one run are its track's."""
        self.closed = False
        self.budget = budget or MemoryBudget()
        self._charged_bytes = 0  # what the budget knows of
        self._replay_bytes = replay_bytes
        self._max_pinned_bytes = max_pinned_bytes
        self._trim_at = replay_bytes
        self._look_at = min(replay_bytes, STEP_BYTES)
        self._places: dict[Place, None] = {}

    # --- Writing ------------------------------------------------------------------------------

    @property
    def top(self) -> int:
        """The newest sequence number; 0 before the first event."""
        return self.flow.events

    def id_of(self, seq: int) -> str:
        return f"{self._id_prefix}{seq}"

    def open_track(self, request_id: str, progress: Callable[[], Progress | None]) -> Track:
        """Begin a run's part of the log."""
        track = Track(request_id, progress)
        self.live_tracks[track] = None
        return track

    def append(self, track: Track, event: Event) -> int:
        """Add a run's event and wake who waits; its sequence number. Never waits or fails."""
        weight = weigh(event)
        flow = self.flow
        flow.events = seq = flow.events + 1
        flow.nbytes = total = flow.nbytes + weight
        track.events += 1
        track.nbytes += weight
        if type(event) is Result and track.first_result_seq:
            track.version += 1
        else:
            self._note_kind(track, event, seq)
        if event.id is UNSET:  # `stamp`, but for one call in 20
            force_setattr(event, "id", f"{self._id_prefix}{seq}")
        else:
            event = stamp(event, f"{self._id_prefix}{seq}")
        self._events.append(event)
        self._totals.append(total)
        if track is not self._writer:
            self._note_turn(track, seq)
        if self.sleepers:
            self.wake_all()
        if total > self._look_at:
            self._look(track)
        return seq

    def _note_kind(self, track: Track, event: Event, seq: int) -> None:
        """What all but a run's further results, which are nearly all events, are noted for."""
        if not track.first_seq:
            track.first_seq = seq
        if isinstance(event, Result):
            track.version += 1
            track.first_result_seq = track.first_result_seq or seq
        elif isinstance(event, PERSONAL):
            self._personal.append(seq)

    def close_track(self, track: Track) -> None:
        """A run has ended: nothing of it follows. Readers that wait only for its end find it."""
        track.live = False
        self.live_tracks.pop(track, None)
        self.wake_all()

    def close(self) -> None:
        """Nothing follows at all: readers end when they have read everything."""
        self.closed = True
        self.wake_all()
        self.room.unpark_all()

    def wake_all(self) -> None:
        sleepers, self.sleepers = self.sleepers, {}
        for sleeper in sleepers:
            sleeper.wake()

    # --- Places and room ------------------------------------------------------------------------

    def has_room(self, track: Track) -> bool:
        """Whether every lossless reader of ``track`` can take one more event."""
        if self.budget.exceeded and self.blocking(track):
            return False
        return track.has_room and self.flow.has_room

    def blocking(self, track: Track) -> list[Place]:
        """The places that leave ``track`` no room: full ones; if memory is short unread ones."""
        short = self.budget.exceeded
        places = [place for flow in (track, self.flow) for place in flow.places]
        return [place for place in places if place.full or (short and place.pending)]

    async def wait_room(self, deadline: float) -> None:
        """Wait until there may be room, or until ``deadline``."""
        with trio.CancelScope(deadline=deadline):
            if self.budget.exceeded:
                self.budget.waiting[self.room] = None
            await self.room.park()

    def add_place(
        self, flow: Flow, seq: int, *, capacity: int, window_bytes: int, owner: Reader | None
    ) -> Place:
        """Hold back ``flow``'s runs, and keep what follows ``seq``, for a lossless reader."""
        place = Place(flow, seq, self.counted(flow, seq), capacity, window_bytes)
        place.owner = owner
        flow.add(place)
        self._places[place] = None
        return place

    def move_place(self, place: Place, seq: int, events: int, nbytes: int) -> None:
        """The reader has read up to ``seq``: that is ``events`` and ``nbytes`` of its flow."""
        if seq == place.seq:
            return
        flow = place.flow
        freed = flow.frees(place)
        place.seq, place.events, place.nbytes = seq, events, nbytes
        place.blocked_since = None
        if self.room:
            if freed:
                flow.relimit()
            # Not for a little room: a publisher that wakes for each batch costs its reader a tenth
            # of the time. So who made the room may have had too little yet, and has passed the
            # next reader meanwhile: whoever is eased looks.
            if flow.has_room and place.eased:
                self.room.unpark_all()
        elif freed:
            flow.stale = True
        if self.budget.exceeded:
            self.shrink()
            if not place.pending:
                self.room.unpark_all()

    def resize_place(self, place: Place, capacity: int) -> None:
        """Let the reader lag by another number of events."""
        place.capacity = capacity
        self._relimit(place.flow)

    def drop_place(self, place: Place) -> None:
        """Neither wait for the reader any more nor keep anything for it. Idempotent."""
        if self._places.pop(place, place) is None:
            freed = place.flow.frees(place)
            del place.flow.places[place]
            if freed and self.room:
                self._relimit(place.flow)
            elif freed:
                place.flow.stale = True
            if self.kept_bytes > self._kept_for_replay:
                self._trim()

    def _relimit(self, flow: Flow) -> None:
        flow.relimit()
        if self.room and flow.has_room:
            self.room.unpark_all()

    def counted(self, flow: Flow, seq: int) -> tuple[int, int]:
        """How many events and bytes of ``flow`` stand up to ``seq``; O(what follows it)."""
        seq = min(max(seq, self._first - 1), self.top)
        if isinstance(flow, Track):
            events = nbytes = 0
            while seq < self.top:
                track, stop = self.stretch(seq + 1, self.top)
                if track is flow:
                    events += stop - seq
                    nbytes += self.weight(seq + 1, stop)
                seq = stop
            return flow.events - events, flow.nbytes - nbytes
        return seq, self._total(seq)

    # --- Forgetting -----------------------------------------------------------------------------

    @property
    def _kept_for_replay(self) -> int:
        return 0 if self.budget.exceeded else self._replay_bytes

    def _look(self, track: Track) -> None:
        """Charge the budget with what came; evict what may go; encode what fills a batch."""
        # A reader that may lose events would find batches that are made only in part its own.
        if self._press is not None and self.readers + track.readers == 1 == len(self._places):
            self._make_batches(self._press)
        kept_bytes = self.kept_bytes
        if kept_bytes > self._trim_at:
            self._trim()
            kept_bytes = self.kept_bytes
        self._charge(kept_bytes)

    def _charge(self, nbytes: int) -> None:
        change, self._charged_bytes = nbytes - self._charged_bytes, nbytes
        look_at = min(self._trim_at, nbytes + STEP_BYTES)  # of what is kept
        self._look_at = look_at + self._forgotten_bytes - self._form_bytes
        self.budget.change(change)

    def recount(self) -> None:
        """A reader has gone: charge what was encoded for it since the last event, or evict."""
        if self.kept_bytes > self._trim_at:
            self._trim()
        if self._charged_bytes:
            self._charge(self.kept_bytes)

    def release(self) -> None:
        """The session is forgotten: the budget counts it no more (if it is used again, it does)."""
        self._charge(0)

    def shrink(self) -> None:
        """Memory is short: keep nothing for replay but what a place holds."""
        self.shares.clear()
        if self.kept_bytes > self._kept_for_replay:
            self._trim()

    def _trim(self) -> None:
        """Evict what lies behind every place and more than ``replay_bytes`` behind the end."""
        self._forget(min((place.seq for place in self._places), default=self.top))
        if self.kept_bytes > self._replay_bytes + self._max_pinned_bytes:
            self._unpin()
        # Not again for every event, but when a good part of it is new.
        self._trim_at = max(self.kept_bytes, self._replay_bytes) + self._replay_bytes // 8

    def _forget(self, floor: int) -> None:
        if self._evict(floor, self.kept_bytes - self._kept_for_replay) and self._charged_bytes:
            self._charge(self.kept_bytes)

    def _unpin(self) -> None:
        # Who follows the whole log holds its runs back, and so never pins more than its window.
        # Who follows one run does not hold back the others: it may pin this much of them.
        for place in sorted(self._places, key=lambda place: place.seq):
            if place.flow is self.flow:
                continue
            if self.kept_bytes <= self._replay_bytes + self._max_pinned_bytes:
                return
            owner = place.owner
            # Here and not by `drop_place`, which would come back to this.
            del self._places[place], place.flow.places[place]
            self._relimit(place.flow)
            if owner is not None:
                owner.cut_off(
                    SubscriberLagged("the session's other runs went too far ahead of this reader")
                )
            self._forget(min((place.seq for place in self._places), default=self.top))
