"""Pause, resume, cancel and deadlines at random over the public API, while readers come and go.

However it goes, the log says one story, and every reader who resumes has all of it, once.
"""

import time
from collections import Counter
from random import Random
from typing import Any

import attrs
import pytest
import trio

from tests.helpers.crowd import open_peer
from tests.helpers.cuts import Framing, draw_cut, exchange, head, upgrade
from tests.helpers.origin import Origin
from tests.helpers.raw import StreamedEvent
from tests.helpers.servers import ServerProcess

pytestmark = pytest.mark.slow

AT_ONCE = 8
FRAMINGS: tuple[Framing, ...] = ("ndjson", "sse", "websocket")
PATHS = {"ndjson": "/crawl/stream", "sse": "/crawl/sse/stream"}
ENDINGS = ("completed", "completed", "cancelled", "timed_out")
RUN = "the-run"
NAPS = (0.0, 0.001, 0.01, 0.03, 0.1)

Said = tuple[str | None, str, int | None]


@attrs.define(eq=False)
class Scene:
    """One run, drawn from its seed, with its readers and who commands it."""

    address: tuple[str, int]
    origin: Origin
    seed: str
    pick: Random = attrs.field(init=False)
    session: str = attrs.field(init=False)
    ending: str = attrs.field(init=False)
    urls: list[str] = attrs.field(init=False)
    commands: list[str] = attrs.field(factory=list)
    readings: list[list[Said]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.pick = pick = Random(self.seed)
        self.session = f"storm-{time.monotonic_ns()}"
        self.ending = pick.choice(ENDINGS)
        host = pick.randrange(4)
        urls = [
            *self.origin.slow_pages(pick.randrange(1, 12), 20, host=host),
            *self.origin.pages(pick.randrange(12), host=host),
            self.origin.url("/status/404", host),
        ]
        self.urls = [*urls, *pick.choices(urls, k=3)]  # some twice
        if self.ending != "completed":
            self.urls += self.origin.stalling(2, host=host)
        pick.shuffle(self.urls)

    async def play(self) -> str:
        try:
            with trio.fail_after(30):
                await self._start()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._command)
                    for _ in range(3):
                        framing = self.pick.choice(FRAMINGS)
                        nursery.start_soon(self._follow, framing, Random(self.pick.random()))
                return await self._check()
        except BaseException as error:
            error.add_note(f"again by: Scene(server.address, origin, {self.seed!r}).play()")
            error.add_note(f"{self.ending}: {self.commands} {self.readings}")
            raise

    async def _start(self) -> None:
        options: dict[str, Any] = {
            "concurrency": self.pick.randrange(1, 9),
            "respect_robots": False,
            "max_retries": 0,
            "cache_mode": "disabled",
        }
        if self.ending == "timed_out":
            options["run_timeout_seconds"] = 1
        body = {"urls": self.urls, "options": options}
        async with open_peer(self.address) as peer:
            fields = {"X_Session_ID": self.session, "X_Request_ID": RUN}
            assert await peer.request("POST", "/crawl/sse", body, **fields) == 200

    async def _command(self) -> None:
        words = [self.pick.choice(("pause", "resume")) for _ in range(self.pick.randrange(2, 12))]
        for word in (*words, "cancel" if self.ending == "cancelled" else "resume"):
            await trio.sleep(self.pick.choice(NAPS))
            self.commands.append(word)
            way = self.pick.randrange(3)
            async with open_peer(self.address) as peer:
                if way == 0:
                    await peer.upgrade(f"/crawl/ws?session_id={self.session}")
                    await peer.send(action=word, request_id=RUN, data={})
                    told = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}[word]
                    await peer.receive_until(told)
                elif way == 1 and word == "cancel":
                    assert await peer.request("DELETE", f"/sessions/{self.session}") == 200
                else:
                    target = f"/sessions/{self.session}/{word}?request_id={RUN}"
                    assert await peer.request("POST", target) == 200

    async def _follow(self, framing: Framing, pick: Random) -> None:
        """Read, be cut, resume, until the summary has come."""
        said: list[Said] = []
        self.readings.append(said)
        while not said or said[-1][1] != "summary":
            cursor = f"&last_event_id={said[-1][0]}" if said else ""
            query = f"session_id={self.session}{cursor}"
            if framing == "websocket":
                request = upgrade(query)
            else:
                request = head("GET", f"{PATHS[framing]}?{query}")
            cut = draw_cut(pick, 9000) if pick.random() < 0.6 else None
            received = await exchange(self.address, request, framing, cut)
            assert received.status in (0, 101, 200), received
            said += self._logged(received.events, framing)
            if received.ended:
                assert received.events[-1].kind == "summary", "something comes after the summary"

    def _logged(self, events: list[StreamedEvent], framing: Framing) -> list[Said]:
        assert not [event for event in events if event.kind in ("gap", "refusal")]
        logged = [event for event in events if event.event_id is not None]
        data = [event.data["data"] if framing == "websocket" else event.data for event in logged]
        return [
            (event.event_id, event.kind, members.get("index"))
            for event, members in zip(logged, data, strict=True)
        ]

    async def _check(self) -> str:
        request = head("GET", f"/crawl/stream?session_id={self.session}")
        whole = (await exchange(self.address, request, "ndjson", None)).events
        story = self._logged(whole, "ndjson")
        kinds = [kind for _, kind, _ in story]
        indexes = [index for _, kind, index in story if kind == "result"]
        assert kinds == ["metadata", "start", *["result"] * len(indexes), "summary"]
        numbers = [int(str(event_id).rpartition("-")[2]) for event_id, _, _ in story]
        assert numbers == sorted(set(numbers))
        assert len(indexes) == len(set(indexes)), "a URL has two results"
        summary = whole[-1].data
        results = [event.data for event in whole if event.kind == "result"]
        succeeded = sum(result["error"] is None for result in results)
        assert summary["status"] == self.ending
        assert summary["total_urls"] == len(self.urls)
        assert (summary["successful"], summary["failed"]) == (
            succeeded,
            len(results) - succeeded,
        )
        assert summary["cancelled"] == len(self.urls) - len(results)
        assert all(self.urls[result["index"]] == result["url"] for result in results)
        if self.ending == "completed":
            assert sorted(indexes) == list(range(len(self.urls)))  # type: ignore[type-var]
        for said in self.readings:
            # An envelope has no start event.
            assert said in (story, [event for event in story if event[1] != "start"])
        return self.ending


