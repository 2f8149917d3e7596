"""A lossless reader that is slow slows what it follows, to its own pace, and nothing else."""

import pytest
import trio
import trio.testing
from mesh_support import SmallJob, indexes, read_all, spec, tags

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.session import Session

TOTAL = 600
NAP = 0.01  # between two results of a run that nobody holds back
WINDOW = 64
PACE = 1.0  # seconds a write of the slow reader


async def finish(
    session: Session, one: ReaderSpec, nap: float, times: dict[str, float], name: str
) -> None:
    reader = session.subscribe(one, after=0)
    events = await read_all(reader, nap=nap)
    reader.close()
    times[name] = trio.current_time()
    assert "gap" not in tags(events)
    followed = 1 if one.request_id else len(session.runs)
    assert len(indexes(events)) == followed * TOTAL


async def race(hub: Hub, *, slow: str | None) -> dict[str, float]:
    """Seconds until each reader of four runs, in two sessions, has all of its run.

    Args:
      slow: what an additional reader follows that takes its time: a run, "session", or None.
    """
    times: dict[str, float] = {}
    started = trio.current_time()
    sessions = {name: hub.open_session(name) for name in ("ours", "other")}
    anchors = [
        one.subscribe(spec(until="never", strategy="drop_oldest")) for one in sessions.values()
    ]
    async with trio.open_nursery() as nursery:
        for run in ("ours a", "ours b", "other a", "other b"):
            session = sessions[run.partition(" ")[0]]
            job = SmallJob(run, total=TOTAL, nap=NAP)
            hub.start_run(session, job, request_id=run)
            quick = spec(request_id=run)
            nursery.start_soon(finish, session, quick, 0.0, times, run)
        if slow is not None:
            follows = {} if slow == "session" else {"request_id": slow}
            one = spec(capacity=WINDOW, min_capacity=1, adaptive=False, batch_bytes=1500, **follows)
            nursery.start_soon(finish, sessions["ours"], one, PACE, times, "slow")
    for anchor in anchors:
        anchor.close()
    return {name: moment - started for name, moment in times.items()}


async def test_nobody_holds_anybody_back_where_nobody_is_slow(
    autojump_clock: object, hub: Hub
) -> None:
    times = await race(hub, slow=None)
    assert list(times.values()) == [pytest.approx(TOTAL * NAP)] * 4


async def test_a_slow_reader_of_a_run_slows_that_run_alone_and_its_other_readers_with_it(
    autojump_clock: object, hub: Hub
) -> None:
    times = await race(hub, slow="ours a")
    untouched = {name for name, seconds in times.items() if seconds < TOTAL * NAP * 1.001}
    assert untouched == {"ours b", "other a", "other b"}
    # The run is at most a window ahead of it, so they end within what it takes for a window.
    batches = times["slow"] / PACE
    per_batch = (TOTAL + 3) / batches
    assert times["slow"] > 3 * TOTAL * NAP
    assert times["slow"] - times["ours a"] <= (WINDOW / per_batch + 2) * PACE


async def test_a_slow_reader_of_a_session_slows_its_runs_and_no_other_session(
    autojump_clock: object, hub: Hub
) -> None:
    times = await race(hub, slow="session")
    untouched = {name for name, seconds in times.items() if seconds < TOTAL * NAP * 1.001}
    assert untouched == {"other a", "other b"}
    assert min(times["ours a"], times["ours b"]) > 3 * TOTAL * NAP


async def test_fifty_slow_readers_of_a_run_slow_it_no_more_than_one(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    seconds = []
    for count in (1, 50):
        name = f"run {count}"
        hub.start_run(session, SmallJob(name, total=TOTAL), request_id=name)
        times: dict[str, float] = {}
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                one = spec(request_id=name, capacity=WINDOW, adaptive=False, batch_bytes=1500)
                nursery.start_soon(finish, session, one, PACE, times, f"slow {number}")
        assert len(times) == count
        seconds.append(max(times.values()) - started)
    assert seconds[1] == pytest.approx(seconds[0], rel=0.1)
