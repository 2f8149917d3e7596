"""The browser: found, started with nothing but a pipe to it, watched, and gone at the end.

A browser of our own is started under a keeper, `eventmesh_trio.pipeline.rendering.browser_keeper`:
it kills the whole of it when this process ends, however it ends. One that runs already is spoken to
at its DevTools endpoint; what it may take is its operator's business, and ours stays what pages do.
"""

import logging
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from subprocess import PIPE
from typing import Final
from urllib.parse import urlsplit

import attrs
import httpcore2
import msgspec
import trio

from eventmesh_trio.pipeline.rendering import browser_keeper
from eventmesh_trio.pipeline.rendering.browser_program import BrowserPlace, command_of
from eventmesh_trio.pipeline.rendering.cdp import CDPConnection, CDPLimits, open_cdp
from eventmesh_trio.pipeline.rendering.cdp_messages import CDPError, SessionClosed
from eventmesh_trio.pipeline.rendering.cdp_transports import (
    PipeTransport,
    Transport,
    TransportLost,
    open_websocket,
)
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.process_memory import memory_below

__all__ = ["FOLDER_PREFIX", "Browser", "BrowserFailed", "open_browser"]

logger = logging.getLogger(__name__)

FOLDER_PREFIX: Final = "eventmesh-browser-"
_SAID_LINES: Final = 12
_SAID_LINE_BYTES: Final = 500


class BrowserFailed(Exception):
    """There is no browser to be had; the message says why."""


@attrs.define(eq=False)
class Browser:
    """One running browser; made by `open_browser`."""

    cdp: CDPConnection
    product: str
    is_ours: bool
    contexts: set[str] = attrs.field(factory=set)
    """Ids of the contexts that are ours: others may share an endpoint."""
    held_bytes: int = 0
    """What its processes held when they were last looked at; 0 at an endpoint."""
    killed_pages: int = 0
    """Processes of pages that were killed for the memory they held."""


@asynccontextmanager
async def open_browser(
    place: BrowserPlace, limits: RenderLimits, *, proxy_arguments: Sequence[str], user_agent: str
) -> AsyncIterator[Browser]:
    """Start a browser, or connect to one. Nothing of one that was started is left afterwards.

    That the browser ends is no exception here: `CDPConnection.wait_lost` tells.

    Args:
      proxy_arguments: what makes the checking proxy the browser's only way to the network.
    Raises:
      BrowserFailed: it does not start or answer within ``start_seconds``.
    """
    opened = (
        _connected(place.endpoint, limits)
        if place.endpoint is not None
        else _started(command_of(place.program or "", limits, proxy_arguments, user_agent), limits)
    )
    async with opened as browser, trio.open_nursery() as nursery:
        nursery.start_soon(_close_popups, browser)
        yield browser
        nursery.cancel_scope.cancel()


# --- A browser of our own -----------------------------------------------------------------------


@attrs.define(eq=False)
class _Said:
    """The last lines of the browser's stderr."""

    lines: deque[str] = attrs.field(factory=lambda: deque(maxlen=_SAID_LINES))

    async def drain(self, stream: trio.abc.ReceiveStream) -> None:
        """Read until the end, keeping little; a full pipe would stop the browser."""
        pending = b""
        async for data in stream:
            *lines, pending = (pending + data).split(b"\n")
            pending = pending[-_SAID_LINE_BYTES:]
            for line in lines:
                text = line[:_SAID_LINE_BYTES].decode("utf-8", "replace")
                self.lines.append(text)
                logger.debug("the browser says: %s", text)

    def __str__(self) -> str:
        # The bus is missing on most servers, and no start ever failed for it.
        telling = [line for line in self.lines if line and "dbus" not in line]
        return "; ".join(telling[-3:]) or "it said nothing"


@asynccontextmanager
async def _started(command: Sequence[str], limits: RenderLimits) -> AsyncIterator[Browser]:
    own = f"{FOLDER_PREFIX}{secrets.token_hex(8)}-"
    try:
        process = await trio.lowlevel.open_process(
            # -I -S: the keeper is of the standard library, and starts quickly.
            [sys.executable, "-I", "-S", browser_keeper.__file__, FOLDER_PREFIX, own, *command],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # a Ctrl-C is for us to act upon
        )
    except OSError as error:
        raise BrowserFailed(f"no process could be started: {error}") from None
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with trio.open_nursery() as nursery:
            said = _Said()
            nursery.start_soon(said.drain, process.stderr)
            transport = PipeTransport(process.stdin, process.stdout, limits.max_message_bytes)
            async with (
                _greeted(transport, limits, said) as browser,
                trio.open_nursery() as watching,
            ):
                watching.start_soon(_watch_memory, browser, process.pid, limits)
                yield browser
                watching.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    finally:
        # Shielded, for we are often here because we were cancelled; bounded, for the same reason.
        with trio.move_on_after(3 * limits.farewell_seconds, shield=True):
            await _end(process, limits)
            if process.returncode:  # it was killed, and left its folder
                await trio.to_thread.run_sync(
                    browser_keeper.remove_folders, own, abandon_on_cancel=True
                )


