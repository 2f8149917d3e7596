"""What a log encodes ahead for its only reader: nobody can tell but by the time it takes."""

from collections.abc import Sequence
from functools import partial

import hypothesis.strategies as st
from hypothesis import given
from mesh_support import now, result_event

from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.wire.encoders import EncodedBatch, EnvelopeEncoder, HTTPEncoder
from eventmesh_trio.wire.events import Event, Metadata, stamp

MIB = 1 << 20
ROOM = 12_000
"""Bytes of a batch: fewer events than the log takes before it looks after itself."""


class CountingEncoder:
    """NDJSON, how often a batch was made, and the bytes of the longest."""

    joins = True

    def __init__(self) -> None:
        self.made = 0
        self.longest = 0
        self._lines = HTTPEncoder("ndjson")

    def encode(self, event: Event) -> bytes:
        return self._lines.encode(event)

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
        self.made += 1
        batch = self._lines.encode_batch(events, room)
        self.longest = max(self.longest, len(batch.data))
        return batch

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        return self._lines.decode_batch(data)


def a_log(replay_bytes: int = 16 * MIB) -> tuple[EventLog, Track]:
    log = EventLog("epoch", replay_bytes=replay_bytes, max_pinned_bytes=64 * MIB)
    return log, log.open_track("a", lambda: None)


def attach(log: EventLog) -> None:
    """A lossless reader of all runs, at the beginning."""
    log.readers += 1
    log.add_place(log.flow, 0, capacity=10_000, window_bytes=MIB, owner=None)


def fill(log: EventLog, track: Track, count: int) -> None:
    for index in range(count):
        log.append(track, result_event(track.request_id, index, count))


def read(log: EventLog, encoder: CountingEncoder, start: int, room: int = ROOM) -> list[int]:
    """Take all from ``start`` on; how many events each batch had."""
    sizes = []
    while start <= log.top:
        _, taken, _, _ = log.joined(encoder, start, log.top, room, must=True)
        sizes.append(taken)
        start += taken
    return sizes


def read_some(log: EventLog, encoder: CountingEncoder, start: int, batches: int) -> list[int]:
    """Take so many batches; how many events each had."""
    sizes: list[int] = []
    for _ in range(batches):
        sizes.append(log.joined(encoder, start + sum(sizes), log.top, ROOM, must=True)[1])
    return sizes


def a_full_log(*, lossless: bool = True) -> tuple[EventLog, Track, CountingEncoder, int]:
    """A log of 100 events whose only reader has taken one full batch, of so many."""
    log, track = a_log()
    encoder = CountingEncoder()
    if lossless:
        attach(log)
    else:
        log.readers += 1
    fill(log, track, 100)
    _, taken, _, more = log.joined(encoder, 1, log.top, ROOM, must=True)
    assert more
    assert encoder.made == 1
    return log, track, encoder, taken


def test_what_fills_the_batch_of_an_only_reader_is_encoded_when_it_is_published() -> None:
    log, track, encoder, taken = a_full_log()
    fill(log, track, 100)
    before = encoder.made
    sizes = read(log, encoder, taken + 1)
    assert len(sizes) > 5
    assert encoder.made - before <= len(sizes) // 2


def test_nothing_is_encoded_ahead_where_batches_are_not_full() -> None:
    log, track = a_log()
    encoder = CountingEncoder()
    attach(log)
    fill(log, track, 5)
    assert read(log, encoder, 1) == [5]
    fill(log, track, 100)
    assert encoder.made == 1


def test_nothing_is_encoded_ahead_for_a_reader_that_may_lose_it() -> None:
    log, track, encoder, _ = a_full_log(lossless=False)
    fill(log, track, 100)
    assert encoder.made == 1


def test_nothing_is_encoded_ahead_when_there_is_a_second_reader() -> None:
    log, track, encoder, _ = a_full_log()
    track.readers += 1
    fill(log, track, 100)
    assert encoder.made == 1


def test_nothing_is_encoded_ahead_for_the_reader_of_one_run_when_another_writes() -> None:
    log, _, encoder, _ = a_full_log()
    fill(log, log.open_track("b", lambda: None), 100)
    assert encoder.made == 1


