"""HTTP/1.1 to an origin (RFC 9112), over h11: one request at a time on each connection.

`HTTP11Connection` stands in our pool where httpcore2 has one of its own, which takes a lock, a
trace and two generators for each step: without them, and with our own pool, a fetch of 150 KB takes
0.35 ms of processor time, not 0.48. The parser, and so what is valid HTTP, is the same.

A body of a known length needs no parser: behind its head it is read as it comes, and h11 begins
anew with the next request. By h11's buffer each byte was copied four times, and a fetch of 150 KB
took 0.09 ms more.
"""

import math
from collections.abc import AsyncIterator, Iterable
from typing import Final, Literal

import h11
import httpcore2
import trio

from eventmesh_trio.pipeline.network.dial import GuardedStream
from eventmesh_trio.pipeline.network.limits import FetchLimits

__all__ = ["HTTP11Connection"]

_READ_BYTES: Final = 224 * 1024
"""Of a body: large pages come in fewer reads than by 64 KiB. Below the 256 KiB from which on a
server's malloc maps each block anew (`app.process`): by that much a fetch took a fifth longer."""
_MAX_EVENT_BYTES: Final = 100 * 1024
"""Of a head, or of the line that begins a chunk; all heads have a limit of their own below this."""
_CLOSE_SECONDS: Final = 1.0
_BODILESS: Final = frozenset({204, 304})  # whatever length their fields speak of


