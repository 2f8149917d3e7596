"""granian's own interface, RSGI: events by a schedule, as NDJSON and WebSocket."""

import asyncio
from typing import Any

import orjson
from granian.rsgi import ProtocolClosed

from benchmarks.peers.paced_payload import opening, paced, seconds_left


async def app(scope: Any, protocol: Any) -> None:
    if scope.proto == "ws":
        await websocket(protocol)
        return
    asked = orjson.loads(await protocol())
    stream = protocol.response_stream(200, [("content-type", "application/x-ndjson")])
    try:
        await stream.send_bytes(opening(asked) + b"\n")
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:
                await asyncio.sleep(seconds)
            await stream.send_bytes(paced(index, asked) + b"\n")
    except ProtocolClosed:
        pass  # the reader has seen enough


async def websocket(protocol: Any) -> None:
    socket = await protocol.accept()
    try:
        asked = orjson.loads((await socket.receive()).data)
        await socket.send_str(opening(asked).decode())
        for index in range(asked["n"]):
            while (seconds := seconds_left(index, asked)) > 0:
                await asyncio.sleep(seconds)
            await socket.send_str(paced(index, asked).decode())
        await socket.receive()
    except ProtocolClosed:
        pass
