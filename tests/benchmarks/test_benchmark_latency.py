"""Latencies are those of the schedule, however the events come in; and what is asked of them."""

import socket
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import latency
from benchmarks.contestants import Contestant, serving
from benchmarks.first_bytes import first_bytes
from benchmarks.latency import MODES, SHARED, Measure, demands
from benchmarks.outcome import Case, Figure
from benchmarks.pace import Pace
from benchmarks.paced_contestants import OURS
from benchmarks.paced_readers import PacedReader, read_all


@pytest.fixture
def stream() -> socket.socket:
    with socket.socket() as unused:
        return unused


def test_an_event_is_due_by_the_schedule_alone() -> None:
    pace = Pace(3, 1_000_000_000, 250_000_000)
    assert [pace.due_seconds(index) for index in range(3)] == [1.0, 1.25, 1.5]
    assert pace.shifted(5).due_ns(0) == 1_000_000_005


@given(st.integers(1, 10**9), st.integers(0, 10**18), st.integers(0, 10**12))
def test_our_server_reads_the_pace_that_it_is_asked_for(count: int, start: int, every: int) -> None:
    pace = Pace(count, start, every)
    url = msgspec.json.decode(pace.body(is_ours=True))["urls"][0]
    assert Pace.of_query(parse_qs(urlsplit(url).query)) == pace


@given(st.data())
def test_lateness_counts_from_when_an_event_was_due_wherever_pieces_are_cut(
    data: st.DataObject,
) -> None:
    pace = Pace(12, 5_000_000_000, 1_000_000)
    wire = b"".join(b'{"event":"result","index":%d,"x":"y"}\n' % index for index in range(12))
    with socket.socket() as unused:
        reader = PacedReader(unused, pace)
        start = 0
        while start < len(wire):
            size = data.draw(st.integers(1, 60))
            reader.take(wire[start : start + size], 5_100_000_000)
            start += size
    assert reader.ended
    assert list(reader.seconds) == list(range(12))
    expected = [0.1 - index / 1000 for index in range(12)]
    assert list(reader.seconds.values()) == pytest.approx(expected)


def test_an_event_that_comes_twice_is_an_error(stream: socket.socket) -> None:
    reader = PacedReader(stream, Pace(3))
    reader.take(b'{"index":0,}', 1)
    with pytest.raises(RuntimeError, match="twice"):
        reader.take(b'{"index":0,}', 2)


def test_a_stream_that_ends_before_its_last_event_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b'{"index":0}')
        with pytest.raises(RuntimeError, match="early"):
            read_all([PacedReader(ours, Pace(2))])


@pytest.mark.parametrize("framing", OURS.framings)
@pytest.mark.parametrize("measure", MODES.values(), ids=str)
def test_every_reader_has_every_event_of_our_server_and_none_before_it_was_due(
    framing: str, measure: Measure
) -> None:
    with serving(OURS, None) as (address, _):
        found = measure(OURS, address, framing, 4, 0.2)
        assert len(found) == (200 if "own" in measure.__name__ else 800)
        assert min(found) >= 0
        assert all(seconds > 0 for seconds in first_bytes(OURS, address, 3))


def case(name: str, ours: float, **peers: float) -> Case:
    figures = [Figure(OURS.name, (ours,)), *(Figure(k, (v,)) for k, v in peers.items())]
    return Case(name, "ms, p99", tuple(figures), less_is_better=True)


@pytest.mark.parametrize(
    ("ours", "met"),
    [(3.0, [True, True]), (3.2, [True, False]), (8.1, [False, False])],
)
def test_our_p99_is_held_to_a_bound_and_to_the_best_peer(ours: float, met: list[bool]) -> None:
    found = list(demands([case(f"NDJSON, 20 readers, {SHARED}", ours, slow=9.0, best=3.1)]))
    assert [demand.is_met for demand in found] == met
    assert "best" in found[1].text


def test_streams_of_their_own_are_held_to_the_bound_alone() -> None:
    (only,) = demands([case("NDJSON, 20 readers, streams of their own", 3.2, best=3.1)])
    assert (only.asked, only.is_met) == (8.0, True)


def test_of_first_bytes_only_those_without_load_have_a_bound_and_of_readers_only_twenty() -> None:
    cases = [
        case("NDJSON, 100 readers, any", 99.0, peer=1.0),
        case("First byte, nothing else to do", 5.1, peer=1.0),
        case("First byte, beside a stream at full speed", 99.0, peer=1.0),
    ]
    (only,) = demands(cases)
    assert (only.asked, only.is_met) == (5.0, False)


def test_a_peer_that_fails_in_a_later_round_is_left_out_of_its_case_alone() -> None:
    missing: dict[str, str] = {}
    taken = latency._Taken("a case", missing)
    peer = Contestant("x", lambda *_: [])

    def fail() -> list[float]:
        raise OSError("it is gone")

    for measured in (lambda: [0.1], fail, lambda: [0.1]):
        taken.take(peer, measured)
    taken.take(OURS, lambda: [0.2])
    assert [figure.contestant for figure in taken.case().figures] == [OURS.name]
    assert missing == {"x (a case)": "OSError: it is gone"}
    with pytest.raises(OSError, match="it is gone"):
        taken.take(OURS, fail)
