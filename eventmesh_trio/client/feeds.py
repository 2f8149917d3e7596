"""One connection that events arrive on, in three framings: what a `Follower` strings together.

All three deliver the same events. The ``error`` event that NDJSON sends before the result of a URL
that failed is left out: the result says the same, and the other framings do not have it.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from eventmesh_trio.client.connection import Response
from eventmesh_trio.client.refusal import error_from_members
from eventmesh_trio.client.websocket import ClientWebSocket
from eventmesh_trio.errors import (
    ConflictError,
    NotFoundError,
    RemoteProtocolError,
    ValidationError,
)
from eventmesh_trio.wire.codec import AnyEvent, decode_event, decode_json, encode_json
from eventmesh_trio.wire.events import RunError, UnknownEvent
from eventmesh_trio.wire.ndjson import NDJSONDecoder
from eventmesh_trio.wire.sse import SSEDecoder

__all__ = ["AnyStreamEvent", "EnvelopeFeed", "Feed", "NDJSONFeed", "SSEFeed"]

AnyStreamEvent = AnyEvent | UnknownEvent

_REPLIES: Final = frozenset({"welcome", "pong", "paused", "resumed", "cancelled"})
"""Messages of a WebSocket that answer a command and say nothing about the log."""


class Feed(Protocol):
    """Events of one connection. One task receives."""

    @property
    def retry_seconds(self) -> float | None:
        """How long the server asked to wait before a reconnect."""
        ...

    async def receive(self) -> AnyStreamEvent | None:
        """The next event; None when the stream ended whole. Cancellation loses nothing.

        Raises:
          ConnectionBroken, WebSocketClosed: cut; what was received before has been delivered.
          RemoteProtocolError: what came is not of the protocol.
        """
        ...

    async def say_goodbye(self) -> None:
        """Tell the server that this reader leaves, where the protocol has words for it."""
        ...

    async def aclose(self) -> None:
        """Drop the connection at once; safe in a cancelled scope."""
        ...


def _decode(text: str | bytes) -> AnyStreamEvent:
    try:
        return decode_event(text)
    except ValidationError as error:
        raise RemoteProtocolError(f"the server sent no event: {error.message}") from error


class NDJSONFeed:
    """Events as the lines of a response."""

    retry_seconds: float | None = None

    def __init__(self, response: Response, max_event_bytes: int) -> None:
        self._response = response
        self._decoder = NDJSONDecoder(max_event_bytes)
        self._events: deque[AnyStreamEvent] = deque()
        self._ended = False

    async def receive(self) -> AnyStreamEvent | None:
        while not self._events:
            if self._ended:
                return None
            data = await self._response.receive_some()
            if data:
                self._decoder.receive_data(data)
            else:
                self._decoder.end()
                self._ended = True
            for line in self._decoder.events():
                event = _decode(line)
                if not (isinstance(event, RunError) and isinstance(event.url, str)):
                    self._events.append(event)
        return self._events.popleft()

    async def say_goodbye(self) -> None:
        """HTTP has no words for it."""

    async def aclose(self) -> None:
        await self._response.aclose()


class SSEFeed:
    """Events as the blocks of an event stream. Their ids are read from the JSON, as on the others:
    an SSE id stays in force for later events that have none."""

    def __init__(self, response: Response, max_event_bytes: int) -> None:
        self._response = response
        self._decoder = SSEDecoder(max_event_bytes=max_event_bytes)
        self._events: deque[AnyStreamEvent] = deque()

    @property
    def retry_seconds(self) -> float | None:
        milliseconds = self._decoder.retry_ms
        return None if milliseconds is None else milliseconds / 1000

    async def receive(self) -> AnyStreamEvent | None:
        while not self._events:
            data = await self._response.receive_some()
            if not data:
                return None
            self._decoder.receive_data(data)
            self._events.extend(_decode(block.data) for block in self._decoder.events())
        return self._events.popleft()

    async def say_goodbye(self) -> None:
        """HTTP has no words for it."""

    async def aclose(self) -> None:
        await self._response.aclose()


class _Envelope(msgspec.Struct):
    message_type: str
    data: msgspec.Raw
    id: str | None = None


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode


class EnvelopeFeed:
    """Events in the envelopes of a WebSocket, and the crawl that was asked for over it.

    On a new socket of an old session the server is asked which runs it has. If ours is not among
    them and no event of it ever came, the request got lost and is sent again; if some came, the
    run is lost, and `receive` says so.
    """

    retry_seconds: float | None = None

    def __init__(
        self, socket: ClientWebSocket, request_id: str, crawl: Mapping[str, Any], *, has_begun: bool
    ) -> None:
        self._socket = socket
        self._request_id = request_id
        self._crawl = crawl
        self._has_begun = has_begun  # an event of the run has come, over this or an earlier socket
        self._asked_again = False

    async def send_crawl(self) -> None:
        """Ask for the crawl. A cancelled or failed call leaves the socket unusable."""
        await self._send("crawl", {"request_id": self._request_id, **self._crawl})

    async def send_status(self) -> None:
        """Ask which runs there are; `receive` acts on the answer."""
        self._asked_again = True
        await self._send("status", {})

    async def receive(self) -> AnyStreamEvent | None:
        while True:
            text = await self._socket.receive()
            try:
                message = _decode_envelope(text)
            except (ValueError, RecursionError) as error:
                raise RemoteProtocolError("the server sent no message of ours") from error
            if message.message_type in _REPLIES:
                continue
            if message.message_type == "status":
                await self._take_status(decode_json(bytes(message.data)))
                continue
            if message.message_type == "error" and message.id is None:
                self._take_refusal(decode_json(bytes(message.data)))
                continue
            event = _decode(bytes(message.data))
            if _request_id_of(event) == self._request_id:
                self._has_begun = True
            return event

    async def say_goodbye(self) -> None:
        await self._socket.say_goodbye()

    async def aclose(self) -> None:
        await self._socket.aclose()

    async def _send(self, operation: str, data: Mapping[str, Any]) -> None:
        message = {"request_type": operation, "data": data}
        await self._socket.send(encode_json(message).decode())

    async def _take_status(self, data: Any) -> None:
        runs = data.get("requests") if isinstance(data, dict) else None
        known = [run.get("request_id") for run in runs or () if isinstance(run, dict)]
        if self._request_id in known:
            return
        if self._has_begun:
            raise NotFoundError("the server no longer has this run", context={"runs": known})
        await self.send_crawl()

    def _take_refusal(self, data: Any) -> None:
        members = data.get("error") if isinstance(data, dict) else None
        details = data.get("details") if isinstance(data, dict) else None
        error = error_from_members(
            {"details": details, **members} if isinstance(members, dict) else {}
        )
        ours = isinstance(details, dict) and details.get("request_id") == self._request_id
        if self._asked_again and ours and isinstance(error, ConflictError):
            return  # the first request was not lost after all, only late
        raise error


def _request_id_of(event: AnyStreamEvent) -> object:
    if isinstance(event, UnknownEvent):
        return event.members.get("request_id")
    return event.request_id
