"""One canonical event in the framing, dialect and shape of each kind of reader."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from eventmesh_trio.errors import FetchTimeout, InternalError, ValidationError
from eventmesh_trio.wire import events
from eventmesh_trio.wire.encoders import (
    MAX_MESSAGE_BYTES,
    EnvelopeEncoder,
    FlatEncoder,
    HTTPEncoder,
)
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.ndjson import NDJSONDecoder
from eventmesh_trio.wire.negotiation import accepts, message_encoder, stream_encoder
from eventmesh_trio.wire.sse import SSEDecoder
from eventmesh_trio.wire.websocket import FrameStyle

NOW = "2024-01-15T10:30:00.000Z"
ID = "e1-7"


def a_document(text: str = "Words. " * 200) -> events.Document:
    return events.Document(
        url="http://e.org/",
        title="T",
        markdown=f"# T\n\n{text}",
        text=text,
        word_count=200,
        reading_time=1,
        quality_score=90,
        extracted_at=NOW,
        content_hash="sha256:0",
    )


def a_result(
    document: events.Document | None, error: events.ErrorInfo | None = None
) -> events.Event:
    flat = {
        "url": "http://e.org/",
        "status": 200 if document else 0,
        "from_cache": False,
        "gate_decision": "raw",
        "quality_score": 0.85,
        "processing_time_ms": 12,
        "error": error,
    }
    result = events.Result(
        timestamp=NOW,
        request_id="r1",
        index=3,
        result=events.PageResult(document=document, cache_key="k", **flat),
        progress=events.CrawlProgress(4, 10, 1.0),
        pipeline_metadata=events.PipelineMetadata(
            gate_decision_reason="text", extraction_method="density", processing_stages=("fetch",)
        ),
        **flat,
    )
    return events.stamp(result, ID)


def test_an_ndjson_line_has_nested_and_flat_members_and_its_id():
    line = HTTPEncoder("ndjson").encode(a_result(a_document()))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    body = json.loads(line)
    assert (body["event"], body["id"], body["request_id"]) == ("result", ID, "r1")
    assert body["result"]["document"]["title"] == "T"
    assert (body["url"], body["status"], body["gate_decision"]) == ("http://e.org/", 200, "raw")
    assert "document" not in body


def test_a_failed_url_is_an_error_line_without_id_and_then_its_result():
    failure = error_info(FetchTimeout("too slow"), NOW)
    lines = HTTPEncoder("ndjson").encode(a_result(None, failure)).splitlines()
    error, result = map(json.loads, lines)
    assert (error["event"], error["url"], error["index"]) == ("error", "http://e.org/", 3)
    assert error["recovery_suggestions"] == list(FetchTimeout.suggestions)
    assert "id" not in error
    assert (result["event"], result["id"], result["result"]["document"]) == ("result", ID, None)


def test_a_url_that_a_bug_failed_comes_with_advice_too():
    failure = error_info(InternalError("the server failed to handle this URL"), NOW)
    error = json.loads(HTTPEncoder("ndjson").encode(a_result(None, failure)).splitlines()[0])
    assert error["recovery_suggestions"] == list(InternalError.suggestions) != []


def test_on_sse_and_websocket_a_failed_url_is_no_error_event():
    failed = a_result(None, error_info(FetchTimeout("too slow"), NOW))
    decoder = SSEDecoder()
    decoder.receive_data(HTTPEncoder("sse").encode(failed))
    assert [event.event for event in decoder.events()] == ["result"]
    assert json.loads(EnvelopeEncoder("message").encode(failed))["message_type"] == "result"


def test_an_sse_block_carries_tag_data_and_id():
    decoder = SSEDecoder()
    decoder.receive_data(HTTPEncoder("sse").encode(a_result(a_document())))
    (event,) = decoder.events()
    assert (event.event, event.last_event_id) == ("result", ID)
    assert json.loads(event.data)["id"] == ID


def test_a_heartbeat_on_sse_also_is_a_comment():
    beat = events.Heartbeat(
        timestamp=NOW,
        session_id="s",
        server_health=events.ServerHealth(
            status="healthy",
            active_connections=1,
            system_load=0.1,
            memory_usage_mb=50,
            uptime_seconds=3,
        ),
        connection_stats=events.ConnectionStats(
            bytes_sent=1, messages_sent=1, avg_send_time_ms=0.1, connection_duration_seconds=30.0
        ),
    )
    assert HTTPEncoder("sse").encode(beat).startswith(b": keep-alive\n\nevent: heartbeat\n")
    assert b"keep-alive" not in HTTPEncoder("ndjson").encode(beat)


@pytest.mark.parametrize(
    ("shape", "has", "lacks"),
    [
        ("nested", ["result"], ["url", "status", "document", "error"]),
        ("flat", ["url", "status", "document", "error"], ["result"]),
        ("both", ["url", "status", "result", "error"], ["document"]),
        ("preview", ["url", "result", "document"], []),
    ],
)
def test_a_shape_is_how_much_of_a_result_stands_at_the_top(shape, has, lacks):
    body = json.loads(HTTPEncoder("ndjson", shape).encode(a_result(a_document())))
    assert all(name in body for name in has)
    assert not any(name in body for name in lacks)


def test_a_preview_has_the_first_500_characters():
    body = json.loads(
        HTTPEncoder("sse", "preview").encode(a_result(a_document())).split(b"data: ")[1]
    )
    assert len(body["document"]["text"]) == 500
    assert set(body["document"]) == {"url", "title", "text", "word_count", "quality_score"}


def test_an_envelope_has_the_event_as_data_and_the_id_in_both_places():
    body = json.loads(EnvelopeEncoder("message").encode(a_result(a_document())))
    assert (body["message_type"], body["id"], body["timestamp"]) == ("result", ID, NOW)
    assert (body["data"]["request_id"], body["data"]["id"]) == ("r1", ID)
    assert body["data"]["result"]["url"] == "http://e.org/"


def test_the_flat_dialect_has_ids_in_camel_case_and_the_full_document():
    body = json.loads(FlatEncoder("message", "s1").encode(a_result(a_document())))
    assert (body["event"], body["requestId"], body["sessionId"]) == ("result", "r1", "s1")
    assert body["document"]["markdown"].startswith("# T")
    assert "result" not in body


@given(st.text(min_size=1, max_size=300))
def test_a_frame_is_one_websocket_text_message(text):
    encoder = EnvelopeEncoder("frame")
    frame = encoder.encode(a_result(a_document(text)))
    parser = FrameProtocol(client=True, extensions=[])
    parser.receive_bytes(frame)
    received = list(parser.received_frames())
    assert {part.opcode for part in received} == {Opcode.TEXT}
    joined = "".join(str(part.payload) for part in received)
    assert json.loads(joined)["data"]["result"]["document"]["text"] == text


@given(st.lists(st.text(max_size=50), max_size=5))
def test_lines_of_any_text_come_back_as_they_were(texts):
    decoder = NDJSONDecoder()
    encoder = HTTPEncoder("ndjson", "nested")
    decoder.receive_data(b"".join(encoder.encode(a_result(a_document(text))) for text in texts))
    read = [json.loads(line)["result"]["document"]["text"] for line in decoder.events()]
    assert read == texts


def test_equal_encoders_are_one_key():
    assert (
        len({HTTPEncoder("sse"), HTTPEncoder("sse", "both"), stream_encoder("sse", "both", None)})
        == 1
    )
    assert message_encoder("flat", "frame", "s") == FlatEncoder("frame", "s")
    assert message_encoder("envelope", "frame", "s") == EnvelopeEncoder("frame")


def test_a_shape_that_is_none_is_refused():
    assert stream_encoder("ndjson", "both", "flat").shape == "flat"
    with pytest.raises(ValidationError, match="shape"):
        stream_encoder("ndjson", "both", "round")


@pytest.mark.parametrize(
    ("accept", "named"),
    [
        (b"text/event-stream", True),
        (b"application/json, text/event-stream;q=0.5", True),
        (b"Text/Event-Stream; charset=utf-8", True),
        (b"text/event-stream;q=0.0", False),
        (b"*/*", False),
        (b"", False),
        (None, False),
    ],
)
def test_accept_names_a_type_or_it_does_not(accept, named):
    assert accepts(accept, b"text/event-stream") is named


def test_members_that_do_not_apply_are_not_on_the_wire():
    gap = events.Gap(timestamp=NOW, missing_from=None, missing_to=4, epoch_changed=False)
    body = json.loads(HTTPEncoder("ndjson").encode(gap))
    assert body == {
        "event": "gap",
        "timestamp": NOW,
        "missing_from": None,
        "missing_to": 4,
        "epoch_changed": False,
    }
    assert gap.id is UNSET


def test_each_websocket_dialect_tells_of_a_beginning_once():
    metadata = events.Metadata(timestamp=NOW, total_urls=1, session_id="s", stream_type="crawl")
    start = events.Start(timestamp=NOW, total_urls=1, session_id="s", options={})
    assert EnvelopeEncoder("frame").encode(start) == b""
    assert EnvelopeEncoder("frame").encode(metadata) != b""
    assert FlatEncoder("frame", "s").encode(metadata) == b""
    assert FlatEncoder("frame", "s").encode(start) != b""


@pytest.mark.parametrize("encoder", [EnvelopeEncoder("message"), FlatEncoder("message", "s")])
@pytest.mark.parametrize(
    "text",
    [
        "plain words " * 700_000,
        "\x01" * 600_000 + "plain words " * 600_000,
        "\x01" * 1_500_000,
    ],
    ids=["even", "escapes at the front", "escapes alone"],
)
def test_a_document_too_large_for_a_message_is_cut_and_says_so(encoder, text):
    message = encoder.encode(a_result(a_document(text)))
    assert 0.5 * MAX_MESSAGE_BYTES < len(message) <= MAX_MESSAGE_BYTES
    body = json.loads(message)
    document = body["document"] if "document" in body else body["data"]["result"]["document"]
    assert document["truncated"] is True
    assert text.startswith(document["text"])
    assert document["word_count"] == 200
    whole = HTTPEncoder("ndjson").encode(a_result(a_document(text)))
    assert len(json.loads(whole)["result"]["document"]["text"]) == len(text)


def a_search_result(markdown: str) -> events.SearchResult:
    return events.SearchResult(
        timestamp=NOW,
        request_id="r",
        url="http://e.org/",
        rank=1,
        search_title="T",
        search_snippet="S",
        content=events.SearchContent(title="T", markdown=markdown, word_count=7),
        crawl_result=events.SearchCrawlResult(status=200, processing_time_ms=1, quality_score=1.0),
    )


@pytest.mark.parametrize(
    ("encoder", "limit"),
    [
        (EnvelopeEncoder("message"), MAX_MESSAGE_BYTES),
        (FlatEncoder("message", "s"), MAX_MESSAGE_BYTES),
        (HTTPEncoder("ndjson", max_line_bytes=50_000), 50_000),
    ],
)
def test_a_search_result_too_large_for_its_reader_is_cut_and_says_so(encoder, limit):
    text = "\x01" * (limit // 20) + "plain words " * (limit // 8)
    message = encoder.encode(a_search_result(text))
    assert 0.5 * limit < len(message) <= limit + 1  # and the line's end
    body = json.loads(message)
    content = body.get("data", body)["content"]
    assert content["truncated"] is True
    assert text.startswith(content["markdown"])
    assert content["word_count"] == 7
    batch = encoder.encode_batch([a_search_result("x"), a_search_result(text)], 2 * limit)
    assert batch.data.endswith(message)


def test_frames_are_compressed_once_for_all_readers_that_agreed_on_the_same():
    style = FrameStyle(15, min_deflate_bytes=500, max_deflate_bytes=10_000)
    encoder = message_encoder("flat", "frame", "s", style)
    again = FrameStyle(15, min_deflate_bytes=500, max_deflate_bytes=10_000)
    assert {encoder: 1}[message_encoder("flat", "frame", "s", again)] == 1
    assert encoder != message_encoder("flat", "frame", "s")
    assert encoder != message_encoder("flat", "frame", "s", FrameStyle(9, 500, 10_000))
    gap = events.Gap(timestamp=NOW, missing_from=3, missing_to=5, epoch_changed=False)
    result, large = a_result(a_document()), a_result(a_document("Words. " * 3000))
    assert [encoder.encode(event)[0] for event in (gap, result, large)] == [0x81, 0xC1, 0x81]
    frames, taken, *_ = encoder.encode_batch([result, gap], 100_000)
    assert taken == 2
    assert frames == encoder.encode(result) + encoder.encode(gap)
    plain = message_encoder("flat", "message", "s").encode(result)
    client = FrameProtocol(client=True, extensions=[inflating()])
    client.receive_bytes(frames)
    first, second = client.received_frames()
    assert first.payload == plain.decode()
    assert json.loads(second.payload)["event"] == "gap"


def inflating():
    extension = PerMessageDeflate()
    extension.finalize("permessage-deflate; server_no_context_takeover")
    return extension


def test_what_belongs_to_no_run_is_read_in_either_dialect():
    gap = events.Gap(timestamp=NOW, missing_from=3, missing_to=5, epoch_changed=False)
    body = json.loads(message_encoder(None, "message", "s").encode(gap))
    assert (body["event"], body["sessionId"], body["missing_from"]) == ("gap", "s", 3)
    assert (body["message_type"], body["data"]["missing_to"]) == ("gap", 5)
    assert body["timestamp"] == body["data"]["timestamp"] == NOW


@pytest.mark.parametrize("encoder", [EnvelopeEncoder("message"), FlatEncoder("message", "s")])
def test_a_document_that_fits_a_message_is_whole(encoder):
    assert b"truncated" not in encoder.encode(a_result(a_document("plain words " * 400_000)))


def some_events(texts: list[tuple[str, bool]]) -> list[events.Event]:
    """Results with these texts, failed ones where so marked, and what may stand between them."""
    error = error_info(FetchTimeout("too late"), NOW)
    made: list[events.Event] = [
        a_result(None, error) if failed else a_result(a_document(text)) for text, failed in texts
    ]
    names = {"timestamp": NOW, "request_id": "r1", "session_id": "s"}
    made.append(events.stamp(events.Start(**names, total_urls=3, options={"concurrency": 2}), ID))
    made.append(
        events.stamp(
            events.RunError(timestamp=NOW, request_id="r1", error=error, recovery_suggestions=()),
            ID,
        )
    )
    return made


BATCHES = st.lists(st.tuples(st.text(max_size=300), st.integers(0, 9).map(lambda n: n == 0)))


@given(
    BATCHES,
    st.integers(1, 6000),
    st.sampled_from(
        [
            HTTPEncoder("ndjson"),
            HTTPEncoder("sse"),
            HTTPEncoder("sse", "flat"),
            EnvelopeEncoder("frame"),
            FlatEncoder("frame", session_id="s"),
        ]
    ),
)
def test_a_batch_is_the_events_one_by_one_as_far_as_they_fit(texts, room, encoder):
    made = some_events(texts)
    one_by_one = [encoder.encode(event) for event in made]
    data, taken, shown, _ = encoder.encode_batch(made, room)
    assert data == b"".join(one_by_one[:taken])
    assert shown == sum(map(bool, one_by_one[:taken]))
    assert taken >= 1
    assert taken == 1 or len(data) <= room
    if taken < len(made):
        assert len(data) + len(one_by_one[taken]) > room


@given(BATCHES, st.sampled_from(["ndjson", "sse"]))
def test_events_are_read_back_from_the_batch_that_they_were_written_in(texts, framing):
    encoder = HTTPEncoder(framing)
    made = some_events(texts)
    data, taken, _, restores = encoder.encode_batch(made, 1 << 30)
    assert taken == len(made)
    if framing == "ndjson" and any(failed for _, failed in texts):
        assert not restores  # the lines of failures stand between them
    else:
        assert restores
        assert encoder.decode_batch(data) == made


@given(BATCHES, st.integers(1, 6000))
def test_events_are_read_back_from_the_frames_that_they_were_written_in(texts, room):
    encoder = EnvelopeEncoder("frame")
    made = [event for event in some_events(texts) if not isinstance(event, events.Start)]
    data, taken, shown, restores = encoder.encode_batch(made, room)
    assert restores
    assert encoder.decode_batch(data) == made[:taken]
    assert shown == taken


@pytest.mark.parametrize("size", [0, 100, 30_000, 31_000, 32_200, 32_300, 32_400, 33_000, 70_000])
def test_a_frame_has_the_length_of_its_message_however_long_that_is(size):
    encoder = EnvelopeEncoder("frame")
    made = [a_result(a_document("x" * size)), a_result(a_document("y"))]
    data, taken, *_ = encoder.encode_batch(made, 1 << 30)
    assert taken == len(made)
    assert data == b"".join(map(encoder.encode, made))
    assert encoder.decode_batch(data) == made


@pytest.mark.parametrize(
    "encoder",
    [
        EnvelopeEncoder("frame", "flat"),
        EnvelopeEncoder("frame", style=FrameStyle(15, 0, 1 << 20)),
        FlatEncoder("frame", "s"),
    ],
)
def test_frames_that_do_not_show_their_events_as_they_are_are_not_read_back(encoder):
    assert not encoder.encode_batch([a_result(a_document())], 1 << 30).restores


def test_a_batch_with_a_message_that_was_cut_is_not_read_back():
    encoder = EnvelopeEncoder("frame")
    made = [a_result(a_document("<w" * (4 * 2**20)))]
    data, _, _, restores = encoder.encode_batch(made, 1 << 30)
    assert not restores
    assert data == encoder.encode(made[0])
    assert len(data) <= MAX_MESSAGE_BYTES + 10


def test_a_batch_with_half_a_surrogate_pair_is_written_all_the_same():
    made = some_events([("\ud800 alone", False), ("whole", False)])
    for encoder in (HTTPEncoder("ndjson"), HTTPEncoder("sse"), EnvelopeEncoder("frame")):
        data, taken, *_ = encoder.encode_batch(made, 1 << 30)
        assert data == b"".join(map(encoder.encode, made))
        assert taken == len(made)
        assert "\N{REPLACEMENT CHARACTER} alone".encode() in data
