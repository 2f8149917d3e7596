"""Many clients that do everything at once, well and badly; after them the server is as it was."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    request,
    tag_of,
)
from tests.helpers.servers import KINDS, ServerProcess, open_server

CLIENTS = 24
SECONDS = 6.0
HALF_REQUESTS = (
    b"POST /crawl/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 50\r\n\r\n{",
    b"GET /crawl/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
    b"GET /livez HT",
)


class StormyClient:
    """One client: does one thing after another, as its seed says, and fails on a broken promise."""

    def __init__(self, server: ServerProcess, origin: Origin, seed: int) -> None:
        self.address = server.address
        self.origin = origin
        self.choice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failure: Exception | None = None

    def run(self, until: float) -> None:
        acts: tuple[Callable[[], None], ...] = (
            *(self.stream, self.stream, self.converse, self.control, self.flood, self.break_off),
        )
        while time.monotonic() < until and self.failure is None:
            act = self.choice.choice(acts)
            self.done[act.__name__] += 1
            try:
                act()
            except Exception as error:  # told by the test, in its own thread
                error.add_note(f"while it did {act.__name__}")
                self.failure = error

    def work(self) -> tuple[list[str], dict[str, object]]:
        pick, origin = self.choice, self.origin
        urls = [
            pick.choice(
                (
                    origin.url(f"/page/{pick.randrange(500)}", pick.randrange(3)),
                    origin.url(f"/slow/{pick.randrange(9)}?ms=20"),
                    origin.url("/status/404"),
                    origin.url("/stall/1", 2),
                    origin.url("/large/1?kb=100"),
                )
            )
            for _ in range(pick.randrange(1, 12))
        ]
        return urls, {"timeout_seconds": 1, "max_retries": 0, "concurrency": pick.randrange(1, 9)}

    def stream(self) -> None:
        """Crawl over HTTP; leave at the head, after an event or two, or at the end."""
        urls, options = self.work()
        target = self.choice.choice(("/crawl/stream", "/crawl/sse"))
        leave_after = self.choice.choice((0, 1, 3, 10_000))
        with open_crawl(self.address, urls, options, target=target) as stream:
            assert stream.status == 200
            indexes = []
            for number, event in enumerate(stream.read_events()):
                if number == leave_after:
                    break
                if event.kind == "result":
                    indexes.append(event.data["index"])
            else:
                assert sorted(indexes) == list(range(len(urls)))
            if self.choice.random() < 0.5:
                stream.reset()

    def converse(self) -> None:
        """Several runs on a WebSocket, commands without order, and each run's one summary."""
        urls, options = self.work()
        with WebSocketClient(self.address, "/crawl/ws") as socket:
            socket.receive()
            live = {f"run{number}" for number in range(self.choice.randrange(1, 4))}
            for name in sorted(live):
                data = {"urls": urls, "options": options}
                socket.send({"action": "crawl", "request_id": name, "data": data})
            commands = [
                (self.choice.choice(("pause", "resume", "ping", "status")), name)
                for name in self.choice.choices(sorted(live), k=5)
            ]
            ends = [(self.choice.choice(("cancel", "resume")), name) for name in sorted(live)]
            for command, name in (*commands, *ends):
                socket.send({"action": command, "request_id": name, "data": {}})
            while live:
                if self.choice.random() < 0.03:
                    socket.connection.reset()
                    return
                message = socket.receive()
                if tag_of(message) == "summary":
                    data = message["data"]
                    assert data["successful"] + data["failed"] + data["cancelled"] == len(urls)
                    live.remove(data["request_id"])

    def control(self) -> None:
        """A run that nobody follows, controlled over HTTP."""
        urls, options = self.work()
        session = uuid.uuid4().hex
        body = {"urls": urls, "options": options}
        answer = post_json(self.address, "/crawl/sse", body, [("X-Session-ID", session)])
        assert answer.status == 200
        for command in self.choice.sample(("pause", "resume", "cancel"), 2):
            target = f"/sessions/{session}/{command}"
            assert request(self.address, "POST", target).status == 200

    def flood(self) -> None:
        """Hundreds of pings before the first pong is read."""
        with WebSocketClient(self.address, "/crawl/ws") as socket:
            socket.receive()
            names = [f"ping{number}" for number in range(self.choice.randrange(1, 400))]
            for name in names:
                socket.send({"action": "ping", "request_id": name, "data": {}})
            assert [socket.receive()["data"]["request_id"] for _ in names] == names

    def break_off(self) -> None:
        """A request that ends in its middle."""
        with Connection(self.address) as connection:
            connection.socket.sendall(self.choice.choice(HALF_REQUESTS))
            if self.choice.random() < 0.5:
                connection.reset()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_after_a_storm(kind: str, origin: Origin) -> None:
    settings = {
        "EVENTMESH_MESH__LINGER_SECONDS": "1",
        "EVENTMESH_FETCH__KEEP_ALIVE_SECONDS": "0.2",  # connections kept are descriptors, too
    }
    with open_server(kind, settings) as server:  # type: ignore[arg-type]
        with open_crawl(server.address, origin.pages(24), {"concurrency": 8}) as stream:
            list(stream.read_events())  # starts what is started once
        descriptors = server.fewest_descriptors(0.6)
        clients = [StormyClient(server, origin, seed) for seed in range(CLIENTS)]
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failures = [client.failure for client in clients if client.failure is not None]
        if failures:
            raise ExceptionGroup(f"{len(failures)} clients", failures)
        print(f"{kind}: {sum((client.done for client in clients), Counter())}")

        def left() -> list[str]:
            sessions = get_json(server.address, "/sessions")["sessions"]
            live = ("running", "paused", "cancelling")
            runs = [
                run["request_id"] for s in sessions for run in s["runs"] if run["state"] in live
            ]
            return [*runs, *(s["session_id"] for s in sessions if s["subscribers"])]

        wait_until(lambda: left() == [], 4, lambda: f"live: {left()}")
        wait_until(lambda: origin.in_flight == 0, 2, "origin requests are still open")
        wait_until(
            lambda: server.descriptors() <= descriptors + 1,  # the one that we ask with
            4,
            lambda: f"{server.descriptors()} descriptors, {descriptors} before",
        )
