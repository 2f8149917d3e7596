"""Our reading of WebSockets for a server that owns the sockets and brings wsproto with it.

Such a server calls an extension and a connection of wsproto's. By themselves those inflate whatever
comes, and collect messages in several copies of it. `HostedDeflate` and `HostedConnection` have the
same faces, and behind them what native connections have: one limit on messages, counted before they
are held, and the same frames.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.deflate import Deflate, negotiate_deflate
from eventmesh_trio.wire.websocket import BINARY, Closed, FrameStyle, ServerWebSocket

__all__ = ["HostedConnection", "HostedDeflate"]

_CLOSE_NORMAL: Final = 1000


class HostedDeflate:
    """permessage-deflate as far as the handshake goes: offers are answered as natively."""

    name = "permessage-deflate"

    def __init__(self, limits: TransportLimits) -> None:
        self._enable = limits.enable_deflate
        self.agreed: Deflate | None = None

    def accept(self, offer: str) -> str | None:
        """The parameters of the answer; None declines the offer."""
        if not self._enable or self.agreed is not None:  # one is enough
            return None
        self.agreed = negotiate_deflate([offer.encode("utf-8")])
        return None if self.agreed is None else self.agreed.answer.decode().partition("; ")[2]


class HostedConnection:
    """Stands in for `wsproto.connection.Connection` after a server's handshake.

    Each message is one event, handed out whole. What must be written before the peer's next message
    is told as a `Ping`, whose response has the bytes; and a violation as a close of the peer, so
    that its answer is the close frame with the code that it deserves.
    """

    def __init__(
        self,
        limits: TransportLimits,
        connection_type: ConnectionType,
        extensions: Sequence[object] = (),
    ) -> None:
        if connection_type is not ConnectionType.SERVER:
            raise ValueError("only a server's end of a WebSocket is read here")
        deflate = next((ext.agreed for ext in extensions if isinstance(ext, HostedDeflate)), None)
        self._style = FrameStyle()
        if deflate is not None:
            self._style = FrameStyle(
                deflate.window_bits, limits.min_deflate_bytes, limits.max_deflate_bytes
            )
        self._wire = ServerWebSocket(limits.max_message_bytes, deflate)
        self._told: deque[Event] = deque()
        self.state = ConnectionState.OPEN

    def receive_data(self, data: bytes | None) -> None:
        """Store received bytes; None is the end of the connection."""
        if data is None:
            self._told.append(CloseConnection(1006))
            self.state = ConnectionState.CLOSED
        elif self.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._wire.receive_data(data)

    def events(self) -> Iterator[Event]:
        """What has come, parsed as it is asked for."""
        while self._told:
            yield self._told.popleft()
        while self.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            event = self._wire.next_event()
            if isinstance(event, Closed):
                yield self._closed(event)
            elif event is not None:
                message = event.message
                del event  # or it is held in pieces as well for as long as its reader takes
                yield TextMessage(message) if isinstance(message, str) else BytesMessage(message)
            elif self._wire.owes:
                yield Ping()
            else:
                return

    def _closed(self, event: Closed) -> CloseConnection:
        answered = self.state is ConnectionState.LOCAL_CLOSING and not event.failed
        self.state = ConnectionState.CLOSED if answered else ConnectionState.REMOTE_CLOSING
        return CloseConnection(event.close_code, event.reason)

    def send(self, event: Event) -> bytes:
        """The bytes of an event. Raises `LocalProtocolError` where it cannot be sent any more."""
        if isinstance(event, CloseConnection) and self.state is ConnectionState.REMOTE_CLOSING:
            self.state = ConnectionState.CLOSED
            return self._wire.take_owed()
        if self.state is ConnectionState.OPEN:
            if isinstance(event, TextMessage):
                return self._style.encode(event.data.encode("utf-8"))
            if isinstance(event, BytesMessage):
                return self._style.encode(bytes(event.data), BINARY)
            if isinstance(event, CloseConnection):
                self.state = ConnectionState.LOCAL_CLOSING
                return self._wire.send_close(event.code or _CLOSE_NORMAL, event.reason or "")
            if isinstance(event, Ping):
                self._wire.owe_ping()
        if isinstance(event, (Ping, Pong)):
            return self._wire.take_owed()
        raise LocalProtocolError(f"{event} cannot be sent in state {self.state}")
