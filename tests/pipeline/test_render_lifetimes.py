"""The browser's life: when it starts, what its end costs, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import PageError, RenderFailure
from eventmesh_trio.pipeline.rendering.render import BrowserRenderer
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.processes import children, command_line
from tests.helpers.programs import CHECKOUT
from tests.helpers.render_site import Reply, Site, open_site
from tests.helpers.rendering import (
    browser_folders,
    browser_processes,
    is_browser,
    main_process,
    open_rendering,
    page_processes,
    require_browser,
    wait_until,
)

pytestmark = pytest.mark.slow

PLAIN = CrawlOptions()
ME = os.getpid()


@pytest.fixture(autouse=True)
def folder_of_browsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the browsers of this test have their folders, and nobody else's do."""
    folder = tmp_path / "browsers"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


class Held:
    """A page of a site whose script's data comes when the test says so."""

    def __init__(self, site: Site) -> None:
        self.asked = 0
        self.release = trio.Event()
        site.handlers["/held-data"] = self._data
        self.url = site.page(
            "/held",
            "<p id=p></p><script src=/held-data></script><script>p.append('whole')</script>",
        )

    async def _data(self, query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
        self.asked += 1
        await self.release.wait()
        return Reply("", "text/javascript")


class Pages(list[Page | PageError]):
    """What came of pages that are rendered in the background."""

    async def add(self, renderer: BrowserRenderer, url: str) -> None:
        try:
            self.append(await renderer.render(url, PLAIN))
        except PageError as error:
            self.append(error)


async def test_a_browser_is_started_with_the_first_page_and_ends_when_nobody_uses_it():
    async with open_site() as site, open_rendering(idle_seconds=0.5) as renderer:
        url = site.page("/", "<p>x")
        await trio.sleep(0.1)
        assert browser_processes(ME) == []
        for starts in (1, 2):
            await renderer.render(url, PLAIN)
            await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.browser_starts == starts
            assert renderer.statistics().pool.browsers == 1
            await wait_until(lambda: not browser_processes(ME))
        assert renderer.statistics().pool.browser_failures == 0


async def test_a_browser_is_replaced_after_pages_per_browser():
    async with open_site() as site, open_rendering(pages_per_browser=2, max_pages=3) as renderer:
        url = site.page("/", "<p>x")
        pages = Pages()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(pages.add, renderer, url)
        assert [page.status for page in pages if isinstance(page, Page)] == [200] * 5
        assert renderer.statistics().pool.browser_starts == 3
        await wait_until(lambda: renderer.statistics().pool.browsers == 1)


async def test_no_more_than_max_pages_are_rendered_at_once():
    async with open_site() as site, open_rendering(max_pages=2) as renderer:
        held, pages = Held(site), Pages()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(pages.add, renderer, held.url)
            await wait_until(lambda: held.asked == 2)
            await trio.sleep(0.3)
            assert held.asked == 2
            assert renderer.statistics().pool.pages == 2
            assert renderer.statistics().pool.pages_waiting == 3
            held.release.set()
        assert all(isinstance(page, Page) for page in pages)
        assert len(pages) == 5


async def kill_page() -> None:
    for pid in page_processes(ME):
        os.kill(pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def kill_browser() -> None:
    os.kill(main_process(ME), signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def kill_keeper() -> None:
    os.kill(browser_processes(ME)[0], signal.SIGKILL)
    await trio.lowlevel.checkpoint()


async def kill_forker() -> None:
    """The process that starts those of pages. The browser does not notice."""
    main = main_process(ME)
    for pid in children(main):
        if b"--type=zygote" in command_line(pid):
            os.kill(pid, signal.SIGKILL)
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("kill", [kill_page, kill_browser, kill_keeper, kill_forker])
async def test_a_crash_costs_the_page_one_retry(kill: Callable[[], Any]):
    async with open_site() as site, open_rendering() as renderer:
        held, pages = Held(site), Pages()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pages.add, renderer, held.url)
            await wait_until(lambda: held.asked == 1)
            await kill()
            await wait_until(lambda: held.asked == 2)
            held.release.set()
        (page,) = pages
        assert isinstance(page, Page)
        assert b"whole" in page.body
        assert renderer.statistics().retries == 1
        assert renderer.statistics().pool.browser_failures == (kill is not kill_page)


async def test_a_page_that_crashes_twice_is_a_render_error_and_others_go_on():
    async with open_site() as site, open_rendering() as renderer:
        held, pages = Held(site), Pages()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pages.add, renderer, held.url)
            for attempt in (1, 2):
                await wait_until(lambda attempt=attempt: held.asked == attempt)
                await kill_browser()
        (error,) = pages
        assert isinstance(error, RenderFailure)
        assert error.can_retry
        assert renderer.statistics().outcomes == {"render_error": 1}
        held.release.set()
        assert b"whole" in (await renderer.render(held.url, PLAIN)).body


async def test_a_page_that_holds_too_much_is_killed_and_no_other():
    hog = (
        "<script>const kept = []; const grow = () => { const piece = new Uint8Array(2e7);"
        " piece.fill(1); kept.push(piece); setTimeout(grow, 5) }; grow()</script>"
    )
    async with (
        open_site() as site,
        open_rendering(
            page_memory_bytes=200 * 2**20, memory_check_seconds=0.1, settle_seconds=20
        ) as renderer,
    ):
        held, pages, bad = Held(site), Pages(), Pages()
        # The hog never settles: something is always under way.
        site.handlers["/never"] = held._data
        url = site.page("/hog", "<script>fetch('/never')</script>" + hog)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pages.add, renderer, held.url)
            await wait_until(lambda: held.asked == 1)
            await bad.add(renderer, url)
            held.release.set()
        assert isinstance(bad[0], RenderFailure)
        assert isinstance(pages[0], Page)
        assert renderer.statistics().pool.pages_killed == 2
        assert renderer.statistics().pool.browser_starts == 1


