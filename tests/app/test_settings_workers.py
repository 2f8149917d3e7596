"""Each setting under ``workers`` and what it changes, with real processes."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from eventmesh_trio.abc import Page
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.errors import ParseFailure
from eventmesh_trio.pipeline.workers.pool import WorkerPool
from eventmesh_trio.testing import make_page
from tests.helpers.processes import workers
from tests.helpers.settled import settled, shows

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


@asynccontextmanager
async def open_pool(*assignments: str) -> AsyncIterator[WorkerPool]:
    """The extractor of a mesh; of one process where nothing else is said."""
    async with open_mesh(settled("workers.workers=1", *assignments)) as mesh:
        extractor: Any = mesh.ports.extractor
        with trio.fail_after(30):
            yield extractor


def page(text: str = "Text.") -> Page:
    return make_page("http://e.org/", f"<article><p>{text}</p></article>".encode())


async def read(pool: WorkerPool, text: str = "Text.") -> None:
    await pool.extract(page(text), "article", None)


@shows("workers.workers")
async def test_pages_are_read_by_so_many_workers_at_once():
    async with open_pool("workers.workers=3") as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(read, pool)
        assert pool.statistics().workers_alive == len(workers("self")) == 3


@shows("workers.job_seconds")
async def test_a_page_may_take_job_seconds():
    async with open_pool("workers.job_seconds=1.5") as pool:
        await read(pool)
        (hung,) = workers("self")
        os.kill(hung, signal.SIGSTOP)
        began = trio.current_time()
        await read(pool)  # by another: this one was killed
        assert 1.5 <= trio.current_time() - began < 10
        assert hung not in workers("self")


@shows("workers.memory_bytes")
async def test_a_worker_has_memory_bytes_of_addresses():
    async with open_pool("workers.memory_bytes=700MB") as pool:
        await read(pool)
        (pid,) = workers("self")
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
        assert line.split()[3] == str(700 * 1024 * 1024)


@shows("workers.jobs_per_worker")
async def test_a_worker_is_replaced_after_jobs_per_worker_pages():
    async with open_pool("workers.jobs_per_worker=2") as pool:
        for _ in range(4):
            await read(pool)
        assert pool.statistics().workers_started == 2


@shows("workers.queue_pages")
async def test_queue_pages_wait_inside_the_pool():
    async with open_pool("workers.queue_pages=3") as pool:
        await read(pool)
        (hung,) = workers("self")
        os.kill(hung, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(read, pool)
            await wait_all_tasks_blocked()
            assert pool.statistics().pages_waiting == 3
            os.kill(hung, signal.SIGCONT)


@shows("workers.max_answer_bytes")
async def test_a_document_over_max_answer_bytes_is_not_taken():
    async with open_pool("workers.max_answer_bytes=10KB") as pool:
        await read(pool, "Short.")
        with pytest.raises(ParseFailure):
            await read(pool, "A long story. " * 2000)


@shows("workers.abandoned_seconds")
async def test_a_worker_goes_on_for_abandoned_seconds_with_what_nobody_waits_for():
    async with open_pool("workers.abandoned_seconds=0.9") as pool:
        await read(pool)
        (hung,) = workers("self")
        os.kill(hung, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, pool)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        began = trio.current_time()
        while hung in workers("self"):
            await trio.sleep(0.01)
        assert 0.85 < trio.current_time() - began < 5


@shows("workers.farewell_seconds")
async def test_a_killed_process_is_waited_for_for_farewell_seconds(
    monkeypatch: pytest.MonkeyPatch,
):
    unkillable: list[trio.Process] = []  # as one is that waits in the kernel
    kill = trio.Process.kill

    def fail_to_kill(process: trio.Process) -> None:
        unkillable.append(process)

    monkeypatch.setattr(trio.Process, "kill", fail_to_kill)
    async with open_pool("workers.farewell_seconds=0.4") as pool:
        await read(pool)
        (pid,) = workers("self")
        os.kill(pid, signal.SIGSTOP)
        began = trio.current_time()
    assert 0.35 < trio.current_time() - began < 5
    (process,) = unkillable
    kill(process)
    await process.wait()
