"""Throughput and time to first byte: our full stack beside other servers, in the same run."""

import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final

import attrs

from benchmarks.command import alone
from benchmarks.contestants import (
    AIOHTTP,
    FRAMINGS,
    GRANIAN,
    HYPERCORN,
    LIMITS,
    OURS,
    QUART,
    TUNED,
    UVICORN,
    WEBSOCKETS,
    Contestant,
    cores,
    prepare,
    serving,
)
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.ratios import best_peer, ratio_demand, worst_against
from benchmarks.readers import (
    MARKERS,
    Measurement,
    Reader,
    http_request,
    measure,
    open_websocket,
    text_frame,
)
from benchmarks.synthetic import LARGE, MEDIUM, SMALL

TITLE = "Streams: events a second"
ABOUT = """\
Every server runs in a process of its own, all on one core, and takes turns; what reads runs on the
other core, on raw sockets, and only counts. A stream is ``metadata``, so many events of one size,
and ``summary``; every event is built and encoded for its own stream and sent when it is there: with
20 readers there are 20 streams. Events of 200 bytes are ``search_start``, the others ``result``.
A stream is as long as takes its server some tenths of a second, so that a slow one does not rule
the time that all of it takes. A round of all servers follows a round of all servers, each in
another order; what is shown are medians of the rounds.
"""
ROUND_SECONDS: Final = 0.4
"""What a round of one server should take: shorter ones measure the connecting as well."""
QUICK_ROUND_SECONDS: Final = 0.12
LIKELY_RATE: Final = 20_000
"""Events a second that a server is thought to send before it was seen."""
MAX_BYTES_EACH: Final = 400_000_000
"""The most that one stream brings."""
PROBES: Final = 3
"""Rounds before those that count, in which the length of a server's streams is found, and until a
server has had as much memory as it will keep. Ours keeps finished streams for replay, and memory
that is touched for the first time is slow."""
Address = tuple[str, int]


@attrs.frozen
class Scenario:
    """One case: the streams are alike, and so many."""

    framing: str
    readers: int
    size: int
    rounds: int

    @property
    def name(self) -> str:
        readers = f"{self.readers} reader{'s' * (self.readers > 1)}"
        return f"{self.framing}, {readers}, {size_text(self.size)}"


def size_text(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:g} KB"


def scenarios(options: Options) -> list[Scenario]:
    """All cases; most rounds where the most is asked."""
    if options.quick:
        rounds = options.rounds or 1
        return [Scenario(framing, n, MEDIUM, rounds) for framing in FRAMINGS for n in (1, 20)]
    return [
        Scenario(
            framing,
            readers,
            size,
            options.rounds or (11 if size == MEDIUM and readers <= 20 else 5),
        )
        for framing in FRAMINGS
        for size in (MEDIUM, SMALL, LARGE)
        for readers in (1, 20, 200)
    ]


def run_once(
    contestant: Contestant, address: Address, scenario: Scenario, count: int
) -> Measurement:
    """One round of one server: so many streams at once."""
    opened = [Reader(address, MARKERS[scenario.size]) for _ in range(scenario.readers)]
    target = contestant.target(scenario.framing)
    if scenario.framing == "websocket":
        for reader in opened:
            open_websocket(reader, target, welcomes=contestant.is_ours)
        request = text_frame(contestant.message(count, size=scenario.size))
    else:
        request = http_request(target, contestant.body(count, size=scenario.size))
    return measure(opened, request, count)


def stream_length(rate: float, scenario: Scenario, seconds: float) -> int:
    """Events of each stream that take a server so long, as far as it is known."""
    most = MAX_BYTES_EACH // scenario.size
    return max(10, min(most, round(rate * seconds / scenario.readers)))


@attrs.define
class Taker:
    """One server through the rounds of one case."""

    contestant: Contestant
    address: Address
    rate: float = LIKELY_RATE
    taken: list[Measurement] = attrs.Factory(list)
    failure: str | None = None

    def take(self, scenario: Scenario, seconds: float, *, counts: bool) -> None:
        """One round; a peer that fails drops out of the case, we may not."""
        count = stream_length(self.rate, scenario, seconds)
        try:
            measurement = run_once(self.contestant, self.address, scenario, count)
        except (OSError, RuntimeError) as error:
            if self.contestant.is_ours:
                raise
            self.failure = f"{type(error).__name__}: {error}"
            return
        if counts:
            self.taken.append(measurement)
        else:
            self.rate = measurement.rate

    def figure(self) -> Figure:
        firsts = [seconds for m in self.taken for seconds in m.first_byte_seconds]
        return Figure(
            contestant=self.contestant.name,
            rounds=tuple(m.rate for m in self.taken),
            details={
                "first_byte_ms": 1000 * statistics.median(firsts),
                "bytes_per_event": statistics.median(m.nbytes / m.results for m in self.taken),
                "driver_busy": max(m.busy for m in self.taken),
            },
        )


