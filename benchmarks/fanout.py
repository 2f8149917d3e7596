"""Fan-out: one run, and many readers attached to its session; ours beside sockets and servers."""

import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from benchmarks.command import alone
from benchmarks.contestants import BARE, OURS, Contestant, cores, prepare, start_all
from benchmarks.outcome import Case, Demand, Options, Outcome
from benchmarks.ratios import best_peer, ratio
from benchmarks.readers import Measurement, Reader, http_request, measure
from benchmarks.rounds import Taker, round_seconds, take_rounds
from benchmarks.synthetic import MEDIUM

TITLE = "Fan-out: one run, many readers"
ABOUT = """\
One run publishes events of 1.4 KB, every one built once, and 50 or 500 readers are attached to its
session before it begins, all over NDJSON. *Lossless*, as everything on the wire is, the run waits
for its slowest reader; *lossy*, as a program that embeds the server can have it, a reader that lags
loses the oldest. What is counted is what arrives.

Beside it: a bare socket in plain Python that sends the same bytes, encoded before, to as many
connections; and the peers, which encode each event for each reader. They are spared the building of
events and the handing of one event to many tasks: each of their streams takes ready objects.
"""
ROUNDS: Final[Mapping[int, int]] = {50: 9, 500: 5}
"""By the number of readers."""
LOSSY: Final = f"{OURS.name}, lossy"
Address = tuple[str, int]


def run_ours(address: Address, readers: int, lossy: bool, count: int) -> Measurement:
    """One round of one run; the clock starts when its last reader asks."""
    session = f"fanout-{uuid.uuid4().hex[:8]}"
    opened = [Reader(address) for _ in range(readers)]
    body = OURS.body(count, readers=readers, lossy=lossy)
    opened[0].ask(http_request(OURS.target("ndjson"), body, f"X-Session-ID: {session}"))
    opened[0].receive()  # then the session is there
    attach = (
        f"GET {OURS.target('ndjson')}?session_id={session} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    for reader in opened[1:-1]:
        reader.ask(attach)
    for reader in opened[1:-1]:
        reader.receive()
    requests = [b""] * (readers - 1) + [attach]
    return measure(opened, requests, count, lossless=not lossy)


def run_theirs(contestant: Contestant, address: Address, readers: int, count: int) -> Measurement:
    """One round of a server that streams to each reader for itself."""
    opened = [Reader(address) for _ in range(readers)]
    request = http_request(contestant.target("ndjson"), contestant.body(count, shared=True))
    return measure(opened, request, count)


def run_case(
    servers: Sequence[tuple[Contestant, Address, int]],
    readers: int,
    rounds: int,
    missing: dict[str, str],
    *,
    quick: bool,
) -> Case:
    """Both of ours, the socket and the peers, in turn."""
    takers = []
    for contestant, address, pid in servers:
        if contestant.is_ours:
            takers += [
                Taker(name, partial(run_ours, address, readers, lossy), readers, MEDIUM, False, pid)
                for name, lossy in ((OURS.name, False), (LOSSY, True))
            ]
        else:
            run = partial(run_theirs, contestant, address, readers)
            takers.append(Taker(contestant.name, run, readers, MEDIUM, pid=pid))
    name = f"{readers} readers"
    seconds = round_seconds(readers, quick=quick)
    held_out = take_rounds(takers, rounds, seconds, quick=quick)
    for taker in takers:
        if taker.failure is not None:
            missing[f"{taker.name} ({name})"] = taker.failure
    figures = tuple(taker.figure(arrived) for taker in held_out)
    return Case(name=name, unit="events/s", figures=figures)


def arrived(taken: Sequence[Measurement]) -> dict[str, float]:
    """The share of all events, of all readers, that came; below 1 where some were lost."""
    return {"arrived": sum(m.results for m in taken) / sum(m.expected for m in taken)}


def demands(case: Case) -> Iterator[Demand]:
    """What is asked with 50 readers."""
    limit, peer = case.figure(BARE.name), best_peer(case)
    for name, how, share in ((OURS.name, "lossless", 0.65), (LOSSY, "lossy", 0.9)):
        mine = case.figure(name)
        if mine is None or limit is None:
            continue
        found = ratio(mine, limit)
        text = f"{case.name}, {how}: ours to the {BARE.name}"
        yield Demand(text, share, found.of_medians, found.low, found.high)
    mine = case.figure(OURS.name)
    if mine is not None and peer is not None:
        found = ratio(mine, peer)
        text = f"{case.name}, lossless: ours to any peer, each of which encodes for each reader"
        yield Demand(text, 8.0, found.of_medians, found.low, found.high)


def compare(options: Options) -> Outcome:
    """Start all servers, and take both cases."""
    able, missing = prepare()
    placed = cores()
    if placed is None:
        print("only one core: readers and servers share it, so the figures say little")
    else:
        os.sched_setaffinity(0, {placed[1]})
    with ExitStack() as stack:
        able = [one for one in (*able, BARE) if "ndjson" in one.framings]
        servers = start_all(stack, able, placed and placed[0], missing)
        cases = [
            run_case(
                servers,
                readers,
                options.rounds or (1 if options.quick else rounds),
                missing,
                quick=options.quick,
            )
            for readers, rounds in ROUNDS.items()
        ]
    return Outcome("fanout", tuple(cases), tuple(demands(cases[0])), missing)


if __name__ == "__main__":
    sys.exit(alone("fanout"))
