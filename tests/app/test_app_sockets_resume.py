"""A WebSocket that is lost is resumed by ``?session_id=&last_event_id=``."""

import time
import uuid
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import WebSocketClient, get_json, tag_of
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server

OPTIONS = {"respect_robots": False, "cache_mode": "disabled", "concurrency": 8}


@pytest.fixture
def session() -> str:
    return f"socket-{uuid.uuid4().hex[:8]}"


def open_socket(
    server: ServerProcess, session: str, cursor: str | None = None, **settings: Any
) -> WebSocketClient:
    query = f"?session_id={session}" + (f"&last_event_id={cursor}" if cursor else "")
    client = WebSocketClient(server.address, f"/crawl/ws{query}", **settings)
    assert tag_of(client.receive()) == "welcome"
    return client


def crawl(client: WebSocketClient, urls: list[str], request_id: str = "run") -> None:
    data = {"urls": urls, "options": OPTIONS}
    client.send({"action": "crawl", "request_id": request_id, "data": data})


def kept(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The logged events among them."""
    return [message for message in messages if "id" in message]


def indexes(messages: list[dict[str, Any]]) -> list[int]:
    return sorted(m["data"]["index"] for m in messages if tag_of(m) == "result")


def subscribers(server: ServerProcess, session: str) -> int:
    return int(get_json(server.address, f"/sessions/{session}")["subscribers"])


# --- Cursors --------------------------------------------------------------------------------------


def test_a_socket_resumed_at_any_event_gets_what_follows_it_and_no_gap(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    with open_socket(server, session) as client:
        crawl(client, origin.pages(12))
        events = kept(client.receive_until("summary"))
    assert indexes(events) == list(range(12))
    for position, event in enumerate(events[:-1]):
        with open_socket(server, session, event["id"]) as client:
            again = client.receive_until("summary")
        assert [message["id"] for message in kept(again)] == [
            e["id"] for e in events[position + 1 :]
        ]
        assert "gap" not in {tag_of(message) for message in again}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_restart_a_cursor_of_the_old_server_gets_a_gap_that_either_dialect_reads(
    origin: Origin, session: str, kind: Kind
) -> None:
    with open_server(kind) as server, open_socket(server, session) as client:
        crawl(client, origin.pages(3))
        old = kept(client.receive_until("summary"))[-1]["id"]
    with open_server(kind) as server:
        with open_socket(server, session, old) as client:
            gap = client.receive()
            assert (gap["message_type"], gap["event"], gap["sessionId"]) == ("gap", "gap", session)
            for body in (gap, gap["data"]):
                assert body["epoch_changed"] is True
                assert (body["missing_from"], body["missing_to"]) == (None, None)
            crawl(client, origin.pages(3))
            new = kept(client.receive_until("summary"))
    assert indexes(new) == [0, 1, 2]
    assert new[-1]["id"].partition("-")[0] != old.partition("-")[0]


@pytest.mark.parametrize("cursor", ["rubbish", "AbCdEf-3", "future"])
def test_a_cursor_that_is_none_gets_a_gap_and_then_all_that_is_kept(
    server: ServerProcess, origin: Origin, session: str, cursor: str
) -> None:
    with open_socket(server, session) as client:
        crawl(client, origin.pages(3))
        events = kept(client.receive_until("summary"))
    if cursor == "future":
        cursor = events[0]["id"].partition("-")[0] + "-9000"
    with open_socket(server, session, cursor) as client:
        gap, *rest = client.receive_until("summary")
    assert tag_of(gap) == "gap"
    assert gap["data"]["epoch_changed"] is (cursor == "AbCdEf-3")
    assert [message["id"] for message in kept(rest)] == [event["id"] for event in events]


def test_a_replay_has_each_run_in_the_dialect_in_which_it_was_asked_for(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    flat = {"action": "crawl", "requestId": "run", "urls": origin.pages(2), "options": OPTIONS}
    with open_socket(server, session) as client:
        client.send(flat)
        said = client.receive_until("summary")
        crawl(client, origin.pages(2))  # another run of the same name
        said += client.receive_until("summary")
    with open_socket(server, session, "start") as client:
        again = client.receive_until("summary") + client.receive_until("summary")
    logged = [message for message in again if tag_of(message) in ("start", "metadata", "result")]
    shapes = ["flat" if "requestId" in message else "envelope" for message in logged]
    assert shapes == ["flat"] * 3 + ["envelope"] * 3
    assert [m for m in logged if tag_of(m) == "result"] == [
        m for m in said if tag_of(m) == "result"
    ]


# --- Two sockets ----------------------------------------------------------------------------------


def test_two_sockets_of_one_session_read_the_same_and_either_may_command(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    with open_socket(server, session) as first:
        with open_socket(server, session) as second:
            assert subscribers(server, session) == 2
            crawl(first, origin.slow_pages(16, 50, host=1))
            second.receive_until("result")
            second.send({"action": "pause", "request_id": "run", "data": {}})
            assert second.receive_until("paused")[-1]["data"]["request_id"] == "run"
            second.send({"action": "resume", "request_id": "run", "data": {}})
            second.receive_until("resumed")
            second.connection.reset()
        messages = first.receive_until("summary")
    assert indexes(messages) == list(range(16))
    # What the other was told in reply is its own.
    assert not {"paused", "resumed", "welcome"} & {tag_of(message) for message in messages}
    assert messages[-1]["data"]["status"] == "completed"


@pytest.mark.slow
def test_a_client_resumes_while_its_old_socket_is_still_half_open(
    origin: Origin, session: str
) -> None:
    """The old one is never read again, and never closed, as after a cut cable."""
    stall_seconds = 1.0
    urls = [origin.url(f"/large/{number}?kb=64", host=number % 4) for number in range(60)]
    settings = {"EVENTMESH_MESH__STALL_SECONDS": str(stall_seconds)}
    with open_server("native", settings) as server:
        old = open_socket(server, session, receive_buffer=4096)
        with old:
            crawl(old, urls)
            seen = old.receive_until("result")
            cursor = kept(seen)[-1]["id"]
            time.sleep(0.5)  # what is on its way fills every buffer
            started = time.monotonic()
            with open_socket(server, session, cursor) as client:
                resumed = client.receive_until("summary")
                took = time.monotonic() - started
            assert old.socket.fileno() >= 0
            wait_until(lambda: subscribers(server, session) == 0, 5, "the old socket is still read")
    print(f"resumed beside a half-open socket: {len(resumed)} messages in {took:.2f} s")
    assert indexes(seen + resumed) == list(range(60))
    assert "gap" not in {tag_of(message) for message in resumed}
    assert took < stall_seconds + 5
