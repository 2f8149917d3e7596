"""aiohttp on uvloop: events by a schedule, as NDJSON by StreamResponse, and as WebSocket."""

import asyncio
import sys

import orjson
import uvloop
from aiohttp import WSMsgType, web

from benchmarks.peers.paced_payload import opening, paced, seconds_left


async def ndjson(request: web.Request) -> web.StreamResponse:
    asked = orjson.loads(await request.read())
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        await response.prepare(request)
        await response.write(opening(asked) + b"\n")
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:
                await asyncio.sleep(seconds)
            await response.write(paced(index, asked) + b"\n")
        await response.write_eof()
    except ConnectionResetError:
        pass  # the reader has seen enough
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    message = await socket.receive()
    if message.type is WSMsgType.TEXT:
        asked = orjson.loads(message.data)
        await socket.send_str(opening(asked).decode())
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:
                await asyncio.sleep(seconds)
            await socket.send_str(paced(index, asked).decode())
        await socket.receive()
    return socket


def main() -> None:
    app = web.Application()
    app.add_routes([web.post("/ndjson", ndjson), web.get("/ws", websocket)])
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
