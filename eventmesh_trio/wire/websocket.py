"""WebSocket without I/O (RFC 6455): the server's handshake, its frames, and a peer's messages.

wsproto parses, validates and keeps the state of the close handshake. Data frames of the server are
a header of 2 to 10 bytes and the payload as it is: those are written here, so that a payload that
was encoded once is framed once, and joined with its neighbours for one write.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
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
    "FrameStyle",
    "Handshake",
    "Received",
    "ServerWebSocket",
    "encode_close",
    "encode_deflated_frame",
    "encode_frame",
    "encode_frames",
    "frame_header",
    "frame_payloads",
    "negotiate",
]

Fields = Sequence[tuple[bytes, bytes]]

TEXT: Final = 0x1
BINARY: Final = 0x2
_CLOSE: Final = 0x8
_FIN: Final = 0x80
_RSV1: Final = 0x40
_LONG_LENGTHS: Final = {126: 2, 127: 8}  # what stands in place of a length in so many bytes
_MAX_REASON_BYTES: Final = 123
_MAX_OWED_BYTES: Final = 4096
# Compressed bytes that are inflated at once. They become a quarter of a mebibyte at most, of which
# the parser makes some copies: a bomb costs its part of the limit on messages, and not a multiple.
_SLICE_BYTES: Final = 256
_BLOCK_BYTES: Final = 64 * 1024
_REASONS: Final = {1007: "the payload is not what it should be", 1009: "the message is too large"}


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


def frame_payloads(frames: bytes) -> Iterator[bytes]:
    """The payloads of whole frames of ours, unmasked and uncompressed."""
    at = 0
    while at < len(frames):
        size, at = frames[at + 1], at + 2
        if size in _LONG_LENGTHS:
            at += _LONG_LENGTHS[size]
            size = int.from_bytes(frames[at - _LONG_LENGTHS[size] : at], "big")
        yield frames[at : at + size]
        at += size


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


@attrs.frozen
class FrameStyle:
    """How messages become frames on one connection: compressed where it was agreed on, and pays.

    Equal on all connections that agreed on the same, so that a frame may be made once for them all.
    """

    window_bits: int = 0  # of our compressor; 0: nothing is compressed
    min_deflate_bytes: int = 0
    max_deflate_bytes: int = 0

    def encode(self, payload: bytes, opcode: int = TEXT) -> bytes:
        if self.window_bits and self.min_deflate_bytes <= len(payload) <= self.max_deflate_bytes:
            return encode_deflated_frame(payload, opcode, self.window_bits)
        return encode_frame(payload, opcode)


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


def _encoded(piece: str | bytes) -> bytes:
    return piece.encode("utf-8") if isinstance(piece, str) else piece


@attrs.frozen
class Received:
    """A whole message. ``rest`` follows ``first``, and is UTF-8 where that is text."""

    first: str | bytes
    rest: Sequence[bytearray] = ()

    @property
    def message(self) -> str | bytes:
        """Text as ``str``, binary as ``bytes``. Made anew where it came in pieces."""
        if not self.rest:
            return self.first
        data = b"".join([_encoded(self.first), *self.rest])
        return data.decode("utf-8") if isinstance(self.first, str) else data


@attrs.frozen
class Closed:
    """The peer's close frame, or (``failed``) the code that its violation deserves."""

    close_code: int
    reason: str
    failed: bool


class _Assembly:
    """A message that comes in pieces; memory follows its size, not the number of its pieces.

    Text is kept as UTF-8: as ``str``, one rare character would make it take four times as much. It
    is kept in blocks: one buffer would be copied as it grows, and take twice as much meanwhile.
    """

    __slots__ = ("_first", "_rest")

    def __init__(self) -> None:
        self._first: str | bytes | None = None  # as a rule it is all
        self._rest: list[bytearray] = []

    def add(self, piece: str | bytes) -> None:
        if self._first is None:
            self._first = piece
        elif self._rest and len(self._rest[-1]) < _BLOCK_BYTES:
            self._rest[-1] += _encoded(piece)
        else:
            self._rest.append(bytearray(_encoded(piece)))

    def take(self) -> Received:
        assert self._first is not None
        received = Received(self._first, tuple(self._rest))
        self._first, self._rest = None, []
        return received


class ServerWebSocket:
    """The server's end of one WebSocket.

    `receive_data` stores; `next_event` parses up to one message or the end, and leaves the rest: a
    peer cannot make us hold more than that beyond the bytes that were read. `take_owed` is what
    must be written now: pongs, a ping, the answer to a close.
    """

    __slots__ = (
        "_assembly",
        "_max_message_bytes",
        "_owed",
        "_parser",
        "_ready",
        "_slice_bytes",
        "_unread",
        "closing",
    )

    def __init__(self, max_message_bytes: int, deflate: Deflate | None) -> None:
        self._max_message_bytes = max_message_bytes
        self._parser: Connection | None = None
        self._slice_bytes = None if deflate is None else _SLICE_BYTES
        self._unread = bytearray()
        self._assembly = _Assembly()
        self._ready: Received | Closed | None = None
        self._owed = bytearray()
        self.closing = False  # a close frame of ours is written or owed

    @property
    def _proto(self) -> Connection:
        """Made when it is needed: of 2 KiB, for a reader who may never say a word."""
        if self._parser is None:
            guard = MessageLimit if self._slice_bytes is None else MessageInflater
            self._parser = Connection(ConnectionType.SERVER, [guard(self._max_message_bytes)])
        return self._parser

    @property
    def owes(self) -> bool:
        return bool(self._owed)

    def receive_data(self, data: bytes) -> None:
        """Store received bytes; what comes after the peer's close frame is dropped."""
        self._unread += data

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
        while True:
            event = self._parse_fed()
            if event is not None or self.owes or not self._feed():
                return event

    def _feed(self) -> bool:
        """Hand the parser the next bytes; False where there are none, or none count any more."""
        if not self._unread:
            return False
        if self._proto.state not in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            self._unread.clear()
        data = bytes(self._unread[: self._slice_bytes])
        del self._unread[: len(data)]
        if data:
            self._proto.receive_data(data)
        return bool(data)

    def _parse_fed(self) -> Received | Closed | None:
        for event in () if self._parser is None else self._parser.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._assembly.add(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    return self._assembly.take()
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
        if failed:  # where one of our extensions refused, the parser knows no more than that
            reason = _REASONS.get(event.code, reason)
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
