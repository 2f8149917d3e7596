"""Live streams that are silent: the memory of each, and what a new request waits beside them.

``python -m benchmarks.idle [--quick] [--rounds 3] [--streams 10000]``

A first hundred streams is opened before the count, so that what a server loads once is not in the
figure; the others up to the number are what the server's resident memory grew for. What the kernel
keeps for a socket is in nobody's figure. Beside them, one after the other, new clients ask for a
stream of one event.
"""

import os
import resource
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import attrs

from benchmarks.asking import as_message, opened_by, read_until, upgrade_request
from benchmarks.command import part_parser, show_outcome
from benchmarks.contestants import DESCRIPTORS, OURS, Contestant, cores, prepare, serving
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.percentiles import in_ms
from benchmarks.readers import http_request, text_frame
from benchmarks.usage import resident_bytes

TITLE = "Idle streams"
ABOUT = """
So many live streams that are silent after their first events, on a server of its own each time.
*Memory*: by how much the resident memory of the server's processes grew for each (of all but the
first hundred). Ours is measured twice: all streams
attached to one session, as viewers of one crawl are, and each with a run, log and session of its
own, as the peers' streams are, which have none. *New request*: from connecting to the first event
of a stream of one result, while all the others are open, one request after the other. What allows
no 10,000 streams and some new ones by default is told to: ours has three limits of just that many,
and granian one of 1,024 requests at once.
"""

WARM = 100
SETTLE_SECONDS = 1.5
REQUESTS = 100
STREAMS = (1_000, 10_000)
QUICK_STREAMS = (300,)
FRAMINGS = ("sse", "websocket")
NAMES = {"sse": "SSE stream", "websocket": "WebSocket"}
ASKED_KIB = {"sse": 14.0, "websocket": 19.0}
ASKED_REQUEST_MS = 50.0
EACH_ITS_RUN = f"{OURS.name}, a run each"
# Ten thousand streams, runs and sessions are what our settings allow by default: the new requests
# are beyond.
ALLOWED = {
    "EVENTMESH_STREAM__GENERAL__MAX_CONCURRENT_STREAMS": "11000",
    "EVENTMESH_MESH__MAX_RUNS": "11000",
    "EVENTMESH_MESH__MAX_SESSIONS": "11000",
}
Address = tuple[str, int]
Open = Callable[[], socket.socket]


@attrs.frozen
class Held:
    """What one server did with so many streams at once."""

    stream_bytes: float
    request_seconds: Sequence[float]


# --- Streams ------------------------------------------------------------------------------------


def open_stream(address: Address, request: bytes, awaited: bytes) -> socket.socket:
    """Ask, and read until the stream's first event is there."""
    with ExitStack() as opened_so_far:
        stream = opened_so_far.enter_context(socket.create_connection(address, 30))
        stream.sendall(request)
        read_until(stream, awaited)
        opened_so_far.pop_all()
    return stream


def open_socket(
    address: Address, target: str, message: bytes | None, opened: bytes, awaited: bytes
) -> socket.socket:
    """Open a WebSocket; where there is a message, send it when ``opened`` has come."""
    with ExitStack() as opened_so_far:
        stream = opened_so_far.enter_context(socket.create_connection(address, 30))
        stream.sendall(upgrade_request(target))
        if message is not None:
            read_until(stream, opened)
            stream.sendall(text_frame(message))
        read_until(stream, awaited)
        opened_so_far.pop_all()
    return stream


def own_streams(contestant: Contestant, framing: str = "sse") -> Callable[[Address], Open]:
    """Streams that ask for their events themselves; of ours, each begins a run in a session."""
    target = contestant.target(framing)
    if framing == "websocket":
        message = as_message(contestant, contestant.body(0, idle=True))
        opened = opened_by(contestant)
        return lambda address: partial(open_socket, address, target, message, opened, b'"metadata"')
    request = http_request(target, contestant.body(0, idle=True))
    return lambda address: partial(open_stream, address, request, b'"event":"metadata"')


def attached_streams(address: Address, framing: str = "sse") -> Open:
    """One run in one session, and readers that attach to it."""
    session = f"idle-{uuid.uuid4().hex[:8]}"
    body = OURS.body(0, idle=True)
    start = (
        f"POST /crawl/sse HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"X-Session-ID: {session}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    open_stream(address, start.encode() + body, b'"started"').close()
    if framing == "websocket":
        target = f"/crawl/ws?session_id={session}"
        return partial(open_socket, address, target, None, b"", b'"metadata"')
    attach = f"GET /crawl/sse/stream?session_id={session} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    return partial(open_stream, address, attach, b'"event":"metadata"')


# --- Measuring ----------------------------------------------------------------------------------


def first_event_seconds(contestant: Contestant, address: Address) -> float:
    """From connecting to the first result of a stream of one."""
    framing = "ndjson" if "ndjson" in contestant.framings else "websocket"
    target = contestant.target(framing)
    began = time.perf_counter()
    if framing == "ndjson":
        request = http_request(target, contestant.body(1))
        stream = open_stream(address, request, b'"event":"result"')
    else:
        message = contestant.message(1)
        stream = open_socket(address, target, message, b"\r\n\r\n", b'"event":"result"')
    seconds = time.perf_counter() - began
    stream.close()
    return seconds


@contextmanager
def _allowing_more() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(ALLOWED)
    try:
        yield
    finally:
        for name in ALLOWED:
            del os.environ[name]
        os.environ.update(before)


def measure(
    contestant: Contestant, streams: int, opener: Callable[[Address], Open], core: int | None = None
) -> Held:
    """Open so many streams at once, look, ask, and close them."""
    with _allowing_more(), serving(contestant, core) as (address, pid):
        open_one = opener(address)
        for _ in range(REQUESTS // 10):
            first_event_seconds(contestant, address)
        held = [open_one() for _ in range(min(WARM, streams // 2))]
        time.sleep(SETTLE_SECONDS)
        before, warm = resident_bytes(pid), len(held)
        held += [open_one() for _ in range(streams - warm)]
        time.sleep(SETTLE_SECONDS)
        growth = resident_bytes(pid) - before
        seconds = [first_event_seconds(contestant, address) for _ in range(REQUESTS)]
        for stream in held:
            stream.close()
    return Held(growth / (streams - warm), seconds)


def _entrants(
    able: Sequence[Contestant], framing: str
) -> Iterator[tuple[str, Contestant, Callable[[Address], Open]]]:
    yield OURS.name, OURS, partial(attached_streams, framing=framing)
    for contestant in able:
        if framing in contestant.framings:
            name = EACH_ITS_RUN if contestant.is_ours else contestant.name
            yield name, contestant, own_streams(contestant, framing)


def compare(options: Options, streams: Sequence[int] | None = None) -> Outcome:
    """All who can, for each number of streams and each framing; a server anew for each."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    able, missing = prepare()
    placed = cores()
    allowed = os.sched_getaffinity(0)
    if placed is not None:
        os.sched_setaffinity(0, {placed[1]})
    try:
        cases: list[Case] = []
        for number in streams or (QUICK_STREAMS if options.quick else STREAMS):
            for framing in FRAMINGS:
                found: dict[str, list[Held]] = {}
                failed: dict[str, str] = {}
                entrants = list(_entrants(able, framing))
                for number_of_round in range(options.rounds or 1):
                    turn = number_of_round % len(entrants)
                    for name, contestant, opener in (*entrants[turn:], *entrants[:turn]):
                        if name in failed:
                            continue
                        try:
                            held = measure(contestant, number, opener, placed and placed[0])
                        except (OSError, RuntimeError) as error:
                            if contestant.is_ours:
                                raise
                            failed[name] = f"{type(error).__name__}: {error}"
                            continue
                        found.setdefault(name, []).append(held)
                for name, failure in failed.items():
                    found.pop(name, None)
                    missing[f"{name} ({number:,} {NAMES[framing]}s)"] = failure
                cases += _cases(number, framing, found)
    finally:
        os.sched_setaffinity(0, allowed)
    return Outcome("idle", tuple(cases), tuple(demands(cases)), missing)


def _cases(streams: int, framing: str, found: dict[str, list[Held]]) -> Iterator[Case]:
    what = f"{streams:,} {NAMES[framing]}s"
    yield Case(
        f"Memory, {what}",
        "KiB a stream",
        tuple(
            Figure(name, tuple(one.stream_bytes / 1024 for one in rounds))
            for name, rounds in found.items()
        ),
        less_is_better=True,
    )
    figures = []
    for name, rounds in found.items():
        times = [in_ms(one.request_seconds) for one in rounds]
        every = in_ms([seconds for one in rounds for seconds in one.request_seconds])
        figures.append(Figure(name, tuple(time["worst_ms"] for time in times), every))
    yield Case(f"New request beside {what}", "ms, the worst", tuple(figures), less_is_better=True)


def demands(cases: Sequence[Case]) -> Iterator[Demand]:
    """Each framing's bounds, at the greatest number of streams that was measured."""
    for framing, asked in ASKED_KIB.items():
        mine = [case for case in cases if case.name.endswith(f" {NAMES[framing]}s")]
        for case, bound in zip(mine[-2:], (asked, ASKED_REQUEST_MS), strict=True):
            figure = case.figure(OURS.name)
            assert figure is not None
            yield Demand(
                f"{case.name}, attached to one session: at most {bound:g} {case.unit}",
                bound,
                figure.median,
                min(figure.rounds),
                max(figure.rounds),
                at_most=True,
            )


def main() -> None:
    parser = part_parser(__doc__)
    parser.add_argument("--streams", type=int, action="append", help="instead of the usual numbers")
    arguments = parser.parse_args()
    show_outcome(compare(Options(arguments.quick, arguments.rounds), arguments.streams))


if __name__ == "__main__":
    main()
