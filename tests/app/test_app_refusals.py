"""What is refused for want of room is counted by what there was no room for."""

import json
import re

import pytest
from trio.testing import MockClock

from eventmesh_trio.errors import OverloadedError
from eventmesh_trio.testing import FakeFetcher
from tests.helpers.settled import World, crawl_of, open_world, request_bytes

NEVER = FakeFetcher(delay=lambda _: 1000)


async def refusals(world: World) -> dict[str, float]:
    """The counts of all reasons but those of which there was none."""
    text = (await world.request("GET", "/metrics")).body.decode()
    found = re.findall(r'^streaming_refusals_total\{reason="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {reason: float(count) for reason, count in found if float(count)}


async def begin(world: World, session: str) -> None:
    """A live run in that session."""
    body = request_bytes("POST", "/crawl/stream", f"X-Session-ID: {session}", body=crawl_of(1))
    peer = world.connect()
    await peer.send(body)
    await peer.until(b'"start"')


@pytest.mark.parametrize("reason", ["sessions", "runs"])
async def test_a_refusal_names_the_limit_that_was_reached(reason: str, autojump_clock: MockClock):
    async with open_world(f"mesh.max_{reason}=1", fetcher=NEVER) as world:
        await begin(world, "a")
        for path in ("/crawl/stream", "/crawl/sse"):
            assert (await world.crawl(1, "X-Session-ID: b", path=path)).status == 503
        assert await refusals(world) == {reason: 2}


async def test_a_run_too_many_for_its_session_is_none_too_many_for_the_server(
    autojump_clock: MockClock,
):
    async with open_world("mesh.max_runs_per_session=1", fetcher=NEVER) as world:
        socket = await world.open_socket()
        for number in range(2):
            body = {"action": "crawl", "requestId": f"r{number}", **crawl_of(1)}
            await socket.send_text(json.dumps(body))
        while "rate_limited" not in str(await socket.message()):
            pass
        assert await refusals(world) == {"session_runs": 1}


async def test_a_refusal_for_want_of_memory_is_no_want_of_runs(autojump_clock: MockClock):
    async with open_world(fetcher=NEVER) as world:
        world.mesh.hub.budget.change(world.config.mesh.max_total_bytes + 1)
        assert (await world.crawl(1)).status == 503
        assert await refusals(world) == {"memory": 1}
        world.mesh.hub.budget.change(-world.config.mesh.max_total_bytes - 1)
        await begin(world, "a")


async def test_who_embeds_the_mesh_is_counted_too_when_it_drains(autojump_clock: MockClock):
    async with open_world() as world:
        await world.mesh.drain()
        with pytest.raises(OverloadedError):
            async with world.mesh.crawl(["http://e.org/"]):
                raise AssertionError("unreachable")
        assert await refusals(world) == {"draining": 1}
