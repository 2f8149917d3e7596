"""Processes that read and render pages are killed at random: every URL has its one result.

Which process, and when, is drawn from a seed; the kernel and the crawls decide what it was doing.
"""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import pytest
import trio

from tests.helpers.clock import wait_until
from tests.helpers.crowd import open_peer
from tests.helpers.origin import Origin
from tests.helpers.processes import command_line, descendants, is_running
from tests.helpers.programs import require_program
from tests.helpers.raw import open_crawl
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.sessions import live_runs

CRAWLS: Final = 200
AT_ONCE: Final = 8
URLS: Final = 3
WORKER: Final = b"eventmesh_trio.pipeline.workers.worker"
BROWSER: Final = b"chromium-headless-shell"  # its own processes too, and who keeps watch over it
KEEPER: Final = b"browser_keeper"


def processes(server: ServerProcess, *marks: bytes) -> list[int]:
    """Those that the server has started, by what stands on their command line."""
    found = []
    for pid in descendants(server.serving_pid):
        command = command_line(pid)
        if any(mark in command for mark in marks) and is_running(pid):
            found.append(pid)
    return found


@attrs.define(eq=False)
class Storm:
    """Crawls on one side, kills on the other."""

    server: ServerProcess
    origin: Origin
    marks: tuple[bytes, ...]
    options: dict[str, Any]
    seed: int
    crawls: int
    pauses: tuple[int, int]  # crawls that end between two kills
    urls: int = URLS
    kills: int = 0
    begun: int = 0
    ended: int = 0
    outcomes: Counter[str] = attrs.field(factory=Counter)
    messages: Counter[str] = attrs.field(factory=Counter)

    async def rage(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill)
            async with trio.open_nursery() as crawlers:
                for number in range(AT_ONCE):
                    crawlers.start_soon(self._crawl_on, Random(f"{self.seed}/{number}"))
            nursery.cancel_scope.cancel()

    async def _kill(self) -> None:
        pick = Random(self.seed)
        after = 0
        while True:
            # By what was done and not by time: a slow machine has as many kills as a quick one.
            after += pick.randint(*self.pauses)
            while self.ended < after:
                await trio.sleep(0.01)
            await trio.sleep(pick.uniform(0, 0.1))
            if victims := processes(self.server, *self.marks):
                try:
                    os.kill(pick.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it has just ended
                self.kills += 1

    async def _crawl_on(self, pick: Random) -> None:
        while self.begun < self.crawls:
            number = self.begun
            self.begun += 1
            await self._crawl(number, pick)
            self.ended += 1

    async def _crawl(self, number: int, pick: Random) -> None:
        host = pick.randrange(4)
        paths = [f"/large/{number}-{n}?kb={pick.choice((1, 2, 4))}" for n in range(self.urls)]
        urls = [self.origin.url(path, host) for path in paths]
        body = {
            "urls": urls,
            "options": {"cache_mode": "disabled", "respect_robots": False, **self.options},
        }
        with trio.fail_after(60):
            async with open_peer(self.server.address) as peer:
                assert await peer.request("POST", "/crawl/stream", body) == 200
                text = await peer.read_stream()
        events = [json.loads(line) for line in text.split(b"\n") if line.startswith(b"{")]
        results = [event["result"] for event in events if event["event"] == "result"]
        summary = events[-1]
        assert summary["event"] == "summary"
        assert summary["status"] == "completed"
        assert summary["total_urls"] == len(urls)
        assert summary["cancelled"] == 0
        assert sorted(result["url"] for result in results) == sorted(urls), "not one result a URL"
        for result in results:
            name = result["url"].partition("/large/")[2].partition("?")[0]
            if result["error"] is None:
                self.outcomes["documents"] += 1
                assert result["document"]["title"] == f"Page {name}"
                assert f"This is page {name} of the test site." in result["document"]["text"]
            else:
                self.outcomes[result["error"]["type"]] += 1
                self.messages[result["error"]["message"]] += 1
                assert result["document"] is None
        failed = sum(result["error"] is not None for result in results)
        assert (summary["successful"], summary["failed"]) == (len(urls) - failed, failed)


def crawl_whole(storm: Storm, count: int) -> None:
    """What the server does when nothing is killed any more."""
    urls = storm.origin.pages(count, host=3)
    options = {"cache_mode": "disabled", **storm.options}
    with open_crawl(storm.server.address, urls, options) as stream:
        results = [e.data["result"] for e in stream.read_events() if e.kind == "result"]
    assert [result["error"] for result in results] == [None] * count


@pytest.mark.slow
def test_killing_the_workers_during_two_hundred_crawls_loses_no_url(origin: Origin) -> None:
    settings = {
        "EVENTMESH_WORKERS__WORKERS": "2",
        "EVENTMESH_WORKERS__JOB_SECONDS": "10",
        "EVENTMESH_FETCH__KEEP_ALIVE_SECONDS": "0.1",  # connections kept are descriptors, too
    }
    with open_server("native", settings) as server:
        storm = Storm(server, origin, (WORKER,), {}, seed=4, crawls=CRAWLS, pauses=(2, 6))
        crawl_whole(storm, 24)
        descriptors = server.fewest_descriptors(0.5)
        started = time.monotonic()
        trio.run(storm.rage)
        print(
            f"{storm.ended} crawls in {time.monotonic() - started:.1f} s, {storm.kills} kills: "
            f"{dict(storm.outcomes)} {dict(storm.messages)}"
        )
        assert storm.ended == CRAWLS
        assert storm.kills >= CRAWLS // 8
        assert storm.outcomes.total() == CRAWLS * URLS
        # Two attempts at each page: it takes two kills to lose one, and the client is told.
        assert set(storm.outcomes) <= {"documents", "parse_error"}
        assert storm.outcomes["documents"] > 0.7 * CRAWLS * URLS
        assert all("process that read the page" in message for message in storm.messages)
        crawl_whole(storm, 24)
        assert live_runs(server) == []
        assert len(processes(server, WORKER)) <= 2
        wait_until(
            lambda: server.descriptors() <= descriptors,
            5,
            lambda: f"{server.descriptors()} descriptors, {descriptors} before",
        )
        family = descendants(server.process.pid)
    assert [pid for pid in family if is_running(pid)] == []


@pytest.mark.slow
def test_killing_the_workers_and_the_browser_during_two_hundred_crawls_loses_no_url(
    origin: Origin, tmp_path: Path
) -> None:
    require_program("chromium-headless-shell", "apt-get install --yes chromium-headless-shell")
    settings = {
        "EVENTMESH_RENDER__BROWSER": "auto",
        "EVENTMESH_RENDER__SANDBOX": "false",
        "EVENTMESH_RENDER__PAGE_SECONDS": "5",
        "EVENTMESH_RENDER__QUIET_SECONDS": "0.05",
        "TMPDIR": str(tmp_path),
    }
    with open_server("native", settings) as server:
        options = {"render_mode": "dynamic", "timeout_seconds": 20, "concurrency": 2}
        marks = (WORKER, BROWSER)
        storm = Storm(server, origin, marks, options, seed=4, crawls=CRAWLS, pauses=(4, 14), urls=1)
        crawl_whole(storm, 4)
        started = time.monotonic()
        trio.run(storm.rage)
        print(
            f"{storm.ended} crawls in {time.monotonic() - started:.1f} s, {storm.kills} kills: "
            f"{dict(storm.outcomes)} {dict(storm.messages)}"
        )
        assert storm.ended == storm.crawls
        assert storm.kills >= CRAWLS // 16
        # A crash costs a page one attempt of two; the client is told why there is none.
        assert set(storm.outcomes) <= {"documents", "render_error", "timeout", "parse_error"}
        assert storm.outcomes["documents"] > 0.7 * CRAWLS
        crawl_whole(storm, 4)
        assert len(processes(server, KEEPER)) == 1
        family = descendants(server.process.pid)
        assert len(family) > 3
    assert [pid for pid in family if is_running(pid)] == []
    assert list(tmp_path.iterdir()) == []
