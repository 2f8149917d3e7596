"""Rounds of streams: all who take part in turn, each with streams that take it about as long."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from benchmarks.outcome import Figure
from benchmarks.readers import Measurement

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
MAX_BYTES_EACH: Final = 400_000_000
"""The most that one stream brings."""
MIN_EVENTS_EACH: Final = 5
PROBES: Final = 3
"""Rounds before those that count, in which the length of a server's streams is found, and until a
server has had as much memory as it will keep. Ours keeps finished streams for replay, and memory
that is touched for the first time is slow."""


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
    """

    name: str
    run: Callable[[int], Measurement]
    readers: int
    size: int
    may_fail: bool = True
    rate: float = LIKELY_RATE
    taken: list[Measurement] = attrs.Factory(list)
    failure: str | None = None

    def length(self, seconds: float) -> int:
        """Events of each stream that take the server so long, as far as it is known."""
        wanted = round(self.rate * seconds / self.readers)
        return max(MIN_EVENTS_EACH, min(MAX_BYTES_EACH // self.size, wanted))

    def take(self, seconds: float, *, counts: bool) -> None:
        """One round; one that does not count says how long the next is to be."""
        try:
            measurement = self.run(self.length(seconds))
        except (OSError, RuntimeError) as error:
            if not self.may_fail:
                raise
            self.failure = f"{type(error).__name__}: {error}"
            return
        if counts:
            self.taken.append(measurement)
        else:
            self.rate = measurement.rate

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


def take_rounds(takers: Sequence[Taker], rounds: int, seconds: float) -> list[Taker]:
    """All in turn, round by round, after some that do not count; returns those that held out."""
    left = list(takers)
    for number in range(-min(PROBES, 2 * rounds), rounds):
        # Another order each time: whoever follows a heavy one must not always be the same.
        turn = number % len(left)
        for taker in left[turn:] + left[:turn]:
            taker.take(seconds, counts=number >= 0)
        left = [taker for taker in left if taker.failure is None]
    return left
