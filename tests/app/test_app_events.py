"""What a stream says: order, fields and truth of events on every protocol and dialect."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    SSEParser,
    StreamedEvent,
    WebSocketClient,
    open_crawl,
    post_json,
    tag_of,
)
from tests.helpers.servers import ServerProcess

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FLAT = (
    *(
        "url",
        "status",
        "from_cache",
        "gate_decision",
        "quality_score",
        "processing_time_ms",
        "error",
    ),
)
RESULT = {*FLAT, "document", "cache_key"}


def crawl(
    server: ServerProcess, urls: list[str], target: str = "/crawl/stream", **options: Any
) -> list[StreamedEvent]:
    with open_crawl(server.address, urls, options, target=target) as stream:
        assert stream.status == 200
        return list(stream.read_events())


def of_kind(events: list[StreamedEvent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.kind == kind]


@pytest.mark.parametrize("target", ["/crawl/stream", "/crawl/sse"])
def test_a_stream_is_metadata_start_results_and_progress_and_last_the_summary(
    server: ServerProcess, origin: Origin, target: str
) -> None:
    urls = [*origin.pages(5), origin.url("/redirect/2"), origin.url("/status/404")]
    events = crawl(server, urls, target, cache_mode="disabled")
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["metadata", "start"]
    assert kinds[-1] == "summary"
    assert kinds[-2] == "progress"  # first and last progress always
    assert set(kinds) <= {"metadata", "start", "result", "progress", "error", "summary"}
    assert ("error" in kinds) is (target == "/crawl/stream")
    assert all(event.data["event"] == event.kind for event in events)
    assert all(TIMESTAMP.fullmatch(event.data["timestamp"]) for event in events)
    ids = [event.event_id for event in events if event.event_id]
    assert [event.data.get("id") for event in events] == [event.event_id for event in events]
    numbers = [int(event_id.rpartition("-")[2]) for event_id in ids]
    assert numbers == sorted(set(numbers))
    assert {event.kind for event in events if event.event_id} == {
        "metadata",
        "start",
        "result",
        "summary",
    }
    indexes = [data["index"] for data in of_kind(events, "result")]
    assert sorted(indexes) == list(range(len(urls)))
    for data in of_kind(events, "result"):
        assert data["url"] == data["result"]["url"] == urls[data["index"]]


def test_metadata_and_start_say_what_the_documents_show(
    server: ServerProcess, origin: Origin
) -> None:
    metadata, start = (event.data for event in crawl(server, origin.pages(2), concurrency=3)[:2])
    assert metadata["stream_type"] == "crawl"
    assert (metadata["total_urls"], start["total_urls"]) == (2, 2)
    assert metadata["buffer_info"]["used"] == metadata["buffer_info"]["current_size"]
    assert {
        *("capacity", "max_memory_bytes", "backpressure_threshold", "adaptive_sizing_enabled"),
        "utilization_percentage",
    } <= set(metadata["buffer_info"])
    assert {"ttfb_target_ms", "slow_client_threshold_ms", "buffer_flush_interval_ms"} <= set(
        metadata["performance_config"]
    )
    assert start["options"]["concurrency"] == 3
    assert start["session_id"] == metadata["session_id"]


def test_a_result_is_nested_and_flat_and_true(server: ServerProcess, origin: Origin) -> None:
    url = origin.url(f"/page/{uuid.uuid4().hex[:8]}?words=40")
    events = crawl(server, [url])
    (data,) = of_kind(events, "result")
    result = data["result"]
    assert set(result) >= RESULT
    assert {name: data[name] for name in FLAT} == {name: result[name] for name in FLAT}
    assert (result["status"], result["from_cache"], result["error"]) == (200, False, None)
    assert result["gate_decision"] in {"raw", "probes_first", "headless"}
    assert 0 <= result["quality_score"] <= 1
    assert re.fullmatch(r"crawl:v1:127\.0\.0\.1:page-[a-z0-9]+:[0-9a-f]{8}", result["cache_key"])
    document = result["document"]
    assert document["url"] == url
    assert document["title"].startswith("Page ")
    assert "reads pages and sends" in document["text"]
    assert document["markdown"].lstrip().startswith("#")
    assert document["word_count"] > 1000
    assert document["reading_time"] >= 4
    assert 0 <= document["quality_score"] <= 100
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", document["content_hash"])
    assert TIMESTAMP.fullmatch(document["extracted_at"])
    assert data["progress"] == {"completed": 1, "total": 1, "success_rate": 1.0}
    assert {"gate_decision_reason", "extraction_method", "processing_stages"} <= set(
        data["pipeline_metadata"]
    )


def test_a_second_crawl_is_served_by_the_cache_and_says_so(
    server: ServerProcess, origin: Origin
) -> None:
    urls = [origin.url(f"/page/{uuid.uuid4().hex[:8]}") for _ in range(3)]
    first = crawl(server, urls)[-1].data
    events = crawl(server, urls)
    assert (first["from_cache"], first["cache_hit_rate"]) == (0, 0.0)
    summary = events[-1].data
    assert (summary["from_cache"], summary["cache_hit_rate"]) == (3, 1.0)
    assert summary["gate_decisions"]["cached"] == 3
    for data in of_kind(events, "result"):
        assert (data["from_cache"], data["gate_decision"]) == (True, "cached")
        assert data["result"]["original_gate_decision"] in {"raw", "probes_first", "headless"}
    assert sum(origin.requests[f"/page/{url.rpartition('/')[2]}"] for url in urls) == 3
    assert crawl(server, urls, cache_mode="disabled")[-1].data["from_cache"] == 0


def test_failures_are_results_with_their_errors(server: ServerProcess, origin: Origin) -> None:
    unreachable = f"http://127.0.0.9:{origin.port}/"  # where nobody listens
    blocked = "http://10.1.2.3/"
    stalled = origin.stalling(1, host=2)[0]
    urls = [origin.url("/status/404"), origin.url("/status/500"), unreachable, blocked, stalled]
    events = crawl(server, urls, timeout_seconds=0.5, max_retries=0)
    results = {data["url"]: data for data in of_kind(events, "result")}
    assert set(results) == set(urls)
    expected = {
        urls[0]: (404, "http_error", "HTTP_404", "origin", False),
        urls[1]: (500, "http_error", "HTTP_500", "origin", True),
        unreachable: (0, "network_error", "NET_FAILED", "network", True),
        blocked: (0, "blocked_address", "BLOCKED_ADDRESS", "policy", False),
        stalled: (0, "timeout", "NET_TIMEOUT", "network", True),
    }
    for url, (status, kind, code, category, retryable) in expected.items():
        data = results[url]
        error = data["error"]
        assert data["result"]["document"] is None
        assert (data["status"], error["type"], error["error_code"]) == (status, kind, code)
        assert (error["category"], error["retryable"]) == (category, retryable)
        assert error["error_type"] == error["type"]
        assert "retry_after_seconds" in error
        assert isinstance(error["context"], Mapping)
    assert "10.1.2.3" not in results[blocked]["error"]["message"]
    # On NDJSON each failure is announced just before its result.
    for place, event in enumerate(events):
        if event.kind == "error":
            after = events[place + 1]
            assert (after.kind, after.data["index"]) == ("result", event.data["index"])
            assert event.data["url"] == after.data["url"]
            assert event.data["recovery_suggestions"]
    assert len(of_kind(events, "error")) == len(urls)
    summary = events[-1].data
    assert (summary["successful"], summary["failed"], summary["cancelled"]) == (0, 5, 0)
    analysis = summary["error_analysis"]
    assert analysis["error_types"] == {
        "http_error": 2,
        "network_error": 1,
        "blocked_address": 1,
        "timeout": 1,
    }
    assert (analysis["retryable_errors"], analysis["permanent_failures"]) == (3, 2)


def test_progress_and_summary_add_up(server: ServerProcess, origin: Origin) -> None:
    urls = [*origin.slow_pages(12, 80, host=1), origin.url("/status/410", 1)]
    events = crawl(server, urls, concurrency=3, cache_mode="disabled")
    progress = of_kind(events, "progress")
    assert len(progress) >= 3
    completed = [data["completed"] for data in progress]
    assert completed == sorted(completed)
    assert completed[-1] == len(urls)
    for data in progress:
        assert data["total"] == len(urls)
        assert data["current_url"] == data["url"]
        assert {
            "throughput_per_second",
            "avg_processing_time_ms",
            "success_rate",
            "cache_hit_rate",
        } == set(data["performance_metrics"])
        assert {
            "used",
            "capacity",
            "utilization_percentage",
            "pending_flushes",
            "backpressure_detected",
        } <= set(data["buffer_info"])
        assert {"avg_send_time_ms", "slow_sends_count", "is_slow_client"} == set(
            data["connection_health"]
        )
    assert any(data["estimated_completion"] for data in progress)
    summary = events[-1].data
    assert (summary["total_urls"], summary["successful"], summary["failed"]) == (13, 12, 1)
    assert summary["total_processing_time_ms"] == summary["total_time_ms"] >= 300
    assert summary["avg_processing_time_ms"] == summary["average_processing_time_ms"]
    assert summary["avg_processing_time_ms"] == pytest.approx(
        summary["total_time_ms"] / 13, abs=0.5
    )
    performance = summary["performance_summary"]
    assert performance["fastest_processing_ms"] <= performance["avg_processing_time_ms"]
    assert performance["slowest_processing_ms"] >= 80
    assert performance["ttfb_ms"] > 0
    assert performance["total_bytes_transferred"] > 12 * 300
    assert sum(n for decision, n in summary["gate_decisions"].items() if decision != "cached") == 12
    assert {
        *("peak_utilization", "avg_utilization", "total_flushes", "messages_dropped"),
        *("backpressure_events", "buffer_resizes"),
    } <= set(summary["buffer_statistics"])
    assert summary["buffer_statistics"]["total_flushes"] >= 1


def test_the_first_bytes_of_an_sse_stream_say_when_to_reconnect(
    server: ServerProcess, origin: Origin
) -> None:
    with open_crawl(server.address, origin.pages(1), target="/crawl/sse") as stream:
        parser = SSEParser()
        for chunk in stream.read_chunks():
            assert chunk.endswith(b"\n\n"), "a chunk holds whole events only"
            list(parser.feed(chunk))
    assert parser.retry_milliseconds == 3000


def test_every_chunk_of_ndjson_ends_with_its_newline(server: ServerProcess, origin: Origin) -> None:
    urls = [origin.url(f"/large/{n}?kb=200") for n in range(4)]
    with Connection(server.address) as connection:
        connection.send(
            "POST", "/crawl/stream", [("Content-Type", "application/json")], body_of(urls)
        )
        connection.read_head()
        pieces = list(connection.read_chunks())
    assert b"".join(pieces).endswith(b"\n")


def body_of(urls: list[str]) -> bytes:
    return b'{"urls":[%s]}' % b",".join(b'"%s"' % url.encode() for url in urls)


@pytest.mark.parametrize(
    ("target", "nested", "flat", "document"),
    [
        ("/crawl/stream", True, True, None),
        ("/crawl/stream?shape=nested", True, False, None),
        ("/crawl/stream?shape=flat", False, True, "full"),
        ("/crawl/stream?shape=both", True, True, None),
    ],
)
def test_the_shape_of_results_is_as_asked(
    server: ServerProcess,
    origin: Origin,
    target: str,
    nested: bool,
    flat: bool,
    document: str | None,
) -> None:
    (data,) = of_kind(crawl(server, [origin.url("/page/7?words=30")], target), "result")
    assert ("result" in data) is nested
    assert ("url" in data) is flat
    assert ("document" in data) is (document is not None)
    if document:
        assert len(data["document"]["text"]) > 500
    assert {"index", "progress", "pipeline_metadata"} <= set(data)


def test_the_page_that_follows_by_get_reads_a_preview_of_each_document(
    server: ServerProcess, origin: Origin
) -> None:
    session = f"preview-{uuid.uuid4().hex[:8]}"
    body = {"urls": [origin.url("/page/7?words=30")]}
    assert post_json(server.address, "/crawl/sse", body, [("X-Session-ID", session)]).status == 200
    with Connection(server.address) as connection:
        connection.send("GET", f"/crawl/sse?session_id={session}")
        connection.read_head()
        (data,) = of_kind(list(connection.read_events()), "result")
    assert set(data["document"]) == {"url", "title", "text", "word_count", "quality_score"}
    assert len(data["document"]["text"]) == 500
    assert len(data["result"]["document"]["text"]) > 500


@pytest.mark.parametrize("shape", ["round", "preview"])
def test_an_unknown_shape_is_refused(server: ServerProcess, origin: Origin, shape: str) -> None:
    response = post_json(server.address, f"/crawl/stream?shape={shape}", {"urls": origin.pages(1)})
    assert (response.status, response.error["details"]["field"]) == (400, "shape")


# --- WebSocket dialects -----------------------------------------------------------------------


def test_the_envelope_dialect_is_metadata_results_and_summary(
    server: ServerProcess, origin: Origin
) -> None:
    with WebSocketClient(server.address, "/crawl/ws?session_id=envelope-1") as socket:
        welcome = socket.receive()
        assert (tag_of(welcome), welcome["event"]) == ("welcome", "welcome")
        assert welcome["sessionId"] == welcome["data"]["session_id"] == "envelope-1"
        socket.send(
            {
                "action": "crawl",
                "request_id": "r1",
                "data": {"urls": [*origin.pages(3), origin.url("/status/404")]},
            }
        )
        messages = socket.receive_until("summary")
    assert all(set(message) >= {"message_type", "data", "timestamp"} for message in messages)
    assert {message["data"]["request_id"] for message in messages} == {"r1"}
    kinds = [tag_of(message) for message in messages]
    assert kinds[0] == "metadata"
    assert "start" not in kinds
    assert "error" not in kinds
    assert kinds.count("result") == 4
    for message in messages:
        if tag_of(message) in ("metadata", "result", "summary"):
            assert message["id"] == message["data"]["id"]
    results = [message["data"] for message in messages if tag_of(message) == "result"]
    assert all(set(data["result"]) >= RESULT for data in results)


def test_the_flat_dialect_is_start_flat_results_and_summary(
    server: ServerProcess, origin: Origin
) -> None:
    with WebSocketClient(server.address, "/crawl/ws?session_id=flat-1") as socket:
        socket.receive()
        urls = [*origin.pages(3), origin.url("/status/404")]
        socket.send(
            {"action": "crawl", "requestId": "r2", "urls": urls, "options": {"concurrency": 2}}
        )
        messages = socket.receive_until("summary")
    assert {(m["requestId"], m["sessionId"]) for m in messages} == {("r2", "flat-1")}
    assert all(TIMESTAMP.fullmatch(m["timestamp"]) for m in messages)
    kinds = [m["event"] for m in messages]
    assert kinds[0] == "start"
    assert not {"metadata", "error"} & set(kinds)
    results = [m for m in messages if m["event"] == "result"]
    assert sorted(m["url"] for m in results) == sorted(urls)
    assert all("result" not in m and set(FLAT) <= set(m) for m in results)
    assert sum(m["document"] is not None and bool(m["document"]["markdown"]) for m in results) == 3


def test_one_socket_holds_many_runs_each_in_its_own_dialect(
    server: ServerProcess, origin: Origin
) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        for number in range(3):
            socket.send(
                {
                    "request_type": "crawl",
                    "data": {"urls": origin.slow_pages(3, 60), "request_id": f"e{number}"},
                }
            )
            socket.send(
                {"action": "crawl", "requestId": f"f{number}", "urls": origin.slow_pages(3, 60)}
            )
        counts: dict[str, int] = {}
        ended = 0
        while ended < 6:
            message = socket.receive()
            flat = "requestId" in message
            request_id = message["requestId"] if flat else message["data"]["request_id"]
            assert request_id.startswith("f" if flat else "e")
            counts[request_id] = counts.get(request_id, 0) + (tag_of(message) == "result")
            ended += tag_of(message) == "summary"
    assert counts == {f"{dialect}{number}": 3 for dialect in "ef" for number in range(3)}


def test_bad_messages_get_an_error_reply_and_the_socket_stays_open(
    server: ServerProcess, origin: Origin
) -> None:
    bad = [
        "{",
        "[]",
        '"text"',
        "{}",
        '{"action": "explode", "data": {}}',
        '{"action": "crawl", "data": {}}',
        '{"action": "crawl", "data": {"urls": []}}',
        '{"action": "crawl", "data": {"urls": ["ftp://x/"]}}',
        '{"action": "crawl", "data": {"urls": ["http://x/"], "options": {"concurrency": -1}}}',
        '{"action": "pause", "request_id": "nobody", "data": {}}',
        '{"action": "cancel", "requestId": "nobody"}',
        '{"action": "crawl", "request_id": 7, "data": {"urls": ["http://x/"]}}',
        "[" * 5000 + "]" * 5000,
        '{"action": "\\ud800"}',
    ]
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        for text in bad:
            socket.send_text(text)
            reply = socket.receive()
            assert (tag_of(reply), reply["event"]) == ("error", "error"), text[:60]
            assert reply["data"]["message"]
            assert reply["error"]["message"]
        socket.send_bytes(b"\xff\xfe")
        assert tag_of(socket.receive()) == "error"
        socket.send({"request_type": "ping", "data": {}})
        assert tag_of(socket.receive()) == "pong"


def test_an_error_reply_never_carries_the_id_of_a_live_run(
    server: ServerProcess, origin: Origin
) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        crawl = {
            "action": "crawl",
            "request_id": "live",
            "data": {"urls": origin.slow_pages(4, 150, host=1), "options": {"concurrency": 1}},
        }
        socket.send(crawl)
        socket.send(crawl)
        messages = socket.receive_until("summary")
    (error,) = [message for message in messages if tag_of(message) == "error"]
    assert error.get("requestId") is None
    assert error["data"].get("request_id") is None
    assert "live" in str(error["data"]["details"])
    assert [tag_of(message) for message in messages].count("result") == 4


def test_commands_without_an_id_mean_the_only_run_and_repeated_ones_are_acknowledged(
    server: ServerProcess, origin: Origin
) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        socket.send(
            {
                "action": "crawl",
                "request_id": "only",
                "data": {"urls": origin.slow_pages(30, 100, host=1), "options": {"concurrency": 2}},
            }
        )
        socket.receive_until("metadata")
        for command, word in (
            *(("pause", "paused"), ("pause", "paused"), ("resume", "resumed")),
            *(("resume", "resumed"), ("cancel", "cancelled")),
        ):
            socket.send({"action": command})
            reply = socket.receive_until(word)[-1]
            named = reply.get("requestId") or reply["data"].get("request_id")
            assert named == "only", reply
        summary = socket.receive_until("summary")[-1]["data"]
        assert summary["status"] == "cancelled"
        assert summary["successful"] + summary["failed"] + summary["cancelled"] == 30
        socket.send({"action": "cancel", "request_id": "only", "data": {}})  # too late: no error
        assert tag_of(socket.receive_until("cancelled")[-1]) == "cancelled"


def test_an_origin_that_is_not_allowed_may_not_open_a_socket_only_where_origins_are_limited(
    server: ServerProcess,
) -> None:
    headers = [("Origin", "https://page.example")]
    with WebSocketClient(server.address, "/crawl/ws", headers=headers) as socket:
        assert socket.refused is None
        assert tag_of(socket.receive()) == "welcome"
