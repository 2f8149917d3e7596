"""Event -> bytes for one kind of reader: dialect + framing + shape.

Encoders are frozen and hashable: each is the key under which a log keeps encoded bytes, so that an
event is encoded once per kind of reader, whatever the number of readers. They implement
`eventmesh_trio.abc.Encoder`.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import attrs
import msgspec
from msgspec import UNSET, Struct, UnsetType

from eventmesh_trio.errors import PageError
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.dialects import OMITTED, Shape, shape_result
from eventmesh_trio.wire.events import Event, Heartbeat, Result, RunError
from eventmesh_trio.wire.ndjson import encode_line
from eventmesh_trio.wire.sse import encode_block, encode_comment
from eventmesh_trio.wire.websocket import encode_frame

__all__ = ["EnvelopeEncoder", "FlatEncoder", "HTTPEncoder", "MessageFraming", "StreamFraming"]

StreamFraming = Literal["ndjson", "sse"]
MessageFraming = Literal["frame", "message"]  # a whole server frame, or the bare text of one

_KEEP_ALIVE: Final = encode_comment("keep-alive")
_SUGGESTIONS: Final = {kind.type: kind.suggestions for kind in PageError.__subclasses__()}


def tag_of(event: Event) -> str:
    """The ``event`` member's value."""
    return str(event.__struct_config__.tag)


def failed_url_event(event: Result) -> RunError | None:
    """The documented ``error`` event of a result that failed; NDJSON sends it just before."""
    page = event.result
    if page is UNSET or page.error is None:
        return None
    return RunError(
        timestamp=event.timestamp,
        request_id=event.request_id,
        url=page.url,
        index=event.index,
        error=page.error,
        recovery_suggestions=_SUGGESTIONS.get(page.error.type, ()),
    )


def _ndjson(event: Event, body: bytes) -> bytes:
    if isinstance(event, Result) and (failure := failed_url_event(event)) is not None:
        return encode_line(encode_json(failure)) + encode_line(body)
    return encode_line(body)


def _sse(event: Event, body: bytes) -> bytes:
    block = encode_block(tag_of(event), body, None if event.id is UNSET else event.id)
    return _KEEP_ALIVE + block if isinstance(event, Heartbeat) else block


_STREAM_FRAMINGS: Final[Mapping[StreamFraming, Callable[[Event, bytes], bytes]]] = {
    "ndjson": _ndjson,
    "sse": _sse,
}


@attrs.frozen
class HTTPEncoder:
    """Canonical JSON as NDJSON lines or SSE blocks."""

    framing: StreamFraming
    shape: Shape = "both"

    def encode(self, event: Event) -> bytes:
        return _STREAM_FRAMINGS[self.framing](event, _canonical(event, self.shape))


class _Envelope(Struct, frozen=True, gc=False):
    message_type: str
    data: msgspec.Raw
    timestamp: str
    id: str | UnsetType


@attrs.frozen
class EnvelopeEncoder:
    """``{message_type, data, timestamp, id}`` with the canonical event as ``data``."""

    framing: MessageFraming
    shape: Shape = "both"

    def encode(self, event: Event) -> bytes:
        if isinstance(event, OMITTED["envelope"]):
            return b""
        data = msgspec.Raw(_canonical(event, self.shape))
        body = encode_json(_Envelope(tag_of(event), data, event.timestamp, event.id))
        return _framed(body, self.framing)


@attrs.frozen
class FlatEncoder:
    """``{event, requestId, sessionId, timestamp, ...}``; a result flat, with its full document."""

    framing: MessageFraming
    session_id: str

    def encode(self, event: Event) -> bytes:
        if isinstance(event, OMITTED["flat"]):
            return b""
        body = _canonical(event, "flat")
        names = {"sessionId": self.session_id}
        if event.request_id is not UNSET:
            names["requestId"] = event.request_id
        return _framed(b"%s,%s" % (body[:-1], encode_json(names)[1:]), self.framing)


def _canonical(event: Event, shape: Shape) -> bytes:
    return encode_json(
        shape_result(event, shape) if shape != "both" and isinstance(event, Result) else event
    )


def _framed(body: bytes, framing: MessageFraming) -> bytes:
    return encode_frame(body) if framing == "frame" else body
