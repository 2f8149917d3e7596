"""How whole messages of the DevTools protocol travel: over a pair of pipes, or a WebSocket.

Over pipes each message ends in a NUL (``--remote-debugging-pipe``). No port is open then, so no
other user of the machine can drive the browser, and it ends when the pipe does.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol
from urllib.parse import urlsplit

import attrs
import trio
import trio_websocket

__all__ = ["MessageTooLarge", "PipeTransport", "Transport", "TransportLost", "open_websocket"]

_READ_BYTES: Final = 256 * 1024
# Of a message that is too large: an id stands at its start, a session's id at its end.
_EDGE_BYTES: Final = 256
_SPARED: Final = 4
"""A WebSocket's message of up to so many times the limit costs its page, and not the connection."""


class TransportLost(Exception):
    """The other side is gone, or broke the framing."""


class MessageTooLarge(Exception):
    """A message was over the limit and skipped; ``head`` and ``tail`` are what is left of it."""

    def __init__(self, head: bytes, tail: bytes) -> None:
        super().__init__("a message of the browser is too large")
        self.head = head
        self.tail = tail


class Transport(Protocol):
    async def send(self, message: bytes) -> None:
        """Send one message. Cancelled: the transport is broken. Raises `TransportLost`."""
        ...

    async def receive(self) -> bytes:
        """The next message. Cancellation loses nothing.

        Raises:
          TransportLost: there is none.
          MessageTooLarge: it was too large; the next call brings the one after it.
        """
        ...


@attrs.define(eq=False)
class PipeTransport:
    """Messages ended by NUL over two byte streams, which stay their owner's to close."""

    _sink: trio.abc.SendStream
    _source: trio.abc.ReceiveStream
    _max_message_bytes: int
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _searched: int = attrs.field(default=0, init=False)
    _skipped_head: bytes | None = attrs.field(default=None, init=False)

    async def send(self, message: bytes) -> None:
        try:
            await self._sink.send_all(message + b"\0")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportLost("the browser reads no more") from None

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            end = self._buffer.find(0, self._searched)
            if end >= 0:
                return self._take(end)
            self._searched = len(self._buffer)
            if self._searched > self._max_message_bytes:
                self._skip()
            try:
                data = await self._source.receive_some(_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise TransportLost("the browser is gone")
            self._buffer += data

    def _take(self, end: int) -> bytes:
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        head, self._skipped_head = self._skipped_head, None
        if head is None and len(message) > self._max_message_bytes:
            head = message[:_EDGE_BYTES]
        if head is not None:
            raise MessageTooLarge(head, message[-_EDGE_BYTES:])
        return message

    def _skip(self) -> None:
        """Let go of what is buffered but its edges; its end is still to come."""
        if self._skipped_head is None:
            self._skipped_head = bytes(self._buffer[:_EDGE_BYTES])
        del self._buffer[:-_EDGE_BYTES]
        self._searched = len(self._buffer)


@attrs.define(eq=False)
class _WebSocketTransport:
    _socket: trio_websocket.WebSocketConnection
    _max_message_bytes: int

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send_message(message.decode("utf-8"))
        except trio_websocket.ConnectionClosed as error:
            raise TransportLost(f"the browser's endpoint closed: {_why(error)}") from None

    async def receive(self) -> bytes:
        try:
            message = await self._socket.get_message()
        except trio_websocket.ConnectionClosed as error:
            raise TransportLost(f"the browser's endpoint closed: {_why(error)}") from None
        data = message.encode("utf-8") if isinstance(message, str) else message
        if len(data) > self._max_message_bytes:
            raise MessageTooLarge(data[:_EDGE_BYTES], data[-_EDGE_BYTES:])
        return data


def _why(error: trio_websocket.ConnectionClosed) -> str:
    reason = error.reason
    return "no reason given" if reason is None else f"{reason.code} {reason.reason or ''}".strip()


@asynccontextmanager
async def open_websocket(
    url: str, *, max_message_bytes: int, connect_seconds: float, farewell_seconds: float
) -> AsyncIterator[Transport]:
    """Connect to the ``webSocketDebuggerUrl`` of a browser.

    A message over the limit is the trouble of the page that it is about; one of several times that
    closes the connection, for there is no skipping of it.

    Raises:
      TransportLost: it cannot be connected to within ``connect_seconds``.
    """
    split = urlsplit(url)
    failure: Exception | None = None
    try:
        with trio.fail_after(connect_seconds):
            stream = await trio.open_tcp_stream(split.hostname or "", split.port or 80)
    except (OSError, trio.TooSlowError) as error:
        raise TransportLost(f"the browser's endpoint does not answer: {error}") from None
    try:
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(connect_seconds):
                    socket = await trio_websocket.wrap_client_stream(
                        nursery,
                        stream,
                        split.netloc,
                        split.path,
                        max_message_size=_SPARED * max_message_bytes,
                        receive_buffer_size=_READ_BYTES,
                    )
            except (
                trio.TooSlowError,
                trio_websocket.HandshakeError,
                trio_websocket.ConnectionClosed,
            ) as error:
                failure = error
            else:
                yield _WebSocketTransport(socket, max_message_bytes)
                with trio.move_on_after(farewell_seconds):
                    await socket.aclose()
            nursery.cancel_scope.cancel()
    finally:
        # The stream is ours: whatever became of the WebSocket, it is closed. Never waits.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    if failure is not None:
        raise TransportLost(f"what answers is no DevTools endpoint: {failure!r}")
