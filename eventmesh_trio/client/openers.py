"""How a stream is asked for: the first time, and again from where it was cut."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import attrs

from eventmesh_trio.client.connection import Response
from eventmesh_trio.client.endpoint import Endpoint
from eventmesh_trio.client.feeds import EnvelopeFeed, Feed, NDJSONFeed, SSEFeed
from eventmesh_trio.client.websocket import ClientWebSocket
from eventmesh_trio.errors import RemoteProtocolError
from eventmesh_trio.wire.codec import encode_json

__all__ = ["HTTPFraming", "HTTPOpener", "Operation", "WebSocketOpener"]

HTTPFraming = Literal["sse", "ndjson"]
Operation = Literal["crawl", "deepsearch"]

_NO_CONTENT: Final = 204


@attrs.frozen
class _Route:
    media_type: str
    last: str  # segment of the path that a POST goes to, below the operation
    get: tuple[str, ...]
    feed: Callable[[Response, int, str | None], Feed]


_ROUTES: Final[Mapping[HTTPFraming, _Route]] = {
    "sse": _Route("text/event-stream", "sse", ("crawl", "sse", "stream"), SSEFeed),
    "ndjson": _Route("application/x-ndjson", "stream", ("crawl", "stream"), NDJSONFeed),
}


@attrs.define(eq=False)
class HTTPOpener:
    """Opens an SSE or NDJSON stream. With a ``body`` it is posted until something of it has come.

    Each POST of a run carries the same ``Idempotency-Key``: where an answer got lost, the next
    attaches to the run that the first one started. A session is attached to in one way, whatever
    the ``operation`` that its runs are.

    ``sent``: a server may have heard of the run, whatever came of it.
    """

    endpoint: Endpoint
    framing: HTTPFraming
    session_id: str
    request_id: str | None = None
    body: Mapping[str, Any] | None = None
    operation: Operation = "crawl"
    sent: bool = attrs.field(default=False, init=False)

    async def __call__(self, last_event_id: str | None) -> Feed | None:
        """Raises what `Endpoint.request` raises, and the error that the server answered with."""
        route = _ROUTES[self.framing]
        if self.body is not None and self.request_id is not None and last_event_id is None:
            response = await self._post(route, self.body, self.request_id)
            begun = response.field(b"x-request-id")
        else:
            response = await self._get(route, last_event_id)
            begun = None
        feed: Feed | None = None
        try:
            if response.status == 200:
                feed = self._feed(route, response, begun.decode("latin-1") if begun else None)
            elif response.status != _NO_CONTENT:
                raise await self.endpoint.refusal(response)
        finally:
            if feed is None:
                await response.aclose()
        return feed

    async def _post(self, route: _Route, body: Mapping[str, Any], request_id: str) -> Response:
        fields = [
            ("Accept", route.media_type),
            ("Content-Type", "application/json"),
            ("X-Session-ID", self.session_id),
            ("X-Request-ID", request_id),
            ("Idempotency-Key", request_id),
        ]
        target = self.endpoint.address.target(self.operation, route.last)
        stream = await self.endpoint.connect()
        self.sent = True
        return await self.endpoint.request("POST", target, fields, encode_json(body), stream)

    async def _get(self, route: _Route, last_event_id: str | None) -> Response:
        target = self.endpoint.address.target(*route.get, session_id=self.session_id)
        fields = [("Accept", route.media_type)]
        if last_event_id is not None:
            fields.append(("Last-Event-ID", last_event_id))
        return await self.endpoint.request("GET", target, fields)

    def _feed(self, route: _Route, response: Response, request_id: str | None) -> Feed:
        media_type = (response.field(b"content-type") or b"").partition(b";")[0].strip().lower()
        if media_type != route.media_type.encode():
            raise RemoteProtocolError(f"the server sent {media_type!r}, not {route.media_type}")
        return route.feed(response, self.endpoint.limits.max_event_bytes, request_id)


@attrs.define(eq=False)
class WebSocketOpener:
    """Opens a WebSocket and asks for one run over it.

    Only the first socket asks at once: a later one first learns whether the run exists.
    """

    endpoint: Endpoint
    session_id: str
    request_id: str
    body: Mapping[str, Any]
    operation: Operation = "crawl"
    sent: bool = attrs.field(default=False, init=False)
    """A server may have heard of the run."""
    _asked: bool = attrs.field(default=False, init=False)

    async def __call__(self, last_event_id: str | None) -> Feed:
        """Raises what `Endpoint.connect` and `ClientWebSocket.open` raise."""
        endpoint = self.endpoint
        stream = await endpoint.connect()
        self.sent = True
        socket = await ClientWebSocket.open(
            stream,
            endpoint.address,
            endpoint.address.target(
                "crawl", "ws", session_id=self.session_id, last_event_id=last_event_id
            ),
            fields=endpoint.fields,
            limits=endpoint.limits,
        )
        feed = EnvelopeFeed(
            socket,
            self.request_id,
            self.body,
            operation=self.operation,
            has_begun=last_event_id is not None,
        )
        try:
            if self._asked:
                await feed.send_status()
            else:
                self._asked = True
                await feed.send_request()
        except BaseException:
            await feed.aclose()
            raise
        return feed
