"""permessage-deflate (RFC 7692) for a server: negotiation, bounded inflation, shareable frames.

wsproto's own extension inflates without limit. This one stops at the connection's message limit,
whatever the sender's ratio, and agrees on no context takeover in both directions: a message is
then compressed by itself, so that one result serves every reader of it, and an idle connection
holds no window.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Final

import attrs
from wsproto.extensions import Extension
from wsproto.frame_protocol import (
    CloseReason,
    FrameDecoder,
    FrameProtocol,
    Opcode,
    RsvBits,
)

__all__ = [
    "Deflate",
    "MessageInflater",
    "MessageLimit",
    "compress",
    "negotiate_deflate",
]

_NAME: Final = "permessage-deflate"
_TAIL: Final = b"\x00\x00\xff\xff"
# The fastest: text shrinks nearly as much as at 6, in a third of the time.
_LEVEL: Final = 1
_BITS: Final = re.compile(r"[89]|1[0-5]")
_ITEM: Final = re.compile(r'\s*([-!#$%&\'*+.^_`|~0-9A-Za-z]+)(?:\s*=\s*("?)([^\s",;]+)\2)?\s*')
_MAX_OFFERS: Final = 16
_NO_RSV: Final = RsvBits(False, False, False)
_RSV1: Final = RsvBits(True, False, False)


@attrs.frozen
class Deflate:
    """What was agreed on. ``window_bits`` is the base-2 logarithm of the server's window."""

    window_bits: int = 15
    answer: bytes = b""  # the value of Sec-WebSocket-Extensions


def negotiate_deflate(values: Iterable[bytes]) -> Deflate | None:
    """Choose the first offer that we can keep, or None.

    An offer that is malformed is declined, as RFC 7692, section 7.1 says; it is no error.
    """
    offers = ",".join(value.decode("latin-1") for value in values).split(",")
    for offer in offers[:_MAX_OFFERS]:
        name, *items = offer.split(";")
        if name.strip().lower() == _NAME and (deflate := _judge(items)) is not None:
            return deflate
    return None


def _judge(items: Iterable[str]) -> Deflate | None:
    seen: set[str] = set()
    bits = 15
    for item in items:
        match = _ITEM.fullmatch(item)
        if match is None or match[1] in seen:
            return None
        name, value = match[1], match[3]
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            # zlib has no raw window of 8 bits.
            if value is None or not _BITS.fullmatch(value) or value == "8":
                return None
            bits = int(value)
        elif name != "client_max_window_bits" or (value is not None and not _BITS.fullmatch(value)):
            return None
    answer = f"{_NAME}; server_no_context_takeover; client_no_context_takeover"
    if "server_max_window_bits" in seen:
        answer += f"; server_max_window_bits={bits}"
    return Deflate(bits, answer.encode("ascii"))


def compress(payload: bytes, window_bits: int = 15) -> bytes:
    """The payload of one compressed message (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -window_bits)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[:-4]


class MessageLimit(Extension):
    """Counts each message's bytes; over the limit, wsproto fails the connection with 1009.

    A frame that announces too much is refused by its header, before its payload has come.
    """

    name = "x-message-limit"  # never offered

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._received = 0  # of the current message, as on the wire
        self._control = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,  # noqa: ARG002
        payload_length: int,
    ) -> CloseReason | RsvBits:
        self._control = opcode.iscontrol()
        if not self._control:
            if self._received + payload_length > self.max_message_bytes:
                return CloseReason.MESSAGE_TOO_BIG
            self._received += payload_length
        return _NO_RSV

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,
    ) -> bytes | CloseReason | None:
        if fin and not self._control:
            self._received = 0
        return None


class MessageInflater(MessageLimit):
    """The receiving half of permessage-deflate, within the limit; stands in for `MessageLimit`."""

    name = _NAME

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self._inflater: zlib._Decompress | None = None
        self._inflated = 0

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        if rsv.rsv1:
            # Only the first frame of a message says that it is compressed.
            if opcode not in (Opcode.TEXT, Opcode.BINARY):
                return CloseReason.PROTOCOL_ERROR
            if self._inflater is None:  # else: a message within a message, which wsproto refuses
                self._inflater = zlib.decompressobj(-15)
                self._inflated = 0
        verdict = super().frame_inbound_header(proto, opcode, rsv, payload_length)
        return _RSV1 if isinstance(verdict, RsvBits) else verdict

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        data: bytes,
    ) -> bytes | CloseReason:
        if self._inflater is None or self._control:
            return data
        return self._inflate(data)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        rest: bytes | CloseReason | None = None
        if fin and not self._control and self._inflater is not None:
            rest = self._inflate(_TAIL)
            self._inflater = None
        super().frame_inbound_complete(proto, fin)
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        assert self._inflater is not None
        # One byte more than allowed tells "full" from "too much". zlib reads 0 as "no limit".
        room = self.max_message_bytes - self._inflated + 1
        try:
            out = self._inflater.decompress(data, room)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated += len(out)
        if self._inflated > self.max_message_bytes:
            return CloseReason.MESSAGE_TOO_BIG
        return out
