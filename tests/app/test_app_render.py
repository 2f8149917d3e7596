"""Pages that scripts build, crawled by the whole program, whose end is the browser's."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from eventmesh_trio.app.cli import main
from eventmesh_trio.app.lifespan import EmbeddedStream, open_mesh
from eventmesh_trio.wire.events import PageResult, Result, Summary
from tests.helpers.render_site import Reply, Site, open_site
from tests.helpers.rendering import (
    browser_processes,
    is_browser,
    require_browser,
    wait_until,
)
from tests.helpers.servers import ServerProcess, command_of, open_server
from tests.helpers.settled import settled

pytestmark = pytest.mark.slow

ME = os.getpid()
TEXT = "What a script has written is worth as much as what a server has. " * 12
BUILT = (
    "<!doctype html><title>App</title><div id=root></div><script src=/__data.js></script><script>"
    f"root.innerHTML = '<article><h1>Built</h1><p>{TEXT}</p></article>'</script>"
)


def browser_settings() -> dict[str, str]:
    return {
        "render.browser": require_browser(),
        "render.sandbox": str(os.geteuid() != 0).lower(),
        "render.quiet_seconds": "0.15",
        "fetch.allow_private": "127.0.0.0/8",
        "politeness.delay_seconds": "0",
    }


class App:
    """A page of a site whose script's data comes when the test says so."""

    def __init__(self, site: Site) -> None:
        self.asked = 0
        self.release = trio.Event()
        site.handlers["/__data.js"] = self._data
        self.url = site.page("/app", BUILT)

    async def _data(self, query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
        self.asked += 1
        await self.release.wait()
        return Reply("", "text/javascript")


async def read(stream: EmbeddedStream) -> tuple[list[PageResult], Summary]:
    events = [event async for event in stream]
    summary = events[-1]
    assert isinstance(summary, Summary)
    results = [event.result for event in events if isinstance(event, Result)]
    return [result for result in results if isinstance(result, PageResult)], summary


async def test_a_page_that_a_script_builds_is_a_document():
    config = settled(*(f"{name}={value}" for name, value in browser_settings().items()))
    with trio.fail_after(60):
        async with open_site() as site, open_mesh(config) as mesh:
            app = App(site)
            app.release.set()
            async with mesh.crawl([app.url]) as stream:
                results, _ = await read(stream)
        (result,) = results
        assert result.document is not None
        assert "What a script has written" in (result.document.text or "")
        assert browser_processes(ME) == []


@pytest.mark.parametrize("kill", [False, True], ids=["alone", "with a killed browser"])
async def test_a_run_paused_while_pages_are_rendered_loses_none(kill: bool):
    config = settled(*(f"{name}={value}" for name, value in browser_settings().items()))
    with trio.fail_after(60):
        async with open_site() as site, open_mesh(config) as mesh:
            app = App(site)
            urls = [f"{app.url}?{number}" for number in range(6)]
            found: list[Any] = []

            async def follow() -> None:
                found.append(await read(stream))

            async with (
                mesh.crawl(urls, render_mode="dynamic", timeout_seconds=40) as stream,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(follow)
                await wait_until(lambda: app.asked >= 2, 20)
                stream.pause()
                assert mesh.ports.renderer is not None
                await wait_until(lambda: mesh.ports.renderer.statistics().pool.pages == 0)
                if kill:
                    for pid in browser_processes(ME):
                        os.kill(pid, signal.SIGKILL)
                app.release.set()
                stream.resume()
        ((results, summary),) = found
        assert sorted(result.url for result in results) == sorted(urls)
        assert all(result.document is not None for result in results)
        assert summary.successful == summary.total_urls == 6
        assert browser_processes(ME) == []


async def test_a_cancelled_run_leaves_no_page_in_the_browser():
    config = settled(*(f"{name}={value}" for name, value in browser_settings().items()))
    with trio.fail_after(60):
        async with open_site() as site, open_mesh(config) as mesh:
            app = App(site)
            async with mesh.crawl([app.url], render_mode="dynamic") as stream:
                await wait_until(lambda: app.asked == 1, 20)
                await stream.cancel()
                _, summary = await read(stream)
                assert summary.status == "cancelled"
            renderer: Any = mesh.ports.renderer
            await wait_until(lambda: renderer.statistics().pool.pages == 0)
            app.release.set()


def _terminate(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)


def _kill(server: ServerProcess) -> None:
    os.kill(server.serving_pid, signal.SIGKILL)
    server.process.kill()


@pytest.mark.parametrize("kind", ["native", "hypercorn"])
@pytest.mark.parametrize("end", [_terminate, _kill])
async def test_the_end_of_the_server_is_the_browsers(
    kind: Any, end: Callable[[ServerProcess], None], monkeypatch: pytest.MonkeyPatch
):
    environment = {
        f"EVENTMESH_{name.upper().replace('.', '__')}": value
        for name, value in browser_settings().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        environment |= {"TMPDIR": folder, "EVENTMESH_SERVER__FINISH_SECONDS": "0"}
        with open_server(kind, environment) as server:
            async with open_site() as site:
                app = App(site)
                body = {"urls": [app.url], "options": {"render_mode": "dynamic"}}
                request = urllib.request.Request(
                    f"{server.base_url}/crawl/stream",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )

                def follow() -> None:
                    try:
                        with urllib.request.urlopen(request, timeout=30) as answer:
                            answer.read()
                    except (OSError, http.client.HTTPException):
                        pass  # the server was killed

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.to_thread.run_sync, follow)
                    await wait_until(lambda: app.asked == 1, 30)
                    family = browser_processes(server.process.pid)
                    assert len(family) >= 4
                    end(server)
                    with trio.fail_after(15):
                        await trio.to_thread.run_sync(server.process.wait)
                    await wait_until(lambda: not any(map(is_browser, family)), 5)
                    await wait_until(lambda: not list(Path(folder).glob("eventmesh-browser-*")), 5)


@pytest.mark.parametrize("command", [["crawl", "http://e.org/"], ["search", "words"]])
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--browser", "auto"),
        ("--allow-private", "10.0.0.0/8"),
        ("--config", __file__),
        ("--profile", "low_latency"),
        ("--set", "mesh.linger_seconds=10"),
    ],
)
def test_the_settings_of_a_server_are_the_servers_to_give(
    command: list[str], flag: str, value: str
):
    answer = CliRunner().invoke(main, [*command, "--server", "http://127.0.0.1:1", flag, value])
    assert answer.exit_code == 2
    assert f"{flag} is the server's to give" in answer.output


def test_a_browser_that_is_not_there_keeps_the_server_from_starting():
    command = [*command_of("native"), "--browser", "/nowhere", "--set", "render.sandbox=false"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 1
    assert "render.browser is '/nowhere'" in answer.stderr
    assert "Traceback" not in answer.stderr
