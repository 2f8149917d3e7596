"""Starlette, for uvicorn and hypercorn: StreamingResponse, sse-starlette, WebSocket."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.peers.payload import events


async def asked_for(request: Request) -> dict[str, Any]:
    """How many events, of what size, and whether to fall silent after the metadata (``idle``)."""
    asked: dict[str, Any] = orjson.loads(await request.body())
    return asked


async def ndjson(request: Request) -> Response:
    asked = await asked_for(request)

    async def lines() -> AsyncIterator[bytes]:
        for _, _, body in events(asked):
            yield body + b"\n"
            if asked.get("idle"):
                await anyio.sleep_forever()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def sse(request: Request) -> Response:
    asked = await asked_for(request)

    async def blocks() -> AsyncIterator[ServerSentEvent]:
        for kind, event_id, body in events(asked):
            yield ServerSentEvent(body.decode(), event=kind, id=event_id)
            if asked.get("idle"):
                await anyio.sleep_forever()

    return EventSourceResponse(blocks(), ping=30)


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    try:
        request = orjson.loads(await socket.receive_text())
        for _, _, body in events(request):
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
