"""Connections that are cut at any byte and in any way, and what of the stream had come in by then.

What is decoded is exactly the bytes up to the cut, by hand and from the first one on, so that no
buffer between the socket and the test makes a cut kinder than it is.
"""

import json
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final, Literal

import attrs
import trio

from tests.helpers.raw import NDJSONParser, SSEParser, StreamedEvent, tag_of

__all__ = [
    "WAYS",
    "Cut",
    "Framing",
    "Received",
    "Way",
    "draw_cut",
    "exchange",
    "frame",
    "head",
    "upgrade",
]

Framing = Literal["ndjson", "sse", "websocket"]
Way = Literal["reset", "close", "half close", "stall", "kill"]
WAYS: Final[tuple[Way, ...]] = ("reset", "close", "half close", "stall", "kill")

READ_SECONDS: Final = 20.0
_STALL_SECONDS: Final = 0.1
_EVENT_ENDS: Final = {"ndjson": b"}\n", "sse": b"\n\n"}
_RESET: Final = struct.pack("ii", 1, 0)
_RELAY: Final = """
import os, socket, sys
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
peer.sendall(bytes.fromhex(sys.argv[3]))
while data := peer.recv(4096):
    os.write(1, data)
"""


@attrs.frozen
class Cut:
    """Where and how: after so many bytes, or so many events and then bytes of what follows."""

    way: Way
    events: int | None
    nbytes: int

    def place(self, raw: bytes, framing: Framing) -> int | None:
        """The number of bytes to receive; None while that cannot be told from ``raw``."""
        if self.events is None:
            return self.nbytes
        ends = list(_frame_ends(raw)) if framing == "websocket" else _marks(raw, framing)
        return ends[self.events] + self.nbytes if len(ends) > self.events else None


def draw_cut(pick: Random, most_bytes: int) -> Cut:
    """In the head, anywhere, right after an event, or in the frame or chunk header that follows."""
    way = pick.choices(WAYS, (8, 8, 4, 2, 1))[0]
    match pick.randrange(4):
        case 0:
            return Cut(way, None, pick.randint(1, 700))
        case 1:
            return Cut(way, pick.randrange(4), 0)
        case 2:
            return Cut(way, pick.randrange(4), pick.randint(-2, 8))
        case _:
            return Cut(way, None, pick.randint(1, most_bytes))


@attrs.define
class Received:
    """What came in before the cut. ``status`` is 0 where not even the head did."""

    status: int = 0
    fields: dict[str, str] = attrs.field(factory=dict)
    events: list[StreamedEvent] = attrs.field(factory=list)
    ended: bool = False
    """The stream came to its own end, and was not cut."""


async def exchange(
    address: tuple[str, int],
    request: bytes,
    framing: Framing,
    cut: Cut | None,
    *,
    message: bytes = b"",
) -> Received:
    """Send a request on a connection of its own, and receive to its end or to the cut.

    ``message`` is sent when the head of the response is in; not with the way "kill".
    """
    raw = b""
    with trio.fail_after(READ_SECONDS):
        async with _connect(address, request, cut) as (receive, send, end):
            while True:
                if message and b"\r\n\r\n" in raw:
                    await send(message)
                    message = b""
                place = None if cut is None else cut.place(raw, framing)
                if cut is not None and place is not None and len(raw) >= place:
                    if cut.way == "half close":  # only our side ends here
                        raw += await end()
                    else:
                        raw = raw[: max(place, 0)]
                        await end()
                    break
                piece = await receive()
                raw += piece
                if not piece or _is_whole(raw, framing):
                    break
    return _decode(raw, framing)


Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[object]]


@asynccontextmanager
async def _connect(
    address: tuple[str, int], request: bytes, cut: Cut | None
) -> AsyncIterator[tuple[Receive, Send, Receive]]:
    """How to receive, send, and end it; what still comes after that end is returned by it."""
    if cut is not None and cut.way == "kill":
        relay = [sys.executable, "-I", "-S", "-c", _RELAY, address[0], str(address[1])]
        process = await trio.lowlevel.open_process([*relay, request.hex()], stdout=-1)
        assert process.stdout is not None

        async def kill() -> bytes:
            process.kill()
            await process.wait()
            return b""

        try:
            yield process.stdout.receive_some, _send_nothing, kill
        finally:
            await kill()
            await process.stdout.aclose()
        return
    client = trio.socket.socket()
    if cut is not None and cut.way == "stall":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client:
        await client.connect(address)
        await client.send(request)  # small: the socket's buffer takes it whole

        async def end() -> bytes:
            if cut is None or cut.way == "close":
                return b""
            if cut.way == "half close":
                client.shutdown(socket.SHUT_WR)
                rest = b""
                while piece := await client.recv(65536):
                    rest += piece
                return rest
            if cut.way == "stall":
                await trio.sleep(_STALL_SECONDS)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return b""

        async def receive() -> bytes:
            try:
                return await client.recv(4096)
            except ConnectionResetError:  # a server that is out of protocol with us
                return b""

        yield receive, client.send, end


