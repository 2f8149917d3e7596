"""Readers that only count: raw sockets, one loop, no parsing beyond the end of the stream.

The driver must not be the bottleneck: a reader receives into one buffer that all share and counts a
marker in it; `Measurement.busy` says which part of the time the driver's core was working.
"""

import base64
import os
import selectors
import socket
import time
from collections.abc import Sequence

import attrs

from benchmarks.synthetic import LARGE, MEDIUM, SMALL

BUFFER_BYTES = 1 << 20
RESULT = b'"event":"result"'
SMALL_EVENT = b'"event":"search_start"'
MARKERS = {SMALL: SMALL_EVENT, MEDIUM: RESULT, LARGE: RESULT}
"""What is counted, by the size of the events."""
END = b'"event":"summary"'
LIMIT_SECONDS = 120.0


@attrs.frozen
class Measurement:
    """One run of all readers: ``seconds`` from the first request to the last reader's end.

    ``results``: the events that came, of the ``expected``.
    """

    results: int
    expected: int
    nbytes: int
    seconds: float
    first_byte_seconds: tuple[float, ...]
    busy: float  # of the driver's core, 0-1

    @property
    def rate(self) -> float:
        """Events a second, of all readers together."""
        return self.results / self.seconds


class Reader:
    """One stream: counts its events by their marker until the summary has come in."""

    def __init__(self, address: tuple[str, int], marker: bytes = RESULT) -> None:
        self.socket = socket.create_connection(address, 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.results = 0
        self.nbytes = 0
        self.ended = False
        self.asked_at = 0.0
        self.first_byte_at: float | None = None
        self._marker = marker
        self._longest = max(len(marker), len(END))
        self._tail = b""

    def ask(self, request: bytes) -> None:
        self.asked_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> None:
        """Wait for the first piece of the stream, and count it."""
        piece = bytearray(BUFFER_BYTES)
        self.take(piece, self.socket.recv_into(piece))

    def take(self, data: bytearray, size: int) -> None:
        """Count what was received; a marker may be split between two pieces."""
        if self.first_byte_at is None:
            self.first_byte_at = time.perf_counter()
        self.nbytes += size
        self.results += data.count(self._marker, 0, size)
        # What is split between this piece and the one before has its first half in the tail.
        before = self._tail[-(len(self._marker) - 1) :]
        self.results += self._marker in before + data[: min(size, len(self._marker) - 1)]
        seam = self._tail + data[: min(size, len(END) - 1)]
        self.ended = self.ended or data.find(END, max(0, size - 8192), size) >= 0 or END in seam
        self._tail = (self._tail + data[max(0, size - self._longest) : size])[-self._longest :]


def http_request(target: str, body: bytes, *fields: str) -> bytes:
    """A POST of JSON, with further fields as they are written."""
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        *fields,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def upgrade_request(target: str) -> bytes:
    """The client's part of the opening handshake (RFC 6455, section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def open_websocket(reader: Reader, target: str, *, welcomes: bool) -> None:
    """The opening handshake, and our server's first message (RFC 6455, section 4)."""
    reader.socket.sendall(upgrade_request(target))
    received = b""
    while b"\r\n\r\n" not in received or (welcomes and b'"welcome"' not in received):
        piece = reader.socket.recv(65536)
        if not piece:
            raise RuntimeError(f"no WebSocket: {received[:200]!r}")
        received += piece


def text_frame(payload: bytes) -> bytes:
    """A masked text frame, as clients send it; the mask is zero, which masks nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload


def measure(
    readers: Sequence[Reader],
    request: bytes | Sequence[bytes],
    expected_each: int,
    *,
    lossless: bool = True,
) -> Measurement:
    """Ask on all connections, read until every stream has ended, and close them.

    Args:
      request: one for all, or one for each; nothing is sent where it is empty.
      lossless: whether every stream must bring all of the events.
    Raises:
      RuntimeError: a stream ended early, brought another number of events, or took too long.
    """
    requests = [request] * len(readers) if isinstance(request, bytes) else request
    buffer = bytearray(BUFFER_BYTES)
    with selectors.DefaultSelector() as selector:
        cpu, started = time.process_time(), time.perf_counter()
        for reader, own in zip(readers, requests, strict=True):
            if own:
                reader.ask(own)
            reader.socket.setblocking(False)
            selector.register(reader.socket, selectors.EVENT_READ, reader)
        live = len(readers)
        while live:
            ready = selector.select(LIMIT_SECONDS)
            if not ready:
                raise RuntimeError(f"nothing came for {LIMIT_SECONDS} s")
            for key, _ in ready:
                reader = key.data
                size = reader.socket.recv_into(buffer)
                if size:
                    reader.take(buffer, size)
                if reader.ended or not size:
                    selector.unregister(reader.socket)
                    live -= 1
        seconds = time.perf_counter() - started
        busy = (time.process_time() - cpu) / seconds
    for reader in readers:
        reader.socket.close()
        if not reader.ended or (lossless and reader.results != expected_each):
            raise RuntimeError(f"a stream brought {reader.results} events, not {expected_each}")
    return Measurement(
        results=sum(reader.results for reader in readers),
        expected=expected_each * len(readers),
        nbytes=sum(reader.nbytes for reader in readers),
        seconds=seconds,
        first_byte_seconds=tuple((r.first_byte_at or 0.0) - r.asked_at for r in readers),
        busy=busy,
    )
