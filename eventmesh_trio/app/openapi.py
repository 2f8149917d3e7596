"""The API's description (OpenAPI 3.1), made from the route table and the message types."""

from functools import cache
from typing import Any, Final

import msgspec

from eventmesh_trio import __version__
from eventmesh_trio.app.routes import RouteTable
from eventmesh_trio.wire import events, requests
from eventmesh_trio.wire.sessions import SessionInfo

__all__ = ["openapi_document"]

_EVENTS: Final = (
    *events.LOGGED,
    events.Progress,
    events.Heartbeat,
    events.SystemStatus,
    events.BackpressureWarning,
    events.Gap,
)
_BODIES: Final = {
    ("/crawl/stream", "POST"): requests.CrawlRequest,
    ("/crawl/sse", "POST"): requests.CrawlRequest,
    ("/deepsearch/stream", "POST"): requests.DeepSearchRequest,
    ("/deepsearch/sse", "POST"): requests.DeepSearchRequest,
}
_STREAMS: Final = {
    "/crawl/stream": "application/x-ndjson",
    "/deepsearch/stream": "application/x-ndjson",
    "/crawl/sse": "text/event-stream",
    "/crawl/sse/stream": "text/event-stream",
    "/deepsearch/sse": "text/event-stream",
}
_ANSWERS: Final = {
    "/sessions/{id}": SessionInfo,
    **{f"/sessions/{{id}}/{command}": SessionInfo for command in ("pause", "resume", "cancel")},
}
_ERROR: Final = {
    "description": "The request was refused",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_PROBLEM: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "retryable", "status", "request_id", "error_code"],
            "properties": {
                "type": {"type": "string"},
                "message": {"type": "string"},
                "retryable": {"type": "boolean"},
                "status": {"type": "integer"},
                "request_id": {"type": ["string", "null"]},
                "error_code": {"type": "string"},
                "details": {"type": "object"},
            },
        }
    },
}


@cache
def openapi_document(table: RouteTable) -> dict[str, Any]:
    """The whole description of a route table; computed once for each."""
    types = (*_EVENTS, *_BODIES.values(), SessionInfo)
    _, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    components["Problem"] = _PROBLEM
    return {
        "openapi": "3.1.0",
        "info": {"title": "eventmesh_trio", "version": __version__},
        "paths": {
            path: {
                method.lower(): _operation(route.path, path, method, route.summary)
                for method in route.methods
            }
            for route in table.routes
            for path in route.paths
        },
        "components": {"schemas": components},
    }


def _operation(canonical: str, path: str, method: str, summary: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": _success(canonical), "default": _ERROR},
    }
    if (body := _BODIES.get((canonical, method))) is not None:
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
    parameters = [_parameter("id", "path")] if "{id}" in path else []
    if canonical in _STREAMS and method == "GET":
        parameters += [
            _parameter("session_id", "query"),
            _parameter("last_event_id", "query", False),
        ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _parameter(name: str, place: str, required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": {"type": "string"}}


def _success(canonical: str) -> dict[str, Any]:
    if (answer := _ANSWERS.get(canonical)) is not None:
        reference = {"$ref": f"#/components/schemas/{answer.__name__}"}
        return {"description": "OK", "content": {"application/json": {"schema": reference}}}
    if (media_type := _STREAMS.get(canonical)) is None:
        return {"description": "OK"}
    choices = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in _EVENTS]
    return {
        "description": "A stream of events, one a line or block",
        "content": {media_type: {"schema": {"oneOf": choices}}},
    }
