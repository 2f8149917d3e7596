"""Attaching, resuming, lingering, places, control."""

import re
from typing import Any

import pytest
import trio
import trio.testing
from mesh_support import SmallJob, indexes, read_all, read_batch, seq_of, spec, tags

from eventmesh_trio.errors import NotFoundError
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.lifecycle import State
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.session import Position


def start(hub: Hub, job: SmallJob, session_id: str | None = "s", *, reader: bool = True) -> Any:
    session = hub.open_session(session_id)
    run, subscriber = hub.start_run(
        session,
        job,
        request_id=job.request_id,
        reader=spec(request_id=job.request_id) if reader else None,
    )
    return session, run, subscriber


async def finished(hub: Hub, job: SmallJob) -> Any:
    session, _, reader = start(hub, job)
    await read_all(reader)
    reader.close()
    return session


# --- Cursors --------------------------------------------------------------------------------------


def test_an_epoch_is_random_and_has_no_dash() -> None:
    async def epochs() -> set[str]:
        async with open_hub() as hub:
            return {hub.open_session().epoch for _ in range(200)}

    found = trio.run(epochs)
    assert len(found) == 200
    assert all(re.fullmatch(r"[A-Za-z0-9_]{12}", epoch) for epoch in found)


async def test_no_cursor_is_the_start_of_the_oldest_live_run(
    autojump_clock: object, hub: Hub
) -> None:
    session = await finished(hub, SmallJob("done", total=2))
    _, older, _ = start(hub, SmallJob("older", holds=trio.Event()))
    start(hub, SmallJob("newer", holds=trio.Event()))
    assert session.resolve(None) == Position(older.first_seq - 1, None)
    older.cancel()
    await older.wait_ended()
    assert session.resolve(None).after == session.runs["newer"].first_seq - 1


async def test_no_cursor_and_no_live_run_is_the_start_of_the_newest_run(
    autojump_clock: object, hub: Hub
) -> None:
    await finished(hub, SmallJob("one", total=2))
    session = await finished(hub, SmallJob("two", total=2))
    events = await read_all(session.subscribe(spec()))
    assert {event["request_id"] for event in events if event["id"]} == {"two"}


async def test_a_known_cursor_goes_on_right_after_it(autojump_clock: object, hub: Hub) -> None:
    session = await finished(hub, SmallJob(total=5))
    assert session.resolve(f"{session.epoch}-4") == Position(4, None)
    events = await read_all(session.subscribe(spec(), after=4))
    assert indexes(events) == [2, 3, 4]


@pytest.mark.parametrize(
    ("cursor", "changed"),
    [
        ("other_epoch-3", True),
        ("", False),
        ("-", False),
        ("3", False),
        ("{epoch}", False),
        ("{epoch}-", False),
        ("{epoch}-x", False),
        ("{epoch}--1", False),
        ("{epoch}-1e3", False),
        ("{epoch}-٣", False),
        ("{epoch}-999", False),
        ("{epoch}-" + "9" * 5000, False),
    ],
)
async def test_a_cursor_that_cannot_be_placed_gets_a_gap_of_unknown_size_then_the_rest(
    autojump_clock: object, hub: Hub, cursor: str, changed: bool
) -> None:
    session = await finished(hub, SmallJob(total=2))
    position = session.resolve(cursor.format(epoch=session.epoch))
    assert position.gap is not None
    assert (position.gap.missing_from, position.gap.missing_to) == (None, None)
    assert position.gap.epoch_changed is changed
    events = await read_all(session.subscribe(spec(), after=position.after, gap=position.gap))
    assert tags(events) == ["gap", "metadata", "start", "result", "result", "progress", "summary"]


async def test_a_cursor_older_than_what_is_kept_gets_a_gap_with_its_numbers(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(replay_bytes=10_000)) as hub:
        session = await finished(hub, SmallJob(total=100))
        position = session.resolve(f"{session.epoch}-5")
        assert position.gap is not None
        first = session.log.first
        assert (position.gap.missing_from, position.gap.missing_to) == (6, first - 1)
        assert not position.gap.epoch_changed
        events = await read_all(session.subscribe(spec(), after=position.after, gap=position.gap))
        assert tags(events)[0] == "gap"
        assert seq_of(events[1]) == first
        # Nor is the start of the run there any more.
        assert session.resolve(None).gap is not None
        own = await read_all(session.subscribe(spec(request_id="req-1")))
        assert (own[0]["event"], own[0]["missing_from"]) == ("gap", 1)


