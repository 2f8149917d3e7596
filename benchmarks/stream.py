"""Throughput and time to first byte: our full stack beside other servers, in the same run."""

import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.command import alone
from benchmarks.contestants import FRAMINGS, TUNED, Contestant, cores, prepare, serving
from benchmarks.outcome import Case, Figure, Options, Outcome
from benchmarks.readers import (
    Measurement,
    Reader,
    http_request,
    measure,
    open_websocket,
    text_frame,
)

RESULTS = {1: 40_000, 20: 4_000}  # of each stream, by the number of readers
QUICK_RESULTS = {1: 2_000, 20: 200}
ROUNDS = 7
WARM_UP = 3
"""Rounds before those that count: until a server has had as much memory as it will keep. Ours keeps
finished streams for replay, and memory that is touched for the first time is slow."""
Address = tuple[str, int]
TITLE = "Streams: events a second"
ABOUT = """\
Every server runs in a process of its own, all on one core, and takes turns; the reader runs on
another. Each stream is ``metadata``, N results of some 1.4 KB, and ``summary``, every event built
and encoded for its stream and sent when it is there: with 20 readers there are 20 streams.
"""


def run_once(
    contestant: Contestant, address: Address, framing: str, readers: int, count: int
) -> Measurement:
    """One round of one server: so many streams at once."""
    opened = [Reader(address) for _ in range(readers)]
    target = contestant.target(framing)
    if framing == "websocket":
        for reader in opened:
            open_websocket(reader, target, welcomes=contestant.is_ours)
        request = text_frame(contestant.message(count))
    else:
        request = http_request(target, contestant.body(count))
    return measure(opened, request, count)


def run_scenario(
    servers: Sequence[tuple[Contestant, Address]],
    framing: str,
    readers: int,
    count: int,
    rounds: int,
) -> Case:
    """All servers in turn, round by round, after some that do not count."""
    taking_part = [(c, address) for c, address in servers if framing in c.framings]
    taken: dict[str, list[Measurement]] = {contestant.name: [] for contestant, _ in taking_part}
    for number in range(-min(WARM_UP, rounds), rounds):
        # Another order each time: whoever follows a heavy one must not always be the same.
        turn = number % len(taking_part)
        for contestant, address in taking_part[turn:] + taking_part[:turn]:
            measurement = run_once(contestant, address, framing, readers, count)
            if number >= 0:
                taken[contestant.name].append(measurement)
    figures = tuple(
        Figure(
            contestant=name,
            rounds=tuple(m.rate for m in found),
            details={
                "first_byte_ms": 1000
                * statistics.median(seconds for m in found for seconds in m.first_byte_seconds),
                "bytes_per_event": statistics.median(m.nbytes / m.results for m in found),
                "driver_busy": max(m.busy for m in found),
            },
        )
        for name, found in taken.items()
    )
    name = f"{framing}, {readers} reader{'s' * (readers > 1)}"
    return Case(name=name, unit="events/s", figures=figures)


def compare(options: Options) -> Outcome:
    able, missing = prepare()
    placed = cores()
    if placed is not None:
        os.sched_setaffinity(0, {placed[1]})
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    results = QUICK_RESULTS if options.quick else RESULTS
    with ExitStack() as stack:
        servers = [
            (c, stack.enter_context(serving(c, placed and placed[0]))[0])
            for c in (able[0], TUNED, *able[1:])
        ]
        cases = tuple(
            run_scenario(servers, framing, readers, results[readers], rounds)
            for framing in FRAMINGS
            for readers in sorted(results)
        )
    return Outcome("stream", cases, missing=missing)


if __name__ == "__main__":
    sys.exit(alone("stream"))
