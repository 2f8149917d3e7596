"""`Archive`: the events of a log that are kept, and their encoded forms.

Encoded forms are made at the first read and kept beside the event, one row per `Encoder`, so that
an event is encoded once per kind of reader, whatever their number.

What an only reader has taken is kept as the very bytes that were written to it, where events are
small and can be read back from them: one object for a batch instead of dozens for each event, which
then are made anew in memory that is still in the cache. That reader costs 0.3 us an event less.
Where it takes full batches, the next ones are made like that as soon as they are full, before it
asks for them; it is handed as many of them at once as its socket takes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, zip_longest
from typing import Final

from msgspec import UNSET, Struct

from eventmesh_trio.abc import Encoder
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.reader import Batch
from eventmesh_trio.mesh.shares import Shares, Step
from eventmesh_trio.wire.encoders import EncodedBatch
from eventmesh_trio.wire.events import PERSONAL, Event, Result, SearchResult, SearchResults

__all__ = ["Archive", "fitting", "weigh"]

_BASE_WEIGHT: Final = 1024
_LINK_WEIGHT: Final = 128
_LEAST_SWELLING: Final = 0.5
"""Encoded bytes for each byte of weight, before the first batch has told."""
_MOST_FROZEN_BYTES: Final = 4096
"""Of an event that is kept as its encoded bytes. A larger one is text for the most part, which is
there already: to keep it anew in memory that is cold was 3 us of 20 KB."""


def weigh(event: Event) -> int:
    """Estimate the bytes of an event by the lengths of its main texts; O(1)."""
    if isinstance(event, Result):
        page = event.result
        if page is UNSET or (document := page.document) is None:
            return _BASE_WEIGHT
        weight = _BASE_WEIGHT + len(document.text) + len(document.markdown)
        if document.links or document.images:
            weight += (len(document.links) + len(document.images)) * _LINK_WEIGHT
        if document.html is not UNSET:
            weight += len(document.html)
        return weight
    if isinstance(event, SearchResult) and event.content is not None:
        return _BASE_WEIGHT + len(event.content.markdown)
    if isinstance(event, SearchResults):
        return _BASE_WEIGHT + 4 * _LINK_WEIGHT * len(event.results)
    return _BASE_WEIGHT


class _Frozen(Struct, frozen=True, gc=False):
    """So many events as the bytes that are written to their only reader, from ``first`` on."""

    encoder: Encoder
    data: bytes
    first: int
    count: int


def _is_kept(batch: EncodedBatch) -> bool:
    """Whether a batch stands for its events from now on."""
    return batch.restores and len(batch.data) < _MOST_FROZEN_BYTES * batch.taken


class _Press(Struct, gc=False):
    """How the only reader of a run takes its batches, and from where on none is made yet."""

    encoder: Encoder
    room: int
    start: int


class Archive:
    """Events by sequence number, from ``first`` on; each with its weight and its run.

    Weights are kept as running totals, and runs as where each takes its turn: what many events
    weigh, and whose they are, is a search and no sum; and an event costs 0.1 us less.
    """

    def __init__(self) -> None:
        # Of each sequence number from ``first`` on: the event, and the weight of all up to it.
        self._first = 1
        self._events: list[Event | _Frozen] = []
        self._totals: list[int] = []
        self._frozen_to = 0  # no later event is frozen
        # Who wrote from which sequence number on, up to the next; the last one is the writer.
        self._turns: list[int] = []
        self._writers: list[Track] = []
        self._writer: Track | None = None
        self._rows: dict[Encoder, list[bytes | None]] = {}
        self.shares = Shares()
        self._personal: list[int] = []  # sequence numbers of the `PERSONAL` ones
        self._press: _Press | None = None
        self._swelling = _LEAST_SWELLING  # encoded bytes for each of weight, in the last batch
        self._forgotten_bytes = 0  # the weight of all before ``first``
        self._form_bytes = 0  # of encoded forms
        self._look_at = 0  # the log looks at what is kept when an event takes the total above this

    @property
    def first(self) -> int:
        """The oldest sequence number that is kept; of an empty archive that of the next event."""
        return self._first

    @property
    def kept_bytes(self) -> int:
        """The weight of all events, and their encoded forms, shared batches included."""
        newest = self._totals[-1] if self._totals else self._forgotten_bytes
        return newest - self._forgotten_bytes + self._form_bytes + self.shares.nbytes

    def _note_turn(self, track: Track, seq: int) -> None:
        """From here on ``track`` writes."""
        self._press = None  # another run may be encoded in another way
        self._writer = track
        self._turns.append(seq)
        self._writers.append(track)

    def stretch(self, start: int, stop: int) -> tuple[Track, int]:
        """Whose event ``start`` is, and up to where (at most ``stop``) all are of that run."""
        turn = bisect_right(self._turns, start)
        track = self._writers[turn - 1]
        return track, min(stop, self._turns[turn] - 1) if turn < len(self._turns) else stop

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
        seq = max(start, self._first)
        while seq <= stop:
            track, end = self.stretch(seq, stop)
            for mine in range(seq, end + 1):
                yield mine, track
            seq = end + 1

    def weight(self, start: int, stop: int) -> int:
        """The shared bytes of the events from ``start`` to ``stop``."""
        return self._total(stop) - self._total(start - 1)

    def _total(self, seq: int) -> int:
        """The weight of all events up to ``seq``, which is kept or the last that was not."""
        return self._totals[seq - self._first] if seq >= self._first else self._forgotten_bytes

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
        if start > stop:
            return b"", 0, 0, False
        if not must and self.weight(start, start) > room:
            return b"", 0, 0, True  # and is not encoded to find that out
        batch = self._made(encoder, start, stop, room, must=must)
        if batch is not None:
            fits = must or len(batch.data) <= room
        else:
            batch = self._encode_batch(encoder, start, stop, room)
            fits = must or len(batch.data) <= room
            if fits and _is_kept(batch):
                self._freeze(encoder, start, batch)
        if not fits:
            return b"", 0, 0, True
        follows = start + batch.taken
        press = self._press
        if not _is_kept(batch) or start < self._turns[-1]:  # behind them another run writes
            self._press = None
        elif press is not None and press.encoder == encoder:
            press.start = max(press.start, follows)
        else:
            full = must and follows <= stop
            self._press = _Press(encoder, room, follows) if full else None
        return batch.data, batch.taken, batch.shown, follows <= stop

    def next_step(
        self, encoder: Encoder, start: int, most: int, room: int, on_top: Callable[[], int]
    ) -> Step | None:
        """What begins there: a batch as another reader took it, or what was made ahead for one.

        Args:
          most: how many events it may have, and ``room`` how many bytes.
          on_top: how many bytes more it may have; asked only where that would help.
        """
        if self.shares.steps:
            step = self.shares.steps.get((encoder, start))
            if step is not None:
                nbytes = step.batch.nbytes
                fits = nbytes <= room or nbytes <= room + on_top()
                return step if fits and step.taken <= most else None
        press = self._press
        if press is None or not max(self._first, self._turns[-1]) <= start < press.start:
            return None
        pieces: list[bytes] = []
        nbytes, follows = 0, start
        while follows < press.start:
            block = self._events[follows - self._first]
            if not isinstance(block, _Frozen) or block.first != follows:
                break
            if block.encoder is not encoder and block.encoder != encoder:
                break
            if len(pieces) == 1:
                room += on_top()
            if nbytes + len(block.data) > room or follows + block.count - start > most:
                break
            pieces.append(block.data)
            nbytes += len(block.data)
            follows += block.count
        if not pieces:
            return None
        weight = self.weight(start, follows - 1)
        batch = Batch(pieces, follows - start, nbytes)
        return Step(start, follows - start, weight, self._writers[-1], batch)

    def _made(
        self, encoder: Encoder, start: int, stop: int, room: int, *, must: bool
    ) -> EncodedBatch | None:
        """The batch that begins there, where it is kept as `joined` would make it."""
        block, press = self._events[start - self._first], self._press
        if not isinstance(block, _Frozen) or press is None:
            return None
        whole = block.first == start and start + block.count - 1 <= stop
        alike = block.encoder == encoder == press.encoder and room <= press.room
        # Where it asked for less than before, what is made is too much; one event never is.
        if whole and alike and (not must or len(block.data) <= room or block.count == 1):
            return EncodedBatch(block.data, block.count, block.count, restores=True)
        self._press = None
        return None

    def _make_batches(self, press: _Press) -> None:
        """Encode what the only reader will take, as soon as there is enough to fill its batch.

        With 20 streams all publish before any reads: what was just made is still in the cache here,
        and no longer when the reader's turn comes. An event costs 0.6 us less (SSE: 6.2).
        """
        newest = self._first + len(self._events) - 1
        while (
            self._first <= press.start <= newest
            and self.weight(press.start, newest) * self._swelling > press.room
            and self._plain_until(press.start, newest) == newest
        ):
            if self.weight(press.start, press.start) > press.room:
                self._press = None  # it will not be kept as its bytes, so nothing is gained
                return
            batch = self._encode_batch(press.encoder, press.start, newest, press.room)
            if not _is_kept(batch):
                self._press = None
                return
            self._freeze(press.encoder, press.start, batch)
            press.start += batch.taken

    def _encode_batch(self, encoder: Encoder, start: int, stop: int, room: int) -> EncodedBatch:
        """What fits of the events from ``start`` to ``stop``, at least one; none is personal."""
        low, high = start - self._first, stop + 1 - self._first
        # What will fit is known when it is encoded; the last batch tells about how much to try.
        before = self._total(start - 1)
        likely = bisect_right(self._totals, before + room / self._swelling, low, high)
        batch = encoder.encode_batch(
            self._thawed(start, max(start, likely + self._first - 1)), room
        )
        if batch.data:
            written = self._totals[low + batch.taken - 1] - before
            self._swelling = len(batch.data) / written
        return batch

    def _freeze(self, encoder: Encoder, start: int, batch: EncodedBatch) -> None:
        """Keep a batch instead of its events, of which ``start`` is the first."""
        low, taken = start - self._first, batch.taken
        self._events[low : low + taken] = [_Frozen(encoder, batch.data, start, taken)] * taken
        self._frozen_to = max(self._frozen_to, start + taken - 1)

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
        self._form_bytes += made
        self._look_at -= made
        return pieces

    def _evict(self, floor: int, excess: int) -> bool:
        """Forget the oldest events, none behind ``floor`` and at most ``excess`` bytes of them."""
        high = max(0, floor + 1 - self._first)
        count = bisect_right(self._totals, self._forgotten_bytes + excess, 0, high)
        rows = [row for row in self._rows.values() if row]
        freed = 0
        if rows:
            # With the forms of so many; fewer events where these take a part of the excess.
            forms = zip_longest(*(row[:count] for row in rows), fillvalue=None)
            sizes = [sum(map(len, filter(None, made))) for made in forms]
            sizes += [0] * (count - len(sizes))
            ends = [
                total - self._forgotten_bytes + size
                for total, size in zip(self._totals, accumulate(sizes), strict=False)
            ]
            count = bisect_right(ends, excess)
            freed = sum(sizes[:count])
        if not count:
            return False
        self._forgotten_bytes = self._totals[count - 1]
        self._form_bytes -= freed
        self._first += count
        del self._events[:count], self._totals[:count]
        del self._personal[: bisect_left(self._personal, self._first)]
        passed = bisect_right(self._turns, self._first) - 1  # the turn that goes on stays
        if passed > 0:
            del self._turns[:passed], self._writers[:passed]
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
