"""Writes that are cancelled in the middle: what reaches the peer is whole events, up to one cut."""

import json
import random
import zlib
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import pytest
import trio
from transport_harness import GET, LIMITS, HTTPPeer, upgrade_request
from trio.testing import MockClock, memory_stream_pair
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping

from eventmesh_trio.abc import Exchange, WebSocket
from eventmesh_trio.errors import WebSocketClosed
from eventmesh_trio.transport.http import serve_connection
from eventmesh_trio.wire.encoders import FlatEncoder, HTTPEncoder
from eventmesh_trio.wire.events import Start
from eventmesh_trio.wire.websocket import encode_deflated_frame, encode_frame

CANCELS: Final = 1000
EVENTS: Final = 8  # in one connection
Handler = Callable[[Exchange], Awaitable[None]]
Encode = Callable[[Start], bytes]


class Torn(trio.abc.Stream):
    """Takes each write in pieces, with pauses between them in which it can be cancelled."""

    def __init__(self, stream: trio.abc.Stream, choose: random.Random) -> None:
        self._stream = stream
        self._choose = choose
        self.cut = 0  # writes that were cancelled after a part of them was taken

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        at = 0
        try:
            while at < len(data):
                step = self._choose.randint(1, len(data) - at)
                await self._stream.send_all(data[at : at + step])
                at += step
                await trio.sleep(self._choose.choice([0, 0.01, 0.1]))
        except trio.Cancelled:
            self.cut += 0 < at < len(data)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def event(number: int) -> Start:
    """Numbered events of very different sizes."""
    return Start(
        timestamp="2026-01-01T00:00:00.000Z",
        total_urls=number,
        session_id="s" * (1 << number * 2),
        options={},
    )


def patience(choose: random.Random) -> float:
    return choose.choice([0.02, 0.1, 0.3, 1000])


# --- The two kinds of writers ---------------------------------------------------------------------


def streaming(choose: random.Random, encode: Encode) -> Handler:
    """Goes on after a write that was cancelled, as a handler with a farewell to say would."""

    async def handle(exchange: Exchange) -> None:
        await exchange.start_response(200, [(b"content-type", b"text/plain")])
        for number in range(EVENTS):
            with trio.move_on_after(patience(choose)):
                await exchange.send_some(encode(event(number)))
        await exchange.end_response()

    return handle


def conversing(choose: random.Random, encode: Encode) -> Handler:
    """Likewise, beside a reader that answers pings at any moment, and is cancelled as well."""

    async def write(websocket: WebSocket, scope: trio.CancelScope) -> None:
        try:
            for number in range(EVENTS):
                with trio.move_on_after(patience(choose)):
                    await websocket.send_texts([encode(event(number))])
        except WebSocketClosed:
            pass
        scope.cancel()

    async def read(websocket: WebSocket) -> None:
        while True:
            with trio.move_on_after(patience(choose)):
                await websocket.receive()

    async def handle(exchange: Exchange) -> None:
        websocket = await exchange.accept_websocket()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, websocket, nursery.cancel_scope)
            nursery.start_soon(read, websocket)

    return handle


# --- Strict readers of what came: they know every byte that may be there ------------------------


@attrs.frozen
class Chunks:
    """A chunked body: chunks of whole events, and at most a part of the next one."""

    encode: Encode

    def check(self, body: bytes) -> int:
        """How many events came whole."""
        count = 0
        while True:
            data = self.encode(event(count)) if count < EVENTS else b""
            chunk = b"%x\r\n%b\r\n" % (len(data), data)
            if not body.startswith(chunk):
                assert chunk.startswith(body), (count, body[:80])
                return count
            body = body[len(chunk) :]
            if not data:
                assert body == b""
                return count
            count += 1


@attrs.frozen
class Frames:
    """A server's frames: our events in order, pongs in order between them, and a close or a cut.

    An event may be missing: cancelled while it waited for a pong to be written, it never began.
    """

    encode: Encode

    def check(self, body: bytes) -> int:
        """How many events came whole."""
        texts = pongs = 0
        last = -1
        frames, rest = whole_frames(body)
        for first, payload in frames:
            if first == 0x8A:
                assert payload == b"%d" % pongs
                pongs += 1
            elif first in (0x81, 0xC1):
                text = payload if first == 0x81 else inflated(payload)
                number = json.loads(text)["total_urls"]
                assert number > last
                assert text == self.encode(event(number))
                texts, last = texts + 1, number
            else:
                assert first == 0x88, first
        possible = [encode_frame(b"%d" % pongs, 0xA)]
        for number in range(last + 1, EVENTS):
            text = self.encode(event(number))
            possible += [encode_frame(text), encode_deflated_frame(text)]
        assert rest[:1] == b"\x88" or any(frame.startswith(rest) for frame in possible), rest
        return texts


def whole_frames(body: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """First byte and payload of each whole frame, and what is left."""
    frames = []
    while len(body) >= 2:
        assert body[0] in (0x81, 0xC1, 0x8A, 0x88), f"no frame begins with {body[0]:#x}"
        assert body[1] < 128, "a server's frame is not masked"
        extra = {126: 2, 127: 8}.get(body[1], 0)
        size = int.from_bytes(body[2 : 2 + extra], "big") if extra else body[1]
        end = 2 + extra + size
        if len(body) < max(end, 2 + extra):
            break
        frames.append((body[0], body[2 + extra : end]))
        body = body[end:]
    return frames, body


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


# --- The test -----------------------------------------------------------------------------------


async def converse(peer: HTTPPeer, request: bytes, *, pings: int) -> bytes:
    """Send a request, then so many pings; all that came after the head of the response.

    The head itself may be cut as well: then nothing came after it.
    """
    await peer.send(request)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(60):  # a server that sent its close frame waits for ours
            while not peer.eof:
                await peer.more()
                if pings and b"\r\n\r\n" in peer.received:
                    nursery.start_soon(send_pings, peer, pings)
                    pings = 0
        nursery.cancel_scope.cancel()
    head, _, body = bytes(peer.received).partition(b"\r\n\r\n")
    assert b"HTTP/1.1 ".startswith(head[:9])
    return body


async def send_pings(peer: HTTPPeer, count: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    for number in range(count):
        try:
            await peer.send(bytes(client.send(Ping(b"%d" % number))))
        except trio.BrokenResourceError:
            return
        await trio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ndjson", "sse", "websocket", "websocket, compressed"])
async def test_a_thousand_cancels_in_mid_write_never_mix_bytes(
    autojump_clock: MockClock, protocol: str
) -> None:
    encode: Encode
    checker: Chunks | Frames
    if protocol in ("ndjson", "sse"):
        encode = HTTPEncoder("ndjson" if protocol == "ndjson" else "sse").encode
        request, make, checker, pings = GET, streaming, Chunks(encode), 0
    else:
        encode = FlatEncoder("message", "s").encode
        offer = [b"Sec-WebSocket-Extensions: permessage-deflate"] if "," in protocol else []
        request, make, checker, pings = upgrade_request(*offer), conversing, Frames(encode), 20
    connections = cancels = events = 0
    while cancels < CANCELS:
        choose = random.Random(connections)
        client, server = memory_stream_pair()
        torn = Torn(server, choose)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, torn, make(choose, encode), LIMITS)
            peer = HTTPPeer(client)
            events += checker.check(await converse(peer, request, pings=pings))
            await client.aclose()
        connections += 1
        cancels += torn.cut
    print(f"{protocol}: {cancels} writes cancelled in the middle, {connections} connections,")
    print(f"{events} whole events before the cuts, no mixed byte")
    assert events > CANCELS / 2
