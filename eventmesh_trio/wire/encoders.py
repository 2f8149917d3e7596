"""Event -> bytes for one kind of reader: dialect + framing + shape.

Encoders are frozen and hashable: each is the key under which a log keeps encoded bytes, so that an
event is encoded once per kind of reader, whatever the number of readers. They implement
`eventmesh_trio.abc.Encoder`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import inf
from struct import Struct as Layout
from typing import Any, Final, Literal, NamedTuple

import attrs
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder

from eventmesh_trio.errors import EventMeshError, InternalError, PageError
from eventmesh_trio.wire.codec import (
    decode_event,
    encode_json_into,
    encode_json_lines,
    encode_json_parts,
)
from eventmesh_trio.wire.dialects import OMITTED, Shape, cut_result, shape_result
from eventmesh_trio.wire.events import (
    ErrorInfo,
    Event,
    Heartbeat,
    Result,
    RunError,
    SearchResult,
)
from eventmesh_trio.wire.scratch import Scratch, written
from eventmesh_trio.wire.sse import encode_comment
from eventmesh_trio.wire.websocket import FrameStyle, frame_header, frame_payloads

__all__ = [
    "MAX_MESSAGE_BYTES",
    "EncodedBatch",
    "EnvelopeEncoder",
    "FlatEncoder",
    "HTTPEncoder",
    "MessageFraming",
    "StreamFraming",
    "UniversalEncoder",
]

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
"""The largest WebSocket message that is sent: clients close the connection on a larger one."""

_CUT_MARGIN: Final = 0.95  # aimed at, of that
_LEAST_SHARE: Final = 0.001  # of a document; what is still too large then is sent without

StreamFraming = Literal["ndjson", "sse"]
MessageFraming = Literal["frame", "message"]  # a whole server frame, or the bare text of one

_FRAME_START: Final = frame_header(0xFFFF)  # of nearly every message; its length is put in later
_FRAME_START_BYTES: Final = 4
_LEAST_FRAMED: Final = 126  # bytes, of messages with such a frame
_MOST_FRAMED: Final = 0xFFFF
_LENGTH: Final = Layout("!H")
_scratch: Final = Scratch()
_DATA: Final = b"\ndata: "
_KEEP_ALIVE: Final = encode_comment("keep-alive")
_TAGS: Final = {kind: str(kind.__struct_config__.tag) for kind in Event.__subclasses__()}
_BLOCK_HEADS: Final = {kind: f"event: {tag}\ndata: " for kind, tag in _TAGS.items()}
_CUTTABLE: Final = (Result, SearchResult)  # what may be as long as a page
_FAILURES: Final[tuple[type[EventMeshError], ...]] = (InternalError, *PageError.__subclasses__())
_SUGGESTIONS: Final = {kind.type: kind.suggestions for kind in _FAILURES}


class EncodedBatch(NamedTuple):
    """``taken`` events in one piece; ``shown`` of them are in it, for a dialect may hide kinds.

    ``restores``: nothing of them is lost in it, so that they can be read back (`decode_batch`).
    """

    data: bytes
    taken: int
    shown: int
    restores: bool = False


def failed_url_event(event: Result, error: ErrorInfo) -> RunError:
    """The documented ``error`` event of a result that failed; NDJSON sends it just before."""
    return RunError(
        timestamp=event.timestamp,
        request_id=event.request_id,
        url=event.url,
        index=event.index,
        error=error,
        recovery_suggestions=_SUGGESTIONS.get(error.type, ()),
    )


def _joined(
    append: Callable[[bytearray, Event], None], events: Sequence[Event], room: int
) -> EncodedBatch:
    """`eventmesh_trio.abc.Encoder.encode_batch`, event by event."""
    buffer = bytearray()
    taken = shown = end = 0
    for event in events:
        append(buffer, event)
        size = len(buffer)
        if size > room and taken:
            del buffer[end:]
            break
        taken += 1
        shown += size > end
        end = size
    return EncodedBatch(bytes(buffer), taken, shown)


def _cut(
    event: Result | SearchResult, nbytes: int, limit: float, encode: Callable[[Event], bytearray]
) -> bytearray:
    """A result's JSON with so much of its document left out that it is within ``limit``.

    Args:
      nbytes: the size of the whole.
    """
    share = 1.0
    while True:
        # What is written as escapes may stand at the front: then a second round is needed.
        share *= _CUT_MARGIN * limit / nbytes
        if share < _LEAST_SHARE:
            share = 0.0
        body = encode(cut_result(event, share))
        nbytes = len(body)
        if nbytes <= limit or not share:
            return body


@attrs.frozen(cache_hash=True)
class HTTPEncoder:
    """Canonical JSON as NDJSON lines or SSE blocks.

    A result whose NDJSON line would be over ``max_line_bytes`` has its document cut.
    """

    framing: StreamFraming
    shape: Shape = "both"
    max_line_bytes: float = inf

    @property
    def joins(self) -> bool:
        return True

    def encode(self, event: Event) -> bytes:
        buffer = bytearray()
        self._append(buffer, event)
        return bytes(buffer)

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
        if self.shape != "both":
            return _joined(self._append, events, room)
        # One call for all of them: 1.15, not 1.45 us a block; 0.9, not 1.3 us a line.
        if self.framing == "sse":
            heads = [f"id: {event.id}\n{_BLOCK_HEADS[type(event)]}".encode() for event in events]
            data, taken = encode_json_parts(events, heads, b"\n\n", room)
            return EncodedBatch(data, taken, taken, restores=True)
        # `_failure`, spelt out: half the time, 0.04 us an event.
        results = [event.result for event in events if isinstance(event, Result)]
        if [page for page in results if page is not UNSET and page.error is not None]:
            return _joined(self._append, events, room)
        data, taken = encode_json_lines(events, room)
        if len(data) > self.max_line_bytes < max(map(len, data.split(b"\n"))):
            return _joined(self._append, events, room)
        return EncodedBatch(data, taken, taken, restores=True)

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        if self.framing == "ndjson":
            return [_known(line) for line in data.splitlines()]
        blocks = data.split(b"\n\n")[:-1]
        return [_known(block[block.index(_DATA) + len(_DATA) :]) for block in blocks]

    def _append(self, buffer: bytearray, event: Event) -> None:
        ndjson = self.framing == "ndjson"
        if ndjson and (error := _failure(event)) is not None:
            assert isinstance(event, Result)
            encode_json_into(buffer, failed_url_event(event, error))
            buffer += b"\n"
        whole = event
        if self.shape != "both" and isinstance(event, Result):
            event = shape_result(event, self.shape)
        if ndjson:
            start = len(buffer)
            encode_json_into(buffer, event)
            nbytes = len(buffer) - start
            if nbytes > self.max_line_bytes and isinstance(whole, _CUTTABLE):
                buffer[start:] = _cut(whole, nbytes, self.max_line_bytes, self._shaped)
            buffer += b"\n"
            return
        # Not `encode_block`, which takes any text (2 us): JSON has no line ends, nor have our ids.
        if event.id is not UNSET:
            buffer += f"id: {event.id}\n".encode()
        elif isinstance(event, Heartbeat):
            buffer += _KEEP_ALIVE
        buffer += _BLOCK_HEADS[type(event)].encode()
        encode_json_into(buffer, event)
        buffer += b"\n\n"

    def _shaped(self, event: Event) -> bytearray:
        body = bytearray()
        if isinstance(event, Result):
            event = shape_result(event, self.shape)
        encode_json_into(body, event)
        return body


def _known(line: bytes) -> Event:
    event = decode_event(line)
    assert isinstance(event, Event), "our own events are known"
    return event


def _failure(event: Event) -> ErrorInfo | None:
    """Why the URL of a canonical result failed; None for all else."""
    page = event.result if isinstance(event, Result) else UNSET
    return None if page is UNSET else page.error


@attrs.frozen
class _MessageEncoder(ABC):
    """One WebSocket text message an event: a whole frame, or the text for who frames it."""

    framing: MessageFraming
    style: FrameStyle = attrs.field(default=FrameStyle(), kw_only=True)  # of whole frames

    @property
    def joins(self) -> bool:
        return self.framing == "frame"

    def encode(self, event: Event) -> bytes:
        buffer = bytearray()
        self._append(buffer, event)
        return bytes(buffer)

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
        return _joined(self._append, events, room)

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        raise NotImplementedError("not every message of this dialect holds the whole of its event")

    def _append(self, buffer: bytearray, event: Event) -> None:
        body = self._body(event)
        if len(body) > MAX_MESSAGE_BYTES and isinstance(event, _CUTTABLE):
            body = _cut(event, len(body), MAX_MESSAGE_BYTES, self._body)
        if not body:
            return
        if self.framing == "frame":
            if self.style.window_bits:
                buffer += self.style.encode(bytes(body))
                return
            buffer += frame_header(len(body))
        buffer += body

    @abstractmethod
    def _body(self, event: Event) -> bytearray:
        """The message's JSON text; empty where this dialect does not know the event."""


