"""Delivery to one reader: order, batches, windows, pressure, and what is rendered for it alone."""

import itertools
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from mesh_support import (
    LineEncoder,
    SmallJob,
    indexes,
    parsed,
    read_all,
    read_batch,
    seq_of,
    spec,
    tags,
)

from eventmesh_trio.errors import BackpressureExceeded, BufferOverflow
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Event, Metadata, Progress, Result, Summary


def start(hub: Hub, job: SmallJob, session_id: str | None = "s", **settings: Any) -> Any:
    session = hub.open_session(session_id)
    settings = {"until": "run", "request_id": job.request_id, **settings}
    run, reader = hub.start_run(session, job, request_id=job.request_id, reader=spec(**settings))
    assert reader is not None
    return session, run, reader


# --- Order and batches ------------------------------------------------------------------------


async def test_metadata_is_handed_out_at_once(autojump_clock: object, hub: Hub) -> None:
    _, _, reader = start(hub, SmallJob(holds=trio.Event()))
    before = trio.current_time()
    assert tags(await read_batch(reader)) == ["metadata", "start"]
    assert trio.current_time() == before


async def test_ids_rise_by_one_through_a_run(autojump_clock: object, hub: Hub) -> None:
    session, _, reader = start(hub, SmallJob(total=20))
    events = [event for event in await read_all(reader) if event["id"]]
    assert [seq_of(event) for event in events] == list(range(1, 24))
    assert events[0]["id"].startswith(f"{session.epoch}-")


async def test_what_waits_comes_in_one_batch_bounded_by_bytes(
    autojump_clock: object, hub: Hub
) -> None:
    _, run, reader = start(hub, SmallJob(total=100), batch_bytes=1000, progress=False)
    await run.wait_ended()
    sizes = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        assert batch.nbytes <= 1000
        sizes.append(batch.events)
        reader.sent(batch.events, batch.nbytes, 0)
    assert sum(sizes) == 103
    assert max(sizes) > 5


async def batch_sizes(reader: Subscriber, writable: int) -> list[int]:
    sizes = []
    while True:
        try:
            batch = await reader.receive_batch(lambda: writable)
        except trio.EndOfChannel:
            return sizes
        sizes.append(batch.nbytes)
        reader.sent(batch.events, batch.nbytes, 0)


async def test_a_batch_of_large_events_is_larger_by_what_the_socket_takes_at_once(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=40, text="x" * 5000)
    _, run, reader = start(
        hub, job, batch_bytes=20_000, progress=False, encoder_for=lambda _: HTTPEncoder("ndjson")
    )
    await run.wait_ended()
    sizes = await batch_sizes(reader, 15_000)
    assert 30_000 < max(sizes) <= 35_000


async def test_a_batch_is_at_most_three_times_as_large_as_was_asked_for(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=40, text="x" * 5000)
    _, run, reader = start(
        hub, job, batch_bytes=20_000, progress=False, encoder_for=lambda _: HTTPEncoder("ndjson")
    )
    await run.wait_ended()
    sizes = await batch_sizes(reader, 2**20)
    assert 50_000 < max(sizes) <= 60_000


async def test_a_batch_of_small_events_is_no_larger_though_the_socket_would_take_more(
    autojump_clock: object, hub: Hub
) -> None:
    _, run, reader = start(hub, SmallJob(total=100), batch_bytes=1000, progress=False)
    await run.wait_ended()
    assert max(await batch_sizes(reader, 2**20)) <= 1000


async def test_a_batch_is_larger_where_its_events_are_encoded_for_others_too(
    autojump_clock: object, hub: Hub
) -> None:
    session, run, reader = start(hub, SmallJob(total=100), batch_bytes=1000, progress=False)
    session.subscribe(reader.spec)
    await run.wait_ended()
    assert 2000 < max(await batch_sizes(reader, 2**20)) <= 3000


async def test_one_event_larger_than_a_batch_goes_alone(autojump_clock: object, hub: Hub) -> None:
    _, run, reader = start(hub, SmallJob(total=3), batch_bytes=10, progress=False)
    await run.wait_ended()
    events = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        assert batch.events == 1
        events += parsed(batch.pieces)
    assert tags(events) == ["metadata", "start", "result", "result", "result", "summary"]


