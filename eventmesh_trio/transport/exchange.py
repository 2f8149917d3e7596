"""One request and its response on a native HTTP/1.1 connection: `eventmesh_trio.abc.Exchange`."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from types import TracebackType

import trio

from eventmesh_trio.abc import Fields, Request, WebSocket
from eventmesh_trio.errors import (
    ConnectionBroken,
    LocalProtocolError,
    PayloadTooLarge,
    RemoteProtocolError,
)
from eventmesh_trio.transport.departures import Departures, until_returned
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.link import Link, are_small
from eventmesh_trio.transport.websocket import NativeWebSocket
from eventmesh_trio.wire.http11 import ServerConnection
from eventmesh_trio.wire.websocket import negotiate

__all__ = ["HTTPExchange", "date_field"]

_date: tuple[int, bytes] = (0, b"")


def date_field() -> tuple[bytes, bytes]:
    """The ``Date`` field of now (RFC 9110, section 6.6.1), formatted once a second."""
    global _date  # noqa: PLW0603  (a memo of the clock, no state)
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True).encode("ascii"))
    return (b"date", _date[1])


class HTTPExchange:
    """Made by `eventmesh_trio.transport.http.serve_connection` for each request.

    A client that ends its side of the connection counts as gone for `wait_disconnected`: TCP does
    not tell a half-closed client from a vanished one. A whole response is still sent to it.
    """

    __slots__ = (
        "_body_seconds_left",
        "_body_taken",
        "_close_after",
        "_ended",
        "_first_byte_at",
        "_held",
        "_limits",
        "_link",
        "_wire",
        "request",
        "websocket",
    )

    def __init__(
        self, request: Request, link: Link, wire: ServerConnection, close_after: Callable[[], bool]
    ) -> None:
        self.request = request
        self.websocket: NativeWebSocket | None = None
        self._link = link
        self._wire = wire
        self._limits: TransportLimits = link.limits
        self._close_after = close_after
        self._held = b""  # a head that waits for its first piece of body
        self._ended = False
        self._first_byte_at: float | None = None
        self._body_taken = 0
        self._body_seconds_left = link.limits.body_seconds

    @property
    def started(self) -> bool:
        return not self._wire.can_answer

    @property
    def ended(self) -> bool:
        """Whether the whole response was written."""
        return self._ended

    @property
    def first_byte_at(self) -> float | None:
        return self._first_byte_at

    # --- the request's body -----------------------------------------------------------------

    async def receive_some(self) -> bytes:
        wire, link = self._wire, self._link
        fresh = False
        while True:
            piece = wire.next_body(self._limits.max_body_bytes - self._body_taken)
            if piece is not None:
                self._body_taken += len(piece)
                if not fresh:
                    await trio.lowlevel.checkpoint()
                return piece
            if wire.awaits_continue:
                await link.write(wire.send_continue())
            wire.receive_data(await self._read_body())
            if link.peer_left and not wire.request_complete:
                raise ConnectionBroken("the client left before its request was complete")
            fresh = True

    def body_nowait(self) -> bytes | None:
        if not self._wire.has_whole_body:
            return None
        pieces = []
        while piece := self._wire.next_body(self._limits.max_body_bytes - self._body_taken):
            self._body_taken += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    async def _read_body(self) -> bytes:
        began = trio.current_time()
        with trio.move_on_after(max(0.0, self._body_seconds_left)) as scope:
            data = await self._link.read()
        self._body_seconds_left -= trio.current_time() - began
        if scope.cancelled_caught:
            raise RemoteProtocolError("the request body did not come in time", status_hint=408)
        return data

    async def discard_body(self) -> bool:
        """Read the rest of the body away, bounded in bytes and time; False if it is too much."""
        wire, left = self._wire, self._limits.max_drained_bytes
        with trio.move_on_after(self._limits.farewell_seconds):
            while not wire.request_complete:
                try:
                    piece = wire.next_body(left)
                except (RemoteProtocolError, PayloadTooLarge):
                    return False
                if piece is None:
                    wire.receive_data(await self._link.read())
                else:
                    left -= len(piece)
        return wire.request_complete

    # --- the response -------------------------------------------------------------------------

    async def send_response(self, status: int, fields: Fields, body: bytes = b"") -> None:
        if status not in (204, 304):
            fields = [*fields, (b"content-length", b"%d" % len(body))]
        head = self._head(status, fields)
        data = head + self._wire.send_body(body) + self._end()
        await self._write(data)
        self._ended = True

    async def start_response(self, status: int, fields: Fields) -> None:
        self._held = self._head(status, fields)
        # No full checkpoint: the head is not written yet, and the write is one.
        await trio.lowlevel.checkpoint_if_cancelled()

    async def send_some(self, *pieces: bytes) -> None:
        if self._wire.can_answer or self._ended:
            raise LocalProtocolError("send_some belongs between start_response and end_response")
        held, self._held = self._held, b""
        if are_small(pieces):
            await self._write(held + self._wire.send_body(b"".join(pieces)))
        else:
            await self._write((held, *self._wire.send_body_pieces(pieces)))

    def writable_bytes(self) -> int:
        return self._link.writable_bytes()

    async def end_response(self) -> None:
        data = self._held + self._end()
        self._held = b""
        await self._write(data)
        self._ended = True

    def _head(self, status: int, fields: Fields) -> bytes:
        fields = [*fields, date_field()]
        if self._must_close():
            fields.append((b"connection", b"close"))
        return self._wire.send_head(status, fields, head_request=self.request.method == "HEAD")

    def _must_close(self) -> bool:
        if self._close_after():
            return True
        # A client that still waits for its 100 may or may not send the body now: there is no
        # telling its body from its next request, so there is no next request.
        wire = self._wire
        return not wire.request_complete and (
            wire.awaits_continue or (wire.content_left or 0) > self._limits.max_drained_bytes
        )

    def _end(self) -> bytes:
        # For HEAD and the like h11 expects no body, whatever the fields say.
        return self._wire.send_end()

    async def _write(self, data: bytes | Sequence[bytes]) -> None:
        if self._first_byte_at is None and data:
            self._first_byte_at = trio.current_time()
        if data:
            await self._link.write(data)
        else:
            await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        """End the connection in the middle of a response, so that the client can tell."""
        await self._link.abort(reset=self._wire.ends_by_close)

    async def wait_disconnected(self) -> None:
        # What arrives is kept for the next request, up to a bound. Beyond it nothing is read, so
        # the client's backpressure sets in, and its departure is found out by a write.
        wire, link = self._wire, self._link
        while wire.buffered < self._limits.max_pipelined_bytes:
            data = await link.read()
            wire.receive_data(data)
            if not data:
                return
        await trio.sleep_forever()

    def until_disconnected(self) -> AbstractAsyncContextManager[trio.CancelScope]:
        departures, descriptor = self._link.departures, self._link.descriptor
        if departures is None or descriptor is None:
            return until_returned(self.wait_disconnected)
        return _UntilDisconnected(self._link, self._wire, departures, descriptor)

    # --- the upgrade ----------------------------------------------------------------------------

    async def accept_websocket(self, fields: Fields = ()) -> WebSocket:
        if not self.request.wants_websocket:
            raise LocalProtocolError("the request is no WebSocket handshake")
        limits = self._limits
        handshake = negotiate(self.request.fields, enable_deflate=limits.enable_deflate)
        data = self._wire.send_upgrade([*handshake.fields, *fields])
        await self._write(data)
        self.websocket = NativeWebSocket(self._link, handshake.deflate)
        self.websocket.receive_data(self._wire.take_buffered())
        return self.websocket


class _UntilDisconnected:
    """`HTTPExchange.wait_disconnected`, without a task of its own, around what writes."""

    __slots__ = ("_departures", "_descriptor", "_link", "_scope", "_wire")

    def __init__(
        self, link: Link, wire: ServerConnection, departures: Departures, descriptor: int
    ) -> None:
        self._link = link
        self._wire = wire
        self._departures = departures
        self._descriptor = descriptor
        self._scope = trio.CancelScope()

    async def __aenter__(self) -> trio.CancelScope:
        if self._link.peer_left:
            self._scope.cancel()
        elif self._wire.buffered < self._link.limits.max_pipelined_bytes:
            self._departures.watch(self._descriptor, self)
        return self._scope.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._departures.forget(self._descriptor, self)
        return self._scope.__exit__(kind, error, traceback)

    def ready(self) -> None:
        data = self._link.read_nowait()
        if data is None:
            return
        self._wire.receive_data(data)
        if not data:
            self._scope.cancel()
        if not data or self._wire.buffered >= self._link.limits.max_pipelined_bytes:
            self._departures.forget(self._descriptor, self)
