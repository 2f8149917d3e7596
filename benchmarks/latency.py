"""Latency: from when an event was due to when its reader has it; and the time to first byte.

``python -m benchmarks.latency [--quick] [--rounds 3] [--framing ndjson] [--readers 20]``

The servers run on one core, the driver on another; they take turns, round by round.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import attrs

from benchmarks.command import part_parser, show_outcome
from benchmarks.contestants import Contestant, cores, serving, start_all
from benchmarks.first_bytes import first_byte_seconds, first_bytes, full_load
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.paced_contestants import FRAMINGS, OURS, able_contestants
from benchmarks.paced_readers import measure_own, measure_shared
from benchmarks.percentiles import in_ms

TITLE = "Latency"
ABOUT = """
Results of some 1.4 KB become due by a schedule, 1,000 a second. *Streams of their own*: each reader
has asked for a stream of its own, which has its part of the thousand. *Read by all*: one run
publishes a thousand a second, and every reader follows it (with the peers, which know no runs, each
stream builds and encodes the same events for itself). Told is the time from when an event was due,
by the clock that all processes share, to when its reader has received it: a server that is late is
charged with all that it held up, and with its loop's timers, which are rounded to the nearest
millisecond (those of trio are rounded up, so our job waits half a millisecond less).
*First byte*: from a request on a new connection to the first byte of the response's first event;
with nothing else to do, and beside a stream at full speed. Who has not answered within three
seconds is counted with three.
"""

SECONDS = 3.0
QUICK_SECONDS = 0.8
ROUNDS = 3
READERS = (20, 100)
QUICK_READERS = (20,)
REQUESTS = 200
QUICK_REQUESTS = 50
WARM_REQUESTS = 30
ASKED_P99_MS = 8.0
ASKED_FIRST_BYTE_P99_MS = 5.0
Address = tuple[str, int]
Measure = Callable[[Contestant, Address, str, int, float], list[float]]
SHARED = "read by all"
IDLE = "First byte, nothing else to do"
NAMES = {"ndjson": "NDJSON", "websocket": "WebSocket"}
T = TypeVar("T")
MODES: dict[str, Measure] = {"streams of their own": measure_own, SHARED: measure_shared}


@attrs.define
class _Taken:
    """What was measured of each contestant in a case, round by round.

    A peer that fails is left out of the case, and ``missing`` says why.
    """

    name: str
    missing: dict[str, str]
    rounds: dict[str, list[list[float]]] = attrs.field(factory=dict)
    _failed: set[str] = attrs.field(factory=set, init=False)

    def take(self, contestant: Contestant, measure: Callable[[], list[float]]) -> None:
        if contestant.name in self._failed:
            return
        try:
            self.rounds.setdefault(contestant.name, []).append(measure())
        except (OSError, RuntimeError) as error:
            if contestant.is_ours:
                raise
            self._failed.add(contestant.name)
            del self.rounds[contestant.name]
            self.missing[f"{contestant.name} ({self.name})"] = f"{type(error).__name__}: {error}"

    def case(self) -> Case:
        figures = []
        for contestant, rounds in self.rounds.items():
            p99 = tuple(in_ms(seconds)["p99_ms"] for seconds in rounds)
            every = in_ms([one for seconds in rounds for one in seconds])
            figures.append(Figure(contestant, p99, every))
        return Case(self.name, "ms, p99", tuple(figures), less_is_better=True)


def _turns(those: Sequence[T], rounds: int) -> Iterator[T]:
    """Each once a round, each round in another order."""
    for number in range(rounds):
        turn = number % len(those)
        yield from (*those[turn:], *those[:turn])


def compare(
    options: Options, framings: Sequence[str] = FRAMINGS, readers: Sequence[int] | None = None
) -> Outcome:
    able, missing = able_contestants()
    placed = cores()
    allowed = os.sched_getaffinity(0)
    if placed is not None:
        os.sched_setaffinity(0, {placed[1]})
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    cases: list[Case] = []
    try:
        with ExitStack() as stack:
            servers = [
                (one, address)
                for one, address, _ in start_all(stack, able, placed and placed[0], missing)
            ]
            for contestant, address in servers:
                _warm_up(contestant, address)
            for framing in framings:
                for number in readers or (QUICK_READERS if options.quick else READERS):
                    for mode, measure in MODES.items():
                        taken = _Taken(f"{NAMES[framing]}, {number} readers, {mode}", missing)
                        here = [one for one in servers if framing in one[0].framings]
                        for contestant, address in _turns(here, rounds):
                            measured = partial(
                                measure, contestant, address, framing, number, seconds
                            )
                            taken.take(contestant, measured)
                        cases.append(taken.case())
            requests = QUICK_REQUESTS if options.quick else REQUESTS
            taken = _Taken(IDLE, missing)
            for contestant, address in _turns(servers, rounds):
                taken.take(contestant, partial(first_bytes, contestant, address, requests))
            cases.append(taken.case())
        # Each on a server of its own: some go on with a stream that nobody reads any more.
        taken = _Taken("First byte, beside a stream at full speed", missing)
        for contestant in _turns([one for one, _ in servers], rounds):
            core = placed and placed[0]
            taken.take(contestant, partial(_beside_a_stream, contestant, core, requests))
        cases.append(taken.case())
    finally:
        os.sched_setaffinity(0, allowed)
    return Outcome("latency", tuple(cases), tuple(demands(cases)), missing)


def _warm_up(contestant: Contestant, address: Address) -> None:
    for _ in range(WARM_REQUESTS):
        first_byte_seconds(contestant, address)


def _beside_a_stream(contestant: Contestant, core: int | None, requests: int) -> list[float]:
    with serving(contestant, core) as (address, _):
        _warm_up(contestant, address)
        with full_load(contestant, address):
            return first_bytes(contestant, address, requests)


def demands(cases: Sequence[Case]) -> Iterator[Demand]:
    """Bounds on our own p99; and of 20 readers of one publisher that no peer's is less.

    Not of streams of their own: there most of a figure is how a loop rounds timers, and no server's
    work.
    """
    for case in cases:
        mine = case.figure(OURS.name)
        assert mine is not None
        low, high = min(mine.rounds), max(mine.rounds)
        if "20 readers" in case.name:
            text = f"{case.name}: p99 at most {ASKED_P99_MS:g} ms"
            yield Demand(text, ASKED_P99_MS, mine.median, low, high, at_most=True)
            peers = [figure for figure in case.figures if figure.contestant != OURS.name]
            if peers and SHARED in case.name:
                best = min(peers, key=lambda figure: figure.median)
                ratios = [
                    theirs / ours for theirs, ours in zip(best.rounds, mine.rounds, strict=True)
                ]
                yield Demand(
                    f"{case.name}: p99 no worse than {best.contestant}'s",
                    1.0,
                    best.median / mine.median,
                    min(ratios),
                    max(ratios),
                )
        elif case.name == IDLE:
            text = f"{case.name}: p99 at most {ASKED_FIRST_BYTE_P99_MS:g} ms"
            yield Demand(text, ASKED_FIRST_BYTE_P99_MS, mine.median, low, high, at_most=True)


def main() -> None:
    parser = part_parser(__doc__)
    parser.add_argument("--framing", choices=FRAMINGS, action="append")
    parser.add_argument("--readers", type=int, action="append")
    arguments = parser.parse_args()
    options = Options(arguments.quick, arguments.rounds)
    show_outcome(compare(options, arguments.framing or FRAMINGS, arguments.readers))


if __name__ == "__main__":
    main()