async def test_a_batch_holds_at_most_max_batch_events(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(max_batch_events=7)) as hub:
        _, run, reader = start(hub, SmallJob(total=50), progress=False)
        await run.wait_ended()
        batch = await reader.receive_batch()
        assert batch.events == 7


async def test_a_cancelled_receive_loses_and_repeats_nothing(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=30, nap=0.1))
    events = []
    while True:
        with trio.move_on_after(0.03):
            try:
                events += await read_batch(reader)
            except trio.EndOfChannel:
                break
    assert indexes(events) == list(range(30))


async def test_an_encoder_may_hide_kinds_of_events(autojump_clock: object, hub: Hub) -> None:
    class Hiding(LineEncoder):
        def encode(self, event: Event) -> bytes:
            return b"" if isinstance(event, Result) else super().encode(event)

    session, _, first = start(hub, SmallJob(total=3, nap=1))
    reader = session.subscribe(ReaderSpec(encoder_for=lambda _: Hiding(), progress=False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, first)
        assert tags(await read_all(reader)) == ["metadata", "start", "summary"]
    assert reader.statistics().messages_sent == 3


async def test_the_only_reader_gets_its_events_joined_and_two_get_the_same_bytes(
    autojump_clock: object, hub: Hub
) -> None:
    encoder = HTTPEncoder("ndjson")
    session = hub.open_session("s")
    spec = ReaderSpec(encoder_for=lambda _: encoder, progress=False, until="never")
    alone = session.subscribe(spec)
    hub.start_run(session, SmallJob(total=20), request_id="a")
    await trio.testing.wait_all_tasks_blocked()
    joined = await alone.receive_batch()
    assert (len(joined.pieces), joined.events) == (3, 23)  # metadata, the rest, summary
    readers = [session.subscribe(spec, after=0) for _ in range(2)]
    batches = [await reader.receive_batch() for reader in readers]
    for batch in batches:
        assert (len(batch.pieces), batch.events) == (3, 23)
        assert batch.pieces[1] == joined.pieces[1]
    assert batches[0].pieces[1] is batches[1].pieces[1]


async def test_a_joined_batch_is_bounded_by_bytes_but_takes_one_event_however_large(
    autojump_clock: object, hub: Hub
) -> None:
    encoder = HTTPEncoder("ndjson")
    session = hub.open_session("s")
    spec = ReaderSpec(encoder_for=lambda _: encoder, progress=False, until="never", batch_bytes=1)
    reader = session.subscribe(spec)
    hub.start_run(session, SmallJob(total=5), request_id="a")
    await trio.testing.wait_all_tasks_blocked()
    sizes = [(await reader.receive_batch()).events for _ in range(8)]
    assert sizes == [1] * 8


async def test_each_run_is_encoded_as_its_own_encoder_wants(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    encoders = {None: HTTPEncoder("sse"), "a": HTTPEncoder("ndjson"), "b": HTTPEncoder("sse")}
    reader = session.subscribe(
        ReaderSpec(
            encoder_for=lambda track: encoders[track and track.request_id],
            until="never",
            progress=False,
        )
    )
    for name in "ab":
        hub.start_run(session, SmallJob(name, nap=1), request_id=name)
    await trio.sleep(10)
    batch = await reader.receive_batch()
    written = b"".join(batch.pieces).splitlines()
    assert sum(line.startswith(b"{") for line in written) == 6
    assert sum(line.startswith(b"data: {") for line in written) == 6
    assert batch.events == 12


async def test_embedders_receive_events_with_their_ids_and_members(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, reader = start(hub, SmallJob(total=3))
    events = [event async for event in reader]
    assert [type(event).__name__ for event in events if event.id is not msgspec.UNSET] == [
        "Metadata",
        "Start",
        "Result",
        "Result",
        "Result",
        "Summary",
    ]
    assert events[0].id == f"{session.epoch}-1"
    assert isinstance(events[0], Metadata)
    assert isinstance(events[0].buffer_info, msgspec.Struct)
    assert isinstance(events[-2], Progress)
    assert isinstance(events[-1], Summary)
    assert reader.statistics().messages_sent == len(events)


async def test_a_reader_receives_either_events_or_batches(autojump_clock: object, hub: Hub) -> None:
    _, run, reader = start(hub, SmallJob(total=1))
    await run.wait_ended()
    while not isinstance(await reader.receive(), Result):
        pass
    await reader.receive()  # the last progress; the summary stands ready behind it
    with pytest.raises(RuntimeError, match="either"):
        await reader.receive_batch()


async def test_two_tasks_cannot_wait_at_once(autojump_clock: object, hub: Hub) -> None:
    reader = hub.open_session("s").subscribe(spec(until="never"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.receive_batch)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await reader.receive_batch()
        nursery.cancel_scope.cancel()


async def test_closing_wakes_a_waiting_receiver_and_is_idempotent(
    autojump_clock: object, hub: Hub
) -> None:
    reader = hub.open_session("s").subscribe(spec(until="never"))
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await reader.receive_batch()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        reader.close()
        await reader.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await reader.receive()


# --- When it ends ---------------------------------------------------------------------------------


async def test_a_post_ends_after_its_own_runs_summary_whatever_else_runs(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, mine = start(hub, SmallJob("a", total=3, nap=1))
    start(hub, SmallJob("b", total=50, nap=1))
    events = await read_all(mine)
    assert {event["request_id"] for event in events if event["id"]} == {"a"}
    assert tags(events)[-1] == "summary"
    assert trio.current_time() < 10


async def test_a_get_ends_when_no_run_is_live(autojump_clock: object, hub: Hub) -> None:
    session = hub.open_session("s")
    for name, total in (("a", 2), ("b", 5)):
        hub.start_run(session, SmallJob(name, total=total, nap=1), request_id=name)
    events = await read_all(session.subscribe(spec()))
    assert tags(events).count("summary") == 2
    assert tags(events)[-1] == "summary"


async def test_a_websocket_never_ends_by_itself_but_may_be_told_to(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, first = start(hub, SmallJob(total=1))
    reader = session.subscribe(spec(until="never"))
    await read_all(first)
    assert tags(await read_batch(reader))[-1] == "summary"
    with trio.move_on_after(1000) as scope:
        await read_batch(reader)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, reader)
        await trio.testing.wait_all_tasks_blocked()
        reader.end_when_idle()


# --- Progress -------------------------------------------------------------------------------------


async def test_no_progress_comes_before_the_first_result(autojump_clock: object, hub: Hub) -> None:
    _, _, reader = start(hub, SmallJob(total=2, nap=1))
    assert "progress" not in tags(await read_batch(reader))
    assert tags(await read_batch(reader)) == ["result", "progress"]


async def test_progress_is_coalesced_to_one_per_flush_interval_and_the_rest_is_counted(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=100, nap=0.01), flush_interval_seconds=0.1)
    events = await read_all(reader)
    count = tags(events).count("progress")
    assert 9 <= count <= 12
    assert reader.statistics().coalesced >= 100 - count
    assert [e["completed"] for e in events if e["event"] == "progress"][-1] == 100


async def test_progress_that_was_withheld_follows_when_the_interval_is_over(
    autojump_clock: object, hub: Hub
) -> None:
    gate = trio.Event()

    class TwoThenWait(SmallJob):
        async def work(self, publisher: Any) -> None:
            self.total, total = 2, self.total
            await super().work(publisher)
            self.total = total
            await gate.wait()
            await super().work(publisher)

    _, _, reader = start(hub, TwoThenWait(total=3, nap=0.001), flush_interval_seconds=0.05)
    seen = []
    with trio.move_on_after(1):
        while True:
            seen += [(trio.current_time(), tag) for tag in tags(await read_batch(reader))]
    gate.set()
    first, second = (moment for moment, tag in seen if tag == "progress")
    assert second - first == pytest.approx(0.05)


async def test_the_last_progress_stands_before_the_summary_on_replay_too(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, reader = start(hub, SmallJob(total=5))
    await read_all(reader)
    replay = await read_all(session.subscribe(spec()))
    assert tags(replay) == ["metadata", "start", *["result"] * 5, "progress", "summary"]
    assert replay[-2]["completed"] == 5


async def test_progress_is_withheld_from_a_reader_that_lags_but_not_forever(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(
        hub, SmallJob(total=6000), batch_bytes=4000, buffer_timeout_ms=1000, capacity=2048
    )
    seen = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        seen += [trio.current_time()] * tags(parsed(batch.pieces)).count("progress")
        await trio.sleep(0.1)
        reader.sent(batch.events, batch.nbytes, 0.05)
    gaps = [b - a for a, b in itertools.pairwise(seen)][:-1]
    assert len(seen) > 5
    assert min(gaps) >= 0.999
    assert max(gaps) <= 1.2


async def test_a_reader_may_do_without_progress(autojump_clock: object, hub: Hub) -> None:
    _, _, reader = start(hub, SmallJob(total=5, nap=1), progress=False)
    assert "progress" not in tags(await read_all(reader))


async def test_touch_wakes_nobody_and_goes_with_the_next_batch(
    autojump_clock: object, hub: Hub
) -> None:
    class Touching(SmallJob):
        async def work(self, publisher: Any) -> None:
            for _ in range(100):
                publisher.touch()
                await trio.sleep(0.01)
            await super().work(publisher)

    _, _, reader = start(hub, Touching(total=1))
    assert tags(await read_batch(reader)) == ["metadata", "start"]
    with trio.move_on_after(0.9) as scope:
        await reader.receive_batch()
    assert scope.cancelled_caught
    assert tags(await read_all(reader))[-2:] == ["progress", "summary"]


# --- Heartbeat, health, notices ---------------------------------------------------------------


async def test_a_heartbeat_breaks_a_silence_of_its_length_only(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=2, nap=100), heartbeat_seconds=30)
    moments = []
    while True:
        try:
            events = await read_batch(reader)
        except trio.EndOfChannel:
            break
        moments += [(trio.current_time(), tag) for tag in tags(events)]
    beats = [moment for moment, tag in moments if tag == "heartbeat"]
    start_at = moments[0][0]
    assert [round(beat - start_at) for beat in beats] == [30, 60, 90, 130, 160, 190]
    assert all(tag != "heartbeat" for moment, tag in moments if round(moment - start_at) == 100)


async def test_readers_are_told_when_the_servers_health_changes(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    told = session.subscribe(spec(until="never"))
    untold = session.subscribe(spec(until="never", system_status=False))
    async with trio.open_nursery() as nursery:
        events: list[Any] = []

        async def read() -> None:
            while True:
                events.extend(await read_batch(told))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            hub.census.run_started()
            hub.census.run_ended("failed")
        await trio.testing.wait_all_tasks_blocked()
        assert tags(events) == ["system_status"]
        with trio.move_on_after(1) as scope:
            await untold.receive_batch()
        assert scope.cancelled_caught
        await trio.sleep(200)  # the errors fade, and nothing else happens
        assert tags(events) == ["system_status"] * 2
        assert hub.census.health == "healthy"
        nursery.cancel_scope.cancel()


async def test_notices_go_before_logged_events_and_wake_an_idle_reader(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, first = start(hub, SmallJob(holds=trio.Event()))
    reader = session.subscribe(spec(until="never"))
    reader.post_nowait(b'{"event":"welcome"}')
    assert tags(await read_batch(reader)) == ["welcome", "metadata", "start"]
    async with trio.open_nursery() as nursery:

        async def post() -> None:
            reader.post_nowait(b'{"event":"pong"}')

        nursery.start_soon(post)
        assert tags(await read_batch(reader)) == ["pong"]
    first.close()


async def test_a_full_notice_queue_stops_who_posts_until_the_writer_took_some(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(notice_queue=2)) as hub:
        reader = hub.open_session("s").subscribe(spec(until="never"))
        reader.post_nowait(b"1")
        await reader.wait_notice_room()
        reader.post_nowait(b"2")
        with pytest.raises(trio.WouldBlock):
            reader.post_nowait(b"3")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.wait_notice_room)
            await trio.testing.wait_all_tasks_blocked()
            assert reader.statistics().notices == 2
            assert list((await reader.receive_batch()).pieces) == [b"1", b"2"]
        reader.post_nowait(b"3")
        reader.close()
        await reader.wait_notice_room()
        with pytest.raises(trio.ClosedResourceError):
            reader.post_nowait(b"4")


# --- Windows and lossless readers -----------------------------------------------------------------


async def test_a_run_waits_when_its_readers_window_is_full(
    autojump_clock: object, hub: Hub
) -> None:
    job = SmallJob(total=1000)
    _, _, reader = start(hub, job, capacity=100)
    await trio.testing.wait_all_tasks_blocked()
    assert job.settled == 98  # and two opening events
    batch = await reader.receive_batch()
    await trio.testing.wait_all_tasks_blocked()
    assert job.settled == 98, "what is being written still counts"
    reader.sent(batch.events, batch.nbytes, 0)
    await trio.testing.wait_all_tasks_blocked()
    assert job.settled > 98


async def test_a_window_also_counts_shared_bytes(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(window_bytes=100_000)) as hub:
        job = SmallJob(total=1000, text="x" * 10_000)
        _, _, reader = start(hub, job)
        await trio.testing.wait_all_tasks_blocked()
        assert job.settled == 5  # of 21 KB each
        assert indexes(await read_all(reader)) == list(range(1000))


async def test_an_empty_window_admits_one_event_however_large(autojump_clock: object) -> None:
    async with open_hub(MeshLimits(window_bytes=1)) as hub:
        _, _, reader = start(hub, SmallJob(total=5, text="x" * 100_000))
        assert indexes(await read_all(reader)) == list(range(5))


async def test_a_slow_reader_delays_its_own_run_and_no_other(
    autojump_clock: object, hub: Hub
) -> None:
    jobs = {name: SmallJob(name, total=1000) for name in ("slow", "fast", "same")}
    _, _, slow = start(hub, jobs["slow"])
    _, _, fast = start(hub, jobs["fast"], session_id="other")
    _, _, same = start(hub, jobs["same"])  # in the slow one's session
    with trio.fail_after(1):
        assert indexes(await read_all(fast)) == list(range(1000))
        assert indexes(await read_all(same)) == list(range(1000))
    assert jobs["slow"].settled < 256
    assert indexes(await read_all(slow)) == list(range(1000))


async def test_a_reader_of_all_runs_holds_all_of_them_back(
    autojump_clock: object, hub: Hub
) -> None:
    session = hub.open_session("s")
    session.subscribe(spec(until="never", capacity=100))
    jobs = [SmallJob(name, total=500) for name in "ab"]
    for job in jobs:
        hub.start_run(session, job, request_id=job.request_id)
    await trio.testing.wait_all_tasks_blocked()
    assert sum(job.settled for job in jobs) + 4 == 100


@pytest.mark.parametrize("chosen", [True, False])
async def test_who_stands_still_for_stall_seconds_is_cut_off_by_the_publisher(
    autojump_clock: object, chosen: bool
) -> None:
    async with open_hub(MeshLimits(stall_seconds=30)) as hub:
        session, run, reader = start(hub, SmallJob(total=1000), "s" if chosen else None)
        await read_batch(reader)
        before = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        last = reader.last_event_id
        with trio.fail_after(31), trio.CancelScope() as writing:
            reader.cancel_when_cut_off(writing)
            await trio.sleep_forever()
        assert writing.cancelled_caught
        assert trio.current_time() - before == pytest.approx(30)
        with pytest.raises(BackpressureExceeded) as caught:
            await reader.receive_batch()
        assert caught.value.context["last_event_id"] == last
        reader.close()
        assert not session.subscribers
        if chosen:  # it may come back, and loses nothing
            position = session.resolve(last)
            assert position.gap is None
            again = session.subscribe(spec(), after=position.after)
            assert indexes(await read_all(again))[-1] == 999
        else:
            await run.wait_ended()


async def test_a_patient_reader_is_waited_for_however_long_it_stands_still(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(stall_seconds=30)) as hub:
        session = hub.open_session("s")
        job = SmallJob(total=1000)
        _, reader = hub.start_run(
            session, job, request_id=job.request_id, reader=spec(patient=True)
        )
        assert reader is not None
        await read_batch(reader)
        await trio.sleep(3600)
        assert reader.failure is None
        assert indexes(await read_all(reader))[-1] == 999


async def test_one_stuck_reader_costs_the_other_readers_of_its_run_no_more_than_the_stall(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, good = start(hub, SmallJob(total=1000))
    stuck = session.subscribe(spec())
    before = trio.current_time()
    assert indexes(await read_all(good)) == list(range(1000))
    assert trio.current_time() - before == pytest.approx(30)
    with pytest.raises(BackpressureExceeded):
        await stuck.receive_batch()


@pytest.mark.parametrize("patient", [False, True])
async def test_a_run_goes_on_as_soon_as_there_is_room_whoever_of_its_readers_made_it(
    autojump_clock: object, hub: Hub, patient: bool
) -> None:
    session = hub.open_session("s")
    settings: dict[str, Any] = {"capacity": 64, "min_capacity": 64, "adaptive": False}
    run, reader = hub.start_run(
        session,
        SmallJob(total=300),
        request_id="req-1",
        reader=spec(**settings, patient=patient, progress=False),
    )
    assert reader is not None
    stuck = session.subscribe(spec(**settings, batch_events=10), after=0)
    while stuck.read_seq < 10:
        await read_batch(stuck)
    await trio.testing.wait_all_tasks_blocked()
    assert session.log.top == 64
    # It passes the other before it has made room for enough events to wake the run for.
    while reader.read_seq < 64:
        await reader.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert session.log.top == stuck.read_seq + 64
    before = trio.current_time()
    while True:
        try:
            await reader.receive()
        except trio.EndOfChannel:
            break
    assert trio.current_time() - before == pytest.approx(hub.limits.stall_seconds)
    assert isinstance(stuck.failure, BackpressureExceeded)
    assert not run.live


async def test_who_reads_slowly_but_steadily_is_never_cut_off(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=2000), batch_bytes=20_000)
    events = await read_all(reader, nap=29)
    assert indexes(events) == list(range(2000))


async def test_the_time_of_a_pause_is_not_held_against_a_reader(
    autojump_clock: object, hub: Hub
) -> None:
    _, run, reader = start(hub, SmallJob(total=1000))
    await trio.sleep(20)
    run.pause()
    await trio.sleep(500)
    run.resume()
    await trio.sleep(20)
    assert indexes(await read_all(reader)) == list(range(1000))


# --- Lossy readers --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest", "disconnect"])
async def test_a_lossy_reader_never_holds_a_run_back(
    autojump_clock: object, hub: Hub, strategy: Any
) -> None:
    session, _run, good = start(hub, SmallJob(total=1000))
    session.subscribe(spec(strategy=strategy))
    with trio.fail_after(1):
        assert indexes(await read_all(good)) == list(range(1000))


async def lossy(hub: Hub, strategy: Any) -> tuple[list[Any], Subscriber]:
    session, _run, good = start(hub, SmallJob(total=1000))
    reader = session.subscribe(spec(strategy=strategy, capacity=100, progress=False))
    await read_batch(reader)
    await read_all(good)
    return await read_all(reader), reader


async def test_drop_oldest_keeps_the_newest_and_tells_the_gap(
    autojump_clock: object, hub: Hub
) -> None:
    events, reader = await lossy(hub, "drop_oldest")
    events = [event for event in events if event["event"] in ("gap", "result", "summary")]
    assert tags(events)[0] == "gap"
    assert indexes(events) == list(range(901, 1000))  # 99 results and the summary
    gap = events[0]
    assert gap["missing_to"] == seq_of(events[1]) - 1
    assert reader.statistics().dropped == gap["missing_to"] - gap["missing_from"] + 1
    assert hub.census.snapshot().total_messages_dropped == reader.statistics().dropped


async def test_drop_newest_keeps_the_oldest_and_how_the_run_ended(
    autojump_clock: object, hub: Hub
) -> None:
    events, reader = await lossy(hub, "drop_newest")
    assert tags(events)[-2:] == ["gap", "summary"]
    kept = indexes(events)
    assert kept == list(range(kept[0], kept[0] + 100))
    assert reader.statistics().dropped + len(kept) + kept[0] == 1000


async def test_disconnect_ends_the_reader_that_fell_behind(
    autojump_clock: object, hub: Hub
) -> None:
    with pytest.raises(BufferOverflow):
        await lossy(hub, "disconnect")


async def test_a_replay_is_no_overflow(autojump_clock: object, hub: Hub) -> None:
    session, _, good = start(hub, SmallJob(total=1000))
    await read_all(good)
    for strategy in ("drop_oldest", "drop_newest", "disconnect"):
        reader = session.subscribe(spec(strategy=strategy, capacity=64, min_capacity=64))
        assert indexes(await read_all(reader)) == list(range(1000))


async def test_what_the_log_forgot_before_a_lossy_reader_came_to_it_is_a_gap(
    autojump_clock: object,
) -> None:
    async with open_hub(MeshLimits(replay_bytes=20_000)) as hub:
        session, _, good = start(hub, SmallJob(total=300))
        reader = session.subscribe(spec(strategy="drop_oldest", capacity=2048))
        await read_all(good)
        events = await read_all(reader)
        assert tags(events)[0] == "gap"
        assert events[0]["missing_from"] == 1
        assert events[0]["missing_to"] == session.log.first - 1
        assert indexes(events)[-1] == 299
        assert reader.statistics().dropped == session.log.first - 1


# --- Pressure ---------------------------------------------------------------------------------


async def test_a_full_window_warns_once_an_episode(autojump_clock: object, hub: Hub) -> None:
    _, _, reader = start(hub, SmallJob(total=2000), batch_bytes=500)
    await trio.testing.wait_all_tasks_blocked()
    events = await read_all(reader)
    assert tags(events).count("backpressure_warning") == 1
    assert reader.statistics().episodes == reader.statistics().warnings == 1
    assert reader.statistics().peak_utilization == 1.0


async def test_without_backpressure_no_warning_is_sent_and_the_window_is_fixed(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=2000), batch_bytes=500, adaptive=False)
    await trio.testing.wait_all_tasks_blocked()
    events = await read_all(reader)
    assert "backpressure_warning" not in tags(events)
    assert indexes(events) == list(range(2000))
    statistics = reader.statistics()
    assert (statistics.capacity, statistics.resizes, statistics.episodes) == (256, 0, 1)


@pytest.mark.parametrize("strategy", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("by_events", [False, True])
async def test_a_run_opens_whole_and_without_a_warning_however_small_its_readers_window(
    hub: Hub, strategy: str, by_events: bool
) -> None:
    _, _, reader = start(hub, SmallJob(total=5), strategy=strategy, capacity=1, min_capacity=1)
    await trio.testing.wait_all_tasks_blocked()  # a window full or overrun before it is first read
    if by_events:
        seen = [type(await reader.receive()).__name__ for _ in range(2)]
        assert seen == ["Metadata", "Start"]
    else:
        assert tags(await read_batch(reader))[:2] == ["metadata", "start"]


async def test_a_lossy_reader_of_a_run_that_the_log_has_forgotten_gets_one_gap_for_all_of_it() -> (
    None
):
    # Only lossless readers hold what they have not read; `replay_bytes` is all that others have.
    async with open_hub(MeshLimits(replay_bytes=0)) as hub:
        session, _, reader = start(
            hub, SmallJob(total=3), strategy="drop_newest", system_status=False
        )
        await trio.testing.wait_all_tasks_blocked()
        (gap,) = await read_all(reader)
        assert (gap["event"], gap["missing_from"], gap["missing_to"]) == ("gap", 1, 6)
        assert reader.statistics().dropped == session.log.top == 6


async def test_warnings_are_at_least_warning_seconds_apart(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, reader = start(hub, SmallJob(total=300, nap=0.1))
    moments = []
    slow = True
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            break
        if "backpressure_warning" in tags(parsed(batch.pieces)):
            moments.append(trio.current_time())
        for _ in range(50):  # a reader whose pace changes with every write
            reader.sent(0, 0, 0.5 if slow else 0.001)
        reader.sent(batch.events, batch.nbytes, 0.001)
        slow = not slow
    assert len(moments) >= 4
    assert min(b - a for a, b in itertools.pairwise(moments)) >= 5.0
    assert reader.statistics().episodes > reader.statistics().warnings


async def test_nobody_is_warned_while_no_run_is_live(autojump_clock: object, hub: Hub) -> None:
    session, run, reader = start(hub, SmallJob(total=20), until="never", request_id=None)
    with trio.move_on_after(1):
        while True:
            await read_batch(reader)
    for _ in range(50):
        reader.sent(0, 0, 0.5)
    assert reader.statistics().is_slow
    assert not run.live
    with trio.move_on_after(60):
        assert "backpressure_warning" not in tags(await read_batch(reader))
    hub.start_run(session, SmallJob("b", total=3, nap=1), request_id="b")
    assert "backpressure_warning" in tags(await read_batch(reader))


async def test_slow_writes_shrink_the_window_and_waits_grow_it(
    autojump_clock: object, hub: Hub
) -> None:
    _, _, slow = start(hub, SmallJob("a", total=5000), batch_bytes=4000)
    await read_all(slow, nap=0.2)
    assert slow.statistics().capacity == 64
    assert slow.statistics().is_slow
    _, _, waits = start(hub, SmallJob("b", total=5000), session_id="t", batch_bytes=500)
    await read_all(waits, nap=0.01)
    assert waits.statistics().capacity > 256
    assert not waits.statistics().is_slow


# --- Members of its own -------------------------------------------------------------------------


async def test_metadata_and_summary_state_this_readers_own_window(
    autojump_clock: object, hub: Hub
) -> None:
    session, _, reader = start(hub, SmallJob(total=3), capacity=1024)
    reader.first_byte(12.3456)
    events = [event async for event in reader]
    metadata, summary = events[0], events[-1]
    assert isinstance(metadata, Metadata)
    assert isinstance(summary, Summary)
    info: Any = metadata.buffer_info
    assert (info.capacity, info.backpressure_threshold, info.max_memory_bytes) == (1024, 800, 65536)
    config: Any = metadata.performance_config
    assert (config.slow_client_threshold_ms, config.buffer_flush_interval_ms) == (100, 50)
    assert config.ttfb_target_ms == 500
    assert summary.performance_summary.ttfb_ms == 12.346
    second = [event async for event in session.subscribe(spec(capacity=64))]
    assert second[0].buffer_info.capacity == 64  # type: ignore[attr-defined]
    assert second[-1].performance_summary.ttfb_ms is msgspec.UNSET  # type: ignore[attr-defined]


async def test_statistics_move_when_their_causes_move(autojump_clock: object, hub: Hub) -> None:
    _, _run, reader = start(hub, SmallJob(total=10))
    await trio.testing.wait_all_tasks_blocked()
    assert reader.statistics().used == 13
    batch = await reader.receive_batch()
    await trio.sleep(0.25)
    reader.sent(batch.events, batch.nbytes, 0.25)
    statistics = reader.statistics()
    assert statistics.used == 0
    assert statistics.avg_send_time_ms == 250
    assert (statistics.slow_sends, statistics.flushes) == (1, 1)
    assert (statistics.messages_sent, statistics.bytes_sent) == (batch.events, batch.nbytes)
    assert statistics.connected_seconds == pytest.approx(0.25)
    assert statistics.peak_utilization == 13 / 256
    assert hub.census.snapshot().total_bytes_sent == batch.nbytes


async def test_asking_for_the_next_batch_says_that_the_last_was_written(
    autojump_clock: object, hub: Hub
) -> None:
    session, _run, reader = start(hub, SmallJob(total=300))
    seen = 0
    while True:
        try:
            seen += (await reader.receive_batch()).events
        except trio.EndOfChannel:
            break
    assert seen >= 303
    assert reader.last_event_id == session.last_event_id


def test_a_request_id_goes_with_until_run_only() -> None:
    with pytest.raises(ValueError, match="request_id"):
        spec(until="run")
    with pytest.raises(ValueError, match="request_id"):
        spec(until="idle", request_id="a")
    with pytest.raises(ValueError, match="min_capacity"):
        spec(min_capacity=100, max_capacity=10)


async def test_a_run_is_not_delayed_by_who_left(autojump_clock: object, hub: Hub) -> None:
    job = SmallJob(total=1000)
    session, _, good = start(hub, job)
    leaver = session.subscribe(spec())
    await trio.testing.wait_all_tasks_blocked()
    leaver.close(keep_place=True)
    with trio.fail_after(1):
        assert indexes(await read_all(good)) == list(range(1000))
