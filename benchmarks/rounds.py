"""Rounds of streams: all who take part in turn, each with streams that take it about as long."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from benchmarks.outcome import Figure
from benchmarks.readers import Measurement
from benchmarks.usage import touched_bytes

__all__ = ["MANY_READERS", "Taker", "round_seconds", "take_rounds"]

ROUND_SECONDS: Final = 0.35
"""What a round of one server should take: shorter ones measure the asking as well."""
QUICK_ROUND_SECONDS: Final = 0.12
MANY_READERS: Final = 200
"""From so many on it takes a tenth of a second to ask them all, and a round is longer by"""
MANY_READERS_FACTOR: Final = 3
LIKELY_RATE: Final = 4_000
"""Events a second that a server is thought to send before it was seen: what the slow ones do, which
would take many seconds for the streams of a quick one."""
MIN_EVENTS_EACH: Final = 5
MAX_BYTES_EACH: Final = 400_000_000
"""The most that one stream brings."""
PROBES: Final = 3
"""Rounds of full length before those that count, in which a server takes hardly any new memory."""
NEW_SHARE: Final = 0.05
"""How much new memory that is, as a share of the bytes that are sent. Ours keeps finished streams
for replay, up to a limit; until that is reached each event is written to memory that the process
did not have, which takes 1 us on one machine and 4 on another."""
MAX_PROBES: Final = 9
"""The most before them, for a server whose streams have still to grow until a round is long enough,
or that takes new memory in each."""
LONG_ENOUGH: Final = 0.6
"""The share of the time that a round should take from which on streams are not made longer by more
than what is missing; a shorter round may be one in which hardly more than the asking took time."""
GROWTH: Final = (2, 10)
"""By how much they are made longer else, at the least and at the most."""


def round_seconds(readers: int, *, quick: bool) -> float:
    """What a round of one server should take."""
    seconds = QUICK_ROUND_SECONDS if quick else ROUND_SECONDS
    return seconds * MANY_READERS_FACTOR if readers >= MANY_READERS else seconds


@attrs.define
class Taker:
    """One server through the rounds of one case.

    Args:
      run: one round, of so many events for each stream.
      may_fail: a peer that fails drops out of the case, we may not.
      pid: the server's process, where it is one whose memory is looked at.
    """

    name: str
    run: Callable[[int], Measurement]
    readers: int
    size: int
    may_fail: bool = True
    pid: int | None = None
    count: int = attrs.field(init=False)
    settled: bool = False
    warmed: int = 0
    """Rounds of full length that did not count."""
    taken: list[Measurement] = attrs.Factory(list)
    failure: str | None = None

    @count.default
    def _first_count(self) -> int:
        return self._bounded(LIKELY_RATE * ROUND_SECONDS / self.readers)

    def _bounded(self, count: float) -> int:
        return max(MIN_EVENTS_EACH, min(MAX_BYTES_EACH // self.size, round(count)))

    def probe(self, seconds: float) -> None:
        """One round that does not count, and what follows from it for the length of the next."""
        touched = self._touched()
        measurement = self._run()
        if measurement is None:
            return
        new = self._touched() - touched
        times = seconds / measurement.seconds
        self.settled = times * LONG_ENOUGH <= 1
        if not self.settled:
            least, most = GROWTH
            times = max(least, min(most, times))
        count = self._bounded(self.count * times)
        self.settled = self.settled or count == self.count  # it cannot grow any more
        self.count = count
        self.warmed += self.settled and new <= NEW_SHARE * measurement.nbytes

    def _touched(self) -> int:
        return 0 if self.pid is None else touched_bytes(self.pid)

    def take(self) -> None:
        """One round that counts."""
        measurement = self._run()
        if measurement is not None:
            self.taken.append(measurement)

    def _run(self) -> Measurement | None:
        try:
            return self.run(self.count)
        except (OSError, RuntimeError) as error:
            if not self.may_fail:
                raise
            self.failure = f"{type(error).__name__}: {error}"
            return None

    def figure(self, details: Callable[[Sequence[Measurement]], Mapping[str, float]]) -> Figure:
        return Figure(
            contestant=self.name,
            rounds=tuple(m.rate for m in self.taken),
            details={
                **details(self.taken),
                "bytes_per_event": statistics.median(m.nbytes / m.results for m in self.taken),
                "driver_busy": max(m.busy for m in self.taken),
            },
        )


def take_rounds(
    takers: Sequence[Taker], rounds: int, seconds: float, *, quick: bool = False
) -> list[Taker]:
    """All in turn, round by round, after some that do not count; returns those that held out."""
    left = list(takers)
    probes = 1 if quick else PROBES
    for number in range(MAX_PROBES + probes):
        for taker in _in_turn(left, number):
            if taker.warmed < probes:
                taker.probe(seconds)
        left = [taker for taker in left if taker.failure is None]
    for number in range(rounds):
        for taker in _in_turn(left, number):
            taker.take()
        left = [taker for taker in left if taker.failure is None]
    return left


def _in_turn(takers: Sequence[Taker], number: int) -> Sequence[Taker]:
    """In another order each time: whoever follows a heavy one must not always be the same."""
    first = number % len(takers) if takers else 0
    return [*takers[first:], *takers[:first]]
