"""WebSockets of the whole application in time that jumps: pings, silence, and the server's end."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import Ping, TextMessage

from tests.helpers.settled import World, open_world
from tests.transport.transport_harness import WebSocketPeer, upgrade_request, websocket_over


async def welcomed(peer: WebSocketPeer) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await peer.message())
    assert message["message_type"] == "welcome"
    return message["data"]  # type: ignore[no-any-return]


def readers(world: World) -> int:
    return sum(len(session.subscribers) for session in world.mesh.hub.sessions.values())


async def test_an_idle_socket_carries_nothing_but_a_ping_every_thirty_seconds(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        peer = await world.open_socket()
        await welcomed(peer)
        for number in range(1, 11):
            event = await peer.event()
            assert isinstance(event, Ping)
            assert trio.current_time() == pytest.approx(30 * number, abs=0.5)
            await peer.send(event.response())
        await peer.send_text('{"request_type":"ping","data":{}}')
        assert json.loads(await peer.message())["message_type"] == "pong"


async def test_a_client_without_a_pong_is_gone_after_ten_more_seconds_and_its_run_with_it(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        peer = await world.open_socket()
        await welcomed(peer)
        assert readers(world) == 1
        assert isinstance(await peer.event(), Ping)
        assert await peer.next_event() is None
        assert trio.current_time() == pytest.approx(40, abs=0.5)
        await wait_all_tasks_blocked()
        assert readers(world) == 0


async def test_the_pings_have_the_times_of_the_settings(autojump_clock: MockClock) -> None:
    settings = ("stream.websocket.ping_interval=7s", "stream.websocket.pong_timeout=2s")
    async with open_world(*settings) as world:
        peer = await world.open_socket()
        await welcomed(peer)
        assert isinstance(await peer.event(), Ping)
        assert trio.current_time() == pytest.approx(7, abs=0.5)
        assert await peer.next_event() is None
        assert trio.current_time() == pytest.approx(9, abs=0.5)


async def test_a_client_that_reads_nothing_is_judged_by_its_window_and_not_by_a_ping(
    autojump_clock: MockClock,
) -> None:
    """It is cut off 30 seconds after its run began to wait for it; a ping would take 40."""
    async with open_world() as world:
        http = world.connect(lockstep=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.send, upgrade_request(target=b"/crawl/ws"))
            peer = await websocket_over(http)
            await welcomed(peer)
            urls = [f"http://192.0.2.1/{number}" for number in range(2000)]
            crawl = {"request_type": "crawl", "data": {"urls": urls, "request_id": "r"}}
            await http.send(bytes(peer.proto.send(TextMessage(json.dumps(crawl)))))
            begun = trio.current_time()
            while readers(world):
                await trio.sleep(1)
        assert trio.current_time() - begun == pytest.approx(31, abs=3)


async def test_a_socket_whose_handshake_meets_the_end_of_the_server_is_closed_with_1001(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        http = world.connect(lockstep=True)
        nursery.start_soon(http.send, upgrade_request(target=b"/crawl/ws"))
        await wait_all_tasks_blocked()  # its answer waits to be read
        nursery.start_soon(world.mesh.drain)
        await wait_all_tasks_blocked()
        peer = await websocket_over(http)
        await welcomed(peer)
        assert await peer.close_code() == 1001
        await http.stream.aclose()
