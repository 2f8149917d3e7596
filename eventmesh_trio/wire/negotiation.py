"""From a request's path, ``Accept`` and query to the encoder that serves its reader.

Equal encoders of no session in particular are one object: to be found beside a log's bytes takes
the identity of two then, and no comparison of their members, 0.6 us for each batch of each reader.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Final

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.dialects import SHAPES, Dialect, Shape
from eventmesh_trio.wire.encoders import (
    EnvelopeEncoder,
    FlatEncoder,
    HTTPEncoder,
    MessageFraming,
    StreamFraming,
    UniversalEncoder,
)
from eventmesh_trio.wire.websocket import FrameStyle

__all__ = ["MEDIA_TYPES", "accepts", "message_encoder", "prefers_gzip", "stream_encoder"]

# A member of Accept-Encoding with its weight (RFC 9110, 12.4.2); what is none is as if not there.
_CODING: Final = re.compile(
    rb"[ \t]*([-!#$%&'*+.^_`|~0-9a-z]+)"
    rb"(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?[ \t]*"
)

_ENCODERS: Final = 64
"""Encoders that are remembered; there is a handful for each framing."""

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


def prefers_gzip(accept_encoding: Sequence[bytes]) -> bool:
    """Whether gzip is acceptable, and no less welcome than no coding (RFC 9110, 12.5.3).

    Args:
      accept_encoding: the values of all ``Accept-Encoding`` fields. Without any, a client takes
        every coding, by the RFC; but then it is as likely to know none.
    """
    weights: dict[bytes, float] = {}
    for part in b",".join(accept_encoding).lower().split(b","):
        if found := _CODING.fullmatch(part):
            name = b"gzip" if found[1] == b"x-gzip" else found[1]
            weights[name] = max(weights.get(name, 0.0), float(found[2] or 1))
    gzip = weights.get(b"gzip", weights.get(b"*", 0.0))
    return gzip > 0 and gzip >= weights.get(b"identity", 0.0)


@lru_cache(maxsize=_ENCODERS)
def stream_encoder(
    framing: StreamFraming, default: Shape, wanted: str | None, *, max_line_bytes: float = inf
) -> HTTPEncoder:
    """The encoder of an HTTP stream; ``wanted`` is ``?shape=``.

    Args:
      max_line_bytes: of NDJSON; a longer result has its document cut.
    Raises:
      ValidationError: no such shape.
    """
    if not wanted:
        return HTTPEncoder(framing, default, max_line_bytes)
    for shape in SHAPES:
        if shape == wanted != "preview":  # that is one page's own, and not for the asking
            return HTTPEncoder(framing, shape, max_line_bytes)
    raise ValidationError("shape must be nested, flat or both", field="shape")


def message_encoder(
    dialect: Dialect | None,
    framing: MessageFraming,
    session_id: str,
    style: FrameStyle = FrameStyle(),  # noqa: B008  (frozen)
) -> EnvelopeEncoder | FlatEncoder:
    """The encoder of one run's events on a WebSocket; None: of what belongs to no run."""
    if dialect is None:
        return UniversalEncoder(framing, session_id, style=style)
    if dialect == "flat":
        return FlatEncoder(framing, session_id, style=style)
    return _envelope_encoder(framing, style)


@lru_cache(maxsize=_ENCODERS)
def _envelope_encoder(framing: MessageFraming, style: FrameStyle) -> EnvelopeEncoder:
    return EnvelopeEncoder(framing, style=style)
