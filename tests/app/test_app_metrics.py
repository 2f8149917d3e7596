"""``/metrics``, ``/stats`` and the probes: named by the rules, and moved by what they measure."""

import re
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final, get_args

import pytest
import requests
import trio
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from eventmesh_trio import open_mesh
from eventmesh_trio.app import observability
from eventmesh_trio.app.observability import EVICTIONS, OUTCOMES, REFUSALS
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.pipeline.gate import GateDecision
from eventmesh_trio.pipeline.reading import RenderOutcome
from eventmesh_trio.pipeline.searching.limits import PROVIDERS
from eventmesh_trio.pipeline.searching.search import OUTCOMES as SEARCH_OUTCOMES
from tests.helpers.origin import Origin
from tests.helpers.processes import resident_bytes
from tests.helpers.raw import WebSocketClient, get_json, open_crawl, tag_of
from tests.helpers.servers import ServerProcess, open_server

LABELS: Final = {
    "protocol": {"ndjson", "sse", "websocket", "channel"},
    "status": {"completed", "cancelled", "failed", "timed_out"},
    "outcome": {*OUTCOMES, *SEARCH_OUTCOMES, *get_args(RenderOutcome)},
    "decision": {*get_args(GateDecision), "other"},
    "provider": {*PROVIDERS, "other"},
    "reason": {*EVICTIONS, *REFUSALS},
    "state": {"closed", "open", "half_open"},
}
SUBJECTS: Final = {
    *(
        "streaming",
        "crawl",
        "politeness",
        "robots",
        "extraction",
        "browser",
        "cache",
        "search",
        "process",
    ),
}
_OTHER_UNITS = re.compile(
    r"_(ms|millis\w*|us|micros\w*|minutes|hours|kb|mb|mib|kilobytes|megabytes|percent\w*|bits)(_|$)"
)


