"""The same exchanges made from ASGI's ``(scope, receive, send)``, for hypercorn's trio worker.

What such a server does differently, and what is done about it here:

- ``send()`` returns quietly after the client has left: a task reads ``receive()`` all the time,
  and every send looks first whether it has seen the disconnect.
- ``send()`` runs in a shielded scope: no deadline of ours ends a write that stalls. It ends when
  the client leaves. Therefore nothing that others wait for may depend on it (runs do not).
- a client that pipelines hides its own disconnect: a streamed response has a maximum age.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import h11
import structlog
import trio

from eventmesh_trio.abc import Fields, Request, WebSocket
from eventmesh_trio.errors import (
    ConnectionBroken,
    InternalError,
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
    WebSocketClosed,
)
from eventmesh_trio.transport.departures import until_returned
from eventmesh_trio.transport.http import Handler, run_handler
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.http_head import decode_path
from eventmesh_trio.wire.problem import error_body, error_fields, error_status
from eventmesh_trio.wire.websocket import FrameStyle

__all__ = ["serve_asgi"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_REFUSED: Final = 1008
_TRY_LATER: Final = 1013

# What `send` raises when the client has left: ASGI 2.4 servers an OSError, and hypercorn the other
# where it closes the connection in the middle of our write.
_GONE: Final = (OSError, trio.BusyResourceError)

logger = structlog.get_logger("eventmesh_trio.transport")


async def serve_asgi(
    handler: Handler,
    scope: Mapping[str, Any],
    receive: Receive,
    send: Send,
    limits: TransportLimits,
) -> None:
    """Serve one ``http`` or ``websocket`` scope (ASGI 3.0).

    Returns in the middle of a response when the handler failed there: the server then cuts the
    connection, so that the client can tell. Cancelled: the server's shielded sends finish first.
    """
    async with trio.open_nursery() as nursery:
        inbox = _Inbox(receive, limits.max_receive_messages)
        nursery.start_soon(inbox.pump)
        exchange = _ASGIExchange(scope, inbox, send, limits)
        outcome = await run_handler(handler, exchange)
        failure = outcome.failure
        if exchange.websocket is not None:
            await exchange.websocket.aclose(1000 if failure is None else 1011)
        elif inbox.left.is_set():
            pass
        elif not exchange.started:
            if failure is None:
                logger.error("a handler returned without a response", path=exchange.request.path)
                failure = InternalError("the server failed to answer")
            await exchange.send_response(
                error_status(failure), error_fields(failure), error_body(failure, None)
            )
        elif failure is None and not exchange.ended and not exchange.expired:
            logger.error(
                "a handler returned in the middle of its response", path=exchange.request.path
            )
        nursery.cancel_scope.cancel()


class _Inbox:
    """Reads ``receive()`` into a bounded channel; ``left`` is set when the client has gone."""

    def __init__(self, receive: Receive, max_messages: int) -> None:
        self._receive = receive
        self._send_channel, self.messages = trio.open_memory_channel[Message](max_messages)
        self.left = trio.Event()
        self.close: Message = {}  # the disconnect message

    async def pump(self) -> None:
        with self._send_channel:
            while True:
                message = await self._receive()
                if message["type"] in ("http.disconnect", "websocket.disconnect"):
                    self.close = message
                    self.left.set()
                    return
                await self._send_channel.send(message)


class _ASGIExchange:
    """`eventmesh_trio.abc.Exchange` over ASGI."""

    def __init__(
        self, scope: Mapping[str, Any], inbox: _Inbox, send: Send, limits: TransportLimits
    ) -> None:
        self.request = _request(scope)
        self.websocket: _ASGIWebSocket | None = None
        self.started = False
        self.ended = False
        self.first_byte_at: float | None = None
        self._inbox = inbox
        self._send = send
        self._limits = limits
        self._is_websocket = scope["type"] == "websocket"
        # A handshake is refused with a response where the server can (a denial response).
        self._can_deny = "websocket.http.response" in (scope.get("extensions") or {})
        self._prefix = "websocket.http.response" if self._is_websocket else "http.response"
        self._head: Message | None = None
        self._body_taken = 0
        self._body_ended = self._is_websocket
        self._body_seconds_left = limits.body_seconds
        self._expires_at = trio.current_time() + limits.max_delivery_seconds

    @property
    def expired(self) -> bool:
        """Whether a streamed response has reached its maximum age."""
        return trio.current_time() >= self._expires_at

    # --- the request's body -------------------------------------------------------------------

    def body_nowait(self) -> bytes | None:
        return None  # messages come from a task of the server's: what has come is not known

    async def receive_some(self) -> bytes:
        length = self.request.field(b"content-length") or b""
        if length.isdigit() and int(length) > self._limits.max_body_bytes:
            raise PayloadTooLarge("the request body is too large")
        while not self._body_ended:
            message = await self._next_message()
            self._body_ended = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            self._body_taken += len(piece)
            if self._body_taken > self._limits.max_body_bytes:
                raise PayloadTooLarge("the request body is too large")
            if piece:
                return piece
        await trio.lowlevel.checkpoint()
        return b""

    async def _next_message(self) -> Message:
        began = trio.current_time()
        try:
            with trio.fail_after(max(0.0, self._body_seconds_left)):
                return await self._inbox.messages.receive()
        except trio.TooSlowError:
            raise RemoteProtocolError(
                "the request body did not come in time", status_hint=408
            ) from None
        except trio.EndOfChannel:
            raise ConnectionBroken("the client left before its request was complete") from None
        finally:
            self._body_seconds_left -= trio.current_time() - began

    # --- the response ---------------------------------------------------------------------------

    async def send_response(self, status: int, fields: Fields, body: bytes = b"") -> None:
        self._begin()
        self.ended = True
        if self._is_websocket and not self._can_deny:
            code = _TRY_LATER if status in (429, 503) else _REFUSED
            await self._write({"type": "websocket.close", "code": code, "reason": ""})
            return
        if status not in (204, 304):
            fields = [*fields, (b"content-length", b"%d" % len(body))]
        await self._write(self._start_message(status, fields))
        await self._write({"type": f"{self._prefix}.body", "body": body, "more_body": False})

    async def start_response(self, status: int, fields: Fields) -> None:
        self._begin()
        self._head = self._start_message(status, fields)
        await trio.lowlevel.checkpoint()

    def writable_bytes(self) -> int:
        return 0  # the server that hosts us does not tell

    async def send_some(self, *pieces: bytes) -> None:
        if not self.started or self.ended:
            raise LocalProtocolError("send_some belongs between start_response and end_response")
        if self.expired:
            raise ConnectionBroken("the response has reached its maximum age: reconnect")
        await self._flush_head()
        if body := b"".join(pieces):
            await self._write({"type": f"{self._prefix}.body", "body": body, "more_body": True})

    async def end_response(self) -> None:
        await self._flush_head()
        self.ended = True
        await self._write({"type": f"{self._prefix}.body", "body": b"", "more_body": False})

    def _begin(self) -> None:
        if self.started:
            raise LocalProtocolError("a response was started already")
        self.started = True

    def _start_message(self, status: int, fields: Fields) -> Message:
        return {"type": f"{self._prefix}.start", "status": status, "headers": list(fields)}

    async def _flush_head(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await self._write(head)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _write(self, message: Message) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._inbox.left.is_set():
            raise ConnectionBroken("the client closed the connection")
        if self.first_byte_at is None:
            self.first_byte_at = trio.current_time()
        try:
            await self._send(message)
        except _GONE as error:
            raise ConnectionBroken("the client closed the connection") from error

    async def wait_disconnected(self) -> None:
        with trio.move_on_at(self._expires_at):
            # What is left of the body must not keep the disconnect, which comes after it, out of
            # the bounded channel.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._discard_messages)
                await self._inbox.left.wait()
                if self.ended:
                    # ASGI says http.disconnect after a whole response too. Who took it for a
                    # departure would cancel the server in the middle of recycling the connection.
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()

    def until_disconnected(self) -> AbstractAsyncContextManager[trio.CancelScope]:
        return until_returned(self.wait_disconnected)

    async def _discard_messages(self) -> None:
        while not self._body_ended:
            try:
                message = await self._inbox.messages.receive()
            except trio.EndOfChannel:
                return
            self._body_ended = not message.get("more_body", False)

    # --- the upgrade ----------------------------------------------------------------------------

    async def accept_websocket(self, fields: Fields = ()) -> WebSocket:
        if not self._is_websocket:
            raise LocalProtocolError("the request is no WebSocket handshake")
        self._begin()
        await self._next_message()  # websocket.connect
        try:
            await self._write({"type": "websocket.accept", "headers": list(fields)})
        except h11.LocalProtocolError as error:
            # Hypercorn has no 101 for a client that sent more than its handshake at once.
            raise ConnectionBroken("bytes came before the handshake was answered") from error
        self.websocket = _ASGIWebSocket(self._inbox, self._send, self._limits)
        return self.websocket


class _ASGIWebSocket:
    """`eventmesh_trio.abc.WebSocket` over ASGI: pings, compression and frames are the server's."""

    takes_frames = False
    frame_style = FrameStyle()

    def __init__(self, inbox: _Inbox, send: Send, limits: TransportLimits) -> None:
        self._inbox = inbox
        self._send = send
        self._limits = limits
        self._closed: tuple[int, str] | None = None

    async def receive(self) -> str | bytes:
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            raise WebSocketClosed(*self._closed)
        try:
            received = await self._inbox.messages.receive()
        except trio.EndOfChannel:
            raise self._note_left() from None
        message: str | bytes | None = received.get("text")
        if message is None:
            message = bytes(received.get("bytes") or b"")
        if self._is_too_large(message):
            await self.aclose(1009, "the message is too large")
            raise WebSocketClosed(1009, "the message is too large")
        return message

    def _is_too_large(self, message: str | bytes) -> bool:
        limit = self._limits.max_message_bytes
        if len(message) * 4 <= limit:
            return False
        size = len(message) if isinstance(message, bytes) else len(message.encode("utf-8"))
        return size > limit

    def _note_left(self) -> WebSocketClosed:
        if self._closed is None:
            close = self._inbox.close
            self._closed = (int(close.get("code") or 1006), str(close.get("reason") or ""))
        return WebSocketClosed(*self._closed)

    async def send_message(self, message: str | bytes) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        await self._write({"type": "websocket.send", kind: message})

    async def send_texts(self, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            await self._write({"type": "websocket.send", "text": payload.decode("utf-8")})

    def writable_bytes(self) -> int:
        return 0  # as above

    async def send_frames(self, *frames: bytes) -> None:  # noqa: ARG002
        raise LocalProtocolError("under ASGI a WebSocket takes messages, not frames")

    async def _write(self, message: Message) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed is not None or self._inbox.left.is_set():
            raise self._note_left()
        try:
            await self._send(message)
        except _GONE as error:
            raise self._note_left() from error

    async def aclose(self, close_code: int = 1000, reason: str = "") -> None:
        """Ask the server for the close handshake, and wait ``close_seconds`` for its end."""
        if self._closed is None and not self._inbox.left.is_set():
            self._closed = (close_code, reason)
            with trio.move_on_after(self._limits.close_seconds):
                try:
                    await self._send(
                        {"type": "websocket.close", "code": close_code, "reason": reason}
                    )
                except _GONE:
                    return
                await self._wait_left()
        else:
            await trio.lowlevel.checkpoint()

    async def _wait_left(self) -> None:
        while not self._inbox.left.is_set():
            try:
                await self._inbox.messages.receive()
            except trio.EndOfChannel:
                return


def _request(scope: Mapping[str, Any]) -> Request:
    raw: bytes = scope.get("raw_path") or b""
    path: str = decode_path(raw) if raw else scope["path"]
    root: str = (scope.get("root_path") or "").rstrip("/")
    if root and path.startswith(root + "/"):
        path = path.removeprefix(root)
    client = scope.get("client")
    is_websocket = scope["type"] == "websocket"
    scheme = scope.get("scheme", "http")
    return Request(
        method="GET" if is_websocket else scope["method"],
        path=path or "/",
        query=scope.get("query_string", b""),
        fields=tuple((bytes(name), bytes(value)) for name, value in scope.get("headers", ())),
        http_version=scope.get("http_version", "1.1"),
        scheme="https" if scheme in ("https", "wss") else "http",
        peer=client[0] if client and client[0] else "",
        connection_id=f"conn-{secrets.token_hex(8)}",
        received_at=trio.current_time(),
        wants_websocket=is_websocket,
    )
