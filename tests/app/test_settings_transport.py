"""Each setting under ``transport`` and what it changes on a connection."""

import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from eventmesh_trio.abc import Exchange
from eventmesh_trio.testing import FakeFetcher
from eventmesh_trio.transport.listeners import Bind, open_listeners, serve_listeners
from tests.helpers.settled import (
    Service,
    crawl_of,
    open_asgi,
    open_service,
    open_world,
    request_bytes,
    settled,
    shows,
)
from tests.mesh.mesh_support import SmallJob
from tests.transport.transport_harness import GET, HTTPPeer

LIVEZ = request_bytes("GET", "/livez")


async def seconds_to_end(peer: HTTPPeer) -> float:
    began = trio.current_time()
    await peer.rest()
    return trio.current_time() - began


# --- Time that a peer may take -----------------------------------------------------------------


@shows("transport.tls_handshake_seconds")
async def test_a_tls_handshake_may_take_tls_handshake_seconds():
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    setting = "transport.tls_handshake_seconds=0.3"
    async with open_service(setting, ssl_context=context) as service:
        peer = await service.dial()
        assert 0.25 < await seconds_to_end(peer) < 2


@shows("transport.header_seconds")
async def test_a_head_may_take_header_seconds(autojump_clock: MockClock):
    async with open_world("transport.header_seconds=7") as world:
        peer = world.connect()
        await peer.send(LIVEZ[:-2])
        began = trio.current_time()
        assert (await peer.answer()).status == 408
        assert trio.current_time() - began == pytest.approx(7, abs=0.01)


@shows("transport.body_seconds")
async def test_a_body_may_take_body_seconds(autojump_clock: MockClock):
    async with open_world("transport.body_seconds=7") as world:
        peer = world.connect()
        await peer.send(request_bytes("POST", "/crawl/stream", body=crawl_of(1))[:-2])
        began = trio.current_time()
        assert (await peer.answer()).status == 408
        assert trio.current_time() - began == pytest.approx(7, abs=0.01)


@shows("transport.keep_alive_seconds")
async def test_an_idle_connection_is_closed_after_keep_alive_seconds(autojump_clock: MockClock):
    async with open_world("transport.keep_alive_seconds=7") as world:
        peer = world.connect()
        await peer.send(LIVEZ)
        assert (await peer.answer()).status == 200
        assert await seconds_to_end(peer) == pytest.approx(7, abs=0.01)


@shows("transport.write_stall_seconds")
async def test_a_write_may_stall_for_write_stall_seconds(autojump_clock: MockClock):
    async with open_world("transport.write_stall_seconds=7") as world:
        session, _, _ = world.start(SmallJob(total=100, holds=trio.Event()))
        peer = world.connect(lockstep=True)
        await peer.send(request_bytes("GET", "/crawl/stream?session_id=s"))
        await trio.sleep(6.9)
        assert len(session.subscribers) == 2
        await trio.sleep(0.2)
        assert len(session.subscribers) == 1


