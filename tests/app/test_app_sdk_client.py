"""A client by the `websockets` library that speaks the envelope of the RipTide SDK."""

import json
import time
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.helpers.origin import Origin
from tests.helpers.servers import ServerProcess


def receive(socket: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(timeout=20))
    assert {"message_type", "data", "timestamp"} <= set(message), message
    return message


def receive_until(socket: Any, kind: str) -> list[dict[str, Any]]:
    messages = [receive(socket)]
    while messages[-1]["message_type"] != kind:
        messages.append(receive(socket))
    return messages


def test_an_sdk_crawl_is_welcome_metadata_results_and_summary(
    server: ServerProcess, origin: Origin
) -> None:
    urls = [*origin.pages(5), origin.url("/status/404")]
    with connect(f"{server.ws_url}/crawl/ws") as socket:
        welcome = receive(socket)
        assert welcome["message_type"] == "welcome"
        assert welcome["data"]["protocol_version"] == "1.0"
        assert {"crawl", "ping", "status"} <= set(welcome["data"]["supported_operations"])
        socket.send(
            json.dumps(
                {"request_type": "crawl", "data": {"urls": urls, "options": {"concurrency": 3}}}
            )
        )
        messages = receive_until(socket, "summary")
        assert messages[0]["message_type"] == "metadata"
        assert messages[0]["data"]["total_urls"] == len(urls)
        assert "error" not in {message["message_type"] for message in messages}
        results = [message["data"] for message in messages if message["message_type"] == "result"]
        assert sorted(data["result"]["url"] for data in results) == sorted(urls)
        assert results[0]["progress"]["total"] == len(urls)
        request_ids = {message["data"]["request_id"] for message in messages}
        assert len(request_ids) == 1
        assert messages[-1]["data"]["successful"] == 5


def test_ping_and_status_answer_at_once_and_an_idle_socket_says_nothing(
    server: ServerProcess, origin: Origin
) -> None:
    with connect(f"{server.ws_url}/crawl/ws?session_id=sdk-{server.kind}") as socket:
        assert receive(socket)["data"]["session_id"] == f"sdk-{server.kind}"
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.3)
        started = time.monotonic()
        socket.send(json.dumps({"request_type": "ping", "data": {}}))
        pong = receive(socket)
        print(f"{server.kind}: pong after {(time.monotonic() - started) * 1000:.1f} ms")
        assert pong["message_type"] == "pong"
        assert pong["data"]["session_id"] == f"sdk-{server.kind}"
        assert pong["data"]["timestamp"]
        socket.send(
            json.dumps(
                {"request_type": "crawl", "data": {"urls": origin.pages(1), "request_id": "one"}}
            )
        )
        receive_until(socket, "summary")
        socket.send(json.dumps({"request_type": "status", "data": {}}))
        status = receive(socket)
        assert status["message_type"] == "status"
        data = status["data"]
        assert data["session_id"] == f"sdk-{server.kind}"
        assert data["is_healthy"] is True
        assert data["message_count"] >= 4
        assert data["connected_duration_ms"] >= 300
        assert data["backpressure_count"] == 0
        (run,) = data["requests"]
        assert (run["request_id"], run["completed"], run["total"]) == ("one", 1, 1)


def test_requests_in_binary_frames_are_read_too(server: ServerProcess, origin: Origin) -> None:
    with connect(f"{server.ws_url}/crawl/ws") as socket:
        receive(socket)
        socket.send(
            json.dumps({"request_type": "crawl", "data": {"urls": origin.pages(2)}}).encode()
        )
        assert receive_until(socket, "summary")[-1]["data"]["successful"] == 2


@pytest.mark.parametrize("compression", ["deflate", None])
def test_documents_come_whole_with_and_without_compression(
    server: ServerProcess, origin: Origin, compression: str | None
) -> None:
    with connect(
        f"{server.ws_url}/crawl/ws", compression=compression, max_size=16 * 2**20
    ) as socket:
        receive(socket)
        urls = [origin.url(f"/large/{number}?kb=300") for number in range(3)]
        socket.send(json.dumps({"request_type": "crawl", "data": {"urls": urls}}))
        results = [m for m in receive_until(socket, "summary") if m["message_type"] == "result"]
        assert all(len(m["data"]["result"]["document"]["text"]) > 290_000 for m in results)
        assert len(results) == 3
