"""The hub: sessions by id, retention, refusal, draining, and that nothing is left."""

import gc
import weakref
from math import inf
from typing import Any

import pytest
import trio
import trio.testing
from mesh_support import SmallJob, indexes, read_all, spec, tags

from eventmesh_trio.errors import OverloadedError, RateLimited
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.lifecycle import State
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.wire.events import Summary


async def crawl(hub: Hub, session_id: str | None, job: SmallJob | None = None) -> Session:
    session = hub.open_session(session_id)
    _, reader = hub.start_run(
        session, job or SmallJob(), request_id="req-1", reader=spec(request_id="req-1")
    )
    assert reader is not None
    await read_all(reader)
    reader.close()
    return session


async def test_a_session_is_got_or_made(autojump_clock: object, hub: Hub) -> None:
    chosen = hub.open_session("mine")
    assert hub.open_session("mine") is chosen is hub.find("mine")
    assert chosen.chosen
    made = hub.open_session()
    assert not made.chosen
    assert hub.sessions[made.session_id] is made
    assert hub.open_session() is not made
    assert hub.find("unknown") is None


async def test_waiting_for_a_session_returns_when_its_run_has_started(
    autojump_clock: object, hub: Hub
) -> None:
    async with trio.open_nursery() as nursery:
        found: list[Any] = []

        async def wait() -> None:
            session = await hub.wait_session("s")
            found.append((session, indexes(await read_all(session.subscribe(spec())))))

        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        session = hub.open_session("s")
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        hub.start_run(session, SmallJob(nap=1), request_id="req-1")
    assert found == [(session, [0, 1, 2])] * 3
    assert await hub.wait_session("s") is session


async def test_giving_up_to_wait_for_a_session_leaves_nothing(
    autojump_clock: object, hub: Hub
) -> None:
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(hub.wait_session, "never")
    assert not hub._awaited


async def test_a_hub_that_waits_for_nothing_has_no_timer() -> None:
    async with open_hub(MeshLimits(retention_seconds=0, attach_wait_seconds=500)) as hub:
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf
        hub.open_session("s")  # forgotten unless something begins in it
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline < 501
        await crawl(hub, "s")
        assert not hub.sessions
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf


async def test_a_finished_session_is_kept_for_retention_and_then_forgotten_entirely(
    autojump_clock: object, hub: Hub
) -> None:
    session = await crawl(hub, "s")
    await trio.sleep(299)
    assert hub.find("s") is session
    gone = [weakref.ref(thing) for thing in (session, session.log, *session.runs.values())]
    del session
    await trio.sleep(2)
    assert hub.find("s") is None
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


async def test_a_subscriber_that_has_left_is_not_kept(autojump_clock: object, hub: Hub) -> None:
    session = hub.open_session("s")
    _, reader = hub.start_run(
        session, SmallJob(), request_id="req-1", reader=spec(request_id="req-1")
    )
    assert reader is not None
    await read_all(reader)
    gone = weakref.ref(reader)
    reader.close()
    del reader
    gc.collect()
    assert gone() is None


async def test_a_replay_begins_the_retention_anew(autojump_clock: object, hub: Hub) -> None:
    session = await crawl(hub, "s")
    await trio.sleep(200)
    reader = session.subscribe(spec())
    await trio.sleep(1000)
    assert hub.find("s") is session
    reader.close()
    await trio.sleep(299)
    assert hub.find("s") is session
    await trio.sleep(2)
    assert hub.find("s") is None


