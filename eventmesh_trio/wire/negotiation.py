"""From a request's path, ``Accept`` and query to the encoder that serves its reader."""

from typing import Final

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.dialects import SHAPES, Dialect, Shape
from eventmesh_trio.wire.encoders import (
    EnvelopeEncoder,
    FlatEncoder,
    HTTPEncoder,
    MessageFraming,
    StreamFraming,
)

__all__ = ["MEDIA_TYPES", "accepts", "message_encoder", "stream_encoder"]

MEDIA_TYPES: Final = {
    # Without the charset the Python client of streaming-api.md gets bytes where it adds strings.
    "ndjson": b"application/x-ndjson; charset=utf-8",
    "sse": b"text/event-stream; charset=utf-8",
}


def accepts(accept: bytes | None, media_type: bytes) -> bool:
    """Whether ``Accept`` *names* the media type with a quality above 0 (RFC 9110, 12.5.1).

    Wildcards do not name it: every client sends ``*/*``.
    """
    for part in (accept or b"").lower().split(b","):
        name, *parameters = (item.strip() for item in part.split(b";"))
        if name == media_type:
            return not any(_is_zero_quality(parameter) for parameter in parameters)
    return False


def _is_zero_quality(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    return name.strip() == b"q" and value.strip().rstrip(b"0") in (b"", b".", b"0.")


def stream_encoder(framing: StreamFraming, default: Shape, wanted: str | None) -> HTTPEncoder:
    """The encoder of an HTTP stream; ``wanted`` is ``?shape=``.

    Raises:
      ValidationError: no such shape.
    """
    for shape in SHAPES:
        if shape == (wanted or default):
            return HTTPEncoder(framing, shape)
    raise ValidationError("shape must be nested, flat or both", field="shape")


def message_encoder(
    dialect: Dialect, framing: MessageFraming, session_id: str
) -> EnvelopeEncoder | FlatEncoder:
    """The encoder of one run's events on a WebSocket."""
    if dialect == "flat":
        return FlatEncoder(framing, session_id)
    return EnvelopeEncoder(framing)
