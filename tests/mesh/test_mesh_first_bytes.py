"""The time to the first byte of each run, where one reader follows many."""

import json

import attrs
import pytest
import trio
from mesh_support import SmallJob, spec

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import HTTPEncoder

ENCODER = HTTPEncoder("ndjson")


def follower(hub: Hub, **settings: float) -> Subscriber:
    """A reader of all runs of the session "s", as a WebSocket has it."""
    everything = spec(until="never", progress=False, **settings)
    session = hub.open_session("s")
    return session.subscribe(attrs.evolve(everything, encoder_for=lambda _: ENCODER))


async def start(hub: Hub, job: SmallJob) -> None:
    hub.start_run(hub.open_session("s"), job, request_id=job.request_id)


async def write_until_summaries(
    reader: Subscriber, count: int, write_seconds: float = 0.0
) -> tuple[dict[str, float | None], list[float]]:
    """What each summary states, in ms, and the seconds of the batches."""
    stated: dict[str, float | None] = {}
    told: list[float] = []
    while len(stated) < count:
        batch = await reader.receive_batch()
        told += batch.first_bytes
        await trio.sleep(write_seconds)
        reader.sent(batch.events, batch.nbytes, write_seconds)
        for line in b"".join(batch.pieces).splitlines():
            event = json.loads(line)
            if event["event"] == "summary":
                ttfb_ms = event["performance_summary"].get("ttfb_ms")
                stated[event["request_id"]] = ttfb_ms
    return stated, told


async def test_each_run_states_the_time_from_its_own_asking_to_its_own_first_event(
    autojump_clock: object, hub: Hub
) -> None:
    reader = follower(hub)
    reader.first_byte(7.0)
    await trio.sleep(100)  # the age of the connection is no part of it
    for request_id, waited in (("a", 0.25), ("b", 1.5)):
        reader.note_asked(request_id, trio.current_time() - waited)
        await start(hub, SmallJob(request_id, nap=0.1))
    await start(hub, SmallJob("not asked for here"))
    stated, told = await write_until_summaries(reader, 3)
    assert stated == {"a": 250.0, "b": 1500.0, "not asked for here": 7.0}
    assert told == [pytest.approx(0.25), pytest.approx(1.5)]


async def test_what_a_run_waits_for_a_write_before_it_counts(
    autojump_clock: object, hub: Hub
) -> None:
    reader = follower(hub)
    await start(hub, SmallJob("before"))
    batch = await reader.receive_batch()  # and is being written:
    reader.note_asked("a", trio.current_time())
    await start(hub, SmallJob("a"))
    await trio.sleep(3)
    reader.sent(batch.events, batch.nbytes, 3)
    stated, _ = await write_until_summaries(reader, 2, write_seconds=1)
    assert stated["a"] == 3000.0


async def test_a_run_whose_summary_is_in_the_first_batch_states_a_time_too(
    autojump_clock: object, hub: Hub
) -> None:
    await start(hub, SmallJob("a"))
    await trio.sleep(1)
    reader = follower(hub, requested_at=trio.current_time() - 0.5)
    assert (await write_until_summaries(reader, 1))[0] == {"a": 500.0}


async def test_a_run_is_forgotten_with_its_summary(autojump_clock: object, hub: Hub) -> None:
    reader = follower(hub)
    for waited in (1, 2):  # a finished run's id may be used again
        reader.note_asked("a", trio.current_time() - waited)
        await start(hub, SmallJob("a"))
        assert (await write_until_summaries(reader, 1))[0] == {"a": waited * 1000.0}
    await start(hub, SmallJob("a"))
    assert (await write_until_summaries(reader, 1))[0] == {"a": None}
