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
from benchmarks.synthetic import MAKERS, MEDIUM, SIZES, SMALL
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


def measurement(rate: float, events: int) -> Measurement:
    return Measurement(events, events, events * 1_400, events / rate, (0.001,), 0.2)


def test_streams_are_as_long_as_takes_their_server_a_round() -> None:
    lengths: dict[str, list[int]] = {"quick": [], "slow": []}

    def taker(name: str, rate: float) -> Taker:
        def run(count: int) -> Measurement:
            lengths[name].append(count)
            return measurement(rate, 2 * count)

        return Taker(name, run, readers=2, size=MEDIUM)

    take_rounds([taker("quick", 100_000.0), taker("slow", 1_000.0)], 2, 0.5)
    first = rounds.LIKELY_RATE // 4  # half a second, two readers
    assert lengths["quick"] == [first, *[25_000] * (rounds.PROBES - 1 + 2)]
    assert lengths["slow"] == [first, *[250] * (rounds.PROBES - 1 + 2)]


def test_rounds_with_many_readers_are_longer() -> None:
    assert rounds.round_seconds(500, quick=False) == 3 * rounds.round_seconds(50, quick=False)
    assert rounds.round_seconds(50, quick=True) < rounds.round_seconds(50, quick=False)


def test_a_stream_has_some_events_and_not_too_many_bytes() -> None:
    endless = Taker("x", lambda _: measurement(1.0, 1), 1, SMALL, rate=1e12)
    assert endless.length(1.0) * SMALL == rounds.MAX_BYTES_EACH
    assert (
        Taker("x", lambda _: measurement(1.0, 1), 1, SMALL, rate=0.1).length(1.0)
        == rounds.MIN_EVENTS_EACH
    )


def test_a_peer_that_fails_drops_out_with_its_reason_and_ours_may_not() -> None:
    def fail(_: int) -> Measurement:
        raise ConnectionResetError("gone")

    good = Taker("good", lambda count: measurement(1_000.0, count), 1, MEDIUM)
    bad = Taker("bad", fail, 1, MEDIUM)
    assert take_rounds([bad, good], 3, 0.1) == [good]
    assert bad.failure == "ConnectionResetError: gone"
    assert len(good.taken) == 3
    with pytest.raises(ConnectionResetError):
        take_rounds([Taker("ours", fail, 1, MEDIUM, may_fail=False), good], 1, 0.1)