def test_a_reader_that_takes_less_at_once_is_given_no_more_than_it_takes() -> None:
    log, track, encoder, first = a_full_log()
    fill(log, track, 100)
    start = first + 1
    while start <= log.top:
        data, taken, _, _ = log.joined(encoder, start, log.top, 4000, must=True)
        assert len(data) <= 4000
        start += taken


def test_who_comes_into_the_middle_of_a_batch_is_given_it_from_there() -> None:
    log, track, encoder, first = a_full_log()
    fill(log, track, 100)
    before = encoder.made
    data, count, _, _ = log.joined(encoder, first + 3, log.top, ROOM, must=True)
    assert encoder.made == before + 1
    assert [event.id for event in encoder.decode_batch(data)] == [
        log.id_of(seq) for seq in range(first + 3, first + 3 + count)
    ]


def test_what_was_made_ahead_is_handed_out_together_as_far_as_there_is_room_at_once() -> None:
    log, track, encoder, first = a_full_log()
    fill(log, track, 200)
    start = first + 1 + sum(read_some(log, encoder, first + 1, 2))
    made = encoder.made
    asked = []

    def on_top(nbytes: int) -> int:
        asked.append(nbytes)
        return nbytes

    single = log.next_step(encoder, start, 1000, ROOM, partial(on_top, 0))
    several = log.next_step(encoder, start, 1000, ROOM, partial(on_top, 2 * ROOM))
    few = log.next_step(encoder, start, 2 * first, ROOM, partial(on_top, 2 * ROOM))
    assert single is not None
    assert several is not None
    assert few is not None
    assert [len(step.batch.pieces) for step in (single, several, few)] == [1, 3, 2]
    assert several.taken > 2 * single.taken
    assert set(asked) == {0, 2 * ROOM}
    assert log.next_step(encoder, start, 1000, 100, partial(on_top, 2 * ROOM)) is None
    assert encoder.made == made


def test_a_batch_made_ahead_waits_for_one_in_which_it_has_room() -> None:
    log, track, encoder, first = a_full_log()
    fill(log, track, 100)
    assert log.joined(encoder, first + 1, log.top, 100, must=False) == (b"", 0, 0, True)
    before = encoder.made
    assert log.joined(encoder, first + 1, log.top, ROOM, must=True)[1] > 1
    assert encoder.made == before


def test_an_event_longer_than_a_batch_is_encoded_when_it_is_read_and_once() -> None:
    log, track, encoder, _ = a_full_log()
    log.append(track, result_event(track.request_id, 0, 1, "x" * MIB))
    long = log.top
    assert encoder.longest < MIB
    # Behind something else in the batch it has no room, as is known without encoding it.
    assert log.joined(encoder, long, long, ROOM, must=False) == (b"", 0, 0, True)
    assert encoder.longest < MIB
    before = encoder.made
    assert log.joined(encoder, long, long, ROOM, must=True)[1] == 1
    assert encoder.longest > MIB
    assert encoder.made == before + 1


def test_what_was_made_ahead_is_handed_out_though_another_reader_was_there() -> None:
    log, track, encoder, first = a_full_log()
    fill(log, track, 100)
    start = first + 1 + sum(read_some(log, encoder, first + 1, 1))
    expected = log.next_step(encoder, start, 1000, ROOM, int)
    assert expected is not None
    log.shares.keep_step(encoder, expected._replace(start=1))
    again = log.next_step(encoder, start, 1000, ROOM, int)
    assert again is not None
    assert again.batch.pieces == expected.batch.pieces


