"""Fifty runs at once on bad and good origins, paused, resumed, cancelled and left: nothing stays.

Two servers have it at the same time, each in its own process and with a browser where there is one;
a third is in the process of the test, where its tasks can be counted.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import pytest
import trio

from eventmesh_trio.app.loading import load_config
from tests.helpers.bad_answers import ANSWERS
from tests.helpers.bad_origin import TLS_NAMES, Bad, open_bad_origin
from tests.helpers.bad_pages import PAGES
from tests.helpers.clock import wait_until
from tests.helpers.crowd import Peer, open_peer
from tests.helpers.held import Held, threads_end
from tests.helpers.here import serve_here
from tests.helpers.processes import descendants, is_running, resident_bytes, workers
from tests.helpers.raw import get_json
from tests.helpers.servers import KINDS, ServerProcess, open_server
from tests.helpers.sessions import live_runs

RUNS: Final = 100
AT_ONCE: Final = 50
BROWSER: Final = "chromium-headless-shell"
# Those that keep a worker for seconds would make it a storm of waiting.
BAD: Final = [name for name in ANSWERS if name not in PAGES] + list(TLS_NAMES)
SETTINGS: Final[Mapping[str, Any]] = {
    "mesh.retention_seconds": 0.0,
    "mesh.linger_seconds": 0.05,
    "fetch.keep_alive_seconds": 0.1,
    "cache.store": "memory:",
    "cache.cache_bytes": 0,
    "workers.workers": 2,
    "workers.job_seconds": 3,
}


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"EVENTMESH_{name.upper().replace('.', '__')}": str(value)
        for name, value in settings.items()
    }


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    with open_bad_origin(tmp_path_factory.mktemp("bad")) as origin:
        yield origin


@attrs.define(eq=False)
class Storm:
    """What clients do to one server; ``ends`` says how often each of the ways out was taken."""

    address: tuple[str, int]
    bad: Bad
    seed: int
    render: bool = False
    runs: int = RUNS
    at_once: int = AT_ONCE
    begun: int = 0
    ends: Counter[str] = attrs.field(factory=Counter)
    outcomes: Counter[str] = attrs.field(factory=Counter)

    async def rage(self, runs: int | None = None) -> None:
        runs, self.begun = runs or self.runs, 0

        async def live(pick: Random) -> None:
            while self.begun < runs:
                self.begun += 1
                with trio.fail_after(60):
                    await self._run(pick)

        async with trio.open_nursery() as nursery:
            for number in range(min(self.at_once, runs)):
                nursery.start_soon(live, Random(f"{self.seed}/{number}"))

    async def _run(self, pick: Random) -> None:
        many = 2 if self.render else 4
        urls = [self.bad.url(name) for name in pick.sample(BAD, k=many)]
        good = self.bad.good(many, first=pick.randrange(1000))
        mixed = pick.sample(urls + good, k=2 * many)
        options = {
            "timeout_seconds": pick.choice((0.3, 1.0)) if not self.render else 2,
            "max_retries": pick.choice((0, 0, 1)),
            "concurrency": pick.randrange(1, 9),
            "respect_robots": False,
            "cache_mode": "disabled",
            "render_mode": pick.choice(("static", "static", "dynamic"))
            if self.render
            else "static",
        }
        request_id = f"run-{pick.getrandbits(64):x}"
        end = pick.choice(("to the end", "to the end", "cancelled", "cut", "closed"))
        self.ends[end] += 1
        async with open_peer(self.address) as peer:
            await peer.upgrade("/crawl/ws")
            data = {"urls": mixed, "options": options}
            await peer.send(action="crawl", request_id=request_id, data=data)
            for word in pick.choices(("pause", "resume"), k=pick.randrange(4)):
                await trio.sleep(pick.uniform(0, 0.1))
                await peer.send(action=word, request_id=request_id, data={})
            if end == "to the end":
                await peer.send(action="resume", request_id=request_id, data={})
                await self._read(peer, mixed, good)
            elif end == "cancelled":
                await trio.sleep(pick.uniform(0, 0.3))
                await peer.send(action="cancel", request_id=request_id, data={})
                await peer.receive_until("summary")
            else:
                await trio.sleep(pick.uniform(0, 0.3))
                if end == "cut":
                    peer.reset()

    async def _read(self, peer: Peer, urls: list[str], good: list[str]) -> None:
        seen: list[str] = []
        while True:
            message = await peer.receive()
            kind = message.get("message_type")
            if kind == "result":
                result = message["data"]["result"]
                seen.append(result["url"])
                error = result["error"]
                self.outcomes[error["type"] if error else "a document"] += 1
                if result["url"] in good and error is None:
                    assert result["document"]["title"].startswith("Good ")
            elif kind == "summary":
                assert message["data"]["status"] == "completed"
                assert message["data"]["cancelled"] == 0
                break
        assert sorted(seen) == sorted(urls)


@attrs.frozen
class Size:
    """What a server process has when it has nothing to do."""

    descriptors: int
    threads: int
    resident: int
    processes: int

    @classmethod
    def of(cls, server: ServerProcess) -> "Size":
        pid = server.serving_pid
        return cls(
            server.descriptors(),
            len(os.listdir(f"/proc/{pid}/task")),
            resident_bytes(pid),
            sum(map(is_running, descendants(pid))),
        )


async def settle(storm: Storm, server: ServerProcess) -> Size:
    """One crawl that finds every kept connection expired, on a server with nothing else to do.

    An extraction process that was killed is started anew when a page needs it: as many crawls as
    it takes until all are there again.
    """
    with trio.fail_after(20):
        while await trio.to_thread.run_sync(live_runs, server):
            await trio.sleep(0.05)
        await trio.sleep(0.3)
        await crawl_good(storm)
        while len(workers(server.serving_pid)) < SETTINGS["workers.workers"]:
            await trio.sleep(0.3)
            await crawl_good(storm)
    await trio.sleep(0.3)
    return Size.of(server)


async def crawl_good(storm: Storm) -> None:
    async with open_peer(storm.address) as peer:
        options = {"cache_mode": "disabled", "respect_robots": False, "timeout_seconds": 20}
        if storm.render:
            options["render_mode"] = "dynamic"
        body = {"urls": storm.bad.good(4), "options": options}
        assert await peer.request("POST", "/crawl/stream", body) == 200
        assert b'"successful":4' in await peer.read_stream()


@pytest.mark.slow
def test_two_servers_in_a_storm_of_bad_runs_are_afterwards_what_they_were_before(
    bad: Bad, tmp_path: Path
) -> None:
    render = shutil.which(BROWSER) is not None
    settings = {**SETTINGS, "render.page_seconds": 2, "render.quiet_seconds": 0.05}
    if render:
        settings |= {"render.browser": "auto", "render.sandbox": "false", "render.max_pages": 3}
    surroundings = {
        **environment(settings),
        "SSL_CERT_FILE": str(bad.authority),
        "TMPDIR": str(tmp_path),
    }
    sizes: dict[str, list[Size]] = {}
    families: list[int] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(open_server(kind, surroundings)) for kind in KINDS]
        storms = {server: Storm(server.address, bad, seed) for seed, server in enumerate(servers)}
        if render:  # on one of the two, and less of it: what a browser does takes its time
            storms[servers[0]] = Storm(servers[0].address, bad, 5, True, runs=30, at_once=15)

        async def rage(server: ServerProcess) -> None:
            storm = storms[server]
            await storm.rage(storm.runs // 3)  # warm: what is lazy is there
            sizes[server.kind] = [await settle(storm, server)]
            await storm.rage()
            sizes[server.kind].append(await settle(storm, server))

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for server in servers:
                    nursery.start_soon(rage, server)

        started = time.monotonic()
        trio.run(main)
        for server, storm in storms.items():
            before, after = sizes[server.kind]
            print(
                f"{server.kind}{' with a browser' if storm.render else ''}: "
                f"{storm.runs} runs, {dict(storm.ends)}, {dict(storm.outcomes)}; {before} before, "
                f"{after} after; {time.monotonic() - started:.1f} s"
            )
            assert get_json(server.address, "/sessions") == {"sessions": []}
            wait_until(
                lambda server=server, before=before: server.descriptors() <= before.descriptors,
                5,
                lambda server=server, before=before: f"{server.descriptors()}, {before} before",
            )
            assert after.processes <= before.processes
            assert after.resident <= before.resident + 32 * 2**20
            families += descendants(server.process.pid)
    assert [pid for pid in families if is_running(pid)] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
async def test_no_task_and_no_descriptor_is_left_of_a_storm_of_bad_runs(
    bad: Bad, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(bad.authority))
    overrides = {**SETTINGS, "fetch.allow_private": ["127.0.0.0/8"]}
    async with serve_here(load_config(overrides=overrides)) as (mesh, address):
        storm = Storm(address, bad, seed=7)

        async def still() -> Held:
            with trio.fail_after(20):
                while mesh.hub.sessions:
                    await trio.sleep(0.02)
            await trio.sleep(0.3)
            async with open_peer(address) as peer:
                body = {"urls": bad.good(1), "options": {"cache_mode": "disabled"}}
                assert await peer.request("POST", "/crawl/stream", body) == 200
                await peer.read_stream()
            with trio.fail_after(5):
                while mesh.hub.sessions:
                    await trio.sleep(0.02)
            await threads_end()
            await trio.sleep(0.3)  # for the last connection to be noticed as closed
            return Held.measure()

        await storm.rage(RUNS // 2)
        await still()
        before = await still()
        await storm.rage()
        after = await still()
    print(
        f"{RUNS} runs, {dict(storm.ends)}, {dict(storm.outcomes)}: {before.tasks} tasks before, "
        f"{after.tasks} after; {before.descriptors} descriptors, {after.descriptors}; "
        f"{before.resident >> 20} MiB, {after.resident >> 20}"
    )
    assert after.tasks == before.tasks
    assert after.descriptors <= before.descriptors
    grown = {k: v for k, v in after.grown(before).items() if k.startswith("eventmesh_trio")}
    assert {kind for kind, (_, now) in grown.items() if now > 32} == set(), grown
    assert after.resident <= before.resident + 32 * 2**20