async def test_a_session_is_exhausted_when_all_was_delivered_and_no_run_is_live(
    autojump_clock: object, hub: Hub
) -> None:
    session, _run, reader = start(hub, SmallJob(total=2, nap=1))
    assert not session.is_exhausted(session.log.top)
    await read_all(reader)
    assert not session.is_exhausted(session.log.top - 1)
    assert session.is_exhausted(session.log.top)
    assert session.resolve(session.last_event_id) == Position(session.log.top, None)


# --- Leaving and lingering ------------------------------------------------------------------------


async def test_a_run_whose_id_nobody_chose_is_cancelled_at_once_when_its_reader_goes(
    autojump_clock: object, hub: Hub
) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    _, run, reader = start(hub, SmallJob(nap=1), None)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before + 1
    reader.close(keep_place=True)
    await trio.testing.wait_all_tasks_blocked()
    assert (run.state, run.reason) == (State.CANCELLED, "abandoned")
    assert trio.lowlevel.current_statistics().tasks_living == before
    # Not the job's second: what is left is the janitor's.
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline >= 5


async def test_a_chosen_session_lingers_and_is_cancelled_then(
    autojump_clock: object, hub: Hub
) -> None:
    _, run, reader = start(hub, SmallJob(nap=1, total=1000))
    reader.close(keep_place=True)
    before = trio.current_time()
    await run.wait_ended()
    assert trio.current_time() - before == pytest.approx(30)
    assert (run.state, run.reason) == (State.CANCELLED, "abandoned")


async def test_with_no_time_to_linger_a_chosen_session_is_cancelled_at_once(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(linger_seconds=0)) as hub:
        _, run, reader = start(hub, SmallJob(nap=1))
        reader.close(keep_place=True)
        assert run.state is State.CANCELLING


