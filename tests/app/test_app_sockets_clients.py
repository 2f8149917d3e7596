"""WebSocket clients as people have them, with compression where they have it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trio
import trio_websocket
import websockets.asyncio.client

from tests.helpers.browser import open_page
from tests.helpers.node import run_in_node
from tests.helpers.origin import Origin
from tests.helpers.servers import ServerProcess

MIB = 2**20
LARGE_KB = 1300  # its message is larger than any client would inflate
OPTIONS = {"respect_robots": False, "cache_mode": "disabled"}


def urls_of(origin: Origin) -> list[str]:
    return [*origin.pages(8), origin.url(f"/large/1?kb={LARGE_KB}"), origin.url("/status/404")]


def crawl_text(urls: list[str]) -> str:
    return json.dumps({"request_type": "crawl", "data": {"urls": urls, "options": OPTIONS}})


Receive = Callable[[], Awaitable[str]]
Send = Callable[[str], Awaitable[None]]


async def converse(send: Send, receive: Receive, urls: list[str]) -> None:
    """What each client does: a crawl, commands while it runs, and a ping when it is over."""

    async def until(*kinds: str) -> list[dict[str, Any]]:
        messages = [json.loads(await receive())]
        while messages[-1]["message_type"] not in kinds:
            messages.append(json.loads(await receive()))
        return messages

    assert json.loads(await receive())["message_type"] == "welcome"
    await send(crawl_text(urls))
    await until("metadata")
    await send('{"request_type":"pause","data":{}}')
    messages = await until("paused")
    await send('{"request_type":"resume","data":{}}')
    messages += await until("summary")
    results = [m["data"]["result"] for m in messages if m["message_type"] == "result"]
    assert sorted(result["url"] for result in results) == sorted(urls)
    sizes = [len(result["document"]["text"]) for result in results if result["document"]]
    assert max(sizes) > LARGE_KB * 1024
    summary = messages[-1]["data"]
    assert (summary["successful"], summary["failed"]) == (len(urls) - 1, 1)
    await send('{"request_type":"ping","data":{}}')
    assert len(await until("pong")) == 1


# --- Python ---------------------------------------------------------------------------------------


def test_the_websockets_library_with_compression(server: ServerProcess, origin: Origin) -> None:
    async def main() -> None:
        async with websockets.asyncio.client.connect(
            f"{server.ws_url}/crawl/ws", max_size=10 * MIB, ping_interval=0.05
        ) as socket:
            assert socket.response is not None
            assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
            await converse(socket.send, lambda: socket.recv(decode=True), urls_of(origin))
            await (await socket.ping())
        assert socket.close_code == 1000

    asyncio.run(main())


@pytest.mark.parametrize("window_bits", [0, 9, 15])
def test_aiohttp_with_compression(server: ServerProcess, origin: Origin, window_bits: int) -> None:
    async def main() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"{server.base_url}/crawl/ws", compress=window_bits, heartbeat=0.5, max_msg_size=0
            ) as socket,
        ):
            assert bool(socket.compress) == bool(window_bits)
            await converse(socket.send_str, socket.receive_str, urls_of(origin))
            assert await socket.close()
        assert socket.close_code == 1000

    asyncio.run(main())


async def test_trio_websocket(server: ServerProcess, origin: Origin) -> None:
    with trio.fail_after(60):
        async with trio_websocket.open_websocket_url(
            f"{server.ws_url}/crawl/ws", max_message_size=10 * MIB
        ) as socket:

            async def receive() -> str:
                message = await socket.get_message()
                assert isinstance(message, str)
                return message

            await converse(socket.send_message, receive, urls_of(origin))
            await socket.ping(b"there?")
        closed = socket.closed
        assert closed is not None
        assert closed.code == 1000


# --- JavaScript -----------------------------------------------------------------------------------

CLIENT = """
async function converse(address, urls, options) {
  const socket = new WebSocket(address);
  const messages = [], waiting = [];
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    messages.push(message);
    for (const wait of waiting.splice(0)) wait();
  };
  let seen = 0;
  const until = async (kind) => {
    for (;;) {
      while (seen < messages.length) if (messages[seen++].message_type === kind) return;
      if (socket.readyState > 1) throw new Error(`closed before ${kind}`);
      await new Promise((resolve) => { waiting.push(resolve); socket.onclose = resolve; });
    }
  };
  const send = (type, data) => socket.send(JSON.stringify({ request_type: type, data }));
  await until('welcome');
  send('crawl', { urls, options });
  await until('metadata');
  send('pause', {});
  await until('paused');
  send('resume', {});
  await until('summary');
  send('ping', {});
  await until('pong');
  const closed = new Promise((resolve) => { socket.onclose = resolve; });
  socket.close(1000, 'done');
  const { code, wasClean } = await closed;
  const results = messages.filter((message) => message.message_type === 'result');
  const { successful, failed } = messages.find((m) => m.message_type === 'summary').data;
  return {
    extensions: socket.extensions, code, wasClean, successful, failed,
    urls: results.map((message) => message.data.result.url),
    longest: Math.max(...results.map((m) => m.data.result.document?.text.length ?? 0)),
  };
}
"""


def check_report(report: dict[str, Any], urls: list[str]) -> None:
    assert report["extensions"].startswith("permessage-deflate")
    assert (report["code"], report["wasClean"]) == (1000, True)
    assert (report["successful"], report["failed"]) == (len(urls) - 1, 1)
    assert sorted(report["urls"]) == sorted(urls)
    assert report["longest"] > LARGE_KB * 1024


def test_the_websocket_of_node_with_compression(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    urls = urls_of(origin)
    given = {
        "server": server.base_url,
        "address": f"{server.ws_url}/crawl/ws",
        "urls": urls,
        "options": OPTIONS,
    }
    epilogue = """
    Object.assign(report, await converse(given.address, given.urls, given.options));
    """
    check_report(run_in_node(tmp_path, CLIENT, epilogue, given), urls)


@pytest.mark.slow
async def test_the_websocket_of_chromium_with_compression(
    server: ServerProcess, origin: Origin
) -> None:
    urls = urls_of(origin)
    arguments = [f"{server.ws_url}/crawl/ws", urls, OPTIONS]
    call = ", ".join(json.dumps(argument) for argument in arguments)
    async with open_page(f"{server.base_url}/livez") as page:
        with trio.fail_after(60):
            check_report(await page.evaluate(f"{CLIENT}\nconverse({call})"), urls)
