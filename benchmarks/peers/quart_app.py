"""Quart on trio, for hypercorn: responses from asynchronous generators, and WebSocket."""

from collections.abc import AsyncIterator

import orjson
import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio

from benchmarks.peers.payload import events

app = QuartTrio(__name__)
app.config["RESPONSE_TIMEOUT"] = None  # or a stream ends after a minute


@app.post("/ndjson")
async def ndjson() -> Response:
    asked = orjson.loads(await request.get_data())

    async def lines() -> AsyncIterator[bytes]:
        for _, _, body in events(asked):
            yield body + b"\n"
            if asked.get("idle"):
                await trio.sleep_forever()

    return Response(lines(), content_type="application/x-ndjson")


@app.post("/sse")
async def sse() -> Response:
    asked = orjson.loads(await request.get_data())

    async def blocks() -> AsyncIterator[bytes]:
        for kind, event_id, body in events(asked):
            yield b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), body)
            if asked.get("idle"):
                await trio.sleep_forever()

    return Response(blocks(), content_type="text/event-stream")


@app.websocket("/ws")
async def socket() -> None:
    asked = orjson.loads(await websocket.receive())
    for _, _, body in events(asked):
        await websocket.send(body.decode())
    await websocket.receive()
