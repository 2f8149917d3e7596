"""Single flight: of all runs that want one document at a time, one fetches it for the others.

Whoever finds nothing to use in the cache boards the key. The first to do so holds its *flight*:
others wait, until the holder lands with an entry, which is theirs too, or gives the flight up, and
the next takes it. A landed entry stays in reach until it is in the store, so that nobody who comes
in between fetches again.

Nobody waits for ever, nor for another run's reader: a wait has a limit of its own, a run that is
paused or over has given up its flights by then, and one whose reader lets it wait gives up those
that wait with it. All but `board` is synchronous; a flight is identity, not a lock, so it may be
held across tasks, and is given up by whoever ends the work.
"""

from collections.abc import Callable
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import CacheEntry

__all__ = ["Flight", "FlightStatistics", "Flights"]


@attrs.frozen
class FlightStatistics:
    """``in_flight`` and ``waiting`` are of now, the others since the start."""

    in_flight: int
    waiting: int
    shared: int  # documents that were had from another's flight
    waited_out: int  # waits that reached their limit


class Flight:
    """The fetch of one key, and those who wait for it. Made by `Flights.board`."""

    def __init__(self, key: str) -> None:
        self.key: Final = key
        self.entry: CacheEntry | None = None
        """What it brought, once it has landed."""
        self.alone: bool = False
        """It brought what may not be shared: those who waited fetch for themselves, at once."""
        self._over = trio.Event()
        self.waiting: int = 0


class Flights:
    """The flights of a whole server, by key; as many as fetches are in the air, and a few more."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight] = {}
        self._shared = self._waited_out = 0

    async def board(
        self, key: str, patience_seconds: float, is_usable: Callable[[CacheEntry], bool]
    ) -> "Flight | CacheEntry | None":
        """Hold the flight of a key, or wait for what its holder brings.

        Returns: a `Flight` to fly, and to end by `finish`; the entry that another brought, if it is
          usable still; or None: fetch without a flight, for there is nothing to share, or the
          patience is over.

        A checkpoint unless nobody holds the flight. Cancelled while it waits, nothing is held.
        """
        if key not in self._flights:
            ours = self._flights[key] = Flight(key)
            return ours  # noqa: ASYNC910  # it is held at once: a look into the cache follows
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(patience_seconds):
            while True:
                flight = self._flights.get(key)
                if flight is None:
                    # No checkpoint from the look to here: nobody else holds it.
                    flight = self._flights[key] = Flight(key)
                    return flight
                if flight.entry is None:
                    flight.waiting += 1
                    try:
                        await flight._over.wait()
                    finally:
                        flight.waiting -= 1
                if flight.entry is not None and is_usable(flight.entry):
                    self._shared += 1
                    return flight.entry
                if flight.alone or flight.entry is not None:
                    return None
        self._waited_out += 1
        return None

    def land(self, flight: Flight, entry: CacheEntry | None) -> None:
        """Give those who wait what the flight has brought; with None, that it is for nobody else.

        A flight that was given up meanwhile, or has landed, stays as it is. It is over by `finish`.
        """
        if self._flights.get(flight.key) is not flight or flight._over.is_set():
            return
        if entry is None:
            flight.alone = True
            del self._flights[flight.key]
        flight.entry = entry
        flight._over.set()

    def finish(self, flight: Flight) -> None:
        """End a flight, landed (what it brought is in the store) or not (the next takes its turn).

        Idempotent.
        """
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        flight._over.set()

    def statistics(self) -> FlightStatistics:
        """Linear in the number of flights."""
        return FlightStatistics(
            in_flight=len(self._flights),
            waiting=sum(flight.waiting for flight in self._flights.values()),
            shared=self._shared,
            waited_out=self._waited_out,
        )
