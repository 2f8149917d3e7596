"""The end of service: what is told, what is refused, what is cut, and how long it takes."""

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, cast

import hypercorn.config
import hypercorn.trio
import pytest
import trio
import trio.testing

from eventmesh_trio.app.asgi import make_app
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.readers import reader_spec
from eventmesh_trio.transport.http import serve_connection
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Summary
from eventmesh_trio.wire.headers import ReaderWishes
from tests.helpers.clock import wait_until
from tests.helpers.crowd import Peer
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    NDJSONParser,
    SSEParser,
    StreamedEvent,
    WebSocketClient,
    get_json,
    open_crawl,
    post_json,
    request,
    tag_of,
)
from tests.helpers.servers import (
    KINDS,
    Kind,
    ServerProcess,
    command_of,
    is_running,
    open_server,
)

pytestmark = pytest.mark.slow

STREAMS = 200
EXIT_SECONDS = 5.0
NO_ROBOTS = {"respect_robots": False}


@asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[Peer]:
    stream = await trio.open_tcp_stream(*server.address)
    try:
        yield Peer(stream)
    finally:
        await trio.aclose_forcefully(stream)


def events_of(body: bytes, framing: str) -> list[StreamedEvent]:
    """The events of a chunked response."""
    data = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        data += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    parser = SSEParser() if framing == "sse" else NDJSONParser()
    return list(parser.feed(data))


class Follower:
    """One live stream, and how it ended."""

    def __init__(self, server: ServerProcess, origin: Origin, number: int) -> None:
        self.server = server
        self.protocol = ("ndjson", "sse", "websocket")[number % 3]
        urls = [*origin.pages(1), *origin.stalling(2, host=1 + number % 3)]
        self.body = {"urls": urls, "options": NO_ROBOTS}
        self.live = trio.Event()
        self.clean = False
        self.ended_at = 0.0

    async def run(self) -> None:
        async with connected(self.server) as peer:
            if self.protocol == "websocket":
                await self._follow_socket(peer)
            else:
                await self._follow_response(peer)
        self.ended_at = time.monotonic()

    async def _follow_response(self, peer: Peer) -> None:
        target = "/crawl/stream" if self.protocol == "ndjson" else "/crawl/sse"
        assert await peer.request("POST", target, self.body) == 200
        body = await peer.read_until(b'"result"')
        self.live.set()
        body += await peer.read_stream()  # with its last chunk
        last = events_of(body, self.protocol)[-1]
        ended = (last.kind, last.data["status"], last.data["reason"])
        self.clean = (*ended, await peer.read_end()) == ("summary", "cancelled", "shutdown", b"")

    async def _follow_socket(self, peer: Peer) -> None:
        await peer.upgrade("/crawl/ws")
        await peer.send(action="crawl", request_id="a", data=self.body)
        await peer.receive_until("result")
        self.live.set()
        summary = (await peer.receive_until("summary"))["data"]
        ended = (summary["status"], summary["reason"], await peer.receive_close())
        self.clean = (*ended, await peer.read_end()) == ("cancelled", "shutdown", 1001, b"")


@pytest.mark.parametrize("kind", KINDS)
async def test_sigterm_ends_two_hundred_live_streams_cleanly_and_the_process_soon(
    kind: Kind, origin: Origin
) -> None:
    with open_server(kind) as server:
        followers = [Follower(server, origin, number) for number in range(STREAMS)]
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                for follower in followers:
                    nursery.start_soon(follower.run)
                for number in range(5):  # lingering: its reader has left
                    async with connected(server) as peer:
                        session = f"lingering-{kind}-{number}"
                        body = {"urls": origin.stalling(1, host=1), "options": NO_ROBOTS}
                        await peer.request("POST", "/crawl/stream", body, X_Session_ID=session)
                for follower in followers:
                    await follower.live.wait()
                told_at = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
        code = await trio.to_thread.run_sync(server.process.wait, EXIT_SECONDS)
        exited = time.monotonic() - told_at
    slowest = max(follower.ended_at for follower in followers) - told_at
    clean = Counter(follower.protocol for follower in followers if follower.clean)
    print(
        f"{kind}: SIGTERM with {STREAMS} live streams: {clean.total()} clean ends {dict(clean)}, "
        f"the last after {slowest:.2f} s, exit {code} after {exited:.2f} s"
    )
    assert clean.total() == STREAMS
    assert (code, exited < EXIT_SECONDS) == (0, True)


# --- What a drain does first ----------------------------------------------------------------------