class HTTP11Connection:
    """One connection. Whatever is not a response read to its end closes it."""

    def __init__(
        self, origin: httpcore2.Origin, stream: GuardedStream, limits: FetchLimits
    ) -> None:
        self._origin = origin
        self._stream = stream
        self._limits = limits
        self._state: Literal["idle", "active", "closed"] = "idle"
        self._expires_at = math.inf  # `trio.current_time`; nothing expires before its first request
        self._h11 = _parser()
        # Of a body that is read without h11: what came of it with the head, how much is missing
        # beyond that, whether who reads it has seen its end, and whether the connection may serve
        # on behind it.
        self._begun = b""
        self._missing: int | None = None
        self._ended = False
        self._persists = False

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request, receive the response's head. Any failure closes the connection.

        Raises:
          httpcore2.ConnectionNotAvailable: it is in use, or closed.
          httpcore2.LocalProtocolError: the request is not one that can be sent.
          FetchTimeout, TooLarge: over a limit.
          httpcore2.RemoteProtocolError, httpcore2.NetworkError: there is no response.
        """
        if self._state != "idle":
            raise httpcore2.ConnectionNotAvailable
        self._state = "active"
        answered = False
        try:
            try:
                await self._stream.write(self._encode(request))
            except httpcore2.WriteError:
                # An origin may answer before it has read all, and close (RFC 9112, section 9.6).
                await trio.lowlevel.checkpoint()
            head = await self._receive()
            while isinstance(head, h11.InformationalResponse) and head.status_code != 101:
                head = await self._receive()
            assert isinstance(head, h11.InformationalResponse | h11.Response)
            self._take_over_body(request, head)
            answered = True
        finally:
            if not answered:
                # Shielded: we are often here because of a cancellation. Closing never waits.
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self.aclose()
        return httpcore2.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            content=_Body(self),
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "network_stream": self._stream,
            },
        )

    def _encode(self, request: httpcore2.Request) -> bytes:
        assert isinstance(request.stream, Iterable), "our requests' bodies are bytes"
        body = b"".join(request.stream)
        events: list[h11.Event] = [
            h11.Request(method=request.method, target=request.url.target, headers=request.headers),
            *([h11.Data(body)] if body else ()),
            h11.EndOfMessage(),
        ]
        try:
            return b"".join(self._h11.send(event) or b"" for event in events)
        except h11.LocalProtocolError as error:
            raise httpcore2.LocalProtocolError(str(error)) from error

    async def _receive(self) -> h11.Event | type[h11.PAUSED]:
        """The next event; reads where one is not there."""
        connection = self._h11
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                raise httpcore2.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # it is no other of h11's sentinels
            data = await self._stream.read(_READ_BYTES)
            if not data and connection.their_state is h11.SEND_RESPONSE:
                # h11 would say only what it cannot do with that.
                raise httpcore2.RemoteProtocolError("Server disconnected without a response")
            connection.receive_data(data)

    def _take_over_body(
        self, request: httpcore2.Request, head: h11.InformationalResponse | h11.Response
    ) -> None:
        """Read the body without h11, if it is one of a known length (RFC 9112, section 6.3)."""
        length = _length_of(request, head)
        if length is None:
            return
        begun, closed = self._h11.trailing_data
        self._begun, self._missing = begun[:length], max(length - len(begun), 0)
        self._ended = False
        # What is behind the body was sent before anything was asked: it answers nothing.
        self._persists = len(begun) <= length and not closed and _persists(head)

    async def next_piece(self) -> bytes:
        """The next piece of the response's body, ``b""`` at its end.

        A checkpoint but for what came with the head. Raises as `handle_async_request` does.
        """
        if self._missing is None:
            event = await self._receive()
            # Else it is its end; or an upgrade that nobody asked for, which has no body.
            return bytes(event.data) if isinstance(event, h11.Data) else b""
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun  # noqa: ASYNC910  # the next one waits
        if not self._missing:
            self._ended = True
            return b""  # noqa: ASYNC910  # the head, or the piece before, was a checkpoint
        data = await self._stream.read(min(_READ_BYTES, self._missing))
        if not data:
            raise httpcore2.RemoteProtocolError(
                f"the body ended {self._missing} bytes before its length"
            )
        self._missing -= len(data)
        return data

    # --- The end of a response ------------------------------------------------------------------

    async def response_closed(self) -> None:  # noqa: ASYNC910  # nothing to wait for
        """The response is not wanted any more: kept for the next request if it was all read."""
        connection = self._h11
        if self._state != "active":
            return
        if self._missing is not None:
            reusable = self._persists and self._ended
            self._missing = None
            self._h11 = _parser()
        elif reusable := connection.our_state is h11.DONE and connection.their_state is h11.DONE:
            connection.start_next_cycle()
        if reusable:
            self._state = "idle"
            self._expires_at = trio.current_time() + self._limits.keep_alive_seconds
        else:
            await self.aclose()

    async def aclose(self) -> None:
        """Close at once, with no farewell; idempotent."""
        self._state = "closed"
        await self._stream.aclose()

    # --- What the pool asks -----------------------------------------------------------------------

    def is_available(self) -> bool:
        return self._state == "idle"

    def has_expired(self) -> bool:
        """Whether it was kept for its time, or there is news: of an idle one, that it has ended."""
        if self._state != "idle":
            return False
        return trio.current_time() > self._expires_at or bool(
            self._stream.get_extra_info("is_readable")
        )

    def info(self) -> str:
        return f"{str(self._origin)!r}, HTTP/1.1, {self._state}"


def _parser() -> h11.Connection:
    return h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_EVENT_BYTES)


def _length_of(
    request: httpcore2.Request, head: h11.InformationalResponse | h11.Response
) -> int | None:
    """How long the body is, where it has one and its head says how long. h11 has checked it."""
    if request.method != b"GET" or head.status_code < 200 or head.status_code in _BODILESS:
        return None
    length = None
    for name, value in head.headers:
        if name == b"transfer-encoding":
            return None  # it overrides a length
        if name == b"content-length":
            length = int(value)
    return length


def _persists(head: h11.InformationalResponse | h11.Response) -> bool:
    """Whether an origin serves on behind a response (RFC 9112, section 9.3)."""
    options = b",".join(value for name, value in head.headers if name == b"connection")
    closes = b"close" in map(bytes.strip, options.lower().split(b","))
    return head.http_version >= b"1.1" and not closes


class _Body:
    """The body as a stream of httpcore2's responses. No generator: trio keeps a list of those."""

    def __init__(self, connection: HTTP11Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.next_piece()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        await self._connection.response_closed()
