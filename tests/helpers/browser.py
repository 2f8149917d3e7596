"""A real headless Chromium, driven over the DevTools protocol."""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket

from tests.helpers.programs import require_program

START_SECONDS = 30.0
END_SECONDS = 10.0
MAX_MESSAGE_BYTES = 16 * 2**20
# The wrapper in /usr/bin starts this and does not become it: killing the wrapper would leave it.
_REAL = Path("/usr/lib/chromium/chromium-headless-shell")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-port=0",
)


class Page:
    """One tab; one task at a time may use it."""

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket
        self._last_id = 0

    async def command(self, method: str, **parameters: Any) -> Any:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        await self._socket.send_message(json.dumps(message))
        while True:
            answer = json.loads(await self._socket.get_message())
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise; what it throws fails the test."""
        result = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")


@asynccontextmanager
async def open_page(url: str) -> AsyncIterator[Page]:
    """A browser of its own with one tab at ``url``; nothing of it is left afterwards."""
    program = require_program(
        "chromium-headless-shell", "apt-get install --yes chromium-headless-shell"
    )
    with tempfile.TemporaryDirectory() as profile:
        command = [str(_REAL) if _REAL.exists() else program, *_FLAGS]
        process = await trio.lowlevel.open_process(
            [*command, f"--user-data-dir={profile}", url],
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stderr is not None
            with trio.fail_after(START_SECONDS):
                said = b""
                while (found := re.search(rb"ws://\S+:(\d+)/devtools", said)) is None:
                    piece = await process.stderr.receive_some()
                    assert piece, said
                    said += piece
                target = await _tab(int(found[1]), url)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, process.stderr)
                async with trio_websocket.open_websocket_url(
                    target, max_message_size=MAX_MESSAGE_BYTES
                ) as socket:
                    page = Page(socket)
                    loaded = f"location.href === {url!r} && document.readyState === 'complete'"
                    with trio.fail_after(START_SECONDS):
                        while not await page.evaluate(loaded):
                            await trio.sleep(0.05)
                    yield page
                nursery.cancel_scope.cancel()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            with trio.fail_after(END_SECONDS, shield=True):
                await process.wait()
                assert process.stderr is not None
                async with process.stderr:
                    # To its end: the last of its processes to go might still write to the profile.
                    await _drain(process.stderr)


async def _tab(port: int, url: str) -> str:
    """The DevTools address of the tab that shows ``url``."""
    while True:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(
                b"GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port
            )
            answer = b""
            async for piece in stream:
                answer += piece
                head, _, body = answer.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                if length is not None and len(body) >= int(length[1]):
                    break
        for tab in json.loads(answer.partition(b"\r\n\r\n")[2]):
            if tab["type"] == "page" and tab["url"] == url:
                return str(tab["webSocketDebuggerUrl"])
        await trio.sleep(0.1)


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass
