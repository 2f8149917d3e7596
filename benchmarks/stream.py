"""Throughput and time to first byte: our full stack beside other servers, in the same run."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import attrs

from benchmarks.command import alone, heed_termination
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
    start_all,
)
from benchmarks.outcome import Case, Demand, Options, Outcome
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
from benchmarks.rounds import MANY_READERS, Taker, round_seconds, take_rounds
from benchmarks.synthetic import LARGE, MEDIUM, SMALL
from benchmarks.tables import case_text

TITLE = "Streams: events a second"
ABOUT = """\
Every server runs in a process of its own, all on one core, and takes turns; what reads runs on the
other core, on raw sockets, and only counts. A stream is ``metadata``, so many events of one size,
and ``summary``; every event is built and encoded for its own stream and sent when it is there: with
20 readers there are 20 streams. Events of 200 bytes are ``search_start``, the others ``result``.
A stream is as long as takes its server some tenths of a second (a full one with 200 readers), so
that a slow one does not rule the time that all of it takes. A round of all servers follows a round
of all servers, each in another order; what is shown are medians of the rounds.
"""
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


def usual_rounds(readers: int, size: int) -> int:
    """Most where the most is asked, fewest where each takes longest."""
    if readers >= MANY_READERS:
        return 3
    return 15 if size == MEDIUM else 4


def scenarios(options: Options) -> list[Scenario]:
    """All cases, those of the usual size first."""
    if options.quick:
        rounds = options.rounds or 1
        return [Scenario(framing, n, MEDIUM, rounds) for framing in FRAMINGS for n in (1, 20)]
    return [
        Scenario(
            framing,
            readers,
            size,
            options.rounds or usual_rounds(readers, size),
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


def run_scenario(
    servers: Sequence[tuple[Contestant, Address, int]],
    scenario: Scenario,
    missing: dict[str, str],
    *,
    quick: bool,
) -> Case:
    """One case, with all servers that speak its framing."""
    takers = [
        Taker(
            contestant.name,
            partial(run_once, contestant, address, scenario),
            scenario.readers,
            scenario.size,
            may_fail=not contestant.is_ours,
            pid=pid,
        )
        for contestant, address, pid in servers
        if scenario.framing in contestant.framings
    ]
    seconds = round_seconds(scenario.readers, quick=quick)
    held_out = take_rounds(takers, scenario.rounds, seconds, quick=quick)
    for taker in takers:
        if taker.failure is not None:
            missing[f"{taker.name} ({scenario.name})"] = taker.failure
    figures = tuple(taker.figure(first_byte) for taker in held_out)
    return Case(name=scenario.name, unit="events/s", figures=figures)


def first_byte(taken: Sequence[Measurement]) -> dict[str, float]:
    """From a stream's request to its first byte, with all the others beside it."""
    seconds = [one for measurement in taken for one in measurement.first_byte_seconds]
    return {"first_byte_ms": 1000 * statistics.median(seconds)}


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


def compare(options: Options, only: str = "") -> Outcome:
    """Start all servers, and take the cases whose names have ``only`` in them, one by one."""
    able, missing = prepare()
    placed = cores()
    if placed is None:
        print("only one core: reader and servers share it, so the figures say little")
    else:
        os.sched_setaffinity(0, {placed[1]})
    with ExitStack() as stack:
        all_of_them = (OURS, TUNED, *able[1:], *LIMITS)
        servers = start_all(stack, all_of_them, placed and placed[0], missing)
        cases = {}
        for scenario in (one for one in scenarios(options) if only in one.name):
            # The tuned profile is of interest where the project promises something.
            some = [s for s in servers if s[0] is not TUNED or scenario.size == MEDIUM]
            began = time.monotonic()
            cases[scenario.name] = run_scenario(some, scenario, missing, quick=options.quick)
            taken = time.monotonic() - began
            print(f"{scenario.name}: measured in {taken:.0f} s", file=sys.stderr, flush=True)
    return Outcome("stream", tuple(cases.values()), tuple(demands(cases)), missing)


def main() -> int:
    """As `alone`; with ``--only TEXT`` just the cases with that in their names, kept nowhere."""
    if "--only" not in sys.argv[1:-1]:
        return alone("stream")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", metavar="TEXT", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    asked = parser.parse_args()
    heed_termination()
    outcome = compare(Options(quick=asked.quick, rounds=asked.rounds), asked.only)
    print(*map(case_text, outcome.cases), sep="\n\n")
    return 0 if outcome.cases else 2


if __name__ == "__main__":
    sys.exit(main())
