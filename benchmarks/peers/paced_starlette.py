"""Starlette, for uvicorn, granian and hypercorn: events by a schedule, as NDJSON and WebSocket."""

from collections.abc import AsyncIterator

import anyio
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.peers.paced_payload import opening, paced, seconds_left


async def ndjson(request: Request) -> Response:
    asked = orjson.loads(await request.body())

    async def lines() -> AsyncIterator[bytes]:
        yield opening(asked) + b"\n"
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:  # noqa: ASYNC110  # uvloop: early
                await anyio.sleep(seconds)
            yield paced(index, asked) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    try:
        asked = orjson.loads(await socket.receive_text())
        await socket.send_text(opening(asked).decode())
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:  # noqa: ASYNC110  # uvloop: early
                await anyio.sleep(seconds)
            await socket.send_text(paced(index, asked).decode())
        await socket.receive_text()
    except WebSocketDisconnect:
        pass


app = Starlette(
    routes=[Route("/ndjson", ndjson, methods=["POST"]), WebSocketRoute("/ws", websocket)]
)
