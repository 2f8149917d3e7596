"""Clients without opinions: HTTP/1.1 by h11 on a plain socket, NDJSON, SSE, WebSocket by wsproto.

Nothing of the product is used here, so that a mistake of the product's codecs cannot hide itself.
All blocking, with a time limit on every read.
"""

import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import attrs
import h11
import wsproto
import wsproto.events as ws

READ_SECONDS = 20.0
Headers = Iterable[tuple[str, str]]


@attrs.frozen
class Response:
    status: int
    headers: Mapping[str, str]  # lower-case names; of a repeated one the values joined by ", "
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error object of a refusal."""
        return self.json()["error"]


@attrs.frozen
class StreamedEvent:
    """One event of a stream; ``kind`` and ``event_id`` as the framing told them."""

    kind: str
    data: dict[str, Any]
    event_id: str | None


class Connection:
    """One HTTP/1.1 connection. Use as a context manager, which closes it."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(READ_SECONDS)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address
        self.piece_bytes = 65536  # the most that is taken from the socket at once
        self.h11 = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Vanish: the peer gets an RST, not an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(
        self, method: str, target: str, headers: Headers = (), body: bytes | None = None
    ) -> None:
        fields = list(headers)
        names = {name.lower() for name, _ in fields}
        if "host" not in names:
            fields.insert(0, ("Host", f"{self.address[0]}:{self.address[1]}"))
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            fields.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=fields)
        data = self.h11.send(request) or b""
        if body:
            data += self.h11.send(h11.Data(data=body)) or b""
        data += self.h11.send(h11.EndOfMessage()) or b""
        # Refused before it read all: the answer may still be there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def events(self) -> Iterator[h11.Event]:
        while True:
            event = self.h11.next_event()
            if event is h11.NEED_DATA:
                self.h11.receive_data(self.socket.recv(self.piece_bytes))
            elif event is h11.PAUSED:
                return
            else:
                yield event  # type: ignore[misc]

    def read_head(self) -> int:
        for event in self.events():
            if isinstance(event, h11.Response):
                self.status = event.status_code
                for name, value in event.headers:
                    key, text = name.decode().lower(), value.decode()
                    self.headers[key] = (
                        f"{self.headers[key]}, {text}" if key in self.headers else text
                    )
                return self.status
        raise AssertionError("no response")

    def read_chunks(self) -> Iterator[bytes]:
        """The pieces of the body as they come; ends only at a proper end of the message."""
        for event in self.events():
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return

    def read_response(self) -> Response:
        status = self.read_head()
        return Response(status, self.headers, b"".join(self.read_chunks()))

    def read_events(self) -> Iterator[StreamedEvent]:
        """The events of an NDJSON or SSE response, by its content type."""
        media = self.headers["content-type"].partition(";")[0]
        parse = NDJSONParser() if media == "application/x-ndjson" else SSEParser()
        for chunk in self.read_chunks():
            yield from parse.feed(chunk)
        assert not parse.rest, f"the stream ended within an event: {parse.rest!r}"