async def _end(process: trio.Process, limits: RenderLimits) -> None:
    """Let the keeper kill the browser, and wait for it: some 50 ms."""
    streams = [stream for stream in (process.stdin, process.stdout, process.stderr) if stream]
    for stream in streams:
        await trio.aclose_forcefully(stream)
    with trio.move_on_after(limits.farewell_seconds):
        await process.wait()
    if process.returncode is None:
        logger.error("the browser's keeper %d does not end: it is killed", process.pid)
        process.kill()  # the browser is its child and dies with it
        with trio.move_on_after(limits.farewell_seconds):
            await process.wait()


async def _watch_memory(browser: Browser, keeper_pid: int, limits: RenderLimits) -> None:
    """Kill the process of a page that holds too much; note what all hold together.

    It sees them all, and so also whether one ended that the browser cannot do without.
    """
    forkers: set[int] = set()  # which start the processes of pages
    while True:
        held = 0
        # In a thread: it reads some hundred files, which takes some milliseconds.
        processes = await trio.to_thread.run_sync(memory_below, keeper_pid, abandon_on_cancel=True)
        mains = {process.pid for process in processes if process.parent_pid == keeper_pid}
        # Not those further down: what was just forked still goes by its parent's name.
        forkers |= {
            process.pid
            for process in processes
            if process.parent_pid in mains and b"--type=zygote" in process.command
        }
        if not forkers <= {process.pid for process in processes if process.command}:
            # The browser does not notice, and new pages would wait for a process for ever.
            browser.cdp.lose("the process that starts those of pages has ended")
        for process in processes:
            held += process.held_bytes
            is_page = b"--type=renderer" in process.command
            if is_page and process.held_bytes > limits.page_memory_bytes:
                logger.warning(
                    "the process of a page held %d bytes and is killed", process.held_bytes
                )
                browser.killed_pages += 1
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        browser.held_bytes = held
        await trio.sleep(limits.memory_check_seconds)


# --- A browser that runs already ----------------------------------------------------------------


@asynccontextmanager
async def _connected(endpoint: str, limits: RenderLimits) -> AsyncIterator[Browser]:
    with trio.move_on_after(limits.start_seconds) as scope:
        url = endpoint if endpoint.startswith("ws") else await _socket_of(endpoint)
    if scope.cancelled_caught:
        raise BrowserFailed(f"the endpoint did not answer within {limits.start_seconds:g} seconds")
    with _as_failure():
        async with (
            open_websocket(
                url,
                max_message_bytes=limits.max_message_bytes,
                connect_seconds=limits.start_seconds,
                farewell_seconds=limits.farewell_seconds,
            ) as transport,
            _greeted(transport, limits, None) as browser,
        ):
            yield browser


@contextmanager
def _as_failure() -> Iterator[None]:
    try:
        yield
    except TransportLost as error:
        raise BrowserFailed(str(error)) from None


async def _socket_of(endpoint: str) -> str:
    """What ``/json/version`` of an endpoint names as the browser's WebSocket, at that endpoint."""
    split = urlsplit(endpoint)
    try:
        async with httpcore2.AsyncConnectionPool() as pool:
            response = await pool.request("GET", f"{split.scheme}://{split.netloc}/json/version")
        named = msgspec.json.decode(response.content)["webSocketDebuggerUrl"]
        path = urlsplit(named).path
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        raise BrowserFailed(f"the endpoint {split.netloc} does not answer: {error}") from None
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError):
        raise BrowserFailed(f"what answers at {split.netloc} is no DevTools endpoint") from None
    return f"ws://{split.netloc}{path}"


# --- Both ---------------------------------------------------------------------------------------


@asynccontextmanager
async def _greeted(
    transport: Transport, limits: RenderLimits, said: _Said | None
) -> AsyncIterator[Browser]:
    cdp_limits = CDPLimits(command_seconds=limits.command_seconds)
    async with open_cdp(transport, cdp_limits, browser_events=("Target.targetCreated",)) as cdp:
        try:
            version = await cdp.command("Browser.getVersion", {}, None, limits.start_seconds)
            await cdp.browser.execute("Target.setDiscoverTargets", discover=True)
        except CDPError as error:
            why = f"{error}; its last words: {said}" if said is not None else str(error)
            raise BrowserFailed(f"the browser did not start: {why}") from None
        yield Browser(cdp, str(version.get("product", "")), said is not None)


async def _close_popups(browser: Browser) -> None:
    """Close what pages open beside themselves; `--block-new-web-contents` is not known by all."""
    while True:
        try:
            event = await browser.cdp.browser.receive()
        except SessionClosed as error:
            browser.cdp.lose(str(error))
            return
        target = event.params.get("targetInfo", {})
        if (
            target.get("type") == "page"
            and target.get("openerId")
            and target.get("browserContextId") in browser.contexts
        ):
            browser.cdp.browser.notify("Target.closeTarget", targetId=target["targetId"])