@shows("transport.farewell_seconds")
@pytest.mark.parametrize("seconds", [1, 6])
async def test_a_connection_that_is_closed_waits_farewell_seconds_for_its_peer(
    seconds: int, autojump_clock: MockClock
):
    async with open_world(f"transport.farewell_seconds={seconds}") as world:
        peer = world.connect()
        await peer.send(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
        assert (await peer.answer()).status == 404
        assert seconds - 0.1 < await seconds_to_end(peer) <= 2 * seconds + 0.1


# --- Size of a request -------------------------------------------------------------------------


async def status_of(setting: str, raw: bytes) -> int:
    async with open_world(setting) as world:
        peer = world.connect()
        await peer.send(raw)
        return (await peer.answer()).status


@shows("transport.max_request_line_bytes")
async def test_a_request_line_over_max_request_line_bytes_is_414(autojump_clock: MockClock):
    raw = request_bytes("GET", f"/livez?{'x' * 200}")
    assert await status_of("transport.max_request_line_bytes=300", raw) == 200
    assert await status_of("transport.max_request_line_bytes=100", raw) == 414


@shows("transport.max_header_bytes")
async def test_a_head_over_max_header_bytes_is_431(autojump_clock: MockClock):
    raw = request_bytes("GET", "/livez", f"X-Long: {'x' * 1000}")
    assert await status_of("transport.max_header_bytes=2000", raw) == 200
    assert await status_of("transport.max_header_bytes=500", raw) == 431


@shows("transport.max_header_count")
async def test_a_head_of_more_than_max_header_count_fields_is_431(autojump_clock: MockClock):
    raw = request_bytes("GET", "/livez", *(f"X-{n}: 1" for n in range(5)))
    assert await status_of("transport.max_header_count=6", raw) == 200
    assert await status_of("transport.max_header_count=5", raw) == 431


@shows("transport.max_body_bytes")
async def test_a_body_over_max_body_bytes_is_413(autojump_clock: MockClock):
    raw = request_bytes("POST", "/crawl/stream", body=crawl_of(10))
    assert await status_of("transport.max_body_bytes=1000", raw) == 200
    assert await status_of("transport.max_body_bytes=100", raw) == 413


@shows("transport.max_drained_bytes")
@pytest.mark.parametrize(("most", "kept"), [("64KB", True), ("1KB", False)])
async def test_an_unread_body_over_max_drained_bytes_ends_the_connection(
    most: str, kept: bool, autojump_clock: MockClock
):
    async with open_world(f"transport.max_drained_bytes={most}") as world:
        peer = world.connect()
        await peer.send(request_bytes("POST", "/nowhere", body="x" * 5000))
        answer = await peer.answer()
        assert (b"connection" not in answer.fields) is kept


@attrs.define(eq=False)
class Counting(trio.abc.Stream):
    """A stream that counts what was taken from it."""

    stream: trio.abc.Stream
    taken: int = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(500)
        self.taken += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


@shows("transport.max_pipelined_bytes")
@pytest.mark.parametrize("most", [1000, 20_000])
async def test_no_more_than_max_pipelined_bytes_is_read_while_a_response_streams(
    most: int, autojump_clock: MockClock
):
    setting = f"transport.max_pipelined_bytes={most}"
    async with open_world(setting, fetcher=FakeFetcher(delay=lambda _: 20)) as world:
        client, server = memory_stream_pair()
        counting = Counting(server)
        world.serve(counting)
        request = request_bytes("POST", "/crawl/stream", body=crawl_of(1))
        await client.send_all(request + LIVEZ * 2000)
        await trio.sleep(10)
        assert most <= counting.taken - len(request) <= most + 1000


# --- Connections -------------------------------------------------------------------------------


@shows("transport.max_requests_per_connection")
async def test_a_connection_ends_after_max_requests_per_connection(autojump_clock: MockClock):
    async with open_world("transport.max_requests_per_connection=2") as world:
        peer = world.connect()
        await peer.send(LIVEZ * 3)
        assert b"connection" not in (await peer.answer()).fields
        assert (await peer.answer()).fields[b"connection"] == b"close"
        assert await peer.rest() == b""


@shows("transport.max_connections")
async def test_a_connection_beyond_max_connections_is_told_503():
    async with open_service("transport.max_connections=1") as service:
        first, second = await service.dial(), await service.dial()
        await first.send(LIVEZ)
        assert (await first.answer()).status == 200
        await second.send(LIVEZ)
        assert (await second.answer()).status == 503


@shows("transport.max_connections_per_address")
async def test_a_connection_beyond_max_connections_per_address_is_told_429():
    settings = ("transport.max_connections_per_address=1", "server.trusted_proxies=")
    async with open_service(*settings) as service:
        first, second = await service.dial(), await service.dial()
        await first.send(LIVEZ)
        assert (await first.answer()).status == 200
        await second.send(LIVEZ)
        assert (await second.answer()).status == 429


@shows("transport.max_refusals")
@pytest.mark.parametrize(("most", "told"), [(1, False), (2, True)])
async def test_no_more_than_max_refusals_are_told_at_once(most: int, told: bool):
    settings = ("transport.max_connections=1", f"transport.max_refusals={most}")
    async with open_service(*settings) as service:
        first = await service.dial()
        await first.send(LIVEZ)
        assert (await first.answer()).status == 200
        refused = [await service.dial() for _ in range(2)]  # both stay and listen
        assert b"503" in await refused[0].until(b"\r\n")
        assert (b"503" in await refused[1].more()) is told


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Use up the descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    hogs = []
    try:
        with suppress(OSError):
            while True:
                hogs.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for hog in hogs:
            os.close(hog)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@shows("transport.accept_backoff_seconds")
@pytest.mark.parametrize(("seconds", "status"), [(0.05, 200), (5, 503)])
async def test_after_a_want_of_descriptors_nobody_is_served_for_accept_backoff_seconds(
    seconds: float, status: int
):
    async with open_service(f"transport.accept_backoff_seconds={seconds}") as service:
        host, port = service.address.removeprefix("http://").split(":")
        clients = [trio.socket.socket() for _ in range(2)]
        with no_descriptors():
            await clients[0].connect((host, int(port)))
            peer = HTTPPeer(trio.SocketStream(clients[0]))
            await peer.send(GET)
            assert (await peer.answer()).status == 503
        await trio.sleep(0.2)
        await clients[1].connect((host, int(port)))
        peer = HTTPPeer(trio.SocketStream(clients[1]))
        await peer.send(LIVEZ)
        assert (await peer.answer()).status == status
        for client in clients:
            client.close()


@shows("transport.unsent_bytes")
async def test_the_kernel_holds_unsent_bytes_back_of_each_connection():
    seen = []

    async def handler(exchange: Exchange) -> None:
        stream: Any = exchange._link.stream  # type: ignore[attr-defined]
        seen.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))
        await exchange.send_response(204, [])

    config = settled("transport.unsent_bytes=48KB")
    (listener,) = await open_listeners([Bind("127.0.0.1", 0)], None)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listeners, handler, [listener], config.transport))
        with closing(Service(listener.address)) as service:
            peer = await service.dial()
            await peer.send(GET)
            await peer.answer()
        nursery.cancel_scope.cancel()
    assert seen == [48 * 1024]


