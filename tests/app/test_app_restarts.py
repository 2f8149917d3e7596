"""A server that is killed and started anew serves what it had stored; a ruined store ruins nothing.

The server is a process of its own, killed with -9 while crawls stream from it; the file is broken
between two starts, under a running server, or cannot be written at all.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs
import pytest
import trio

from tests.helpers.clock import wait_until
from tests.helpers.crowd import open_peer
from tests.helpers.origin import Origin
from tests.helpers.processes import descendants, is_running
from tests.helpers.raw import get_json, open_crawl
from tests.helpers.servers import ServerProcess, command_of, open_server

CRAWLS: Final = 200
AT_ONCE: Final = 4
URLS: Final = 3
KILLS: Final = 2
STORE: Final = "documents.sqlite"
STORED_SECONDS: Final = 0.6
"""A document whose result was sent so long before the kill must have reached the file."""


def store_at(path: Path) -> dict[str, str]:
    return {
        "EVENTMESH_CACHE__STORE": f"sqlite:{path}",
        "EVENTMESH_WORKERS__WORKERS": "2",
    }


@attrs.define(eq=False)
class Storm:
    """Crawls until the server is killed; which documents came, and when."""

    origin: Origin
    came: dict[str, float] = attrs.field(factory=dict)  # time.monotonic, by URL
    begun: int = 0
    whole: int = 0
    broken: int = 0

    async def rage(self, server: ServerProcess, until: int, kill_at: int | None) -> None:
        """Begin crawls up to the number ``until``; kill the server once ``kill_at`` are whole."""

        async def crawl_on() -> None:
            while self.begun < until:
                self.begun += 1
                try:
                    await self._crawl(server, self.begun)
                    self.whole += 1
                except (trio.BrokenResourceError, EOFError, OSError):
                    self.broken += 1
                if kill_at is not None and self.whole >= kill_at and server.process.poll() is None:
                    server.process.send_signal(signal.SIGKILL)
                    server.process.wait()
                if server.process.poll() is not None:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(crawl_on)

    async def _crawl(self, server: ServerProcess, number: int) -> None:
        urls = [self.origin.url(f"/slow/{number}-{n}?ms=120", number % 4) for n in range(URLS)]
        body = {"urls": urls, "options": {"respect_robots": False}}
        with trio.fail_after(60):
            async with open_peer(server.address) as peer:
                assert await peer.request("POST", "/crawl/stream", body) == 200
                results = 0
                while results < len(urls):
                    line = await peer.read_until(b"\n")
                    if not line.startswith(b"{"):
                        continue
                    event = json.loads(line)
                    if event["event"] == "result":
                        results += 1
                        check_page(event["result"])
                        self.came[event["result"]["url"]] = time.monotonic()
                await peer.read_stream()


def check_page(result: dict[str, Any]) -> None:
    assert result["error"] is None, result
    name = result["url"].rpartition("/")[2].partition("?")[0]
    assert result["document"]["title"] == f"Page {name}"
    assert f"This is page {name} of the test site." in result["document"]["text"]


def crawl(server: ServerProcess, urls: Sequence[str]) -> list[dict[str, Any]]:
    with open_crawl(server.address, list(urls), {"concurrency": 16}) as stream:
        results = [e.data["result"] for e in stream.read_events() if e.kind == "result"]
    assert sorted(result["url"] for result in results) == sorted(urls)
    for result in results:
        check_page(result)
    return results


def cache_health(server: ServerProcess) -> dict[str, Any]:
    health: dict[str, Any] = get_json(server.address, "/healthz")["cache"]
    return health


@pytest.mark.slow
def test_a_server_killed_during_two_hundred_crawls_serves_after_its_restart_what_it_had_stored(
    origin: Origin, tmp_path: Path
) -> None:
    storm = Storm(origin)
    path = tmp_path / STORE
    stored: list[str] = []
    said: list[str] = []
    killed = 0.0
    for turn in range(KILLS + 1):
        with open_server("native", store_at(path)) as server:
            if stored:
                asked = origin.requests.total()
                hits = crawl(server, stored)
                missing = [r["url"] for r in hits if not r["from_cache"]]
                assert {url: killed - storm.came[url] for url in missing} == {}
                assert origin.requests.total() == asked
                assert cache_health(server) == {"store": "sqlite", "status": "ok", "reason": None}
            last = turn == KILLS
            until = CRAWLS if last else CRAWLS * (turn + 1) // (KILLS + 1) + AT_ONCE
            kill_at = None if last else storm.whole + CRAWLS // (KILLS + 1) - AT_ONCE
            family = descendants(server.process.pid)
            trio.run(storm.rage, server, until, kill_at)
            if not last:
                killed = time.monotonic()
                assert server.process.returncode == -signal.SIGKILL
                wait_until(
                    lambda family=family: not any(map(is_running, family)),
                    3,
                    "a process of the killed server is still there",
                )
                came = storm.came
                stored = [url for url, at in came.items() if at < killed - STORED_SECONDS]
                said.append(f"{len(stored)} of {len(came)}")
                storm.came = {url: came[url] for url in stored}  # of the others nothing is known
    print(
        f"{storm.begun} crawls, {storm.whole} whole, {storm.broken} broken by {KILLS} kills; "
        f"served after them: {', '.join(said)} that had come"
    )
    assert storm.begun >= CRAWLS
    assert storm.whole >= CRAWLS - 3 * AT_ONCE * KILLS
    assert len(stored) >= CRAWLS // 2


# --- Ruined stores --------------------------------------------------------------------------------


def flip(path: Path) -> None:
    pick = Random(4)
    data = bytearray(path.read_bytes())
    for _ in range(len(data) // 64):
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    path.write_bytes(data)


def flip_a_few(path: Path) -> None:
    pick = Random(5)
    data = bytearray(path.read_bytes())
    for _ in range(20):
        data[pick.randrange(100, len(data))] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3 - 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace(path: Path) -> None:
    path.write_bytes(Random(6).randbytes(70_000))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "of somebody else").write_text("kept")


RUINS: Final[dict[str, Callable[[Path], None]]] = {
    "one bit in each 64 bytes flipped": flip,
    "twenty bytes flipped": flip_a_few,
    "cut short": truncate,
    "emptied": empty,
    "replaced by garbage": replace,
    "a folder in its place": make_folder,
}


@attrs.frozen
class Filled:
    """A store with some documents, whose server has ended in order."""

    folder: Path
    urls: list[str]

    def copy_to(self, path: Path) -> list[str]:
        """Put all its files there, for one test to ruin; the URLs of its documents."""
        for file in self.folder.iterdir():
            assert file.name.startswith(STORE)
            shutil.copyfile(file, path.with_name(file.name.replace(STORE, path.name, 1)))
        return self.urls


@pytest.fixture(scope="module")
def filled(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    path = tmp_path_factory.mktemp("filled") / STORE
    urls = origin.pages(40, first=1000)
    with open_server("native", store_at(path)) as server:
        crawl(server, urls)
    assert path.stat().st_size > 20_000
    return Filled(path.parent, urls)


@pytest.mark.slow
@pytest.mark.parametrize("how", RUINS)
def test_a_ruined_store_is_reported_and_crawling_goes_on(
    origin: Origin, filled: Filled, tmp_path: Path, how: str
) -> None:
    path = tmp_path / STORE
    urls = filled.copy_to(path)
    RUINS[how](path)
    with open_server("native", store_at(path)) as server:
        hits = Counter(result["from_cache"] for result in crawl(server, urls))
        crawl(server, origin.pages(12, first=2000))
        again = Counter(result["from_cache"] for result in crawl(server, urls))
        health = cache_health(server)
        log = server.log
    print(f"{how}: {hits[True]} of {len(urls)} served from it, then {again[True]}; {health}")
    assert again[True] >= hits[True]
    if how in ("twenty bytes flipped", "emptied"):
        return  # little or nothing is wrong with such a file: it may have no reason to complain
    assert hits[True] < len(urls)
    # At the start or when it was met: in the log, and where it is for long, in the health.
    assert "store" in log
    assert str(path) in log
    if how == "a folder in its place":
        assert health["status"] == "failing"
        assert (path / "of somebody else").read_text() == "kept"
    else:
        assert again[True] == len(urls), "no new file was begun"


@pytest.mark.slow
def test_a_store_that_is_ruined_under_a_running_server_costs_no_crawl(
    origin: Origin, filled: Filled, tmp_path: Path
) -> None:
    path = tmp_path / STORE
    urls = filled.copy_to(path)
    with open_server("native", store_at(path)) as server:
        assert all(result["from_cache"] for result in crawl(server, urls[:10]))
        with path.open("r+b") as file:  # as a disk would: in place
            file.seek(100)
            file.write(Random(7).randbytes(path.stat().st_size - 100))
        for turn in range(4):
            crawl(server, urls)
            crawl(server, origin.pages(12, first=3000 + 12 * turn))
        print(f"ruined while it is used: {cache_health(server)}")
        assert str(path) in server.log


# --- Stores that cannot be written ----------------------------------------------------------------


def without_override(command: Sequence[str]) -> list[str]:
    """Root may write everywhere; without this capability permissions hold for it, too."""
    if os.geteuid() != 0:
        return list(command)
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("root can write everywhere; install setpriv: apt-get install util-linux")
    dropped = "--bounding-set=-dac_override,-dac_read_search"
    return [program, dropped, "--inh-caps=-dac_override,-dac_read_search", *command]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_may_not_be_written_is_reported_and_crawling_goes_on(
    origin: Origin, filled: Filled, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / STORE
    urls = filled.copy_to(path)
    for entry in folder.iterdir():
        entry.chmod(0o444)
    if what == "folder":
        folder.chmod(0o555)
    try:
        command = without_override(command_of("native"))
        with open_server("native", store_at(path), command=command) as server:
            results = crawl(server, urls)
            crawl(server, origin.pages(12, first=4000))
            health = cache_health(server)
            log = server.log
    finally:
        folder.chmod(0o755)
    hits = sum(result["from_cache"] for result in results)
    print(f"a {what} that is read-only: {hits} of {len(urls)} served from it; {health}")
    assert health["status"] == "failing"
    assert health["reason"]
    assert str(path) in log


FULL = """
mount -t tmpfs -o size=768k tmpfs "$0" && exec "$@"
"""


@pytest.mark.slow
def test_a_disk_that_is_full_is_reported_and_crawling_goes_on(
    origin: Origin, tmp_path: Path
) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--mount", "true"], check=False).returncode:
        pytest.skip("a small disk needs a mount namespace: run as root, with unshare")
    folder = tmp_path / "small"
    folder.mkdir()
    path = folder / STORE
    command = [unshare, "--mount", "sh", "-c", FULL, str(folder), *command_of("native")]
    with open_server("native", store_at(path), command=command) as server:
        # Text that no compression makes small.
        pages = [origin.url(f"/noise/{number}?kb=60") for number in range(40)]
        with open_crawl(server.address, pages, {"concurrency": 8}) as stream:
            results = [e.data["result"] for e in stream.read_events() if e.kind == "result"]
        assert [result["error"] for result in results] == [None] * len(pages)
        wait_until(
            lambda: cache_health(server)["status"] == "failing", 10, "a full disk goes unnoticed"
        )
        crawl(server, origin.pages(12, first=5000))
        print(f"a full disk: {cache_health(server)}")
        assert str(path) in server.log
