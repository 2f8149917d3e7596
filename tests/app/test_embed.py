"""The program inside another trio program: no server, no sockets but those to origins."""

import gc
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import attrs
import pytest
import trio

from eventmesh_trio import Config, open_mesh
from eventmesh_trio.errors import OverloadedError, ValidationError
from eventmesh_trio.wire.events import Metadata, Result, Summary
from tests.helpers.origin import Origin
from tests.helpers.programs import CHECKOUT


def config() -> Config:
    default = Config()
    fetch = attrs.evolve(default.fetch, allow_private=(ip_network("127.0.0.0/8"),))
    return attrs.evolve(default, fetch=fetch, workers=attrs.evolve(default.workers, workers=1))


def children() -> set[str]:
    return set(Path("/proc/self/task").joinpath(str(trio_thread()), "children").read_text().split())


def trio_thread() -> int:
    import threading

    return threading.get_native_id()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def wait_for(holds) -> None:
    with trio.fail_after(5):
        while not holds():
            await trio.sleep(0.01)


async def test_a_crawl_is_iterated_as_typed_events_with_ids(origin: Origin):
    async with open_mesh(config()) as mesh, mesh.crawl(origin.pages(3), concurrency=2) as stream:
        events = [event async for event in stream]
    assert isinstance(events[0], Metadata)
    assert isinstance(events[-1], Summary)
    results = [event for event in events if isinstance(event, Result)]
    assert sorted(result.index for result in results) == [0, 1, 2]
    assert all(result.result.document.title for result in results)
    assert events[-1].performance_summary.total_bytes_transferred > 0
    ids = [event.id for event in events if isinstance(event, (Metadata, Result, Summary))]
    assert len(set(ids)) == len(ids)


async def test_leaving_the_block_early_cancels_the_crawl_and_leaves_nothing(origin: Origin):
    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    before = descriptors()
    async with open_mesh(config()) as mesh:
        async with mesh.crawl([origin.url("/page/1"), *origin.stalling(3)]) as stream:
            async for event in stream:
                if isinstance(event, Result):
                    break
        await wait_for(lambda: not any(s.live_runs for s in mesh.hub.sessions.values()))
        await wait_for(lambda: origin.in_flight == 0)
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert children() == set()
    gc.collect()
    assert descriptors() <= before + 1  # the directory that is being listed


async def test_pause_stops_fetching_and_resume_loses_nothing(origin: Origin):
    urls = origin.slow_pages(6, 50)
    async with open_mesh(config()) as mesh, mesh.crawl(urls, concurrency=1) as stream:
        seen = []
        async for event in stream:
            if isinstance(event, Result):
                seen.append(event.index)
                if len(seen) == 2:
                    stream.pause()
                    await wait_for(lambda: origin.in_flight == 0)
                    await trio.sleep(0.2)  # what was on its way to the origin is there now
                    asked = sum(origin.requests.values())
                    await trio.sleep(0.2)
                    assert sum(origin.requests.values()) == asked
                    stream.resume()
    assert sorted(seen) == list(range(6))


async def test_cancel_ends_with_a_summary(origin: Origin):
    async with open_mesh(config()) as mesh, mesh.crawl(origin.stalling(2)) as stream:
        async for event in stream:
            if isinstance(event, Metadata):
                await stream.cancel()
    assert isinstance(event, Summary)
    assert (event.status, event.cancelled) == ("cancelled", 2)


async def test_a_bad_request_is_a_validation_error_that_costs_nothing():
    async with open_mesh(config()) as mesh:
        with pytest.raises(ValidationError, match=r"urls\[0\]"):
            async with mesh.crawl(["nonsense"]):
                raise AssertionError("unreachable")
        with pytest.raises(ValidationError, match="concurrency"):
            async with mesh.crawl(["http://e.org/"], concurrency=0):
                raise AssertionError("unreachable")
        assert not mesh.hub.sessions


async def test_a_mesh_that_drains_refuses_new_crawls_and_ends_live_ones(origin: Origin):
    async with open_mesh(config()) as mesh, mesh.crawl(origin.stalling(2)) as stream:
        await mesh.drain()
        events = [event async for event in stream]
        assert (events[-1].status, events[-1].reason) == ("cancelled", "shutdown")
        with pytest.raises(OverloadedError):
            async with mesh.crawl(["http://e.org/"]):
                raise AssertionError("unreachable")


@pytest.mark.slow
def test_the_example_runs_as_it_stands(origin: Origin, tmp_path: Path):
    source = (CHECKOUT / "examples" / "embed.py").read_text()
    done = subprocess.run(
        [sys.executable, "-c", source, origin.url("/page/1")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    # A private address, and nothing allows it: the example is as safe as the server.
    assert "BLOCKED_ADDRESS" in done.stdout
