"""What passes through a log, counted: `Flow` and `Track`, and the `Place` of a lossless reader.

Room is a matter of counting: each lossless reader allows its flow to go on for so many events and
bytes behind what it has read for sure, and the slowest of them is the limit.
"""

from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from eventmesh_trio.errors import StreamingError
from eventmesh_trio.wire.events import Progress

__all__ = ["Flow", "Place", "Reader", "Sleeper", "Track"]

_WAKE_EVENTS: Final = 64  # a wait in so many is more than the 1 % at which a window grows
_APART_SECONDS: Final = 0.001  # at most, between the turns of two readers
_UNLIMITED: Final = 2**62
"""Events or bytes that no flow comes to. No `inf`: comparing an int to a float takes 0.03 us, and a
publisher compares four times an event."""


class Sleeper(Protocol):
    """Who waits for the log's next event, as the log sees it."""

    def wake(self) -> None: ...


class Reader(Sleeper, Protocol):
    """Who holds a place in the log, as the log sees it."""

    @property
    def patient(self) -> bool: ...

    def cut_off(self, error: StreamingError) -> None: ...


class Place:
    """How far a lossless reader has read for sure, which is what runs wait for.

    ``owner`` is None while the place is held for a client that left and may come back. Bytes are
    shared bytes (`weigh`); ``events`` and ``nbytes`` count within ``flow``.
    """

    __slots__ = (
        "blocked_since",
        "capacity",
        "events",
        "flow",
        "nbytes",
        "owner",
        "seq",
        "waits",
        "window_bytes",
    )

    def __init__(
        self, flow: "Flow", seq: int, counted: tuple[int, int], capacity: int, window_bytes: int
    ) -> None:
        self.flow = flow
        self.seq = seq
        self.events, self.nbytes = counted
        self.capacity = capacity
        self.window_bytes = window_bytes
        self.owner: Reader | None = None
        self.blocked_since: float | None = None  # since when a publisher has waited for it
        self.waits = 0  # events that had to wait for it

    @property
    def full(self) -> bool:
        """Whether the window is full; one with nothing pending never is, however large an event."""
        return (
            self.flow.events - self.events >= self.capacity
            or self.flow.nbytes - self.nbytes >= self.window_bytes
        )

    @property
    def pending(self) -> int:
        """Events that the reader has still to read."""
        return self.flow.events - self.events

    @property
    def eased(self) -> bool:
        """Whether there is room enough to wake a publisher: half of the window, or 64 events.

        Events are taken to be as large as those that wait; of 20 KB only half of the window is
        enough. To be woken for three of them at a time was an eighth of what each of them cost.
        """
        waiting = self.flow.events - self.events
        waiting_bytes = self.flow.nbytes - self.nbytes
        events = min(self.capacity / 2, _WAKE_EVENTS)
        if self.capacity - waiting < events:
            return False
        enough = min(self.window_bytes / 2, events * waiting_bytes / max(waiting, 1))
        return self.window_bytes - waiting_bytes >= enough


class Flow:
    """Events counted as they pass, and the room that lossless places leave for more.

    A log has one flow for all of its events, and one for each run (`Track`), so that who follows
    one run is judged by that run alone.
    """

    __slots__ = (
        "_at_limit_bytes",
        "_at_limit_events",
        "events",
        "limit_bytes",
        "limit_events",
        "nbytes",
        "places",
        "stale",
    )

    def __init__(self) -> None:
        self.events = 0
        self.nbytes = 0
        self.places: dict[Place, None] = {}
        self.limit_events = _UNLIMITED
        self.limit_bytes = _UNLIMITED
        self.stale = False
        """Whether the limits may be too low: `has_room` looks again before it says no."""
        self._at_limit_events = 0  # how many places stand at each
        self._at_limit_bytes = 0

    @property
    def has_room(self) -> bool:
        room = self.events < self.limit_events and self.nbytes < self.limit_bytes
        if room or not self.stale:
            return room
        self.relimit()
        return self.events < self.limit_events and self.nbytes < self.limit_bytes

    def relimit(self) -> None:
        """Find anew how far the slowest places let this flow go; O(places)."""
        self.stale = False
        events = nbytes = _UNLIMITED
        for place in self.places:
            events = min(events, place.events + place.capacity)
            nbytes = min(nbytes, place.nbytes + place.window_bytes)
        self.limit_events, self.limit_bytes = events, nbytes
        self._at_limit_events = self._at_limit_bytes = 0
        for place in self.places:
            self._at_limit_events += place.events + place.capacity == events
            self._at_limit_bytes += place.nbytes + place.window_bytes == nbytes

    def add(self, place: Place) -> None:
        """Be held back by a place more."""
        self.places[place] = None
        events, nbytes = place.events + place.capacity, place.nbytes + place.window_bytes
        if events < self.limit_events:
            self.limit_events, self._at_limit_events = events, 0
        if nbytes < self.limit_bytes:
            self.limit_bytes, self._at_limit_bytes = nbytes, 0
        self._at_limit_events += events == self.limit_events
        self._at_limit_bytes += nbytes == self.limit_bytes

    def frees(self, place: Place) -> bool:
        """Whether ``place``, about to move on or to be dropped, makes room by that.

        Then the limits are `stale`, or to be found anew where somebody waits for room.

        Only the last that stands at a limit does. Readers that keep up stand there together: for
        each of them to look at all others was two thirds of the time of an event to 100.
        """
        freed = False
        if place.events + place.capacity <= self.limit_events:
            self._at_limit_events -= 1
            freed = self._at_limit_events <= 0
        if place.nbytes + place.window_bytes <= self.limit_bytes:
            self._at_limit_bytes -= 1
            freed = freed or self._at_limit_bytes <= 0
        return freed


class Track(Flow):
    """What the log knows of one run; it outlives the run, as long as its events are kept."""

    __slots__ = (
        "__weakref__",
        "first_result_seq",
        "first_seq",
        "last_turn",
        "live",
        "progress",
        "readers",
        "request_id",
        "version",
    )

    def __init__(self, request_id: str, progress: Callable[[], Progress | None]) -> None:
        super().__init__()
        self.request_id = request_id
        self.progress = progress
        """The newest state, made when a reader wants it; None where there is none."""
        self.version = 0
        """Rises with each news in ``progress``; readers compare."""
        self.readers = 0
        """Attached readers that follow this run alone."""
        self.live = True
        self.first_seq = 0
        self.first_result_seq = 0
        self.last_turn = -inf  # when the last reader that took a turn is told of progress

    def take_turn(self, due: float, interval_seconds: float, readers: int) -> float:
        """When a reader is told of progress again: at ``due``, or as little later as others leave.

        Readers of one run get its first result at once, and would be told at the same times for
        ever: to render what is each one's own for twenty of them held up the event that came next
        by a millisecond. Nobody is told later than by half of its own interval.
        """
        most = interval_seconds / 2
        turn = self.last_turn + min(_APART_SECONDS, most / max(readers, 1))
        self.last_turn = turn if due <= turn <= due + most else due
        return self.last_turn