class NDJSONParser:
    """Lines of JSON, whatever the pieces."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> Iterator[StreamedEvent]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line:
                event = json.loads(line)
                yield StreamedEvent(event["event"], event, event.get("id"))


class SSEParser:
    """WHATWG HTML, 9.2.6, for streams that end lines with LF. Keeps ``last_event_id``."""

    def __init__(self) -> None:
        self.rest = b""
        self.last_event_id: str | None = None
        self.retry_milliseconds: int | None = None
        self.comments: list[str] = []

    def feed(self, data: bytes) -> Iterator[StreamedEvent]:
        *blocks, self.rest = (self.rest + data).split(b"\n\n")
        for block in blocks:
            kind, pieces, own_id = "message", [], None
            for line in block.decode().split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not name:
                    self.comments.append(value)
                elif name == "event":
                    kind = value
                elif name == "data":
                    pieces.append(value)
                elif name == "id":
                    self.last_event_id = own_id = value
                elif name == "retry":
                    self.retry_milliseconds = int(value)
            if pieces:
                yield StreamedEvent(kind, json.loads("\n".join(pieces)), own_id)


class WebSocketClient:
    """A WebSocket that is cut, stopped and read byte by byte as a test likes."""

    def __init__(
        self,
        address: tuple[str, int],
        target: str,
        *,
        headers: Headers = (),
        receive_buffer: int | None = None,
    ) -> None:
        self.connection = Connection(address, receive_buffer=receive_buffer)
        self.socket = self.connection.socket
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.refused: int | None = None
        self.close_code: int | None = None
        self._text = ""
        self._messages: list[dict[str, Any]] = []
        extra = [(name.encode(), value.encode()) for name, value in headers]
        self.socket.sendall(
            self.protocol.send(
                ws.Request(host=f"{address[0]}:{address[1]}", target=target, extra_headers=extra)
            )
        )
        self._open = False
        while not self._open and self.refused is None:
            self.receive_bytes(512)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.connection.close()

    def send(self, message: Mapping[str, Any]) -> None:
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        self.socket.sendall(self.protocol.send(ws.TextMessage(data=text)))

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(self.protocol.send(ws.BytesMessage(data=data)))

    def receive_bytes(self, most: int = 65536) -> bytes:
        """Read once from the socket; complete messages become available to `receive`."""
        data = self.socket.recv(most)
        self.protocol.receive_data(data or None)
        for event in self.protocol.events():
            if isinstance(event, ws.AcceptConnection):
                self._open = True
            elif isinstance(event, ws.RejectConnection):
                self.refused = event.status_code
            elif isinstance(event, ws.TextMessage):
                self._text += event.data
                if event.message_finished:
                    self._messages.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, ws.Ping):
                self.socket.sendall(self.protocol.send(event.response()))
            elif isinstance(event, ws.CloseConnection):
                self.close_code = event.code
        return data

    def complete(self) -> list[dict[str, Any]]:
        """What has been read in whole so far, without reading more."""
        taken, self._messages = self._messages, []
        return taken

    def receive(self) -> dict[str, Any]:
        """The next message. Raises `EOFError` when the connection is closed instead."""
        while not self._messages:
            if self.close_code is not None or not self.receive_bytes():
                raise EOFError(f"closed with {self.close_code}")
        return self._messages.pop(0)

    def receive_until(self, tag: str) -> list[dict[str, Any]]:
        """All messages up to and including the first of a kind, in either dialect."""
        taken = [self.receive()]
        while tag_of(taken[-1]) != tag:
            taken.append(self.receive())
        return taken


def tag_of(message: Mapping[str, Any]) -> str:
    """What kind of message it is, in either dialect."""
    return str(message.get("message_type") or message.get("event"))


def request(
    address: tuple[str, int],
    method: str,
    target: str,
    headers: Headers = (),
    body: bytes | None = None,
) -> Response:
    """One request on a connection of its own."""
    with Connection(address) as connection:
        connection.send(method, target, headers, body)
        return connection.read_response()


def post_json(
    address: tuple[str, int], target: str, body: object, headers: Headers = ()
) -> Response:
    return request(
        address,
        "POST",
        target,
        [("Content-Type", "application/json"), *headers],
        json.dumps(body).encode(),
    )


def get_json(address: tuple[str, int], target: str) -> Any:
    response = request(address, "GET", target)
    assert response.status == 200, (target, response)
    return response.json()


def open_crawl(
    address: tuple[str, int],
    urls: list[str],
    options: Mapping[str, Any] | None = None,
    *,
    target: str = "/crawl/stream",
    headers: Headers = (),
    receive_buffer: int | None = None,
) -> Connection:
    """POST a crawl and read the head of its stream; the caller reads on, and closes."""
    connection = Connection(address, receive_buffer=receive_buffer)
    body = json.dumps(
        {"urls": urls, "options": {"respect_robots": False, **(options or {})}}
    ).encode()
    connection.send("POST", target, [("Content-Type", "application/json"), *headers], body)
    connection.read_head()
    return connection
