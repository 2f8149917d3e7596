import itertools
from typing import Any

import pytest
import trio
import trio.testing
from mesh_support import SmallJob, indexes, read_all, spec, tags

from eventmesh_trio.errors import ConflictError, DependencyError
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.lifecycle import State
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import RunError, Summary


def start(hub: Hub, job: SmallJob, **more: Any) -> tuple[Run, Subscriber]:
    session = hub.open_session("chosen")
    run, reader = hub.start_run(
        session, job, request_id=job.request_id, reader=spec(request_id=job.request_id), **more
    )
    assert reader is not None
    return run, reader


def summary_of(hub: Hub) -> Summary:
    session = hub.find("chosen")
    assert session is not None
    event = session.log.event(session.log.top)
    assert isinstance(event, Summary)
    return event


async def test_a_run_ends_with_one_summary_as_its_last_event(
    autojump_clock: object, hub: Hub
) -> None:
    run, reader = start(hub, SmallJob(total=3))
    events = await read_all(reader)
    assert tags(events)[:3] == ["metadata", "start", "result"]
    assert tags(events).count("summary") == 1
    assert tags(events)[-1] == "summary"
    assert indexes(events) == [0, 1, 2]
    assert (run.state, summary_of(hub).status) == (State.COMPLETED, "completed")


async def test_the_opening_is_in_the_log_before_the_run_has_had_a_turn(
    autojump_clock: object, hub: Hub
) -> None:
    _, reader = start(hub, SmallJob())
    assert reader.statistics().pending == 2


async def test_pause_stops_the_work_and_resume_does_it_again(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=10, nap=1)
    run, reader = start(hub, job)
    async with trio.open_nursery() as nursery:
        events: list[Any] = []

        async def read() -> None:
            events.extend(await read_all(reader))

        nursery.start_soon(read)
        await trio.sleep(3.5)
        assert (run.pause(), run.pause()) == (True, False)
        await trio.sleep(100)
        assert (job.settled, run.state) == (3, State.PAUSED)
        assert (run.resume(), run.resume()) == (True, False)
    assert indexes(events) == list(range(10))
    assert (job.works, run.state) == (2, State.COMPLETED)


async def test_a_pause_and_resume_at_once_still_restarts_the_work(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=4, nap=1)
    run, reader = start(hub, job)
    await trio.testing.wait_all_tasks_blocked()
    run.pause()
    run.resume()
    assert indexes(await read_all(reader)) == [0, 1, 2, 3]
    assert job.works == 2


async def test_a_run_paused_before_its_first_step_works_only_after_resume(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=2)
    run, reader = start(hub, job)
    run.pause()
    await trio.sleep(5)
    assert job.settled == 0
    run.resume()
    assert indexes(await read_all(reader)) == [0, 1]


async def test_a_paused_runs_deadline_stands_still(autojump_clock: object, hub: Hub) -> None:
    job = SmallJob(total=100, nap=1)
    run, reader = start(hub, job, timeout_seconds=10)
    await trio.sleep(4.5)
    run.pause()
    await trio.sleep(1000)
    assert run.live
    run.resume()
    before = trio.current_time()
    await read_all(reader)
    assert trio.current_time() - before == pytest.approx(5.5)
    assert (run.state, summary_of(hub).status) == (State.TIMED_OUT, "timed_out")


async def test_a_run_that_is_out_of_time_counts_the_rest_as_cancelled(
    autojump_clock: object, hub: Hub
) -> None:
    _, reader = start(hub, SmallJob(total=10, nap=1), timeout_seconds=3.5)
    await read_all(reader)
    summary = summary_of(hub)
    assert (summary.successful, summary.cancelled, summary.total_urls) == (3, 7, 10)
    assert summary.status == "timed_out"


async def test_a_run_paused_too_long_is_cancelled_with_that_reason(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(max_paused_seconds=60)) as hub:
        run, reader = start(hub, SmallJob(total=10, nap=1))
        await trio.sleep(1.5)
        run.pause()
        paused_at = trio.current_time()
        await read_all(reader)
        assert trio.current_time() - paused_at == pytest.approx(60)
        summary = summary_of(hub)
        assert (summary.status, summary.reason) == ("cancelled", "paused_too_long")


async def test_cancel_ends_with_one_summary_and_no_flood_of_failures(
    autojump_clock: object, hub: Hub
) -> None:
    run, reader = start(hub, SmallJob(total=1000, nap=1))
    await trio.sleep(2.5)
    assert (run.cancel("asked"), run.cancel()) == (True, False)
    assert run.state is State.CANCELLING
    events = await read_all(reader)
    assert [tag for tag in tags(events) if tag != "progress"] == [
        "metadata",
        "start",
        "result",
        "result",
        "summary",
    ]
    summary = summary_of(hub)
    assert (summary.status, summary.reason, summary.cancelled) == ("cancelled", "asked", 998)
    assert not run.cancel()


async def test_a_paused_run_can_be_cancelled(autojump_clock: object, hub: Hub) -> None:
    run, reader = start(hub, SmallJob(total=10, nap=1))
    run.pause()
    await trio.sleep(1)
    run.cancel()
    await read_all(reader)
    assert run.state is State.CANCELLED


async def test_a_command_after_the_end_changes_nothing(autojump_clock: object, hub: Hub) -> None:
    run, reader = start(hub, SmallJob())
    await read_all(reader)
    assert (run.pause(), run.resume(), run.cancel()) == (False, False, False)
    assert run.state is State.COMPLETED


