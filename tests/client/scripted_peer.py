"""A scripted peer: a server side of memory streams that says what the test tells it to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import msgspec
import trio
import trio.testing
import wsproto
from wsproto import events as ws

from eventmesh_trio.client.address import Address
from eventmesh_trio.client.client import Client, open_client
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.wire.codec import decode_json, encode_json
from eventmesh_trio.wire.events import CrawlStart, Event, Summary
from eventmesh_trio.wire.ndjson import encode_line
from eventmesh_trio.wire.sse import encode_block

NOW = "2026-01-02T03:04:05.678Z"


def crawl_start(request_id: str, total: int = 1) -> CrawlStart:
    """A logged event with few members; its ``total_urls`` tells one from another."""
    return CrawlStart(timestamp=NOW, request_id=request_id, total_urls=total)


def summary(request_id: str, status: str = "completed") -> Summary:
    counts = {"total_urls": 1, "successful": 1, "failed": 0, "cancelled": 0, "from_cache": 0}
    times = {"total_processing_time_ms": 1, "total_time_ms": 1, "cache_hit_rate": 0.0}
    averages = {"avg_processing_time_ms": 1.0, "average_processing_time_ms": 1.0}
    performance = {
        "avg_processing_time_ms": 1.0,
        "fastest_processing_ms": 1,
        "slowest_processing_ms": 1,
        "throughput_per_second": 1.0,
        "total_bytes_transferred": 1,
    }
    analysis = {"error_types": {}, "retryable_errors": 0, "permanent_failures": 0}
    return msgspec.convert(
        {
            **counts,
            **times,
            **averages,
            "event": "summary",
            "timestamp": NOW,
            "request_id": request_id,
            "status": status,
            "session_id": "s",
            "performance_summary": performance,
            "gate_decisions": {},
            "error_analysis": analysis,
        },
        Summary,
    )


def body_of(event: Event, event_id: str | None) -> bytes:
    return encode_json(event if event_id is None else msgspec.structs.replace(event, id=event_id))


def framed(framing: str, event: Event, event_id: str | None) -> bytes:
    body = body_of(event, event_id)
    if framing == "ndjson":
        return encode_line(body)
    return encode_block(str(type(event).__struct_config__.tag), body, event_id)


MEDIA = {"sse": "text/event-stream; charset=utf-8", "ndjson": "application/x-ndjson"}


@attrs.define(eq=False)
class Incoming:
    """One connection of the peer, with its request read."""

    stream: trio.abc.Stream
    connection: h11.Connection
    method: str
    target: str
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return decode_json(self.body)

    @property
    def request_id(self) -> str:
        return self.fields[b"x-request-id"].decode()

    async def answer(self, status: int, document: object, **fields: str) -> None:
        data = encode_json(document)
        head = [("Content-Length", str(len(data))), ("Content-Type", "application/json")]
        head += [(name.replace("_", "-"), value) for name, value in fields.items()]
        await self._send(
            h11.Response(status_code=status, headers=head), h11.Data(data=data), h11.EndOfMessage()
        )

    async def begin(self, framing: str, **fields: str) -> None:
        head = [("Content-Type", MEDIA[framing]), ("Transfer-Encoding", "chunked")]
        head += [(name.replace("_", "-"), value) for name, value in fields.items()]
        await self._send(h11.Response(status_code=200, headers=head))

    async def no_content(self) -> None:
        await self._send(h11.Response(status_code=204, headers=[]), h11.EndOfMessage())

    async def send(self, *pieces: bytes) -> None:
        await self._send(h11.Data(data=b"".join(pieces)))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def cut(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def _send(self, *events: h11.Event) -> None:
        await self.stream.send_all(b"".join(self.connection.send(e) or b"" for e in events))


@attrs.define(eq=False)
class IncomingSocket:
    """One WebSocket of the peer, its handshake done."""

    stream: trio.abc.Stream
    protocol: wsproto.WSConnection
    target: str
    pongs: list[bytes] = attrs.Factory(list)
    _events: list[ws.Event] = attrs.Factory(list)

    @classmethod
    async def accept(cls, stream: trio.abc.Stream) -> "IncomingSocket":
        protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        protocol.receive_data(await stream.receive_some())
        (request,) = protocol.events()
        assert isinstance(request, ws.Request)
        await stream.send_all(protocol.send(ws.AcceptConnection()))
        return cls(stream, protocol, request.target)

    async def send(self, *events: ws.Event) -> None:
        await self.stream.send_all(b"".join(self.protocol.send(event) for event in events))

    async def reply(self, tag: str, data: object) -> None:
        message = {"message_type": tag, "data": data, "timestamp": NOW}
        await self.send(ws.TextMessage(data=encode_json(message).decode()))

    async def publish(self, event: Event, event_id: str | None) -> None:
        await self.send(envelope(event, event_id))

    async def receive(self) -> Any:
        """The next JSON message, or the close code."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, ws.TextMessage):
                    return decode_json(event.data)
                if isinstance(event, ws.Pong):
                    self.pongs.append(bytes(event.payload))
                if isinstance(event, ws.CloseConnection):
                    return event.code
            self.protocol.receive_data(await self.stream.receive_some() or None)
            self._events.extend(self.protocol.events())


