"""The limit: bare non-blocking sockets in one loop of plain Python, with no protocol to speak of.

``python -m benchmarks.bare PORT [encode]``: reads a request up to the end of its body, answers with
a head that never changes, and sends events in batches until the connection is closed by their end.
Without ``encode`` the batches are the same bytes again and again; with it every event is built and
encoded (the same structs as ours, by msgspec).
"""

import selectors
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from benchmarks.synthetic import MAKERS, MEDIUM
from eventmesh_trio.wire.events import Event, stamp

BATCH_BYTES: Final = 1 << 18
"""What is handed to a socket at once. An event of 1.4 KB, encoded before, took 0.63 us of processor
time with 16 KiB, 0.43 with 64, 0.31 with 256 and 0.26 with 512, where no more arrived."""
REQUEST_ID: Final = "req-00000000-0000-0000-0000-000000000000"
EPOCH: Final = "epoch-000000"
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"
_MEDIA_TYPES: Final = {b"/ndjson": b"application/x-ndjson", b"/sse": b"text/event-stream"}
_END: Final = b'{"event":"summary"}'


class Asked(msgspec.Struct):
    """A request, as the peers are sent it too."""

    n: int
    size: int = MEDIUM


def frame_line(_: Event, body: bytes) -> bytes:
    return body + b"\n"


def frame_block(event: Event, body: bytes) -> bytes:
    kind = type(event).__struct_config__.tag
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(event.id).encode(), str(kind).encode(), body)


Frame = Callable[[Event, bytes], bytes]
FRAMES: Final[dict[bytes, Frame]] = {b"/ndjson": frame_line, b"/sse": frame_block}


def encoded_batches(asked: Asked, frame: Frame) -> Iterator[bytes]:
    """Every event built and encoded, joined up to ``BATCH_BYTES``."""
    make, encode, total = MAKERS[asked.size], msgspec.json.Encoder().encode, asked.n
    batch, held = [], 0
    for index in range(total):
        event = stamp(make(index, total, REQUEST_ID), f"{EPOCH}-{index + 1}")
        body = frame(event, encode(event))
        batch.append(body)
        held += len(body)
        if held >= BATCH_BYTES:
            yield b"".join(batch)
            batch, held = [], 0
    yield b"".join(batch) + _END


def repeated_batches(asked: Asked, frame: Frame) -> Iterator[bytes]:
    """As many events as were asked for, each the same bytes, none of them encoded here."""
    event = stamp(MAKERS[asked.size](0, asked.n, REQUEST_ID), f"{EPOCH}-1")
    body = frame(event, msgspec.json.encode(event))
    each = max(1, BATCH_BYTES // len(body))
    batch = body * each
    for _ in range(asked.n // each):
        yield batch
    yield body * (asked.n % each) + _END


class Connection:
    """A socket, what has come of its request, and what is left to be sent."""

    def __init__(self, stream: socket.socket, batches: Callable[[Asked, Frame], Iterator[bytes]]):
        self.stream = stream
        self._make_batches = batches
        self._received = b""
        self._batches: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")

    def receive(self) -> int:
        """The readiness to wait for next; 0 where the peer has left."""
        piece = self.stream.recv(65536)
        self._received += piece
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not piece or not complete:
            return selectors.EVENT_READ if piece else 0
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        if len(body) < length:
            return selectors.EVENT_READ
        target = head.split()[1]
        asked = msgspec.json.decode(body, type=Asked)
        self._batches = self._make_batches(asked, FRAMES[target])
        self._rest = memoryview(_HEAD % _MEDIA_TYPES[target])
        return selectors.EVENT_WRITE

    def send(self) -> int:
        """One batch, or as much of it as the socket takes; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._batches, b""))
            if not self._rest:
                return 0
        self._rest = self._rest[self.stream.send(self._rest) :]
        return selectors.EVENT_WRITE


def serve(port: int, batches: Callable[[Asked, Frame], Iterator[bytes]]) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, ready in selector.select():
                if key.data is None:
                    stream, _ = listener.accept()
                    stream.setblocking(False)
                    selector.register(stream, selectors.EVENT_READ, Connection(stream, batches))
                    continue
                connection: Connection = key.data
                try:
                    writes = ready & selectors.EVENT_WRITE
                    wanted = connection.send() if writes else connection.receive()
                except ConnectionError:
                    wanted = 0
                if not wanted:
                    selector.unregister(connection.stream)
                    connection.stream.close()
                elif wanted != key.events:
                    selector.modify(connection.stream, wanted, connection)


if __name__ == "__main__":
    serve(int(sys.argv[1]), encoded_batches if "encode" in sys.argv[2:] else repeated_batches)
