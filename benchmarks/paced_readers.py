"""Streams by a schedule, and how late each of their events came."""

import re
import selectors
import socket
import time
import uuid
from collections.abc import Sequence

from benchmarks.asking import as_message, opened_by, read_until, upgrade_request
from benchmarks.contestants import Contestant
from benchmarks.pace import Pace
from benchmarks.paced_contestants import OURS
from benchmarks.readers import http_request, text_frame

__all__ = ["EVENTS_PER_SECOND", "PacedReader", "measure_own", "measure_shared", "read_all"]

EVENTS_PER_SECOND = 1_000
LEAD_SECONDS = 0.3
"""From the request for a schedule to its first event; and more for each reader."""
LEAD_SECONDS_PER_READER = 0.005
PATIENCE_SECONDS = 20.0
BUFFER_BYTES = 1 << 20
_INDEX = re.compile(rb'"index":([0-9]+)[,}]')
_LONGEST_INDEX = len(b'"index":1000000000,')
Address = tuple[str, int]


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
