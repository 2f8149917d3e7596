"""What a reader's own members tell of it: its losses, its window, its time to the first byte."""

from typing import Any

import pytest
import trio
from msgspec import UNSET

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import BufferStatistics, Event, Gap, Metadata, Summary
from tests.mesh.mesh_support import SmallJob, read_all, spec


async def events_of(reader: Subscriber) -> list[Event]:
    return [event async for event in reader]


def statistics_of(events: list[Event]) -> BufferStatistics:
    summary = events[-1]
    assert isinstance(summary, Summary)
    assert summary.buffer_statistics is not UNSET
    return summary.buffer_statistics


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest"])
async def test_a_summary_counts_what_its_lossy_reader_lost_and_nobody_elses_does(
    autojump_clock: object, hub: Hub, strategy: Any
) -> None:
    session = hub.open_session()
    _, good = hub.start_run(
        session, SmallJob(total=500), request_id="req-1", reader=spec(request_id="req-1")
    )
    assert good is not None
    lossy = session.subscribe(spec(request_id="req-1", strategy=strategy, capacity=100))
    first = await lossy.receive()
    assert isinstance(first, Metadata)
    kept = await events_of(good)
    lost = await events_of(lossy)
    assert statistics_of(kept).messages_dropped == 0
    gaps = [event for event in lost if isinstance(event, Gap)]
    missing = 0
    for gap in gaps:
        assert gap.missing_from is not None
        assert gap.missing_to is not None
        missing += gap.missing_to - gap.missing_from + 1
    assert statistics_of(lost).messages_dropped == missing > 300
    assert hub.census.snapshot().total_messages_dropped == missing
    status = hub.census.system_status()
    assert status.streaming_health.status == "critical"
    assert status.streaming_health.issues[0].startswith("Events dropped for slow readers: ")


@pytest.mark.parametrize(("run_nap", "reader_nap", "grows"), [(0.01, 0, False), (0, 0.02, True)])
async def test_a_window_grows_where_a_run_waits_for_it_and_only_there(
    autojump_clock: object, hub: Hub, run_nap: float, reader_nap: float, grows: bool
) -> None:
    job = SmallJob(total=600, nap=run_nap)
    own = spec(request_id="req-1", capacity=64, batch_bytes=4096)
    _, reader = hub.start_run(hub.open_session(), job, request_id="req-1", reader=own)
    assert reader is not None
    await read_all(reader, nap=reader_nap)
    statistics = reader.statistics()
    assert (statistics.resizes > 0) is grows
    assert (statistics.capacity > 64) is grows
    assert (statistics.peak_utilization > 0.9) is grows


async def test_the_time_to_first_byte_is_in_a_summary_that_goes_out_with_it(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    run, _ = hub.start_run(session, SmallJob(), request_id="req-1")
    await run.wait_ended()
    asked = trio.current_time()
    await trio.sleep(0.25)  # until its handler came to it
    reader = session.subscribe(spec(requested_at=asked))
    summary = (await events_of(reader))[-1]
    assert isinstance(summary, Summary)
    assert summary.performance_summary.ttfb_ms == pytest.approx(250)
