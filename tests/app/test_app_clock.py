"""The wall clock is for showing: when it jumps, no deadline moves and no id repeats."""

import time
from collections.abc import Awaitable, Callable
from itertools import cycle

import attrs
import pytest
import trio

from eventmesh_trio.app.lifespan import Mesh
from eventmesh_trio.app.loading import load_config
from tests.helpers.crowd import Peer
from tests.helpers.here import serve_here
from tests.helpers.origin import Origin

DECADE = 10 * 365 * 86_400.0
ALLOWED = {"run": 1.0, "linger": 0.6, "retention": 0.6, "header": 0.6}
SETTINGS = {
    "fetch.allow_private": ["127.0.0.0/8"],
    "workers.workers": 1,
    "mesh.linger_seconds": ALLOWED["linger"],
    "mesh.retention_seconds": ALLOWED["retention"],
    "transport.header_seconds": ALLOWED["header"],
    "transport.keep_alive_seconds": 5.0,
}


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets by how many seconds ``time.time`` is wrong."""
    offset, real = 0.0, time.time

    def set_offset(seconds: float) -> None:
        nonlocal offset
        offset = seconds

    monkeypatch.setattr(time, "time", lambda: real() + offset)
    return set_offset


@attrs.define
class Clients:
    """Three who wait for deadlines; ``took`` is how long each was, in seconds."""

    mesh: Mesh
    address: tuple[str, int]
    origin: Origin
    took: dict[str, float] = attrs.field(factory=dict)
    numbers: list[int] = attrs.field(factory=list)

    async def follow(self) -> None:
        """A run that its own time limit ends, and a connection that rests after it."""
        urls = [*self.origin.pages(5), *self.origin.stalling(1, host=2)]
        options = {"respect_robots": False, "run_timeout_seconds": ALLOWED["run"]}
        body = {"urls": urls, "options": options}
        async with await trio.open_tcp_stream(*self.address) as stream:
            peer, began = Peer(stream), time.monotonic()
            assert await peer.request("POST", "/crawl/sse", body) == 200
            chunks = await peer.read_stream()
            self.took["run"] = time.monotonic() - began
            await trio.sleep(0.3)  # which is not ten years
            assert await peer.request("GET", "/livez") == 200
        assert b'"status":"timed_out"' in chunks
        ids = [line[4:] for line in chunks.splitlines() if line.startswith(b"id: ")]
        assert len({event_id.partition(b"-")[0] for event_id in ids}) == 1
        self.numbers += [int(event_id.rpartition(b"-")[2]) for event_id in ids]

    async def leave(self) -> None:
        """A run that lingers after its reader, and its session that is kept for a while."""
        body = {"urls": self.origin.stalling(1, host=3), "options": {"respect_robots": False}}
        async with await trio.open_tcp_stream(*self.address) as stream:
            fields = {"X_Session_ID": "left"}
            assert await Peer(stream).request("POST", "/crawl/stream", body, **fields) == 200
        session = self.mesh.hub.find("left")
        assert session is not None
        await self._time("linger", lambda: not session.live_runs)
        await self._time("retention", lambda: self.mesh.hub.find("left") is None)

    async def send_half(self) -> None:
        async with await trio.open_tcp_stream(*self.address) as stream:
            began = time.monotonic()
            await stream.send_all(b"GET / HT")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")
            self.took["header"] = time.monotonic() - began

    async def _time(self, what: str, holds: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not holds():
            await trio.sleep(0.005)
        self.took[what] = time.monotonic() - began

    def acts(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        return self.follow, self.leave, self.send_half


async def test_a_clock_that_jumps_changes_no_deadline_and_no_id(
    origin: Origin, shift: Callable[[float], None]
) -> None:
    async def keep_jumping() -> None:
        for seconds in cycle((DECADE, -DECADE, 3600.0, -3600.0)):
            shift(seconds)
            await trio.sleep(0.02)

    async with serve_here(load_config(overrides=SETTINGS)) as (mesh, address):
        clients = Clients(mesh, address, origin)
        async with trio.open_nursery() as jumping:
            jumping.start_soon(keep_jumping)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for act in clients.acts():
                        nursery.start_soon(act)
            jumping.cancel_scope.cancel()
    took = clients.took
    print(f"while the clock jumps: { {what: round(each, 2) for what, each in took.items()} }")
    assert clients.numbers == list(range(1, len(clients.numbers) + 1))
    assert took.keys() == ALLOWED.keys()
    for what, seconds in ALLOWED.items():
        assert seconds - 0.15 < took[what] < seconds + 0.5, (what, took)
