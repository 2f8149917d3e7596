"""A response that streams is ended by its peer's departure, with and without a task that waits."""

import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import structlog.testing
import trio
import trio.testing
from transport_harness import LIMITS, HTTPPeer

from eventmesh_trio.abc import Exchange
from eventmesh_trio.transport import departures as departures_module
from eventmesh_trio.transport.departures import Departures, open_departures, until_returned
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.listeners import Bind, open_listeners, serve_listeners

GET = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=["one task for all", "a task for each"])
def noticing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: with the kernel's epoll, and as where there is none."""
    if request.param == "a task for each":
        monkeypatch.setattr(departures_module, "select", object())


@attrs.define(eq=False)
class Streaming:
    """A handler that streams until it is told to end; what became of each stream."""

    begun: int = 0
    ends: list[str] = attrs.field(factory=list)
    gate: trio.Event = attrs.field(factory=trio.Event)

    async def handle(self, exchange: Exchange) -> None:
        if exchange.request.path == "/next":
            await exchange.send_response(200, [], b"next")
            return
        await exchange.start_response(200, [])
        finished = False
        async with exchange.until_disconnected():
            await exchange.send_some(b"first")
            self.begun += 1
            await self.gate.wait()
            await exchange.end_response()
            finished = True
        self.ends.append("ended" if finished else "left")


