"""HTTP/2 to an origin (RFC 9113), over h2: one request at a time on each connection.

`HTTP2Connection` stands beside `HTTP11Connection` in our pool. httpcore2 has one
for HTTP/2 as well, which is not for origins that nobody trusts: on a cut-off it neither resets the
stream nor closes the connection, it lets frames pile up for streams that are not read, and has no
limit on frames that carry nothing.

There is no multiplexing, on purpose. With several requests on one connection a page that has to be
cut off, or an attack on the connection's state (HPACK, flow control), harms pages that have nothing
to do with it. With one, any trouble ends in closing the connection, as over HTTP/1.1, and nothing
is buffered but what one read brings.

All that is not body counts as head: pings, settings, resets, window updates, empty data and
padding, interim responses and continuations share ``max_header_bytes`` with the fields, before the
body and within it."""

from collections import deque
from collections.abc import AsyncGenerator
from typing import Final, Literal

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httpcore2
import trio

from eventmesh_trio.errors import TooLarge
from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn
from eventmesh_trio.pipeline.fetching.request import RequestNotProcessed
from eventmesh_trio.pipeline.network.dial import GuardedStream
from eventmesh_trio.pipeline.network.limits import FetchLimits

__all__ = ["HTTP2Connection"]

# Small frames cost some 20 us each: what one read brings is handled in a few milliseconds, and
# other tasks run before the next.
_READ_BYTES: Final = 2048
_LARGE_READ_BYTES: Final = 16_384  # after a large data frame
_LARGE_FRAME_BYTES: Final = 4096
_WINDOW_BYTES: Final = 1024 * 1024  # on its way at once; it is read, not kept, so it costs nothing
_FRAME_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = (
    16_384 + _FRAME_HEAD_BYTES
)  # a data frame counts for nothing until it is whole
_DEFAULT_WINDOW_BYTES: Final = 65_535
_CLOSE_SECONDS: Final = 1.0
# After so many it is closed: by then our HPACK table may be as large as the origin wants it.
_MAX_REQUESTS: Final = 1000


