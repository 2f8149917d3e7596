"""Where a reader's next batch is put together: as encoded pieces for a writer, or as events.

An outlet holds at most ``room`` bytes, but always takes one thing, however large; what does not fit
is left where it is, and taken by the next batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from msgspec import UNSET

from eventmesh_trio.abc import Encoder
from eventmesh_trio.mesh.archive import fitting
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.shares import LEAST_SHARED, Share
from eventmesh_trio.wire.events import PERSONAL, Event

__all__ = ["EncodedOutlet", "EventOutlet", "Outlet"]

T = TypeVar("T")


class Outlet(ABC, Generic[T]):
    """What one batch is gathered into. ``full``: something did not fit, so take nothing more."""

    __slots__ = ("full", "items")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.full = False

    @abstractmethod
    def offer(self, events: Sequence[Event], track: Track | None) -> bool:
        """Take all of these events of one run (None: of no run), or none of them."""

    @abstractmethod
    def take(self, track: Track, start: int, stop: int) -> int:
        """Take a run's logged events from ``start`` to at most ``stop``; how many it took.

        It stops before one whose members differ by reader: 0 and not `full` means that one is next.
        """

    @abstractmethod
    def take_notices(self, notices: list[bytes]) -> None:
        """Take what fits of a connection's own messages off the queue's front."""


class EncodedOutlet(Outlet[bytes]):
    __slots__ = ("_encoder_for", "_log", "_room", "events", "nbytes", "sole")

    def __init__(
        self, log: EventLog, encoder_for: Callable[[Track | None], Encoder], room: int
    ) -> None:
        super().__init__()
        self._log = log
        self._encoder_for = encoder_for
        self._room = room
        self.nbytes = 0
        self.events = 0
        self.sole: tuple[int, int, Track, Encoder] | None = None
        """From where on, how many, whose and how encoded the events are, if it has nothing else."""

    def offer(self, events: Sequence[Event], track: Track | None) -> bool:
        encoder = self._encoder_for(track)
        pieces = [encoder.encode(event) for event in events]
        nbytes = sum(map(len, pieces))
        if self.items and self.nbytes + nbytes > self._room:
            self.full = True
            return False
        self._add(pieces, nbytes)
        self.sole = None
        return True

    def take(self, track: Track, start: int, stop: int) -> int:
        encoder = self._encoder_for(track)
        alone = not self.items
        count = self._take(track, encoder, start, stop)
        self.sole = (start, count, track, encoder) if alone else None
        return count

    def _take(self, track: Track, encoder: Encoder, start: int, stop: int) -> int:
        room = self._room - self.nbytes
        log = self._log
        if encoder.joins and log.readers + track.readers <= 1:
            must = not self.items
            data, count, shown, self.full = log.joined(encoder, start, stop, room, must=must)
            if data:
                self.items.append(data)
                self.nbytes += len(data)
                self.events += shown
            return count
        share = log.shares.find(encoder, start) if encoder.joins else None
        if share is not None and share.taken <= stop + 1 - start:
            if len(share.data) <= room:
                self._add_joined(share)
                return share.taken
            if self.items:  # the next batch begins where others' did
                self.full = True
                return 0
        pieces = log.encoded(encoder, start, stop, room)
        count, nbytes = fitting(pieces, room)
        if count < len(pieces):
            self.full = True
            if count == 0 and not self.items:
                count, nbytes = 1, len(pieces[0])
            pieces = pieces[:count]
        if encoder.joins and count >= LEAST_SHARED:
            shown = count if all(pieces) else sum(map(bool, pieces))
            share = Share(b"".join(pieces), count, shown)
            log.shares.keep(encoder, start, share)
            self._add_joined(share)
        else:
            self._add(pieces, nbytes)
        return count

    def _add_joined(self, share: Share) -> None:
        if share.data:
            self.items.append(share.data)
        self.events += share.shown
        self.nbytes += len(share.data)

    def take_notices(self, notices: list[bytes]) -> None:
        while notices and (not self.items or self.nbytes + len(notices[0]) <= self._room):
            notice = notices.pop(0)
            self._add((notice,), len(notice))
            self.sole = None
        self.full = self.full or bool(notices)

    def _add(self, pieces: Sequence[bytes], nbytes: int) -> None:
        # An encoder may have nothing to show for an event: its dialect does not know the kind.
        shown = pieces if all(pieces) else tuple(filter(None, pieces))
        self.items.extend(shown)
        self.events += len(shown)
        self.nbytes += nbytes


class EventOutlet(Outlet[Event]):
    """One logged event at a time, and what goes with it, as frozen events with their ids."""

    __slots__ = ("_log",)

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def offer(
        self,
        events: Sequence[Event],
        track: Track | None,  # noqa: ARG002  # events know it; only encoders differ by it
    ) -> bool:
        for event in events:
            self.items.append(event)
            self.full = self.full or event.id is not UNSET
        return True

    def take(self, track: Track, start: int, stop: int) -> int:  # noqa: ARG002  # one at a time
        event = self._log.event(start)
        if isinstance(event, PERSONAL):
            return 0
        return int(self.offer([event], track))

    def take_notices(self, notices: list[bytes]) -> None:
        """Notices are bytes for a connection's writer: they wait for `receive_batch`."""
