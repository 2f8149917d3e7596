"""The extraction pool, with real processes that hang, die, and lose their parent."""

import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import msgspec
import pytest
import trio

from eventmesh_trio.abc import Extraction, Page
from eventmesh_trio.errors import ParseFailure, UnsupportedContent
from eventmesh_trio.pipeline.extract import extract_page
from eventmesh_trio.pipeline.workers import worker
from eventmesh_trio.pipeline.workers.messages import HEADER, Answer, ExtractJob, job_frame
from eventmesh_trio.pipeline.workers.pool import WorkerLimits, WorkerPool, open_extractor
from eventmesh_trio.pipeline.workers.process import start_process
from eventmesh_trio.pipeline.workers.worker import serve
from tests.helpers.processes import command_line, workers

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
ONE = WorkerLimits(workers=1)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


def page(text: str = "", url: str = "https://example.org/a", repeat: int = 20) -> Page:
    body = f"<html><body><article>{f'<p>{text} A sentence, and one more.</p>' * repeat}".encode()
    return Page(
        url=url,
        final_url=url,
        status=200,
        fields=(),
        body=body,
        content_type="text/html; charset=utf-8",
        charset="utf-8",
        wire_bytes=len(body),
        elapsed_seconds=0.1,
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def wait_child(known: set[int] | frozenset[int] = frozenset()) -> int:
    """Wait for a worker that is not among the known ones."""
    with trio.fail_after(20):
        while not (new := workers("self") - known):
            await trio.sleep(0.005)
    return new.pop()


async def read(pool: WorkerPool, text: str) -> str:
    return (await pool.extract(page(text), "article", None)).document.text


def without_time(extraction: Extraction) -> tuple[object, ...]:
    document = msgspec.structs.replace(extraction.document, extracted_at="")
    return (document, extraction.method, extraction.gate_score, extraction.gate_reason)


async def test_a_page_comes_back_as_if_read_in_this_process() -> None:
    asked = page("Hello")
    async with open_extractor(ONE) as pool:
        for mode in ("article", "full", "metadata", "raw"):
            there = await pool.extract(asked, mode, 100)  # type: ignore[arg-type]
            here = extract_page(
                asked.body,
                asked.final_url,
                charset="utf-8",
                content_type=asked.content_type,
                mode=mode,  # type: ignore[arg-type]
                max_text_chars=100,
            )
            assert without_time(there) == without_time(here)


async def test_pages_at_once_get_each_its_own_document() -> None:
    texts: dict[int, str] = {}

    async def one(number: int) -> None:
        texts[number] = await read(pool, f"Page {number} says hello.")

    async with open_extractor(WorkerLimits(workers=2, queue_pages=2)) as pool:
        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        assert pool.statistics().pages_done == 40
    assert all(f"Page {number} says" in texts[number] for number in range(40))


async def test_processes_start_with_the_first_page_or_beforehand_if_asked() -> None:
    before = workers("self")
    async with open_extractor(WorkerLimits(workers=2)) as pool:
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().workers_started == 0
        await read(pool, "x")
        assert pool.statistics().workers_started == 1
    async with open_extractor(WorkerLimits(workers=2), prewarm=True) as pool:
        with trio.fail_after(20):
            while pool.statistics().workers_alive < 2:
                await trio.sleep(0.005)
        assert len(workers("self") - before) == 2


async def test_no_page_waits_for_a_process_to_start_while_another_idles() -> None:
    async with open_extractor(WorkerLimits(workers=3)) as pool:
        for number in range(6):
            assert f"Page {number}." in await read(pool, f"Page {number}.")
        assert pool.statistics().workers_started == 1
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(read, pool, f"Page {number}.")
        assert pool.statistics().workers_started == 3


@pytest.mark.slow
async def test_nothing_is_left_when_the_pool_closes() -> None:
    async with open_extractor(ONE) as pool:  # what trio opens once and keeps is open from here on
        await read(pool, "x")
    processes, fds = workers("self"), descriptors()
    for _ in range(3):
        async with open_extractor(WorkerLimits(workers=2), prewarm=True) as pool:
            await read(pool, "x")
            await wait_child()
    with trio.move_on_after(1):
        async with open_extractor(WorkerLimits(workers=2)) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(pool.extract, page(repeat=400_000), "article", None)
            nursery.start_soon(trio.sleep_forever)
    assert workers("self") == processes
    assert descriptors() == fds


async def test_the_pipes_to_a_worker_are_closed_when_its_pool_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[trio.Process] = []

    async def start(limits: WorkerLimits) -> trio.Process:
        started.append(await start_process(limits))
        return started[-1]

    monkeypatch.setattr("eventmesh_trio.pipeline.workers.pool.start_process", start)
    async with open_extractor(ONE) as pool:
        await read(pool, "x")
    (process,) = started
    for source in (process.stdout, process.stderr):
        assert source is not None
        with pytest.raises(trio.ClosedResourceError):
            await source.receive_some(1)
    assert process.stdin is not None
    with pytest.raises(trio.ClosedResourceError):
        await process.stdin.send_all(b"x")


async def test_a_page_whose_worker_dies_is_read_by_another() -> None:
    async with open_extractor(ONE) as pool, trio.open_nursery() as nursery:
        texts: list[str] = []

        async def one() -> None:
            texts.append(await read(pool, "Survivor."))

        before = workers("self")
        nursery.start_soon(one)
        os.kill(await wait_child(before), signal.SIGKILL)
    assert "Survivor." in texts[0]


async def test_a_page_that_costs_two_workers_fails_and_the_next_is_read() -> None:
    async with open_extractor(ONE) as pool:
        async with trio.open_nursery() as nursery:

            async def killer() -> None:
                known = workers("self")
                for _ in range(2):
                    pid = await wait_child(known)
                    known.add(pid)
                    os.kill(pid, signal.SIGKILL)

            nursery.start_soon(killer)
            with pytest.raises(ParseFailure, match="died"):
                await read(pool, "Poison.")
        assert "Next." in await read(pool, "Next.")
        statistics = pool.statistics()
        assert (statistics.workers_failed, statistics.pages_failed, statistics.workers_started) == (
            2,
            1,
            3,
        )


async def test_a_worker_that_dies_while_idle_costs_no_page() -> None:
    async with open_extractor(ONE) as pool:
        before = workers("self")
        await read(pool, "First.")
        (pid,) = workers("self") - before
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and left for the pool to notice
        assert "Second." in await read(pool, "Second.")
        assert pool.statistics().workers_failed == 0


@pytest.mark.slow
async def test_a_worker_that_hangs_is_killed_and_its_page_read_by_another() -> None:
    limits = WorkerLimits(workers=1, job_seconds=3)
    async with open_extractor(limits) as pool, trio.open_nursery() as nursery:
        texts: list[str] = []

        async def one() -> None:
            texts.append(await read(pool, "Late."))

        before = workers("self")
        nursery.start_soon(one)
        hung = await wait_child(before)
        os.kill(hung, signal.SIGSTOP)
    assert "Late." in texts[0]
    assert hung not in workers("self")


@pytest.mark.slow
async def test_a_page_that_hangs_every_worker_fails_and_others_are_unharmed() -> None:
    limits = WorkerLimits(workers=2, job_seconds=2.5)
    texts: list[str] = []
    async with open_extractor(limits) as pool:
        before = workers("self")
        await read(pool, "x")
        (well,) = workers("self") - before

        async def poison() -> None:
            with pytest.raises(ParseFailure, match=r"longer than 2\.5 seconds"):
                await read(pool, "Poison.")

        async def others() -> None:
            texts.extend([await read(pool, f"Other {n}.") for n in range(20)])

        async with trio.open_nursery() as nursery:
            os.kill(well, signal.SIGSTOP)
            nursery.start_soon(poison)  # which the process that idles is given
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(others)  # the other slot's turn: it starts a process of its own
            known = {*before, well}
            other = await wait_child(known)
            os.kill(await wait_child({*known, other}), signal.SIGSTOP)
    assert len(texts) == 20


async def test_a_job_that_cannot_be_handed_over_fails_alone() -> None:
    async with open_extractor(WorkerLimits(workers=1)) as pool:
        with pytest.raises(ParseFailure, match="could not be asked"):
            await pool.extract(page("x"), "article", 2**70)
        assert "Next." in await read(pool, "Next.")


@pytest.mark.slow
async def test_a_page_beyond_the_memory_limit_fails_and_the_next_is_read() -> None:
    async with open_extractor(WorkerLimits(workers=1, memory_bytes=192 * MIB)) as pool:
        with pytest.raises(ParseFailure, match=r"memory|died|could not be read"):
            await pool.extract(page(repeat=1_500_000), "article", None)
        assert "Small." in await read(pool, "Small.")


async def test_cancelling_a_page_that_ends_soon_keeps_its_worker() -> None:
    async with open_extractor(WorkerLimits(workers=1, abandoned_seconds=20)) as pool:
        await read(pool, "x")
        with trio.CancelScope() as scope:
            scope.cancel()
            await read(pool, "Nobody waits.")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, pool, "Given up.")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert "Next." in await read(pool, "Next.")
        assert pool.statistics().workers_started == 1