@asynccontextmanager
async def streaming(
    *, limits: TransportLimits = LIMITS, path: Path | None = None
) -> AsyncIterator[tuple[Streaming, Callable[[], Awaitable[HTTPPeer]]]]:
    handler = Streaming()
    bind = Bind("127.0.0.1", 0) if path is None else Bind(path=str(path))
    listeners = await open_listeners([bind], None)

    async def connect() -> HTTPPeer:
        where = listeners[0].socket.getsockname()
        if path is not None:
            return HTTPPeer(await trio.open_unix_socket(where))
        return HTTPPeer(await trio.open_tcp_stream(*where))

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listeners, handler.handle, listeners, limits))
        with trio.fail_after(20):
            yield handler, connect
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Poll for what only the kernel decides the time of."""
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.002)


def reset(peer: HTTPPeer) -> None:
    assert isinstance(peer.stream, trio.SocketStream)
    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.usefixtures("noticing")
@pytest.mark.parametrize("way", ["closes", "ends its side", "resets"])
async def test_a_block_that_writes_is_cancelled_when_its_peer(way: str) -> None:
    async with streaming() as (handler, connect):
        peer = await connect()
        await peer.send(GET)
        await peer.until(b"first\r\n")
        if way == "resets":
            reset(peer)
        if way == "ends its side":
            assert isinstance(peer.stream, trio.SocketStream)
            await peer.stream.send_eof()
        else:
            await peer.stream.aclose()
        await until(lambda: handler.ends == ["left"])
        await peer.stream.aclose()


@pytest.mark.usefixtures("noticing")
async def test_what_comes_during_a_stream_is_the_next_request() -> None:
    async with streaming() as (handler, connect):
        peer = await connect()
        await peer.send(GET + NEXT[:10])
        await peer.until(b"first\r\n")
        await peer.send(NEXT[10:20])
        await trio.sleep(0.02)
        await peer.send(NEXT[20:])
        await trio.sleep(0.02)
        handler.gate.set()
        await peer.until(b"0\r\n\r\n")
        assert (await peer.answer()).body == b"next"
        await until(lambda: handler.ends == ["ended"])
        await peer.stream.aclose()


@pytest.mark.usefixtures("noticing")
async def test_a_connection_streams_again_after_its_stream_and_its_departure_is_noticed_then() -> (
    None
):
    async with streaming() as (handler, connect):
        handler.gate.set()
        peer = await connect()
        for _ in range(3):
            await peer.send(GET)
            assert (await peer.answer()).body == b"first"
        handler.gate = trio.Event()
        await peer.send(GET)
        await peer.until(b"first\r\n")
        await peer.stream.aclose()
        await until(lambda: handler.ends == ["ended"] * 3 + ["left"])


@pytest.mark.usefixtures("noticing")
async def test_a_peer_that_sends_without_end_is_read_up_to_the_bound() -> None:
    limits = attrs.evolve(LIMITS, max_pipelined_bytes=10_000)
    async with streaming(limits=limits) as (handler, connect):
        peer, other = await connect(), await connect()
        await peer.send(GET)
        await peer.until(b"first\r\n")
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await peer.send(b"x" * 65536)
                sent += 65536
        # The kernel's buffers are full, so the peer feels that nobody reads.
        assert handler.ends == []
        await other.send(NEXT)
        assert (await other.answer()).body == b"next"
        handler.gate.set()
        await peer.until(b"0\r\n\r\n")
        await until(lambda: handler.ends == ["ended"])
        for each in (peer, other):
            await each.stream.aclose()


@pytest.mark.usefixtures("noticing")
async def test_all_who_leave_at_once_are_noticed_and_nobody_else() -> None:
    async with streaming() as (handler, connect):
        peers = [await connect() for _ in range(60)]
        for peer in peers:
            await peer.send(GET)
        await until(lambda: handler.begun == 60)
        for number, peer in enumerate(peers):
            if number % 2:
                if number % 3 == 0:
                    reset(peer)
                await peer.stream.aclose()
        await until(lambda: len(handler.ends) == 30)
        assert set(handler.ends) == {"left"}
        handler.gate.set()
        for peer in peers[::2]:
            assert (await peer.answer()).complete
            await peer.stream.aclose()
        await until(lambda: handler.ends[30:] == ["ended"] * 30)


async def test_a_departure_from_a_unix_socket_is_noticed(tmp_path: Path) -> None:
    async with streaming(path=tmp_path / "s") as (handler, connect):
        peer = await connect()
        await peer.send(GET)
        await peer.until(b"first\r\n")
        await peer.stream.aclose()
        await until(lambda: handler.ends == ["left"])


async def test_idle_streams_have_one_task_each_where_there_is_epoll() -> None:
    async with streaming() as (handler, connect):
        before = trio.lowlevel.current_statistics().tasks_living
        peers = [await connect() for _ in range(10)]
        for peer in peers:
            await peer.send(GET)
        await until(lambda: handler.begun == 10)
        assert trio.lowlevel.current_statistics().tasks_living == before + 10
        for peer in peers:
            await peer.stream.aclose()


# --- By themselves --------------------------------------------------------------------------------


class Recording:
    """Told of a socket, it reads it, and forgets it at its end."""

    def __init__(self, departures: Departures, watched: socket.socket) -> None:
        self.seen: list[bytes] = []
        self.departures = departures
        self.watched = watched
        self.descriptor = watched.fileno()
        departures.watch(self.descriptor, self)

    def ready(self) -> None:
        data = self.watched.recv(100)
        self.seen.append(data)
        if not data:
            self.forget()

    def forget(self) -> None:
        self.departures.forget(self.descriptor, self)


async def test_a_watcher_is_told_until_it_is_forgotten() -> None:
    ours, theirs = socket.socketpair()
    async with open_departures() as departures:
        assert departures is not None
        with ours, theirs:
            watcher = Recording(departures, ours)
            theirs.send(b"one")
            await until(lambda: watcher.seen == [b"one"])
            theirs.send(b"two")
            await until(lambda: watcher.seen == [b"one", b"two"])
            theirs.shutdown(socket.SHUT_WR)
            await until(lambda: watcher.seen[-1] == b"")
            watcher.forget()
            assert len(departures) == 0


async def test_a_closed_sockets_watcher_does_not_forget_who_has_its_number_now() -> None:
    ours, theirs = socket.socketpair()
    async with open_departures() as departures:
        assert departures is not None
        former = Recording(departures, ours)
        number = ours.fileno()
        ours.close()
        theirs.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert ours.fileno() == number
            latter = Recording(departures, ours)
            former.forget()
            theirs.send(b"x")
            await until(lambda: latter.seen == [b"x"])
            assert former.seen == []
            latter.forget()


async def test_one_that_was_closed_before_it_is_forgotten_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with open_departures() as departures:
            assert departures is not None
            watcher = Recording(departures, ours)
            ours.close()
            watcher.forget()
            assert len(departures) == 0


async def test_other_tasks_run_while_very_many_peers_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures_module, "_AT_ONCE", 8)
    with select.epoll() as epoll:
        departures = Departures(epoll)
        pairs = [socket.socketpair() for _ in range(80)]
        watchers = [Recording(departures, ours) for ours, _ in pairs]
        for _, theirs in pairs:
            theirs.send(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(departures.notice)
            told = turns = 0
            while told < 80:
                await trio.lowlevel.checkpoint()
                turns += 1
                before, told = told, sum(len(watcher.seen) for watcher in watchers)
                assert told - before <= 16  # between two turns of ours it may have two
            nursery.cancel_scope.cancel()
        assert turns >= 5
        for watcher, pair in zip(watchers, pairs, strict=True):
            watcher.forget()
            for each in pair:
                each.close()


async def test_a_block_runs_until_what_it_waits_for_returns_or_to_its_own_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began, ended = trio.current_time(), False
    async with until_returned(partial(trio.sleep, 5)):
        await trio.sleep(10)
        ended = True
    assert trio.current_time() == pytest.approx(began + 5)
    assert not ended
    async with until_returned(trio.sleep_forever):
        await trio.sleep(1)
        ended = True
    assert trio.current_time() == pytest.approx(began + 6)
    assert ended


async def test_the_scope_that_is_given_is_the_blocks_own() -> None:
    async with until_returned(trio.sleep_forever) as scope:
        scope.cancel()
        await trio.sleep_forever()


class Faulty(Recording):
    """One whose socket cannot be read as it should be."""

    def ready(self) -> None:
        raise ValueError("no such byte")


async def test_a_fault_in_one_connection_is_not_felt_by_the_others() -> None:
    ours, theirs = socket.socketpair()
    other, others = socket.socketpair()
    with structlog.testing.capture_logs() as logs:
        async with open_departures() as departures:
            assert departures is not None
            with ours, theirs, other, others:
                Faulty(departures, ours)
                theirs.send(b"one")
                await until(lambda: len(departures) == 0)
                watcher = Recording(departures, other)
                others.send(b"two")
                await until(lambda: watcher.seen == [b"two"])
                watcher.forget()
    assert [entry["event"] for entry in logs] == ["what came from a peer could not be read"]
