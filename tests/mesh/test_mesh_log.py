import pytest
import trio
import trio.testing
from mesh_support import LINES, LineEncoder, result_event

from eventmesh_trio.abc import Encoder
from eventmesh_trio.errors import StreamingError, SubscriberLagged
from eventmesh_trio.mesh.archive import weigh
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Event, Metadata

MIB = 1 << 20


def a_log(replay_bytes: int = 16 * MIB, max_pinned_bytes: int = 64 * MIB) -> EventLog:
    return EventLog("epoch", replay_bytes=replay_bytes, max_pinned_bytes=max_pinned_bytes)


def fill(log: EventLog, track: Track, count: int, text: str = "x") -> None:
    for index in range(count):
        log.append(track, result_event(track.request_id, index, count, text))


class Owner:
    def __init__(self) -> None:
        self.error: StreamingError | None = None

    def wake(self) -> None: ...

    def cut_off(self, error: StreamingError) -> None:
        self.error = error


class CountingEncoder(LineEncoder):
    calls = 0

    def encode(self, event: Event) -> bytes:
        type(self).calls += 1
        return super().encode(event)


def test_sequence_numbers_begin_at_one_and_step_by_one_over_all_runs() -> None:
    log = a_log()
    a, b = log.open_track("a", lambda: None), log.open_track("b", lambda: None)
    event = result_event("a", 0, 1)
    assert [log.append(track, event) for track in (a, b, a)] == [1, 2, 3]
    assert (log.first, log.top, log.id_of(3)) == (1, 3, "epoch-3")
    assert (a.events, b.events, b.first_seq) == (2, 1, 2)


def test_a_weight_is_made_of_the_lengths_of_the_main_texts() -> None:
    small, large = (weigh(result_event("a", 0, 1, "x" * size)) for size in (10, 10_010))
    assert large - small == 2 * 10_000  # text and markdown


def test_an_event_is_encoded_once_per_encoder_whatever_the_number_of_readers() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    fill(log, track, 10)
    CountingEncoder.calls = 0
    encoder: Encoder = CountingEncoder("counting")
    first = log.encoded(encoder, 1, 10, MIB)
    again = [log.encoded(CountingEncoder("counting"), start, 10, MIB) for start in (1, 4, 10)]
    assert CountingEncoder.calls == 10
    assert [list(pieces) for pieces in again] == [list(first), list(first)[3:], list(first)[9:]]
    log.encoded(CountingEncoder("another"), 1, 10, MIB)
    assert CountingEncoder.calls == 20


def test_a_reader_from_the_middle_leaves_no_holes_for_one_from_the_start() -> None:
    log = a_log()
    fill(log, log.open_track("a", lambda: None), 6)
    assert len(log.encoded(LINES, 4, 6, MIB)) == 3
    assert all(log.encoded(LINES, 1, 6, MIB))
    assert len(log.encoded(LINES, 1, 6, MIB)) == 6


def test_encoded_forms_count_in_the_byte_account() -> None:
    log = a_log()
    fill(log, log.open_track("a", lambda: None), 3)
    before = log.kept_bytes
    pieces = log.encoded(LINES, 1, 3, MIB)
    assert log.kept_bytes - before == sum(map(len, pieces)) > 0


def test_encoding_stops_before_an_event_that_differs_by_reader() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    fill(log, track, 2)
    log.append(track, Metadata(timestamp="", total_urls=1, session_id="s", stream_type="crawl"))
    fill(log, track, 1)
    assert len(log.encoded(LINES, 1, 4, MIB)) == 2
    assert len(log.encoded(LINES, 3, 4, MIB)) == 0


def test_a_stretch_ends_where_another_run_speaks() -> None:
    log = a_log()
    a, b = log.open_track("a", lambda: None), log.open_track("b", lambda: None)
    fill(log, a, 3)
    fill(log, b, 2)
    assert log.stretch(1, 5) == (a, 3)
    assert log.stretch(2, 2) == (a, 2)
    assert log.stretch(4, 5) == (b, 5)


