"""A client of bytes for the transport's tests: h11's and wsproto's other halves over any stream."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import h11
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Message, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate

from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.http import Handler, serve_connection
from eventmesh_trio.transport.limits import TransportLimits

LIMITS = TransportLimits()
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WEBSOCKET_KEY = base64.b64encode(b"0123456789abcdef")


@attrs.frozen
class Answer:
    """A response as a client saw it; ``complete`` is False where its end was missing."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    complete: bool = True


@attrs.define(eq=False)
class HTTPPeer:
    """An HTTP/1.1 client that sends what it is told, right or wrong, and reads with h11."""

    stream: trio.abc.Stream
    received: bytearray = attrs.field(factory=bytearray)
    eof: bool = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            data = b""
        if data:
            self.received += data
        else:
            self.eof = True
        return data

    async def answer(self, method: str = "GET") -> Answer:
        """The next final response, whole or as much of it as came."""
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        if self.received:  # h11 takes no bytes for the end
            client.receive_data(bytes(self.received))
            self.received.clear()
        status, fields, body = 0, {}, b""
        while True:
            try:
                event = client.next_event()
            except h11.RemoteProtocolError:
                assert self.eof, "a malformed response"
                return Answer(status, fields, body, complete=False)
            if event is h11.NEED_DATA:
                client.receive_data(await self.more())
                self.received.clear()
            elif isinstance(event, h11.Response):
                status, fields = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.received += client.trailing_data[0]
                return Answer(status, fields, body)
            elif isinstance(event, h11.ConnectionClosed):
                return Answer(status, fields, body, complete=False)

    async def until(self, end: bytes) -> bytes:
        """Everything received up to and with ``end``."""
        while end not in self.received:
            assert await self.more(), f"{end!r} never came, but {bytes(self.received)!r}"
        at = self.received.index(end) + len(end)
        data = bytes(self.received[:at])
        del self.received[:at]
        return data

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while not self.eof:
            await self.more()
        return bytes(self.received)


@asynccontextmanager
async def http_peer(
    handler: Handler,
    limits: TransportLimits = LIMITS,
    *,
    drain: Drain | None = None,
    ends: bool = True,
) -> AsyncIterator[HTTPPeer]:
    """A client of one served connection. With ``ends``, closing it must end every task of it."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_connection, server, handler, limits, peer="192.0.2.1", drain=drain)
        nursery.start_soon(serve)
        peer = HTTPPeer(client)
        yield peer
        await client.aclose()
        if ends:
            await wait_all_tasks_blocked()
            # Its tasks are children of this one, and end before it does.
            assert not nursery.child_tasks, "the connection outlives its client"
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class WebSocketPeer:
    """wsproto's client over a stream whose handshake is done."""

    http: HTTPPeer
    proto: Connection
    head: bytes

    async def send(self, event: Event) -> None:
        await self.http.send(bytes(self.proto.send(event)))

    async def send_text(self, text: str) -> None:
        await self.send(TextMessage(text))

    async def next_event(self) -> Event | None:
        """The next event, None at the end of the connection."""
        while True:
            self.proto.receive_data(bytes(self.http.received))
            self.http.received.clear()
            for event in self.proto.events():
                return event
            if not await self.http.more():
                return None

    async def event(self) -> Event:
        event = await self.next_event()
        assert event is not None, "the connection ended"
        return event

    async def message(self) -> str | bytes:
        parts = []
        while True:
            event = await self.event()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts) if isinstance(event, TextMessage) else b"".join(parts)

    async def close_code(self) -> int:
        """The code of the server's close frame, which must be the next event."""
        event = await self.event()
        assert isinstance(event, CloseConnection), event
        return int(event.code)


def upgrade_request(*fields: bytes, target: bytes = b"/ws") -> bytes:
    return b"\r\n".join(
        [
            b"GET " + target + b" HTTP/1.1",
            b"Host: a",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: " + WEBSOCKET_KEY,
            *fields,
            b"",
            b"",
        ]
    )


async def open_websocket(
    http: HTTPPeer, *, deflate: bool = False, first: bytes = b""
) -> WebSocketPeer:
    """Do the handshake; ``first`` is sent in the same packet."""
    fields = [b"Sec-WebSocket-Extensions: permessage-deflate"] if deflate else []
    await http.send(upgrade_request(*fields) + first)
    return await websocket_over(http)


async def websocket_over(http: HTTPPeer) -> WebSocketPeer:
    """Read the response to an upgrade that was sent."""
    head = await http.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    extensions: list[Extension] = []
    if b"permessage-deflate" in head:
        extension = PerMessageDeflate()
        extension.finalize(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        )
        extensions.append(extension)
    return WebSocketPeer(http, Connection(ConnectionType.CLIENT, extensions), head)
