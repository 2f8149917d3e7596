"""Deep searches through the whole server, both kinds of it, with an engine of ours behind it."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from eventmesh_trio.wire import events as wire_events
from eventmesh_trio.wire.codec import decode_event
from tests.app.test_app_specification_events import differences
from tests.helpers.clock import wait_until
from tests.helpers.node import run_in_node
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    StreamedEvent,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    tag_of,
)
from tests.helpers.search_site import KEY, SearchSite, open_search_site
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server
from tests.helpers.specification import code_block, json_examples

pytestmark = pytest.mark.slow

JSON = ("Content-Type", "application/json")
PAGES = 4
ORDER = [
    *("metadata", "search_start", "search_results", "crawl_start"),
    *["search_result"] * (PAGES + 1),
    *("search_summary", "summary"),
]


@pytest.fixture(scope="module")
def site(origin: Origin) -> Iterator[SearchSite]:
    """An engine that finds pages of the origin, one twice, and one that does not exist."""
    found = [*origin.pages(PAGES), origin.url("/page/0#again"), origin.url("/status/404")]
    with open_search_site(found) as site:
        yield site


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, site: SearchSite) -> Iterator[ServerProcess]:
    settings = {
        **site.settings(),
        "EVENTMESH_SEARCH__TIMEOUT_SECONDS": "1.5s",
        "EVENTMESH_SEARCH__FIRST_DELAY_SECONDS": "10ms",
    }
    with open_server(request.param, settings) as process:
        yield process


def open_search(
    server: ServerProcess,
    query: str = "structured concurrency",
    *,
    target: str = "/deepsearch/stream",
    headers: list[tuple[str, str]] | None = None,
    **members: Any,
) -> Connection:
    connection = Connection(server.address)
    body = json.dumps({"query": query, **members}).encode()
    connection.send("POST", target, [JSON, *(headers or [])], body)
    connection.read_head()
    return connection


def read_search(server: ServerProcess, *args: Any, **more: Any) -> list[StreamedEvent]:
    with open_search(server, *args, **more) as stream:
        assert stream.status == 200
        return list(stream.read_events())


def logged(events: list[StreamedEvent]) -> list[StreamedEvent]:
    return [event for event in events if event.data.get("id")]


# --- Streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "media_type"),
    [
        ("/deepsearch/stream", "application/x-ndjson; charset=utf-8"),
        ("/api/v1/deepsearch/stream", "application/x-ndjson; charset=utf-8"),
        ("/api/v1/stream/deepsearch", "application/x-ndjson; charset=utf-8"),
        ("/deepsearch/sse", "text/event-stream; charset=utf-8"),
        ("/api/v1/deepsearch/sse", "text/event-stream; charset=utf-8"),
    ],
)
def test_a_search_streams_in_the_order_of_the_specification_on_every_route(
    server: ServerProcess, target: str, media_type: str
) -> None:
    with open_search(server, target=target) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, media_type)
        assert stream.headers["x-session-id"].startswith("session-")
        events = list(stream.read_events())
    assert [event.kind for event in logged(events)] == ORDER
    numbers = [int(event.data["id"].rpartition("-")[2]) for event in logged(events)]
    assert numbers == sorted(set(numbers))
    if "sse" in target:
        assert [event.event_id for event in logged(events)] == [
            event.data["id"] for event in logged(events)
        ]
    assert events[-1].kind == "summary"
    assert [event.kind for event in events].count("progress") >= 1


def test_what_was_found_is_crawled_once_each_and_everything_adds_up(
    server: ServerProcess, origin: Origin
) -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in read_search(server, crawl_options={"cache_mode": "disabled"}):
        by_kind.setdefault(event.kind, []).append(event.data)
    (found,), results = by_kind["search_results"], by_kind["search_result"]
    assert found["urls_found"] == len(found["results"]) == PAGES + 1
    hits = {hit["url"]: hit for hit in found["results"]}
    assert [hit["rank"] for hit in found["results"]] == list(range(1, PAGES + 2))
    assert sorted(result["url"] for result in results) == sorted(hits)
    for result in results:
        hit = hits[result["url"]]
        assert {name: result[name] for name in hit} == hit
    (failed,) = [result for result in results if result["content"] is None]
    assert failed["url"] == origin.url("/status/404")
    assert failed["crawl_result"]["status"] == 404
    assert failed["error"]["error_code"] == "HTTP_404"
    (page,) = [result for result in results if result["url"] == origin.url("/page/2")]
    assert page["content"]["title"] == "Page 2"
    assert page["content"]["markdown"].startswith("# Page 2")
    assert page["content"]["word_count"] > 20
    assert page["crawl_result"]["status"] == 200
    assert 0 < page["crawl_result"]["quality_score"] <= 1
    assert "error" not in page
    (search_summary,), (summary,) = by_kind["search_summary"], by_kind["summary"]
    assert (search_summary["urls_found"], search_summary["urls_crawled"]) == (PAGES + 1, PAGES + 1)
    assert (search_summary["successful"], search_summary["failed"]) == (PAGES, 1)
    assert (summary["total_urls"], summary["successful"], summary["failed"]) == (
        PAGES + 1,
        PAGES,
        1,
    )
    assert search_summary["status"] == summary["status"] == "completed"
    assert by_kind["crawl_start"][0]["total_urls"] == PAGES + 1
    assert by_kind["progress"][-1]["completed"] == PAGES + 1


@pytest.mark.parametrize("kind", ["search_start", "search_results", "search_result"])
def test_every_member_that_the_specification_shows_is_there_with_its_type(
    server: ServerProcess, kind: str
) -> None:
    examples = {example["event"]: example for example in json_examples()}
    real = [event.data for event in read_search(server) if event.kind == kind]
    assert real
    for event in real:
        if kind != "search_result" or event["content"] is not None:
            assert list(differences(examples[kind], event)) == []


def test_every_event_is_one_that_the_wire_module_knows(server: ServerProcess) -> None:
    for event in read_search(server):
        assert not isinstance(decode_event(json.dumps(event.data)), wire_events.UnknownEvent)


def test_without_content_nothing_is_fetched(server: ServerProcess, origin: Origin) -> None:
    before = sum(origin.requests.values())
    kinds = [event.kind for event in logged(read_search(server, include_content=False))]
    assert kinds == ["metadata", "search_start", "search_results", "search_summary", "summary"]
    assert sum(origin.requests.values()) == before


def test_the_limit_and_where_to_search_reach_the_engine(
    server: ServerProcess, site: SearchSite
) -> None:
    events = read_search(server, "two of them", limit=2, country="AT", locale="de")
    assert [event.kind for event in events].count("search_result") == 2
    asked = next(one for one in reversed(site.asked) if one.text == "two of them")
    assert asked.query["language"] == "de-AT"


# --- The shown client ----------------------------------------------------------------------------


def test_the_shown_javascript_client_searches(
    server: ServerProcess, site: SearchSite, origin: Origin, tmp_path: Path
) -> None:
    stand_ins = """
    Object.assign(report, { results: [], found: null, others: [] });
    const displaySearchResults = (results) => { report.found = results; };
    const displaySearchResult = (event) => { report.results.push(event); };
    const handleStreamEvent = async (event) => { report.others.push(event); };
    """
    client = code_block("javascript", "async function streamDeepSearch")
    epilogue = "await streamDeepSearch('machine learning best practices', { limit: 5 });"
    given = {"server": server.base_url, "origin": origin.url("")}
    report = run_in_node(tmp_path, client, epilogue, given, stand_ins=stand_ins)
    log = [words[0] for words in report["said"]["log"]]
    assert log[0] == 'Starting search for: "machine learning best practices"'
    assert f"Found {PAGES + 1} URLs from search" in log
    assert f"Starting content extraction for {PAGES + 1} URLs" in log
    assert f"Search completed: {PAGES + 1}/{PAGES + 1} URLs processed" in log
    assert [hit["rank"] for hit in report["found"]] == list(range(1, PAGES + 2))
    assert sorted(event["rank"] for event in report["results"]) == list(range(1, PAGES + 2))
    kinds = [event["event"] for event in report["others"]]
    assert (kinds[0], kinds[-1]) == ("metadata", "summary")
    assert set(kinds) <= {"metadata", "progress", "summary"}
    assert report["said"]["error"] == []


# --- Providers that cannot serve -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        *(("html", "bad_answer"), ("badjson", "bad_answer"), ("huge", "too_large")),
        *(("bomb", "too_large"), ("redirect", "redirected"), ("forbidden", "unauthorized")),
        *(("down", "http_error"), ("reset", "unreachable"), ("cut", "unreachable")),
        *(("stall", "timeout"), ("drip", "timeout"), ("busy 60 app", "rate_limited")),
    ],
)
@pytest.mark.parametrize("target", ["/deepsearch/stream", "/deepsearch/sse"])
def test_a_provider_that_cannot_serve_is_a_503_before_the_stream(
    server: ServerProcess, query: str, reason: str, target: str
) -> None:
    if reason == "rate_limited":
        query = f"{query} {target} {server.kind}"  # it is busy once for each query
    began = time.monotonic()
    response = post_json(server.address, target, {"query": query})
    assert time.monotonic() - began < 4
    assert (response.status, response.headers["content-type"]) == (503, "application/json")
    assert int(response.headers["retry-after"]) >= 1
    assert response.error["type"] == "dependency_error"
    assert response.error["error_code"] == "TemporaryFailure"
    assert response.error["details"] == {"provider": "searxng", "reason": reason}
    assert "169.254" not in response.body.decode()


def test_a_retry_with_the_same_key_searches_again_after_a_503(
    server: ServerProcess, site: SearchSite
) -> None:
    name = f"again-{server.kind}"
    headers = [("Idempotency-Key", name), ("X-Session-ID", name), ("X-Request-ID", name)]
    query = f"busy 30 {name}"  # too long a pause to be waited for, but only once
    body = {"query": query}
    assert post_json(server.address, "/deepsearch/stream", body, headers).status == 503
    response = post_json(server.address, "/deepsearch/stream", body, headers)
    assert response.status == 200
    kinds = [json.loads(line)["event"] for line in response.body.splitlines()]
    assert (kinds[0], kinds[-1]) == ("metadata", "summary")
    assert "error" not in kinds
    # And now that it has been served, the same request is the same run.
    before = len(site.asked)
    again = post_json(server.address, "/deepsearch/stream", body, headers)
    assert again.status == 200
    assert len(site.asked) == before


def test_a_client_that_leaves_while_the_engine_thinks_leaves_nothing_behind(
    server: ServerProcess, site: SearchSite
) -> None:
    for _ in range(5):
        connection = Connection(server.address)
        body = json.dumps({"query": "stall"}).encode()
        connection.send("POST", "/deepsearch/stream", [JSON], body)
        wait_until(lambda: site.in_flight > 0, 5, "the search")
        connection.reset()
    wait_until(lambda: site.in_flight == 0, 1.4, "the searches to be given up")
    wait_until(
        lambda: get_json(server.address, "/stats")["streaming"]["active_runs"] == 0, 5, "no runs"
    )


def test_a_failed_page_of_a_search_is_no_error_event(server: ServerProcess) -> None:
    for target in ("/deepsearch/stream", "/deepsearch/sse"):
        assert "error" not in [event.kind for event in read_search(server, target=target)]


# --- Resuming and sessions -----------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["ndjson", "sse"])
def test_a_search_that_was_cut_is_resumed_behind_the_last_event(
    server: ServerProcess, origin: Origin, site: SearchSite, framing: str
) -> None:
    target = "/deepsearch/stream" if framing == "ndjson" else "/deepsearch/sse"
    attach = "/crawl/stream" if framing == "ndjson" else "/crawl/sse/stream"
    session = f"cut-{server.kind}-{framing}"
    events: list[StreamedEvent] = []
    with open_search(
        server,
        target=target,
        headers=[("X-Session-ID", session)],
        crawl_options={"concurrency": 1, "cache_mode": "disabled"},
    ) as stream:
        for event in stream.read_events():
            events.append(event)
            if event.kind == "search_result":
                break
        stream.reset()
    before = len(site.asked)
    last = logged(events)[-1].data["id"]
    with Connection(server.address) as connection:
        connection.send("GET", f"{attach}?session_id={session}", [("Last-Event-ID", last)])
        assert connection.read_head() == 200
        events += connection.read_events()
    assert [event.kind for event in logged(events)] == ORDER
    assert len({event.data["id"] for event in logged(events)}) == len(ORDER)
    ranks = Counter(event.data["rank"] for event in events if event.kind == "search_result")
    assert ranks == Counter(range(1, PAGES + 2))
    assert len(site.asked) == before  # nobody is asked twice


def test_the_session_tells_that_its_run_is_a_search(server: ServerProcess) -> None:
    session = f"kind-{server.kind}"
    read_search(server, headers=[("X-Session-ID", session)])
    (run,) = get_json(server.address, f"/sessions/{session}")["runs"]
    assert (run["kind"], run["state"]) == ("deepsearch", "completed")
    assert (run["total"], run["successful"], run["failed"]) == (PAGES + 1, PAGES, 1)


def test_an_equal_post_on_a_session_with_a_live_search_is_a_conflict_unless_it_has_its_key(
    server: ServerProcess,
) -> None:
    name = f"live-{server.kind}"
    headers = [("X-Session-ID", name), ("Idempotency-Key", name)]
    with open_search(server, "slow one", headers=headers) as stream:
        other = post_json(
            server.address, "/deepsearch/stream", {"query": "x"}, [("X-Session-ID", name)]
        )
        first = list(stream.read_events())
    assert other.status in (409, 200)  # live, or over by now
    second = read_search(server, "slow one", headers=headers)
    assert [event.data["id"] for event in logged(first)] == [
        event.data["id"] for event in logged(second)
    ]


# --- WebSocket -----------------------------------------------------------------------------------


def deepsearch_message(dialect: str, query: str, request_id: str) -> dict[str, Any]:
    if dialect == "envelope":
        return {"request_type": "deepsearch", "data": {"query": query, "request_id": request_id}}
    return {"action": "deepsearch", "requestId": request_id, "query": query}


def of_search(message: Mapping[str, Any]) -> dict[str, Any]:
    return dict(message["data"] if "message_type" in message else message)


@pytest.mark.parametrize("dialect", ["envelope", "flat"])
def test_a_search_over_a_websocket_speaks_the_dialect_that_it_was_asked_in(
    server: ServerProcess, dialect: str
) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        socket.send(deepsearch_message(dialect, "trio", "s1"))
        messages = socket.receive_until("summary")
    tags = [tag_of(message) for message in messages if tag_of(message) != "progress"]
    assert tags == (ORDER if dialect == "envelope" else ORDER[1:])
    for message in messages:
        if dialect == "envelope":
            assert set(message) <= {"message_type", "data", "timestamp", "id"}
            assert message["data"]["request_id"] == "s1"
        else:
            assert (message["requestId"], bool(message["sessionId"])) == ("s1", True)
    results = [of_search(m) for m in messages if tag_of(m) == "search_result"]
    assert sorted(result["rank"] for result in results) == list(range(1, PAGES + 2))


def test_a_provider_that_fails_over_a_websocket_is_the_runs_error_and_the_socket_lives(
    server: ServerProcess,
) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        socket.send(deepsearch_message("envelope", "html", "bad"))
        messages = socket.receive_until("summary")
        error = next(message for message in messages if tag_of(message) == "error")
        assert error["id"]
        assert error["data"]["error"]["type"] == "dependency_error"
        assert error["data"]["error"]["context"]["reason"] == "bad_answer"
        assert messages[-1]["data"]["status"] == "failed"
        tags = [tag_of(message) for message in messages if tag_of(message) != "progress"]
        assert tags == ["metadata", "search_start", "error", "search_summary", "summary"]
        socket.send({"request_type": "deepsearch", "data": {"query": ""}})
        refusal = socket.receive()
        assert (tag_of(refusal), "query" in refusal["data"]["message"]) == ("error", True)
        socket.send({"request_type": "ping", "data": {}})
        assert tag_of(socket.receive()) == "pong"


def test_a_socket_obeys_while_the_engine_thinks(server: ServerProcess) -> None:
    with WebSocketClient(server.address, "/crawl/ws") as socket:
        socket.receive()
        socket.send(deepsearch_message("envelope", "stall", "s1"))
        assert tag_of(socket.receive()) == "metadata"
        assert tag_of(socket.receive()) == "search_start"
        began = time.monotonic()
        socket.send({"request_type": "pause", "data": {"request_id": "s1"}})
        assert tag_of(socket.receive_until("paused")[-1]) == "paused"
        socket.send({"request_type": "status", "data": {}})
        (run,) = socket.receive_until("status")[-1]["data"]["requests"]
        assert (run["state"], run["completed"], run["total"]) == ("paused", 0, 10)
        socket.send({"request_type": "resume", "data": {"request_id": "s1"}})
        socket.receive_until("resumed")
        socket.send({"request_type": "cancel", "data": {"request_id": "s1"}})
        messages = socket.receive_until("summary")
        assert time.monotonic() - began < 1.4  # before the engine's time was up
    search_summary, summary = [
        of_search(m) for m in messages if tag_of(m) in ("search_summary", "summary")
    ]
    assert search_summary["status"] == summary["status"] == "cancelled"
    assert (search_summary["urls_found"], summary["total_urls"]) == (0, 0)


# --- What is measured, described, and not said ---------------------------------------------------


def test_requests_to_the_provider_are_counted_by_outcome(server: ServerProcess) -> None:
    def samples() -> dict[tuple[str, str], float]:
        text = requests.get(f"{server.base_url}/metrics", timeout=10).text
        return {
            (sample.labels["provider"], sample.labels.get("outcome", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in ("search_requests_total", "search_request_duration_seconds_count")
        }

    before = samples()
    read_search(server)
    post_json(server.address, "/deepsearch/stream", {"query": "html"})
    post_json(server.address, "/deepsearch/stream", {"query": "down"})
    after = samples()
    moved = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert moved == {
        ("searxng", "ok"): 1,
        ("searxng", "bad_answer"): 1,
        ("searxng", "http_error"): 3,
        ("searxng", ""): 5,
    }


def test_the_description_of_the_api_has_every_event_of_a_search(server: ServerProcess) -> None:
    document = get_json(server.address, "/openapi.json")
    schemas = document["components"]["schemas"]
    for kind in ("SearchStart", "SearchResults", "CrawlStart", "SearchResult", "SearchSummary"):
        struct = getattr(wire_events, kind)
        names = {field.encode_name for field in msgspec.structs.fields(struct)}
        assert names <= set(schemas[kind]["properties"])
    body = document["paths"]["/deepsearch/stream"]["post"]["requestBody"]
    assert "DeepSearchRequest" in json.dumps(body)


@pytest.mark.parametrize("provider", ["serper", "brave"])
def test_a_server_with_a_key_searches_and_never_says_the_key(
    site: SearchSite, provider: str
) -> None:
    settings = {**site.settings(provider), "EVENTMESH_SEARCH__FIRST_DELAY_SECONDS": "1ms"}
    said = ""
    with open_server("native", settings) as server:
        assert [event.kind for event in logged(read_search(server))] == ORDER
        for query in ("forbidden", "down", "html", "reset"):
            said += str(post_json(server.address, "/deepsearch/stream", {"query": query}))
        for target in ("/stats", "/metrics", "/health", "/openapi.json", "/sessions"):
            said += requests.get(f"{server.base_url}{target}", timeout=10).text
        log = server.log
    assert KEY not in said + log
    assert "run failed" in log
    assert "refuses this server" in log


def test_a_query_that_the_provider_cannot_take_is_a_400_that_names_it(site: SearchSite) -> None:
    with open_server("native", site.settings("brave")) as server:
        response = post_json(server.address, "/deepsearch/stream", {"query": "word " * 60})
        assert (response.status, response.error["details"]["field"]) == (400, "query")
        assert "Brave" in response.error["message"]
        with WebSocketClient(server.address, "/crawl/ws") as socket:
            socket.receive()
            socket.send(deepsearch_message("envelope", "word " * 60, "s1"))
            refusal = socket.receive()
            assert (tag_of(refusal), refusal["data"]["request_id"]) == ("error", "s1")
        # The client's mistake is no failure of the server's.
        assert get_json(server.address, "/stats")["streaming"]["ended_runs"].get("failed", 0) == 0


def test_what_an_engine_names_inside_is_refused_as_any_url_is(origin: Origin) -> None:
    inside = ["http://169.254.169.254/latest/", "http://[::1]/", "http://10.0.0.1/"]
    with (
        open_search_site([*inside, "gopher://x/", *origin.pages(1)]) as site,
        open_server("native", site.settings()) as server,
    ):
        events = read_search(server)
    results = {event.data["url"]: event.data for event in events if event.kind == "search_result"}
    assert sorted(results) == sorted([*inside, *origin.pages(1)])
    assert {results[url]["error"]["type"] for url in inside} == {"blocked_address"}
    assert results[origin.pages(1)[0]]["content"]["title"] == "Page 0"


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_ends_while_the_engine_thinks_tells_so_with_both_summaries(
    site: SearchSite, kind: Kind
) -> None:
    with open_server(
        kind, {**site.settings(), "EVENTMESH_SEARCH__TIMEOUT_SECONDS": "20s"}
    ) as server:
        with Connection(server.address) as connection:
            body = json.dumps({"query": "stall until the end"}).encode()
            connection.send("POST", "/deepsearch/stream", [JSON], body)
            wait_until(lambda: site.in_flight > 0, 5, "the search")
            server.process.send_signal(signal.SIGTERM)
            assert connection.read_head() == 200
            events = logged(list(connection.read_events()))
        assert server.process.wait(10) == 0
    assert [event.kind for event in events] == [
        *("metadata", "search_start", "search_summary", "summary")
    ]
    assert events[-1].data["reason"] == "shutdown"
    assert events[-1].data["status"] == events[-2].data["status"] == "cancelled"
    wait_until(lambda: site.in_flight == 0, 5, "the engine to be left")


def test_a_search_may_be_paused_and_watched_while_its_response_waits(
    server: ServerProcess, site: SearchSite
) -> None:
    session = f"watched-{server.kind}"
    with Connection(server.address) as connection:
        body = json.dumps({"query": "slow to answer"}).encode()
        connection.send("POST", "/deepsearch/stream", [JSON, ("X-Session-ID", session)], body)
        wait_until(lambda: site.in_flight > 0, 5, "the search")
        with Connection(server.address) as watching:
            watching.send("GET", f"/crawl/stream?session_id={session}")
            assert watching.read_head() == 200
            stream = watching.read_events()
            assert [next(stream).kind for _ in range(2)] == ["metadata", "search_start"]
            paused = post_json(server.address, f"/sessions/{session}/pause", {}).json()
            assert paused["runs"][0]["state"] == "paused"
            wait_until(lambda: site.in_flight == 0, 2, "the search to stop")
            post_json(server.address, f"/sessions/{session}/resume", {})
            rest = [event.kind for event in logged(list(stream))]
        assert connection.read_head() == 200
        events = logged(list(connection.read_events()))
    assert [event.kind for event in events] == ORDER
    assert rest == ORDER[2:]


# --- Local ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_without_a_provider_the_server_searches_what_it_has_crawled(
    origin: Origin, tmp_path: Path, store: str
) -> None:
    where = "memory:" if store == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    with open_server("native", {"EVENTMESH_CACHE__STORE": where}) as server:
        nothing = read_search(server, "crawl server")
        assert logged(nothing)[2].data["urls_found"] == 0
        with open_crawl(server.address, origin.pages(3)) as stream:
            assert list(stream.read_events())[-1].data["successful"] == 3
        found: list[StreamedEvent] = []

        def is_found() -> bool:
            found[:] = read_search(server, "crawl server reads pages")
            return [event.kind for event in found].count("search_result") == 3

        wait_until(is_found, 10, "what was crawled to be written, by and by")
        results = [event.data for event in found if event.kind == "search_result"]
        assert sorted(result["url"] for result in results) == sorted(origin.pages(3))
        assert all(result["crawl_result"]["from_cache"] for result in results)
        assert all("crawl" in result["search_snippet"].lower() for result in results)
        assert {result["search_title"] for result in results} == {f"Page {n}" for n in range(3)}