class HTTP2Connection:
    """One connection. Whatever is not a response read to its end closes it."""

    def __init__(
        self,
        origin: httpcore2.Origin,
        stream: GuardedStream,
        limits: FetchLimits,
        turn: DecodeTurn,
    ) -> None:
        self._origin = origin
        self._stream = stream
        self._limits = limits
        self._turn = turn  # shared: frames of many connections cost the others no more than of one
        self._state: Literal["idle", "active", "closed"] = "idle"
        self._expires_at = 0.0  # `trio.current_time`
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self._begun = False
        self._requests = 0
        self._stream_id = 0
        self._events: deque[h2.events.ResponseReceived | h2.events.DataReceived] = deque()
        self._ended = False  # the response
        self._going_away = False
        self._overhead_bytes = 0
        self._read_bytes = _READ_BYTES

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a GET, receive the response's head. Any failure closes the connection.

        Raises:
          httpcore2.ConnectionNotAvailable: it is in use, or closed.
          RequestNotProcessed: another connection may be tried.
          FetchTimeout, TooLarge: over a limit.
          httpcore2.RemoteProtocolError, httpcore2.NetworkError: there is no response.
        """
        if not self.is_available():
            raise httpcore2.ConnectionNotAvailable
        self._state = "active"
        answered = False
        try:
            self._start(request)
            await self._stream.write(self._h2.data_to_send())
            while not self._events:
                await self._receive()
            head = self._events.popleft()
            if not isinstance(head, h2.events.ResponseReceived) or not head.headers:
                raise httpcore2.RemoteProtocolError("there is a body without a head")
            fields = dict(head.headers)
            status = int(fields[b":status"])
            answered = 200 <= status <= 999
            if not answered:
                raise httpcore2.RemoteProtocolError("the response has a status that is none")
        except (KeyError, ValueError):
            raise httpcore2.RemoteProtocolError("the response has no status") from None
        finally:
            if not answered:
                # Shielded: we are often here because of a cancellation. Closing never waits.
                with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self.aclose()
        return httpcore2.Response(
            status=status,
            headers=[(name, value) for name, value in head.headers if name[:1] != b":"],
            content=_Body(self),
            extensions={"http_version": b"HTTP/2", "network_stream": self._stream},
        )

    # --- What goes out ----------------------------------------------------------------------------

    def _start(self, request: httpcore2.Request) -> None:
        connection = self._h2
        if not self._begun:
            self._begun = True
            codes = h2.settings.SettingCodes
            connection.local_settings = h2.settings.Settings(
                client=True,
                initial_values={
                    codes.ENABLE_PUSH: 0,
                    codes.INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
                    codes.MAX_HEADER_LIST_SIZE: self._limits.max_header_bytes,
                },
            )
            # No client sends it, and some origins close the connection over it.
            del connection.local_settings[codes.ENABLE_CONNECT_PROTOCOL]
            connection.decoder.max_header_list_size = self._limits.max_header_bytes
            connection.initiate_connection()
            connection.increment_flow_control_window(_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        self._events.clear()
        self._ended = False
        self._overhead_bytes = 0
        self._requests += 1
        self._stream_id = connection.get_next_available_stream_id()
        host = next(value for name, value in request.headers if name.lower() == b"host")
        connection.send_headers(
            self._stream_id,
            [
                (b":method", request.method),
                (b":scheme", request.url.scheme),
                (b":authority", host),
                (b":path", request.url.target),
                *((name.lower(), value) for name, value in request.headers if name != b"Host"),
            ],
            end_stream=True,
        )

    # --- What comes in ----------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Read once; queue what it brings of the response, answer what has to be answered."""
        data = await self._stream.read(self._read_bytes)
        if not data:
            raise httpcore2.RemoteProtocolError("Server disconnected within a response")
        self._overhead_bytes += len(data)
        self._read_bytes = _READ_BYTES
        async with self._turn.held():
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.DenialOfServiceError:
                raise self._too_much() from None
            except h2.exceptions.ProtocolError as error:
                raise httpcore2.RemoteProtocolError(str(error)) from None
            for event in events:
                self._take(event)
        if self._overhead_bytes > self._limits.max_header_bytes + _FRAME_BYTES:
            raise self._too_much()
        await self._answer()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            last = event.last_stream_id or 0
            if not self._ended and last < self._stream_id:
                raise RequestNotProcessed("the origin closes the connection")
            self._going_away = True
        if getattr(event, "stream_id", None) != self._stream_id:
            return
        if isinstance(event, h2.events.ResponseReceived):
            self._events.append(event)
        elif isinstance(event, h2.events.DataReceived):
            if event.data:
                self._events.append(event)
                if len(event.data) >= _LARGE_FRAME_BYTES:
                    self._read_bytes = _LARGE_READ_BYTES
                self._overhead_bytes -= len(event.data) + _FRAME_HEAD_BYTES
            elif event.flow_controlled_length:
                self._acknowledge(event)
        elif isinstance(event, h2.events.StreamEnded):
            self._ended = True
        elif isinstance(event, h2.events.StreamReset) and not self._ended:
            if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM:
                raise RequestNotProcessed("the origin refuses the stream")
            raise httpcore2.RemoteProtocolError("the origin reset the stream")

    async def _answer(self) -> None:
        data = self._h2.data_to_send()
        if data:
            await self._stream.write_control(data)

    def _acknowledge(self, event: h2.events.DataReceived) -> None:
        # After the response's end as well: the connection's window is for all that follow.
        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, self._stream_id)

    def _too_much(self) -> TooLarge:
        return TooLarge(
            "the response has too much beside its body",
            context={"limit_bytes": self._limits.max_header_bytes},
        )

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The pieces of the response's body. Raises as `handle_async_request` does."""
        # What came with the head counted as head already.
        self._overhead_bytes = 0
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, h2.events.DataReceived) and event.data:
                    self._acknowledge(event)
                    yield event.data
            if self._ended:
                return
            await self._answer()
            await self._receive()

    # --- The end of a response ------------------------------------------------------------------

    async def response_closed(self) -> None:
        """The response is not wanted any more: kept for the next request if it was all read."""
        if self._state != "active":
            await trio.lowlevel.checkpoint()
            return
        used_up = self._going_away or self._requests >= _MAX_REQUESTS
        if self._ended and not self._events and not used_up:
            self._state = "idle"
            self._expires_at = trio.current_time() + self._limits.keep_alive_seconds
            await trio.lowlevel.checkpoint()
        else:
            await self.aclose()

    async def aclose(self) -> None:
        """Close at once, with no farewell; idempotent."""
        self._state = "closed"
        await self._stream.aclose()

    # --- What the pool asks -----------------------------------------------------------------------

    def is_available(self) -> bool:
        return self._state == "idle" and not self._going_away

    def has_expired(self) -> bool:
        return self._begun and self._state == "idle" and trio.current_time() > self._expires_at

    def info(self) -> str:
        return f"{str(self._origin)!r}, HTTP/2, {self._state}"


class _Body:
    """The body as a stream of httpcore2's responses."""

    def __init__(self, connection: HTTP2Connection) -> None:
        self._connection = connection

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self._connection.body()

    async def aclose(self) -> None:
        await self._connection.response_closed()
