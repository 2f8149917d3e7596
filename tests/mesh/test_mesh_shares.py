"""Batches that readers at the same place share: made once, the same bytes, bounded and counted."""

import pytest
import trio
from mesh_support import SmallJob, result_event, spec

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.outlet import EncodedOutlet
from eventmesh_trio.mesh.reader import Batch
from eventmesh_trio.mesh.shares import Share, Shares, Step
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import EnvelopeEncoder, HTTPEncoder

NDJSON = HTTPEncoder("ndjson")
MIB = 2**20


def shared_log(events: int) -> EventLog:
    """A log with two readers of its one run, ``a``."""
    log = EventLog("e", replay_bytes=MIB, max_pinned_bytes=MIB)
    track = log.open_track("a", lambda: None)
    track.readers = 2
    for index in range(events):
        log.append(track, result_event("a", index, events))
    return log


def taken(log: EventLog, start: int, stop: int, room: int = MIB) -> EncodedOutlet:
    outlet = EncodedOutlet(log, lambda _: NDJSON, room)
    outlet.take(next(iter(log.live_tracks)), start, stop)
    return outlet


def test_readers_at_the_same_place_are_given_the_same_bytes() -> None:
    log = shared_log(20)
    first, second = taken(log, 1, 20), taken(log, 1, 20)
    assert first.items[0] is second.items[0]
    assert first.items[0] == b"".join(NDJSON.encode(log.event(seq)) for seq in range(1, 21))
    assert (
        (first.events, first.nbytes) == (second.events, second.nbytes) == (20, len(first.items[0]))
    )


def test_a_reader_that_may_take_fewer_is_given_no_more() -> None:
    log = shared_log(20)
    taken(log, 1, 20)
    fewer = taken(log, 1, 12)
    assert fewer.events == 12
    small = taken(log, 1, 20, room=2000)
    assert 0 < small.events < 12
    assert small.nbytes <= 2000


def test_events_that_came_since_follow_in_a_batch_of_their_own() -> None:
    log = shared_log(30)
    taken(log, 1, 20)
    outlet = EncodedOutlet(log, lambda _: NDJSON, MIB)
    track = next(iter(log.live_tracks))
    assert outlet.take(track, 1, 30) == 20
    assert outlet.take(track, 21, 30) == 10
    assert b"".join(outlet.items) == b"".join(log.encoded(NDJSON, 1, 30, MIB))


def test_what_is_shared_counts_as_kept_and_goes_when_memory_is_short() -> None:
    log = shared_log(20)
    before = log.kept_bytes
    data = taken(log, 1, 20).items[0]
    assert log.kept_bytes == before + 2 * len(data)  # each by itself, and all in one piece
    log.shrink()
    assert log.kept_bytes == before + len(data)


def test_messages_that_are_written_one_by_one_are_not_joined() -> None:
    log = shared_log(20)
    outlet = EncodedOutlet(log, lambda _: EnvelopeEncoder("message"), MIB)
    outlet.take(next(iter(log.live_tracks)), 1, 20)
    assert len(outlet.items) == 20
    assert log.shares.nbytes == 0


def test_no_more_is_kept_than_half_a_mebibyte_and_the_oldest_goes_first() -> None:
    shares = Shares()
    for start in range(1, 6):
        shares.keep(NDJSON, start, Share(bytes(200_000), 8, 8))
    assert shares.nbytes == 400_000
    assert [shares.find(NDJSON, start) is None for start in range(1, 6)] == [True] * 3 + [False] * 2
    shares.keep(NDJSON, 5, Share(b"new", 1, 1))
    assert shares.nbytes == 200_003
    assert shares.find(NDJSON, 5) == Share(b"new", 1, 1)


def test_no_step_outlives_the_share_that_it_is() -> None:
    log = shared_log(0)
    shares, track = log.shares, next(iter(log.live_tracks))

    def keep(start: int, nbytes: int) -> None:
        shares.keep(NDJSON, start, Share(bytes(nbytes), 8, 8))
        batch = Batch([bytes(nbytes)], 8, nbytes)
        shares.keep_step(NDJSON, Step(start, 8, 1, track, batch))

    keep(1, 100_000)
    assert list(shares.steps) == [(NDJSON, 1)]
    keep(9, 600_000)  # more than is kept at all
    assert not shares.steps
    assert shares.nbytes == 0
    keep(17, 1000)
    shares.keep(NDJSON, 17, Share(bytes(2000), 9, 9))
    assert not shares.steps


@pytest.mark.parametrize("strategy", ["block", "drop_oldest"])
async def test_each_of_many_readers_gets_every_event_once_and_in_order(
    autojump_clock: object, hub: Hub, strategy: str
) -> None:
    session = hub.open_session("s")
    job = SmallJob(total=500, burst=7)
    settings = spec(
        request_id=job.request_id, strategy=strategy, encoder_for=lambda _: NDJSON, progress=False
    )
    _, first = hub.start_run(session, job, request_id=job.request_id, reader=settings)
    assert first is not None
    readers = [first, *(session.subscribe(settings) for _ in range(9))]
    streams: dict[int, bytes] = {}

    async def read(index: int, reader: Subscriber) -> None:
        data = b""
        while True:
            try:
                batch = await reader.receive_batch(lambda: 1000 * index)
            except trio.EndOfChannel:
                break
            data += b"".join(batch.pieces)
            assert batch.nbytes == sum(map(len, batch.pieces))
            reader.sent(batch.events, batch.nbytes, 0)
            await trio.sleep(index / 1000)
        streams[index] = data

    async with trio.open_nursery() as nursery:
        for index, reader in enumerate(readers):
            nursery.start_soon(read, index, reader)
    for data in streams.values():
        found = [
            int(line.split(b'"index":')[1].split(b",")[0])
            for line in data.splitlines()
            if line.startswith(b'{"event":"result"')
        ]
        if strategy == "block":
            assert found == list(range(500))
        assert found == sorted(set(found))