async def test_a_browser_that_holds_too_much_takes_no_further_page():
    async with (
        open_site() as site,
        open_rendering(browser_memory_bytes=2**20, memory_check_seconds=0.05) as renderer,
    ):
        url = site.page("/", "<p>x")
        for starts in (1, 2, 3):
            await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.browser_starts == starts
            await wait_until(lambda: renderer.statistics().pool.pages == 0)


async def test_a_browser_that_stands_still_is_replaced():
    async with open_site() as site, open_rendering(command_seconds=1) as renderer:
        url = site.page("/", "<p>x")
        await renderer.render(url, PLAIN)
        stopped = main_process(ME)
        os.kill(stopped, signal.SIGSTOP)
        assert (await renderer.render(url, PLAIN)).status == 200
        assert not is_browser(stopped)


async def test_a_cancelled_page_leaves_no_context_and_no_connection():
    async with open_site() as site, open_rendering() as renderer:
        held = Held(site)
        for delay in (0.0, 0.01, 0.05, 0.15, 0.3):
            # Not by a deadline, which a page would see coming.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(renderer.render, held.url, PLAIN)
                await trio.sleep(delay)
                nursery.cancel_scope.cancel()
        asked = held.asked
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(renderer.render, held.url, PLAIN)
                await wait_until(lambda: held.asked == asked + 1)
                scope.cancel()
        began = trio.current_time()
        await wait_until(lambda: renderer.statistics().pool.pages == 0)
        assert trio.current_time() - began < 5
        browser = renderer.pool.browser
        assert browser is not None
        told = await browser.cdp.browser.execute("Target.getBrowserContexts")
        assert told["browserContextIds"] == []
        held.release.set()
        await wait_until(lambda: site.open_connections == 0)
        assert renderer.statistics().outcomes["cancelled"] == 6
        assert b"whole" in (await renderer.render(held.url, PLAIN)).body


