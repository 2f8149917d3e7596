"""Sessions from outside: start, attach, resume, gaps, conflicts, control."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    StreamedEvent,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    request,
    tag_of,
)
from tests.helpers.servers import ServerProcess, open_server


@pytest.fixture
def session() -> str:
    return f"session-{uuid.uuid4().hex[:12]}"


def start(server: ServerProcess, session: str, urls: list[str], **options: Any) -> Any:
    """Start a run without a stream; returns the JSON of the answer."""
    body = {"urls": urls, "options": {"respect_robots": False, **options}}
    response = post_json(server.address, "/crawl/sse", body, [("X-Session-ID", session)])
    assert response.status == 200, response
    return response.json()


def attach(
    server: ServerProcess, session: str, *, path: str = "/crawl/stream", after: str | None = None
) -> Connection:
    connection = Connection(server.address)
    cursor = f"&last_event_id={after}" if after else ""
    connection.send("GET", f"{path}?session_id={session}{cursor}")
    connection.read_head()
    return connection


def logged(events: Iterator[StreamedEvent] | list[StreamedEvent]) -> list[StreamedEvent]:
    return [event for event in events if event.event_id is not None]


def sequence(event: StreamedEvent) -> int:
    assert event.event_id is not None
    return int(event.event_id.rpartition("-")[2])


def test_a_post_with_a_session_on_the_sse_route_starts_and_a_get_follows(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    answer = start(server, session, origin.pages(3))
    assert answer["session_id"] == session
    assert answer["status"] == "started"
    assert answer["request_id"].startswith("req-")
    with attach(server, session, path=answer["stream_url"].partition("?")[0]) as stream:
        assert stream.status == 200
        events = list(stream.read_events())
    assert [e.kind for e in logged(events)] == ["metadata", "start", *["result"] * 3, "summary"]
    assert {event.data["request_id"] for event in logged(events)} == {answer["request_id"]}


def test_a_head_is_answered_at_once_and_takes_nothing_from_who_reads(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    start(server, session, origin.stalling(2))
    began = time.monotonic()
    response = request(server.address, "HEAD", f"/crawl/stream?session_id={session}")
    assert (response.status, response.body) == (200, b"")
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.headers["x-session-id"] == session
    assert time.monotonic() - began < 5  # the run never ends by itself
    post_json(server.address, f"/sessions/{session}/cancel", {})
    with attach(server, session) as stream:
        kinds = [event.kind for event in logged(stream.read_events())]
    assert kinds == ["metadata", "start", "summary"]


@pytest.mark.parametrize("name", ["X-Session-ID", "X-Request-ID"])
def test_an_empty_identifier_is_refused(server: ServerProcess, origin: Origin, name: str) -> None:
    for path in ("/crawl/stream", "/crawl/sse"):
        response = post_json(server.address, path, {"urls": origin.pages(1)}, [(name, "")])
        assert (response.status, response.error["details"]) == (400, {"field": name})


def test_a_socket_resumes_by_the_header_and_is_welcomed_before_it_is_told_of_a_gap(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    start(server, session, origin.pages(2))
    with attach(server, session) as stream:
        ids = [event.event_id for event in logged(stream.read_events())]
    target = f"/crawl/ws?session_id={session}"
    with WebSocketClient(
        server.address, target, headers=[("Last-Event-ID", str(ids[2]))]
    ) as socket:
        messages = socket.receive_until("summary")
        assert [message["id"] for message in messages if "id" in message] == ids[3:]
    with WebSocketClient(server.address, f"{target}&last_event_id=lost") as socket:
        tags = [tag_of(message) for message in socket.receive_until("summary")]
        assert tags[:3] == ["welcome", "gap", "metadata"]


def test_a_post_on_the_sse_route_streams_where_accept_says_so(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    headers = [("X-Session-ID", session), ("Accept", "text/event-stream")]
    with open_crawl(
        server.address, origin.pages(1), target="/crawl/sse", headers=headers
    ) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert [event.kind for event in stream.read_events()][-1] == "summary"


def test_a_get_waits_for_the_post_that_makes_its_session(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    answers: list[Any] = []
    later = threading.Timer(0.4, lambda: answers.append(start(server, session, origin.pages(2))))
    later.start()
    try:
        with attach(server, session) as stream:
            assert stream.status == 200
            assert [event.kind for event in stream.read_events()].count("result") == 2
    finally:
        later.join()
    assert answers


@pytest.mark.slow
def test_a_get_for_a_session_that_never_comes_is_not_found_after_five_seconds(
    server: ServerProcess, session: str
) -> None:
    started = time.monotonic()
    with attach(server, session) as stream:
        assert stream.status == 404
    assert 4.5 < time.monotonic() - started < 8


def test_a_get_needs_a_session_id_that_can_be_one(server: ServerProcess) -> None:
    for query in ("", "?session_id=", "?session_id=a%20b", "?session_id=" + "x" * 129):
        response = request(server.address, "GET", f"/crawl/stream{query}")
        assert response.status == 400, query
        assert response.error["details"]["field"] == "session_id"


def test_ids_rise_and_a_stream_resumed_at_any_event_has_all_that_follow_it(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    start(server, session, origin.pages(4))
    with attach(server, session) as stream:
        whole = logged(stream.read_events())
    numbers = [sequence(event) for event in whole]
    assert numbers == sorted(set(numbers))
    assert len({event.event_id.rpartition("-")[0] for event in whole if event.event_id}) == 1
    for place, event in enumerate(whole):
        expected = [later.event_id for later in whole[place + 1 :]]
        for path in ("/crawl/stream", "/crawl/sse/stream", "/crawl/sse"):
            with attach(server, session, path=path, after=event.event_id) as stream:
                if not expected:
                    assert stream.status == 204
                    continue
                assert [later.event_id for later in logged(stream.read_events())] == expected


@pytest.mark.parametrize("way", ["Last-Event-ID", "last_event_id", "after"])
def test_a_cursor_is_taken_from_the_header_or_either_query_field(
    server: ServerProcess, origin: Origin, session: str, way: str
) -> None:
    start(server, session, origin.pages(2))
    with attach(server, session) as stream:
        whole = logged(stream.read_events())
    cursor = str(whole[2].event_id)
    query = f"&{way}={cursor}" if way != "Last-Event-ID" else ""
    headers = [(way, cursor)] if way == "Last-Event-ID" else []
    with Connection(server.address) as connection:
        connection.send("GET", f"/crawl/sse/stream?session_id={session}{query}", headers)
        assert connection.read_head() == 200
        rest = logged(connection.read_events())
    assert [event.event_id for event in rest] == [event.event_id for event in whole[3:]]


@pytest.mark.parametrize("way", ["Last-Event-ID", "last_event_id", "after"])
def test_an_empty_cursor_is_none(
    server: ServerProcess, origin: Origin, session: str, way: str
) -> None:
    start(server, session, origin.pages(1))
    query = f"&{way}=" if way != "Last-Event-ID" else ""
    headers = [(way, "")] if way == "Last-Event-ID" else []
    with Connection(server.address) as connection:
        connection.send("GET", f"/crawl/sse/stream?session_id={session}{query}", headers)
        assert connection.read_head() == 200
        assert logged(connection.read_events())[0].kind == "metadata"


def test_an_event_source_that_has_everything_is_told_to_stop(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    start(server, session, origin.pages(1))
    with attach(server, session) as stream:
        last = logged(stream.read_events())[-1]
    with attach(server, session, path="/crawl/sse/stream", after=last.event_id) as stream:
        assert (stream.status, b"".join(stream.read_chunks())) == (204, b"")


def test_a_second_run_in_a_live_session_is_a_conflict(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    ours = [("X-Session-ID", session)]
    with open_crawl(server.address, origin.slow_pages(4, 200), headers=ours) as stream:
        other = {"urls": origin.pages(1), "options": {}}
        refused = post_json(server.address, "/crawl/stream", other, ours)
        assert refused.status == 409
        assert refused.error["type"] == "conflict"
        # The same body while that run has a reader is another run, and refused as well.
        same = {"urls": origin.slow_pages(4, 200), "options": {"respect_robots": False}}
        assert post_json(server.address, "/crawl/stream", same, ours).status == 409
        assert [event.kind for event in stream.read_events()].count("result") == 4
    again = post_json(server.address, "/crawl/stream", other, ours)  # no live run now
    assert again.status == 200


def test_an_idempotency_key_attaches_to_its_run_from_the_start(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    ours = [("X-Session-ID", session), ("Idempotency-Key", "once")]
    urls = origin.slow_pages(4, 150)
    with open_crawl(server.address, urls, headers=ours) as first:
        with open_crawl(server.address, urls, headers=ours) as second:
            assert (first.status, second.status) == (200, 200)
            assert first.headers["x-request-id"] == second.headers["x-request-id"]
            ids = [event.event_id for event in logged(second.read_events())]
        assert [event.event_id for event in logged(first.read_events())] == ids
    assert max(origin.requests[f"/slow/{n}"] for n in range(4)) >= 1
    document = get_json(server.address, f"/sessions/{session}")
    assert len(document["runs"]) == 1


def test_the_key_of_a_run_that_ended_replays_it_and_is_refused_for_another_body(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    ours = [("X-Session-ID", session), ("Idempotency-Key", "used")]
    with open_crawl(server.address, origin.pages(2), headers=ours) as first:
        ids = [event.event_id for event in logged(first.read_events())]
    with open_crawl(server.address, origin.pages(2), headers=ours) as again:
        assert [event.event_id for event in logged(again.read_events())] == ids
    with open_crawl(server.address, origin.pages(3), headers=ours) as other:
        assert other.status == 409
    long_key = [("X-Session-ID", session), ("Idempotency-Key", "k" * 256)]
    with open_crawl(server.address, origin.pages(2), headers=long_key) as refused:
        assert refused.status == 400


def test_a_session_tells_of_its_runs(server: ServerProcess, origin: Origin, session: str) -> None:
    with open_crawl(
        server.address,
        [*origin.pages(2), origin.url("/status/404")],
        headers=[("X-Session-ID", session), ("X-Request-ID", "the-run")],
    ) as stream:
        last = logged(stream.read_events())[-1]
    for prefix in ("", "/api/v1"):
        document = get_json(server.address, f"{prefix}/sessions/{session}")
        assert document["session_id"] == session
        assert document["last_event_id"] == last.event_id
        assert str(last.event_id).startswith(document["epoch"])
        assert document["created_at"].endswith("Z")
        (run,) = document["runs"]
        assert run["started_at"].endswith("Z")
        counted = ("request_id", "kind", "state", "total", "completed", "successful", "failed")
        assert [run[name] for name in counted] == ["the-run", "crawl", "completed", 3, 3, 2, 1]
    listed = get_json(server.address, "/sessions")["sessions"]
    assert session in {entry["session_id"] for entry in listed}
    wait_until(
        lambda: get_json(server.address, f"/sessions/{session}")["subscribers"] == 0,
        2,
        "no subscriber",
    )


def test_pause_stops_a_run_and_resume_brings_every_url_once(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    urls = origin.slow_pages(8, 100, host=1)
    ours = [("X-Session-ID", session)]
    with open_crawl(server.address, urls, {"concurrency": 2}, headers=ours) as stream:
        events = stream.read_events()
        seen = [event for event in (next(events) for _ in range(4)) if event.kind == "result"]
        paused = request(server.address, "POST", f"/sessions/{session}/pause")
        assert paused.status == 200
        assert paused.json()["runs"][0]["state"] == "paused"
        # Pages in flight stop as well; the origin notices when its own sleep is over.
        wait_until(lambda: origin.in_flight == 0, 1, "a page is fetched while the run is paused")
        before = get_json(server.address, f"/sessions/{session}")["runs"][0]["completed"]
        assert before < len(urls)
        time.sleep(0.4)
        assert origin.in_flight == 0
        assert get_json(server.address, f"/sessions/{session}")["runs"][0]["completed"] == before
        resumed = request(server.address, "POST", f"/api/v1/sessions/{session}/resume")
        assert resumed.json()["runs"][0]["state"] == "running"
        rest = list(events)
    results = [e for e in [*seen, *rest] if e.kind == "result"]
    assert sorted(event.data["url"] for event in results) == sorted(urls)
    assert rest[-1].data["status"] == "completed"


@pytest.mark.parametrize("way", ["cancel", "delete", "by request id"])
def test_a_cancelled_run_ends_with_its_summary(
    server: ServerProcess, origin: Origin, session: str, way: str
) -> None:
    urls = [*origin.pages(2), *origin.stalling(5, host=2)]
    ours = [("X-Session-ID", session), ("X-Request-ID", "to-cancel")]
    with open_crawl(server.address, urls, {"concurrency": 4}, headers=ours) as stream:
        events = stream.read_events()
        results = [next(e for e in events if e.kind == "result") for _ in range(2)]
        if way == "delete":
            response = request(server.address, "DELETE", f"/sessions/{session}")
        else:
            query = "?request_id=to-cancel" if way == "by request id" else ""
            response = request(server.address, "POST", f"/sessions/{session}/cancel{query}")
        assert response.status == 200
        rest = list(events)
    assert [event.kind for event in rest if event.kind != "progress"] == ["summary"]
    summary = rest[-1].data
    assert summary["status"] == "cancelled"
    assert (summary["successful"], summary["failed"], summary["cancelled"]) == (2, 0, 5)
    assert len(results) == 2
    wait_until(lambda: origin.in_flight == 0, 2, "stalled origin requests are still open")


def test_control_of_what_is_not_there_is_not_found(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    for method, path in (
        ("GET", f"/sessions/{session}"),
        ("DELETE", f"/sessions/{session}"),
        ("POST", f"/sessions/{session}/pause"),
        ("POST", f"/sessions/{session}/resume"),
        ("POST", f"/sessions/{session}/cancel"),
    ):
        assert request(server.address, method, path).status == 404, (method, path)
    start(server, session, origin.pages(1))
    missing = request(server.address, "POST", f"/sessions/{session}/cancel?request_id=nobody")
    assert missing.status == 404


def test_control_after_the_end_changes_nothing_and_is_no_error(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    with open_crawl(server.address, origin.pages(1), headers=[("X-Session-ID", session)]) as stream:
        list(stream.read_events())
    for command in ("pause", "resume", "cancel"):
        response = request(server.address, "POST", f"/sessions/{session}/{command}")
        assert response.status == 200
        assert response.json()["runs"][0]["state"] == "completed"


def test_a_run_time_limit_ends_a_run_as_timed_out(server: ServerProcess, origin: Origin) -> None:
    urls = [*origin.pages(1), *origin.stalling(2, host=2)]
    with open_crawl(server.address, urls, {"run_timeout_seconds": 1}) as stream:
        events = list(stream.read_events())
    summary = events[-1].data
    assert (summary["status"], summary["successful"], summary["cancelled"]) == ("timed_out", 1, 2)
    errors = [e for e in events if e.kind == "error" and "url" not in e.data]
    assert all(json.dumps(event.data) for event in errors)
    wait_until(lambda: origin.in_flight == 0, 2, "stalled origin requests are still open")


def test_a_run_goes_on_while_any_reader_is_left(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    urls = origin.slow_pages(10, 80, host=3)
    with open_crawl(server.address, urls, {"cache_mode": "disabled", "concurrency": 2}) as first:
        made = first.headers["x-session-id"]  # by the server: it would not linger
        with attach(server, made) as second:
            next(first.read_events())
            first.reset()
            events = list(second.read_events())
    assert [event.kind for event in events].count("result") == len(urls)
    assert events[-1].data["status"] == "completed"


def test_two_readers_of_a_session_get_the_same_events(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    start(server, session, origin.slow_pages(6, 60, host=3), concurrency=2)
    with (
        attach(server, session) as first,
        attach(server, session, path="/crawl/sse") as second,
    ):
        ids = [event.event_id for event in logged(first.read_events())]
        assert [event.event_id for event in logged(second.read_events())] == ids
    assert len(ids) == 9


def test_a_session_of_http_is_followed_and_controlled_over_a_websocket(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    answer = start(server, session, origin.slow_pages(30, 60, host=3), concurrency=2)
    with WebSocketClient(server.address, f"/crawl/ws?session_id={session}") as socket:
        assert tag_of(socket.receive()) == "welcome"
        socket.receive_until("result")
        socket.send({"action": "cancel", "request_id": answer["request_id"], "data": {}})
        summary = socket.receive_until("summary")[-1]["data"]
    assert summary["status"] == "cancelled"
    assert 0 < summary["successful"] < 30


def test_one_session_holds_run_after_run_and_a_get_with_a_cursor_sees_what_is_new(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    ours = [("X-Session-ID", session)]
    last = None
    for turn in range(3):
        urls = origin.pages(2, first=10 * turn)
        with open_crawl(server.address, urls, headers=ours) as stream:
            own = logged(stream.read_events())
        assert [e.kind for e in own] == ["metadata", "start", "result", "result", "summary"]
        with attach(server, session, after=last) as stream:  # without a cursor: the newest run
            assert [e.event_id for e in logged(stream.read_events())] == [e.event_id for e in own]
        last = own[-1].event_id
    assert len(get_json(server.address, f"/sessions/{session}")["runs"]) == 3


def test_a_started_run_that_nobody_follows_is_cancelled_when_it_has_lingered(
    origin: Origin, session: str
) -> None:
    seconds = {
        "EVENTMESH_MESH__LINGER_SECONDS": "0.5",
        "EVENTMESH_MESH__ATTACH_WAIT_SECONDS": "0.5",
    }
    with open_server("native", seconds) as server:
        start(server, session, [*origin.pages(1), *origin.stalling(2, host=2)])
        wait_until(lambda: origin.in_flight == 2, 2, "the run did not start")
        document = get_json(server.address, f"/sessions/{session}")
        assert document["runs"][0]["state"] == "running"
        wait_until(lambda: origin.in_flight == 0, 3, "the run is live, and nobody ever follows it")

        def state() -> str:
            return str(get_json(server.address, f"/sessions/{session}")["runs"][0]["state"])

        # The origin sees its connections close a moment before the run's tasks have ended.
        wait_until(lambda: state() != "cancelling", 2, "the run's tasks do not end")
        assert state() == "cancelled"
        with attach(server, session) as stream:  # kept for replay
            assert logged(stream.read_events())[-1].data["status"] == "cancelled"


def test_a_finished_session_is_forgotten_after_its_retention(origin: Origin, session: str) -> None:
    settings = {
        "EVENTMESH_MESH__RETENTION_SECONDS": "0.5",
        "EVENTMESH_MESH__ATTACH_WAIT_SECONDS": "0",
    }
    with open_server("native", settings) as server:
        with open_crawl(
            server.address, origin.pages(1), headers=[("X-Session-ID", session)]
        ) as stream:
            list(stream.read_events())
        assert request(server.address, "GET", f"/sessions/{session}").status == 200
        wait_until(
            lambda: request(server.address, "GET", f"/sessions/{session}").status == 404,
            3,
            "it is kept for ever",
        )
        with attach(server, session) as gone:
            assert gone.status == 404
