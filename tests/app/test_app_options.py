"""What a request's options and a client's HTTP do, from outside: each has its effect."""

import json

import pytest

from tests.helpers.origin import Origin
from tests.helpers.raw import Connection, StreamedEvent, open_crawl
from tests.helpers.servers import ServerProcess


def crawl(server: ServerProcess, urls: list[str], **options: object) -> list[StreamedEvent]:
    with open_crawl(server.address, urls, options) as stream:
        assert stream.status == 200
        return list(stream.read_events())


def results(events: list[StreamedEvent]) -> dict[int, dict[str, object]]:
    return {event.data["index"]: event.data for event in events if event.kind == "result"}


@pytest.mark.parametrize(("concurrency", "at_once"), [(1, 1), (3, 3), (32, 8)])
def test_concurrency_is_enforced_and_a_host_gets_at_most_eight_at_once(
    server: ServerProcess, origin: Origin, concurrency: int, at_once: int
) -> None:
    origin.max_in_flight = 0
    urls = origin.slow_pages(16, 60, host=1)
    crawl(server, urls, concurrency=concurrency, cache_mode="disabled")
    assert origin.max_in_flight == at_once


def test_a_url_given_twice_has_two_results_and_one_fetch(
    server: ServerProcess, origin: Origin
) -> None:
    path = f"/page/twice-{server.kind}"
    urls = [origin.url(path), origin.url("/page/1"), origin.url(path), origin.url(path) + "#part"]
    events = crawl(server, urls, cache_mode="disabled")
    found = results(events)
    assert sorted(found) == [0, 1, 2, 3]
    assert [found[index]["url"] for index in range(4)] == urls
    assert {found[index]["result"]["duplicate_of"] for index in (2, 3)} == {0}  # type: ignore[index]
    assert origin.requests[path] == 1
    assert events[-1].data["successful"] == events[-1].data["total_urls"] == 4


def test_text_is_cut_where_asked_and_said_to_be(server: ServerProcess, origin: Origin) -> None:
    (data,) = results(crawl(server, [origin.url("/page/9?words=30")], max_text_chars=100)).values()
    document = data["result"]["document"]  # type: ignore[index]
    assert len(document["text"]) <= 100
    assert len(document["markdown"]) <= 100
    assert document["truncated"] is True


def test_raw_mode_brings_the_page_itself(server: ServerProcess, origin: Origin) -> None:
    for options in ({"extract_mode": "raw"}, {"skip_extraction": True}):
        (data,) = results(crawl(server, [origin.url("/page/9?words=3")], **options)).values()
        assert data["result"]["document"]["html"].startswith("<!DOCTYPE html>")  # type: ignore[index]


def test_redirects_are_followed_and_told(server: ServerProcess, origin: Origin) -> None:
    (data,) = results(crawl(server, [origin.url("/redirect/3")])).values()
    result = data["result"]
    assert result["url"] == origin.url("/redirect/3")  # type: ignore[index]
    assert result["final_url"] == origin.url("/page/1")  # type: ignore[index]
    assert result["document"]["title"] == "Page 1"  # type: ignore[index]
    (data,) = results(crawl(server, [origin.url("/redirect/60")])).values()
    assert data["error"]["type"] == "too_many_redirects"  # type: ignore[index]


def test_a_slow_url_costs_its_own_time_only(server: ServerProcess, origin: Origin) -> None:
    urls = [*origin.stalling(1, host=2), *origin.pages(4)]
    events = crawl(server, urls, timeout_seconds=0.5, concurrency=2)
    order = [event.data["index"] for event in events if event.kind == "result"]
    assert order[-1] == 0
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert 450 <= int(results(events)[0]["processing_time_ms"]) < 2000  # type: ignore[call-overload]


def test_one_connection_serves_stream_after_stream(server: ServerProcess, origin: Origin) -> None:
    body = json.dumps({"urls": origin.pages(3)}).encode()
    with Connection(server.address) as connection:
        for target in ("/crawl/stream", "/crawl/sse", "/crawl/stream"):
            connection.send("POST", target, [("Content-Type", "application/json")], body)
            assert connection.read_head() == 200
            kinds = [event.kind for event in connection.read_events()]
            assert (kinds[0], kinds[-1], kinds.count("result")) == ("metadata", "summary", 3)
            connection.headers.clear()
            connection.h11.start_next_cycle()


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection(
    server: ServerProcess, origin: Origin
) -> None:
    body = json.dumps({"urls": origin.pages(2)}).encode()
    head = (
        b"POST /crawl/stream HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    with Connection(server.address) as connection:
        connection.socket.sendall(head + body)
        received = b""
        while piece := connection.socket.recv(65536):
            received += piece
    fields, _, stream = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in fields.lower()
    assert [json.loads(line)["event"] for line in stream.splitlines()][-1] == "summary"


def test_a_client_that_awaits_100_continue_is_told_to_go_on(
    server: ServerProcess, origin: Origin
) -> None:
    body = json.dumps({"urls": origin.pages(1)}).encode()
    head = (
        b"POST /crawl/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with Connection(server.address) as connection:
        connection.socket.sendall(head)
        assert connection.socket.recv(65536).startswith(b"HTTP/1.1 100")
        connection.socket.sendall(body)
        received = b""
        while piece := connection.socket.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 200")
    assert b'"event":"summary"' in received
