"""Commands on a WebSocket and the replies to them (``docs/wire.rst``).

One parser reads every request shape of the documents. What it tells of the dialect is what the
replies use; a reply for which no dialect is known is written so that all clients can read it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from eventmesh_trio.errors import InvalidRequest, ValidationError
from eventmesh_trio.wire.codec import decode_json, encode_json
from eventmesh_trio.wire.dialects import Dialect
from eventmesh_trio.wire.events import ErrorInfo
from eventmesh_trio.wire.headers import parse_identifier

__all__ = ["OPERATIONS", "PROTOCOL_VERSION", "Command", "Reply", "parse_command"]

PROTOCOL_VERSION: Final = "1.0"
OPERATIONS: Final = ("crawl", "deepsearch", "pause", "resume", "cancel", "status", "ping")


@attrs.frozen
class Command:
    """One request: ``dialect`` is None where the message is in neither shape."""

    operation: str
    request_id: str | None
    arguments: Mapping[str, Any]
    dialect: Dialect | None


def parse_command(message: str | bytes) -> Command:
    """Read one message.

    Raises:
      InvalidRequest: not JSON, not an object, no or an unknown operation, a bad id. Its context has
        the ``request_id`` where it could still be read.
    """
    try:
        body = decode_json(message)
    except ValidationError as error:
        raise InvalidRequest(error.message) from None
    if not isinstance(body, dict):
        raise InvalidRequest("a message must be a JSON object")
    nested = body["data"] if isinstance(body.get("data"), dict) else None
    dialect: Dialect | None = None
    if "request_type" in body or "data" in body:
        dialect = "envelope"
    elif "requestId" in body or "urls" in body:
        dialect = "flat"
    candidates = (
        body.get("request_id"),
        body.get("requestId"),
        nested.get("request_id") if nested else None,
    )
    request_id = next((value for value in candidates if value is not None), None)
    if request_id is not None:
        if not isinstance(request_id, str):
            raise InvalidRequest("request_id must be a string")
        try:
            parse_identifier(request_id, "request_id")
        except ValidationError as error:
            raise InvalidRequest(error.message) from None
    operation = body.get("request_type") or body.get("action")
    if not isinstance(operation, str) or operation not in OPERATIONS:
        said = f"unknown operation {operation!r:.64}" if operation is not None else "no operation"
        raise InvalidRequest(
            f"{said}: request_type or action must be one of {', '.join(OPERATIONS)}",
            context={"request_id": request_id},
        )
    return Command(operation, request_id, body if nested is None else nested, dialect)


@attrs.frozen
class Reply:
    """What one connection is told: never logged, no id."""

    tag: str
    members: Mapping[str, Any]
    session_id: str
    timestamp: str
    request_id: str | None = None

    def encode(self, dialect: Dialect | None) -> bytes:
        """The JSON text of this reply in a dialect; None, and errors: one every client can read."""
        readable = None if self.tag == "error" else dialect
        return encode_json(_RENDERERS[readable](self))

    @classmethod
    def error(
        cls,
        error: ErrorInfo,
        *,
        session_id: str,
        request_id: str | None,
        details: Mapping[str, Any],
    ) -> "Reply":
        """An ``error`` reply; ``request_id`` must not be that of a live run (clients drop it)."""
        members = {
            "message": error.message,
            "error": error,
            **({"details": details} if details else {}),
        }
        return cls("error", members, session_id, error.timestamp, request_id)


def _envelope(reply: Reply) -> dict[str, Any]:
    data = {"session_id": reply.session_id, "timestamp": reply.timestamp, **reply.members}
    if reply.request_id is not None:
        data["request_id"] = reply.request_id
    return {"message_type": reply.tag, "data": data, "timestamp": reply.timestamp}


def _flat(reply: Reply) -> dict[str, Any]:
    body: dict[str, Any] = {"event": reply.tag}
    if reply.request_id is not None:
        body["requestId"] = reply.request_id
    return {**body, "sessionId": reply.session_id, "timestamp": reply.timestamp, **reply.members}


def _universal(reply: Reply) -> dict[str, Any]:
    return {**_flat(reply), **_envelope(reply)}


_RENDERERS: Final[Mapping[Dialect | None, Callable[[Reply], dict[str, Any]]]] = {
    "envelope": _envelope,
    "flat": _flat,
    "canonical": _universal,
    None: _universal,
}