async def storm(server: ServerProcess, origin: Origin, scenes: int) -> None:
    started = time.monotonic()
    endings: Counter[str] = Counter()
    events = readings = commands = 0
    seeds = iter(range(scenes))

    async def play_on() -> None:
        nonlocal readings, commands, events
        for seed in seeds:
            scene = Scene(server.address, origin, f"scene {seed}")
            endings[await scene.play()] += 1
            readings += len(scene.readings)
            commands += len(scene.commands)
            events += sum(map(len, scene.readings))

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(play_on)
    print(
        f"{server.kind}: {scenes} runs {dict(endings)}, {commands} commands, {readings} readers "
        f"with {events} events, {time.monotonic() - started:.1f} s"
    )


async def test_commands_at_random_leave_one_story_that_every_reader_has_whole(
    server: ServerProcess, origin: Origin
) -> None:
    await storm(server, origin, 16)


async def test_hundreds_of_such_runs_leave_one_story_each(
    server: ServerProcess, origin: Origin
) -> None:
    await storm(server, origin, 300)


async def test_the_time_limit_of_a_run_stands_still_while_it_is_paused(
    server: ServerProcess, origin: Origin
) -> None:
    session = f"still-{time.monotonic_ns()}"
    options = {"run_timeout_seconds": 1, "concurrency": 1, "cache_mode": "disabled"}
    body = {"urls": origin.slow_pages(4, 80, host=2), "options": options}
    started = time.monotonic()
    async with open_peer(server.address) as peer:
        assert await peer.request("POST", "/crawl/stream", body, X_Session_ID=session) == 200
        await peer.read_until(b'"event":"result"')
        for command, seconds in (("pause", 1.2), ("resume", 0)):
            async with open_peer(server.address) as other:
                assert await other.request("POST", f"/sessions/{session}/{command}") == 200
            await trio.sleep(seconds)
        rest = await peer.read_stream()
    assert time.monotonic() - started > 1.2
    assert b'"status":"completed"' in rest
