"""One connection that events arrive on, in three framings: what a `Follower` strings together.

All three deliver the same events. The ``error`` event that NDJSON sends before the result of a URL
that failed is left out: the result says the same, and the other framings do not have it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import trio

from eventmesh_trio.client.connection import Response
from eventmesh_trio.client.refusal import error_from_members
from eventmesh_trio.client.websocket import ClientWebSocket
from eventmesh_trio.errors import (
    ConflictError,
    EventMeshError,
    NotFoundError,
    RemoteProtocolError,
    ValidationError,
)
from eventmesh_trio.wire.codec import AnyEvent, decode_event, decode_json, encode_json
from eventmesh_trio.wire.events import RunError, UnknownEvent
from eventmesh_trio.wire.ndjson import NDJSONDecoder
from eventmesh_trio.wire.sse import SSEDecoder

__all__ = ["AnyStreamEvent", "EnvelopeFeed", "Feed", "NDJSONFeed", "SSEFeed", "request_id_of"]

AnyStreamEvent = AnyEvent | UnknownEvent

_REPLIES: Final = frozenset({"welcome", "pong", "paused", "resumed", "cancelled"})
"""Messages of a WebSocket that answer a command and say nothing about the log."""


class Feed(Protocol):
    """Events of one connection. One task receives."""

    @property
    def retry_seconds(self) -> float | None:
        """How long the server asked to wait before a reconnect."""
        ...

    @property
    def request_id(self) -> str | None:
        """The run that the server says it is of: an equal request may have begun it before."""
        ...

    async def receive_batch(self) -> Sequence[AnyStreamEvent] | None:
        """The events that are there, maybe none; None when the stream ended whole.

        Cancellation loses nothing.
        Raises:
          ConnectionBroken, WebSocketClosed: cut; what was received before has been delivered.
          RemoteProtocolError: what came is not of the protocol.
          EventMeshError: a refusal that came over a WebSocket.
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


def _decode_reply(data: bytes) -> Any:
    try:
        return decode_json(data)
    except ValidationError as error:
        raise RemoteProtocolError(f"the server sent no reply: {error.message}") from error


class NDJSONFeed:
    """Events as the lines of a response."""

    retry_seconds: float | None = None

    def __init__(
        self, response: Response, max_event_bytes: int, request_id: str | None = None
    ) -> None:
        self.request_id = request_id
        self._response = response
        self._decoder = NDJSONDecoder(max_event_bytes)
        self._ended = False

    async def receive_batch(self) -> Sequence[AnyStreamEvent] | None:
        if self._ended:
            await trio.lowlevel.checkpoint()
            return None
        if data := await self._response.receive_some():
            self._decoder.receive_data(data)
        else:
            self._decoder.end()  # a last line without its newline counts
            self._ended = True
        return [event for line in self._decoder.events() if not _is_echo(event := _decode(line))]

    async def say_goodbye(self) -> None:
        """HTTP has no words for it."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._response.aclose()


def _is_echo(event: AnyStreamEvent) -> bool:
    return isinstance(event, RunError) and event.url is not msgspec.UNSET


class SSEFeed:
    """Events as the blocks of an event stream.

    Their ids are read from the JSON, as on the others: an SSE id stays in force for later events
    that have none.
    """

    def __init__(
        self, response: Response, max_event_bytes: int, request_id: str | None = None
    ) -> None:
        self.request_id = request_id
        self._response = response
        self._decoder = SSEDecoder(max_event_bytes=max_event_bytes)

    @property
    def retry_seconds(self) -> float | None:
        milliseconds = self._decoder.retry_ms
        return None if milliseconds is None else milliseconds / 1000

    async def receive_batch(self) -> Sequence[AnyStreamEvent] | None:
        data = await self._response.receive_some()
        if not data:
            return None
        self._decoder.receive_data(data)
        return [_decode(block.data) for block in self._decoder.events()]

    async def say_goodbye(self) -> None:
        """HTTP has no words for it."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._response.aclose()


class _Envelope(msgspec.Struct):
    message_type: str
    data: msgspec.Raw
    id: str | None = None


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode


class EnvelopeFeed:
    """Events in the envelopes of a WebSocket, and the run that was asked for over it.

    On a new socket of an old session the server is asked which runs it has. If ours is not among
    them and no event of it ever came, the request got lost and is sent again; if some came, the
    run is lost, and `receive_batch` says so.
    """

    retry_seconds: float | None = None

    def __init__(
        self,
        socket: ClientWebSocket,
        request_id: str,
        body: Mapping[str, Any],
        *,
        operation: str = "crawl",
        has_begun: bool,
    ) -> None:
        self.request_id = request_id
        self._socket = socket
        self._body = body
        self._operation = operation
        self._has_begun = has_begun  # an event of the run has come, over this or an earlier socket
        self._asked_again = False
        self._must_ask = False
        self._failure: EventMeshError | None = None

    async def send_request(self) -> None:
        """Ask for the run. A cancelled or failed call leaves the socket unusable."""
        await self._send(self._operation, {"request_id": self.request_id, **self._body})

    async def send_status(self) -> None:
        """Ask which runs there are; `receive_batch` acts on the answer."""
        self._asked_again = True
        await self._send("status", {})

    async def receive_batch(self) -> Sequence[AnyStreamEvent] | None:
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise self._failure
        if self._must_ask:  # here, where a cancellation loses no events
            await self.send_request()
            self._must_ask = False
        events: list[AnyStreamEvent] = []
        for text in await self._socket.receive_batch():
            try:
                event = self._take(text)
            except EventMeshError as error:
                self._failure = error  # after the events that came before it
                break
            if event is not None:
                events.append(event)
        return events

    def _take(self, text: str | bytes) -> AnyStreamEvent | None:
        try:
            message = _decode_envelope(text)
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError("the server sent no message of ours") from error
        data = bytes(message.data)
        if message.message_type in _REPLIES:
            return None
        if message.message_type == "status":
            self._take_status(_decode_reply(data))
            return None
        if message.message_type == "error" and message.id is None:
            self._take_refusal(_decode_reply(data))
            return None
        event = _decode(data)
        self._has_begun |= request_id_of(event) == self.request_id
        return event

    async def say_goodbye(self) -> None:
        await self._socket.say_goodbye()

    async def aclose(self) -> None:
        await self._socket.aclose()

    async def _send(self, operation: str, data: Mapping[str, Any]) -> None:
        message = {"request_type": operation, "data": data}
        await self._socket.send(encode_json(message).decode())

    def _take_status(self, data: Any) -> None:
        runs = data.get("requests") if isinstance(data, dict) else None
        known = [run.get("request_id") for run in runs or () if isinstance(run, dict)]
        if self.request_id in known:
            return
        if self._has_begun:
            raise NotFoundError("the server no longer has this run", context={"runs": known})
        self._must_ask = True

    def _take_refusal(self, data: Any) -> None:
        members = data.get("error") if isinstance(data, dict) else None
        details = data.get("details") if isinstance(data, dict) else None
        error = error_from_members(
            {"details": details, **members} if isinstance(members, dict) else {}
        )
        ours = isinstance(details, dict) and details.get("request_id") == self.request_id
        if self._asked_again and ours and isinstance(error, ConflictError):
            return  # the first request was not lost after all, only late
        raise error


def request_id_of(event: AnyStreamEvent) -> str | None:
    """The run that an event is of, where it says so."""
    value = event.members.get("request_id") if isinstance(event, UnknownEvent) else event.request_id
    return value if isinstance(value, str) else None