async def test_cancelling_a_page_that_goes_on_replaces_its_worker() -> None:
    async with open_extractor(WorkerLimits(workers=1, abandoned_seconds=0.1)) as pool:
        before = workers("self")
        await read(pool, "x")
        (pid,) = workers("self") - before
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, pool, "Given up.")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            assert "Next." in await read(pool, "Next.")
        assert pid not in workers("self")
        assert pool.statistics().workers_failed == 0


async def test_a_page_cancelled_while_its_process_starts_costs_no_process() -> None:
    # On a busy machine the process may have the page by then, and take its time to begin.
    async with open_extractor(WorkerLimits(workers=1, abandoned_seconds=30)) as pool:
        before = workers("self")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, pool, "Given up.")
            await wait_child(before)
            nursery.cancel_scope.cancel()
        assert "Next." in await read(pool, "Next.")
        assert pool.statistics().workers_started == 1


@pytest.mark.slow
async def test_killing_workers_at_random_leaves_every_page_with_an_outcome() -> None:
    chance = random.Random(7)
    kills = 6
    texts: list[str] = []
    failures: list[ParseFailure] = []
    async with open_extractor(WorkerLimits(workers=2)) as pool:
        before = workers("self")

        async def reader(start: int) -> None:
            for number in range(start, start + 15):
                try:
                    texts.append(await read(pool, f"Page {number}."))
                except ParseFailure as error:  # it met two of the kills
                    failures.append(error)

        async with trio.open_nursery() as nursery:
            for start in range(0, 60, 15):
                nursery.start_soon(reader, start)
            for _ in range(kills):
                done = pool.statistics().pages_done
                while pool.statistics().pages_done < done + 6:
                    await trio.sleep(0.002)
                if alive := sorted(workers("self") - before):
                    os.kill(chance.choice(alive), signal.SIGKILL)
    assert len(texts) + len(failures) == 60
    assert len(failures) <= kills // 2


