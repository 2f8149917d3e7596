"""Streams that are cut anywhere and resumed: every result once; and cursors that mean nothing here.

Many runs at once, each with its own seed: a failure says which, and `follow_one` brings it back.
"""

import json
import time
from collections import Counter
from random import Random
from typing import Any

import attrs
import pytest
import trio

from tests.helpers.cuts import Cut, Framing, Received, draw_cut, exchange, frame, head, upgrade
from tests.helpers.origin import Origin
from tests.helpers.raw import StreamedEvent
from tests.helpers.servers import ServerProcess

pytestmark = pytest.mark.slow

FRAMINGS: tuple[Framing, ...] = ("ndjson", "sse", "websocket")
AT_ONCE = 10
PATHS = {"ndjson": "/crawl/stream", "sse": "/crawl/sse/stream"}


@attrs.define(eq=False)
class CutRun:
    """One run, its client, and all that the client has received of it."""

    address: tuple[str, int]
    framing: Framing
    name: str
    urls: list[str]
    most_bytes: int
    pick: Random
    cuts: Counter[str] = attrs.field(factory=Counter)
    events: list[StreamedEvent] = attrs.field(factory=list)

    async def follow(self) -> None:
        """Start, be cut, resume, until the summary has come."""
        self.take(await self.start())
        while not self.events or self.events[-1].kind != "summary":
            post = not self.events or (self.framing != "websocket" and self.pick.random() < 0.2)
            replay = post and self.pick.random() < 0.5
            received = await (self.start(replay=replay) if post else self.resume())
            self.take(received, replay=replay)
            if received.ended:
                assert self.events, received
                assert self.events[-1].kind == "summary", "the stream ended without a summary"

    async def start(self, *, replay: bool = True) -> Received:
        """POST with a key: a new run at first, then that run from its start, or from a cursor."""
        if self.framing == "websocket":
            return await self._start_on_a_socket()
        return await self.exchange(self.posted(None if replay else self.cursor))

    @property
    def cursor(self) -> str | None:
        return self.events[-1].event_id if self.events else None

    def posted(self, cursor: str | None) -> bytes:
        body = json.dumps({"urls": self.urls, "options": self.options()})
        path = {"ndjson": "/crawl/stream", "sse": "/crawl/sse"}[self.framing]
        request = head(
            "POST",
            path,
            f"X-Session-ID: {self.name}",
            f"Idempotency-Key: {self.name}",
            *self.wishes(),
            "Accept: text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Last-Event-ID: {cursor}"] if cursor else []),
        )
        return request + body.encode()

    async def _start_on_a_socket(self) -> Received:
        # A reset may destroy a command that the server has not read: cut when it has answered.
        cut = Cut(self.pick.choice(("reset", "close")), self.pick.randint(2, 4), 0)
        data = {"urls": self.urls, "options": self.options()}
        command = {"action": "crawl", "request_id": "cut", "data": data}
        return await self.exchange(self.upgrade(), cut, frame(command))

    async def resume(self) -> Received:
        cursor = self.cursor
        way = self.pick.choice(("Last-Event-ID", "last_event_id", "after"))
        query = "" if way == "Last-Event-ID" else f"&{way}={cursor}"
        fields = [f"Last-Event-ID: {cursor}"] if way == "Last-Event-ID" else []
        fields += self.wishes()
        if self.framing == "websocket":
            return await self.exchange(self.upgrade(query, *fields))
        path = PATHS[self.framing]
        return await self.exchange(head("GET", f"{path}?session_id={self.name}{query}", *fields))

    def wishes(self) -> tuple[str, ...]:
        """Each connection its own window and batches."""
        size, memory = self.pick.choice((64, 256, 2048)), self.pick.choice((4096, 65_536))
        fields = (f"X-Buffer-Size: {size}", f"X-Max-Memory-Per-Connection: {memory}")
        return (*fields, *(["X-Enable-Backpressure: false"] * self.pick.randrange(2)))

    def upgrade(self, query: str = "", *fields: str) -> bytes:
        return upgrade(f"session_id={self.name}{query}", *fields)

    async def exchange(
        self, request: bytes, cut: Cut | None = None, message: bytes = b""
    ) -> Received:
        cut = cut or draw_cut(self.pick, self.most_bytes)
        received = await exchange(self.address, request, self.framing, cut, message=message)
        if not received.ended:
            self.cuts[cut.way] += 1
        return received

    def options(self) -> dict[str, Any]:
        return {"concurrency": 8, "respect_robots": False, "cache_mode": "disabled"}

    def take(self, received: Received, *, replay: bool = False) -> None:
        assert received.status in (0, 101, 200), received
        kinds = [event.kind for event in received.events]
        assert "gap" not in kinds, "nothing is missing"
        assert "error" not in kinds, received.events
        logged = [event for event in received.events if event.event_id is not None]
        if replay:
            known = {event.event_id for event in self.events}
            again = [event.event_id for event in logged if event.event_id in known]
            assert again == [event.event_id for event in self.events][: len(again)]
            logged = logged[len(again) :]
        self.events += logged

    def check(self) -> None:
        ids = [event.event_id or "" for event in self.events]
        numbers = [int(event_id.rpartition("-")[2]) for event_id in ids]
        assert numbers == sorted(set(numbers)), "ids were sent twice, or out of order"
        assert len({event_id.rpartition("-")[0] for event_id in ids}) == 1, "another epoch"
        results = [self.data(event) for event in self.events if event.kind == "result"]
        found = {result["index"]: self.url_of(result) for result in results}
        assert len(results) == len(found) == len(self.urls)
        assert found == dict(enumerate(self.urls))
        assert [event.kind for event in self.events].count("summary") == 1

    def data(self, event: StreamedEvent) -> dict[str, Any]:
        return dict(event.data["data"]) if self.framing == "websocket" else event.data

    def url_of(self, result: dict[str, Any]) -> str:
        return str(result["url"])

    async def check_silence(self) -> None:
        """After the last event there is nothing: 204, or a socket that says welcome and no more."""
        if self.framing != "websocket":
            query = f"?session_id={self.name}&last_event_id={self.cursor}"
            for request in (head("GET", PATHS[self.framing] + query), self.posted(self.cursor)):
                received = await exchange(self.address, request, self.framing, None)
                assert (received.status, received.events) == (204, [])
            return
        request, ping = self.upgrade(f"&last_event_id={self.cursor}"), frame({"action": "ping"})
        two = Cut("close", 1, 0)
        received = await exchange(self.address, request, self.framing, two, message=ping)
        assert [event.kind for event in received.events] == ["welcome", "pong"]