SETTINGS: Final = {"EVENTMESH_CRAWL__RETRY__FIRST_DELAY_SECONDS": "0.01"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with open_server("native", SETTINGS) as process:
        yield process


@pytest.fixture
def new_server() -> Iterator[ServerProcess]:
    """One that has yet to store its first document."""
    with open_server("native", SETTINGS) as process:
        yield process


def families(server: ServerProcess) -> dict[str, Metric]:
    text = requests.get(f"{server.base_url}/metrics", timeout=10).text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    # In this format the time at which a counter was made is a gauge of its own.
    return {name: family for name, family in found.items() if not name.endswith("_created")}


def values(server: ServerProcess) -> dict[tuple[str, str], float]:
    """Every sample by its name and the value of its label."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families(server).values()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def wait_entries(server: ServerProcess, before: dict[tuple[str, str], float], more: int) -> None:
    """Documents are written in their own time: wait for so many more."""
    deadline = time.monotonic() + 10
    while moved(before, values(server), "cache_entries") != {"": more}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def moved(
    before: dict[tuple[str, str], float], after: dict[tuple[str, str], float], name: str
) -> dict[str, float]:
    """By how much each labelled value of a metric rose, those left out that did not."""
    changes = {
        label: value - before[key, label] for (key, label), value in after.items() if key == name
    }
    return {label: change for label, change in changes.items() if change}


# --- Names ----------------------------------------------------------------------------------------


def test_every_metric_is_named_by_the_rules_and_explained(server: ServerProcess) -> None:
    found = families(server)
    assert len(found) > 40
    for name, family in found.items():
        assert re.fullmatch(r"[a-z]+_[a-z][a-z_]*[a-z]", name)
        assert name.partition("_")[0] in SUBJECTS, name
        assert family.documentation.endswith("."), name
        assert not _OTHER_UNITS.search(name), name
        assert family.type in ("counter", "gauge", "histogram"), name
        samples = {sample.name for sample in family.samples}
        if family.type == "counter":
            assert samples <= {f"{name}_total", f"{name}_created"}
        elif family.type == "histogram":
            assert name.endswith("_seconds")
            assert {f"{name}_bucket", f"{name}_sum", f"{name}_count"} <= samples
        else:
            assert samples == {name}
            assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
        if re.search(r"_(duration|age|uptime|cpu|time)(_|$)", name):
            assert name.endswith("_seconds"), name


def test_labels_have_a_fixed_set_of_values_all_there_from_the_start(
    server: ServerProcess, origin: Origin
) -> None:
    def labelled() -> set[tuple[str, str, str]]:
        return {
            (sample.name, label, value)
            for family in families(server).values()
            for sample in family.samples
            for label, value in sample.labels.items()
            if label != "le"
        }

    before = labelled()
    for number in range(5):
        urls = [origin.url(f"/page/{uuid.uuid4().hex}"), origin.url(f"/status/{404 + number}")]
        with open_crawl(server.address, urls, {"max_retries": 0}) as stream:
            list(stream.read_events())
    assert labelled() == before
    for name, label, value in before:
        assert value in LABELS[label], (name, label)
    assert {value for name, _, value in before if name == "crawl_pages_total"} == set(OUTCOMES)
    assert {value for name, _, value in before if name == "streaming_evictions_total"} == set(
        EVICTIONS
    )


def test_the_names_that_the_specification_queries_are_there(server: ServerProcess) -> None:
    names = {sample.name for family in families(server).values() for sample in family.samples}
    assert {
        "streaming_ttfb_duration_seconds_bucket",
        "streaming_buffer_utilization_ratio",
        "streaming_events_total",
    } <= names


# --- Values ---------------------------------------------------------------------------------------


def test_a_crawl_moves_what_it_should_by_as_much_as_it_should(
    new_server: ServerProcess, origin: Origin
) -> None:
    cached = origin.url(f"/page/{uuid.uuid4().hex}")
    before = values(new_server)
    with open_crawl(new_server.address, [cached]) as stream:
        list(stream.read_events())
    wait_entries(new_server, before, 1)
    fresh, flaky = (origin.url(f"/{kind}/{uuid.uuid4().hex}") for kind in ("page", "flaky"))
    urls = [cached, fresh, f"{flaky}?fails=2", origin.url("/status/404"), "http://10.1.2.3/"]
    before = values(new_server)
    with open_crawl(new_server.address, urls) as stream:
        chunks = list(stream.read_chunks())
    after = values(new_server)
    events = b"".join(chunks).splitlines()
    transferred = int(re.findall(rb'"total_bytes_transferred":(\d+)', events[-1])[0])

    def rose(name: str) -> dict[str, float]:
        return moved(before, after, name)

    # An error line stands before the result that it belongs to, and is written as part of it.
    errors = sum(line.startswith(b'{"event":"error"') for line in events)
    assert rose("streaming_events_total") == {"ndjson": len(events) - errors}
    assert rose("streaming_sent_bytes_total") == {"ndjson": sum(map(len, chunks))}
    assert rose("streaming_connections_total") == {"ndjson": 1}
    assert rose("streaming_ttfb_duration_seconds_count") == {"ndjson": 1}
    assert rose("streaming_runs_total") == {"": 1}
    assert rose("streaming_ended_runs_total") == {"completed": 1}
    assert rose("crawl_pages_total") == {
        "ok": 2,
        "cached": 1,
        "http_error": 1,
        "blocked_address": 1,
    }
    assert rose("crawl_retries_total") == {"": 2}
    assert rose("crawl_requests_total") == {"": 5}
    assert rose("crawl_fetch_duration_seconds_count") == {"": 5}
    assert rose("crawl_extraction_duration_seconds_count") == {"": 2}
    assert rose("crawl_fetched_bytes_total") == {"": transferred}
    # The blocked one is not looked up.
    assert (rose("cache_hits_total"), rose("cache_misses_total")) == ({"": 1}, {"": 3})
    wait_entries(new_server, before, 2)


def test_the_gates_decisions_and_wanted_renders_are_counted(
    server: ServerProcess, origin: Origin
) -> None:
    urls = [origin.url(f"/{kind}/{uuid.uuid4().hex}") for kind in ("page", "sketch", "script")]
    before = values(server)
    for mode in ("adaptive", "static"):
        with open_crawl(server.address, urls, {"render_mode": mode}) as stream:
            list(stream.read_events())
    after = values(server)
    assert moved(before, after, "crawl_gate_decisions_total") == {
        "raw": 2,
        "probes_first": 2,
        "headless": 2,
    }
    # Not for the one that is raw, nor where rendering was not allowed.
    assert moved(before, after, "crawl_renders_total") == {"unavailable": 2}


def test_each_protocol_and_each_ending_is_counted_as_its_own(
    server: ServerProcess, origin: Origin
) -> None:
    before = values(server)
    with open_crawl(server.address, origin.pages(2), target="/crawl/sse") as stream:
        sse = len(list(stream.read_events()))
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        data = {"urls": origin.stalling(1), "options": {}, "request_id": "r"}
        socket.send({"request_type": "crawl", "data": data})
        messages = socket.receive_until("metadata")
        during = values(server)
        socket.send({"request_type": "cancel", "data": {"request_id": "r"}})
        messages += socket.receive_until("summary")
        assert tag_of(messages[-1]) == "summary"
        after = values(server)
    assert moved(before, during, "streaming_active_runs") == {"": 1}
    assert moved(before, during, "streaming_active_connections") == {"websocket": 1}
    assert moved(before, after, "streaming_events_total") == {
        "sse": sse,
        "websocket": len(messages),
    }
    assert moved(before, after, "streaming_ended_runs_total") == {"completed": 1, "cancelled": 1}
    assert moved(before, after, "streaming_active_runs") == {}


def test_fetches_and_extractions_are_timed(server: ServerProcess, origin: Origin) -> None:
    before = values(server)
    url = origin.url(f"/slow/{uuid.uuid4().hex}?ms=300")
    with open_crawl(server.address, [url]) as stream:
        list(stream.read_events())
    after = values(server)
    assert 0.3 <= moved(before, after, "crawl_fetch_duration_seconds_sum")[""] < 1.5
    assert 0 < moved(before, after, "crawl_extraction_duration_seconds_sum")[""] < 1.5
    buckets = moved(before, after, "crawl_fetch_duration_seconds_bucket")
    assert "0.25" not in buckets  # it took longer than that
    assert buckets["+Inf"] == 1


def test_the_process_is_measured(server: ServerProcess, origin: Origin) -> None:
    before = values(server)
    idle = [open_crawl(server.address, origin.stalling(1)) for _ in range(5)]
    during = values(server)
    for stream in idle:
        stream.close()
    opened = during["process_open_fds", ""] - before["process_open_fds", ""]
    assert opened >= 5
    resident = resident_bytes(server.serving_pid)
    assert during["process_resident_memory_bytes", ""] == pytest.approx(resident, rel=0.1)
    assert during["process_cpu_seconds_total", ""] >= before["process_cpu_seconds_total", ""] > 0
    assert during["extraction_workers", ""] >= 1
    assert during["crawl_open_connections", ""] >= 1


def test_statistics_are_the_same_as_json_with_the_efficiency(
    server: ServerProcess, origin: Origin
) -> None:
    with open_crawl(server.address, origin.pages(1)) as stream:
        list(stream.read_events())
    stats = get_json(server.address, "/stats")
    streaming = stats["streaming"]
    assert {
        *("active_connections", "total_connections", "total_messages_sent"),
        *("total_messages_dropped", "average_connection_duration_ms", "health_status"),
        *("memory_usage_bytes", "error_rate", "efficiency"),
    } <= set(streaming)
    assert (streaming["health_status"], streaming["efficiency"]) == ("healthy", 1.0)
    served = values(server)
    for name, value in stats["metrics"].items():
        labelled = value.items() if isinstance(value, dict) else [("", value)]
        for label, _ in labelled:
            assert (name, label) in served
    for name in ("streaming_events_total", "streaming_runs_total", "crawl_pages_total"):
        told = stats["metrics"][name]
        told = told if isinstance(told, dict) else {"": told}
        assert told == {label: v for (key, label), v in served.items() if key == name}


# --- Scrapes and probes ---------------------------------------------------------------------------


async def test_a_scrape_holds_up_nobody_and_reads_the_hub_on_its_own_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = threading.get_ident()
    render, snapshot = generate_latest, Census.snapshot
    elsewhere = []

    def slow(registry: Any) -> bytes:
        elsewhere.append(threading.get_ident())
        time.sleep(0.3)
        return render(registry)

    def watched(census: Census) -> Any:
        assert threading.get_ident() == loop
        return snapshot(census)

    monkeypatch.setattr(observability, "generate_latest", slow)
    monkeypatch.setattr(Census, "snapshot", watched)
    gaps = []

    async def tick() -> None:
        while True:
            before = trio.current_time()
            await trio.sleep(0.01)
            gaps.append(trio.current_time() - before)

    async with open_mesh() as mesh, trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        text = await mesh.metrics.render()
        nursery.cancel_scope.cancel()
    assert b"streaming_active_connections" in text
    assert elsewhere
    assert elsewhere[0] != loop
    print(f"the longest gap during a scrape of 300 ms: {max(gaps) * 1000:.0f} ms")
    assert max(gaps) < 0.2


async def test_what_an_embedders_own_parts_say_is_counted_as_other() -> None:
    async with open_mesh() as mesh:
        mesh.metrics.settled("a type of its own")
        mesh.metrics.eviction("a reason of its own")
        mesh.metrics.refusal("a reason of its own")
        samples = await mesh.metrics.samples()
    for name in ("crawl_pages_total", "streaming_evictions_total", "streaming_refusals_total"):
        labelled = samples[name]
        assert isinstance(labelled, dict)
        assert {label: value for label, value in labelled.items() if value} == {"other": 1.0}


def test_the_whole_picture_of_health(server: ServerProcess) -> None:
    health = get_json(server.address, "/health")
    assert health["status"] == health["streaming_health"]["status"] == "healthy"
    assert health["streaming_health"]["score"] == 100
    assert {"active_streams", "global_error_rate"} <= set(health["global_metrics"])
    assert {"version", "sessions", "active_runs", "server_health"} <= set(health)


def test_the_probes_answer_beside_a_storm_of_work(server: ServerProcess, origin: Origin) -> None:
    urls = [origin.url(f"/large/{number}?kb=200", host=1) for number in range(6)]
    slowest = 0.0
    with open_crawl(server.address, urls, {"concurrency": 16, "cache_mode": "disabled"}) as stream:
        for event in stream.read_events():
            if event.kind == "result":
                for path in ("/livez", "/readyz"):
                    started = time.monotonic()
                    assert get_json(server.address, path)["status"]
                    slowest = max(slowest, time.monotonic() - started)
    print(f"the slowest probe while pages were read: {slowest * 1000:.0f} ms")
    assert slowest < 1.0
