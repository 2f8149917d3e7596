"""New connections a second, each up to the first event of its stream.

``python -m benchmarks.connect [--quick] [--rounds 5] [--framing ndjson]``

Some clients at once: each connects, asks for a stream of one result, reads it to its end (a server
whose writes fail has more to do), closes, and begins anew. The servers run on one core, the driver
on another, and take turns.
"""

import os
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

import attrs

from benchmarks.asking import opened_by, upgrade_request
from benchmarks.command import part_parser, show_outcome
from benchmarks.contestants import FRAMINGS, Contestant, cores, prepare, start_all
from benchmarks.outcome import Case, Figure, Options, Outcome
from benchmarks.percentiles import in_ms
from benchmarks.readers import http_request, text_frame

TITLE = "New connections"
ABOUT = """
Sixteen clients at once: each connects, asks for a stream of one result, reads it, closes the
connection and begins anew. For ours each is a session and a run of its own; the peers know neither.
*p50* and *p99* are the times from connecting to the first event; the *driver* is how busy its own
core was.
"""

CLIENTS = 16
CONNECTIONS = 2_000
QUICK_CONNECTIONS = 200
WARM_CONNECTIONS = 100
ROUNDS = 5
PATIENCE_SECONDS = 20.0
NAMES = {"ndjson": "NDJSON", "sse": "SSE", "websocket": "WebSocket"}
FIRST_EVENT = b'"metadata"'
LAST_EVENT = b'"summary"'
Address = tuple[str, int]
Steps = Sequence[tuple[bytes, bytes]]
"""What a client sends, and what it awaits then; the first event, and last of all the last."""


@attrs.frozen
class Sitting:
    """One round of one server: each connection's seconds to its first event, and those of all."""

    seconds: Sequence[float]
    total_seconds: float
    busy: float  # of the driver's core, 0-1

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.total_seconds


def steps_of(contestant: Contestant, framing: str) -> Steps:
    target = contestant.target(framing)
    if framing != "websocket":
        request = http_request(target, contestant.body(1))
        return [(request, FIRST_EVENT), (b"", LAST_EVENT)]
    message = text_frame(contestant.message(1))
    return [
        (upgrade_request(target), opened_by(contestant)),
        (message, FIRST_EVENT),
        (b"", LAST_EVENT),
    ]


class Client:
    """One connection, from connecting to the last thing that it awaits.

    ``first_seconds``: when all but that had come.
    """

    def __init__(self, address: Address, steps: Steps) -> None:
        self.began = time.perf_counter()
        self.first_seconds = 0.0
        self.socket = socket.create_connection(address, PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._steps = list(steps)
        self._received = b""
        self.socket.sendall(self._steps[0][0])

    def take(self) -> bool:
        """Read once, and answer; whether all has come.

        Raises:
          RuntimeError: the server closed before.
        """
        piece = self.socket.recv(65536)
        if not piece:
            raise RuntimeError(f"no stream: {self._received[:300]!r}")
        self._received += piece
        while self._steps and self._steps[0][1] in self._received:
            self._received = self._received.partition(self._steps.pop(0)[1])[2]
            if len(self._steps) == 1:
                self.first_seconds = time.perf_counter() - self.began
            if self._steps and self._steps[0][0]:
                self.socket.sendall(self._steps[0][0])
        return not self._steps


def measure(address: Address, steps: Steps, connections: int, clients: int = CLIENTS) -> Sitting:
    """So many connections, ``clients`` of them at a time."""
    seconds: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        opened = 0
        while len(seconds) < connections:
            while opened < connections and opened - len(seconds) < clients:
                client = Client(address, steps)
                stack.callback(client.socket.close)
                selector.register(client.socket, selectors.EVENT_READ, client)
                opened += 1
            ready = selector.select(PATIENCE_SECONDS)
            if not ready:
                raise RuntimeError(f"nothing came for {PATIENCE_SECONDS:g} s")
            for key, _ in ready:
                client = key.data
                if client.take():
                    seconds.append(client.first_seconds)
                    selector.unregister(client.socket)
                    client.socket.close()
    total = time.perf_counter() - began
    return Sitting(seconds, total, (time.process_time() - cpu) / total)


def compare(options: Options, framings: Sequence[str] = FRAMINGS) -> Outcome:
    able, missing = prepare()
    placed = cores()
    allowed = os.sched_getaffinity(0)
    if placed is not None:
        os.sched_setaffinity(0, {placed[1]})
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    connections = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    cases = []
    try:
        with ExitStack() as stack:
            servers = start_all(stack, able, placed and placed[0], missing)
            for framing in framings:
                able_here = [(one, where) for one, where, _ in servers if framing in one.framings]
                cases.append(_case(able_here, framing, rounds, connections, missing))
    finally:
        os.sched_setaffinity(0, allowed)
    return Outcome("connect", tuple(cases), (), missing)


def _case(
    servers: Sequence[tuple[Contestant, Address]],
    framing: str,
    rounds: int,
    connections: int,
    missing: dict[str, str],
) -> Case:
    name = f"{NAMES[framing]}, {CLIENTS} clients"
    taken: dict[str, list[Sitting]] = {contestant.name: [] for contestant, _ in servers}
    for number in range(-1, rounds):
        # Another order each time; the first round only warms.
        turn = number % len(servers)
        for contestant, address in (*servers[turn:], *servers[:turn]):
            if contestant.name not in taken:
                continue
            count = connections if number >= 0 else min(connections, WARM_CONNECTIONS)
            try:
                sitting = measure(address, steps_of(contestant, framing), count)
            except (OSError, RuntimeError) as error:
                if contestant.is_ours:
                    raise
                missing[f"{contestant.name} ({name})"] = f"{type(error).__name__}: {error}"
                del taken[contestant.name]
                continue
            if number >= 0:
                taken[contestant.name].append(sitting)
    return Case(
        name,
        "connections/s",
        tuple(_figure(name, sittings) for name, sittings in taken.items()),
    )


def _figure(name: str, sittings: Sequence[Sitting]) -> Figure:
    times = in_ms([one for sitting in sittings for one in sitting.seconds])
    return Figure(
        name,
        tuple(sitting.rate for sitting in sittings),
        {
            "p50_ms": times["p50_ms"],
            "p99_ms": times["p99_ms"],
            "driver_percent": 100 * max(sitting.busy for sitting in sittings),
        },
    )


def main() -> None:
    parser = part_parser(__doc__)
    parser.add_argument("--framing", choices=FRAMINGS, action="append")
    arguments = parser.parse_args()
    options = Options(arguments.quick, arguments.rounds)
    show_outcome(compare(options, arguments.framing or FRAMINGS))


if __name__ == "__main__":
    main()
