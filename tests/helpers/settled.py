"""What the tests of settings share: a mesh with these settings, and the mark of what a test shows.

`open_world` is the whole program but for origins and worker processes, in one task tree and over
memory streams, so that its times can jump.
"""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs
import httpcore2
import pytest
import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from eventmesh_trio.app.asgi import make_app
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.readers import reader_spec
from eventmesh_trio.app.server import serve
from eventmesh_trio.app.stream_config import Protocol
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.pipeline.crawl import CrawlPorts
from eventmesh_trio.testing import FakeExtractor, FakeFetcher, FakePoliteness
from eventmesh_trio.transport.http import serve_connection
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.headers import parse_wishes
from tests.mesh.mesh_support import SmallJob
from tests.transport.transport_harness import (
    Answer,
    HTTPPeer,
    WebSocketPeer,
    upgrade_request,
    websocket_over,
)

Test = TypeVar("Test", bound=Callable[..., Any])

# Reading them from the system's store takes longer than all else that opens a mesh.
certificates = cache(httpcore2.default_ssl_context)


def shows(*_: str) -> Callable[[Test], Test]:
    """Mark a test as the one that shows the effect of these settings (``tests/app/test_settings``
    compares the marks with the settings that there are)."""
    return lambda test: test


def settled(*assignments: str, **sections: Any) -> Config:
    """The configuration that these ``KEY=VALUE`` give."""
    return load_config(assignments=assignments, **sections)


@attrs.define(eq=False)
class World:
    """A mesh, the fakes behind it, and connections to it."""

    config: Config
    mesh: Mesh
    fetcher: FakeFetcher
    nursery: trio.Nursery

    def connect(self, *, lockstep: bool = False, peer: str = "192.0.2.1") -> HTTPPeer:
        """A connection to the server; with ``lockstep`` a write ends when it was read."""
        client, server = lockstep_stream_pair() if lockstep else memory_stream_pair()
        self.serve(server, peer)
        return HTTPPeer(client)

    def serve(self, stream: trio.abc.Stream, peer: str = "192.0.2.1") -> None:
        """Serve a connection as the server does."""
        self.nursery.start_soon(
            partial(
                serve_connection,
                stream,
                Application(self.mesh).handle,
                self.config.transport,
                peer=peer,
                drain=self.mesh.service,
            )
        )

    async def request(self, method: str, target: str, *fields: str, body: Any = None) -> Answer:
        """One request on a connection of its own, and its whole answer."""
        peer = self.connect()
        await peer.send(request_bytes(method, target, *fields, body=body))
        answer = await peer.answer(method)
        await peer.stream.aclose()
        return answer

    async def crawl(self, count: int = 1, *fields: str, path: str = "/crawl/stream") -> Answer:
        return await self.request("POST", path, *fields, body=crawl_of(count))

    async def open_socket(self, *fields: str, deflate: bool = False) -> WebSocketPeer:
        """A WebSocket whose handshake is done."""
        peer = self.connect()
        offer = ["Sec-WebSocket-Extensions: permessage-deflate"] if deflate else []
        lines = [field.encode() for field in (*offer, *fields)]
        await peer.send(upgrade_request(*lines, target=b"/crawl/ws"))
        return await websocket_over(peer)

    def reader_spec(
        self, protocol: Protocol = "ndjson", request_id: str | None = None, **wishes: str
    ) -> ReaderSpec:
        """What the program makes of a reader with these tuning fields (``x_buffer_size="9"``)."""
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in wishes.items()}
        return reader_spec(
            self.config.stream,
            parse_wishes(sent.get, self.config.stream.buffer),
            protocol=protocol,
            encoder_for=lambda _: HTTPEncoder("ndjson"),
            until="idle" if request_id is None else "run",
            request_id=request_id,
            connection_id="test",
        )

    def start(
        self, job: SmallJob | None = None, spec: ReaderSpec | None = None, session_id: str = "s"
    ) -> tuple[Session, Run, Subscriber]:
        """Start a small run of a named session with a reader of all of it."""
        job = job or SmallJob()
        session = self.mesh.hub.open_session(session_id)
        run, reader = self.mesh.hub.start_run(
            session, job, request_id=job.request_id, reader=spec or self.reader_spec()
        )
        assert reader is not None
        return session, run, reader


