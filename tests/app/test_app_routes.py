"""Every route, alias, method and refusal over raw HTTP."""

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.origin import Origin
from tests.helpers.raw import Connection, Response, get_json, open_crawl, post_json, request
from tests.helpers.servers import ServerProcess

CRAWLS = {
    "ndjson": ("/crawl/stream", "/api/v1/crawl/stream", "/api/v1/stream/crawl"),
    "sse": ("/crawl/sse", "/api/v1/crawl/sse", "/api/v1/sse/crawl"),
}
MEDIA_TYPES = {
    "ndjson": "application/x-ndjson; charset=utf-8",
    "sse": "text/event-stream; charset=utf-8",
}
ALL_CRAWLS = [(framing, path) for framing, paths in CRAWLS.items() for path in paths]
ATTACHES = [
    ("ndjson", "/crawl/stream"),
    ("ndjson", "/api/v1/crawl/stream"),
    ("sse", "/crawl/sse/stream"),
    ("sse", "/crawl/sse"),
    ("sse", "/api/v1/crawl/sse/stream"),
    ("sse", "/api/v1/crawl/sse"),
]
SEARCHES = (
    "/deepsearch/stream",
    "/deepsearch/sse",
    "/api/v1/deepsearch/stream",
    "/api/v1/stream/deepsearch",
)
# path -> the methods that exist there, beside OPTIONS
METHODS = {
    **{path: {"POST", "GET"} for path in ("/crawl/stream", "/crawl/sse", "/api/v1/crawl/stream")},
    "/crawl/sse/stream": {"GET"},
    "/crawl/ws": {"GET"},
    "/api/v1/crawl/ws": {"GET"},
    **{path: {"POST"} for path in SEARCHES},
    "/sessions": {"GET"},
    "/api/v1/sessions": {"GET"},
    "/sessions/none": {"GET", "DELETE"},
    "/sessions/none/pause": {"POST"},
    "/api/v1/sessions/none/resume": {"POST"},
    "/sessions/none/cancel": {"POST"},
    **{
        path: {"GET"}
        for path in (
            "/livez",
            "/readyz",
            "/healthz",
            "/health",
            "/metrics",
            "/stats",
            "/openapi.json",
        )
    },
}


def assert_refused(response: Response, status: int, kind: str) -> Any:
    """A refusal has the one shape of section 7; returns its error object."""
    assert response.status == status, response
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    error = response.error
    assert {"type", "message", "retryable", "status", "request_id", "error_code"} <= set(error)
    assert (error["type"], error["status"]) == (kind, status)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["retryable"] is (status in (429, 503))
    assert (error["error_code"] == "TemporaryFailure") is error["retryable"]
    if error["retryable"]:
        assert int(response.headers["retry-after"]) >= 1
    else:
        words = ("NetworkError", "TimeoutError", "ConnectionError", "TemporaryFailure")
        assert not any(word in response.body.decode() for word in words)
    return error


@pytest.mark.parametrize(("framing", "path"), ALL_CRAWLS)
def test_every_crawl_route_streams_in_its_framing(
    server: ServerProcess, origin: Origin, framing: str, path: str
) -> None:
    with open_crawl(server.address, origin.pages(2), target=path) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == MEDIA_TYPES[framing]
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        kinds = [event.kind for event in stream.read_events()]
    assert kinds[:2] == ["metadata", "start"]
    assert kinds[-1] == "summary"
    assert kinds.count("result") == 2


@pytest.mark.parametrize(("framing", "path"), ATTACHES)
def test_every_attach_route_replays_a_session_in_its_framing(
    server: ServerProcess, origin: Origin, framing: str, path: str
) -> None:
    session = f"attach-{framing}"
    if request(server.address, "GET", f"/sessions/{session}").status == 404:
        with open_crawl(
            server.address, origin.pages(2), headers=[("X-Session-ID", session)]
        ) as stream:
            list(stream.read_events())
    with Connection(server.address) as connection:
        connection.send("GET", f"{path}?session_id={session}")
        assert connection.read_head() == 200
        assert connection.headers["content-type"] == MEDIA_TYPES[framing]
        assert connection.headers["x-session-id"] == session
        events = list(connection.read_events())
    kinds = [event.kind for event in events if event.kind != "progress"]
    assert kinds == ["metadata", "start", "result", "result", "summary"]


@pytest.mark.parametrize("path", SEARCHES)
def test_a_deep_search_is_taken_and_a_bad_one_refused(server: ServerProcess, path: str) -> None:
    body = {"query": "a word that nobody wrote"}
    response = post_json(server.address, path, body)
    assert response.status == 200
    framing = "sse" if path.endswith("sse") else "ndjson"
    assert response.headers["content-type"] == MEDIA_TYPES[framing]
    assert b"search_results" in response.body
    bad = assert_refused(post_json(server.address, path, {"query": ""}), 400, "validation_error")
    assert bad["details"]["field"] == "query"


