"""`EventLog`: what was said in a session, in order, and who may still want it.

Events of all runs of a session stand in one log, each under ``<epoch>-<seq>``. Readers are
cursors into it: none has a channel, and one that stands still costs the others nothing. Appending
is synchronous and O(1). Encoded forms are made at the first read and kept beside the event, one
row per `Encoder`, so that an event is encoded once per kind of reader.

Everything here is synchronous: between two checkpoints of its caller the log stands still.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final

import trio
from msgspec import UNSET

from eventmesh_trio.abc import Encoder
from eventmesh_trio.errors import SubscriberLagged
from eventmesh_trio.mesh.flow import Flow, Place, Sleeper, Track
from eventmesh_trio.wire.events import (
    PERSONAL,
    Event,
    Progress,
    Result,
    SearchResult,
    SearchResults,
    stamp,
)

__all__ = ["EventLog", "fitting", "weigh"]

_BASE_WEIGHT: Final = 1024
_LINK_WEIGHT: Final = 128


def weigh(event: Event) -> int:
    """Estimate the bytes of an event by the lengths of its main texts; O(1)."""
    if isinstance(event, Result):
        page = event.result
        document = None if page is UNSET else page.document
        if document is None:
            return _BASE_WEIGHT
        html = 0 if document.html is UNSET else len(document.html)
        links = len(document.links) + len(document.images)
        texts = len(document.text) + len(document.markdown)
        return _BASE_WEIGHT + texts + html + links * _LINK_WEIGHT
    if isinstance(event, SearchResult) and event.content is not None:
        return _BASE_WEIGHT + len(event.content.markdown)
    if isinstance(event, SearchResults):
        return _BASE_WEIGHT + 4 * _LINK_WEIGHT * len(event.results)
    return _BASE_WEIGHT


class EventLog:
    """The log of one session.

    Args:
      epoch: names this log in its ids; no "-" in it.
      replay_bytes: kept behind the end at least, `weigh`ed events and encoded forms together.
      max_pinned_bytes: what is kept beyond that for a reader of one run while others grow the log.
    """

    def __init__(self, epoch: str, *, replay_bytes: int, max_pinned_bytes: int) -> None:
        self.epoch = epoch
        self.flow = Flow()
        self.live_tracks: dict[Track, None] = {}
        self.sleepers: dict[Sleeper, None] = {}
        self.room = trio.lowlevel.ParkingLot()
        """Where publishers wait; all look again when any window has moved."""
        self.readers = 0
        """Attached readers that follow all runs; those of one run are its track's."""
        self.kept_bytes = 0
        self.closed = False
        self._replay_bytes = replay_bytes
        self._max_pinned_bytes = max_pinned_bytes
        self._trim_at = replay_bytes
        self._places: dict[Place, None] = {}
        # Parallel: of each sequence number from ``first`` on the event, its weight, its size (the
        # weight and its encoded forms), and its run.
        self._first = 1
        self._events: list[Event] = []
        self._weights: list[int] = []
        self._sizes: list[int] = []
        self._owners: list[Track] = []
        self._rows: dict[Encoder, list[bytes | None]] = {}

    # --- Writing ------------------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The oldest sequence number that is kept (``top + 1`` where nothing is)."""
        return self._first

    @property
    def top(self) -> int:
        """The newest sequence number; 0 before the first event."""
        return self.flow.events

    def id_of(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"

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
        flow.nbytes += weight
        track.events += 1
        track.nbytes += weight
        if not track.first_seq:
            track.first_seq = seq
        if isinstance(event, Result):
            track.version += 1
            if not track.first_result_seq:
                track.first_result_seq = seq
        self._events.append(stamp(event, f"{self.epoch}-{seq}"))
        self._weights.append(weight)
        self._sizes.append(weight)
        self._owners.append(track)
        self.kept_bytes += weight
        if self.sleepers:
            self.wake_all()
        if self.kept_bytes > self._trim_at:
            self._trim()
        return seq

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
        flow = self.flow
        return (  # `Flow.has_room` of both, spelt out: asked before every event
            track.events < track.limit_events
            and track.nbytes < track.limit_bytes
            and flow.events < flow.limit_events
            and flow.nbytes < flow.limit_bytes
        )

    def blocking(self, track: Track) -> list[Place]:
        """The places that leave ``track`` no room."""
        return [place for flow in (track, self.flow) for place in flow.places if place.full]

    def add_place(
        self, flow: Flow, seq: int, *, capacity: int, window_bytes: int, owner: Sleeper | None
    ) -> Place:
        """Hold back ``flow``'s runs, and keep what follows ``seq``, for a lossless reader."""
        place = Place(flow, seq, self.counted(flow, seq), capacity, window_bytes)
        place.owner = owner
        flow.places[place] = None
        self._places[place] = None
        flow.relimit()
        return place

    def move_place(self, place: Place, seq: int, events: int, nbytes: int) -> None:
        """The reader has read up to ``seq``: that is ``events`` and ``nbytes`` of its flow."""
        if seq == place.seq:
            return
        limiting = place.flow.is_limited_by(place)
        place.seq, place.events, place.nbytes = seq, events, nbytes
        place.blocked_since = None
        if limiting:
            self._relimit(place.flow)

    def resize_place(self, place: Place, capacity: int) -> None:
        """Let the reader lag by another number of events."""
        place.capacity = capacity
        self._relimit(place.flow)

    def drop_place(self, place: Place) -> None:
        """Neither wait for the reader any more nor keep anything for it. Idempotent."""
        if self._places.pop(place, place) is None:
            del place.flow.places[place]
            self._relimit(place.flow)
            if self.kept_bytes > self._replay_bytes:
                self._trim()

    def _relimit(self, flow: Flow) -> None:
        flow.relimit()
        if self.room and flow.has_room:
            self.room.unpark_all()

    def counted(self, flow: Flow, seq: int) -> tuple[int, int]:
        """How many events and bytes of ``flow`` stand up to ``seq``; O(what follows it)."""
        after = max(0, seq + 1 - self._first)
        if isinstance(flow, Track):
            mine = [
                weight
                for owner, weight in zip(self._owners[after:], self._weights[after:], strict=True)
                if owner is flow
            ]
            return flow.events - len(mine), flow.nbytes - sum(mine)
        weights = self._weights[after:]
        return flow.events - len(weights), flow.nbytes - sum(weights)

    # --- Reading ------------------------------------------------------------------------------

    def stretch(self, start: int, stop: int) -> tuple[Track, int]:
        """Whose event ``start`` is, and up to where (at most ``stop``) all are of that run."""
        low, high = start - self._first, stop + 1 - self._first
        owners = self._owners[low:high]
        track = owners[0]
        # Counting is a loop in C; that of another run is rare and may cost more.
        if owners.count(track) == len(owners):
            return track, stop
        other = next(index for index, owner in enumerate(owners) if owner is not track)
        return track, start + other - 1

    def event(self, seq: int) -> Event:
        return self._events[seq - self._first]

    def owners(self, start: int, stop: int) -> Iterator[tuple[int, Track]]:
        """Sequence number and run of each event that is kept from ``start`` to ``stop``."""
        start = max(start, self._first)
        return zip(
            range(start, stop + 1),
            self._owners[start - self._first : stop + 1 - self._first],
            strict=True,
        )

    def weight(self, start: int, stop: int) -> int:
        """The shared bytes of the events from ``start`` to ``stop``."""
        return sum(self._weights[start - self._first : stop + 1 - self._first])

    def encoded(self, encoder: Encoder, start: int, stop: int, room: int) -> Sequence[bytes]:
        """The encoded events from ``start`` on: to ``stop``, or what fits into ``room`` bytes.

        Ends before the first event with members that differ by reader. What is returned may be one
        event more than fits: the bytes are known only when they are made.
        """
        low, high = start - self._first, stop + 1 - self._first
        row = self._rows.get(encoder)
        if row is None:
            row = self._rows[encoder] = []
        if len(row) < high:
            row.extend([None] * (high - len(row)))
        part = row[low:high]
        if None in part:
            return self._encode_missing(encoder, row, low, part, room)
        return part  # type: ignore[return-value]  # no None in it

    def joined(
        self, encoder: Encoder, start: int, stop: int, room: int, *, must: bool
    ) -> tuple[bytes, int, int, bool]:
        """As `encoded`, in one piece and kept for nobody: for the only reader of its events.

        With a piece for each event, kept beside it, one reader cost a quarter more (7.6 us).

        Args:
          must: take one event, however large.
        Returns:
          the bytes, the number of events taken, how many of them are in the bytes (an encoder may
          hide kinds of events), and whether the next did not fit.
        """
        buffer = bytearray()
        encode_into = encoder.encode_into
        taken = shown = end = 0
        for event in self._events[start - self._first : stop + 1 - self._first]:
            if isinstance(event, PERSONAL):
                break
            encode_into(buffer, event)
            if len(buffer) > room and (taken or not must):
                del buffer[end:]
                return bytes(buffer), taken, shown, True
            taken += 1
            shown += len(buffer) > end
            end = len(buffer)
        return bytes(buffer), taken, shown, False

    def _encode_missing(
        self,
        encoder: Encoder,
        row: list[bytes | None],
        low: int,
        part: Sequence[bytes | None],
        room: int,
    ) -> Sequence[bytes]:
        pieces: list[bytes] = []
        sizes: list[int] = []
        used = made = 0
        encode = encoder.encode
        high = low + len(part)
        for piece, event, size in zip(
            part, self._events[low:high], self._sizes[low:high], strict=True
        ):
            if piece is None:
                if isinstance(event, PERSONAL):
                    break
                piece = encode(event)  # noqa: PLW2901
                nbytes = len(piece)
                size += nbytes  # noqa: PLW2901
                made += nbytes
            pieces.append(piece)
            sizes.append(size)
            used += len(piece)
            if used > room:
                break
        high = low + len(pieces)
        row[low:high] = pieces
        self._sizes[low:high] = sizes
        self.kept_bytes += made
        return pieces

    # --- Forgetting -----------------------------------------------------------------------------

    def _trim(self) -> None:
        """Evict what lies behind every place and more than ``replay_bytes`` behind the end."""
        self._forget(min((place.seq for place in self._places), default=self.top))
        if self.kept_bytes > self._replay_bytes + self._max_pinned_bytes:
            self._unpin()
        # Not again for every event, but when a good part of it is new.
        self._trim_at = max(self.kept_bytes, self._replay_bytes) + self._replay_bytes // 8

    def _forget(self, floor: int) -> None:
        excess = self.kept_bytes - self._replay_bytes
        count = freed = 0
        for size in islice(self._sizes, max(0, floor + 1 - self._first)):
            if freed + size > excess:
                break
            freed += size
            count += 1
        if not count:
            return
        self.kept_bytes -= freed
        self._first += count
        del self._events[:count], self._weights[:count], self._sizes[:count], self._owners[:count]
        for row in self._rows.values():
            del row[:count]

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


def fitting(pieces: Sequence[bytes], room: int) -> tuple[int, int]:
    """How many of ``pieces`` fit into ``room`` bytes, and their bytes together."""
    total = sum(map(len, pieces))
    if total <= room:
        return len(pieces), total
    ends = list(accumulate(map(len, pieces)))
    count = bisect_right(ends, room)
    return count, ends[count - 1] if count else 0
