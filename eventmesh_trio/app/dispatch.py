"""The handler of every exchange: from the path to a handler of ours, and from errors to answers."""

from functools import partial
from typing import Final

from eventmesh_trio.abc import Exchange
from eventmesh_trio.app import documents, handlers, sockets
from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.routes import API_PREFIX, Route, RouteTable
from eventmesh_trio.errors import RequestError
from eventmesh_trio.wire.headers import preflight_fields

__all__ = ["ROUTES", "Application"]


def _prefixed(*paths: str) -> tuple[str, ...]:
    return tuple(API_PREFIX + path for path in paths)


_SAFE: Final = ("GET", "HEAD", "OPTIONS")  # RFC 9110, section 9.2.1
_ATTACH_SSE: Final = partial(handlers.attach, framing="sse", shape="both")

ROUTES: Final = RouteTable(
    [
        Route(
            "/crawl/stream",
            {
                "POST": partial(handlers.crawl, framing="ndjson"),
                "GET": partial(handlers.attach, framing="ndjson", shape="both"),
            },
            "Crawl, or attach to a session, as NDJSON",
            _prefixed("/crawl/stream", "/stream/crawl"),
            streams=True,
        ),
        Route(
            "/crawl/sse",
            # The page in streaming-api.md attaches here, and reads a preview of the document.
            {
                "POST": handlers.crawl_sse,
                "GET": partial(handlers.attach, framing="sse", shape="preview"),
            },
            "Crawl, or attach to a session, as server-sent events",
            _prefixed("/crawl/sse", "/sse/crawl"),
            streams=True,
        ),
        Route(
            "/crawl/sse/stream",
            {"GET": _ATTACH_SSE},
            "Attach to a session as server-sent events",
            _prefixed("/crawl/sse/stream"),
            streams=True,
        ),
        Route(
            "/crawl/ws",
            {"GET": sockets.crawl_websocket},
            "Crawl, pause, resume and cancel over a WebSocket",
            _prefixed("/crawl/ws"),
            streams=True,
        ),
        Route(
            "/deepsearch/stream",
            {"POST": partial(handlers.deepsearch, framing="ndjson")},
            "Search the web and crawl what is found, as NDJSON",
            _prefixed("/deepsearch/stream", "/stream/deepsearch"),
            streams=True,
        ),
        Route(
            "/deepsearch/sse",
            {"POST": partial(handlers.deepsearch, framing="sse")},
            "Search the web and crawl what is found, as server-sent events",
            _prefixed("/deepsearch/sse"),
            streams=True,
        ),
        Route("/sessions", {"GET": handlers.list_sessions}, "All sessions", _prefixed("/sessions")),
        Route(
            "/sessions/{id}",
            {"GET": handlers.get_session, "DELETE": handlers.delete_session},
            "One session; DELETE cancels its live runs",
            _prefixed("/sessions/{id}"),
        ),
        *(
            Route(
                f"/sessions/{{id}}/{command}",
                {"POST": partial(handlers.control_session, command=command)},
                f"{command.capitalize()} one run (request_id) or all live ones",
                _prefixed(f"/sessions/{{id}}/{command}"),
            )
            for command in ("pause", "resume", "cancel")
        ),
        Route("/livez", {"GET": documents.livez}, "Whether the process is alive"),
        Route("/readyz", {"GET": documents.readyz}, "Whether new work is taken"),
        Route("/healthz", {"GET": documents.health}, "The whole picture", ("/health",)),
        Route("/metrics", {"GET": documents.metrics}, "Prometheus metrics"),
        Route("/stats", {"GET": documents.stats}, "The same as JSON"),
        Route("/openapi.json", {"GET": documents.openapi}, "This description"),
    ]
)


class Application:
    """`handle` is what a transport calls for each exchange."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        server = mesh.config.server
        self._origins = frozenset(server.cors_origins if server.enable_cors else ())

    def __deepcopy__(self, memo: object) -> "Application":
        # ASGI middleware copies scopes (hypercorn's ProxyFixMiddleware does), and their state with
        # them. There is one service, however many copies of a scope lead to it.
        return self

    async def handle(self, exchange: Exchange) -> None:
        """Serve one exchange. Errors that are not the request's are left to the transport."""
        call = Call(exchange, ROUTES, self._origins)
        try:
            await self._route(call)
        except RequestError as error:
            if exchange.started:
                raise
            await call.send_error(error)

    async def _route(self, call: Call) -> None:
        request = call.exchange.request
        if request.method == "OPTIONS" and request.path == "*":
            await call.exchange.send_response(204, call.fields((b"allow", ROUTES.allow.encode())))
            return
        found = ROUTES.match(request.path)
        call.parameters = found.parameters
        if request.method == "OPTIONS":
            fields = preflight_fields(call.origin, self._origins, list(found.route.methods))
            allow = (b"allow", found.route.allow.encode())
            await call.exchange.send_response(204, [allow, *fields])
            return
        handler = found.handler(request.method)
        if request.method not in _SAFE:
            call.require_allowed_origin()
        if not found.route.streams:
            await handler(self.mesh, call)
            return
        with self.mesh.admission.stream(request) as place:
            call.before_end = place.leave
            await handler(self.mesh, call)