def draw_work(origin: Origin, pick: Random) -> tuple[list[str], int]:
    """What to crawl, and how many bytes to read at most before a cut."""
    host = pick.randrange(4)
    match pick.randrange(6):
        case 0:  # more results than the window takes
            return origin.pages(100, host=host), 60_000
        case 1:  # more bytes than the socket takes
            return [origin.url(f"/large/{n}?kb=96", host) for n in range(8)], 900_000
        case 2 | 3:  # live for a while
            return origin.slow_pages(24, 15, host=host), 9_000
        case _:
            return origin.pages(24, host=host), 9_000


async def follow_one(
    server: ServerProcess, origin: Origin, framing: Framing, seed: str
) -> Counter[str]:
    """One run with the cuts that its seed draws."""
    pick = Random(seed)
    urls, most_bytes = draw_work(origin, pick)
    name = f"cut-{framing}-{time.monotonic_ns()}"
    run = CutRun(server.address, framing, name, urls, most_bytes, pick)
    try:
        await run.follow()
        run.check()
        await run.check_silence()
    except Exception as error:
        error.add_note(f"again by: follow_one(server, origin, {framing!r}, {seed!r})")
        error.add_note("\n".join(f"{e.event_id} {e.kind}" for e in run.events))
        raise
    return run.cuts


async def cut_and_resume(
    server: ServerProcess, origin: Origin, framing: Framing, cuts: int
) -> None:
    """Run after run, some at once, until there were so many cuts."""
    started = time.monotonic()
    done: Counter[str] = Counter()
    runs = 0

    async def keep_on() -> None:
        nonlocal runs
        while done.total() < cuts:
            runs += 1
            done.update(await follow_one(server, origin, framing, f"{framing} {runs}"))

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(keep_on)
    print(
        f"{server.kind} {framing}: {done.total()} cuts {dict(done)} in {runs} runs, "
        f"each result once, {time.monotonic() - started:.1f} s"
    )


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_stream_cut_anywhere_and_resumed_brings_every_result_once(
    server: ServerProcess, origin: Origin, framing: Framing
) -> None:
    await cut_and_resume(server, origin, framing, 40)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_five_hundred_streams_cut_anywhere_and_resumed_bring_every_result_once(
    server: ServerProcess, origin: Origin, framing: Framing
) -> None:
    await cut_and_resume(server, origin, framing, 500)
