"""What the tests of rendering share: a renderer over the real browser, and what is left of one."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.proxy import open_proxy
from eventmesh_trio.pipeline.rendering.browser import FOLDER_PREFIX
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.render import BrowserRenderer, open_renderer
from tests.helpers.processes import command_line, descendants, is_running
from tests.helpers.programs import require_program

INSTALL_LINE = "apt-get install --yes chromium-headless-shell"
LOOPBACK = AddressPolicy(allow_private=("127.0.0.0/8",))


def require_browser() -> str:
    """The browser's path; the test skips where there is none, and fails in CI."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs Linux's /proc")
    return require_program("chromium-headless-shell", INSTALL_LINE)


def limits(**chosen: Any) -> RenderLimits:
    """The limits of tests: quick to settle, and without the sandbox where it cannot be."""
    return RenderLimits(
        **{
            "browser": require_browser(),
            "sandbox": os.geteuid() != 0,
            "quiet_seconds": 0.15,
            **chosen,
        }
    )


@asynccontextmanager
async def open_rendering(
    policy: AddressPolicy = LOOPBACK, **chosen: Any
) -> AsyncIterator[BrowserRenderer]:
    """A renderer with all that it needs; nothing of it is left after the block.

    Others may use browsers at the same time: who counts folders sets ``TMPDIR``.
    """
    folders, processes = browser_folders(), browser_processes(os.getpid())
    settled = limits(**chosen)
    with trio.fail_after(60):
        async with (
            open_fetcher(policy=policy) as fetcher,
            open_proxy(fetcher.backend) as proxy,
            open_renderer(settled, policy, proxy, user_agent="eventmesh-test/1") as renderer,
        ):
            yield renderer
    if "://" not in settled.browser:
        assert set(browser_processes(os.getpid())) <= set(processes)
    assert browser_folders() <= folders


def browser_processes(pid: int) -> list[int]:
    """The keepers and browsers below a process."""
    return [below for below in descendants(pid) if is_browser(below)]


def is_browser(pid: int) -> bool:
    """Whether a process is alive, and a browser's or its keeper."""
    command = command_line(pid)
    return is_running(pid) and (b"browser_keeper" in command or b"chromium" in command)


def main_process(pid: int) -> int:
    """The browser's own process, of the only browser below one."""
    (keeper,) = (one for one in browser_processes(pid) if b"browser_keeper" in command_line(one))
    (browser,) = (one for one in descendants(keeper) if b"--type=" not in command_line(one))
    return browser


def page_processes(pid: int) -> list[int]:
    """The processes of pages below one."""
    return [one for one in browser_processes(pid) if b"--type=renderer" in command_line(one)]


def browser_folders() -> set[str]:
    """The folders of browsers, used or left, in what ``TMPDIR`` says."""
    parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    return {str(path) for path in parent.glob(f"{FOLDER_PREFIX}*")}


async def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until a condition on other processes holds, of which nobody tells."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.02)
