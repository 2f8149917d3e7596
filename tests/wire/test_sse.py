from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import LocalProtocolError, RemoteProtocolError
from eventmesh_trio.wire.sse import (
    ServerSentEvent,
    SSEDecoder,
    encode_block,
    encode_comment,
)


def cut(wire: bytes, points: list[int]) -> list[bytes]:
    """Cut bytes at any points; empty chunks and single bytes included."""
    edges = [0, *sorted(point % (len(wire) + 1) for point in points), len(wire)]
    return [wire[a:b] for a, b in pairwise(edges)]


def decode(wire: bytes, **limits: int) -> list[ServerSentEvent]:
    decoder = SSEDecoder(**limits)  # type: ignore[arg-type]
    decoder.receive_data(wire)
    return list(decoder.events())


def texts(wire: bytes) -> list[tuple[str, str]]:
    return [(event.event, event.data) for event in decode(wire)]


points = st.lists(st.integers(0, 1 << 30), max_size=12)
values = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r\n"))
data_texts = st.text(alphabet=st.characters(codec="utf-8")) | st.text(alphabet="\r\n :a")


def as_received(text: str) -> str:
    """Line ends of any kind arrive as LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(
    st.lists(st.tuples(values, data_texts, st.none() | values, st.none() | st.integers(0, 10**9))),
    points,
)
def test_a_round_trip_is_indifferent_to_chunk_boundaries(
    blocks: list[tuple[str, str, str | None, int | None]], at: list[int]
) -> None:
    wire = b"".join(
        encode_block(event, data.encode(), event_id, retry)
        for event, data, event_id, retry in blocks
    )
    decoder = SSEDecoder()
    received = []
    for chunk in cut(wire, at):
        decoder.receive_data(chunk)
        received += decoder.events()
    last_id, retry_ms, expected = "", None, []
    for event, data, event_id, retry in blocks:
        last_id = last_id if event_id is None else event_id
        retry_ms = retry_ms if retry is None else retry
        expected.append(ServerSentEvent(event or "message", as_received(data), last_id))
    assert received == expected
    assert (decoder.last_event_id, decoder.retry_ms) == (last_id, retry_ms)


def outcome(chunks: list[bytes], limit: int) -> tuple[list[ServerSentEvent], str, int | None, bool]:
    decoder = SSEDecoder(max_event_bytes=limit)
    received: list[ServerSentEvent] = []
    refused = False
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            for event in decoder.events():
                received.append(event)  # noqa: PERF402 - what came before the error counts
    except RemoteProtocolError:
        refused = True
    return received, decoder.last_event_id, decoder.retry_ms, refused


pieces = [b"\r", b"\n", b"\r\n", b":", b" ", b"data", b"id", b"event", b"retry", b"7", b"\0", b"x"]
pieces += [b"\xef\xbb\xbf", b"\xff", b"\xe2\x82"]
noise = st.lists(st.sampled_from(pieces)).map(b"".join)


@given(noise | st.binary(), points, st.integers(0, 30))
def test_any_bytes_are_accepted_or_refused_alike_however_cut(
    wire: bytes, at: list[int], limit: int
) -> None:
    assert outcome(cut(wire, at), limit) == outcome([wire], limit)
    assert outcome([wire[i : i + 1] for i in range(len(wire))], limit) == outcome([wire], limit)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # The examples of WHATWG HTML, 9.2.6.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
            b"data:  third event\n\n",
            [("message", "first event"), ("message", "second event"), ("message", " third event")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", ""), ("message", "\n")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test"), ("message", "test")]),
        (b"event: add\ndata: 73857293\n\n", [("add", "73857293")]),
        # Line ends, the BOM, unknown fields, an event without data.
        (
            b"data: a\r\rdata: b\r\n\r\ndata: c\n\n",
            [("message", "a"), ("message", "b"), ("message", "c")],
        ),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [("message", "b")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a")]),
        (b"event: lost\n\ndata: a\n\n", [("message", "a")]),
        (b"DATA: a\nfoo: b\n data: c\n\n", []),
        (b"data: \xff\xe2\x82\n\n", [("message", "\ufffd\ufffd")]),
        (b"data: a\n", []),
    ],
)
def test_the_standards_cases(stream: bytes, expected: list[tuple[str, str]]) -> None:
    assert texts(stream) == expected


def test_ids_follow_the_standard() -> None:
    wire = b"id: 1\ndata: a\n\ndata: b\n\nid: x\0y\ndata: c\n\nid: 2\n\ndata: d\n\nid\ndata: e\n\n"
    assert [event.last_event_id for event in decode(wire)] == ["1", "1", "1", "2", ""]


def test_a_block_that_is_cut_off_leaves_the_last_event_id_alone() -> None:
    decoder = SSEDecoder("seen-1")
    decoder.receive_data(b"id: seen-2\ndata: a\n")
    assert list(decoder.events()) == []
    assert decoder.last_event_id == "seen-1"
    decoder.receive_data(b"\n")
    assert [event.last_event_id for event in decoder.events()] == ["seen-2"]


def test_a_new_connection_goes_on_with_the_id_of_the_last() -> None:
    decoder = SSEDecoder("seen-1")
    decoder.receive_data(b"data: heartbeat\n\n")
    assert [event.last_event_id for event in decoder.events()] == ["seen-1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"3000", 3000),
        (b"0", 0),
        (b"007", 7),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"1e3", None),
        ("٣".encode(), None),
        (b"9" * 5000, 10**12),
    ],
)
def test_retry_is_ascii_digits_or_ignored(value: bytes, expected: int | None) -> None:
    decoder = SSEDecoder()
    decoder.receive_data(b"retry: " + value + b"\n")
    assert list(decoder.events()) == []
    assert decoder.retry_ms == expected


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_comments_are_skipped_whatever_they_say(text: str) -> None:
    assert texts(encode_comment(text) + b"data: a\n\n") == [("message", "a")]


def test_blocks_have_the_documented_form() -> None:
    assert encode_block("result", b"{}", "e-1", 3000) == (
        b"retry: 3000\nid: e-1\nevent: result\ndata: {}\n\n"
    )
    assert encode_block("progress", b"{}", None) == b"event: progress\ndata: {}\n\n"
    assert encode_comment("keep-alive") == b": keep-alive\n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_names_and_ids_cannot_inject_fields(bad: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_block(bad, b"{}", None)
    with pytest.raises(LocalProtocolError):
        encode_block("result", b"{}", bad)


def test_an_event_over_its_limit_is_refused() -> None:
    assert [e.data for e in decode(b"data: 12345678\n\n", max_event_bytes=14)] == ["12345678"]
    with pytest.raises(RemoteProtocolError, match="longer than 14 bytes"):
        decode(b"data: 123456789\n\n", max_event_bytes=14)
    with pytest.raises(RemoteProtocolError, match="larger than 14 bytes"):
        decode(b"data: 1234567\ndata: 1234567\n\n", max_event_bytes=14)


def test_the_limit_is_of_one_event_not_of_the_stream() -> None:
    assert len(decode(b"data: 12345678\n\n" * 1000, max_event_bytes=14)) == 1000


def test_a_line_that_never_ends_is_refused_before_it_is_kept() -> None:
    decoder = SSEDecoder(max_event_bytes=1000)
    decoder.receive_data(b"data: " + b"x" * 1000)
    with pytest.raises(RemoteProtocolError):
        list(decoder.events())
