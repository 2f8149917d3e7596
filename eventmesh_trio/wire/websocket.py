"""WebSocket without I/O (RFC 6455): the server's handshake, its frames, and a peer's messages.

wsproto parses, validates and keeps the state of the close handshake. Data frames of the server are
a header of 2 to 10 bytes and the payload as it is: those are written here, so that a payload that
was encoded once is framed once, and joined with its neighbours for one write.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Final

import attrs
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from eventmesh_trio.errors import RemoteProtocolError
from eventmesh_trio.wire.deflate import (
    Deflate,
    MessageInflater,
    MessageLimit,
    compress,
    negotiate_deflate,
)

__all__ = [
    "BINARY",
    "TEXT",
    "Closed",
    "Handshake",
    "Received",
    "ServerWebSocket",
    "encode_close",
    "encode_deflated_frame",
    "encode_frame",
    "encode_frames",
    "frame_header",
    "negotiate",
]

Fields = Sequence[tuple[bytes, bytes]]

TEXT: Final = 0x1
BINARY: Final = 0x2
_CLOSE: Final = 0x8
_FIN: Final = 0x80
_RSV1: Final = 0x40
_MAX_REASON_BYTES: Final = 123
_MAX_OWED_BYTES: Final = 4096


# --- frames of ours -----------------------------------------------------------------------------


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 0x10000:
        return bytes((first, 126, length >> 8, length & 0xFF))
    return bytes((first, 127)) + length.to_bytes(8, "big")


def frame_header(nbytes: int, opcode: int = TEXT) -> bytes:
    """What stands before a payload of ``nbytes`` in its one unmasked, uncompressed frame."""
    return _header(_FIN | opcode, nbytes)


def encode_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One message as one unmasked frame, uncompressed (RFC 6455, section 5.2)."""
    return _header(_FIN | opcode, len(payload)) + payload


def encode_frames(payloads: Iterable[bytes], opcode: int = TEXT) -> bytes:
    """Each payload as one message, joined."""
    return b"".join(_interleave(payloads, _FIN | opcode))


def _interleave(payloads: Iterable[bytes], first: int) -> Iterator[bytes]:
    for payload in payloads:
        yield _header(first, len(payload))
        yield payload


def encode_deflated_frame(payload: bytes, opcode: int = TEXT, window_bits: int = 15) -> bytes:
    """One message as one compressed frame; the same for every reader that agreed on these bits."""
    data = compress(payload, window_bits)
    return _header(_FIN | _RSV1 | opcode, len(data)) + data


