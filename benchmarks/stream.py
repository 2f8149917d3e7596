"""Throughput and time to first byte: our full stack beside other servers, in the same run.

``python -m benchmarks.stream [--quick] [--framing sse] [--readers 20] [--json FILE]``

Every server runs in a process of its own, all on one core, and takes turns; the reader runs on
another. Each stream is ``metadata``, N results of some 1.4 KB, and ``summary``, every event built
and encoded for its stream and sent when it is there: with 20 readers there are 20 streams.
Figures are medians of the rounds, with their spread. We take part twice: with the default settings
and with the profile ``high_throughput``; the ratios are those of the one and of the other.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from benchmarks.contestants import FRAMINGS, OURS, TUNED, Contestant, cores, prepare, serving
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


@attrs.frozen
class Line:
    """One server's medians in one scenario; ``rates`` are the rounds'."""

    framing: str
    readers: int
    server: str
    rates: tuple[float, ...]
    first_byte_ms: float
    bytes_per_result: float
    busy: float

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


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
) -> list[Line]:
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
    return [
        Line(
            framing=framing,
            readers=readers,
            server=name,
            rates=tuple(m.rate for m in found),
            first_byte_ms=1000
            * statistics.median(seconds for m in found for seconds in m.first_byte_seconds),
            bytes_per_result=statistics.median(m.nbytes / m.results for m in found),
            busy=max(m.busy for m in found),
        )
        for name, found in taken.items()
    ]


def show(lines: Sequence[Line]) -> None:
    """The table of one scenario; ratios are ours to theirs: by default, and with the profile."""
    mine = [line for line in lines if line.server in (OURS.name, TUNED.name)]
    print(f"\n{mine[0].framing}, {mine[0].readers} reader{'s' * (mine[0].readers > 1)}")
    print(f"  {'server':26} {'events/s':>10} {'low - high':>19} {'first byte':>11} {'B/event':>8} "
          f"{'driver':>7} {'ours are':>12}")  # fmt: skip
    for line in lines:
        spread = f"{min(line.rates):,.0f} - {max(line.rates):,.0f}"
        ratio = "" if line in mine else " ".join(f"{one.rate / line.rate:.2f}x" for one in mine)
        print(f"  {line.server:26} {line.rate:10,.0f} {spread:>19} {line.first_byte_ms:8.2f} ms "
              f"{line.bytes_per_result:8,.0f} {line.busy:6.0%} {ratio:>12}")  # fmt: skip
    sys.stdout.flush()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
    parser.add_argument("--framing", choices=FRAMINGS, action="append")
    parser.add_argument("--readers", type=int, choices=sorted(RESULTS), action="append")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds there")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    able, missing = prepare()
    placed = cores()
    if placed is None:
        print("only one core: driver and servers share it, so the figures say little")
    else:
        os.sched_setaffinity(0, {placed[1]})
    print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} before the start")
    rounds = arguments.rounds or (1 if arguments.quick else ROUNDS)
    results = QUICK_RESULTS if arguments.quick else RESULTS
    lines: list[Line] = []
    with ExitStack() as stack:
        servers = [
            (c, stack.enter_context(serving(c, placed and placed[0]))[0]) for c in (*able, TUNED)
        ]
        for framing in arguments.framing or FRAMINGS:
            for readers in arguments.readers or sorted(RESULTS):
                found = run_scenario(servers, framing, readers, results[readers], rounds)
                show(found)
                lines += found
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")
    if arguments.json:
        document: list[dict[str, Any]] = [attrs.asdict(line) for line in lines]
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
