from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import LocalProtocolError, RemoteProtocolError
from eventmesh_trio.wire.codec import decode_json, encode_json
from eventmesh_trio.wire.ndjson import MAX_LINE_BYTES, NDJSONDecoder, encode_line


def cut(wire: bytes, points: list[int]) -> list[bytes]:
    """Cut bytes at any points; empty chunks and single bytes included."""
    edges = [0, *sorted(point % (len(wire) + 1) for point in points), len(wire)]
    return [wire[a:b] for a, b in pairwise(edges)]


points = st.lists(st.integers(0, 1 << 30), max_size=12)
# No CR at the edges and no blank lines: those the format does not keep.
bodies = st.binary(min_size=1).map(lambda b: b.replace(b"\n", b"")).map(lambda b: b"{" + b + b"}")


@given(st.lists(bodies), points)
def test_a_round_trip_is_indifferent_to_chunk_boundaries(texts: list[bytes], at: list[int]) -> None:
    wire = b"".join(map(encode_line, texts))
    decoder = NDJSONDecoder()
    received = []
    for chunk in cut(wire, at):
        decoder.receive_data(chunk)
        received += decoder.events()
    assert received == texts


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers())))
def test_whatever_is_encoded_as_json_comes_back(values: list[Any]) -> None:
    decoder = NDJSONDecoder()
    decoder.receive_data(b"".join(encode_line(encode_json(value)) for value in values))
    assert [decode_json(body) for body in decoder.events()] == values


def outcome(chunks: list[bytes], limit: int, *, whole: bool) -> tuple[list[bytes], bool]:
    decoder = NDJSONDecoder(limit)
    received: list[bytes] = []
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            for body in decoder.events():
                received.append(body)  # noqa: PERF402 - what came before the error counts
        if whole:
            decoder.end()
            received += decoder.events()
    except RemoteProtocolError:
        return received, False
    return received, True


noise = st.lists(st.sampled_from([b"\n", b"\r", b" ", b"\t", b"a", b"bc", b"\xff", b"\0"])).map(
    b"".join
)


@given(noise | st.binary(), points, st.integers(0, 8), st.booleans())
def test_any_bytes_are_accepted_or_refused_alike_however_cut(
    wire: bytes, at: list[int], limit: int, whole: bool
) -> None:
    assert outcome(cut(wire, at), limit, whole=whole) == outcome([wire], limit, whole=whole)


def test_a_final_line_without_newline_counts_when_the_stream_ended_whole() -> None:
    decoder = NDJSONDecoder()
    decoder.receive_data(b'{"a":1}\n{"b":2}')
    assert list(decoder.events()) == [b'{"a":1}']
    decoder.end()
    assert list(decoder.events()) == [b'{"b":2}']
    assert list(decoder.events()) == []


def test_blank_lines_and_carriage_returns_are_dropped() -> None:
    decoder = NDJSONDecoder()
    decoder.receive_data(b"\r\n \n1\r\n\n\n2\n\t")
    decoder.end()
    assert list(decoder.events()) == [b"1", b"2"]


def test_data_after_the_end_is_our_bug() -> None:
    decoder = NDJSONDecoder()
    decoder.end()
    with pytest.raises(LocalProtocolError):
        decoder.receive_data(b"1\n")


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n1\n"])
def test_a_line_over_its_limit_is_refused_and_stays_refused(tail: bytes) -> None:
    decoder = NDJSONDecoder(max_line_bytes=4)
    decoder.receive_data(b"1234\n12345" + tail)
    events = decoder.events()
    assert next(events) == b"1234"
    with pytest.raises(RemoteProtocolError, match="longer than 4 bytes"):
        next(events)
    with pytest.raises(RemoteProtocolError):
        list(decoder.events())


def test_the_default_limit_admits_the_largest_message_of_the_contract() -> None:
    body = b'"' + b"x" * (10 * 2**20) + b'"'
    assert len(body) < MAX_LINE_BYTES
    decoder = NDJSONDecoder()
    decoder.receive_data(encode_line(body))
    assert list(decoder.events()) == [body]


def test_leaving_the_iteration_early_loses_nothing() -> None:
    decoder = NDJSONDecoder()
    decoder.receive_data(b"1\n2\n3\n")
    assert [next(decoder.events()) for _ in range(3)] == [b"1", b"2", b"3"]
