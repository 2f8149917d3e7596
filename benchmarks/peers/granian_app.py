"""granian by its own interface, RSGI, which spares it what ASGI costs: streams and WebSocket."""

import asyncio
from typing import Any

import orjson
from granian.rsgi import ProtocolClosed

from benchmarks.peers.payload import events


async def stream(protocol: Any, framing: str) -> None:
    asked = orjson.loads(await protocol())
    media_type = "text/event-stream" if framing == "sse" else "application/x-ndjson"
    transport = protocol.response_stream(200, [("content-type", media_type)])
    for kind, event_id, body in events(asked):
        if framing == "sse":
            await transport.send_bytes(
                b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), kind.encode(), body)
            )
        else:
            await transport.send_bytes(body + b"\n")
        if asked.get("idle"):
            await asyncio.Event().wait()


async def websocket(protocol: Any) -> None:
    transport = await protocol.accept()
    try:
        asked = orjson.loads((await transport.receive()).data)
        for _, _, body in events(asked):
            await transport.send_str(body.decode())
        await transport.receive()
    except ProtocolClosed:
        pass


async def app(scope: Any, protocol: Any) -> None:
    if scope.proto == "ws":
        await websocket(protocol)
    else:
        await stream(protocol, scope.path.lstrip("/"))
