"""The client against the real server, through a proxy that cuts connections at random points."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from random import Random

import attrs
import pytest
import trio

from eventmesh_trio.app.config import Config, FetchConfig, ServerConfig
from eventmesh_trio.app.server import serve
from eventmesh_trio.client.client import Client, StreamProtocol, open_client
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import ConnectionBroken
from eventmesh_trio.wire.events import Result, Summary

CUTS = 70  # for each of three protocols
URLS = 40
LIMITS = ClientLimits(
    backoff_seconds=0.001, max_backoff_seconds=0.01, max_attempts=200, farewell_seconds=2
)
CONFIG = Config(
    server=ServerConfig(bind=("127.0.0.1:0",)),
    fetch=FetchConfig(allow_private=(ip_network("127.0.0.0/8"),)),
)

pytestmark = pytest.mark.timeout(90)


async def serve_page(stream: trio.SocketStream) -> None:
    """An origin: one page of a paragraph for every path."""
    request = b""
    async with stream:
        while b"\r\n\r\n" not in request:
            data = await stream.receive_some()
            if not data:
                return
            request += data
        path = request.split(b" ")[1]
        text = b"This page says a few words about %b, again and again. " % path * 20
        body = b"<html><head><title>%b</title></head><body><p>%b</p></body></html>" % (path, text)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )


@attrs.define(eq=False)
class Cutter:
    """Forwards connections, and cuts each after a random number of bytes from the server."""

    port: int
    random: Random
    max_bytes: int | None = 12_000  # None: forwards everything
    cuts: int = 0
    is_gone: bool = False  # every new connection is dropped at once

    async def handle(self, client: trio.SocketStream) -> None:
        budget = None if self.max_bytes is None else self.random.randint(-500, self.max_bytes)
        try:
            async with client:
                if self.is_gone or (budget is not None and budget < 0):
                    self.cuts += 1  # before the request has gone anywhere
                    return
                server = await trio.open_tcp_stream("127.0.0.1", self.port)
                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward_requests, client, server)
                    await self._forward_answers(server, client, budget)
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side left: so does the other

    async def _forward_requests(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async for data in client:
            await server.send_all(data)
        await server.send_eof()

    async def _forward_answers(
        self, server: trio.SocketStream, client: trio.SocketStream, budget: int | None
    ) -> None:
        async for data in server:
            if budget is not None and len(data) > budget:
                await client.send_all(data[:budget])
                self.cuts += 1
                return
            await client.send_all(data)
            budget = None if budget is None else budget - len(data)


@asynccontextmanager
async def open_house(
    seed: int, limits: ClientLimits = LIMITS
) -> AsyncIterator[tuple[Client, Cutter, str]]:
    """An origin, the server, and a client that reaches it through a cutter."""
    async with trio.open_nursery() as nursery:
        (origin,) = await nursery.start(partial(trio.serve_tcp, serve_page, 0, host="127.0.0.1"))
        site = f"http://127.0.0.1:{origin.socket.getsockname()[1]}"
        (address,) = await nursery.start(partial(serve, CONFIG, announce=lambda _: None))
        cutter = Cutter(int(address.rpartition(":")[2]), Random(seed))
        (front,) = await nursery.start(partial(trio.serve_tcp, cutter.handle, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{front.socket.getsockname()[1]}"
        async with open_client(url, limits=limits) as client:
            yield client, cutter, site
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "websocket"])
async def test_every_result_arrives_once_however_often_the_connection_is_cut(
    protocol: StreamProtocol,
) -> None:
    async with open_house(seed=1) as (client, cutter, site):
        while cutter.cuts < CUTS:
            before = cutter.cuts
            urls = [f"{site}/{before}/{number}" for number in range(URLS)]
            results: list[int] = []
            sequence: list[int] = []
            async with client.crawl(urls, protocol=protocol, respect_robots=False) as stream:
                async for event in stream:
                    if isinstance(event.id, str):
                        sequence.append(int(event.id.rpartition("-")[2]))
                    if isinstance(event, Result):
                        results.append(event.index)
            assert sorted(results) == list(range(URLS))
            assert sequence == sorted(set(sequence))
            assert stream.gaps == ()
            assert stream.summary is not None
            assert stream.summary.status == "completed"
            assert stream.summary.successful == URLS
            assert cutter.cuts > before, "nothing was cut: the test shows nothing"


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "websocket"])
async def test_a_crawl_that_is_left_is_cancelled_on_the_server(protocol: StreamProtocol) -> None:
    async with open_house(seed=2) as (client, cutter, site):
        cutter.max_bytes = None
        urls = [f"{site}/{number}" for number in range(500)]
        async with client.crawl(
            urls, protocol=protocol, respect_robots=False, concurrency=1
        ) as stream:
            async for event in stream:
                if isinstance(event, Result):
                    break
        (run,) = (await client.session(stream.session_id)).runs
        assert run.request_id == stream.request_id
        assert run.state in ("cancelling", "cancelled")
        assert run.completed < 500


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "websocket"])
async def test_a_paused_crawl_stands_still_until_it_is_resumed(protocol: StreamProtocol) -> None:
    async with open_house(seed=3) as (client, cutter, site):
        cutter.max_bytes = None
        urls = [f"{site}/{number}" for number in range(20)]
        results = 0
        async with client.crawl(
            urls, protocol=protocol, respect_robots=False, concurrency=1
        ) as stream:
            async for event in stream:
                results += isinstance(event, Result)
                if results == 5:
                    await stream.pause()
                    (run,) = (await client.session(stream.session_id)).runs
                    assert run.state == "paused"
                    await stream.resume()
                    results += 1000
        assert results == 1020
        assert stream.summary is not None
        assert stream.summary.successful == 20


async def test_a_session_can_be_replayed_by_another_client() -> None:
    async with open_house(seed=4) as (client, cutter, site):
        cutter.max_bytes = None
        async with client.crawl([f"{site}/a", f"{site}/b"], respect_robots=False) as stream:
            ids = [event.id async for event in stream if isinstance(event.id, str)]
        async with client.attach(stream.session_id) as replay:
            assert [e.id async for e in replay if isinstance(e.id, str)] == ids
        async with client.attach(stream.session_id, ids[2], protocol="ndjson") as rest:
            events = [event async for event in rest if isinstance(event.id, str)]
        assert [event.id for event in events] == ids[3:]
        assert isinstance(events[-1], Summary)
        async with client.attach(stream.session_id, ids[-1]) as nothing:
            assert [event async for event in nothing] == []


async def test_a_server_that_went_away_for_good_is_an_error() -> None:
    limits = attrs.evolve(LIMITS, max_attempts=20)
    async with open_house(seed=5, limits=limits) as (client, cutter, site):
        urls = [f"{site}/{number}" for number in range(100)]
        results = 0
        with pytest.raises(ConnectionBroken):  # noqa: PT012
            async with client.crawl(urls, respect_robots=False, concurrency=1) as stream:
                async for event in stream:
                    results += isinstance(event, Result)
                    cutter.is_gone = results > 0
        assert 0 < results < 100
