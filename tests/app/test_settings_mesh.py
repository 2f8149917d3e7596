"""Each setting under ``mesh`` and what it changes: sessions, runs, and what is kept for readers."""

import itertools
import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.errors import BackpressureExceeded, DependencyError, SubscriberLagged
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.testing import FakeFetcher
from tests.helpers.settled import (
    World,
    crawl_of,
    events_of,
    open_world,
    read_all,
    read_batch,
    request_bytes,
    shows,
)
from tests.mesh.mesh_support import SmallJob


def held() -> SmallJob:
    """A job that does nothing for as long as the test."""
    return SmallJob(holds=trio.Event())


async def lifetime(run: Run) -> float:
    """The seconds until a run has ended."""
    began = trio.current_time()
    await run.wait_ended()
    return trio.current_time() - began


# --- Sessions and what they keep ---------------------------------------------------------------


@shows("mesh.linger_seconds")
async def test_a_run_outlives_its_last_reader_by_linger_seconds(autojump_clock: MockClock):
    async with open_world("mesh.linger_seconds=7") as world:
        _, run, reader = world.start(held())
        reader.close()
        assert await lifetime(run) == pytest.approx(7, abs=0.01)


@shows("mesh.retention_seconds")
async def test_a_finished_session_is_known_for_retention_seconds(autojump_clock: MockClock):
    async with open_world("mesh.retention_seconds=7") as world:
        assert (await world.crawl(1, "X-Session-ID: s")).status == 200
        await trio.sleep(6.9)
        assert (await world.request("GET", "/sessions/s")).status == 200
        await trio.sleep(0.2)
        assert (await world.request("GET", "/sessions/s")).status == 404


@shows("mesh.replay_bytes")
@pytest.mark.parametrize(("kept", "whole"), [("16MB", True), ("50KB", False)])
async def test_a_log_keeps_replay_bytes_behind_its_end(
    kept: str, whole: bool, autojump_clock: MockClock
):
    async with open_world(f"mesh.replay_bytes={kept}") as world:
        session, _, reader = world.start(SmallJob(total=300, text="x" * 1000))
        await read_all(reader)
        assert session.log.kept_bytes > 40_000
        assert (session.log.first == 1) is whole


@shows("mesh.max_pinned_bytes")
@pytest.mark.parametrize(("most", "cut"), [("64MB", False), ("50KB", True)])
async def test_a_reader_of_one_run_is_cut_off_that_pins_max_pinned_bytes_of_others(
    most: str, cut: bool, autojump_clock: MockClock
):
    async with open_world(f"mesh.max_pinned_bytes={most}", "mesh.replay_bytes=0") as world:
        _, _, reader = world.start(held(), world.reader_spec(request_id="req-1"))
        job = SmallJob(total=300, text="x" * 1000, request_id="req-2")
        _, other, fast = world.start(job)
        while fast.read_seq < 300:
            await read_batch(fast)
        await other.wait_ended()
        assert isinstance(reader.failure, SubscriberLagged) is cut


@shows("mesh.max_retained_bytes")
@pytest.mark.parametrize(("most", "kept"), [("256MB", ["a", "b"]), ("500KB", ["b"])])
async def test_finished_sessions_hold_max_retained_bytes_together(
    most: str, kept: list[str], autojump_clock: MockClock
):
    async with open_world(f"mesh.max_retained_bytes={most}") as world:
        for session_id in ("a", "b"):
            job = SmallJob(total=200, text="x" * 500)
            _, _, reader = world.start(job, session_id=session_id)
            await read_all(reader)
            reader.close()
            assert 300_000 < world.mesh.hub.sessions[session_id].log.kept_bytes < 450_000
        assert list(world.mesh.hub.sessions) == kept


@shows("mesh.max_sessions")
async def test_a_session_beyond_max_sessions_is_told_503(autojump_clock: MockClock):
    async with open_world("mesh.max_sessions=1", fetcher=FakeFetcher(delay=lambda _: 9)) as world:
        first = world.connect()
        await first.send(request_bytes("POST", "/crawl/stream", body=crawl_of(1)))
        await first.until(b'"start"')
        assert (await world.crawl()).status == 503
        await first.until(b'"summary"')
        await wait_all_tasks_blocked()
        assert (await world.crawl()).status == 200  # a kept one makes room


@shows("mesh.attach_wait_seconds")
async def test_a_get_waits_attach_wait_seconds_for_its_session(autojump_clock: MockClock):
    async with open_world("mesh.attach_wait_seconds=7") as world:
        began = trio.current_time()
        answer = await world.request("GET", "/crawl/stream?session_id=unknown")
        assert answer.status == 404
        assert trio.current_time() - began == pytest.approx(7, abs=0.01)


# --- Runs --------------------------------------------------------------------------------------


@shows("mesh.max_paused_seconds")
async def test_a_run_is_cancelled_that_is_paused_for_max_paused_seconds(autojump_clock: MockClock):
    async with open_world("mesh.max_paused_seconds=7") as world:
        _, run, _ = world.start(held())
        await wait_all_tasks_blocked()
        run.pause()
        assert await lifetime(run) == pytest.approx(7, abs=0.01)


@shows("mesh.max_runs")
async def test_a_run_beyond_max_runs_is_told_503(autojump_clock: MockClock):
    async with open_world("mesh.max_runs=1") as world:
        world.start(held())
        assert (await world.crawl()).status == 503


@shows("mesh.max_runs_per_session")
async def test_a_run_beyond_max_runs_per_session_is_told_so(autojump_clock: MockClock):
    setting = "mesh.max_runs_per_session=2"
    async with open_world(setting, fetcher=FakeFetcher(delay=lambda _: 20)) as world:
        socket = await world.open_socket()
        for number in range(3):
            body = {"action": "crawl", "requestId": f"r{number}", **crawl_of(1)}
            await socket.send_text(json.dumps(body))
        refusal = ""
        while "rate_limited" not in refusal:
            refusal = str(await socket.message())
        assert '"r2"' in refusal


@shows("mesh.max_finished_runs")
async def test_a_session_lists_its_last_max_finished_runs(autojump_clock: MockClock):
    async with open_world("mesh.max_finished_runs=2") as world:
        for number in range(4):
            job = SmallJob(request_id=f"req-{number}")
            session, _, reader = world.start(job, world.reader_spec(request_id=job.request_id))
            await read_all(reader)
            reader.close()
        assert list(session.runs) == ["req-2", "req-3"]


@shows("mesh.publish_stride")
@pytest.mark.parametrize("stride", [5, 50])
async def test_a_run_lets_others_take_their_turn_every_publish_stride_events(
    stride: int, autojump_clock: MockClock
):
    async with open_world(f"mesh.publish_stride={stride}") as world:
        job = SmallJob(total=200)
        world.start(job)
        seen = []
        while not job.done:
            seen.append(job.settled)
            await trio.lowlevel.checkpoint()
        steps = [after - before for before, after in itertools.pairwise(seen)]
        assert stride <= max(steps) <= 2 * stride  # two turns of the run may follow one another


# --- Readers -----------------------------------------------------------------------------------


@shows("mesh.window_bytes")
@pytest.mark.parametrize("window", [20_000, 80_000])
async def test_a_run_waits_for_a_reader_that_lags_window_bytes(
    window: int, autojump_clock: MockClock
):
    async with open_world(f"mesh.window_bytes={window}") as world:
        session, _, _ = world.start(SmallJob(total=250, text="x" * 1000))
        await wait_all_tasks_blocked()
        assert session.log.top < 250
        assert window * 0.8 <= session.log.kept_bytes <= window * 1.3


@shows("mesh.stall_seconds")
async def test_a_reader_is_cut_off_that_holds_its_run_back_for_stall_seconds(
    autojump_clock: MockClock,
):
    async with open_world("mesh.stall_seconds=7") as world:
        _, _, reader = world.start(SmallJob(total=2000))
        await trio.sleep(6.9)
        assert reader.failure is None
        await trio.sleep(0.2)
        assert isinstance(reader.failure, BackpressureExceeded)


@shows("mesh.max_batch_events")
@pytest.mark.parametrize("most", [7, 1024])
async def test_a_batch_has_no_more_than_max_batch_events(most: int, autojump_clock: MockClock):
    async with open_world(f"mesh.max_batch_events={most}") as world:
        spec = world.reader_spec(x_max_memory_per_connection="262144")
        session, _, reader = world.start(SmallJob(total=100), spec)
        await wait_all_tasks_blocked()
        top, largest = session.log.top, 0
        while reader.read_seq < top:
            largest = max(largest, sum("id" in event for event in await read_batch(reader)))
        assert largest == 7 if most == 7 else largest > 20


@shows("mesh.notice_queue")
async def test_notice_queue_replies_wait_for_the_writer_and_no_more(autojump_clock: MockClock):
    async with open_world("mesh.notice_queue=3") as world:
        _, _, reader = world.start(held())
        for _ in range(3):
            reader.post_nowait(b"reply")
        with pytest.raises(trio.WouldBlock):
            reader.post_nowait(b"reply")


async def warning_moments(world: World) -> list[float]:
    _, _, reader = world.start(SmallJob(total=300, nap=0.1))
    moments: list[float] = []
    slow = True
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            return moments
        if "backpressure_warning" in str(batch.pieces):
            moments.append(trio.current_time())
        for _ in range(50):  # a reader whose pace changes with every write
            reader.sent(0, 0, 0.5 if slow else 0.001)
        reader.sent(batch.events, batch.nbytes, 0.001)
        slow = not slow


@shows("mesh.warning_seconds")
async def test_two_warnings_to_a_reader_are_warning_seconds_apart(autojump_clock: MockClock):
    for seconds, least in ((0, 50), (9, 2)):
        async with open_world(f"mesh.warning_seconds={seconds}") as world:
            moments = await warning_moments(world)
            assert len(moments) >= least
            gaps = [after - before for before, after in itertools.pairwise(moments)]
            assert min(gaps) >= seconds
            assert min(gaps) < seconds + 1


@shows("mesh.ttfb_target_ms")
async def test_metadata_states_ttfb_target_ms(autojump_clock: MockClock):
    async with open_world("mesh.ttfb_target_ms=250ms") as world:
        (metadata, *_) = events_of((await world.crawl()).body)
        assert metadata["performance_config"]["ttfb_target_ms"] == 250


@shows("mesh.health_window_seconds")
async def test_health_is_that_of_the_last_health_window_seconds(autojump_clock: MockClock):
    async with open_world("mesh.health_window_seconds=10") as world:
        for number in range(20):
            job = SmallJob(fail_at=0, failure=DependencyError("gone"), request_id=f"req-{number}")
            _, _, reader = world.start(job, world.reader_spec(request_id=job.request_id))
            await read_all(reader)
            reader.close()
        healths = []
        for seconds in (0, 5, 10):
            await trio.sleep(seconds)
            healths.append(world.mesh.hub.census.health)
        assert healths == ["critical", "critical", "healthy"]