def envelope(event: Event, event_id: str | None) -> ws.TextMessage:
    message: dict[str, object] = {
        "message_type": str(type(event).__struct_config__.tag),
        "data": msgspec.Raw(body_of(event, event_id)),
        "timestamp": NOW,
    }
    if event_id is not None:
        message["id"] = event_id
    return ws.TextMessage(data=encode_json(message).decode())


Handler = Callable[[Incoming], Awaitable[None]]
SocketHandler = Callable[[IncomingSocket], Awaitable[None]]


class Peer:
    """Serves each new connection with the next script; `dial` is the client's ``open_stream``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scripts: list[tuple[str, Any]] = []
        self.requests: list[Incoming] = []
        self.dialled_at: list[float] = []
        self.open_streams = 0

    def on_request(self, handler: Handler) -> Handler:
        self._scripts.append(("http", handler))
        return handler

    def on_socket(self, handler: SocketHandler) -> SocketHandler:
        self._scripts.append(("ws", handler))
        return handler

    def refuse_dial(self, count: int = 1) -> None:
        self._scripts += [("refuse", None)] * count

    def stop(self) -> None:
        """End the scripts that never end by themselves."""
        self._nursery.cancel_scope.cancel()

    async def dial(self, address: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled_at.append(trio.current_time())
        kind, handler = self._scripts.pop(0) if self._scripts else ("refuse", None)
        if kind == "refuse":
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, kind, theirs, handler)
        return ours

    async def _serve(self, kind: str, stream: trio.abc.Stream, handler: Any) -> None:
        self.open_streams += 1
        try:
            if kind == "ws":
                await handler(await IncomingSocket.accept(stream))
            else:
                incoming = await self._read_request(stream)
                self.requests.append(incoming)
                await handler(incoming)
            # Until the client lets go.
            while await stream.receive_some():
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open_streams -= 1
            await trio.aclose_forcefully(stream)

    async def _read_request(self, stream: trio.abc.Stream) -> Incoming:
        connection = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return Incoming(
                    stream,
                    connection,
                    head.method.decode(),
                    head.target.decode(),
                    dict(head.headers),
                    body,
                )
            else:
                raise trio.BrokenResourceError


LIMITS = ClientLimits()


@asynccontextmanager
async def open_peer(limits: ClientLimits = LIMITS) -> AsyncIterator[tuple[Peer, Client]]:
    """A peer and a client of it; when the block ends, no connection may be open."""
    async with trio.open_nursery() as nursery:
        peer = Peer(nursery)
        async with open_client("http://mesh.test", limits=limits, open_stream=peer.dial) as client:
            yield peer, client
        if not nursery.cancel_scope.cancel_called:
            await trio.testing.wait_all_tasks_blocked()
            assert peer.open_streams == 0, "a connection outlived its block"
            nursery.cancel_scope.cancel()