async def test_a_worker_is_replaced_after_its_share_of_pages() -> None:
    async with open_extractor(WorkerLimits(workers=1, jobs_per_worker=2)) as pool:
        for _ in range(5):
            await read(pool, "x")
        assert pool.statistics().workers_started == 3


async def test_binary_bodies_are_refused() -> None:
    async with open_extractor(ONE) as pool:
        with pytest.raises(UnsupportedContent):
            await pool.extract(
                Page("u", "u", 200, (), b"\x89PNG\r\n", "", None, 8, 0.0), "article", None
            )


async def test_an_interrupt_does_not_reach_a_worker() -> None:
    async with open_extractor(ONE) as pool:
        before = workers("self")
        await read(pool, "x")
        (pid,) = workers("self") - before
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert "Still here." in await read(pool, "Still here.")
        assert pool.statistics().workers_started == 1


async def test_a_closed_pool_refuses_pages_and_lets_go_of_those_that_wait() -> None:
    outcomes: list[type[BaseException]] = []

    async def one() -> None:
        try:
            await pool.extract(page(repeat=200_000), "article", None)
        except trio.ClosedResourceError as error:
            outcomes.append(type(error))

    async with trio.open_nursery() as outer:
        async with open_extractor(WorkerLimits(workers=1, queue_pages=1)) as pool:
            for _ in range(4):  # one with a worker, one in the queue, two before it
                outer.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await pool.extract(page(), "article", None)
    assert outcomes == [trio.ClosedResourceError] * 4