async def test_with_no_retention_a_finished_session_is_forgotten_at_once(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(retention_seconds=0)) as hub:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            await crawl(hub, None)
        await trio.testing.wait_all_tasks_blocked()
        assert not hub.sessions
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_session_in_which_nothing_begins_is_forgotten_after_a_moment(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    await trio.sleep(4)
    assert hub.find("s") is session
    await trio.sleep(2)
    assert hub.find("s") is None
    # Who still holds it may begin all the same.
    await_reader = session.subscribe(spec(until="never"))
    assert hub.find("s") is session
    await trio.sleep(1000)
    assert hub.find("s") is session
    await_reader.close()


async def test_kept_sessions_give_way_to_new_ones_and_live_ones_do_not(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(max_sessions=2)) as hub:
        await crawl(hub, "first")
        await crawl(hub, "second")
        hub.start_run(hub.open_session("third"), SmallJob(nap=1), request_id="a")
        assert list(hub.sessions) == ["second", "third"]
        hub.start_run(hub.open_session("fourth"), SmallJob(nap=1), request_id="a")
        with pytest.raises(OverloadedError) as caught:
            hub.open_session("fifth")
        assert caught.value.retry_after_seconds is not None
        assert hub.open_session("third") is hub.find("third")


async def test_kept_sessions_hold_max_retained_bytes_together(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(max_retained_bytes=100_000)) as hub:
        for index in range(5):
            await crawl(hub, f"s{index}", SmallJob(total=10, text="x" * 1500))
            kept = sum(session.log.kept_bytes for session in hub.sessions.values())
            assert kept <= 100_000
        assert list(hub.sessions) == ["s3", "s4"]


async def test_a_session_has_at_most_max_live_runs(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(max_runs_per_session=2)) as hub:
        session = hub.open_session("s")
        reader = session.subscribe(spec())
        for name in "ab":
            hub.start_run(session, SmallJob(name, nap=1), request_id=name)
        with pytest.raises(RateLimited):
            hub.start_run(session, SmallJob("c"), request_id="c")
        await read_all(reader)
        hub.start_run(session, SmallJob("c"), request_id="c")


async def test_the_first_reader_must_be_of_that_run(autojump_clock: object, hub: Hub) -> None:
    session = hub.open_session("s")
    with pytest.raises(ValueError, match="another run"):
        hub.start_run(session, SmallJob(), request_id="a", reader=spec(request_id="b"))
    assert not session.runs


async def test_draining_ends_every_run_with_its_summary_and_refuses_new_ones(
    autojump_clock: object, hub: Hub
) -> None:
    sessions = [hub.open_session(f"s{index}") for index in range(50)]
    readers = []
    for session in sessions:
        _, reader = hub.start_run(
            session, SmallJob(nap=1, total=100), request_id="a", reader=spec(request_id="a")
        )
        readers.append(reader)
    sessions[0].runs["a"].pause()
    await trio.sleep(3.5)
    await hub.drain()
    for session, reader in zip(sessions, readers, strict=True):
        assert session.runs["a"].state is State.CANCELLED
        summary = session.log.event(session.log.top)
        assert isinstance(summary, Summary)
        assert (summary.status, summary.reason) == ("cancelled", "shutdown")
        assert reader is not None
        assert tags(await read_all(reader))[-1] == "summary"
    assert hub.draining
    with pytest.raises(OverloadedError):
        hub.open_session("new")
    with pytest.raises(OverloadedError):
        hub.start_run(sessions[0], SmallJob(), request_id="b")
    assert hub.open_session("s0") is sessions[0]  # to read to the end


async def test_leaving_the_hub_ends_runs_and_then_readers(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        events: list[Any] = []

        async def read(reader: Any) -> None:
            events.extend(await read_all(reader))

        async with open_hub() as hub:
            session = hub.open_session("s")
            nursery.start_soon(read, session.subscribe(spec(until="never")))
            hub.start_run(session, SmallJob(nap=1, total=100), request_id="req-1")
            await trio.sleep(2.5)
    assert tags(events)[-1] == "summary"
    assert tags(events).count("result") == 2


async def test_nothing_is_left_after_the_last_reader_of_many_has_gone(
    autojump_clock: object, hub: Hub
) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    readers = []
    for _ in range(100):
        _, reader = hub.start_run(
            hub.open_session(), SmallJob(nap=1, total=100), request_id="a", reader=spec()
        )
        readers.append(reader)
    await trio.sleep(5)
    assert trio.lowlevel.current_statistics().tasks_living == before + 100
    for reader in readers:
        assert reader is not None
        reader.close(keep_place=True)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert hub.census.snapshot().active_runs == 0
    assert hub.census.snapshot().active_connections == 0
    assert not hub._lingering


async def test_a_run_without_a_reader_goes_as_far_as_the_place_that_is_held_for_one(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    hub.start_run(session, SmallJob(total=100), request_id="req-1", held_capacity=10)
    await trio.testing.wait_all_tasks_blocked()
    assert session.log.top == 10


async def test_a_run_that_was_started_without_a_reader_waits_for_its_first_even_where_none_lingers(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(linger_seconds=0, attach_wait_seconds=5)) as hub:
        session = hub.open_session("s")
        run, _ = hub.start_run(session, SmallJob(total=100), request_id="req-1", held_capacity=10)
        await trio.sleep(4)
        assert run.live
        async with session.subscribe(spec()) as reader:
            assert len(indexes(await read_all(reader))) == 100
        late, _ = hub.start_run(
            hub.open_session("t"), SmallJob(total=100), request_id="req-1", held_capacity=10
        )
        await trio.sleep(6)
        assert (late.live, late.reason) == (False, "abandoned")
        assert hub._next_deadline() > trio.current_time()
