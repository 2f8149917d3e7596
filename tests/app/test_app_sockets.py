"""One WebSocket holds many runs, and is answered at once whatever their origins do."""

import time
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers.origin import Origin
from tests.helpers.raw import WebSocketClient, tag_of
from tests.helpers.servers import ServerProcess

OPTIONS = {"respect_robots": False, "cache_mode": "disabled"}


def crawl(request_id: str, urls: list[str], **options: Any) -> dict[str, Any]:
    """A request in the envelope dialect."""
    data = {"urls": urls, "options": {**OPTIONS, **options}}
    return {"action": "crawl", "request_id": request_id, "data": data}


def flat_crawl(request_id: str, urls: list[str], **options: Any) -> dict[str, Any]:
    return {
        "action": "crawl",
        "requestId": request_id,
        "urls": urls,
        "options": {**OPTIONS, **options},
    }


def open_socket(server: ServerProcess, query: str = "") -> WebSocketClient:
    socket = WebSocketClient(server.address, f"/crawl/ws{query}")
    assert tag_of(socket.receive()) == "welcome"
    return socket


def run_of(message: dict[str, Any]) -> str:
    """Whose message it is, in either dialect."""
    return str(message.get("requestId") or message["data"]["request_id"])


def body_of(message: dict[str, Any]) -> dict[str, Any]:
    """The event itself, in either dialect."""
    body: dict[str, Any] = message["data"] if "message_type" in message else message
    return body


# --- Many runs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_of_one_socket_interleave_and_no_slow_origin_holds_up_another(
    server: ServerProcess, origin: Origin
) -> None:
    with open_socket(server) as socket:
        socket.send(crawl("stalled", origin.stalling(4, host=2), concurrency=4))
        socket.send(flat_crawl("slow", origin.slow_pages(3, 4000, host=1), concurrency=3))
        socket.send(crawl("steady", origin.slow_pages(20, 20), concurrency=2))
        socket.send(flat_crawl("other", origin.slow_pages(20, 20, host=3), concurrency=2))
        messages: list[dict[str, Any]] = []
        ended: list[str] = []
        while len(ended) < 3:  # the stalled one ends by being cancelled only
            messages += socket.receive_until("summary")
            ended.append(run_of(messages[-1]))
        socket.send({"action": "cancel", "request_id": "stalled", "data": {}})
        messages += socket.receive_until("summary")
    assert ended[-1] == "slow"
    order = [run_of(message) for message in messages if tag_of(message) == "result"]
    assert {run: order.count(run) for run in ("steady", "other", "slow")} == {
        "steady": 20,
        "other": 20,
        "slow": 3,
    }
    changes = sum(a != b for a, b in pairwise(order[:40]))
    assert changes >= 10, "two runs at one pace do not take turns"
    summaries = {run_of(m): body_of(m) for m in messages if tag_of(m) == "summary"}
    assert {
        run: (s["status"], s["total_urls"], s["successful"]) for run, s in summaries.items()
    } == {
        "steady": ("completed", 20, 20),
        "other": ("completed", 20, 20),
        "slow": ("completed", 3, 3),
        "stalled": ("cancelled", 4, 0),
    }
    for message in messages:  # each in the dialect of its own request
        assert ("requestId" in message) == (run_of(message) in ("slow", "other"))
    ids = [body_of(m)["id"] for m in messages if tag_of(m) in ("metadata", "start", "result")]
    assert len(set(ids)) == len(ids) == 43 + 4
    numbers = [int(event_id.rpartition("-")[2]) for event_id in ids]
    assert numbers == sorted(numbers)


def test_each_run_states_the_time_to_its_own_first_frame(
    server: ServerProcess, origin: Origin
) -> None:
    with open_socket(server) as socket:
        stated = []
        for number in range(2):
            time.sleep(0.3)  # the age of the socket is no part of it
            started = time.monotonic()
            socket.send(crawl(f"run-{number}", origin.pages(1, host=number)))
            socket.receive_until("metadata")
            seen_ms = (time.monotonic() - started) * 1000
            summary = socket.receive_until("summary")[-1]["data"]
            stated.append((summary["performance_summary"]["ttfb_ms"], seen_ms))
    print(f"{server.kind}: stated and seen, ms: {stated}")
    for stated_ms, seen_ms in stated:
        assert 0 < stated_ms <= seen_ms


# --- Commands -------------------------------------------------------------------------------------


