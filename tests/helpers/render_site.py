"""A site of pages that scripts build, on loopback, in the test's own event loop.

It counts what it is asked for by path, and by nobody but itself: what a page asks of other
listeners (`Listener`) is counted there.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qs, urlsplit

import attrs
import trio

HTML = "text/html; charset=utf-8"


@attrs.frozen
class Reply:
    body: str | bytes = b""
    content_type: str = HTML
    status: int = 200
    fields: Mapping[str, str] = attrs.field(factory=dict)


Handler = Callable[[Mapping[str, str], Mapping[str, str]], Awaitable[Reply]]


@attrs.define(eq=False)
class Site:
    """``handlers`` by path: called with the query and the request's fields."""

    port: int = 0
    host: str = "127.0.0.1"
    handlers: dict[str, Handler] = attrs.field(factory=dict)
    requests: Counter[str] = attrs.field(factory=Counter)
    open_connections: int = 0

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    def page(self, path: str, body: str | bytes, **reply: object) -> str:
        """Have a page at this path; its URL."""

        async def handle(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            return Reply(body, **reply)  # type: ignore[arg-type]

        self.handlers[path] = handle
        return self.url(path)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.open_connections += 1
        try:
            async with stream:
                await self._serve_requests(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the browser left
        finally:
            self.open_connections -= 1

    async def _serve_requests(self, stream: trio.SocketStream) -> None:
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                data = await stream.receive_some(65536)
                if not data:
                    return
                pending += data
            head, _, pending = pending.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            fields = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            split = urlsplit(first.split(" ")[1])
            self.requests[split.path] += 1
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            handler = self.handlers.get(split.path)
            reply = Reply("no such page", status=404) if handler is None else None
            if handler is not None:
                reply = await handler(query, fields)
            assert reply is not None
            body = reply.body.encode() if isinstance(reply.body, str) else reply.body
            answer = [f"HTTP/1.1 {reply.status} Told", f"Content-Length: {len(body)}"]
            if reply.content_type:
                answer.append(f"Content-Type: {reply.content_type}")
            answer += [f"{name}: {value}" for name, value in reply.fields.items()]
            await stream.send_all("\r\n".join([*answer, "", ""]).encode("latin-1") + body)


@asynccontextmanager
async def open_site(host: str = "127.0.0.1") -> AsyncIterator[Site]:
    """Serve a site on a free port until the block ends."""
    site = Site(host=host)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        site.port = listeners[0].socket.getsockname()[1]
        await nursery.start(partial(trio.serve_listeners, site.serve, listeners))
        yield site
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Listener:
    """Somewhere that no page may come: counts what does."""

    port: int
    met: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.met += 1
        await stream.aclose()

    async def receive(self, socket: trio.socket.SocketType) -> None:
        while True:
            await socket.recvfrom(2048)
            self.met += 1


@asynccontextmanager
async def open_listener(host: str = "127.0.0.1") -> AsyncIterator[Listener]:
    """Listen on one port, for TCP and UDP."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    port = listeners[0].socket.getsockname()[1]
    listener = Listener(port)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as datagrams:
        await datagrams.bind((host, port))
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_listeners, listener.serve, listeners))
            nursery.start_soon(listener.receive, datagrams)
            yield listener
            nursery.cancel_scope.cancel()
