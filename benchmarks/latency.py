"""Latency: from when an event was due to when its reader has it; and the time to first byte.

``python -m benchmarks.latency [--quick] [--rounds 3] [--framing ndjson] [--readers 20]``

The servers run on one core, the driver on another; they take turns, round by round.
"""

import argparse
import multiprocessing
import os
import re
import selectors
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import attrs

from benchmarks.asking import as_message, opened_by, read_until, upgrade_request
from benchmarks.contestants import Contestant, cores, serving
from benchmarks.environment import ROOT, importing, install
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.pace import AT_ONCE, Pace
from benchmarks.percentiles import in_ms
from benchmarks.readers import http_request, text_frame

TITLE = "Latency"
ABOUT = """
Results of some 1.4 KB become due by a schedule, 1,000 a second. *Streams of their own*: each reader
has asked for a stream of its own, which has its part of the thousand. *Read by all*: one run
publishes a thousand a second, and every reader follows it (with the peers, which know no runs, each
stream builds and encodes the same events for itself). Told is the time from when an event was due,
by the clock that all processes share, to when its reader has received it: a server that is late is
charged with all that it held up, and with its loop's timers, which are rounded to a millisecond.
*First byte*: from a request on a new connection to the first byte of the response's first event;
with nothing else to do, and beside a stream at full speed. Who has not answered within three
seconds is counted with three.
"""

EVENTS_PER_SECOND = 1_000
SECONDS = 3.0
QUICK_SECONDS = 0.8
ROUNDS = 3
READERS = (20, 100)
QUICK_READERS = (20,)
FRAMINGS = ("ndjson", "websocket")
REQUESTS = 200
QUICK_REQUESTS = 50
WARM_REQUESTS = 30
LEAD_SECONDS = 0.3
"""From the request for a schedule to its first event; and more for each reader."""
LEAD_SECONDS_PER_READER = 0.005
PATIENCE_SECONDS = 20.0
STARVED_SECONDS = 3.0
"""A request that has no answer within so long is counted with it."""
ASKED_P99_MS = 8.0
ASKED_FIRST_BYTE_P99_MS = 5.0
BUFFER_BYTES = 1 << 20
_INDEX = re.compile(rb'"index":([0-9]+)[,}]')
_LONGEST_INDEX = len(b'"index":1000000000,')
Address = tuple[str, int]


def _peer_module(name: str) -> Callable[[str, int], list[str]]:
    return lambda python, port: [python, "-m", f"benchmarks.peers.{name}", str(port)]


def _uvicorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "uvicorn", "benchmarks.peers.paced_starlette:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
        *("--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "false"),
    ]


def _granian(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "granian", "benchmarks.peers.paced_granian:app", "--port", str(port)),
        *("--interface", "rsgi", "--loop", "uvloop", "--http", "1", "--log-level", "warning"),
        *("--runtime-mode", "st"),
    ]


def _hypercorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "hypercorn", "-k", "trio", "--workers", "0", "--log-level", "warning"),
        *("--bind", f"127.0.0.1:{port}", "benchmarks.peers.paced_starlette:app"),
    ]


OURS = Contestant(
    "eventmesh_trio",
    lambda python, port: [python, "-m", "benchmarks.paced", str(port)],
    framings=FRAMINGS,
    is_ours=True,
    runtime="ours",
)
UVICORN = Contestant(
    "uvicorn+uvloop+Starlette", _uvicorn, ("uvicorn", "uvloop", "httptools", "orjson"), FRAMINGS
)
GRANIAN = Contestant("granian (RSGI)", _granian, ("granian", "uvloop", "orjson"), FRAMINGS)
AIOHTTP = Contestant(
    "aiohttp+uvloop", _peer_module("paced_aiohttp"), ("aiohttp", "uvloop", "orjson"), FRAMINGS
)
HYPERCORN = Contestant(
    "hypercorn-trio+Starlette", _hypercorn, ("hypercorn", "trio", "starlette", "orjson"), FRAMINGS
)
NODE = Contestant(
    "Node http",
    lambda _, port: ["node", str(ROOT / "benchmarks" / "peers" / "paced_node.js"), str(port)],
    framings=("ndjson",),
    runtime="node",
)
PEERS = (UVICORN, GRANIAN, AIOHTTP, HYPERCORN, NODE)