class _Envelope(Struct, frozen=True, gc=False):
    """An event as it stands in an envelope."""

    message_type: str
    data: Any
    timestamp: str
    id: str | UnsetType = UNSET


class _ReadEnvelope(Struct, frozen=True, gc=False):
    data: Raw


_decode_envelope: Final = Decoder(_ReadEnvelope).decode


def _enveloped(event: Event) -> _Envelope:
    return _Envelope(_TAGS[type(event)], event, event.timestamp, event.id)


@attrs.frozen(cache_hash=True)
class EnvelopeEncoder(_MessageEncoder):
    """``{message_type, data, timestamp, id}`` with the canonical event as ``data``."""

    shape: Shape = "both"

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
        whole = self.framing == "frame" and not self.style.window_bits and self.shape == "both"
        if not whole or OMITTED["envelope"] in set(map(type, events)):
            return super().encode_batch(events, room)
        # Each into its frame: 1.5, not 2.7 us an event.
        buffer, end = _scratch.begin()
        begin, most = end, end + room
        taken = 0
        for event in events:
            buffer += _FRAME_START
            encode_json_into(buffer, _enveloped(event))
            start, end = end, len(buffer)
            nbytes = end - start - _FRAME_START_BYTES
            if _LEAST_FRAMED <= nbytes <= _MOST_FRAMED:
                _LENGTH.pack_into(buffer, start + 2, nbytes)
            elif nbytes > MAX_MESSAGE_BYTES:
                return super().encode_batch(events, room)  # what is cut cannot be read back
            else:
                buffer[start : start + _FRAME_START_BYTES] = frame_header(nbytes)
                end = len(buffer)
            if end > most and taken:
                del buffer[start:]
                break
            taken += 1
        return EncodedBatch(written(buffer, begin), taken, taken, restores=True)

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        return [_known(_decode_envelope(payload).data) for payload in frame_payloads(data)]

    def _body(self, event: Event) -> bytearray:
        body = bytearray()
        if isinstance(event, OMITTED["envelope"]):
            return body
        if isinstance(event, Result) and self.shape != "both":
            event = shape_result(event, self.shape)
        encode_json_into(body, _enveloped(event))
        return body


@attrs.frozen(cache_hash=True)
class FlatEncoder(_MessageEncoder):
    """``{event, requestId, sessionId, timestamp, ...}``; a result flat, with its full document."""

    session_id: str

    def _body(self, event: Event) -> bytearray:
        body = bytearray()
        if isinstance(event, OMITTED["flat"]):
            return body
        encode_json_into(body, shape_result(event, "flat") if isinstance(event, Result) else event)
        body[-1:] = b',"sessionId":'
        encode_json_into(body, self.session_id)
        if event.request_id is not UNSET:
            body += b',"requestId":'
            encode_json_into(body, event.request_id)
        body += b"}"
        return body


@attrs.frozen(cache_hash=True)
class UniversalEncoder(FlatEncoder):
    """Flat and in an envelope at once: a gap or warning belongs to no run, and all can read it."""

    def _body(self, event: Event) -> bytearray:
        body = FlatEncoder._body(self, event)
        body[-1:] = f',"message_type":"{_TAGS[type(event)]}","data":'.encode()
        encode_json_into(body, event)
        body += b"}"
        return body
