"""Starlette, for uvicorn and hypercorn: StreamingResponse, sse-starlette, WebSocket."""

from collections.abc import AsyncIterator

import anyio
import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.peers.payload import events


async def asked_for(request: Request) -> tuple[int, bool]:
    """How many results, and whether to fall silent after the metadata."""
    body = orjson.loads(await request.body())
    return body["n"], body.get("idle", False)


async def ndjson(request: Request) -> Response:
    count, idle = await asked_for(request)

    async def lines() -> AsyncIterator[bytes]:
        for _, _, body in events(count, "req-peer"):
            yield body + b"\n"
            if idle:
                await anyio.sleep_forever()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def sse(request: Request) -> Response:
    count, idle = await asked_for(request)

    async def blocks() -> AsyncIterator[ServerSentEvent]:
        for kind, event_id, body in events(count, "req-peer"):
            yield ServerSentEvent(body.decode(), event=kind, id=event_id)
            if idle:
                await anyio.sleep_forever()

    return EventSourceResponse(blocks(), ping=30)


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    try:
        request = orjson.loads(await socket.receive_text())
        for _, _, body in events(request["n"], "req-peer"):
            await socket.send_text(body.decode())
        await socket.receive_text()
    except WebSocketDisconnect:
        pass


app = Starlette(
    routes=[
        Route("/ndjson", ndjson, methods=["POST"]),
        Route("/sse", sse, methods=["POST"]),
        WebSocketRoute("/ws", websocket),
    ]
)
