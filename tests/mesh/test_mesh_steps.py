"""Steps: who stands where another reader stood takes its batch as it is, if nothing else is due."""

from itertools import pairwise
from typing import Any

import pytest
import trio
from mesh_support import SmallJob, parsed, read_batch, result_event, spec, tags

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Batch, Subscriber
from eventmesh_trio.wire.encoders import HTTPEncoder

NDJSON = HTTPEncoder("ndjson")


def stands_by(hub: Hub) -> tuple[Session, Run]:
    """A run that publishes nothing by itself, and its session."""
    session = hub.open_session("s")
    run, _ = hub.start_run(session, SmallJob(holds=trio.Event()), request_id="req-1", reader=None)
    return session, run


async def caught_up(session: Session, **settings: object) -> Subscriber:
    """A reader that has read everything there is, and is told of no progress as a rule."""
    settings.setdefault("progress", False)
    reader = session.subscribe(spec(**{"encoder_for": lambda _: NDJSON, **settings}), after=0)
    batch = await take(reader)
    while reader.read_seq < session.log.top:
        batch = await take(reader)
    assert batch.events
    return reader


async def take(reader: Subscriber) -> Batch:
    batch = await reader.receive_batch()
    reader.sent(batch.events, batch.nbytes, 0.0)
    return batch


def publish(session: Session, run: Run, *indexes: int) -> None:
    for index in indexes:
        session.log.append(run.track, result_event(run.request_id, index, 100))


def events_of(batch: Batch) -> list[dict[str, Any]]:
    return parsed(b"".join(batch.pieces).splitlines())


def found(batch: Batch) -> list[int]:
    return [event["index"] for event in events_of(batch) if event["event"] == "result"]


def kinds_of(batch: Batch) -> list[str]:
    return tags(events_of(batch))


async def one_each(session: Session, run: Run, readers: list[Subscriber]) -> None:
    """A first event: from then on each knows whose events it takes."""
    publish(session, run, 0)
    for reader in readers:
        assert found(await take(reader)) == [0]


async def level(hub: Hub, *wishes: dict[str, Any]) -> tuple[Session, Run, list[Subscriber]]:
    """A run that publishes nothing by itself, and a reader of each wishes; all stand level."""
    session, run = stands_by(hub)
    readers = [await caught_up(session, **settings) for settings in wishes]
    await one_each(session, run, readers)
    return session, run, readers


@pytest.mark.parametrize("events", [1, 3, 20])
async def test_readers_that_keep_up_are_handed_one_and_the_same_batch(
    autojump_clock: object, hub: Hub, events: int
) -> None:
    session, run, readers = await level(hub, {}, {}, {}, {})
    publish(session, run, *range(events))
    first, *others = [await take(reader) for reader in readers]
    assert found(first) == list(range(events))
    assert all(batch is first for batch in others)
    for reader in readers:
        assert reader.read_seq == session.log.top
        statistics = reader.statistics()
        assert (statistics.used, statistics.pending) == (0, 0)
        opening = 2
        assert statistics.peak_utilization == max(events, opening) / statistics.capacity


async def test_a_run_waits_for_who_took_a_step_as_for_any_other(
    autojump_clock: object, hub: Hub
) -> None:
    small = {"capacity": 4, "min_capacity": 4, "adaptive": False}
    session, run, readers = await level(hub, small, small)
    publish(session, run, 1, 2, 3, 4)
    assert not session.log.has_room(run.track)
    batches = [await reader.receive_batch() for reader in readers]
    assert batches[0] is batches[1]
    assert not session.log.has_room(run.track)  # taken, but not yet read
    for reader, batch in zip(readers, batches, strict=True):
        reader.sent(batch.events, batch.nbytes, 0.0)
    assert session.log.has_room(run.track)


