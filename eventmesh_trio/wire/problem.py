"""An error before a stream begins, as a response: status, fields, JSON body.

The application and the transport answer with these, so that a client reads one shape whether the
handler, the router or the HTTP parser refused it.
"""

import math
from collections.abc import Sequence

import msgspec

from eventmesh_trio.errors import (
    EventMeshError,
    InternalError,
    MethodNotAllowed,
    PageError,
    RemoteProtocolError,
    RequestError,
    StreamingError,
    UnsupportedMediaType,
)

__all__ = ["error_body", "error_fields", "error_status"]

_encoder = msgspec.json.Encoder()
# What says nothing of our inside. Anything else is answered as an internal error.
_PUBLIC = (RequestError, RemoteProtocolError, PageError, StreamingError)


def error_status(error: EventMeshError) -> int:
    """The HTTP status of an error: its own, or the one that a protocol error hints at."""
    return error.status_hint if isinstance(error, RemoteProtocolError) else error.status


def error_fields(error: EventMeshError) -> Sequence[tuple[bytes, bytes]]:
    """The response fields that belong to an error: its type, when to retry, what is allowed."""
    fields = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    status = error_status(error)
    if error.retry_after_seconds is not None:
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_seconds))))
    elif status in (429, 503):
        fields.append((b"retry-after", b"1"))
    if isinstance(error, MethodNotAllowed):
        fields.append((b"allow", error.allow.encode("ascii")))
    if isinstance(error, UnsupportedMediaType) and error.accept_encoding is not None:
        fields.append((b"accept-encoding", error.accept_encoding.encode("ascii")))
    if status == 426:
        fields += [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
    return fields


def error_body(error: EventMeshError, request_id: str | None) -> bytes:
    """The JSON object of an error, with a final newline.

    An error that is not meant for clients is shown as an internal error, without its message.
    """
    shown = error if isinstance(error, _PUBLIC) else InternalError("the server failed to answer")
    members: dict[str, object] = {
        "type": shown.type,
        "message": shown.message,
        "retryable": shown.can_retry,
        "status": error_status(shown),
        "request_id": request_id,
        "error_code": shown.error_code,
    }
    if shown.context:
        members["details"] = shown.context
    return _encoder.encode({"error": members}) + b"\n"
