"""Readers that only count, and the lengths of the streams that they are sent."""

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import rounds
from benchmarks.bare import FRAMES, Asked, encoded_batches, repeated_batches
from benchmarks.readers import END, MARKERS, RESULT, Measurement, Reader, measure
from benchmarks.rounds import Taker, take_rounds
from benchmarks.synthetic import MAKERS, MEDIUM, SIZES
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.events import stamp


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening


@given(
    st.lists(st.sampled_from([RESULT, b"{", b'"event":"res', b'"event":"sum', b"x" * 40])),
    st.data(),
)
def test_a_reader_counts_the_same_however_the_stream_is_cut(
    listener: socket.socket, parts: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(parts) + END
    reader = Reader(listener.getsockname())
    listener.accept()[0].close()
    with reader.socket:
        rest = stream
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            assert not reader.ended
            # What stands behind the piece is left from the one before, and no part of it.
            reader.take(bytearray(rest[:size] + RESULT + END), size)
            rest = rest[size:]
    assert (reader.results, reader.nbytes, reader.ended) == (
        stream.count(RESULT),
        len(stream),
        True,
    )


@pytest.mark.parametrize(
    ("brings", "asked", "lossless"), [(2, 3, True), (3, 3, True), (2, 3, False)]
)
def test_a_lossless_stream_that_brings_too_little_is_an_error(
    listener: socket.socket, brings: int, asked: int, lossless: bool
) -> None:
    def answer() -> None:
        stream, _ = listener.accept()
        with stream:
            stream.recv(100)
            stream.sendall(RESULT * brings + END)

    answering = threading.Thread(target=answer)
    answering.start()
    reader = Reader(listener.getsockname())
    try:
        if lossless and brings < asked:
            with pytest.raises(RuntimeError, match="brought 2 events, not 3"):
                measure([reader], b"please", asked)
        else:
            found = measure([reader], b"please", asked, lossless=lossless)
            assert (found.results, found.expected) == (brings, asked)
    finally:
        answering.join()


@pytest.mark.parametrize("size", SIZES)
def test_events_are_about_as_long_as_they_are_called_and_carry_the_marker_of_their_size(
    size: int,
) -> None:
    event = stamp(
        MAKERS[size](12_345, 50_000, "req-00000000-0000-0000-0000-000000000000"), "x" * 16
    )
    encoded = encode_json(event)
    assert 0.9 * size < len(encoded) < 1.1 * size
    assert encoded.count(MARKERS[size]) == 1


@pytest.mark.parametrize("batches", [encoded_batches, repeated_batches])
@pytest.mark.parametrize("target", sorted(FRAMES))
def test_a_bare_socket_sends_exactly_the_events_that_were_asked_for(
    batches: type[encoded_batches], target: bytes
) -> None:
    for count in (1, 44, 1_000):
        sent = b"".join(batches(Asked(count), FRAMES[target]))
        assert (sent.count(RESULT), sent.count(END)) == (count, 1)
        assert len(sent) > count * 1_400


def measurement(seconds: float, events: int) -> Measurement:
    return Measurement(events, events, events * 1_400, seconds, (0.001,), 0.2)


def taker(name: str, rate: float, lengths: list[int], asking_seconds: float = 0.0) -> Taker:
    """One with two readers that sends so many events a second once it was asked."""

    def run(count: int) -> Measurement:
        lengths.append(count)
        return measurement(asking_seconds + 2 * count / rate, 2 * count)

    return Taker(name, run, readers=2, size=MEDIUM)


def test_streams_are_as_long_as_takes_their_server_a_round() -> None:
    quick: list[int] = []
    slow: list[int] = []
    take_rounds([taker("quick", 100_000.0, quick), taker("slow", 1_000.0, slow)], 2, 0.5)
    assert quick[0] == slow[0] == rounds.LIKELY_RATE * rounds.ROUND_SECONDS / 2
    assert quick[1] == 10 * quick[0]  # by so much at once and no more
    assert quick[2:] == [25_000] * (rounds.PROBES + 2)
    assert slow[1:] == [250] * (rounds.PROBES - 1 + 2)


def test_a_round_of_hardly_more_than_the_asking_makes_the_next_one_longer() -> None:
    lengths: list[int] = []
    (left,) = take_rounds([taker("x", 1_000_000.0, lengths, asking_seconds=0.2)], 3, 0.5)
    assert len(lengths) <= rounds.MAX_PROBES + rounds.PROBES + 3
    assert left.taken[0].seconds > 0.3
    assert left.figure(lambda _: {}).median > 0.5 * 1_000_000 * 0.3 / 0.5


@pytest.mark.parametrize(("given", "not_counted"), [(5, 5 + rounds.PROBES), (99, None)])
def test_rounds_count_once_a_server_takes_hardly_any_new_memory(
    given: int, not_counted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    one = taker("x", 1_000.0, lengths)
    one.pid = 1
    monkeypatch.setattr(rounds, "touched_bytes", lambda _: min(len(lengths), given) << 30)
    (left,) = take_rounds([one], 2, 0.5)
    assert len(lengths) - 2 == (not_counted or rounds.MAX_PROBES + rounds.PROBES)
    assert len(left.taken) == 2


def test_rounds_with_many_readers_are_longer() -> None:
    assert rounds.round_seconds(500, quick=False) == 3 * rounds.round_seconds(50, quick=False)
    assert rounds.round_seconds(50, quick=True) < rounds.round_seconds(50, quick=False)


def test_a_stream_has_some_events_and_not_too_many_bytes() -> None:
    few: list[int] = []
    many: list[int] = []
    take_rounds([taker("few", 0.1, few), taker("many", 1e12, many)], 1, 0.5)
    assert few[-1] == rounds.MIN_EVENTS_EACH
    assert many[-1] * MEDIUM <= rounds.MAX_BYTES_EACH < (many[-1] + 1) * MEDIUM


def test_a_peer_that_fails_drops_out_with_its_reason_and_ours_may_not() -> None:
    def fail(_: int) -> Measurement:
        raise ConnectionResetError("gone")

    good = taker("good", 1_000.0, [])
    bad = Taker("bad", fail, 1, MEDIUM)
    assert take_rounds([bad, good], 3, 0.1) == [good]
    assert bad.failure == "ConnectionResetError: gone"
    assert len(good.taken) == 3
    with pytest.raises(ConnectionResetError):
        take_rounds([Taker("ours", fail, 1, MEDIUM, may_fail=False), good], 1, 0.1)
