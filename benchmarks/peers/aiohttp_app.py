"""aiohttp on uvloop: NDJSON and SSE by StreamResponse, WebSocket."""

import asyncio
import sys

import orjson
import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers.payload import events


async def stream(request: web.Request, media_type: str, framing: str) -> web.StreamResponse:
    asked = orjson.loads(await request.read())
    response = web.StreamResponse(headers={"Content-Type": media_type})
    await response.prepare(request)
    for kind, event_id, body in events(asked):
        if framing == "sse":
            await response.write(
                b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), body)
            )
        else:
            await response.write(body + b"\n")
        if asked.get("idle"):
            await asyncio.Event().wait()
    await response.write_eof()
    return response


async def ndjson(request: web.Request) -> web.StreamResponse:
    return await stream(request, "application/x-ndjson", "ndjson")


async def sse(request: web.Request) -> web.StreamResponse:
    return await stream(request, "text/event-stream", "sse")


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    message = await socket.receive()
    if message.type is WSMsgType.TEXT:
        for _, _, body in events(orjson.loads(message.data)):
            await socket.send_str(body.decode())
        await socket.receive()
    return socket


def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/ndjson", ndjson), web.post("/sse", sse), web.get("/ws", websocket)])
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