# --- ASGI servers ------------------------------------------------------------------------------


@shows("transport.max_receive_messages")
@pytest.mark.parametrize("most", [3, 8])
async def test_max_receive_messages_are_taken_ahead_of_the_handler(
    most: int, autojump_clock: MockClock
):
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        await trio.lowlevel.checkpoint()
        taken += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    async with open_asgi(f"transport.max_receive_messages={most}") as server:
        async with trio.open_nursery() as nursery:
            target = "/crawl/stream?session_id=unknown"  # waits, and reads no body
            nursery.start_soon(server.call, "GET", target, receive)
            await wait_all_tasks_blocked()
            assert taken == most + 1
            nursery.cancel_scope.cancel()


@shows("transport.max_delivery_seconds")
async def test_a_response_of_an_asgi_server_ends_at_max_delivery_seconds(autojump_clock: MockClock):
    body = request_bytes("POST", "/", body=crawl_of(1)).partition(b"\r\n\r\n")[2]
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not pieces:
            await trio.sleep_forever()  # a client that pipelines hides that it has left
        return pieces.pop()

    slow = FakeFetcher(delay=lambda _: 20)
    async with open_asgi("transport.max_delivery_seconds=7", fetcher=slow) as server:
        began = trio.current_time()
        await server.call("POST", "/crawl/stream", receive)
        assert trio.current_time() - began == pytest.approx(7, abs=0.1)