@pytest.mark.parametrize("path", sorted(METHODS))
def test_a_wrong_method_is_refused_and_told_which_are_right(
    server: ServerProcess, path: str
) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        if method in METHODS[path]:
            continue
        response = request(server.address, method, path, body=b"" if method != "GET" else None)
        assert_refused(response, 405, "method_not_allowed")
        allowed = {name.strip() for name in response.headers["allow"].split(",")}
        assert METHODS[path] <= allowed
        assert method not in allowed


@pytest.mark.parametrize(
    "path", ["/", "/crawl", "/crawl/stream/more", "/api/v2/crawl/stream", "/%00"]
)
def test_an_unknown_path_is_not_found(server: ServerProcess, path: str) -> None:
    assert_refused(request(server.address, "GET", path), 404, "not_found")
    assert_refused(post_json(server.address, path, {}), 404, "not_found")


def test_head_answers_as_get_without_a_body(server: ServerProcess) -> None:
    for path in ("/livez", "/stats", "/openapi.json"):
        response = request(server.address, "HEAD", path)
        assert (response.status, response.body) == (200, b""), path


def test_options_of_the_server_as_a_whole_tells_every_method_there_is(
    server: ServerProcess,
) -> None:
    response = request(server.address, "OPTIONS", "*")
    assert (response.status, response.body) == (204, b"")
    allowed = set(response.headers["allow"].split(", "))
    assert allowed == {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
    assert request(server.address, "OPTIONS", "/").status == 404


def test_an_encoded_slash_separates_nothing(server: ServerProcess) -> None:
    response = request(server.address, "POST", "/sessions/none%2Fpause")
    assert (response.status, response.error["type"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/crawl/stream", "/crawl/sse", "/sessions/none", "/crawl/ws"])
def test_a_preflight_is_allowed_and_names_the_headers_that_clients_send(
    server: ServerProcess, path: str
) -> None:
    response = request(
        server.address,
        "OPTIONS",
        path,
        [
            ("Origin", "https://page.example"),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type, x-session-id"),
        ],
    )
    assert (response.status, response.body) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers
    methods = {name.strip() for name in response.headers["access-control-allow-methods"].split(",")}
    assert METHODS[path] <= methods
    allowed = {
        name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")
    }
    assert {
        *("content-type", "accept", "last-event-id", "idempotency-key", "x-session-id"),
        *("x-request-id", "x-buffer-size", "x-buffer-timeout", "x-enable-backpressure"),
        *("x-slow-client-threshold", "x-max-memory-per-connection"),
    } <= allowed


def test_a_page_of_another_origin_may_read_a_stream_and_a_refusal(
    server: ServerProcess, origin: Origin
) -> None:
    page = [("Origin", "https://page.example")]
    with open_crawl(server.address, origin.pages(1), headers=page) as stream:
        headers = stream.headers
        list(stream.read_events())
    assert headers["access-control-allow-origin"] == "*"
    exposed = {name.strip().lower() for name in headers["access-control-expose-headers"].split(",")}
    assert {
        *("x-request-id", "x-session-id", "x-buffer-capacity", "x-buffer-current"),
        "x-backpressure-threshold",
    } <= exposed
    refused = post_json(server.address, "/crawl/stream", {"urls": []}, page)
    assert refused.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", ["/crawl/ws", "/api/v1/crawl/ws"])
def test_a_plain_get_on_the_websocket_route_asks_for_an_upgrade(
    server: ServerProcess, path: str
) -> None:
    assert_refused(request(server.address, "GET", path), 426, "upgrade_required")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense"]
)
def test_a_body_that_is_not_json_by_its_type_is_refused(
    server: ServerProcess, media_type: str
) -> None:
    for path in ("/crawl/stream", "/crawl/sse", "/deepsearch/stream"):
        response = request(server.address, "POST", path, [("Content-Type", media_type)], b"{}")
        assert_refused(response, 415, "unsupported_media_type")


def test_the_json_type_may_carry_a_charset(server: ServerProcess, origin: Origin) -> None:
    body = json.dumps({"urls": origin.pages(1)}).encode()
    response = request(
        server.address,
        "POST",
        "/crawl/stream",
        [("Content-Type", "Application/JSON; charset=utf-8")],
        body,
    )
    assert response.status == 200


def test_the_request_headers_are_used_clamped_and_echoed(
    server: ServerProcess, origin: Origin
) -> None:
    wanted = [
        ("X-Session-ID", f"Echo.{server.kind}:1"),
        ("X-Request-ID", "req-of-mine"),
        ("X-Buffer-Size", "1024"),
        ("X-Buffer-Timeout", "50"),
        ("X-Enable-Backpressure", "No"),
        ("X-Slow-Client-Threshold", "9000"),
        ("X-Max-Memory-Per-Connection", "8192"),
    ]
    with open_crawl(server.address, origin.pages(1), headers=wanted) as stream:
        headers = stream.headers
        events = list(stream.read_events())
    echoed = {name: headers[name.lower()] for name, _ in wanted}
    assert echoed == {
        "X-Session-ID": f"Echo.{server.kind}:1",
        "X-Request-ID": "req-of-mine",
        "X-Buffer-Size": "1024",
        "X-Buffer-Timeout": "100",
        "X-Enable-Backpressure": "false",
        "X-Slow-Client-Threshold": "1000",
        "X-Max-Memory-Per-Connection": "8192",
    }
    assert headers["x-buffer-capacity"] == "1024"
    assert headers["x-backpressure-threshold"] == "800"
    assert 0 <= int(headers["x-buffer-current"]) <= 2  # metadata and start may wait in it already
    metadata = events[0].data
    assert metadata["buffer_info"]["capacity"] == 1024
    assert metadata["buffer_info"]["adaptive_sizing_enabled"] is False
    assert metadata["buffer_info"]["max_memory_bytes"] == 8192
    assert metadata["performance_config"]["slow_client_threshold_ms"] == 1000
    assert {event.data["request_id"] for event in events} == {"req-of-mine"}


def test_the_defaults_of_the_headers_are_told_too(server: ServerProcess, origin: Origin) -> None:
    with open_crawl(server.address, origin.pages(1)) as stream:
        headers = stream.headers
        events = list(stream.read_events())
    assert headers["x-buffer-size"] == headers["x-buffer-capacity"] == "256"
    assert headers["x-backpressure-threshold"] == "200"
    assert headers["x-buffer-timeout"] == "2000"
    assert headers["x-enable-backpressure"] == "true"
    assert headers["x-slow-client-threshold"] == "100"
    assert headers["x-max-memory-per-connection"] == "65536"
    assert headers["x-request-id"].startswith("req-")
    assert headers["x-request-id"] == events[0].data["request_id"]
    assert headers["x-session-id"] == events[0].data["session_id"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Session-ID", "with space"),
        ("X-Session-ID", "x" * 129),
        ("X-Session-ID", "../etc"),
        ("X-Request-ID", "a/b"),
        ("X-Buffer-Size", "many"),
        ("X-Buffer-Size", "NaN"),
        ("X-Buffer-Timeout", "2s"),
        ("X-Enable-Backpressure", "perhaps"),
        ("X-Slow-Client-Threshold", ""),
        ("X-Max-Memory-Per-Connection", "64KB"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused_by_name(
    server: ServerProcess, origin: Origin, header: str, value: str
) -> None:
    response = post_json(
        server.address, "/crawl/stream", {"urls": origin.pages(1)}, [(header, value)]
    )
    error = assert_refused(response, 400, "validation_error")
    assert error["details"]["field"] == header


def test_a_request_id_that_the_client_gave_is_told_in_a_refusal(server: ServerProcess) -> None:
    response = post_json(
        server.address, "/crawl/stream", {"urls": []}, [("X-Request-ID", "mine-1")]
    )
    assert assert_refused(response, 400, "validation_error")["request_id"] == "mine-1"


def test_health_is_told_in_four_places(server: ServerProcess) -> None:
    for path in ("/livez", "/readyz"):
        assert get_json(server.address, path)["status"]
    assert set(get_json(server.address, "/healthz")) == set(get_json(server.address, "/health"))
    assert get_json(server.address, "/healthz")["status"] == "healthy"


def test_the_metrics_are_prometheus_text_and_move_with_a_crawl(
    server: ServerProcess, origin: Origin
) -> None:
    def families() -> dict[str, Any]:
        response = request(server.address, "GET", "/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        return {f.name: f for f in text_string_to_metric_families(response.body.decode())}

    def total(found: dict[str, Any]) -> float:
        return next(s.value for s in found["streaming_events"].samples if s.name.endswith("_total"))

    before = families()
    with open_crawl(server.address, origin.pages(3)) as stream:
        events = list(stream.read_events())
    after = families()
    assert after["streaming_ttfb_duration_seconds"].type == "histogram"
    assert after["streaming_events"].type == "counter"
    assert after["streaming_buffer_utilization_ratio"].type == "gauge"
    assert total(after) - total(before) >= len(events)
    labels = {
        value
        for family in after.values()
        for sample in family.samples
        for value in sample.labels.values()
    }
    session = events[0].data["session_id"]
    assert not any(
        "http://" in label or "127.0.0.1" in label or session in label for label in labels
    )


def test_statistics_are_the_same_as_json(server: ServerProcess) -> None:
    assert isinstance(get_json(server.address, "/stats"), dict)


def test_the_api_description_names_every_route(server: ServerProcess) -> None:
    document = get_json(server.address, "/openapi.json")
    assert document["openapi"].startswith("3.")
    described = {path.replace("{id}", "none") for path in document["paths"]}
    assert set(METHODS) <= described
    assert {path for _, path in ALL_CRAWLS} <= described
    for path, methods in METHODS.items():
        template = path.replace("/none", "/{id}")
        assert {name.lower() for name in methods} <= set(document["paths"][template]), path

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return (
            [ref for value in node for ref in references(value)] if isinstance(node, list) else []
        )

    found = references(document)
    assert found
    for reference in found:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step.replace("~1", "/")]
    schemas = document["components"]["schemas"]
    assert {"Result", "Summary", "CrawlRequest"} <= set(schemas)
    assert schemas["CrawlRequest"]["required"] == ["urls"]
    assert set(schemas) <= {reference.rpartition("/")[2] for reference in found}  # none for show