@asynccontextmanager
async def open_world(
    *assignments: str, fetcher: FakeFetcher | None = None, extractor: FakeExtractor | None = None
) -> AsyncIterator[World]:
    """The program with these settings, ``KEY=VALUE``, and fakes for what is outside of it."""
    config = settled(*assignments)
    fetcher = fetcher or FakeFetcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", certificates)
        async with open_mesh(config) as mesh, trio.open_nursery() as nursery:
            mesh.ports = fake_ports(mesh, fetcher, extractor)
            yield World(config, mesh, fetcher, nursery)
            nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Service:
    """A server on real sockets, and the connections to it; all are closed with it."""

    address: str
    _streams: list[trio.SocketStream] = attrs.field(factory=list)

    async def dial(self) -> HTTPPeer:
        split = urlsplit(self.address)
        assert split.hostname is not None
        assert split.port is not None
        self._streams.append(await trio.open_tcp_stream(split.hostname, split.port))
        return HTTPPeer(self._streams[-1])

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()


@asynccontextmanager
async def open_service(
    *assignments: str, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Service]:
    """``eventmesh serve`` in this process; the test has 30 seconds for it."""
    async with trio.open_nursery() as nursery:
        (address, *_) = await nursery.start(
            partial(
                serve,
                settled("server.bind=127.0.0.1:0", *assignments),
                ssl_context=ssl_context,
                announce=lambda _: None,
            )
        )
        with trio.fail_after(30), closing(Service(address)) as service:
            yield service
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class ASGIServer:
    """The application as an ASGI server calls it; ``sent`` is what it was told to send."""

    app: Any
    state: dict[str, Any]
    mesh: Mesh
    sent: list[dict[str, Any]] = attrs.field(factory=list)

    async def call(
        self, method: str, target: str, receive: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"a"), (b"content-type", b"application/json")],
            "client": ("192.0.2.1", 5000),
            "server": ("192.0.2.9", 80),
            "state": dict(self.state),
        }

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await self.app(scope, receive, send)


@asynccontextmanager
async def open_asgi(
    *assignments: str, fetcher: FakeFetcher | None = None
) -> AsyncIterator[ASGIServer]:
    """The ASGI application with these settings, between its start and its end."""
    app = make_app(settled(*assignments))
    state: dict[str, Any] = {}
    ready, over = trio.Event(), trio.Event()
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked > 1:
            await over.wait()
        return {"type": "lifespan.startup" if asked == 1 else "lifespan.shutdown"}

    async def send(message: dict[str, Any]) -> None:
        assert message["type"] != "lifespan.startup.failed", message
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, {"type": "lifespan", "state": state}, receive, send)
        await ready.wait()
        (application,) = state.values()
        application.mesh.ports = fake_ports(application.mesh, fetcher)
        yield ASGIServer(app, state, application.mesh)
        over.set()


def fake_ports(
    mesh: Mesh, fetcher: FakeFetcher | None = None, extractor: FakeExtractor | None = None
) -> CrawlPorts:
    """The ports of a mesh, with nothing outside of this process behind them."""
    return attrs.evolve(
        mesh.ports,
        fetcher=fetcher or FakeFetcher(),
        extractor=extractor or FakeExtractor(),
        politeness=FakePoliteness(),
    )


def crawl_of(count: int, **options: Any) -> dict[str, Any]:
    """The body of a crawl of so many URLs."""
    return {"urls": [f"http://e.org/{n}" for n in range(count)], "options": options}


def request_bytes(method: str, target: str, *fields: str, body: Any = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    length = [] if body is None else [f"Content-Length: {len(data)}"]
    head = [f"{method} {target} HTTP/1.1", "Host: a", *length, *fields, "", ""]
    return "\r\n".join(head).encode() + data


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of an NDJSON body, or of the data lines of an SSE body."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines()]
    return [json.loads(line) for line in lines if line.startswith(b"{")]


async def read_batch(reader: Subscriber, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Read one batch and report it as written within ``seconds``."""
    batch = await reader.receive_batch()
    reader.sent(batch.events, batch.nbytes, seconds)
    return events_of(b"".join(batch.pieces))


async def read_all(reader: Subscriber, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Read to the end of the channel, ``seconds`` a write."""
    events: list[dict[str, Any]] = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            return events
        await trio.sleep(seconds)
        reader.sent(batch.events, batch.nbytes, seconds)
        events += events_of(b"".join(batch.pieces))