def test_every_command_is_answered_within_a_tenth_of_a_second_while_origins_stall(
    server: ServerProcess, origin: Origin
) -> None:
    stalling = origin.stalling(8, host=2)
    commands: list[tuple[dict[str, Any], str]] = []
    for turn in range(5):
        new = f"new-{turn}"
        commands += [
            ({"action": "ping", "request_id": "p", "data": {}}, "pong"),
            ({"request_type": "status", "data": {}}, "status"),
            ({"action": "pause", "request_id": "main", "data": {}}, "paused"),
            ({"action": "resume", "request_id": "main", "data": {}}, "resumed"),
            (crawl(new, stalling[:2]), "metadata"),
            ({"action": "cancel", "requestId": new}, "cancelled"),
            ({"action": "pause", "request_id": "nobody", "data": {}}, "error"),
            ({"action": "nonsense"}, "error"),
        ]
    took: dict[str, list[float]] = {}
    with open_socket(server) as socket:
        urls = [*origin.slow_pages(60, 50, host=1), *stalling]
        socket.send(crawl("main", urls, concurrency=16))
        socket.receive_until("result")
        for command, answer in commands:
            started = time.monotonic()
            socket.send(command)
            socket.receive_until(answer)
            milliseconds = (time.monotonic() - started) * 1000
            took.setdefault(command.get("action", "status"), []).append(milliseconds)
        started = time.monotonic()
        socket.send({"action": "cancel", "request_id": "main", "data": {}})
        while (summary := socket.receive_until("summary")[-1]["data"])["request_id"] != "main":
            pass
        took["cancel to summary"] = [(time.monotonic() - started) * 1000]
    slowest = {name: round(max(times), 1) for name, times in took.items()}
    print(f"{server.kind}: slowest answers, ms: {slowest}")
    assert summary["status"] == "cancelled"
    assert max(slowest.values()) < 100


def test_a_command_in_neither_shape_is_answered_in_the_dialect_of_its_run(
    server: ServerProcess, origin: Origin
) -> None:
    with open_socket(server) as socket:
        socket.send(flat_crawl("flat", origin.stalling(1)))
        socket.receive_until("start")
        socket.send({"action": "pause", "request_id": "flat"})
        (reply,) = socket.receive_until("paused")
        assert (reply["event"], reply["requestId"]) == ("paused", "flat")
        assert "message_type" not in reply
        socket.send(crawl("envelope", origin.stalling(1)))
        socket.receive_until("metadata")
        socket.send({"action": "pause", "request_id": "envelope"})
        (reply,) = socket.receive_until("paused")
        assert (reply["message_type"], reply["data"]["request_id"]) == ("paused", "envelope")
        socket.send({"action": "cancel"})  # no id, and two runs: all of them
        messages = socket.receive_until("cancelled")
        assert sorted(body_of(messages[-1])["requests"]) == ["envelope", "flat"]
        while {run_of(m) for m in messages if tag_of(m) == "summary"} != {"envelope", "flat"}:
            messages.append(socket.receive())


# --- The limits of a message ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_a_message_of_ten_mebibytes_is_read_and_a_larger_one_closes_with_1009(
    server: ServerProcess, kind: str
) -> None:
    with open_socket(server) as socket:
        for size in (10 * 2**20, 10 * 2**20 + 1):
            text = '{"request_type":"ping","padding":"%s"}'
            text %= "x" * (size - len(text) + 2)
            assert len(text) == size
            # It may be refused by its header, and hypercorn reads nothing of it then.
            with suppress(BrokenPipeError, ConnectionResetError):
                if kind == "text":
                    socket.send_text(text)
                else:
                    socket.send_bytes(text.encode())
            if size == 10 * 2**20:
                assert tag_of(socket.receive()) == "pong"
        with pytest.raises(EOFError):
            socket.receive()
        assert socket.close_code == 1009


# --- Ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, None])
def test_a_clients_close_is_answered_with_its_own_code(
    server: ServerProcess, code: int | None
) -> None:
    with open_socket(server) as socket:
        payload = b"" if code is None else code.to_bytes(2, "big") + b"enough"
        socket.socket.sendall(bytes((0x88, 0x80 | len(payload))) + bytes(4) + payload)
        answer = b""
        while piece := socket.socket.recv(100):
            answer += piece
    assert answer[0] == 0x88
    told = int.from_bytes(answer[2:4], "big") if len(answer) > 2 else None
    assert told == code
