"""What the server lets in: each limit refuses at once, says when to come back, and lets go."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.programs import CHECKOUT
from tests.helpers.raw import (
    Connection,
    Headers,
    Response,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    request,
)
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server

BY_HAND = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ("Sec-WebSocket-Version", "13"),
)


@pytest.fixture(scope="module", params=KINDS)
def small_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One that has room for three streams, two of them of one address, and for four runs."""
    settings = {
        "EVENTMESH_STREAM__GENERAL__MAX_CONCURRENT_STREAMS": "3",
        "EVENTMESH_STREAM__GENERAL__MAX_STREAMS_PER_ADDRESS": "2",
        "EVENTMESH_MESH__MAX_RUNS": "4",
        "EVENTMESH_MESH__LINGER_SECONDS": "0.3",
    }
    with open_server(request.param, settings) as process:
        yield process


def client(address: str) -> Headers:
    return [("X-Forwarded-For", address)]


def attempts(server: ServerProcess, urls: list[str], headers: Headers = ()) -> list[Response]:
    """What a stream of each protocol is answered."""
    body = {"urls": urls}
    answers = [
        post_json(server.address, "/crawl/stream", body, headers),
        post_json(server.address, "/crawl/sse", body, headers),
        request(server.address, "GET", "/crawl/sse/stream?session_id=any", headers),
    ]
    with Connection(server.address) as handshake:
        handshake.send("GET", "/crawl/ws", [*BY_HAND, *headers])
        answers.append(handshake.read_response())
    return answers


def assert_refused(answers: list[Response], status: int, kind: str) -> None:
    for answer in answers:
        assert (answer.status, answer.error["type"], answer.error["status"]) == (
            status,
            kind,
            status,
        )
        assert answer.headers["content-type"] == "application/json"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (answer.error["retryable"], answer.error["error_code"]) == (True, "TemporaryFailure")


def refusals(server: ServerProcess) -> dict[str, float]:
    found: dict[str, float] = get_json(server.address, "/stats")["metrics"].get(
        "streaming_refusals_total", {}
    )
    return found


def open_streams(server: ServerProcess) -> int:
    return sum(s["subscribers"] for s in get_json(server.address, "/sessions")["sessions"])


def test_more_streams_than_the_server_may_have_are_told_503_and_one_that_ends_makes_room(
    small_server: ServerProcess, origin: Origin
) -> None:
    stalled = origin.stalling(1, host=2)
    before = refusals(small_server).get("streams", 0)
    with ExitStack() as stack:
        first = stack.enter_context(open_crawl(small_server.address, stalled))
        second = stack.enter_context(open_crawl(small_server.address, stalled, target="/crawl/sse"))
        socket = stack.enter_context(WebSocketClient(small_server.address, "/crawl/ws"))
        assert (first.status, second.status, socket.receive()["event"]) == (200, 200, "welcome")
        assert_refused(attempts(small_server, stalled), 503, "overloaded")
        assert refusals(small_server)["streams"] - before == 4
        # What is no stream is answered all the same.
        assert request(small_server.address, "GET", "/readyz").status == 200
        assert request(small_server.address, "GET", "/sessions").status == 200
        socket.connection.close()
        wait_until(lambda: open_streams(small_server) == 2, 2, "the socket is still attached")
        with open_crawl(small_server.address, origin.pages(1)) as third:
            assert third.status == 200
            assert list(third.read_events())[-1].kind == "summary"
        # Every place was given back, those of refused streams too: there is room for one.
        with open_crawl(small_server.address, origin.pages(1)) as again:
            assert again.status == 200
    wait_until(lambda: open_streams(small_server) == 0, 2, "streams are still attached")