async def test_a_bug_becomes_the_runs_error_and_summary_and_hurts_nobody_else(
    autojump_clock: object, hub: Hub, logged: list[Any]
) -> None:
    other = hub.open_session("other")
    _, healthy = hub.start_run(
        other, SmallJob("req-2", nap=1), request_id="req-2", reader=spec(request_id="req-2")
    )
    assert healthy is not None
    run, reader = start(hub, SmallJob(fail_at=2, failure=ZeroDivisionError("secret")))
    events = await read_all(reader)
    assert tags(events)[-3:] == ["error", "progress", "summary"]
    error = next(e for _, e in logged_events(hub) if isinstance(e, RunError))
    assert error.error.type == "internal_error"
    assert "secret" not in error.error.message
    assert (run.state, summary_of(hub).successful) == (State.FAILED, 2)
    assert indexes(await read_all(healthy)) == [0, 1, 2]
    (entry,) = [entry for entry in logged if entry["log_level"] == "error"]
    assert isinstance(entry["exc_info"], ZeroDivisionError)
    assert entry["request_id"] == "req-1"


def logged_events(hub: Hub) -> list[Any]:
    session = hub.find("chosen")
    assert session is not None
    return [(seq, session.log.event(seq)) for seq in range(1, session.log.top + 1)]


async def test_an_error_of_ours_keeps_its_type_even_out_of_a_nursery(
    autojump_clock: object, hub: Hub, logged: list[Any]
) -> None:
    inner = ExceptionGroup("stages", [ExceptionGroup("", [DependencyError("no browser")])])
    _, reader = start(hub, SmallJob(fail_at=0, failure=inner))
    await read_all(reader)
    error = next(e for _, e in logged_events(hub) if isinstance(e, RunError))
    assert (error.error.type, error.error.message) == ("dependency_error", "no browser")
    assert [entry["log_level"] for entry in logged] == ["warning"]


async def test_work_that_returns_before_it_is_done_fails_the_run(
    autojump_clock: object, hub: Hub, logged: list[Any]
) -> None:
    class Lazy(SmallJob):
        async def work(self, publisher: Any) -> None:
            await trio.lowlevel.checkpoint()

    run, reader = start(hub, Lazy())
    await read_all(reader)
    assert run.state is State.FAILED
    assert logged


async def test_a_job_that_cannot_close_still_gets_a_summary_that_adds_up(
    autojump_clock: object, hub: Hub, logged: list[Any]
) -> None:
    class Mute(SmallJob):
        def closing(self, *_: Any) -> Any:
            raise KeyError("closing")

    run, reader = start(hub, Mute(total=5, nap=1), timeout_seconds=2.5)
    events = await read_all(reader)
    assert tags(events)[-3:] == ["progress", "error", "summary"]  # the newest progress once
    summary = summary_of(hub)
    assert (summary.successful, summary.cancelled, summary.total_urls) == (2, 3, 5)
    assert run.state is State.TIMED_OUT
    assert logged


async def test_a_job_that_cannot_tell_its_progress_ends_no_reader(
    autojump_clock: object, hub: Hub, logged: list[Any]
) -> None:
    class Shy(SmallJob):
        def progress(self) -> Any:
            raise KeyError("progress")

    _, reader = start(hub, Shy(nap=1))
    events = await read_all(reader)
    assert "progress" not in tags(events)
    assert tags(events)[-1] == "summary"
    assert logged


async def test_an_opening_that_fails_starts_no_run(autojump_clock: object, hub: Hub) -> None:
    class Broken(SmallJob):
        def opening(self) -> Any:
            raise ValueError("no opening")

    session = hub.open_session("chosen")
    with pytest.raises(ValueError, match="no opening"):
        hub.start_run(session, Broken(), request_id="req-1")
    assert not session.runs
    assert not session.log.live_tracks
    assert hub.census.snapshot().active_runs == 0


async def test_the_id_of_a_live_run_is_refused_and_that_of_a_finished_one_is_not(
    autojump_clock: object, hub: Hub
) -> None:
    run, reader = start(hub, SmallJob(nap=1))
    with pytest.raises(ConflictError):
        start(hub, SmallJob())
    assert run.live
    await read_all(reader)
    again, second = start(hub, SmallJob())
    assert again is not run
    assert indexes(await read_all(second)) == [0, 1, 2]


async def test_an_ended_run_lets_go_of_its_job(autojump_clock: object, hub: Hub) -> None:
    import gc
    import weakref

    job = SmallJob()
    gone = weakref.ref(job)
    run, reader = start(hub, job)
    del job
    await read_all(reader)
    await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    assert gone() is None
    assert run.counts.completed == 3
    assert run.document().state == "completed"


async def test_a_publisher_lets_others_run_each_stride_and_sees_cancellation_each_time(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(publish_stride=10)) as hub:
        job = SmallJob(total=100)
        session = hub.open_session("chosen")
        hub.start_run(session, job, request_id="req-1")  # its held place has room for 256
        seen = []
        while not job.done:
            seen.append(job.settled)
            await trio.lowlevel.checkpoint()
        steps = [after - before for before, after in itertools.pairwise(seen)]
        assert 10 <= max(steps) <= 20  # two turns of the run may follow one another


async def test_the_last_events_wait_for_no_room(autojump_clock: object, hub: Hub) -> None:
    run, reader = start(hub, SmallJob(total=10_000))
    await trio.testing.wait_all_tasks_blocked()
    assert reader.statistics().pending == 256
    run.cancel()
    await run.wait_ended()
    assert reader.statistics().pending == 257


async def test_cancelled_from_outside_a_run_still_appends_its_summary(
    autojump_clock: object,
) -> None:
    with trio.CancelScope() as scope:
        async with open_hub() as hub:
            start(hub, SmallJob(total=10, nap=1))
            await trio.sleep(2.5)
            scope.cancel()
            await trio.sleep_forever()
    summary = summary_of(hub)
    assert (summary.status, summary.reason, summary.successful) == ("cancelled", "shutdown", 2)