@pytest.mark.parametrize(
    "name",
    [
        "workers",
        "job_seconds",
        "memory_bytes",
        "jobs_per_worker",
        "queue_pages",
        "abandoned_seconds",
    ],
)
def test_limits_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        WorkerLimits(**{name: 0})


SCRIPT = """
import os, sys, trio
from eventmesh_trio.abc import Page
from eventmesh_trio.pipeline.workers.pool import WorkerLimits, open_extractor

async def main():
    body = b"<p>Hello there, whoever reads this.</p>" * int(sys.argv[1])
    page = Page("u", "u", 200, (), body, "text/html", None, len(body), 0.0)
    async with open_extractor(WorkerLimits(workers=1), prewarm=True) as pool:
        if sys.argv[2] == "once":
            extraction = await pool.extract(page, "article", None)
            print(extraction.document.word_count, flush=True)
            return
        print("ready", flush=True)
        if sys.argv[2] == "busy":
            await pool.extract(page, "article", None)
        await trio.sleep_forever()

trio.run(main)
"""


def run_script(tmp_path: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A script without a main guard, started from another folder."""
    script = tmp_path / "embedding.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_script_without_a_main_guard_can_use_the_pool(tmp_path: Path) -> None:
    with run_script(tmp_path, "10", "once") as process:
        output, _ = process.communicate(timeout=60)
    assert (output.strip(), process.returncode) == ("50", 0)


@pytest.mark.parametrize("state", ["idle", "busy"])
async def test_workers_end_when_their_parent_is_killed(tmp_path: Path, state: str) -> None:
    with run_script(tmp_path, "300000", state) as process:
        assert process.stdout is not None
        assert await trio.to_thread.run_sync(process.stdout.readline) == "ready\n"
        with trio.fail_after(20):
            while not (pids := workers(process.pid)):
                await trio.sleep(0.01)
        await trio.sleep(0.5)  # the subject is real time: let it get into its page
        process.kill()
        process.wait()
    with trio.fail_after(5):
        while any(command_line(pid) for pid in pids):
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("eventmesh_trio.pipeline.workers.worker", "trio ssl http.client"),
        ("eventmesh_trio.app.server", "selectolax eventmesh_trio.pipeline.extract"),
    ],
)
def test_neither_side_loads_what_only_the_other_needs(module: str, strangers: str) -> None:
    script = f"import sys, {module}; print([n for n in {strangers.split()} if n in sys.modules])"
    found = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert found.strip() == "[]"


def _in_daemon(results: "multiprocessing.Queue[str]") -> None:
    async def main() -> str:
        async with open_extractor(ONE) as pool:
            return await read(pool, "From a daemon.")

    results.put(trio.run(main))


def test_the_pool_works_in_a_daemonic_process() -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_in_daemon, args=(results,), daemon=True)
    process.start()
    assert "From a daemon." in results.get(timeout=60)
    process.join(timeout=30)
    assert process.exitcode == 0


def frame(*jobs: ExtractJob) -> bytes:
    payload = msgspec.msgpack.encode(list(jobs))
    return HEADER.pack(len(payload)) + payload


def job(number: int, body: bytes = b"<p>Hello.</p>") -> ExtractJob:
    return ExtractJob(number, "https://example.org/", None, "text/html", "article", None, body)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 65_536, 3_000_000])
def test_a_frame_in_two_pieces_is_that_job(size: int) -> None:
    original = job(7, random.Random(size).randbytes(size))
    begin, body = job_frame(original)
    assert body is original.body
    (length,) = HEADER.unpack_from(begin)
    assert length == len(begin) - HEADER.size + len(body)
    decoded = msgspec.msgpack.decode(begin[HEADER.size :] + body, type=list[ExtractJob])
    assert decoded == [original]


async def test_a_page_larger_than_the_pipe_is_read_whole() -> None:
    text = "".join(f"<p>Sentence number {number} of this page.</p>" for number in range(60_000))
    async with open_extractor(ONE) as pool:
        large = attrs.evolve(page(), body=f"<html><body>{text}".encode())
        extraction = await pool.extract(large, "full", None)
    assert len(large.body) > 2 * MIB
    assert "Sentence number 59999 of" in extraction.document.text


def answers(data: bytes) -> list[Answer]:
    found: list[Answer] = []
    while data:
        (length,) = HEADER.unpack(data[: HEADER.size])
        found += msgspec.msgpack.decode(data[HEADER.size : HEADER.size + length], type=list[Answer])
        data = data[HEADER.size + length :]
    return found


@pytest.fixture
def _main_thread_timer() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("interval timers belong to the main thread")


@pytest.mark.usefixtures("_main_thread_timer")
def test_a_frame_may_carry_several_jobs_and_a_cut_one_ends_the_worker() -> None:
    out = io.BytesIO()
    serve(io.BytesIO(frame(job(1), job(2)) + frame(job(3)) + frame(job(4))[:-3]), out, 60)
    assert [answer.job_id for answer in answers(out.getvalue())] == [1, 2, 3]


@pytest.mark.usefixtures("_main_thread_timer")
def test_a_bug_costs_its_page_only_and_lack_of_memory_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("a secret of the inside"), MemoryError()])

    def fail(*_args: object, **_kwargs: object) -> Extraction:
        raise next(failures)

    monkeypatch.setattr(worker, "extract_page", fail)
    out = io.BytesIO()
    serve(io.BytesIO(frame(job(1)) + frame(job(2)) + frame(job(3))), out, 60)
    first, second = answers(out.getvalue())
    assert (first.failure, second.failure) == ("error", "memory")
    assert "secret" not in first.message
    assert "secret" in caplog.text


# --- Fair between runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("queue_pages", [4, 100])
async def test_a_run_of_many_pages_holds_up_no_other_run(queue_pages: int) -> None:
    """Whether its pages wait inside the pool or outside."""
    order: list[str] = []

    async with open_extractor(WorkerLimits(workers=1, queue_pages=queue_pages)) as pool:

        async def one(run: str) -> None:
            await pool.for_run(run).extract(page(run), "article", None)
            order.append(run)

        known = workers("self")
        await read(pool, "Ready.")
        (worker_pid,) = workers("self") - known
        os.kill(worker_pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one, "big")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(5):
                nursery.start_soon(one, "small")
            await trio.testing.wait_all_tasks_blocked()
            os.kill(worker_pid, signal.SIGCONT)
    # One of the big run is with the worker; inside, it may have as many places as there are.
    assert order.count("small") == 5
    assert "small" in order[: min(queue_pages, 4) + 2]
    last = max(index for index, run in enumerate(order) if run == "small")
    assert last <= 2 * 5 + min(queue_pages, 4)


async def test_pages_that_are_given_up_while_they_wait_leave_their_place_at_once() -> None:
    async with open_extractor(WorkerLimits(workers=1, queue_pages=2)) as pool:
        known = workers("self")
        await read(pool, "Ready.")
        (worker_pid,) = workers("self") - known
        os.kill(worker_pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, pool, "First.")
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as impatient:
                for _ in range(5):
                    impatient.start_soon(read, pool, "Never read.")
                await trio.testing.wait_all_tasks_blocked()
                assert pool.statistics().pages_waiting == 2
                impatient.cancel_scope.cancel()
            assert pool.statistics().pages_waiting == 0
            for _ in range(4):
                nursery.start_soon(read, pool, "Later.")
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().pages_waiting == 2
            os.kill(worker_pid, signal.SIGCONT)
        assert pool.statistics().pages_done == 6


@pytest.mark.parametrize("queue_pages", [1, 100])
async def test_whoever_waits_when_the_pool_closes_is_told(queue_pages: int) -> None:
    told = 0

    async def wait(pool: WorkerPool) -> None:
        nonlocal told
        with pytest.raises(trio.ClosedResourceError):
            await read(pool, "Too late.")
        told += 1

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            async with open_extractor(WorkerLimits(workers=1, queue_pages=queue_pages)) as pool:
                for _ in range(10):
                    nursery.start_soon(wait, pool)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, pool)
    assert told == 11
