"""Clients that vanish, servers that end, origins that stall: nothing is left or held up."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    WebSocketClient,
    open_crawl,
)
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.sessions import live_runs, subscribers

GONE_SECONDS = 2.0


def settled_descriptors(server: ServerProcess, origin: Origin) -> int:
    """Descriptors once the server has nothing to do: the baseline that must be reached again."""
    options = {"concurrency": 8, "cache_mode": "disabled"}  # starts the worker processes, too
    with open_crawl(server.address, origin.pages(24), options) as stream:
        list(stream.read_events())
    return server.fewest_descriptors(0.2)


# --- Vanishing ----------------------------------------------------------------------------------


def read_results(stream: Connection, count: int) -> None:
    events = stream.read_events()
    while count:
        count -= next(events).kind == "result"


def open_http(framing: str) -> Callable[[ServerProcess, list[str]], Connection]:
    def opened(server: ServerProcess, urls: list[str]) -> Connection:
        stream = open_crawl(server.address, urls, {"concurrency": 8}, target=f"/crawl/{framing}")
        read_results(stream, 3)
        return stream

    return opened


def open_websocket(server: ServerProcess, urls: list[str]) -> Connection:
    client = WebSocketClient(server.address, "/crawl/ws")
    client.receive()
    options = {"concurrency": 8, "respect_robots": False}
    client.send(
        {"action": "crawl", "request_id": "gone", "data": {"urls": urls, "options": options}}
    )
    for _ in range(3):
        client.receive_until("result")
    return client.connection


OPENERS = {"ndjson": open_http("stream"), "sse": open_http("sse"), "websocket": open_websocket}


@pytest.mark.parametrize("way", ["reset", "closed", "half closed"])
@pytest.mark.parametrize("protocol", OPENERS)
def test_nothing_is_left_of_a_run_whose_client_vanishes(
    server: ServerProcess, origin: Origin, protocol: str, way: str
) -> None:
    descriptors = settled_descriptors(server, origin)
    wait_until(lambda: origin.in_flight == 0, GONE_SECONDS, "the origin is busy before the test")
    connection = OPENERS[protocol](server, [*origin.pages(3), *origin.stalling(4, host=2)])
    wait_until(
        lambda: origin.in_flight == 4, 5, lambda: f"{origin.in_flight} origin requests, not 4"
    )
    assert len(live_runs(server)) == 1
    if way == "reset":
        connection.reset()
    elif way == "closed":
        connection.close()
    else:
        connection.socket.shutdown(socket.SHUT_WR)
    try:
        origin_seconds = wait_until(
            lambda: origin.in_flight == 0, GONE_SECONDS, "origin requests are still open"
        )
        wait_until(
            lambda: live_runs(server) == [], GONE_SECONDS, lambda: f"live: {live_runs(server)}"
        )
    finally:
        connection.close()
    wait_until(lambda: subscribers(server) == 0, GONE_SECONDS, "a subscriber is still attached")
    wait_until(
        lambda: server.descriptors() <= descriptors,
        GONE_SECONDS,
        lambda: f"{server.descriptors()} descriptors, {descriptors} before",
    )
    print(f"{server.kind} {protocol} {way}: origin free after {origin_seconds * 1000:.0f} ms")


KILLED_CLIENT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from tests.helpers.raw import open_crawl
stream = open_crawl((sys.argv[2], int(sys.argv[3])), json.loads(sys.argv[4]), {"concurrency": 8})
for event in stream.read_events():
    print(event.kind, flush=True)
"""


