"""A WebSocket for a client: wsproto over any trio stream (RFC 6455).

One task uses it, so there is one writer. Compression is not offered: inflating has no output limit.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import trio
import wsproto
from wsproto import events as ws
from wsproto.connection import ConnectionState

from eventmesh_trio.client.address import Address
from eventmesh_trio.client.connection import receive
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.client.refusal import error_from_response
from eventmesh_trio.errors import ConnectionBroken, RemoteProtocolError, WebSocketClosed

__all__ = ["ClientWebSocket"]


class ClientWebSocket:
    """An open WebSocket; made by `open`. It owns its connection."""

    def __init__(self, stream: trio.abc.Stream, limits: ClientLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._messages: list[str | bytes] = []
        self._answers: deque[ws.Event] = deque()
        self._parts: list[str | bytes] = []
        self._part_bytes = 0
        self._failure: Exception | None = None
        self._writing = False

    @classmethod
    async def open(
        cls,
        stream: trio.abc.Stream,
        address: Address,
        target: str,
        *,
        fields: Sequence[tuple[str, str]] = (),
        limits: ClientLimits,
    ) -> "ClientWebSocket":
        """Do the opening handshake. Takes over ``stream``; cancellation closes it.

        Raises:
          ConnectionBroken: cut or silent during the handshake.
          EventMeshError: the server refused, with the error that it gave.
          RemoteProtocolError: an answer that is no handshake.
        """
        socket = cls(stream, limits)
        extra = [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
        try:
            await socket._write(
                ws.Request(host=address.authority, target=target, extra_headers=extra)
            )
            await socket._receive_handshake()
        except BaseException:
            await socket.aclose()
            raise
        return socket

    async def receive_batch(self) -> list[str | bytes]:
        """The messages that are there, at least one. Pings are answered inside.

        Cancellation loses nothing. Raises, after the last message that came whole:
          WebSocketClosed: the server closed, or the connection ended (1006).
          ConnectionBroken: reset or silent.
          RemoteProtocolError: a message over its limit, or frames that cannot be.
        """
        await trio.lowlevel.checkpoint()  # messages may have come with the handshake
        while True:
            try:
                await self._answer()
            except ConnectionBroken as error:
                self._failure = self._failure or error  # told after what has come whole
            if self._messages:
                break
            if self._failure is not None:
                raise self._failure
            await self._feed()
            self._take_events()
        messages, self._messages = self._messages, []
        return messages

    async def send(self, message: str) -> None:
        """Send one text message. Cancelled in the middle: the socket is broken.

        Raises `ConnectionBroken`, or why the socket was closed before.
        """
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise self._failure
        await self._write(ws.TextMessage(data=message))

    async def say_goodbye(self) -> None:
        """Send a close frame, without waiting for the answer; never raises for the peer."""
        await trio.lowlevel.checkpoint()
        if self._failure is None and not self._writing:
            with suppress(ConnectionBroken):  # gone already
                await self._write(ws.CloseConnection(code=1000))

    async def aclose(self) -> None:
        """Drop the connection at once; safe in a cancelled scope."""
        await trio.aclose_forcefully(self._stream)

    async def _write(self, event: ws.Event) -> None:
        data = self._protocol.send(event)
        self._writing = True
        with trio.move_on_after(self._limits.idle_seconds) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionBroken("the connection to the server broke") from error
        if scope.cancelled_caught:
            raise ConnectionBroken(f"the server took nothing for {self._limits.idle_seconds:g} s")
        self._writing = False

    async def _receive_handshake(self) -> None:
        status = 0
        retry_after: bytes | None = None
        body = bytearray()
        at_eof = False
        while not at_eof:
            at_eof = not await self._feed()
            for event in self._protocol.events():
                match event:
                    case ws.AcceptConnection():
                        # Frames that came in the same packet are events too.
                        self._take_events()
                        return
                    case ws.RejectConnection():
                        status = event.status_code
                        retry_after = dict(event.headers).get(b"retry-after")
                        if not event.has_body:
                            raise RemoteProtocolError(f"a handshake answered with {status}")
                    case ws.RejectData():
                        body += event.data
                        if len(body) > self._limits.max_response_bytes:
                            raise RemoteProtocolError("the refusal is too large")
                        if event.body_finished:
                            raise error_from_response(status, bytes(body), retry_after=retry_after)
        raise ConnectionBroken("the connection ended in the handshake")

    async def _feed(self) -> bool:
        """Receive and parse some bytes; whether there were any."""
        data = await receive(self._stream, self._limits.idle_seconds)
        try:
            self._protocol.receive_data(data or None)
        except wsproto.utilities.RemoteProtocolError as error:
            if not data:
                raise ConnectionBroken("the connection ended in the handshake") from error
            raise RemoteProtocolError(f"the answer is no WebSocket: {error}") from error
        return bool(data)

    def _take_events(self) -> None:
        for event in self._protocol.events():
            match event:
                case ws.TextMessage() | ws.BytesMessage():
                    self._take_part(event)
                case ws.Ping():
                    self._answers.append(event.response())
                case ws.CloseConnection():
                    self._failure = WebSocketClosed(event.code, event.reason or "")
                    self._answers.clear()  # nothing but a close may follow a close
                    if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                        self._answers.append(event.response())
            if self._failure is not None:
                return

    async def _answer(self) -> None:
        """Send the pongs, and the answer to a close, that are due."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._writing:
            raise ConnectionBroken("a write to the server was cut off")  # by a cancellation
        while self._answers:
            await self._write(self._answers.popleft())

    def _take_part(self, event: ws.TextMessage | ws.BytesMessage) -> None:
        part = event.data if isinstance(event.data, str) else bytes(event.data)
        self._part_bytes += len(part)
        if self._part_bytes > self._limits.max_event_bytes:
            limit = self._limits.max_event_bytes
            self._failure = RemoteProtocolError(f"a message is over {limit} bytes")
            return
        self._parts.append(part)
        if event.message_finished:
            text = isinstance(part, str)
            joined = "".join(self._parts) if text else b"".join(self._parts)  # type: ignore[arg-type]
            self._messages.append(joined)
            self._parts, self._part_bytes = [], 0
