"""An error that a server answered -> the exception that it stands for (``docs/wire.rst``)."""

from collections.abc import Iterator, Mapping
from time import time
from typing import Any, Final

from eventmesh_trio.errors import (
    EventMeshError,
    InternalError,
    MethodNotAllowed,
    OverloadedError,
    RateLimited,
    RequestError,
    StreamingError,
    ValidationError,
)
from eventmesh_trio.wire.codec import decode_json
from eventmesh_trio.wire.http_dates import parse_retry_after

__all__ = ["error_from_members", "error_from_response"]


def _tree(root: type[EventMeshError]) -> Iterator[type[EventMeshError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


_BY_TYPE: Final[Mapping[str, type[EventMeshError]]] = {
    # A request's own errors stand over a stream's of the same type name.
    **{cls.type: cls for cls in _tree(StreamingError)},
    **{cls.type: cls for cls in _tree(RequestError)},
    InternalError.type: InternalError,
}
_GATEWAY: Final = (502, 503, 504)
"""What a proxy answers when it cannot reach the server."""


def error_from_response(
    status: int, body: bytes, *, retry_after: bytes | None = None
) -> EventMeshError:
    """Read an error response. One that is not ours (a proxy's page) is told by its status."""
    seconds = parse_retry_after(retry_after, time())
    try:
        decoded = decode_json(body)
    except ValidationError:
        decoded = None
    members = decoded.get("error") if isinstance(decoded, dict) else None
    if isinstance(members, dict):
        return error_from_members({**members, "status": status}, retry_after_seconds=seconds)
    message = f"the server answered with HTTP status {status}"
    context = {"status": status}
    if status == RateLimited.status:
        return RateLimited(message, context=context, retry_after_seconds=seconds)
    if status in _GATEWAY:
        return OverloadedError(message, context=context, retry_after_seconds=seconds)
    if status >= 500:
        return InternalError(message, context=context)
    return RequestError(message, context=context)


def error_from_members(
    members: Mapping[str, Any], *, retry_after_seconds: float | None = None
) -> EventMeshError:
    """Make the exception of an error object; a type that is not known becomes `RequestError`."""
    name = members.get("type")
    message = members.get("message")
    text = message if isinstance(message, str) else "the server gave no reason"
    context: dict[str, object] = {}
    for more in (members.get("context"), members.get("details")):
        if isinstance(more, dict):
            context |= more
    context |= {k: members[k] for k in ("status", "request_id") if members.get(k) is not None}
    if retry_after_seconds is None and isinstance(
        given := members.get("retry_after_seconds"), int | float
    ):
        retry_after_seconds = given
    cls = _BY_TYPE.get(name) if isinstance(name, str) else None
    if cls is ValidationError:
        field = context.pop("field", None)
        error: EventMeshError = ValidationError(
            text, field=field if isinstance(field, str) else None
        )
        error.context |= context
        return error
    if cls is MethodNotAllowed:
        return RequestError(text, context={**context, "type": name})
    if cls is None:
        context["type"] = name
        cls = RequestError
    return cls(text, context=context, retry_after_seconds=retry_after_seconds)