def run_scenario(
    servers: Sequence[tuple[Contestant, Address]],
    scenario: Scenario,
    seconds: float,
    missing: dict[str, str],
) -> Case:
    """All servers in turn, round by round, after some that do not count."""
    takers = [Taker(c, address) for c, address in servers if scenario.framing in c.framings]
    for number in range(-min(PROBES, 2 * scenario.rounds), scenario.rounds):
        takers = [taker for taker in takers if taker.failure is None]
        # Another order each time: whoever follows a heavy one must not always be the same.
        turn = number % len(takers)
        for taker in takers[turn:] + takers[:turn]:
            taker.take(scenario, seconds, counts=number >= 0)
            if taker.failure is not None:
                missing[f"{taker.contestant.name} ({scenario.name})"] = taker.failure
    figures = tuple(taker.figure() for taker in takers if taker.failure is None)
    return Case(name=scenario.name, unit="events/s", figures=figures)


def demands(cases: Mapping[str, Case]) -> Iterator[Demand]:
    """What is asked of streams, of those cases that were measured."""
    python = [peer.name for peer in (UVICORN, AIOHTTP, HYPERCORN, QUART, WEBSOCKETS)]
    starlette = [UVICORN.name, HYPERCORN.name]
    asked = {  # what is asked by framing: words, among whom, how much
        "ndjson": (
            ("the best server in Python alone", python, 3.0),
            ("granian", [GRANIAN.name], 1.7),
            ("uvicorn and aiohttp", [UVICORN.name, AIOHTTP.name], 2.0),
        ),
        "sse": (
            ("sse-starlette", starlette, 10.0),
            ("any peer", None, 5.0),
            ("sse-starlette, as first asked", starlette, 6.0),
        ),
        "websocket": (("any peer", None, 1.6), ("any peer, as first asked", None, 1.2)),
    }
    for framing, wanted in asked.items():
        for readers in (1, 20):
            case = cases.get(Scenario(framing, readers, MEDIUM, 1).name)
            if case is None:
                continue
            for words, among, least in wanted:
                yield from ratio_demand(
                    f"{case.name}: ours to {words}", case, best_peer(case, among), least
                )
    first = cases.get(Scenario("ndjson", 1, MEDIUM, 1).name)
    if first is not None:
        limit = first.figure(LIMITS[1].name)
        yield from ratio_demand(f"{first.name}: ours to the {LIMITS[1].name}", first, limit, 0.5)
    if (worst := worst_against(cases.values())) is not None:
        case, peer, found = worst
        text = f"no case below any peer (the worst: {case.name}, {peer.contestant})"
        yield Demand(text, 1.0, found.of_medians, found.low, found.high)


def compare(options: Options) -> Outcome:
    """Start all servers, and take the cases one after the other."""
    able, missing = prepare()
    placed = cores()
    if placed is None:
        print("only one core: reader and servers share it, so the figures say little")
    else:
        os.sched_setaffinity(0, {placed[1]})
    seconds = QUICK_ROUND_SECONDS if options.quick else ROUND_SECONDS
    with ExitStack() as stack:
        servers = [
            (c, stack.enter_context(serving(c, placed and placed[0]))[0])
            for c in (OURS, TUNED, *able[1:], *LIMITS)
        ]
        cases = {}
        for scenario in scenarios(options):
            # The tuned profile is of interest where the project promises something.
            some = [s for s in servers if s[0] is not TUNED or scenario.size == MEDIUM]
            cases[scenario.name] = run_scenario(some, scenario, seconds, missing)
            print(f"{scenario.name} done", file=sys.stderr, flush=True)
    return Outcome("stream", tuple(cases.values()), tuple(demands(cases)), missing)


if __name__ == "__main__":
    sys.exit(alone("stream"))
