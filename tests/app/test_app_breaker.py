"""Origins that do not answer, seen from outside: what becomes of their URLs, and of others."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers.origin import Origin
from tests.helpers.raw import get_json, open_crawl
from tests.helpers.servers import ServerProcess, open_server


def crawled(server: ServerProcess, urls: list[str], **options: Any) -> dict[str, Any]:
    """The results by URL."""
    with open_crawl(server.address, urls, options) as stream:
        lines = b"".join(stream.read_chunks()).splitlines()
    events = [json.loads(line) for line in lines]
    return {event["url"]: event for event in events if event["event"] == "result"}


def circuits(server: ServerProcess) -> dict[str, float]:
    found: dict[str, float] = get_json(server.address, "/stats")["metrics"]["crawl_circuits"]
    return found


@contextmanager
def restarting_origin(down_seconds: float) -> Iterator[str]:
    """The URL of an origin that hangs up on everybody for a while, and then serves."""
    listener = socket.create_server(("127.0.0.5", 0))
    up_at = time.monotonic() + down_seconds
    page = b"<title>Up again</title><p>Some words to read.</p>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            with connection:
                if time.monotonic() < up_at:
                    continue
                try:
                    asked = connection.recv(65536)
                    body = b"" if b"/robots.txt" in asked else page
                    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                except OSError:
                    continue  # the server left

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.5:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_a_dead_origin_is_left_alone_and_others_are_unharmed(
    server: ServerProcess, origin: Origin
) -> None:
    with socket.create_server(("127.0.0.4", 0)) as closed:
        dead = f"http://127.0.0.4:{closed.getsockname()[1]}"
    urls = [f"{dead}/{number}" for number in range(12)]
    good = origin.pages(4)
    before = circuits(server)
    results = crawled(server, [*urls, *good], max_retries=0, concurrency=1)
    types = [results[url]["error"]["type"] for url in urls]
    assert types == ["network_error"] * 5 + ["circuit_open"] * 7
    assert all(results[url]["error"] is None for url in good)
    refused = results[urls[-1]]["error"]
    assert refused["retryable"]
    assert 0 < refused["retry_after_seconds"] <= 5
    assert circuits(server)["open"] == before["open"] + 1
    assert dead not in json.dumps(get_json(server.address, "/stats"))


@pytest.mark.parametrize("respect_robots", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_outage_of_a_second_costs_no_url(respect_robots: bool) -> None:
    settings = {"EVENTMESH_FETCH__BREAKER__COOL_DOWN_SECONDS": "1.5"}
    with open_server("native", settings) as server, restarting_origin(1.0) as origin:
        urls = [f"{origin}/{number}" for number in range(20)]
        results = crawled(server, urls, respect_robots=respect_robots, concurrency=8)
        failures = [results[url]["error"] for url in urls if results[url]["error"]]
        assert failures == []