def able_contestants() -> tuple[list[Contestant], dict[str, str]]:
    """Who can run here, ours first; and why others cannot."""
    python = install()
    able, missing = [OURS], {}
    for peer in PEERS:
        if peer.runtime == "node":
            reason = None if shutil.which("node") else "there is no node"
        else:
            reason = importing(python, peer.modules)
        if reason is None:
            able.append(peer)
        else:
            missing[peer.name] = reason
    return able, missing


# --- Readers -------------------------------------------------------------------------------------


class PacedReader:
    """One stream: notes of each event how late it came."""

    def __init__(self, stream: socket.socket, pace: Pace) -> None:
        self.socket = stream
        self.seconds: dict[int, float] = {}
        self._pace = pace
        self._tail = b""

    @property
    def ended(self) -> bool:
        return len(self.seconds) >= self._pace.count

    def take(self, data: bytes, now_ns: int) -> None:
        """Note what came at ``now_ns``; an index may be split between two pieces.

        Raises:
          RuntimeError: an event came twice.
        """
        data = self._tail + data
        end = 0
        for match in _INDEX.finditer(data):
            index, end = int(match[1]), match.end()
            if index in self.seconds:
                raise RuntimeError(f"event {index} came twice")
            self.seconds[index] = (now_ns - self._pace.due_ns(index)) / 1e9
        self._tail = data[max(end, len(data) - _LONGEST_INDEX) :]


def read_all(readers: Sequence[PacedReader]) -> list[float]:
    """Read until every stream has brought all its events; how late each was, in seconds.

    Raises:
      RuntimeError: a stream ended early, or stood still.
    """
    buffer = bytearray(BUFFER_BYTES)
    with selectors.DefaultSelector() as selector, memoryview(buffer) as view:
        for reader in readers:
            reader.socket.setblocking(False)
            selector.register(reader.socket, selectors.EVENT_READ, reader)
        live = sum(not reader.ended for reader in readers)
        while live:
            ready = selector.select(PATIENCE_SECONDS)
            if not ready:
                raise RuntimeError(f"nothing came for {PATIENCE_SECONDS:g} s")
            for key, _ in ready:
                reader = key.data
                size = reader.socket.recv_into(buffer)
                now_ns = time.monotonic_ns()
                if not size:
                    raise RuntimeError("a stream ended early")
                reader.take(bytes(view[:size]), now_ns)
                if reader.ended:
                    selector.unregister(reader.socket)
                    live -= 1
    return [seconds for reader in readers for seconds in reader.seconds.values()]


