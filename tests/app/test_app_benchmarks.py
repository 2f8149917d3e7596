"""The benchmarks' own server and readers work: figures are for a quiet machine, not for here."""

import socket
from collections.abc import Iterator

import pytest

from benchmarks.contestants import FRAMINGS, OURS, serving
from benchmarks.fanout import run_ours
from benchmarks.idle import attached_streams, own_streams
from benchmarks.readers import END, RESULT, Reader
from benchmarks.stream import Scenario, run_once
from benchmarks.synthetic import SIZES


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with serving(OURS, None) as (address, _):
        yield address


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_every_reader_counts_every_result(
    address: tuple[str, int], framing: str, readers: int, size: int
) -> None:
    measured = run_once(OURS, address, Scenario(framing, readers, size, 1), 700)
    assert measured.results == measured.expected == readers * 700
    assert 0.93 * size < measured.nbytes / measured.results < 1.1 * size + 150
    assert len(measured.first_byte_seconds) == readers
    assert all(seconds > 0 for seconds in measured.first_byte_seconds)


@pytest.mark.parametrize("lossy", [False, True])
def test_one_run_is_brought_to_every_reader_of_its_session(
    address: tuple[str, int], lossy: bool
) -> None:
    measured = run_ours(address, 5, lossy, 600)
    assert measured.expected == 5 * 600
    assert measured.results == measured.expected or lossy
    assert measured.results >= 5  # of what is lost the last is not


def read_to_end(stream: socket.socket) -> None:
    while stream.recv(65536):
        pass


def test_idle_streams_stay_open_after_their_first_event(address: tuple[str, int]) -> None:
    for opener in (own_streams(OURS), attached_streams):
        with opener(address)() as stream:
            stream.settimeout(0.2)
            with pytest.raises(TimeoutError):
                read_to_end(stream)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 17, 40, 1000])
def test_a_reader_counts_markers_that_are_split_between_pieces(
    address: tuple[str, int], size: int
) -> None:
    stream = (b"x" * 13 + RESULT + b"y") * 9 + RESULT + RESULT + b"z" * 5 + END + b"}\n"
    reader = Reader(address)
    for start in range(0, len(stream), size):
        piece = bytearray(stream[start : start + size])
        reader.take(piece, len(piece))
    reader.socket.close()
    assert (reader.results, reader.ended) == (11, True)
    assert reader.nbytes == len(stream)
