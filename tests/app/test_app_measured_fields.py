"""No member of an event is for show: each moves when, and only when, its cause does.

Over sockets, from a server process. What a result or a summary counts is in ``test_app_events.py``.
"""

import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.processes import resident_bytes
from tests.helpers.raw import (
    Connection,
    StreamedEvent,
    WebSocketClient,
    get_json,
    open_crawl,
    request,
    tag_of,
)
from tests.helpers.servers import ServerProcess, open_server

pytestmark = pytest.mark.slow

SETTINGS = {
    "EVENTMESH_STREAM__NDJSON__KEEP_ALIVE_INTERVAL": "0.15s",
    "EVENTMESH_TRANSPORT__UNSENT_BYTES": "4096",
    "EVENTMESH_MESH__WARNING_SECONDS": "0",
    "EVENTMESH_CRAWL__RETRY__FIRST_DELAY_SECONDS": "0.02",
    # A host that refuses in some tests serves the others; that it is left alone is no subject here.
    "EVENTMESH_POLITENESS__BACK_OFF__MAX_SECONDS": "0.01",
    "EVENTMESH_STREAM__BUFFER__MIN_SIZE": "16",
    "EVENTMESH_WORKERS__WORKERS": "1",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """With little in the kernel's hands, so that a reader's pace is soon the server's."""
    with open_server("native", SETTINGS) as process:
        yield process


def crawl(server: ServerProcess, urls: list[str], **options: Any) -> list[StreamedEvent]:
    with open_crawl(server.address, urls, {"cache_mode": "disabled", **options}) as stream:
        return list(stream.read_events())


def of_kind(events: list[StreamedEvent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.kind == kind]


def summary_of(events: list[StreamedEvent]) -> dict[str, Any]:
    assert events[-1].kind == "summary"
    return events[-1].data


def read_slowly(stream: Connection, seconds: float, piece_bytes: int) -> Iterator[StreamedEvent]:
    """Read a piece at a time, and nothing in between."""
    stream.piece_bytes = piece_bytes
    receive = stream.socket.recv

    class Slow:
        def recv(self, most: int) -> bytes:
            time.sleep(seconds)
            return receive(most)

        def close(self) -> None:
            kept.close()

    kept, stream.socket = stream.socket, Slow()  # type: ignore[assignment]
    return stream.read_events()


def seconds_of(timestamp: str) -> float:
    return datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


# --- The reader's pace ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paces(server: ServerProcess, origin: Origin) -> tuple[list[StreamedEvent], list[StreamedEvent]]:
    """The same pages, read at once and read slowly."""
    headers = [
        ("X-Buffer-Size", "40"),
        ("X-Buffer-Timeout", "100"),
        ("X-Slow-Client-Threshold", "50"),
        ("X-Max-Memory-Per-Connection", "8192"),
    ]
    read = []
    for pace in (0.0, 0.06):
        with open_crawl(
            server.address,
            origin.pages(60, host=1),
            {"concurrency": 16},
            headers=headers,
            receive_buffer=4096,
        ) as stream:
            read.append(list(read_slowly(stream, pace, 6000) if pace else stream.read_events()))
    return read[0], read[1]


def test_send_times_slow_sends_and_the_judgement_follow_the_readers_pace(
    paces: tuple[list[StreamedEvent], list[StreamedEvent]],
) -> None:
    quick, slow = ([e["connection_health"] for e in of_kind(p, "progress")] for p in paces)
    assert all(health["avg_send_time_ms"] < 15 for health in quick)
    assert not any(health["is_slow_client"] for health in quick)
    assert max(health["avg_send_time_ms"] for health in slow) > 20
    assert slow[-1]["slow_sends_count"] > quick[-1]["slow_sends_count"] + 5
    assert [health["slow_sends_count"] for health in slow] == sorted(
        health["slow_sends_count"] for health in slow
    )
    assert any(health["is_slow_client"] for health in slow)
    assert not slow[0]["is_slow_client"]


def test_the_window_fills_with_lag_and_the_pressure_is_told(
    paces: tuple[list[StreamedEvent], list[StreamedEvent]],
) -> None:
    quick, slow = ([e["buffer_info"] for e in of_kind(p, "progress")] for p in paces)
    for info in (*quick, *slow):
        assert info["utilization_percentage"] == pytest.approx(
            info["used"] / info["capacity"] * 100, abs=0.06
        )
    assert max(info["used"] for info in slow) > 20 > max(info["used"] for info in quick)
    assert max(info["pending_flushes"] for info in slow) > 5
    assert any(info["backpressure_detected"] for info in slow)
    assert not any(info["backpressure_detected"] for info in quick)
    assert len({info["capacity"] for info in slow}) > 1  # its window shrinks


def test_the_buffer_statistics_of_a_summary_tell_a_slow_reader_from_a_quick_one(
    paces: tuple[list[StreamedEvent], list[StreamedEvent]],
) -> None:
    quick, slow = (summary_of(events)["buffer_statistics"] for events in paces)
    assert slow["peak_utilization"] > 0.3
    assert slow["avg_utilization"] > 5 * quick["avg_utilization"]
    assert slow["avg_utilization"] <= slow["peak_utilization"] <= 1
    assert (quick["backpressure_events"], quick["buffer_resizes"]) == (0, 0)
    assert slow["backpressure_events"] >= 1
    assert slow["buffer_resizes"] >= 1
    assert slow["total_flushes"] >= 15  # 8 KB at a time
    assert slow["progress_coalesced"] > 0


def test_a_warning_says_how_slow_the_reader_is_and_how_full_its_window(
    paces: tuple[list[StreamedEvent], list[StreamedEvent]],
) -> None:
    quick, slow = (of_kind(events, "backpressure_warning") for events in paces)
    assert not quick
    assert slow
    for event in slow:
        warning, metrics = event["warning"], event["current_metrics"]
        assert event["connection_id"].startswith("conn-")
        assert warning["buffer_utilization"] == pytest.approx(
            metrics["buffer_used"] / metrics["buffer_capacity"], abs=1e-3
        )
        assert metrics["pending_messages"] >= metrics["buffer_used"]
        assert len(warning["suggested_actions"]) >= 3


def test_a_reader_that_is_slow_is_warned_before_its_window_is_full(
    server: ServerProcess, origin: Origin
) -> None:
    headers = [
        ("X-Buffer-Size", "2048"),
        ("X-Slow-Client-Threshold", "50"),
        ("X-Max-Memory-Per-Connection", "8192"),
    ]
    with open_crawl(
        server.address,
        origin.pages(60, host=1),
        {"concurrency": 16},
        headers=headers,
        receive_buffer=4096,
    ) as stream:
        events = list(read_slowly(stream, 0.06, 6000))
    event = of_kind(events, "backpressure_warning")[0]
    assert event["warning"]["type"] == "slow_client"
    assert event["warning"]["avg_send_time_ms"] > 25
    assert event["current_metrics"]["slow_sends_count"] > 2
    assert event["warning"]["buffer_utilization"] < 0.1


def test_a_window_that_is_full_is_warned_of_as_such(server: ServerProcess, origin: Origin) -> None:
    headers = [("X-Buffer-Size", "64"), ("X-Max-Memory-Per-Connection", "4096")]
    with open_crawl(
        server.address,
        origin.pages(150, host=2),
        {"concurrency": 16},
        headers=headers,
        receive_buffer=4096,
    ) as stream:
        wait_until(
            lambda: get_json(server.address, "/stats")["streaming"]["buffer_utilization"] > 0.9,
            10,
            "a window that is full",
        )
        warnings = of_kind(list(stream.read_events()), "backpressure_warning")
    assert warnings[0]["warning"]["type"] == "buffer_pressure"
    assert warnings[0]["warning"]["buffer_utilization"] >= 0.75
    assert (
        f"{warnings[0]['warning']['buffer_utilization']:.0%}" in warnings[0]["warning"]["message"]
    )


def test_without_backpressure_nothing_is_warned_of_and_nothing_resized(
    server: ServerProcess, origin: Origin
) -> None:
    headers = [
        ("X-Buffer-Size", "64"),
        ("X-Enable-Backpressure", "false"),
        ("X-Max-Memory-Per-Connection", "4096"),
    ]
    with open_crawl(
        server.address, origin.pages(80, host=2), headers=headers, receive_buffer=4096
    ) as stream:
        time.sleep(0.3)
        events = list(stream.read_events())
    assert not of_kind(events, "backpressure_warning")
    assert summary_of(events)["buffer_statistics"]["buffer_resizes"] == 0
    assert of_kind(events, "metadata")[0]["buffer_info"]["adaptive_sizing_enabled"] is False


def test_what_a_reader_asks_for_is_what_its_metadata_says(
    server: ServerProcess, origin: Origin
) -> None:
    said = []
    for size, memory, slow in ((64, 4096, 60), (1024, 65_536, 700)):
        headers = [
            ("X-Buffer-Size", str(size)),
            ("X-Max-Memory-Per-Connection", str(memory)),
            ("X-Slow-Client-Threshold", str(slow)),
        ]
        with open_crawl(server.address, origin.pages(1), headers=headers) as stream:
            metadata = next(stream.read_events()).data
        info, config = metadata["buffer_info"], metadata["performance_config"]
        said.append(
            (info["capacity"], info["max_memory_bytes"], config["slow_client_threshold_ms"])
        )
        assert info["backpressure_threshold"] == size * 25 // 32
    assert said == [(64, 4096, 60), (1024, 65_536, 700)]


# --- The run --------------------------------------------------------------------------------------


def test_times_of_a_run_are_those_of_its_pages(server: ServerProcess, origin: Origin) -> None:
    mixed = [*origin.pages(4), *origin.slow_pages(1, 400, host=1)]
    summary = summary_of(crawl(server, mixed, concurrency=5))
    performance = summary["performance_summary"]
    assert performance["slowest_processing_ms"] >= 400
    assert 0 < performance["fastest_processing_ms"] < 300
    assert 400 <= summary["total_time_ms"] < 2000
    assert performance["throughput_per_second"] == pytest.approx(
        5 / (summary["total_time_ms"] / 1000), rel=0.01
    )
    assert performance["avg_processing_time_ms"] == pytest.approx(
        summary["total_time_ms"] / 5, abs=0.2
    )


def test_bytes_are_those_that_the_origin_sent_each_attempt_included(
    server: ServerProcess, origin: Origin
) -> None:
    def sent(path: str) -> int:
        return len(request(("127.0.0.1", origin.port), "GET", path).body)

    def transferred(*paths: str) -> int:
        events = crawl(server, [origin.url(path) for path in paths])
        count = summary_of(events)["performance_summary"]["total_bytes_transferred"]
        assert isinstance(count, int)
        return count

    small, large, moved = "/page/1", "/large/1?kb=200", "/redirect/1"
    assert sent(large) > 100 * sent(small)
    assert transferred(small) == sent(small)
    assert transferred(small, large) == sent(small) + sent(large)
    assert transferred(moved) == sent(small)  # a redirect has no body here
    flaky = f"/flaky/{uuid.uuid4().hex}?fails=2"
    refusals = 2 * len(b"<p>not now</p>")
    assert transferred(flaky) == refusals + sent(flaky)


def test_the_time_to_the_first_byte_counts_from_the_head_of_the_request(
    server: ServerProcess, origin: Origin
) -> None:
    body = f'{{"urls": ["{origin.url("/page/1")}"]}}'.encode()
    measured = []
    for late in (0.0, 0.25):
        with Connection(server.address) as connection:
            send_late(connection, body, late)
            events = list(connection.read_events())
        measured.append(summary_of(events)["performance_summary"]["ttfb_ms"])
    print(f"ttfb_ms: {measured[0]:.2f}, and {measured[1]:.2f} where the body came 250 ms late")
    assert 0 < measured[0] < 200
    assert 200 <= measured[1] < 500


def send_late(connection: Connection, body: bytes, seconds: float) -> None:
    """Send the head of a crawl, and its body after a while."""
    whole = connection.socket.sendall

    class Late:
        def sendall(self, data: bytes) -> None:
            head, _, rest = data.partition(b"\r\n\r\n")
            whole(head + b"\r\n\r\n")
            time.sleep(seconds)
            whole(rest)

    kept, connection.socket = connection.socket, Late()  # type: ignore[assignment]
    connection.send("POST", "/crawl/stream", [("Content-Type", "application/json")], body)
    connection.socket = kept
    connection.read_head()


def test_the_estimate_comes_true_and_the_phase_says_what_is_waited_for(
    server: ServerProcess, origin: Origin
) -> None:
    events = crawl(server, origin.slow_pages(12, 100, host=2), concurrency=2)
    progress = of_kind(events, "progress")
    ended = seconds_of(summary_of(events)["timestamp"])
    began = seconds_of(events[0].data["timestamp"])
    estimates = [
        seconds_of(p["estimated_completion"]) for p in progress if p["completed"] in (6, 8)
    ]
    assert estimates
    assert all(abs(estimate - ended) < 0.4 * (ended - began) for estimate in estimates)
    assert progress[-1]["estimated_completion"] is None
    phases = [p["phase"] for p in progress[:-1]]
    assert phases.count("fetch") > len(phases) / 2
    assert progress[-1]["phase"] == "done"
    # One process reads these, which are fetched in no time.
    heavy = [origin.url(f"/large/{number}?kb=600", host=3) for number in range(6)]
    phases = [p["phase"] for p in of_kind(crawl(server, heavy, concurrency=8), "progress")]
    assert "extraction" in phases


def test_rates_of_progress_follow_failures_and_the_cache(
    server: ServerProcess, origin: Origin
) -> None:
    cached = [origin.url(f"/page/{uuid.uuid4().hex}") for _ in range(3)]
    crawl(server, cached, cache_mode="read_write")
    fresh = origin.url(f"/page/{uuid.uuid4().hex}")
    events = crawl(
        server, [*cached, fresh, origin.url("/status/404")], cache_mode="read_only", max_retries=0
    )
    last = of_kind(events, "progress")[-1]["performance_metrics"]
    assert (last["success_rate"], last["cache_hit_rate"]) == (0.8, 0.6)
    summary = summary_of(events)
    assert (summary["cache_hit_rate"], summary["from_cache"]) == (0.6, 3)
    assert summary["gate_decisions"]["cached"] == 3


def test_the_gate_is_counted_by_what_the_pages_are(server: ServerProcess, origin: Origin) -> None:
    urls = [
        *(origin.url(f"/page/{number}?words=20") for number in range(3)),
        *(origin.url(f"/sketch/{number}") for number in range(2)),
        origin.url("/script/1"),
    ]
    summary = summary_of(crawl(server, urls))
    assert summary["gate_decisions"] == {"raw": 3, "probes_first": 2, "headless": 1, "cached": 0}


# --- Errors ---------------------------------------------------------------------------------------


def errors_of(server: ServerProcess, url: str, **options: Any) -> dict[str, Any]:
    (event,) = of_kind(crawl(server, [url], **options), "error")
    return event


def test_the_context_of_an_error_tells_how_hard_it_was_tried(
    server: ServerProcess, origin: Origin
) -> None:
    for retries in (0, 2):
        error = errors_of(server, origin.url("/status/503"), max_retries=retries)["error"]
        assert error["context"]["attempt_number"] == retries + 1
        assert error["context"]["max_retries"] == retries
        assert error["context"]["timeout_threshold_ms"] == 30_000
    error = errors_of(server, origin.stalling(1)[0], timeout_seconds=0.2)["error"]
    assert (error["type"], error["context"]["timeout_threshold_ms"]) == ("timeout", 200)
    permanent = errors_of(server, origin.url("/status/404"), max_retries=2)["error"]
    assert permanent["context"]["attempt_number"] == 1  # trying again would not help


def test_the_time_to_come_back_is_the_origins_or_that_of_our_own_patience(origin: Origin) -> None:
    # A server and hosts of its own: whoever asked for a pause is left alone as long.
    with open_server("native", SETTINGS) as server:

        def told(path: str, host: int, **options: int) -> object:
            failed = errors_of(server, origin.url(path, host), **options)
            return failed["error"]["retry_after_seconds"]

        for host, asked in enumerate((7, 45)):
            path = f"/busy/{uuid.uuid4().hex}?seconds={asked}"
            assert told(path, host, max_retries=0) == asked
        waits = [told("/status/503", host=2, max_retries=retries) for retries in (0, 1, 2)]
        assert waits == [0.02, 0.04, 0.08]
        assert told("/status/404", host=3) is None


def test_each_kind_of_failure_has_its_own_advice(server: ServerProcess, origin: Origin) -> None:
    urls = {
        "http_error": origin.url("/status/404"),
        "timeout": origin.stalling(1, host=2)[0],
        "network_error": f"http://127.0.0.9:{origin.port}/",
        "blocked_address": "http://10.1.2.3/",
        "dns_error": "http://no-such-host.invalid/",
        "too_many_redirects": origin.url("/redirect/30"),
    }
    events = crawl(server, list(urls.values()), timeout_seconds=0.4, max_retries=0)
    errors = {event["url"]: event for event in of_kind(events, "error")}
    advice = {kind: tuple(errors[url]["recovery_suggestions"]) for kind, url in urls.items()}
    assert {kind: errors[url]["error"]["type"] for kind, url in urls.items()} == {
        kind: kind for kind in urls
    }
    assert all(advice.values())
    assert len(set(advice.values())) == len(advice)
    analysis = summary_of(events)["error_analysis"]
    assert analysis["error_types"] == dict.fromkeys(urls, 1)
    retryable = sum(event["error"]["retryable"] for event in errors.values())
    assert (analysis["retryable_errors"], analysis["permanent_failures"]) == (
        retryable,
        len(urls) - retryable,
    )


# --- The server -----------------------------------------------------------------------------------


def resident_mib(server: ServerProcess) -> float:
    return resident_bytes(server.serving_pid) / (1 << 20)


def test_a_heartbeat_tells_of_this_connection_and_of_the_server_as_they_are(
    server: ServerProcess, origin: Origin
) -> None:
    url = origin.slow_pages(1, 1500)[0]
    with open_crawl(server.address, [url], {"cache_mode": "disabled"}) as alone:
        received = 0
        beats = []
        for event in alone.read_events():
            if event.kind == "heartbeat":
                beats.append((event.data, received))
                if len(beats) == 2:
                    more = [
                        open_crawl(server.address, [url], {"cache_mode": "disabled"})
                        for _ in range(3)
                    ]
                if len(beats) == 4:
                    break
            received += len(event.kind) > 0
        for stream in more:
            stream.close()
    health = [beat["server_health"] for beat, _ in beats]
    mine = [beat["connection_stats"] for beat, _ in beats]
    assert [one["active_connections"] for one in health[:2]] == [1, 1]
    assert health[-1]["active_connections"] == 4
    assert health[-1]["memory_usage_mb"] == pytest.approx(resident_mib(server), abs=8)
    assert health[-1]["system_load"] == pytest.approx(os.getloadavg()[0], abs=1.0)
    assert [one["messages_sent"] for one in mine] == [count for _, count in beats]
    assert all(one["bytes_sent"] < other["bytes_sent"] for one, other in pairwise(mine))
    durations = [one["connection_duration_seconds"] for one in mine]
    for one, other in pairwise(durations):
        assert 0.1 < other - one < 0.6
    assert mine[-1]["avg_send_time_ms"] >= 0


def test_uptime_is_that_of_the_server(server: ServerProcess) -> None:
    before = get_json(server.address, "/health")["server_health"]["uptime_seconds"]
    wait_until(
        lambda: get_json(server.address, "/health")["server_health"]["uptime_seconds"] > before,
        3,
        "a second later",
    )
    exact = get_json(server.address, "/stats")["streaming"]["uptime_seconds"]
    time.sleep(0.2)
    later = get_json(server.address, "/stats")["streaming"]["uptime_seconds"]
    assert 0.2 <= later - exact < 0.6


def test_a_socket_status_tells_a_slow_reader_from_a_quick_one(
    server: ServerProcess, origin: Origin
) -> None:
    def status(slow: bool) -> dict[str, Any]:
        headers = [
            *(("X-Slow-Client-Threshold", "50"), ("X-Buffer-Size", "64")),
            ("X-Max-Memory-Per-Connection", "4096"),
        ]
        with WebSocketClient(
            server.address, "/crawl/ws", headers=headers, receive_buffer=4096
        ) as socket:
            data = {"urls": origin.pages(40), "options": {"concurrency": 16}}
            socket.send({"request_type": "crawl", "data": data})
            ended = False
            while not ended:
                if slow:
                    time.sleep(0.06)
                socket.receive_bytes(16_384)
                ended = any(tag_of(message) == "summary" for message in socket.complete())
            socket.send({"request_type": "status", "data": {}})
            data = socket.receive_until("status")[-1]["data"]
            assert isinstance(data, dict)
            return data

    quick, slow = status(slow=False), status(slow=True)
    assert (quick["is_healthy"], quick["backpressure_count"]) == (True, 0)
    assert slow["is_healthy"] is False
    assert slow["backpressure_count"] >= 1
    assert slow["connected_duration_ms"] > quick["connected_duration_ms"]
    assert quick["message_count"] >= 42