async def test_a_reader_that_comes_back_in_time_ends_the_lingering(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, reader = start(hub, SmallJob(nap=1, total=200))
    reader.close(keep_place=True)
    await trio.sleep(29)
    second = session.subscribe(spec())
    await trio.sleep(100)
    assert run.live
    second.close(keep_place=True)
    before = trio.current_time()
    await run.wait_ended()
    assert trio.current_time() - before == pytest.approx(30)  # counted anew


async def test_a_run_goes_on_while_anybody_reads_it(autojump_clock: object, hub: Hub) -> None:
    session, run, reader = start(hub, SmallJob(nap=1, total=100), None)
    watcher = session.subscribe(spec())
    reader.close()
    assert indexes(await read_all(watcher)) == list(range(100))
    assert run.state is State.COMPLETED


async def test_while_it_lingers_the_run_waits_at_the_place_of_the_reader_that_left(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=1000)
    session, run, reader = start(hub, job)
    events = await read_batch(reader)
    await trio.testing.wait_all_tasks_blocked()
    reader.close(keep_place=True)
    settled = job.settled
    await trio.sleep(25)
    assert job.settled == settled <= 256
    position = session.resolve(reader.last_event_id)
    assert position.gap is None
    again = session.subscribe(spec(), after=position.after)
    assert run.place is None
    rest = await read_all(again)
    assert indexes(events + rest) == list(range(1000))


async def test_a_reader_that_leaves_in_mid_write_keeps_its_place_before_that_write(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(replay_bytes=0)) as hub:  # nothing is kept but for places
        job = SmallJob(total=1000)
        session, _run, reader = start(hub, job)
        await trio.testing.wait_all_tasks_blocked()
        await reader.receive_batch()  # and never sent
        reader.close(keep_place=True)
        again = session.subscribe(spec(), after=0)
        events = await read_all(again)
        assert tags(events)[:2] == ["metadata", "start"]
        assert indexes(events) == list(range(1000))


async def test_a_reader_that_gives_up_its_place_lets_the_run_go_on_while_it_lingers(
    autojump_clock: object, hub: Hub
) -> None:
    _session, run, reader = start(hub, SmallJob(total=1000))
    reader.close()
    with trio.fail_after(1):
        await run.wait_ended()
    assert run.state is State.COMPLETED


async def test_a_run_without_a_stream_holds_a_place_from_its_first_event(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=1000)
    session, run, none = start(hub, job, reader=False)
    assert none is None
    await trio.sleep(20)
    assert job.settled == 254
    assert not run.has_reader
    reader = session.subscribe(spec())
    assert run.has_reader
    assert indexes(await read_all(reader)) == list(range(1000))


async def test_a_run_without_a_stream_that_nobody_attaches_to_is_cancelled(
    autojump_clock: object, hub: Hub
) -> None:
    _, run, _ = start(hub, SmallJob(total=1000), reader=False)
    before = trio.current_time()
    await run.wait_ended()
    assert trio.current_time() - before == pytest.approx(30)


async def test_a_run_on_a_followed_session_holds_no_place_of_its_own(
    autojump_clock: object, hub: Hub
) -> None:
    socket = hub.open_session("s").subscribe(spec(until="never"))
    _, run, _ = start(hub, SmallJob(nap=1), reader=False)
    assert run.place is None
    socket.close(keep_place=True)
    assert run.place is not None


async def test_a_reader_from_before_what_is_kept_is_told_even_without_a_cursor(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(replay_bytes=10_000)) as hub:
        session = await finished(hub, SmallJob(total=100))
        for settings in ({}, {"request_id": "req-1"}):
            events = await read_all(session.subscribe(spec(**settings), after=0))
            assert (events[0]["event"], events[0]["missing_from"]) == ("gap", 1)
            assert events[0]["missing_to"] == session.log.first - 1


async def test_a_lossy_reader_that_attaches_takes_the_place_away(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, _ = start(hub, SmallJob(total=1000), reader=False)
    await trio.testing.wait_all_tasks_blocked()
    session.subscribe(spec(strategy="drop_oldest"))
    with trio.fail_after(1):
        await run.wait_ended()


async def test_each_run_of_a_session_lingers_for_itself(autojump_clock: object, hub: Hub) -> None:
    session = hub.open_session("s")
    socket = session.subscribe(spec(until="never"))
    _, ours, _ = start(hub, SmallJob("ours", nap=1, total=1000), reader=False)
    _, theirs, post = start(hub, SmallJob("theirs", nap=1, total=100))
    socket.close(keep_place=True)
    assert indexes(await read_all(post)) == list(range(100))
    assert (ours.state, theirs.state) == (State.CANCELLED, State.COMPLETED)


async def test_nothing_that_a_held_place_may_want_is_evicted(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(replay_bytes=0)) as hub:
        session, _run, reader = start(hub, SmallJob(total=1000))
        events = await read_batch(reader)
        reader.close(keep_place=True)
        await trio.sleep(10)
        position = session.resolve(reader.last_event_id)
        assert position.gap is None
        rest = await read_all(session.subscribe(spec(), after=position.after))
        assert indexes(events + rest) == list(range(1000))


# --- Control and what is shown --------------------------------------------------------------------


async def test_commands_go_to_one_run_or_to_all_live_ones(autojump_clock: object, hub: Hub) -> None:
    session, a, _ = start(hub, SmallJob("a", nap=1))
    _, b, _ = start(hub, SmallJob("b", nap=1))
    assert session.pause("a") == (a,)
    assert (a.state, b.state) == (State.PAUSED, State.RUNNING)
    assert set(session.pause()) == {a, b}
    assert set(session.resume()) == {a, b}
    assert session.cancel("b", "asked") == (b,)
    assert (a.state, b.state, b.reason) == (State.RUNNING, State.CANCELLING, "asked")
    for command in (session.pause, session.resume, session.cancel):
        with pytest.raises(NotFoundError):
            command("nobody")


async def test_the_document_shows_the_session_and_its_runs(
    autojump_clock: object, hub: Hub
) -> None:
    session, _run, reader = start(hub, SmallJob(total=4, nap=1))
    await trio.sleep(2.5)
    document = session.document()
    assert document.session_id == "s"
    assert document.epoch == session.epoch
    assert document.subscribers == 1
    assert document.last_event_id == f"{session.epoch}-4"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.created_at)
    (shown,) = document.runs
    assert (shown.request_id, shown.kind, shown.state) == ("req-1", "crawl", "running")
    assert (shown.total, shown.completed, shown.successful, shown.failed) == (4, 2, 2, 0)
    await read_all(reader)
    reader.close()
    document = session.document()
    assert (document.subscribers, document.runs[0].state) == (0, "completed")


async def test_a_new_session_has_no_last_event(autojump_clock: object, hub: Hub) -> None:
    assert hub.open_session("new").document().last_event_id is None


async def test_finished_runs_are_listed_up_to_their_limit(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(max_finished_runs=3)) as hub:
        for name in "abcde":
            session = await finished(hub, SmallJob(name))
        assert list(session.runs) == ["c", "d", "e"]


async def test_a_reader_of_an_unknown_run_is_refused(autojump_clock: object, hub: Hub) -> None:
    session = await finished(hub, SmallJob())
    with pytest.raises(NotFoundError):
        session.subscribe(spec(request_id="nobody"))
    assert not session.subscribers