def test_nothing_is_left_of_a_run_whose_client_is_killed(
    server: ServerProcess, origin: Origin
) -> None:
    descriptors = settled_descriptors(server, origin)
    urls = [*origin.pages(3), *origin.stalling(4, host=2)]
    host, port = server.address
    client = subprocess.Popen(
        [sys.executable, "-c", KILLED_CLIENT, os.getcwd(), host, str(port), json.dumps(urls)],
        stdout=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        seen = 0
        while seen < 3:
            line = client.stdout.readline()
            assert line, "the client ended by itself"
            seen += line == b"result\n"
        wait_until(lambda: origin.in_flight == 4, 5, "the origin is not asked")
        client.send_signal(signal.SIGKILL)
        seconds = wait_until(
            lambda: origin.in_flight == 0, GONE_SECONDS, "origin requests are open"
        )
        wait_until(lambda: live_runs(server) == [], GONE_SECONDS, "the run is still live")
        wait_until(
            lambda: server.descriptors() <= descriptors, GONE_SECONDS, "descriptors are left"
        )
        print(f"{server.kind} killed: origin free after {seconds * 1000:.0f} ms")
    finally:
        client.kill()
        client.wait()
        if client.stdout:
            client.stdout.close()


def test_a_run_whose_session_the_client_chose_lingers_and_then_is_gone(origin: Origin) -> None:
    with open_server("native", {"EVENTMESH_MESH__LINGER_SECONDS": "0.6"}) as server:
        session = f"lingering-{uuid.uuid4().hex[:8]}"
        urls = [*origin.pages(1), *origin.stalling(2, host=2)]
        with open_crawl(server.address, urls, headers=[("X-Session-ID", session)]) as stream:
            read_results(stream, 1)
            stream.reset()
        time.sleep(0.3)
        assert len(live_runs(server)) == 1
        assert origin.in_flight == 2
        seconds = wait_until(lambda: live_runs(server) == [], GONE_SECONDS, "it lingers for ever")
        assert seconds > 0.1
        wait_until(lambda: origin.in_flight == 0, GONE_SECONDS, "origin requests are still open")


# --- The server goes away ------------------------------------------------------------------------


def test_a_server_that_is_told_to_end_tells_its_streams_and_ends(origin: Origin) -> None:
    with open_server("native") as server:
        urls = [*origin.pages(2), *origin.stalling(3, host=2)]
        with open_crawl(server.address, urls, {"concurrency": 8}) as stream:
            events = stream.read_events()
            for _ in range(2):
                next(event for event in events if event.kind == "result")
            started = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            rest = list(events)
            assert server.process.wait(5) == 0
        print(f"ended {time.monotonic() - started:.2f} s after SIGTERM")
    summary = rest[-1].data
    assert (rest[-1].kind, summary["reason"], summary["cancelled"]) == ("summary", "shutdown", 3)
    wait_until(lambda: origin.in_flight == 0, GONE_SECONDS, "origin requests are still open")


@pytest.mark.slow
def test_control_is_acknowledged_within_a_tenth_of_a_second_while_origins_stall(
    server: ServerProcess, origin: Origin
) -> None:
    times: list[float] = []
    with WebSocketClient(server.address, "/crawl/ws") as socket_:
        socket_.receive()
        urls = [*origin.slow_pages(40, 30, host=1), *origin.stalling(8, host=2)]
        options = {"concurrency": 16, "respect_robots": False}
        socket_.send(
            {"action": "crawl", "request_id": "c", "data": {"urls": urls, "options": options}}
        )
        socket_.receive_until("result")
        for turn in range(20):
            command, word = (("pause", "paused"), ("resume", "resumed"))[turn % 2]
            started = time.monotonic()
            socket_.send({"action": command, "request_id": "c", "data": {}})
            socket_.receive_until(word)
            times.append(time.monotonic() - started)
        started = time.monotonic()
        socket_.send({"action": "cancel", "request_id": "c", "data": {}})
        summary = socket_.receive_until("summary")[-1]["data"]
        times.append(time.monotonic() - started)
    slowest = sorted(times)[-3:]
    print(
        f"{server.kind}: slowest of {len(times)} commands, ms: {[round(t * 1000) for t in slowest]}"
    )
    assert summary["status"] == "cancelled"
    assert slowest[-1] < 0.1
