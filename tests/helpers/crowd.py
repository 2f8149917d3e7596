"""A crowd of clients that crawl briefly and in every way: to the end, cut, cancelled, wrong.

It runs on trio beside a server of the same program, or against one in a process of its own. Bytes
are written and read by hand: ten thousand clients must cost less than what they measure.
"""

import json
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from random import Random
from typing import Any, Final

import attrs
import trio

from tests.helpers.origin import Origin

__all__ = ["ACTS", "Crowd", "Peer", "open_peer"]

READ_SECONDS: Final = 30.0
_SUMMARY: Final = b'"summary"'

ACTS: Final[Mapping[str, int]] = {
    "ndjson": 8,
    "sse": 6,
    "websocket": 4,
    "compressed": 2,
    "asked": 1,
    "failing": 1,
    "controlled": 1,
    "deleted": 1,
    "refused": 1,
    "cut": 2,
    "cut_socket": 1,
    "resumed": 1,
    "half": 1,
}
"""What a client does, and how often beside the others."""


class Peer:
    """One connection, read up to what its test waits for."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.data = b""
        self.inflate = zlib.decompressobj(-15)  # RFC 7692: of one socket, for all its messages

    async def request(self, method: str, target: str, body: object = None, **fields: str) -> int:
        """Send one request and read the head of its response; the status."""
        lines = [f"{method} {target} HTTP/1.1", "Host: crowd"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        payload = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode() + payload)
        head = await self.read_until(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    async def read_until(self, mark: bytes) -> bytes:
        """What comes up to and including ``mark``; what follows is kept for the next."""
        while mark not in self.data:
            more = await self.stream.receive_some()
            if not more:
                raise EOFError(f"closed before {mark!r}: {self.data[-500:]!r}")
            self.data += more
        found, mark, self.data = self.data.partition(mark)
        return found + mark

    async def read_stream(self) -> bytes:
        """The rest of a chunked response, its framing included."""
        return await self.read_until(b"\r\n0\r\n\r\n")

    def reset(self) -> None:
        """Vanish: the peer gets an RST, not an end."""
        end = trio.socket
        self.stream.setsockopt(end.SOL_SOCKET, end.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    # --- WebSocket: RFC 6455, 5.2, whole text frames of both sides ------------------------------

    async def upgrade(self, target: str, **fields: str) -> None:
        fields |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
        status = await self.request(
            "GET", target, Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==", **fields
        )
        assert status == 101, status

    async def send(self, **message: object) -> None:
        payload = json.dumps(message).encode()
        size = len(payload)
        head = (
            struct.pack("!BB", 0x81, 0x80 | size)
            if size < 126
            else struct.pack("!BBH", 0x81, 0x80 | 126, size)
        )
        await self.stream.send_all(head + bytes(4) + payload)  # masked with zeros

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        while True:
            first, size = await self._take(2)
            if size > 125:
                size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
            payload = await self._take(size)
            if first == 0xC1:
                first, payload = 0x81, self.inflate.decompress(payload + b"\0\0\xff\xff")
            if first == 0x81:
                message: dict[str, Any] = json.loads(payload)
                return message
            if first == 0x88:
                raise EOFError(f"closed: {payload!r}")

    async def receive_until(self, kind: str) -> dict[str, Any]:
        while True:
            message = await self.receive()
            if kind == (message.get("message_type") or message.get("event")):
                return message

    async def receive_close(self) -> int:
        """The code of the close frame that is to come next; it is answered."""
        head = await self._take(2)
        assert bytes(head) == b"\x88\x02", f"not a close frame: {head!r}"
        code = await self._take(2)
        await self.stream.send_all(b"\x88\x82" + bytes(4) + code)
        return int.from_bytes(code, "big")

    async def read_end(self) -> bytes:
        """What comes up to the end of the connection."""
        while more := await self.stream.receive_some():
            self.data += more
        rest, self.data = self.data, b""
        return rest

    async def _take(self, size: int) -> bytes:
        while len(self.data) < size:
            more = await self.stream.receive_some()
            if not more:
                raise EOFError("closed within a frame")
            self.data += more
        taken, self.data = self.data[:size], self.data[size:]
        return taken


@asynccontextmanager
async def open_peer(address: tuple[str, int]) -> AsyncIterator[Peer]:
    """Connect; closed, without a word, when the block ends."""
    stream = await trio.open_tcp_stream(*address)
    try:
        yield Peer(stream)
    finally:
        await trio.aclose_forcefully(stream)


@attrs.define(eq=False)
class Crowd:
    """``crawls`` is how many were begun, ``acts`` what was done how often.

    The server must allow loopback, and have short times: ``mesh.retention_seconds`` 0,
    ``mesh.linger_seconds`` and ``mesh.attach_wait_seconds`` well under a second.
    """

    address: tuple[str, int]
    origin: Origin
    crawls: int = 0
    acts: Counter[str] = attrs.field(factory=Counter)

    async def run(self, until: int, *, at_once: int, seed: int) -> None:
        """Act until ``until`` crawls were begun in all, ``at_once`` clients at a time."""
        async with trio.open_nursery() as nursery:
            for number in range(at_once):
                nursery.start_soon(self._live, until, Random(f"{seed}/{number}/{self.crawls}"))

    async def _live(self, until: int, pick: Random) -> None:
        while self.crawls < until:
            (name,) = pick.choices(list(ACTS), list(ACTS.values()))
            await self._act(name, pick)

    async def run_each(self, times: int) -> None:
        """Every act so many times, all of them at once."""
        async with trio.open_nursery() as nursery:
            for number in range(times):
                for name in ACTS:
                    nursery.start_soon(self._act, name, Random(f"{name} {number}"))

    async def _act(self, name: str, pick: Random) -> None:
        self.acts[name] += 1
        act: Callable[[Random], Awaitable[None]] = getattr(self, name)
        try:
            with trio.fail_after(READ_SECONDS):
                await act(pick)
        except Exception as error:
            error.add_note(f"while it did {name}")
            raise

    def connect(self) -> AbstractAsyncContextManager[Peer]:
        return open_peer(self.address)

    # --- What is crawled ------------------------------------------------------------------------

    def pages(self, pick: Random, count: int = 1) -> list[str]:
        hosts = len(self.origin.addresses)
        return [
            self.origin.url(f"/page/{pick.randrange(1000)}", pick.randrange(hosts))
            for _ in range(count)
        ]

    def body(self, urls: list[str], **options: Any) -> dict[str, object]:
        self.crawls += 1
        return {"urls": urls, "options": {"respect_robots": False, "max_retries": 0, **options}}

    # --- To the end -----------------------------------------------------------------------------

    async def ndjson(self, pick: Random) -> None:
        body = self.body(self.pages(pick, pick.randint(1, 2)))
        async with self.connect() as peer:
            assert await peer.request("POST", "/crawl/stream", body) == 200
            assert _SUMMARY in await peer.read_stream()
            if pick.random() < 0.3:  # the same connection again
                body = self.body(self.pages(pick))
                assert await peer.request("POST", "/crawl/stream", body) == 200
                assert _SUMMARY in await peer.read_stream()

    async def sse(self, pick: Random) -> None:
        body = self.body(self.pages(pick, pick.randint(1, 2)), respect_robots=True)
        async with self.connect() as peer:
            assert await peer.request("POST", "/crawl/sse", body) == 200
            assert b"event: summary" in await peer.read_stream()

    async def websocket(self, pick: Random) -> None:
        async with self.connect() as peer:
            await peer.upgrade("/crawl/ws")
            await peer.send(action="crawl", request_id="a", data=self.body(self.pages(pick)))
            summary = await peer.receive_until("summary")
            assert summary["data"]["successful"] == 1

    async def compressed(self, pick: Random) -> None:
        """Either wire, with what codings the server likes."""
        async with self.connect() as peer:
            if pick.random() < 0.5:
                coding = pick.choice(("gzip", "br", "zstd", "deflate", "gzip, br;q=0.5"))
                target = pick.choice(("/crawl/stream", "/crawl/sse"))
                body = self.body(self.pages(pick))
                assert await peer.request("POST", target, body, Accept_Encoding=coding) == 200
                await peer.read_stream()
                return
            deflate = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}
            await peer.upgrade("/crawl/ws", **deflate)
            await peer.send(action="crawl", request_id="a", data=self.body(self.pages(pick)))
            summary = await peer.receive_until("summary")
            assert summary["data"]["successful"] == 1

    async def failing(self, pick: Random) -> None:
        urls = [self.origin.url("/status/404"), "http://127.0.0.1:1/", "http://10.0.0.1/"]
        body = self.body([*urls, *self.origin.stalling(1)], timeout_seconds=0.1)
        async with self.connect() as peer:
            assert await peer.request("POST", "/crawl/stream", body) == 200
            assert b'"failed":4' in await peer.read_stream()

    # --- Controlled -----------------------------------------------------------------------------

    async def controlled(self, pick: Random) -> None:
        """Two runs of one socket: one paused and resumed, one cancelled."""
        async with self.connect() as peer:
            await peer.upgrade("/crawl/ws")
            await peer.send(action="crawl", request_id="a", data=self.body(self.pages(pick)))
            await peer.send(action="pause", request_id="a", data={})
            await peer.send(action="crawl", request_id="b", data=self.body(self.origin.stalling(2)))
            await peer.send(action="cancel", request_id="b", data={})
            await peer.send(action="resume", request_id="a", data={})
            await peer.send(action="nonsense")
            ends = [(await peer.receive_until("summary"))["data"]["status"] for _ in "ab"]
            assert sorted(ends) == ["cancelled", "completed"]

    async def deleted(self, pick: Random) -> None:
        session = f"deleted-{pick.getrandbits(64):x}"
        body = self.body([*self.pages(pick), *self.origin.stalling(1)])
        async with self.connect() as peer, self.connect() as other:
            assert await peer.request("POST", "/crawl/sse", body, X_Session_ID=session) == 200
            await peer.read_until(b"}\n")
            # With no reader and no retention it is gone as soon as it has ended.
            assert await other.request("DELETE", f"/sessions/{session}") in (200, 404)
            assert await peer.request("GET", f"/crawl/stream?session_id={session}") in (200, 404)

    async def asked(self, pick: Random) -> None:
        """What the server tells of itself."""
        for target in ("/stats", "/metrics", "/healthz", "/sessions"):
            async with self.connect() as peer:
                assert await peer.request("GET", target, Connection="close") == 200
                with suppress(EOFError):
                    await peer.read_until(b"it is closed at its end")

    async def refused(self, pick: Random) -> None:
        """Requests that are no crawls."""
        async with self.connect() as peer:
            assert await peer.request("POST", "/crawl/stream", {"urls": ["nonsense"]}) == 400
            await peer.read_until(b"}\n")
            assert await peer.request("GET", f"/missing/{pick.randrange(1000)}") == 404
            await peer.read_until(b"}\n")
            missing = f"/crawl/stream?session_id=missing-{pick.getrandbits(64):x}"
            assert await peer.request("GET", missing) == 404

    # --- Cut ------------------------------------------------------------------------------------

    async def cut(self, pick: Random) -> None:
        """A reader that leaves in the middle, in one of three ways, and does not come back."""
        body = self.body([*self.pages(pick), *self.origin.stalling(1)])
        fields = {"X_Session_ID": f"cut-{pick.getrandbits(64):x}"} if pick.random() < 0.5 else {}
        target = pick.choice(("/crawl/stream", "/crawl/sse"))
        async with self.connect() as peer:
            status = await peer.request("POST", target, body, Accept="text/event-stream", **fields)
            assert status == 200
            if pick.random() < 0.5:
                await peer.read_until(b'"result"')
            way = pick.randrange(3)
            if way == 0:
                peer.reset()
            elif way == 1:
                await peer.stream.send_eof()

    async def cut_socket(self, pick: Random) -> None:
        async with self.connect() as peer:
            await peer.upgrade("/crawl/ws")
            urls = [*self.pages(pick), *self.origin.stalling(1)]
            await peer.send(action="crawl", request_id="a", data=self.body(urls))
            await peer.receive_until(pick.choice(("welcome", "metadata", "result")))
            if pick.random() < 0.5:
                peer.reset()

    async def resumed(self, pick: Random) -> None:
        """Started without a stream, followed, cut, and followed again from the last id."""
        session = f"resumed-{pick.getrandbits(64):x}"
        body = self.body([*self.pages(pick), self.origin.url("/slow/1?ms=30")])
        async with self.connect() as peer:
            assert await peer.request("POST", "/crawl/sse", body, X_Session_ID=session) == 200
            await peer.read_until(b"}\n")
            target = f"/crawl/sse/stream?session_id={session}"
            status = await peer.request("GET", target)
            if status == 404:  # it was quick, and nothing is retained
                return
            assert status == 200
            cursor = (await peer.read_until(b"\nid: ") + await peer.read_until(b"\n")).split()[-1]
            peer.reset()
        async with self.connect() as peer:
            status = await peer.request("GET", target, Last_Event_ID=cursor.decode())
            if status == 200:
                assert b"event: summary" in await peer.read_stream()
            else:
                assert status in (204, 404)

    async def half(self, pick: Random) -> None:
        """Half a request, and an end."""
        async with self.connect() as peer:
            await peer.stream.send_all(b"POST /crawl/stream HTTP/1.1\r\nHost: x\r\nContent-Le")
            if pick.random() < 0.5:
                peer.reset()