async def _send_nothing(_: bytes) -> None:
    raise AssertionError("what is killed says only its request")


# --- What the bytes say ---------------------------------------------------------------------------


def _is_whole(raw: bytes, framing: Framing) -> bool:
    if framing == "websocket":
        return b'"summary"' in raw[-4096:] and any(
            event.kind == "summary" for event in _decode(raw, framing).events
        )
    if raw.endswith(b"0\r\n\r\n"):
        return True
    head, blank, body = raw.partition(b"\r\n\r\n")
    if not blank:
        return False
    fields = _fields(head)
    if head.split(b" ")[1] == b"204":
        return True
    return len(body) >= int(fields.get("content-length", "9999999"))


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }


def _decode(raw: bytes, framing: Framing) -> Received:
    head, blank, rest = raw.partition(b"\r\n\r\n")
    if not blank:
        return Received()
    received = Received(int(head.split(b" ")[1]), _fields(head))
    if received.status == 204:
        received.ended = True
    elif received.status == 101:
        for kind, payload in _frames(rest):
            if kind == 0x81:
                message = json.loads(payload)
                received.events.append(StreamedEvent(tag_of(message), message, message.get("id")))
            elif kind == 0x88:
                received.ended = True
    elif received.status == 200:
        body, received.ended = _unchunked(rest)
        parser = SSEParser() if framing == "sse" else NDJSONParser()
        received.events = list(parser.feed(body))
        assert not (received.ended and parser.rest), f"ended within an event: {parser.rest!r}"
    else:
        received.ended = True
        received.events = [StreamedEvent("refusal", json.loads(rest), None)]
    return received


def _unchunked(rest: bytes) -> tuple[bytes, bool]:
    """A chunked body as far as it came, and whether it came to its end (RFC 9112, 7.1)."""
    body = b""
    while True:
        line, crlf, rest = rest.partition(b"\r\n")
        if not crlf:
            return body, False
        size = int(line, 16)
        if size == 0:
            return body, rest == b"\r\n"
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False
        assert rest[size : size + 2] == b"\r\n"
        rest = rest[size + 2 :]


def _marks(raw: bytes, framing: Framing) -> list[int]:
    mark = _EVENT_ENDS[framing]
    start = raw.find(b"\r\n\r\n") + 4
    if start < 4:
        return []
    ends = []
    while (found := raw.find(mark, start)) >= 0:
        start = found + len(mark)
        ends.append(start)
    return ends


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames that are whole: first byte and payload (RFC 6455, 5.2)."""
    return [(data[start], data[body:end]) for start, body, end in _spans(data)]


def _frame_ends(raw: bytes) -> list[int]:
    head = raw.find(b"\r\n\r\n") + 4
    return [] if head < 4 else [head + end for _, _, end in _spans(raw[head:])]


def _spans(data: bytes) -> list[tuple[int, int, int]]:
    spans, start = [], 0
    while start + 2 <= len(data):
        size, body = data[start + 1], start + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, body = int.from_bytes(data[body : body + width], "big"), body + width
        if body + size > len(data):
            break
        spans.append((start, body, body + size))
        start = body + size
    return spans


def head(method: str, target: str, *fields: str) -> bytes:
    """A request without a body."""
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: cuts", *fields, "", "")).encode()


def upgrade(query: str, *fields: str) -> bytes:
    """The opening handshake of a socket, ``query`` as in ``session_id=x``."""
    return head(
        "GET",
        f"/crawl/ws?{query}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *fields,
    )


def frame(message: object) -> bytes:
    """A client's text frame, masked with zeros."""
    payload = json.dumps(message).encode()
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    else:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + payload