def encode_close(close_code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to what fits, between characters."""
    text = reason.encode("utf-8")[:_MAX_REASON_BYTES].decode("utf-8", "ignore").encode("utf-8")
    payload = close_code.to_bytes(2, "big") + text
    return _header(_FIN | _CLOSE, len(payload)) + payload


# --- the handshake ------------------------------------------------------------------------------


@attrs.frozen
class Handshake:
    """What the 101 response says, and which compression was agreed on."""

    fields: Fields
    deflate: Deflate | None


def negotiate(fields: Fields, *, enable_deflate: bool) -> Handshake:
    """Answer the handshake of a request that asks for an upgrade to WebSocket.

    Raises:
      RemoteProtocolError: 426 for another version than 13, 400 for a missing or malformed key.
    Source: RFC 6455, section 4.2.
    """
    versions = [value for name, value in fields if name == b"sec-websocket-version"]
    if versions != [b"13"]:
        raise RemoteProtocolError("only WebSocket version 13 is spoken here", status_hint=426)
    keys = [value for name, value in fields if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise RemoteProtocolError("the Sec-WebSocket-Key field is malformed")
    answer = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-accept", generate_accept_token(keys[0])),
    ]
    deflate = None
    if enable_deflate:
        deflate = negotiate_deflate(v for name, v in fields if name == b"sec-websocket-extensions")
    if deflate is not None:
        answer.append((b"sec-websocket-extensions", deflate.answer))
    return Handshake(answer, deflate)


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


# --- what the peer sends -------------------------------------------------------------------------


@attrs.frozen
class Received:
    """A whole message."""

    message: str | bytes


@attrs.frozen
class Closed:
    """The peer's close frame, or (``failed``) the code that its violation deserves."""

    close_code: int
    reason: str
    failed: bool


class _Assembly:
    """A message that comes in pieces; memory follows its size, not the number of its pieces."""

    __slots__ = ("_binary", "_first", "_text")

    def __init__(self) -> None:
        self._first: str | bytes | None = None
        self._text: StringIO | None = None
        self._binary: bytearray | None = None

    def add(self, piece: str | bytes) -> None:
        if self._first is None:
            self._first = piece
        elif isinstance(piece, str):
            if self._text is None:
                self._text = StringIO()
                self._text.write(str(self._first))
            self._text.write(piece)
        else:
            if self._binary is None:
                self._binary = bytearray(self._first if isinstance(self._first, bytes) else b"")
            self._binary += piece

    def take(self) -> str | bytes:
        message: str | bytes | None = self._first
        if self._text is not None:
            message = self._text.getvalue()
        elif self._binary is not None:
            message = bytes(self._binary)
        self._first = self._text = self._binary = None
        assert message is not None
        return message


class ServerWebSocket:
    """The server's end of one WebSocket.

    `receive_data` stores; `next_event` parses up to one message or the end, and leaves the rest: a
    peer cannot make us hold more than that beyond the bytes that were read. `take_owed` is what
    must be written now: pongs, a ping, the answer to a close.
    """

    __slots__ = ("_assembly", "_owed", "_proto", "_ready", "closing")

    def __init__(self, max_message_bytes: int, deflate: Deflate | None) -> None:
        guard = MessageLimit if deflate is None else MessageInflater
        self._proto = Connection(ConnectionType.SERVER, [guard(max_message_bytes)])
        self._assembly = _Assembly()
        self._ready: Received | Closed | None = None
        self._owed = bytearray()
        self.closing = False  # a close frame of ours is written or owed

    @property
    def owes(self) -> bool:
        return bool(self._owed)

    def receive_data(self, data: bytes) -> None:
        """Store received bytes; what comes after the peer's close frame is dropped."""
        if data and self._proto.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._proto.receive_data(data)

    def next_event(self) -> Received | Closed | None:
        """The next message or the end. None: write what is owed, or else bring more data.

        Pongs are owed before the message that came after their pings is handed out, and a few
        pings are answered together.
        """
        event = self._ready or self._parse()
        self._ready = None
        if isinstance(event, Received) and self._owed:
            self._ready = event
            return None
        return event

    def _parse(self) -> Received | Closed | None:
        for event in self._proto.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._assembly.add(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    return Received(self._assembly.take())
            elif isinstance(event, Ping):
                if not self.closing:
                    self._owed += self._proto.send(event.response())
                if len(self._owed) > _MAX_OWED_BYTES:
                    return None
            elif isinstance(event, CloseConnection):
                return self._closed(event)
        return None

    def _closed(self, event: CloseConnection) -> Closed:
        state = self._proto.state
        failed = state not in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
        reason = event.reason or ""
        if not self.closing:
            self.closing = True
            if failed:
                self._owed += encode_close(event.code, reason)
            else:
                self._owed += self._proto.send(event.response())
        return Closed(int(event.code), reason, failed)

    def take_owed(self) -> bytes:
        owed = bytes(self._owed)
        self._owed.clear()
        return owed

    def owe_ping(self) -> None:
        """Have a ping sent; whatever the peer sends next proves that it is there."""
        self._owed += self._proto.send(Ping())

    def send_close(self, close_code: int, reason: str) -> bytes:
        """A close frame, once; then nothing but the peer's close is waited for."""
        if self.closing:
            return b""
        self.closing = True
        self._owed.clear()  # no pong after the close frame
        return bytes(self._proto.send(CloseConnection(close_code, reason)))