def test_while_live_runs_finish_readyz_fails_and_new_work_is_told_to_come_back(
    origin: Origin,
) -> None:
    with open_server("native", {"EVENTMESH_SERVER__FINISH_SECONDS": "20"}) as server:
        slow = [*origin.pages(1), *origin.slow_pages(1, 1500, host=1)]
        fields = [("X-Session-ID", "finishing")]
        with (
            WebSocketClient(server.address, "/crawl/ws") as idle_socket,
            open_crawl(server.address, slow, headers=fields) as stream,
        ):
            events = stream.read_events()
            next(event for event in events if event.kind == "result")
            server.process.send_signal(signal.SIGTERM)
            told_at = time.monotonic()
            wait_until(
                lambda: request(server.address, "GET", "/readyz").status == 503, 1, "still ready"
            )
            ready_failed = time.monotonic() - told_at
            assert tag_of(idle_socket.receive()) == "welcome"
            with pytest.raises(EOFError):
                idle_socket.receive()
            assert idle_socket.close_code == 1001
            refused = [
                post_json(server.address, target, {"urls": origin.pages(1)})
                for target in ("/crawl/stream", "/crawl/sse")
            ]
            for answer in (*refused, request(server.address, "GET", "/readyz")):
                assert (answer.status, answer.error["type"]) == (503, "overloaded")
                assert int(answer.headers["retry-after"]) > 0
                assert answer.headers["connection"] == "close"
            with WebSocketClient(server.address, "/crawl/ws") as socket:
                assert socket.refused == 503
            assert request(server.address, "GET", "/livez").status == 200
            with Connection(server.address) as second:  # what is live can still be followed
                second.send("GET", "/crawl/stream?session_id=finishing")
                assert second.read_head() == 200
                last = list(second.read_events())[-1].data
            assert last["status"] == "completed"
            own = list(events)[-1].data
            assert (own["status"], own["successful"]) == ("completed", 2)
        assert server.process.wait(EXIT_SECONDS) == 0
    print(f"/readyz failed {ready_failed * 1000:.0f} ms after SIGTERM")


def test_those_who_only_wait_hold_up_no_end(origin: Origin) -> None:
    head = b"POST /crawl/stream HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    settings = {"EVENTMESH_TRANSPORT__FAREWELL_SECONDS": "0.5"}
    with open_server("native", settings) as server, ExitStack() as stack:

        def connect() -> Connection:
            return stack.enter_context(Connection(server.address))

        idle, half_head, half_body, waiting = (connect() for _ in range(4))
        idle.send("GET", "/livez")
        assert idle.read_response().status == 200
        half_head.socket.sendall(head)
        half_body.socket.sendall(head + b"Content-Length: 100\r\n\r\n{")
        waiting.send("GET", "/crawl/stream?session_id=unknown")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        told_at = time.monotonic()
        assert idle.socket.recv(1) == b""
        idle_closed = time.monotonic() - told_at
        assert (waiting.read_response().status, half_body.read_head()) == (503, 503)
        assert half_body.headers["connection"] == "close"
        assert half_head.socket.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert server.process.wait(EXIT_SECONDS) == 0
        exited = time.monotonic() - told_at
    print(f"idle connection closed after {idle_closed * 1000:.0f} ms, exit after {exited:.2f} s")
    assert idle_closed < 0.5


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(origin: Origin, second: signal.Signals, code: int) -> None:
    with open_server("native", {"EVENTMESH_SERVER__FINISH_SECONDS": "60"}) as server:
        with open_crawl(server.address, [*origin.pages(1), *origin.stalling(2, host=2)]) as stream:
            next(event for event in stream.read_events() if event.kind == "result")
            server.process.send_signal(signal.SIGTERM)
            wait_until(
                lambda: request(server.address, "GET", "/readyz").status == 503, 1, "still ready"
            )
            told_at = time.monotonic()
            server.process.send_signal(second)
            assert server.process.wait(EXIT_SECONDS) == code
            print(f"{second.name}: exit {code} after {time.monotonic() - told_at:.2f} s")
            assert time.monotonic() - told_at < 2


