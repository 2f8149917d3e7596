"""Many clients at once who do the same thing: half a request, a connect, a return, a departure."""

import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from statistics import median

import attrs
import pytest
import trio

from tests.helpers.clock import cpu_seconds, queued_seconds, wait_until
from tests.helpers.counted import open_counted_server
from tests.helpers.crowd import Peer
from tests.helpers.origin import Origin
from tests.helpers.processes import resident_bytes
from tests.helpers.raw import get_json, open_crawl, post_json, request
from tests.helpers.servers import KINDS, Kind, ServerProcess, command_of, open_server

HALF_SENT = 5_000
HALF_REQUEST = b"POST /crawl/stream HTTP/1.1\r\nHost: half\r\nContent-Type: applica"
KIB = 1024
STORM = 500
RETURNING = 2_000
VANISHING = 500
NO_ROBOTS = {"respect_robots": False}


@contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Allow this process, and what it starts, so many descriptors; skips where that cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this needs {count} descriptors: ulimit -Hn {count}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_five_thousand_half_sent_requests_are_cut_at_their_deadline_and_cost_little() -> None:
    seconds = 10.0
    settings = {"EVENTMESH_TRANSPORT__HEADER_SECONDS": str(seconds)}
    with (
        many_descriptors(2 * HALF_SENT + 500),
        open_server("native", settings) as server,
        ExitStack() as stack,
        selectors.DefaultSelector() as selector,
    ):
        assert request(server.address, "GET", "/livez").status == 200
        time.sleep(0.2)
        descriptors = server.descriptors()
        before = resident_bytes(server.process.pid)
        sent_at: dict[socket.socket, float] = {}
        for _ in range(HALF_SENT):
            half = stack.enter_context(socket.create_connection(server.address))
            half.sendall(HALF_REQUEST)
            sent_at[half] = time.monotonic()
            selector.register(half, selectors.EVENT_READ)
        while server.descriptors() < descriptors + HALF_SENT:
            assert time.monotonic() < min(sent_at.values()) + seconds, "not all were accepted"
            time.sleep(0.1)  # looking at five thousand descriptors is work, too
        each = (resident_bytes(server.process.pid) - before) / HALF_SENT
        # Others are served meanwhile.
        began = time.monotonic()
        assert request(server.address, "GET", "/livez").status == 200
        served = time.monotonic() - began
        after: list[float] = []
        answers: Counter[bytes] = Counter()
        while sent_at:
            for key, _ in selector.select(timeout=30):
                half = key.fileobj  # type: ignore[assignment]
                answers[half.recv(65536)[:12]] += 1
                after.append(time.monotonic() - sent_at.pop(half))
                selector.unregister(half)
                half.close()
        wait_until(
            lambda: server.descriptors() <= descriptors + 1, 2, "their descriptors are still open"
        )
        print(
            f"{HALF_SENT} half-sent requests: cut {min(after):.2f} to {max(after):.2f} s after "
            f"they were sent ({seconds:g} s allowed), {each / KIB:.1f} KiB each; another request "
            f"beside them: {served * 1000:.0f} ms"
        )
    assert answers == {b"HTTP/1.1 408": HALF_SENT}
    assert min(after) >= seconds - 0.1
    assert max(after) < seconds + 2
    assert each <= 10_000
    assert served < 1


# --- A storm of connects --------------------------------------------------------------------------


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Peer]:
    stream = await trio.open_tcp_stream(*address)
    try:
        yield Peer(stream)
    finally:
        await trio.aclose_forcefully(stream)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_five_hundred_connects_within_a_second_are_all_served(
    kind: Kind, origin: Origin
) -> None:
    body = {"urls": origin.pages(2), "options": NO_ROBOTS}
    took: list[float] = []

    async def crawl(server: ServerProcess, after: float) -> None:
        await trio.sleep(after)
        began = trio.current_time()
        async with connected(server.address) as peer:
            assert await peer.request("POST", "/crawl/stream", body) == 200
            assert b'"successful":2' in await peer.read_stream()
        took.append(trio.current_time() - began)

    with open_server(kind) as server:
        with open_crawl(server.address, origin.pages(2)) as stream:
            list(stream.read_events())
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(STORM):
                    nursery.start_soon(crawl, server, number / STORM)
    took.sort()
    print(
        f"{kind}: {len(took)} of {STORM} crawls that were begun within a second were served; "
        f"median {median(took) * 1000:.0f} ms, slowest {took[-1] * 1000:.0f} ms"
    )
    assert len(took) == STORM
    assert took[-1] < 10