async def test_closing_the_renderer_in_the_middle_of_pages_leaves_nothing():
    async with open_site() as site:
        held = Held(site)
        with trio.CancelScope() as scope:
            async with open_rendering() as renderer, trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(renderer.render, held.url, PLAIN)
                await wait_until(lambda: held.asked == 4)
                began = trio.current_time()
                scope.cancel()
        assert trio.current_time() - began < 5
        assert browser_processes(ME) == []
        assert browser_folders() == set()


PROGRAM = """
import sys, trio
from tests.helpers.rendering import open_rendering
from eventmesh_trio.wire.requests import CrawlOptions

async def main():
    async with open_rendering() as renderer:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(renderer.render, sys.argv[1], CrawlOptions())

trio.run(main)
"""


@pytest.mark.parametrize("stopped", [False, True])
async def test_killing_our_process_leaves_no_browser_and_no_folder(stopped: bool):
    async with open_site() as site:
        held = Held(site)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", PROGRAM, held.url], cwd=CHECKOUT
        )
        try:
            await wait_until(lambda: held.asked == 3, 20)
            family = browser_processes(process.pid)
            assert len(family) >= 5
            if stopped:  # the browser cannot even notice
                os.kill(main_process(process.pid), signal.SIGSTOP)
        finally:
            process.kill()
            await process.wait()
        await wait_until(lambda: not any(map(is_browser, family)), 5)
        await wait_until(lambda: not browser_folders(), 5)


async def test_what_a_killed_keeper_left_is_removed(folder_of_browsers: Path):
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", "<p>x")
        await renderer.render(url, PLAIN)
        (left,) = folder_of_browsers.iterdir()
        await kill_keeper()
        await wait_until(lambda: not browser_processes(ME))
        await wait_until(lambda: not left.exists())
        await renderer.render(url, PLAIN)
        (folder,) = folder_of_browsers.iterdir()
        assert folder != left
    assert list(folder_of_browsers.iterdir()) == []


def _program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "browser"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_browser_that_does_not_start_is_told_with_its_last_words(tmp_path: Path):
    program = _program(tmp_path, "echo 'No usable sandbox!' >&2; exit 1")
    async with (
        open_site() as site,
        open_rendering(browser=program, restart_seconds=0.4) as renderer,
    ):
        url = site.page("/", "<p>x")
        began = trio.current_time()
        for _ in range(3):
            with pytest.raises(RenderFailure, match="No usable sandbox!"):
                await renderer.render(url, PLAIN)
        # The second at once, the third after a delay.
        assert trio.current_time() - began > 0.4
        assert renderer.statistics().pool.browser_failures == 3
        assert renderer.statistics().pool.browser_starts == 0


async def test_a_browser_that_never_answers_costs_start_seconds(tmp_path: Path):
    program = _program(tmp_path, "exec sleep 1000")
    async with open_site() as site, open_rendering(browser=program, start_seconds=0.5) as renderer:
        began = trio.current_time()
        with pytest.raises(RenderFailure, match=r"no answer within 0\.5 seconds"):
            await renderer.render(site.page("/", "<p>x"), PLAIN)
        assert trio.current_time() - began < 5


async def test_a_browser_that_floods_its_stderr_is_read_and_little_is_kept(tmp_path: Path):
    program = _program(
        tmp_path,
        f"(head -c 3000000 /dev/zero | tr '\\0' 'x'; echo) >&2; exec {require_browser()} \"$@\"",
    )
    async with open_site() as site, open_rendering(browser=program) as renderer:
        assert (await renderer.render(site.page("/", "<p>x"), PLAIN)).status == 200


async def test_the_browser_gets_none_of_our_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVENTMESH_SEARCH__KEY", "secret")
    async with open_site() as site, open_rendering() as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        for pid in (main_process(ME), *page_processes(ME)):
            assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_no_port_is_open_to_drive_the_browser():
    async with open_site() as site, open_rendering() as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        listening = {
            line.split()[9]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A"
        }
        for pid in browser_processes(ME):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                try:
                    target = os.readlink(descriptor)
                except OSError:
                    continue
                assert target.removeprefix("socket:[").removesuffix("]") not in listening