async def test_a_notice_goes_before_what_others_were_given(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, (first, second) = await level(hub, {}, {})
    publish(session, run, 1)
    second.post_nowait(b'{"event":"notice"}\n')
    assert tags(parsed([*(await take(first)).pieces])) == ["result"]
    assert kinds_of(await take(second)) == ["notice", "result"]


async def test_progress_that_is_due_comes_with_what_others_were_given_without_it(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    first = await caught_up(session)
    second = await caught_up(session, progress=True, flush_interval_seconds=0.05)
    kinds = []
    for index in range(100):
        publish(session, run, index)
        await take(first)
        told = kinds_of(await take(second))
        assert told[0] == "result"
        kinds += told
        await trio.sleep(0.01)
    assert kinds.count("result") == 100
    assert 16 <= kinds.count("progress") <= 21  # one in 0.05 s and no less: an event is each 0.01


async def test_progress_that_is_left_over_wakes_who_took_only_steps_since(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    first = await caught_up(session)
    second = await caught_up(session, progress=True, flush_interval_seconds=0.05)
    publish(session, run, 0)
    await take(first)
    await take(second)
    told_at = trio.current_time()
    for index in (1, 2):
        await trio.sleep(0.01)
        publish(session, run, index)
        batches = [await take(first), await take(second)]
    assert batches[0] is batches[1]
    assert kinds_of(await take(second)) == ["progress"]
    assert trio.current_time() == pytest.approx(told_at + 0.05)


async def test_no_reader_of_one_run_is_given_anothers(autojump_clock: object, hub: Hub) -> None:
    session, run = stands_by(hub)
    other, _ = hub.start_run(
        session, SmallJob("req-2", holds=trio.Event()), request_id="req-2", reader=None
    )
    mine = {"until": "run", "request_id": "req-1"}
    everything = [await caught_up(session) for _ in range(2)]
    alone = await caught_up(session, **mine)
    publish(session, other, 7)
    publish(session, run, 1)
    publish(session, other, 8)
    seen = [found(await take(reader)) for reader in everything]
    assert seen == [[7, 1, 8]] * 2
    assert found(await take(alone)) == [1]
    publish(session, other, 9)
    for reader in everything:
        assert found(await take(reader)) == [9]
    publish(session, run, 2)
    for reader in everything:
        assert found(await take(reader)) == [2]
    assert found(await take(alone)) == [2]


async def test_a_reader_that_asked_for_smaller_batches_gets_them(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, (first, second, small, few) = await level(
        hub, {}, {}, {"batch_bytes": 3000}, {"batch_events": 2}
    )
    publish(session, run, *range(1, 20))
    assert await take(first) is await take(second)
    batch = await take(small)
    assert 0 < batch.nbytes <= 3000
    assert len(found(await take(few))) == 2


async def test_a_lossy_reader_that_lags_loses_what_it_would_have_lost(
    autojump_clock: object, hub: Hub
) -> None:
    loses = {"capacity": 4, "min_capacity": 4, "adaptive": False, "strategy": "drop_oldest"}
    session, run, (keeps_up, *lossy) = await level(hub, {"capacity": 256}, loses, loses)
    publish(session, run, 1, 2, 3)
    steps = [await take(reader) for reader in (keeps_up, *lossy)]
    assert steps[0] is steps[1] is steps[2]
    publish(session, run, *range(4, 14))
    assert found(await take(keeps_up)) == list(range(4, 14))
    for reader in lossy:
        assert found(await take(reader)) == list(range(10, 14))
        assert reader.statistics().dropped == 6


async def test_a_warning_that_is_due_comes_before_a_step_is_taken(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, (first, second) = await level(hub, {}, {"capacity": 8, "min_capacity": 8})
    publish(session, run, *range(1, 9))
    assert found(await take(first)) == list(range(1, 9))
    kinds = kinds_of(await take(second))
    assert kinds.count("backpressure_warning") == 1
    assert kinds.count("result") == 8


async def test_what_memory_has_no_room_for_is_gathered_anew(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, readers = await level(hub, {}, {})
    publish(session, run, 1)
    first = await take(readers[0])
    session.log.shrink()
    assert not session.log.shares.steps
    second = await take(readers[1])
    assert second is not first
    assert second.pieces == first.pieces


async def test_an_only_reader_leaves_no_step_behind(autojump_clock: object, hub: Hub) -> None:
    session, run = stands_by(hub)
    reader = await caught_up(session)
    publish(session, run, 1)
    assert found(await take(reader)) == [1]
    assert not session.log.shares.steps


async def test_all_that_readers_of_any_kind_are_given_is_whole_and_in_order(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    readers = [
        await caught_up(session, progress=index % 2 == 0, batch_bytes=2000 * (1 + index % 5))
        for index in range(10)
    ]
    seen: dict[int, list[int]] = {index: [] for index in range(10)}

    async def read(index: int) -> None:
        while len(seen[index]) < 400:
            seen[index] += found(await take(readers[index]))
            if index % 3 == 0:
                await trio.sleep(0.001 * index)

    async with trio.open_nursery() as nursery:
        for index in range(10):
            nursery.start_soon(read, index)
        for number in range(400):
            publish(session, run, number)
            if number % 7 in (0, 1, 4):
                await trio.sleep(0.001)
    assert all(indexes == list(range(400)) for indexes in seen.values())


async def test_a_run_that_ends_is_told_to_who_took_only_steps(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    job = SmallJob(total=30, nap=0.01)
    hub.start_run(session, job, request_id="req-1", reader=None)
    readers = [session.subscribe(spec(progress=False), after=0) for _ in range(3)]
    streams: list[list[str]] = [[] for _ in readers]

    async def read(index: int) -> None:
        while True:
            try:
                streams[index] += tags(await read_batch(readers[index]))
            except trio.EndOfChannel:
                return

    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(read, index)
    assert streams == [["metadata", "start", *["result"] * 30, "summary"]] * 3


# --- Turns: when each of many readers is told of progress -----------------------------------------


async def told_at(
    session: Session, run: Run, readers: list[Subscriber], until: float
) -> list[float]:
    """When each reader is told of progress for the second time."""
    seen: list[list[float]] = [[] for _ in readers]

    async def read(index: int) -> None:
        while len(seen[index]) < 2:
            if "progress" in kinds_of(await take(readers[index])):
                seen[index].append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for index in range(len(readers)):
            nursery.start_soon(read, index)
        began = trio.current_time()
        number = 0
        while trio.current_time() < began + until:
            publish(session, run, number)
            number += 1
            await trio.sleep(0.0001)
    assert all(first == began for first, _ in seen)
    return [second - began for _, second in seen]


async def test_many_readers_are_told_of_progress_one_after_the_other(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    readers = [
        await caught_up(session, progress=True, flush_interval_seconds=0.05) for _ in range(20)
    ]
    moments = sorted(await told_at(session, run, readers, 0.08))
    assert moments[0] == pytest.approx(0.05, abs=0.0002)
    assert moments[-1] <= 0.05 * 1.5 + 0.0002
    apart = [later - sooner for sooner, later in pairwise(moments)]
    assert min(apart) > 0.0005


async def test_who_is_told_seldom_delays_nobody_who_is_told_often(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    seldom = await caught_up(session, progress=True, flush_interval_seconds=5.0)
    often = await caught_up(session, progress=True, flush_interval_seconds=0.05)
    publish(session, run, 0)
    await take(seldom)
    await take(often)
    told = trio.current_time()
    await trio.sleep(0.01)
    publish(session, run, 1)
    await take(often)
    assert kinds_of(await take(often)) == ["progress"]
    assert 0.05 <= trio.current_time() - told <= 0.075


async def test_no_more_than_the_last_steps_are_kept_and_none_that_memory_was_taken_from(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    reader, _ = [await caught_up(session, capacity=1000, max_capacity=1000) for _ in range(2)]
    await one_each(session, run, [reader])
    shares = session.log.shares
    for index in range(1, 20):
        publish(session, run, index)
        await take(reader)
    assert [step.start for step in shares.steps.values()] == list(range(15, 23))
    for index in range(20, 220):
        session.log.append(run.track, result_event("req-1", index, 300, "x" * 4000))
    while reader.read_seq < session.log.top:
        await take(reader)
    held = {id(share.data) for share in shares._kept.values()}
    joined = [step for step in shares.steps.values() if step.taken > 1]
    assert len(joined) > 1
    assert shares.nbytes <= 512 * 1024
    assert all(id(step.batch.pieces[0]) in held for step in joined)


async def test_a_reader_that_lags_takes_steps_and_is_told_of_progress_as_seldom_as_ever(
    autojump_clock: object, hub: Hub
) -> None:
    session, run = stands_by(hub)
    first = await caught_up(session, batch_events=1, capacity=1000)
    wanted = {"progress": True, "flush_interval_seconds": 0.05, "buffer_timeout_ms": 2000.0}
    second = await caught_up(session, batch_events=1, capacity=1000, adaptive=False, **wanted)
    publish(session, run, *range(200))
    shared, told = 0, []
    for index in range(200):
        batch, other = await take(first), await take(second)
        shared += batch is other
        kinds = kinds_of(other)
        assert kinds.count("result") == 1
        if "progress" in kinds:
            told.append(index)
        await trio.sleep(0.0505)
        run.track.version += 1  # as `Publisher.touch`: there is news all the time
    assert told == [0, 40, 80, 120, 160, 199]  # each 2 s, and at once where it lags no more
    assert shared >= 190