# --- All come back at once ------------------------------------------------------------------------


@attrs.define
class Returning:
    """Clients of a server that was restarted, who come back with ids of its forgotten logs."""

    address: tuple[str, int]
    cursor: str
    answers: Counter[str] = attrs.field(factory=Counter)
    slowest: dict[str, float] = attrs.field(factory=dict)

    async def follow(self, session: str) -> None:
        """Attach as an EventSource does, and read to the end."""
        began = trio.current_time()
        async with connected(self.address) as peer:
            target = f"/crawl/sse/stream?session_id={session}"
            status = await peer.request("GET", target, Last_Event_ID=self.cursor)
            answer = str(status)
            if status == 200:
                body = await peer.read_stream()
                first = next(line for line in body.split(b"\n") if line.startswith(b"event: "))
                assert b"event: summary" in body
                assert b'"epoch_changed":true' in body
                answer = first.decode().removeprefix("event: ")
            else:
                await peer.read_until(b"}\n")
        self.note(answer, began)

    async def look(self) -> None:
        """Another, who asks for something else."""
        began = trio.current_time()
        async with connected(self.address) as peer:
            assert await peer.request("GET", "/livez") == 200
        self.note("livez", began)

    def note(self, answer: str, began: float) -> None:
        self.answers[answer] += 1
        took = trio.current_time() - began
        self.slowest[answer] = max(took, self.slowest.get(answer, 0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_two_thousand_who_come_back_after_a_restart_get_a_gap_or_404_and_none_hangs(
    kind: Kind, origin: Origin
) -> None:
    known = [f"known-{number}" for number in range(10)]
    with open_server(kind) as server:
        with open_crawl(server.address, origin.pages(2)) as stream:
            cursor = [event.event_id for event in stream.read_events() if event.event_id][-2]
    with (
        many_descriptors(RETURNING + 500),
        open_server(
            kind,
            {"EVENTMESH_MESH__ATTACH_WAIT_SECONDS": "2"},
            # Hypercorn closes who has to wait longer than this for its first read, and has room for
            # a hundred in its backlog; hypercorn.toml says more.
            command=[
                *command_of(kind),
                *(("--keep-alive", "20", "--backlog", "4096") if kind == "hypercorn" else ()),
            ],
        ) as server,
    ):
        for session in known:  # begun again since, by the first client that came back
            body = {"urls": origin.pages(2), "options": NO_ROBOTS}
            fields = [("X-Session-ID", session), ("Accept", "application/x-ndjson")]
            assert post_json(server.address, "/crawl/stream", body, fields).status == 200
        clients = Returning(server.address, cursor)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(RETURNING):
                    name = known[number % 10] if number % 2 else f"forgotten-{number}"
                    nursery.start_soon(clients.follow, name)
                for _ in range(20):
                    await trio.sleep(0.1)
                    await clients.look()
        left = [s["subscribers"] for s in get_json(server.address, "/sessions")["sessions"]]
    print(
        f"{kind}: {RETURNING} come back at once: {dict(clients.answers)}; slowest, in seconds: "
        f"{ {answer: round(seconds, 2) for answer, seconds in clients.slowest.items()} }"
    )
    assert clients.answers == {"gap": RETURNING // 2, "404": RETURNING // 2, "livez": 20}
    assert not any(left)
    assert max(clients.slowest.values()) < 15


# --- All vanish at once ---------------------------------------------------------------------------


async def join(
    address: tuple[str, int], origin: Origin, number: int, stack: AsyncExitStack
) -> Peer:
    """One who is in the middle of a stream."""
    peer = await stack.enter_async_context(connected(address))
    urls = [*origin.pages(1), *origin.stalling(2, host=1 + number % 3)]
    body = {"urls": urls, "options": NO_ROBOTS}
    if number % 3 == 0:
        await peer.upgrade("/crawl/ws")
        await peer.send(action="crawl", request_id="a", data=body)
        await peer.receive_until("result")
    else:
        fields = {"Accept": "text/event-stream"}
        if number % 5 == 0:  # and will linger
            fields["X_Session_ID"] = f"vanishing-{number}"
        target = ("/crawl/stream", "/crawl/sse")[number % 2]
        assert await peer.request("POST", target, body, **fields) == 200
        await peer.read_until(b'"result"')
    return peer


async def join_and_vanish(address: tuple[str, int], origin: Origin, count: int) -> float:
    """The moment at which all of them have gone, at once."""
    peers: list[Peer] = []

    async def add(number: int) -> None:
        peers.append(await join(address, origin, number, stack))

    async with AsyncExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(add, number)
        assert len(peers) == count
        for peer in peers:
            peer.reset()
        return time.monotonic()


@pytest.mark.slow
async def test_of_five_hundred_who_vanish_under_hypercorn_no_run_and_no_descriptor_is_left(
    origin: Origin,
) -> None:
    def live(server: ServerProcess) -> int:
        sessions = get_json(server.address, "/sessions")["sessions"]
        return sum(run["state"] == "running" for session in sessions for run in session["runs"])

    settings = {
        "EVENTMESH_FETCH__KEEP_ALIVE_SECONDS": "0.2",
        "EVENTMESH_MESH__LINGER_SECONDS": "0.1",
    }
    with many_descriptors(2 * VANISHING + 500), open_server("hypercorn", settings) as server:
        await join_and_vanish(server.address, origin, 8)
        await trio.sleep(2)
        before = server.descriptors()
        gone_at = await join_and_vanish(server.address, origin, VANISHING)
        wait_until(lambda: live(server) == 0, 5, lambda: f"{live(server)} runs are live")
        seconds = time.monotonic() - gone_at
        # A second longer than hypercorn keeps the descriptors of those that it overlooks.
        wait_until(
            lambda: server.descriptors() <= before + 1,
            3,
            lambda: f"{server.descriptors()} descriptors, {before} before",
        )
        closed = time.monotonic() - gone_at
    print(
        f"{VANISHING} vanished under hypercorn: no live run after {seconds:.2f} s, "
        f"{before} descriptors again after {closed:.2f} s"
    )


@pytest.mark.slow
async def test_of_five_hundred_who_vanish_nothing_is_left_within_a_second(origin: Origin) -> None:
    settings = {
        "fetch.allow_private": ["127.0.0.0/8"],
        "fetch.keep_alive_seconds": 0.2,
        "mesh.retention_seconds": 0.0,
        "mesh.linger_seconds": 0.1,
        "workers.workers": 1,
    }
    with many_descriptors(2 * VANISHING + 500), open_counted_server(settings) as server:
        await join_and_vanish(server.address, origin, 8)  # makes what is made once
        await trio.sleep(0.6)
        before, things = server.held(), server.objects()
        gone_at = await join_and_vanish(server.address, origin, VANISHING)
        used, queued = cpu_seconds(server.process.pid), queued_seconds(server.process.pid)
        while (now := server.held()) != before:
            assert time.monotonic() < gone_at + 10, f"{now} tasks and descriptors, not {before}"
            time.sleep(0.02)
        seconds = time.monotonic() - gone_at
        used = cpu_seconds(server.process.pid) - used
        queued = queued_seconds(server.process.pid) - queued
        left = server.objects() - things
        left.pop("eventmesh_trio.mesh.census._Bucket", None)  # of the last minute: at most six
    print(
        f"{VANISHING} vanished clients: {before} tasks and descriptors again after {seconds:.2f} s "
        f"(of which {used:.2f} at work, {queued:.2f} without a processor), {left.total()} objects "
        "more than before"
    )
    assert not left
    assert seconds - queued < 1  # what other programs took of the machine is not what is measured