def test_room_ends_at_the_capacity_of_the_slowest_place() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    slow = log.add_place(log.flow, 0, capacity=3, window_bytes=MIB, owner=None)
    fast = log.add_place(log.flow, 0, capacity=5, window_bytes=MIB, owner=None)
    fill(log, track, 2)
    assert log.has_room(track)
    fill(log, track, 1)
    assert not log.has_room(track)
    assert log.blocking(track) == [slow]
    log.move_place(fast, 3, *log.counted(log.flow, 3))
    assert not log.has_room(track)
    log.move_place(slow, 1, *log.counted(log.flow, 1))
    assert log.has_room(track)


def test_room_ends_at_the_bytes_of_a_window_but_an_empty_one_admits_any_event() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=100, window_bytes=2000, owner=None)
    assert log.has_room(track)
    fill(log, track, 1, "x" * 100_000)
    assert not log.has_room(track)
    log.move_place(place, 1, *log.counted(log.flow, 1))
    assert log.has_room(track)


def test_a_reader_of_one_run_is_judged_by_that_run_alone() -> None:
    log = a_log()
    a, b = log.open_track("a", lambda: None), log.open_track("b", lambda: None)
    log.add_place(a, 0, capacity=2, window_bytes=MIB, owner=None)
    fill(log, b, 50)
    assert log.has_room(a)
    assert log.has_room(b)
    fill(log, a, 2)
    assert not log.has_room(a)
    assert log.has_room(b)


def test_dropping_a_place_makes_room_and_is_idempotent() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=1, window_bytes=MIB, owner=None)
    fill(log, track, 1)
    assert not log.has_room(track)
    log.drop_place(place)
    log.drop_place(place)
    assert log.has_room(track)


async def test_publishers_that_wait_are_woken_only_by_room(autojump_clock: object) -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=1, window_bytes=MIB, owner=None)
    fill(log, track, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.room.park)
        await trio.testing.wait_all_tasks_blocked()
        log.move_place(place, 1, *log.counted(log.flow, 1))
        assert not log.room


def test_nothing_is_evicted_that_is_less_than_replay_bytes_behind_the_end() -> None:
    size = weigh(result_event("a", 0, 1, "x"))
    log = a_log(replay_bytes=10 * size)
    track = log.open_track("a", lambda: None)
    for _ in range(100):
        fill(log, track, 1)
        assert log.kept_bytes >= min(log.top, 10) * size
        assert log.top - log.first + 1 >= min(log.top, 10)
    assert log.top - log.first + 1 <= 12


def test_nothing_is_evicted_before_a_held_place() -> None:
    log = a_log(replay_bytes=1)
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=1000, window_bytes=MIB, owner=None)
    fill(log, track, 50)
    assert log.first == 1
    log.move_place(place, 20, *log.counted(log.flow, 20))
    fill(log, track, 1)
    assert log.first == 21
    log.drop_place(place)
    assert log.first >= 51


def test_counts_up_to_a_number_are_right_after_eviction_too() -> None:
    log = a_log(replay_bytes=5000)
    a, b = log.open_track("a", lambda: None), log.open_track("b", lambda: None)
    for _ in range(20):
        fill(log, a, 1)
        fill(log, b, 2)
    assert log.first > 1
    assert log.counted(log.flow, log.top)[0] == 60
    assert log.counted(log.flow, 58)[0] == 58
    assert log.counted(a, 58)[0] == 20  # 58 is a's
    assert log.counted(a, 57)[0] == 19
    assert log.counted(b, 57) == (38, 38 * weigh(log.event(60)))


def test_encoded_rows_stay_beside_their_events_after_eviction() -> None:
    log = a_log(replay_bytes=5000)
    track = log.open_track("a", lambda: None)
    for _ in range(5):
        fill(log, track, 5)
        log.encoded(LINES, log.first, log.top, MIB)
    assert log.first > 1
    pieces = log.encoded(LINES, log.first, log.top, MIB)
    assert pieces == [LINES.encode(log.event(seq)) for seq in range(log.first, 26)]