def _ask(address: Address, contestant: Contestant, framing: str, body: bytes) -> socket.socket:
    """A connection on which a stream was asked for."""
    stream = socket.create_connection(address, 30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    target = contestant.target(framing)
    if framing == "websocket":
        _upgrade(stream, target, contestant)
        stream.sendall(text_frame(as_message(contestant, body)))
    else:
        stream.sendall(http_request(target, body))
    return stream


def _upgrade(stream: socket.socket, target: str, contestant: Contestant) -> None:
    stream.sendall(upgrade_request(target))
    read_until(stream, opened_by(contestant))


def _attach(address: Address, framing: str, session: str) -> socket.socket:
    """A connection that follows a session of ours."""
    stream = socket.create_connection(address, 30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    target = f"{OURS.target(framing)}?session_id={session}"
    if framing == "websocket":
        _upgrade(stream, target, OURS)
    else:
        stream.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return stream


def _start_run(address: Address, session: str, body: bytes) -> None:
    """Begin a run that readers will follow."""
    head = (
        f"POST /crawl/sse HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"X-Session-ID: {session}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(address, 30) as stream:
        stream.sendall(head.encode() + body)
        received = b""
        while piece := stream.recv(65536):
            received += piece
    if b'"started"' not in received:
        raise RuntimeError(f"no run: {received[:300]!r}")


def _lead_ns(readers: int) -> int:
    return int((LEAD_SECONDS + readers * LEAD_SECONDS_PER_READER) * 1e9)


def measure_own(
    contestant: Contestant, address: Address, framing: str, readers: int, seconds: float
) -> list[float]:
    """Streams of their own: a thousand events a second in all, evenly spread over the readers."""
    gap_ns = 1_000_000_000 // EVENTS_PER_SECOND
    count = max(1, int(seconds * EVENTS_PER_SECOND / readers))
    pace = Pace(count, time.monotonic_ns() + _lead_ns(readers), gap_ns * readers)
    opened = []
    for number in range(readers):
        mine = pace.shifted(number * gap_ns)
        body = mine.body(is_ours=contestant.is_ours)
        opened.append(PacedReader(_ask(address, contestant, framing, body), mine))
    return _finish(opened)


def measure_shared(
    contestant: Contestant, address: Address, framing: str, readers: int, seconds: float
) -> list[float]:
    """Read by all: a thousand events a second, each of them to every reader."""
    count = int(seconds * EVENTS_PER_SECOND)
    start_ns = time.monotonic_ns() + _lead_ns(readers)
    pace = Pace(count, start_ns, 1_000_000_000 // EVENTS_PER_SECOND)
    body = pace.body(is_ours=contestant.is_ours)
    if contestant.is_ours:
        session = f"latency-{uuid.uuid4().hex[:12]}"
        _start_run(address, session, body)
        streams = [_attach(address, framing, session) for _ in range(readers)]
    else:
        streams = [_ask(address, contestant, framing, body) for _ in range(readers)]
    return _finish([PacedReader(stream, pace) for stream in streams])


def _finish(readers: Sequence[PacedReader]) -> list[float]:
    try:
        return read_all(readers)
    finally:
        for reader in readers:
            reader.socket.close()


# --- Time to first byte ---------------------------------------------------------------------------


def first_byte_seconds(contestant: Contestant, address: Address) -> float:
    """From the request to the first byte of the first event, on a connection that is open."""
    request = http_request(contestant.target("ndjson"), AT_ONCE.body(is_ours=contestant.is_ours))
    with socket.create_connection(address, STARVED_SECONDS) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        stream.sendall(request)
        read_until(stream, b'{"event"')
        return time.perf_counter() - began


def first_bytes(contestant: Contestant, address: Address, requests: int) -> list[float]:
    """One request after the other; who starves one is charged that long, and asked no more."""
    found: list[float] = []
    for _ in range(requests):
        try:
            found.append(first_byte_seconds(contestant, address))
        except TimeoutError:
            return [*found, STARVED_SECONDS]
    return found


def drain(address: Address, request: bytes) -> None:
    """Read a stream as fast as it comes; in a process of its own, until that is ended."""
    buffer = bytearray(BUFFER_BYTES)
    with socket.create_connection(address, 30) as stream:
        stream.sendall(request)
        while stream.recv_into(buffer):
            pass


@contextmanager
def full_load(contestant: Contestant, address: Address) -> Iterator[None]:
    """A stream at full speed, for as long as the block runs."""
    body = Pace(1_000_000_000).body(is_ours=contestant.is_ours)
    request = http_request(contestant.target("ndjson"), body)
    process = multiprocessing.get_context("spawn").Process(
        target=drain, args=(address, request), daemon=True
    )
    process.start()
    try:
        time.sleep(LEAD_SECONDS)
        yield
    finally:
        process.terminate()
        process.join()


# --- The comparison ------------------------------------------------------------------------------

Measure = Callable[[Contestant, Address, str, int, float], list[float]]
SHARED = "read by all"
MODES: dict[str, Measure] = {"streams of their own": measure_own, SHARED: measure_shared}


@attrs.define
class _Taken:
    """What was measured of each contestant, round by round."""

    rounds: dict[str, list[list[float]]] = attrs.field(factory=dict)

    def add(self, contestant: Contestant, seconds: list[float]) -> None:
        self.rounds.setdefault(contestant.name, []).append(seconds)

    def case(self, name: str) -> Case:
        figures = []
        for contestant, rounds in self.rounds.items():
            p99 = tuple(in_ms(seconds)["p99_ms"] for seconds in rounds)
            every = in_ms([one for seconds in rounds for one in seconds])
            figures.append(Figure(contestant, p99, every))
        return Case(name, "ms, p99", tuple(figures), less_is_better=True)


def _turns(
    servers: Sequence[tuple[Contestant, Address]], rounds: int
) -> Iterator[tuple[Contestant, Address]]:
    """Each server once a round, each round in another order."""
    for number in range(rounds):
        turn = number % len(servers)
        yield from (*servers[turn:], *servers[:turn])


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
                (one, stack.enter_context(serving(one, placed and placed[0]))[0]) for one in able
            ]
            for contestant, address in servers:
                for _ in range(WARM_REQUESTS):
                    first_byte_seconds(contestant, address)
            for framing in framings:
                for number in readers or (QUICK_READERS if options.quick else READERS):
                    for mode, measure in MODES.items():
                        case = _paced_case(servers, framing, number, mode, measure, rounds, seconds)
                        cases.append(case)
            requests = QUICK_REQUESTS if options.quick else REQUESTS
            cases += _first_bytes(servers, rounds, requests)
    finally:
        os.sched_setaffinity(0, allowed)
    return Outcome("latency", tuple(cases), tuple(demands(cases)), missing)


def _paced_case(
    servers: Sequence[tuple[Contestant, Address]],
    framing: str,
    readers: int,
    mode: str,
    measure: Measure,
    rounds: int,
    seconds: float,
) -> Case:
    taken = _Taken()
    able = [(one, address) for one, address in servers if framing in one.framings]
    for contestant, address in _turns(able, rounds):
        taken.add(contestant, measure(contestant, address, framing, readers, seconds))
    name = {"ndjson": "NDJSON", "websocket": "WebSocket"}[framing]
    return taken.case(f"{name}, {readers} readers, {mode}")


def _first_bytes(
    servers: Sequence[tuple[Contestant, Address]], rounds: int, requests: int
) -> Iterator[Case]:
    idle, loaded = _Taken(), _Taken()
    for contestant, address in _turns(servers, rounds):
        idle.add(contestant, first_bytes(contestant, address, requests))
        with full_load(contestant, address):
            loaded.add(contestant, first_bytes(contestant, address, requests))
    yield idle.case("First byte, nothing else to do")
    yield loaded.case("First byte, beside a stream at full speed")


def demands(cases: Sequence[Case]) -> Iterator[Demand]:
    """Bounds on our own p99; and of 20 readers of one publisher that no peer's is less.

    Not of streams of their own: there most of a figure is how a loop rounds timers (asyncio's wakes
    early and yields until it is time, trio's wakes up to a millisecond late), and no server's work.
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
        elif "nothing else" in case.name:
            text = f"{case.name}: p99 at most {ASKED_FIRST_BYTE_P99_MS:g} ms"
            yield Demand(text, ASKED_FIRST_BYTE_P99_MS, mine.median, low, high, at_most=True)


def show(outcome: Outcome) -> None:
    for case in outcome.cases:
        print(f"\n{case.name}")
        for figure in case.figures:
            details = "  ".join(
                f"{key.removesuffix('_ms').replace('_', '.')} {value:8.2f}"
                for key, value in figure.details.items()
            )
            print(f"  {figure.contestant:26} {details} ms")
    print()
    for demand in outcome.demands:
        print(f"{'met' if demand.is_met else 'MISSED'}: {demand.text}: {demand.found:.2f}")
    for name, reason in outcome.missing.items():
        print(f"missing: {name}: {reason}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--framing", choices=FRAMINGS, action="append")
    parser.add_argument("--readers", type=int, action="append")
    arguments = parser.parse_args()
    options = Options(arguments.quick, arguments.rounds)
    show(compare(options, arguments.framing or FRAMINGS, arguments.readers))


if __name__ == "__main__":
    main()