ENCODERS = (HTTPEncoder("ndjson"), HTTPEncoder("sse"), EnvelopeEncoder("frame"))
RUN = st.tuples(st.just("publish"), st.integers(1, 80), st.integers(0, 1))
TAKE = st.tuples(
    st.just("take"), st.sampled_from([1, 3000, ROOM, 3 * ROOM]), st.integers(1, 200), st.booleans()
)
STEP = st.tuples(
    st.just("step"),
    st.sampled_from([3000, ROOM, 3 * ROOM]),
    st.sampled_from([0, ROOM, 3 * ROOM]),
    st.integers(1, 200),
)
CROWDED = [  # what makes batches ahead and takes them is rarely found by chance
    ("publish", 80, 0),
    ("take", ROOM, 200, True),
    ("publish", 80, 0),
    ("step", ROOM, ROOM, 200),
]
STEPS = st.lists(
    st.one_of(
        st.one_of(
            RUN,
            TAKE,
            TAKE,
            STEP,
            st.tuples(st.just("personal")),
            st.tuples(st.just("again"), st.integers(1, 60)),
            st.tuples(st.just("share")),
            st.tuples(st.just("become"), st.sampled_from(ENCODERS)),
        ).map(lambda step: [step]),
        st.just(CROWDED),
    ),
    max_size=40,
).map(lambda parts: [step for part in parts for step in part])


@given(STEPS, st.sampled_from(ENCODERS))
def test_whatever_is_made_ahead_readers_are_given_what_each_event_encodes_to(
    steps: list[tuple[object, ...]], encoder: HTTPEncoder | EnvelopeEncoder
) -> None:
    log, first = a_log(replay_bytes=40_000)
    tracks = (first, log.open_track("b", lambda: None))
    log.readers += 1
    place = log.add_place(log.flow, 0, capacity=10_000, window_bytes=MIB, owner=None)
    said: list[Event] = []
    at = 1

    def publish(track: Track, event: Event) -> None:
        said.append(stamp(event, log.id_of(len(said) + 1)))
        log.append(track, event)

    for step in steps:
        match step:
            case ("publish", int(count), int(run)):
                for index in range(count):
                    publish(tracks[run], result_event(tracks[run].request_id, index, count))
            case ("personal",):
                publish(
                    first,
                    Metadata(
                        timestamp=now(),
                        request_id="a",
                        session_id="s",
                        total_urls=1,
                        stream_type="crawl",
                    ),
                )
            case ("take", int(room), int(most), bool(must)) if at <= log.top:
                _, stop = log.stretch(at, log.top)
                data, taken, shown, _ = log.joined(
                    encoder, at, min(stop, at + most - 1), room, must=must
                )
                events = said[at - 1 : at - 1 + taken]
                assert data == b"".join(encoder.encode(event) for event in events)
                assert shown == taken <= most
                assert len(data) <= room or (must and taken == 1)
                plain = not isinstance(said[at - 1], Metadata)
                assert bool(taken) == plain or not must
                at += taken if plain else 1
                log.move_place(place, at - 1, *log.counted(log.flow, at - 1))
            case ("step", int(room), int(on_top), int(most)) if at <= log.top:
                handed = log.next_step(encoder, at, most, room, partial(int, on_top))
                if handed is not None:
                    taken, batch = handed.taken, handed.batch
                    events = said[at - 1 : at - 1 + taken]
                    assert b"".join(batch.pieces) == b"".join(map(encoder.encode, events))
                    assert batch.nbytes <= (room if len(batch.pieces) == 1 else room + on_top)
                    assert 1 <= batch.events == taken <= most
                    assert (handed.track, at + taken - 1) == log.stretch(at, at + taken - 1)
                    assert handed.weight == log.weight(at, at + taken - 1)
                    at += taken
                    log.move_place(place, at - 1, *log.counted(log.flow, at - 1))
            case ("again", int(back)):  # a client that resumes
                at = max(log.first, at - back)
                old = place
                place = log.add_place(
                    log.flow, at - 1, capacity=10_000, window_bytes=MIB, owner=None
                )
                log.drop_place(old)
            case ("share",) if at <= log.top and not isinstance(said[at - 1], Metadata):
                piece = log.encoded(encoder, at, at, MIB)
                assert list(piece) == [encoder.encode(said[at - 1])]
            case ("become", HTTPEncoder() | EnvelopeEncoder() as other):
                encoder = other
    assert [log.event(seq) for seq in range(log.first, log.top + 1)] == said[log.first - 1 :]
