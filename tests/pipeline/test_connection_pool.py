"""The pool of connections, over streams in memory: whose turn it is, and that none is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpcore2
import pytest
import trio
import trio.testing

from eventmesh_trio.pipeline.fetching.pool import ConnectionPool
from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits

LOOPBACK = AddressPolicy(allow_private=("127.0.0.0/8",), deny_ports=())
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage"


class NoResolver:
    async def resolve(self, name: str) -> list[IPAddress]:
        raise AssertionError(f"{name} is an address")


class World:
    """A pool, and origins that answer each request at once; ``dialled`` are their ports."""

    def __init__(self, nursery: trio.Nursery, limits: FetchLimits) -> None:
        self._nursery = nursery
        self.dialled: list[int] = []
        self.backend = GuardedBackend(limits, LOOPBACK, NoResolver(), self._connect)
        self.pool = ConnectionPool(network_backend=self.backend, limits=limits, ssl_context=None)

    async def _connect(self, address: IPAddress, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        self.dialled.append(port)
        self._nursery.start_soon(answer, theirs)
        return ours

    async def ask(self, port: int) -> httpcore2.Response:
        url = httpcore2.URL(scheme=b"http", host=b"127.0.0.1", port=port, target=b"/")
        return await self.pool.handle_async_request(
            httpcore2.Request(b"GET", url, headers=[(b"Host", b"x")])
        )

    async def fetch(self, port: int) -> bytes:
        response = await self.ask(port)
        body = b"".join([piece async for piece in response.aiter_stream()])
        with trio.CancelScope(shield=True):
            await response.aclose()
        return body


async def answer(stream: trio.abc.Stream) -> None:
    received = b""
    while data := await stream.receive_some(65536):
        received += data
        if received.endswith(b"\r\n\r\n"):
            received = b""
            await stream.send_all(REPLY)


@asynccontextmanager
async def open_world(**limits: int) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        world = World(nursery, FetchLimits(**limits))  # type: ignore[arg-type]
        async with world.pool:
            yield world
        nursery.cancel_scope.cancel()


async def test_who_waits_for_a_connection_is_served_in_the_order_of_coming() -> None:
    order: list[int] = []

    async def one(number: int, port: int) -> None:
        assert await world.fetch(port) == b"page"
        order.append(number)

    async with open_world(max_connections=1) as world:
        first = await world.ask(81)
        async with trio.open_nursery() as nursery:
            for number, port in enumerate((82, 81, 83, 81)):
                nursery.start_soon(one, number, port)
                await trio.testing.wait_all_tasks_blocked()
            assert order == []
            await first.aclose()
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_place_that_is_given_to_who_gives_up_goes_to_the_next(
    cancelled_first: bool,
) -> None:
    bodies: list[bytes] = []

    async def one(scope: trio.CancelScope, port: int) -> None:
        with scope:
            bodies.append(await world.fetch(port))

    async with open_world(max_connections=1) as world:
        first = await world.ask(81)
        impatient = trio.CancelScope()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one, impatient, 82)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(one, trio.CancelScope(), 83)
                await trio.testing.wait_all_tasks_blocked()
                if cancelled_first:
                    impatient.cancel()
                await first.aclose()
                impatient.cancel()
        assert bodies == [b"page"]
        assert world.dialled[-1] == 83
        assert world.backend.open_connections <= 1


async def test_a_connection_is_kept_for_its_origin_and_makes_room_for_another() -> None:
    async with open_world(max_connections=2, max_idle_connections=2) as world:
        for port in (81, 82, 81, 82):
            assert await world.fetch(port) == b"page"
        assert world.dialled == [81, 82]
        await world.fetch(83)  # instead of the one that has been idle for longest
        assert world.backend.open_connections == 2
        await world.fetch(82)
        assert world.dialled == [81, 82, 83]
    assert world.backend.open_connections == 0


async def test_no_more_are_kept_than_may_be_idle() -> None:
    async with open_world(max_connections=8, max_idle_connections=3) as world:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(partial(world.fetch, 81))
        assert world.backend.open_connections <= 3


async def test_a_response_that_is_not_read_to_its_end_closes_its_connection() -> None:
    async with open_world(max_connections=1) as world:
        response = await world.ask(81)
        await response.aclose()
        await response.aclose()  # it is closed once
        assert world.backend.open_connections == 0
        assert await world.fetch(81) == b"page"
        assert world.dialled == [81, 81]
