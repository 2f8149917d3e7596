"""The `websockets` library's own server on uvloop: WebSocket only."""

import sys

import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.peers.payload import events


async def handle(socket: ServerConnection) -> None:
    try:
        request = orjson.loads(await socket.recv())
        for _, _, body in events(request):
            await socket.send(body, text=True)
        await socket.wait_closed()
    except ConnectionClosed:
        pass


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
