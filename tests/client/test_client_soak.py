"""One client that crawls again and again, and what it holds after that."""

from random import Random

import pytest
import trio

from eventmesh_trio.app.loading import load_config
from eventmesh_trio.client.client import StreamProtocol, open_client
from eventmesh_trio.wire.events import Metadata, Summary
from tests.helpers.held import Held, newest_of, threads_end
from tests.helpers.here import serve_here
from tests.helpers.origin import Origin, open_origin

CRAWLS = 1200
KEEP_ALIVE_SECONDS = 0.1
PROTOCOLS: tuple[StreamProtocol, ...] = ("sse", "ndjson", "websocket")
SETTINGS = {
    "mesh.retention_seconds": 0.0,
    "mesh.linger_seconds": 0.05,
    "mesh.attach_wait_seconds": 0.05,  # till then the janitor's nap may have a deadline
    "mesh.health_window_seconds": 0.1,
    "fetch.allow_private": ["127.0.0.0/8"],
    "fetch.max_idle_connections": 0,
    "fetch.keep_alive_seconds": KEEP_ALIVE_SECONDS,  # and who closes them has nothing more to do
    "workers.workers": 1,
}


async def crawl(base_url: str, origin: Origin, numbers: range) -> None:
    """To the end, or left after an event or two; each protocol in turn."""
    async with open_client(base_url) as client:
        for number in numbers:
            pick = Random(number)
            urls = origin.pages(2, first=number % 20)
            leave = pick.random() < 0.2
            if leave:
                urls += origin.stalling(1)
            protocol = PROTOCOLS[number % 3]
            async with client.crawl(urls, protocol=protocol, respect_robots=False) as stream:
                last = None
                async for event in stream:
                    last = event
                    if leave and isinstance(event, Metadata):
                        break
                assert leave or isinstance(last, Summary)


@pytest.mark.slow
async def test_a_client_holds_no_more_after_hundreds_of_crawls_than_after_some() -> None:
    with open_origin() as origin:
        async with serve_here(load_config(overrides=SETTINGS)) as (mesh, (host, port)):
            base_url = f"http://{host}:{port}"
            held: list[Held] = []
            for numbers in (range(60), range(60), range(60, CRAWLS)):
                await crawl(base_url, origin, numbers)
                with trio.fail_after(10):
                    while origin.in_flight or mesh.hub.sessions:
                        await trio.sleep(0.01)
                await threads_end()
                # Whoever closes idle connections naps before it finds that there are none.
                await trio.sleep(3 * KEEP_ALIVE_SECONDS)
                held = held[-1:]  # there is one at each measurement but the first
                held.append(Held.measure())
        before, after = held
        print(
            f"{CRAWLS} crawls: {before.objects.total()} objects after 120, "
            f"{after.objects.total()} at the end; {before.blocks} blocks, "
            f"{after.blocks}; {after.descriptors} descriptors"
        )
        grown = after.grown(before)
        assert grown == {}, {name: newest_of(name) for name in grown}
        assert after.blocks <= before.blocks + CRAWLS // 2  # first times leave a few hundred
        assert (after.tasks, after.descriptors) == (before.tasks, before.descriptors)