def is_held_back(server: ServerProcess) -> bool:
    """Whether the one run has begun, and has stopped."""

    def completed() -> int:
        return sum(
            run["completed"]
            for session in get_json(server.address, "/sessions")["sessions"]
            for run in session["runs"]
        )

    before = completed()
    time.sleep(0.4)
    return 0 < before == completed()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_stands_still_is_cut_when_the_drain_has_taken_its_time(
    kind: Kind, origin: Origin
) -> None:
    """Under hypercorn its write cannot be cancelled; the process ends nevertheless."""
    pages = [origin.url(f"/large/{number}?kb=256", host=3) for number in range(30)]
    with open_server(kind, {"EVENTMESH_SERVER__DRAIN_SECONDS": "1"}) as server:
        with open_crawl(server.address, pages, receive_buffer=4096):
            wait_until(partial(is_held_back, server), 15, "the run is not held back by its reader")
            told_at = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(2 * EXIT_SECONDS)
            print(f"{kind}: exit {code} after {time.monotonic() - told_at:.2f} s")
            assert code == (1 if kind == "native" else 0)  # hypercorn tells nothing of its workers
            assert time.monotonic() - told_at < EXIT_SECONDS


# --- Hypercorn ------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["the only process", "the worker", "the worker and its parent"])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_under_hypercorn_streams_end_cleanly_whichever_process_is_told(
    origin: Origin, whom: str, sign: signal.Signals
) -> None:
    more = ("--workers", "0") if whom == "the only process" else ()
    with open_server("hypercorn", command=(*command_of("hypercorn"), *more)) as server:
        urls = [*origin.pages(1), *origin.stalling(2, host=2)]
        with open_crawl(server.address, urls) as stream:
            events = stream.read_events()
            next(event for event in events if event.kind == "result")
            told_at = time.monotonic()
            os.kill(server.serving_pid, sign)
            if whom == "the worker and its parent":
                os.kill(server.process.pid, sign)
            last = list(events)[-1].data
            ended = time.monotonic() - told_at
            assert (last["status"], last["reason"]) == ("cancelled", "shutdown")
            code = server.process.wait(EXIT_SECONDS)
    print(f"{sign.name} to {whom}: ended after {ended:.2f} s, exit {code}")
    assert not is_running(server.process.pid)
    if whom == "the worker and its parent":
        assert code == 0


async def test_a_program_that_embeds_hypercorn_keeps_its_signals() -> None:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    stop = trio.Event()
    before = [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)]
    async with trio.open_nursery() as nursery:
        app: Any = make_app(Config())  # hypercorn's types are narrower than ASGI's
        serve = partial(hypercorn.trio.serve, app, config, shutdown_trigger=stop.wait)
        await nursery.start(serve)
        await trio.testing.wait_all_tasks_blocked()
        assert [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)] == before
        stop.set()


async def test_a_websocket_whose_handshake_a_drain_overtakes_is_closed_too() -> None:
    async with open_mesh() as mesh:
        application = Application(mesh)
        client, served = trio.testing.memory_stream_pair()
        head = (
            b"GET /crawl/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

        sending = cast("trio.testing.MemorySendStream", served.send_stream)
        pump: Any = sending.send_all_hook

        async def drain_once() -> None:  # while the handshake is being written
            sending.send_all_hook = pump
            assert await mesh.end_service()
            await pump()

        sending.send_all_hook = drain_once
        async with trio.open_nursery() as nursery:
            serve = partial(serve_connection, drain=mesh.service)
            nursery.start_soon(serve, served, application.handle, mesh.config.transport)
            await client.send_all(head)
            received = b""
            with trio.fail_after(2):
                while b"\x88\x02\x03\xe9" not in received:  # a close frame with code 1001
                    received += await client.receive_some()
            await client.aclose()


async def test_runs_that_linger_end_with_their_summary_too(origin: Origin) -> None:
    settings = {"fetch.allow_private": ["127.0.0.0/8"], "workers.workers": 1}
    async with open_mesh(load_config(overrides=settings)) as mesh:
        session = mesh.hub.open_session("lingering")
        body = {"urls": origin.stalling(2, host=2), "options": NO_ROBOTS}
        run, _ = mesh.start_crawl(session, mesh.read_request(body), request_id="a", reader=None)
        await trio.sleep(0.1)
        assert await mesh.end_service()
        assert (run.live, run.reason) == (False, "shutdown")
        spec = reader_spec(
            mesh.config.stream,
            ReaderWishes(),
            protocol="ndjson",
            encoder_for=lambda _: HTTPEncoder("ndjson"),
            until="idle",
            connection_id="test",
        )
        last = [event async for event in session.subscribe(spec)][-1]
        assert isinstance(last, Summary)
        assert (last.status, last.reason, last.cancelled) == ("cancelled", "shutdown", 2)


async def test_an_embedded_mesh_touches_no_signals() -> None:
    before = [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)]
    async with open_mesh() as mesh:
        assert await mesh.end_service()
        assert [signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)] == before