@asynccontextmanager
async def _open_endpoint(profile: Path) -> AsyncIterator[tuple[trio.Process, str, str]]:
    """A browser that somebody else runs: its process, its port, and the path of its endpoint."""
    command = [
        *(_real_browser(), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}"),
    ]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
    try:
        told = profile / "DevToolsActivePort"
        await wait_until(lambda: told.exists() and told.read_text().count("\n") == 1, 20)
        port, path = told.read_text().split("\n")
        yield process, port, path
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("form", ["ws", "http"])
async def test_an_endpoint_is_used_and_left_as_it_was(form: str, tmp_path: Path):
    async with _open_endpoint(tmp_path) as (process, port, path), open_site() as site:
        endpoint = f"ws://127.0.0.1:{port}{path}" if form == "ws" else f"http://127.0.0.1:{port}"
        async with open_rendering(browser=endpoint) as renderer:
            url = site.page("/", "<p id=p></p><script>p.append('built')</script>")
            assert b"built" in (await renderer.render(url, PLAIN)).body
            away = site.page("/away", f"<script>location = 'http://127.0.0.1:{port}/'</script>")
            with pytest.raises(PageError, match="port"):
                await renderer.render(away, PLAIN)
        assert process.poll() is None
        async with open_rendering(browser=endpoint) as renderer:
            await renderer.render(url, PLAIN)
            process.kill()
            await process.wait()
            with pytest.raises(RenderFailure):
                await renderer.render(url, PLAIN)


async def test_a_message_of_an_endpoint_that_is_too_large_costs_its_own_page_alone(tmp_path: Path):
    async with (
        _open_endpoint(tmp_path) as (_, port, _),
        open_site() as site,
        open_rendering(browser=f"http://127.0.0.1:{port}", max_message_bytes=1_000_000) as renderer,
    ):
        # What a request sends stands in an event of its page, twice.
        script = "fetch('/', {method: 'POST', body: 'x'.repeat(900_000)})"
        heavy = site.page("/heavy", f"<p>x<script>{script}</script>")
        slow = site.page(
            "/slow", "<p id=p></p><script>setTimeout(() => p.append('whole'), 2000)</script>"
        )
        built: list[bytes] = []

        async def render_slow() -> None:
            options = CrawlOptions(dynamic_wait_for="p:not(:empty)")
            built.append((await renderer.render(slow, options)).body)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(render_slow)
            await trio.sleep(0.5)
            with pytest.raises(RenderFailure, match="too large"):
                await renderer.render(heavy, PLAIN)
        assert b"whole" in built[0]
        assert renderer.statistics().pool.browser_starts == 1


def _real_browser() -> str:
    """Which kills with its wrapper would leave."""
    real = Path("/usr/lib/chromium/chromium-headless-shell")
    return str(real) if real.exists() else require_browser()


async def test_twenty_kills_at_any_time_lose_no_page():
    async with open_site() as site, open_rendering(restart_seconds=0.05) as renderer:
        url = site.page("/", "<p id=p></p><script>p.append('whole')</script>")
        pages = Pages()

        async def render_until_whole() -> None:
            while True:
                try:
                    pages.append(await renderer.render(url, PLAIN))
                    return
                except RenderFailure as error:
                    assert error.can_retry

        async def kill(count: int) -> None:
            for number in range(count):
                await trio.sleep(0.05 + 0.11 * (number % 4))
                victims = page_processes(ME) if number % 2 else browser_processes(ME)
                if victims:
                    os.kill(victims[number % len(victims)], signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill, 20)
            for _ in range(30):
                nursery.start_soon(render_until_whole)
        assert [page.status for page in pages if isinstance(page, Page)] == [200] * 30
