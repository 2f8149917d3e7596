"""The lifecycle channel: what a program that watches a hub is told, and what that may cost."""

import gc
import random
import weakref
from itertools import pairwise
from typing import get_args

import pytest
import trio

from eventmesh_trio.errors import BackpressureExceeded, ParseFailure
from eventmesh_trio.mesh import observers
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.lifecycle_events import (
    ConnectionClosed,
    ConnectionEstablished,
    LifecycleEvent,
    ProgressUpdate,
    StreamCompleted,
    StreamError,
    StreamStarted,
)
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.observers import LifecycleChannel, Loss
from tests.mesh.mesh_support import SmallJob, read_all, spec


def names(events: list[LifecycleEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


async def drained(channel: LifecycleChannel) -> list[LifecycleEvent]:
    """All that can be received without waiting."""
    events = []
    with trio.move_on_after(0.001):
        while True:
            events.append(await channel.receive())
    return events


async def test_a_run_with_a_reader_is_told_from_its_connection_to_its_end(
    hub: Hub, autojump_clock: object
) -> None:
    async with hub.open_lifecycle() as channel:
        session = hub.open_session("s1")
        reader_spec = spec(request_id="r1", connection_id="conn-1", protocol="sse")
        run, reader = hub.start_run(
            session, SmallJob("r1", total=3, nap=1.0), request_id="r1", reader=reader_spec
        )
        assert reader is not None
        events: list[LifecycleEvent] = []

        async def watch() -> None:
            while True:
                events.append(await channel.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await read_all(reader, nap=0.5)
            reader.close()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert names(events) == [
        "ConnectionEstablished",
        "StreamStarted",
        *(["ProgressUpdate"] * 2),  # with the third result the run has ended, and says all
        "StreamCompleted",
        "ConnectionClosed",
    ]
    opened, started, first, second, completed, closed = events
    assert isinstance(opened, ConnectionEstablished)
    assert (opened.connection_id, opened.protocol) == ("conn-1", "sse")
    assert (opened.session_id, opened.request_id) == ("s1", "r1")
    assert isinstance(started, StreamStarted)
    assert (started.request_id, started.total_items) == ("r1", 3)
    assert isinstance(first, ProgressUpdate)
    assert isinstance(second, ProgressUpdate)
    assert [(e.completed, e.total) for e in (first, second)] == [(1, 3), (2, 3)]
    assert isinstance(completed, StreamCompleted)
    assert (completed.summary.status, completed.summary.successful) == ("completed", 3)
    assert run.status == "completed"
    assert isinstance(closed, ConnectionClosed)
    statistics = reader.statistics()
    assert (closed.bytes_sent, closed.messages_sent) == (
        statistics.bytes_sent,
        statistics.messages_sent,
    )
    assert closed.duration_seconds >= 3
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_a_run_that_fails_is_an_error_and_then_its_end(
    hub: Hub, autojump_clock: object
) -> None:
    async with hub.open_lifecycle() as channel:
        job = SmallJob("r1", fail_at=1, failure=ParseFailure("no page can be read"))
        run, _ = hub.start_run(hub.open_session(), job, request_id="r1")
        await run.wait_ended()
        _, error, completed = [
            e for e in await drained(channel) if not isinstance(e, ProgressUpdate)
        ]
    assert isinstance(error, StreamError)
    assert (error.request_id, error.connection_id) == ("r1", None)
    assert (error.error, error.error_type) == ("no page can be read", "parse_error")
    assert error.recoverable is False
    assert isinstance(completed, StreamCompleted)
    assert completed.summary.status == "failed"


async def test_a_reader_that_is_cut_off_is_an_error_and_then_its_leaving(
    hub: Hub, autojump_clock: object
) -> None:
    session = hub.open_session("s1")
    reader = session.subscribe(spec(until="never", connection_id="conn-7"))
    async with hub.open_lifecycle() as channel:
        reader.cut_off(BackpressureExceeded("nothing was read"))
        error, closed = await drained(channel)
    assert isinstance(error, StreamError)
    assert (error.connection_id, error.request_id) == ("conn-7", None)
    assert (error.error_type, error.recoverable) == ("backpressure_exceeded", False)
    assert isinstance(closed, ConnectionClosed)
    assert closed.connection_id == "conn-7"
    assert channel.statistics().received == 2


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_full_channel_loses_what_it_says_counts_it_and_holds_nobody_up(
    hub: Hub, autojump_clock: object, overflow: Loss
) -> None:
    started = trio.current_time()
    async with hub.open_lifecycle(capacity=4, overflow=overflow) as channel:
        for number in range(10):
            request_id = f"r{number}"
            job = SmallJob(request_id, total=1)
            run, _ = hub.start_run(hub.open_session(), job, request_id=request_id)
            await run.wait_ended()
        statistics = channel.statistics()
        assert (statistics.capacity, statistics.used, statistics.dropped) == (4, 4, 16)
        kept = [
            event.request_id
            for event in await drained(channel)
            if isinstance(event, (StreamStarted, StreamCompleted))
        ]
        assert channel.statistics().used == 0
        assert channel.statistics().received == 4
    expected = ["r8", "r8", "r9", "r9"] if overflow == "drop_oldest" else ["r0", "r0", "r1", "r1"]
    assert kept == expected
    assert trio.current_time() - started < 0.1


async def test_progress_is_told_at_most_once_an_interval_and_is_the_newest_then(
    hub: Hub, autojump_clock: object
) -> None:
    async with hub.open_lifecycle(progress_interval_seconds=0.2) as channel:
        hub.start_run(hub.open_session(), SmallJob("r1", total=200, nap=0.01), request_id="r1")
        seen: list[tuple[float, int]] = []
        async for event in channel:
            if isinstance(event, ProgressUpdate):
                seen.append((trio.current_time(), event.completed))
            elif isinstance(event, StreamCompleted):
                break
    assert 9 <= len(seen) <= 11
    assert all(after - before >= 0.199 for (before, _), (after, _) in pairwise(seen))
    for (before, one), (after, other) in pairwise(seen):
        assert other - one == pytest.approx((after - before) * 100, abs=2)


async def test_progress_of_all_runs_is_told_in_turn_and_takes_no_place_in_the_channel(
    hub: Hub, autojump_clock: object
) -> None:
    async with hub.open_lifecycle(capacity=40, progress_interval_seconds=1.0) as channel:
        for number in range(20):
            request_id = f"r{number}"
            hub.start_run(
                hub.open_session(), SmallJob(request_id, total=50, nap=0.1), request_id=request_id
            )
        told: dict[str, int] = {}
        ended = 0
        while ended < 20:
            event = await channel.receive()
            if isinstance(event, ProgressUpdate):
                told[event.request_id] = told.get(event.request_id, 0) + 1
            ended += isinstance(event, StreamCompleted)
        assert channel.statistics().dropped == 0
    assert len(told) == 20
    assert all(4 <= count <= 6 for count in told.values())


async def test_a_run_that_stands_still_wakes_nobody(hub: Hub, autojump_clock: object) -> None:
    steps = 0

    class Steps(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task.name.endswith("watch")

    async with hub.open_lifecycle() as channel:
        run, _ = hub.start_run(
            hub.open_session("s"), SmallJob("r1", total=2, nap=0.01), request_id="r1"
        )

        async def watch() -> None:
            async for _ in channel:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.sleep(0.015)
            run.pause()
            await trio.sleep(1)
            trio.lowlevel.add_instrument(instrument := Steps())
            await trio.sleep(20)
            trio.lowlevel.remove_instrument(instrument)
            run.cancel()
            nursery.cancel_scope.cancel()
    assert steps == 0


async def test_nothing_is_made_where_nobody_watches(
    hub: Hub, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("an event was made for nobody")

    for event in get_args(LifecycleEvent):
        monkeypatch.setattr(observers, event.__name__, refuse)
    session = hub.open_session()
    run, reader = hub.start_run(
        session, SmallJob("r1"), request_id="r1", reader=spec(request_id="r1")
    )
    assert reader is not None
    await read_all(reader)
    reader.close()
    assert run.status == "completed"
    assert not session.log.sleepers


async def test_the_channel_ends_when_the_hub_has_and_tells_first_how_its_runs_did(
    autojump_clock: object,
) -> None:
    events: list[LifecycleEvent] = []

    async def watch(channel: LifecycleChannel) -> None:
        async with channel:
            events.extend([event async for event in channel])

    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            nursery.start_soon(watch, hub.open_lifecycle())
            hub.start_run(hub.open_session(), SmallJob("r1", total=9, nap=9.0), request_id="r1")
            await trio.sleep(1)
    assert names(events) == ["StreamStarted", "StreamCompleted"]
    assert isinstance(events[1], StreamCompleted)
    assert (events[1].summary.status, events[1].summary.reason) == ("cancelled", "shutdown")


async def test_a_channel_of_a_hub_that_has_ended_is_empty() -> None:
    async with open_hub() as hub:
        pass
    async with hub.open_lifecycle() as channel:
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()


async def test_a_cancelled_receive_loses_nothing(hub: Hub, autojump_clock: object) -> None:
    async with hub.open_lifecycle() as channel:
        with trio.move_on_after(1) as scope:
            await channel.receive()
        assert scope.cancelled_caught
        hub.open_session("s").subscribe(spec(until="never")).close()
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.receive()
        assert names(await drained(channel)) == ["ConnectionEstablished", "ConnectionClosed"]


async def test_a_channel_has_one_receiver_and_ends_it_when_it_is_closed(hub: Hub) -> None:
    channel = hub.open_lifecycle()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await channel.receive()
        channel.close()
    channel.close()
    with pytest.raises(trio.ClosedResourceError):
        await channel.receive()


@pytest.mark.parametrize(
    "wrong", [{"capacity": 0}, {"capacity": -1}, {"progress_interval_seconds": 0}]
)
async def test_a_channel_that_could_not_work_is_refused(hub: Hub, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        hub.open_lifecycle(**wrong)  # type: ignore[arg-type]


async def test_nothing_is_left_of_a_closed_channel_and_no_run_is_kept_by_an_open_one(
    hub: Hub, autojump_clock: object
) -> None:
    channel = hub.open_lifecycle()
    run, _ = hub.start_run(hub.open_session("s"), SmallJob("r1", nap=1.0), request_id="r1")
    with trio.move_on_after(1.5):
        async for _ in channel:
            pass
    session = hub.find("s")
    assert session is not None
    assert channel in session.log.sleepers
    channel.close()
    assert channel not in session.log.sleepers
    kept = hub.open_lifecycle()
    await run.wait_ended()
    await drained(kept)
    gone, seen = weakref.ref(channel), weakref.ref(run)
    del channel, run, session
    await trio.sleep(hub.limits.retention_seconds + hub.limits.linger_seconds)
    gc.collect()
    assert gone() is None
    assert seen() is None
    kept.close()


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 20))]
)
async def test_whatever_happens_each_observer_is_told_in_order_and_every_loss_is_counted(
    autojump_clock: object, seed: int
) -> None:
    rng = random.Random(seed)
    limits = MeshLimits(linger_seconds=0.5, retention_seconds=1.0, stall_seconds=3.0)

    async def watch(channel: LifecycleChannel, nap: float) -> None:
        stage: dict[str, str] = {}
        async with channel:
            async for event in channel:
                if isinstance(event, StreamStarted):
                    assert event.request_id not in stage
                    stage[event.request_id] = "live"
                elif isinstance(event, ProgressUpdate):
                    # Its start may be lost; its end is never told before.
                    assert stage.get(event.request_id, "live") == "live"
                elif isinstance(event, StreamCompleted):
                    stage[event.request_id] = "ended"
                await trio.sleep(nap)
            statistics = channel.statistics()
        told.append((statistics.dropped, stage))

    async def client(number: int) -> None:
        await trio.sleep(rng.random() * 3)
        request_id = f"r{number}"
        job = SmallJob(request_id, total=rng.randrange(1, 40), nap=rng.random() * 0.2)
        own = spec(request_id=request_id) if rng.random() < 0.8 else None
        session = hub.open_session(f"s{rng.randrange(6)}")
        run, reader = hub.start_run(session, job, request_id=request_id, reader=own)
        with trio.move_on_after(rng.random() * 4):
            if reader is not None:
                await read_all(reader, nap=rng.random() * 0.1)
        if rng.random() < 0.3:
            run.pause()
        if rng.random() < 0.3:
            run.cancel()
        if reader is not None:
            reader.close(keep_place=rng.random() < 0.5)

    told: list[tuple[int, dict[str, str]]] = []
    async with trio.open_nursery() as watchers:
        async with open_hub(limits) as hub:
            for capacity, nap in ((1000, 0.0), (3, 0.05), (1, 1.0)):
                watchers.start_soon(watch, hub.open_lifecycle(capacity=capacity), nap)
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(client, number)
    assert len(told) == 3
    complete = [stage for dropped, stage in told if not dropped]
    assert complete
    for stage in complete:
        assert stage == {f"r{number}": "ended" for number in range(30)}
    assert any(dropped for dropped, _ in told)