def test_more_streams_than_an_address_may_have_are_told_429_and_others_are_served(
    small_server: ServerProcess, origin: Origin
) -> None:
    stalled = origin.stalling(1, host=2)
    with ExitStack() as stack:
        for address in ("203.0.113.7", "192.0.2.1, 203.0.113.7"):
            stream = open_crawl(small_server.address, stalled, headers=client(address))
            assert stack.enter_context(stream).status == 200
        before = refusals(small_server).get("address", 0)
        answers = attempts(small_server, stalled, client("203.0.113.7"))
        assert_refused(answers, 429, "rate_limited")
        assert refusals(small_server)["address"] - before == 4

        def is_served(headers: Headers) -> bool:
            with open_crawl(small_server.address, origin.pages(1), headers=headers) as other:
                return other.status == 200 and list(other.read_events())[-1].kind == "summary"

        for headers in (client("203.0.113.8"), client("2001:db8::7"), []):
            # The one before has had its end, but its place may be free a moment later.
            wait_until(partial(is_served, headers), 2, f"{headers} is refused")
    wait_until(lambda: open_streams(small_server) == 0, 2, "streams are still attached")


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_proxy_is_trusted_a_client_cannot_choose_its_address(
    kind: Kind, origin: Origin
) -> None:
    settings = {
        "EVENTMESH_SERVER__TRUSTED_PROXIES": "[]",
        "EVENTMESH_STREAM__GENERAL__MAX_STREAMS_PER_ADDRESS": "1",
    }
    stalled = origin.stalling(1, host=2)
    with open_server(kind, settings) as server:
        with open_crawl(server.address, stalled, headers=client("203.0.113.7")) as stream:
            assert stream.status == 200
            assert_refused(attempts(server, stalled, client("203.0.113.8")), 429, "rate_limited")


def test_more_runs_than_the_server_may_have_are_told_503_on_every_way_to_start_one(
    small_server: ServerProcess, origin: Origin
) -> None:
    body = {"urls": origin.stalling(1, host=2), "options": {"respect_robots": False}}
    socket = WebSocketClient(small_server.address, "/crawl/ws")
    with socket:
        socket.receive()
        for number in range(4):
            socket.send({"action": "crawl", "request_id": f"run{number}", "data": body})
            socket.receive_until("metadata")
        quiet = post_json(small_server.address, "/crawl/sse", body, [("X-Session-ID", "more")])
        streamed = post_json(small_server.address, "/crawl/stream", body)
        assert_refused([quiet, streamed], 503, "overloaded")
        socket.send({"action": "crawl", "request_id": "one-more", "data": body})
        reply = socket.receive_until("error")[-1]
        assert reply["error"]["type"] == "overloaded"
        assert reply["data"]["request_id"] == "one-more"
        socket.send({"action": "cancel", "request_id": "run0", "data": {}})
        socket.receive_until("summary")
        socket.send({"action": "crawl", "request_id": "one-more", "data": body})
        socket.receive_until("metadata")
        assert refusals(small_server)["runs"] >= 3
    wait_until(lambda: open_streams(small_server) == 0, 2, "a stream is still attached")


def test_more_connections_than_an_address_may_have_are_told_429(origin: Origin) -> None:
    settings = {
        "EVENTMESH_SERVER__TRUSTED_PROXIES": "[]",
        "EVENTMESH_TRANSPORT__MAX_CONNECTIONS_PER_ADDRESS": "3",
    }
    with open_server("native", settings) as server, ExitStack() as stack:
        held = [stack.enter_context(Connection(server.address)) for _ in range(3)]
        held[-1].send("GET", "/livez")  # in the order of their accept, so all three are counted
        assert held[-1].read_response().status == 200
        answer = request(server.address, "GET", "/livez")
        assert_refused([answer], 429, "rate_limited")
        assert answer.headers["connection"] == "close"
        held[0].close()
        wait_until(
            lambda: request(server.address, "GET", "/livez").status == 200, 1, "no room was made"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_takes_the_descriptors_that_it_may_have(kind: Kind) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        with open_server(kind) as server:
            found = resource.prlimit(server.serving_pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == (min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20, hard)


def test_nothing_of_the_process_is_changed_by_a_mesh_that_is_embedded() -> None:
    code = (
        "import gc, resource, trio\n"
        "from eventmesh_trio import open_mesh\n"
        "from eventmesh_trio.app.process import collect_less_often\n"
        "def state(): return gc.get_threshold(), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "async def main():\n"
        "    before = state()\n"
        "    async with open_mesh():\n"
        "        assert state() == before\n"
        "trio.run(main)\n"
        "collect_less_often()\n"
        "print(gc.get_threshold()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr
