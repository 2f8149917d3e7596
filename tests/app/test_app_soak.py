"""Ten thousand short crawls, thousands in one session: what is held after them is what was before.

Clients and origin run in the process of the server, so nothing of theirs may grow either.
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
import trio

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.lifespan import Mesh
from eventmesh_trio.app.loading import load_config
from tests.helpers.clock import wait_until
from tests.helpers.crowd import Crowd, Peer
from tests.helpers.held import Held, newest_of, threads_end
from tests.helpers.here import serve_here
from tests.helpers.origin import ADDRESSES, Origin, open_origin
from tests.helpers.processes import resident_bytes
from tests.helpers.raw import get_json
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server

CRAWLS = 10_000
PROCESS_CRAWLS = 3_000
RUNS = 2_000
AT_ONCE = 50
KEEP_ALIVE_SECONDS = 0.2
REPLAY_BYTES = 256 * 1024

# More hosts than what is remembered of hosts, more pages than the cache takes: whatever is bounded
# is full after the first thousand, and whatever is not grows.
HOSTS = [*ADDRESSES, *(f"127.0.1.{number}" for number in range(1, 61))]
SETTINGS: dict[str, Any] = {
    "mesh.retention_seconds": 0.0,
    "mesh.linger_seconds": 0.05,
    "mesh.attach_wait_seconds": 0.05,
    "mesh.health_window_seconds": 3.0,
    "fetch.allow_private": ["127.0.0.0/8"],
    "fetch.keep_alive_seconds": KEEP_ALIVE_SECONDS,
    "stream.general.enable_compression": "true",
    "cache.cache_bytes": 200_000,
    "politeness.robots.max_entries": 16,
    "workers.workers": 1,
}


@pytest.fixture
def many_hosts() -> Iterator[Origin]:
    with open_origin(HOSTS) as site:
        yield site


async def settle(crowd: Crowd) -> None:
    """Let what is over end; twice its time after its last use each kept connection is closed."""
    with trio.fail_after(10):
        while crowd.origin.in_flight:
            await trio.sleep(0.01)
    await trio.sleep(3 * KEEP_ALIVE_SECONDS)


async def recover(mesh: Mesh) -> None:
    """Let health come back: until then the janitor's nap has a deadline, which trio keeps."""
    with trio.fail_after(10):
        while mesh.hub.census.next_judgement != inf:
            await trio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_ten_thousand_short_crawls_leave_nothing_behind(many_hosts: Origin) -> None:
    started = time.monotonic()
    async with serve_here(load_config(overrides=SETTINGS)) as (mesh, address):
        crowd = Crowd(address, many_hosts)
        await crowd.run(CRAWLS // 5, at_once=AT_ONCE, seed=1)
        await settle(crowd)
        await threads_end()
        await recover(mesh)
        spare = [Held.measure()]  # the first one makes objects of its own, and stands for the next
        before = Held.measure()
        spare.clear()
        for turn in range(2, 6):
            await crowd.run(turn * CRAWLS // 5, at_once=AT_ONCE, seed=turn)
        await settle(crowd)
        await threads_end()
        await recover(mesh)
        after = Held.measure()
        grown = after.grown(before)
        newest = {name: newest_of(name) for name in grown}
        assert not mesh.hub.sessions
    print(
        f"{crowd.crawls} crawls in {time.monotonic() - started:.0f} s {dict(crowd.acts)}: "
        f"{before.objects.total()} objects after {CRAWLS // 5}, {after.objects.total()} at the "
        f"end; {before.blocks} blocks, {after.blocks}; {before.resident >> 10} KiB resident, "
        f"{after.resident >> 10}; {after.tasks} tasks; {after.descriptors} descriptors"
    )
    assert grown == {}, newest
    # Not one string of every tenth crawl.
    assert after.blocks <= before.blocks + CRAWLS // 10
    assert after.resident <= before.resident * 1.05
    assert (after.tasks, after.descriptors) == (before.tasks, before.descriptors)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_is_as_large_after_thousands_of_crawls_as_after_some_hundreds(
    kind: Kind, many_hosts: Origin
) -> None:
    environment = {
        f"EVENTMESH_{name.upper().replace('.', '__')}": str(value).replace("'", '"')
        for name, value in SETTINGS.items()
    }
    with open_server(kind, environment) as server:
        crowd = Crowd(server.address, many_hosts)
        await crowd.run(PROCESS_CRAWLS // 3, at_once=AT_ONCE, seed=1)
        await settle(crowd)
        resident = resident_bytes(server.serving_pid)
        descriptors, threads = server.fewest_descriptors(0.5), thread_count(server)
        await crowd.run(PROCESS_CRAWLS, at_once=AT_ONCE, seed=2)
        await settle(crowd)
        assert get_json(server.address, "/sessions") == {"sessions": []}
        wait_until(
            lambda: server.descriptors() <= descriptors,
            5,
            lambda: f"{server.descriptors()} descriptors, {descriptors} before",
        )
        after = resident_bytes(server.serving_pid)
        print(
            f"{kind}: {crowd.crawls} crawls, {resident >> 10} KiB resident after "
            f"{PROCESS_CRAWLS // 3}, {after >> 10} at the end; {descriptors} descriptors, "
            f"{threads} threads"
        )
        assert after <= resident * 1.05
        wait_until(
            lambda: thread_count(server) <= threads,
            15,  # trio keeps a thread for ten seconds after its last use
            lambda: f"{thread_count(server)} threads, {threads} before",
        )


def thread_count(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.serving_pid}/task"))


@pytest.mark.slow
async def test_what_is_over_is_freed_at_once_and_not_when_the_collector_comes(
    many_hosts: Origin,
) -> None:
    async with serve_here(load_config(overrides=SETTINGS)) as (_, address):
        crowd = Crowd(address, many_hosts)
        await crowd.run_each(1)
        await settle(crowd)
        gc.collect()
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await crowd.run_each(6)  # so that every branch of each is taken
            await settle(crowd)
            gc.collect()
            kinds = Counter(type(thing).__qualname__ for thing in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert kinds == {}, "these are in cycles"


# --- One session ----------------------------------------------------------------------------------


def long_config() -> Config:
    """One session is kept, and of its log and its runs what the limits say."""
    kept = {"mesh.replay_bytes": REPLAY_BYTES, "mesh.max_finished_runs": 20}
    return load_config(overrides={**SETTINGS, "mesh.retention_seconds": 60.0, **kept})


def check_bounded(mesh: Mesh) -> None:
    (session,) = mesh.hub.sessions.values()
    assert session.log.top >= 4 * RUNS  # metadata or start, result, summary; and the other
    # Trimmed not at every event, but when an eighth of it is new.
    assert session.log.kept_bytes < 1.25 * REPLAY_BYTES
    assert len(session.runs) <= 20
    assert not session.live_runs


def compare(before: Held, after: Held, mesh: Mesh, how: str) -> None:
    (session,) = mesh.hub.sessions.values()
    print(
        f"{RUNS} runs {how}: log at {session.log.top}, holds {session.log.kept_bytes >> 10} KiB; "
        f"{before.objects.total()} objects after {RUNS // 2}, {after.objects.total()} at the end; "
        f"{before.resident >> 10} KiB resident, {after.resident >> 10}"
    )
    # How many events just now stand between two trimmings differs.
    assert after.objects.total() <= before.objects.total() * 1.02
    assert after.resident <= before.resident * 1.05
    assert (after.tasks, after.descriptors) == (before.tasks, before.descriptors)


async def ends(mesh: Mesh) -> None:
    """What a run leaves behind its last answer has a moment to end: its task, its connections."""
    with trio.fail_after(10):
        while mesh.ports.fetcher.statistics().open_connections:
            await trio.sleep(0.01)
    await trio.sleep(0.2)


async def crawl_on(peer: Peer, crowd: Crowd, number: int) -> None:
    data = {"urls": [crowd.origin.url(f"/page/{number % 50}", number % 64)]}
    await peer.send(action="crawl", request_id=f"run{number}", data=data)
    summary = await peer.receive_until("summary")
    assert (summary["data"]["request_id"], summary["data"]["successful"]) == (f"run{number}", 1)


@pytest.mark.slow
async def test_a_socket_with_two_thousand_runs_one_after_another_holds_what_the_limits_say(
    many_hosts: Origin,
) -> None:
    async with serve_here(long_config()) as (mesh, address):
        crowd = Crowd(address, many_hosts)
        async with crowd.connect() as peer:
            await peer.upgrade("/crawl/ws?session_id=long")
            for number in range(RUNS // 2):
                await crawl_on(peer, crowd, number)
            await trio.sleep(2 * KEEP_ALIVE_SECONDS)
            await crawl_on(peer, crowd, RUNS)
            await ends(mesh)
            Held.measure()
            before = Held.measure()
            for number in range(RUNS // 2, RUNS):
                await crawl_on(peer, crowd, number)
            await trio.sleep(2 * KEEP_ALIVE_SECONDS)
            await crawl_on(peer, crowd, RUNS)
            await ends(mesh)
            after = Held.measure()
            check_bounded(mesh)
            compare(before, after, mesh, "on one socket")


@pytest.mark.slow
async def test_a_session_with_two_thousand_runs_over_http_holds_what_the_limits_say(
    many_hosts: Origin,
) -> None:
    async with serve_here(long_config()) as (mesh, address):
        crowd = Crowd(address, many_hosts)

        async def crawl(peer: Peer, number: int) -> None:
            body = {"urls": [many_hosts.url(f"/page/{number % 50}", number % 64)]}
            target = ("/crawl/stream", "/crawl/sse")[number % 2]
            fields = {"X_Session_ID": "long", "Accept": "text/event-stream"}
            assert await peer.request("POST", target, body, **fields) == 200
            assert b'"successful":1' in await peer.read_stream()

        async with crowd.connect() as peer:
            for number in range(RUNS // 2):
                await crawl(peer, number)
            await trio.sleep(2 * KEEP_ALIVE_SECONDS)
            await crawl(peer, RUNS)
            await ends(mesh)
            Held.measure()
            before = Held.measure()
            for number in range(RUNS // 2, RUNS):
                await crawl(peer, number)
            await trio.sleep(2 * KEEP_ALIVE_SECONDS)
            await crawl(peer, RUNS)
            await ends(mesh)
            after = Held.measure()
            check_bounded(mesh)
            compare(before, after, mesh, "over HTTP")