def test_who_follows_one_run_is_cut_off_before_it_pins_too_much_of_the_others() -> None:
    log = a_log(replay_bytes=5000, max_pinned_bytes=20_000)
    a, b = log.open_track("a", lambda: None), log.open_track("b", lambda: None)
    owner = Owner()
    log.add_place(a, 0, capacity=10, window_bytes=MIB, owner=owner)
    everything = log.add_place(log.flow, 0, capacity=1000, window_bytes=MIB, owner=None)
    fill(log, a, 1)
    while owner.error is None:
        fill(log, b, 1)
        log.move_place(everything, log.top, *log.counted(log.flow, log.top))
        assert log.kept_bytes <= 5000 + 20_000 + 2000
    assert isinstance(owner.error, SubscriberLagged)
    assert log.kept_bytes <= 5000 + 2000
    assert log.has_room(a)


def test_what_its_only_reader_took_is_there_for_whoever_comes_later() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    fill(log, track, 60)
    before = [log.event(seq) for seq in range(1, 61)]
    encoder = HTTPEncoder("sse")
    written, start = b"", 1
    while start <= 60:
        data, taken, _, _ = log.joined(encoder, start, 60, 5000, must=True)
        written, start = written + data, start + taken
    assert log.joined(encoder, 1, 60, MIB, must=True)[0] == written
    assert log.event(31) == before[30]
    assert b"".join(log.encoded(encoder, 1, 60, MIB)) == written
    lines = log.encoded(HTTPEncoder("ndjson"), 1, 60, MIB)
    assert list(lines) == [HTTPEncoder("ndjson").encode(event) for event in before]


def test_large_events_are_kept_as_they_are_when_their_only_reader_took_them() -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    fill(log, track, 3, "x" * 5000)
    before = [log.event(seq) for seq in range(1, 4)]
    log.joined(HTTPEncoder("ndjson"), 1, 3, MIB, must=True)
    assert all(log.event(seq) is before[seq - 1] for seq in range(1, 4))


def test_a_batch_of_which_a_part_was_evicted_gives_the_rest() -> None:
    log = a_log(replay_bytes=20_000)
    track = log.open_track("a", lambda: None)
    fill(log, track, 15)
    log.joined(HTTPEncoder("ndjson"), 1, 15, MIB, must=True)
    fill(log, track, 12)
    assert 1 < log.first < 15
    assert [log.event(seq).id for seq in range(log.first, 28)] == [
        log.id_of(seq) for seq in range(log.first, 28)
    ]


async def test_a_publisher_of_large_events_is_woken_when_half_of_the_bytes_are_free(
    autojump_clock: object,
) -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=900, window_bytes=MIB, owner=None)
    while log.has_room(track):
        fill(log, track, 1, "x" * 10_000)
    half = next(seq for seq in range(log.top) if log.weight(seq + 1, log.top) <= MIB // 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.room.park)
        await trio.testing.wait_all_tasks_blocked()
        log.move_place(place, half - 1, *log.counted(log.flow, half - 1))
        await trio.testing.wait_all_tasks_blocked()
        assert log.has_room(track)
        assert len(nursery.child_tasks) == 1
        log.move_place(place, half, *log.counted(log.flow, half))


@pytest.mark.parametrize(("capacity", "enough"), [(64, 32), (900, 64)])
async def test_a_publisher_is_woken_when_half_of_a_window_is_free_or_64_events(
    capacity: int,
    enough: int,
    autojump_clock: object,
) -> None:
    log = a_log()
    track = log.open_track("a", lambda: None)
    place = log.add_place(log.flow, 0, capacity=capacity, window_bytes=MIB, owner=None)
    fill(log, track, capacity)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.room.park)
        await trio.testing.wait_all_tasks_blocked()
        log.move_place(place, enough - 1, *log.counted(log.flow, enough - 1))
        await trio.testing.wait_all_tasks_blocked()
        assert log.has_room(track)  # who asks may go on; who sleeps is left to sleep
        assert len(nursery.child_tasks) == 1
        log.move_place(place, enough, *log.counted(log.flow, enough))
