"""`Archive`: the events of a log that are kept, and their encoded forms.

Encoded forms are made at the first read and kept beside the event, one row per `Encoder`, so that
an event is encoded once per kind of reader, whatever their number.

What an only reader has taken is kept as the very bytes that were written to it, where events can be
read back from them: one object for a batch instead of dozens for each event, which then are made
anew in memory that is still in the cache. That reader costs 0.3 us an event less.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, repeat, takewhile, zip_longest
from typing import Final

from msgspec import UNSET, Struct

from eventmesh_trio.abc import Encoder
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.wire.events import PERSONAL, Event, Result, SearchResult, SearchResults

__all__ = ["Archive", "fitting", "weigh"]

_BASE_WEIGHT: Final = 1024
_LINK_WEIGHT: Final = 128
_LEAST_SWELLING: Final = 0.5
"""Encoded bytes for each byte of weight, before the first batch has told."""


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


class _Frozen(Struct, frozen=True, gc=False):
    """Events as the bytes that their only reader was written, from sequence number ``first`` on."""

    encoder: Encoder
    data: bytes
    first: int


class Archive:
    """Events by sequence number, from ``first`` on; each with its weight and its run.

    ``kept_bytes``: the weight of all of them, and their encoded forms.
    """

    def __init__(self) -> None:
        self.kept_bytes = 0
        # Parallel: of each sequence number from ``first`` on the event, its weight and its run.
        self._first = 1
        self._events: list[Event | _Frozen] = []
        self._frozen_to = 0  # no later event is frozen
        self._weights: list[int] = []
        self._owners: list[Track] = []
        self._rows: dict[Encoder, list[bytes | None]] = {}
        self._personal: list[int] = []  # sequence numbers of the `PERSONAL` ones
        self._swellings: dict[Encoder, float] = {}  # encoded bytes for each of weight, lately

    @property
    def first(self) -> int:
        """The oldest sequence number that is kept; of an empty archive that of the next event."""
        return self._first

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
        return self._thawed(seq, seq)[0]

    def _thawed(self, start: int, stop: int) -> list[Event]:
        """The events from ``start`` to ``stop``, read back from bytes where need be."""
        low, high = start - self._first, stop + 1 - self._first
        if start <= self._frozen_to:
            at = low
            while at < high:
                block = self._events[at]
                at += 1
                if isinstance(block, _Frozen):
                    evicted = max(0, self._first - block.first)
                    events = block.encoder.decode_batch(block.data)[evicted:]
                    begin = block.first + evicted - self._first
                    at = begin + len(events)
                    self._events[begin:at] = events
        return self._events[low:high]  # type: ignore[return-value]  # nothing frozen is left

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
        stop = self._plain_until(start, stop)
        low, high = start - self._first, stop + 1 - self._first
        if low == high:
            return b"", 0, 0, False
        # What will fit is known when it is encoded; the last batch tells about how much to try.
        swelling = self._swellings.get(encoder, _LEAST_SWELLING)
        likely = self._weights[low : min(high, low + int(room / swelling) // _BASE_WEIGHT + 1)]
        high = low + max(1, bisect_right(list(accumulate(likely)), room / swelling))
        batch = encoder.encode_batch(self._thawed(start, high + self._first - 1), room)
        data, taken = batch.data, batch.taken
        if len(data) > room and not must:
            return b"", 0, 0, True
        if data:
            self._swellings[encoder] = len(data) / sum(self._weights[low : low + taken])
        if batch.restores:
            self._events[low : low + taken] = [_Frozen(encoder, data, start)] * taken
            self._frozen_to = max(self._frozen_to, start + taken - 1)
        return data, taken, batch.shown, start + taken <= stop

    def _plain_until(self, start: int, stop: int) -> int:
        """The last sequence number before the first that differs by reader, at most ``stop``."""
        index = bisect_left(self._personal, start)
        personal = self._personal[index] if index < len(self._personal) else stop + 1
        return min(stop, personal - 1)

    def _encode_missing(
        self,
        encoder: Encoder,
        row: list[bytes | None],
        low: int,
        part: Sequence[bytes | None],
        room: int,
    ) -> Sequence[bytes]:
        pieces: list[bytes] = []
        used = made = 0
        encode = encoder.encode
        start = self._first + low
        for piece, event in zip(part, self._thawed(start, start + len(part) - 1), strict=True):
            if piece is None:
                if isinstance(event, PERSONAL):
                    break
                piece = encode(event)  # noqa: PLW2901
                made += len(piece)
            pieces.append(piece)
            used += len(piece)
            if used > room:
                break
        row[low : low + len(pieces)] = pieces
        self.kept_bytes += made
        return pieces

    def _evict(self, floor: int, excess: int) -> bool:
        """Forget the oldest events, none behind ``floor`` and at most ``excess`` bytes of them."""
        sizes: Iterable[int] = islice(self._weights, max(0, floor + 1 - self._first))
        rows = [row for row in self._rows.values() if row]
        if rows:
            forms = zip_longest(*rows, fillvalue=None)
            sizes = (
                size + sum(map(len, filter(None, made)))
                for size, made in zip(sizes, chain(forms, repeat(())), strict=False)
            )
        ends = list(takewhile(lambda end: end <= excess, accumulate(sizes)))
        if not ends:
            return False
        count = len(ends)
        self.kept_bytes -= ends[-1]
        self._first += count
        del self._events[:count], self._weights[:count], self._owners[:count]
        del self._personal[: bisect_left(self._personal, self._first)]
        for row in rows:
            del row[:count]
        return True


def fitting(pieces: Sequence[bytes], room: int) -> tuple[int, int]:
    """How many of ``pieces`` fit into ``room`` bytes, and their bytes together."""
    total = sum(map(len, pieces))
    if total <= room:
        return len(pieces), total
    ends = list(accumulate(map(len, pieces)))
    count = bisect_right(ends, room)
    return count, ends[count - 1] if count else 0
