"""What ``python-sdk-websocket.md`` shows and promises, its code unchanged.

The SDK itself is not in the specification: a stand-in does what the document says of it, with the
`websockets` library that it names.
"""

import ast
import asyncio
import inspect
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import CodeType, ModuleType
from typing import Any, Self

import attrs
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.helpers.origin import Origin
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.specification import code_block

DOCUMENT = "python-sdk-websocket.md"
MAX_MESSAGE_BYTES = 10 * 1024 * 1024


@attrs.frozen
class StreamingResult:
    event_type: str
    data: dict[str, Any]
    timestamp: str


OnMessage = Callable[[StreamingResult], Awaitable[None]]


class StreamingAPI:
    """The three methods of the document, against one server."""

    def __init__(self, base_url: str, options: dict[str, Any] | None = None) -> None:
        scheme, _, rest = base_url.partition("://")
        self.url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/crawl/ws"
        self.options = options or {}

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[ClientConnection, StreamingResult]]:
        async with connect(
            self.url,
            ping_interval=30,
            ping_timeout=10,
            close_timeout=10,
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            yield socket, self.parsed(await socket.recv())

    @staticmethod
    def parsed(message: str | bytes) -> StreamingResult:
        body = json.loads(message)
        return StreamingResult(body["message_type"], body["data"], body["timestamp"])

    async def crawl_websocket(
        self, urls: list[str], on_message: OnMessage | None = None
    ) -> AsyncIterator[StreamingResult]:
        async with self.connected() as (socket, welcome):
            yield welcome
            data = {"urls": urls, "options": self.options}
            await socket.send(json.dumps({"request_type": "crawl", "data": data}))
            async for message in socket:
                result = self.parsed(message)
                if on_message is not None:
                    await on_message(result)
                yield result
                if result.event_type == "summary":
                    return

    async def ask(self, request_type: str) -> StreamingResult:
        """One request of a socket of its own; the next message is the answer."""
        async with self.connected() as (socket, _):
            await socket.send(json.dumps({"request_type": request_type, "data": {}}))
            return self.parsed(await socket.recv())

    async def ping_websocket(self) -> dict[str, Any]:
        started = time.perf_counter()
        pong = await self.ask("ping")
        assert pong.event_type == "pong"
        latency_ms = (time.perf_counter() - started) * 1000
        return {"latency_ms": latency_ms, "session_id": pong.data["session_id"]}

    async def get_websocket_status(self) -> dict[str, Any]:
        status = await self.ask("status")
        assert status.event_type == "status"
        return status.data


@attrs.frozen
class AsyncRipTideClient:
    base_url: str

    @property
    def streaming(self) -> StreamingAPI:
        return StreamingAPI(self.base_url)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def run_document(source: str, names: dict[str, Any]) -> None:
    """Run top-level code of the document that awaits."""
    code: CodeType = compile(source, DOCUMENT, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def main() -> None:
        # Code without an await would have run by now; that of the document gives a coroutine.
        running = eval(code, names)
        assert inspect.iscoroutine(running)
        await running

    asyncio.run(main())


# --- The examples ---------------------------------------------------------------------------------


def test_the_basic_example_prints_each_result_and_the_summary(
    server: ServerProcess,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sdk = ModuleType("riptide_sdk")
    vars(sdk)["AsyncRipTideClient"] = AsyncRipTideClient
    monkeypatch.setitem(sys.modules, "riptide_sdk", sdk)
    source = code_block("python", "async with AsyncRipTideClient", document=DOCUMENT)
    # Its addresses are led to the loopback server and origin.
    source = source.replace("http://localhost:3000", server.base_url)
    source = source.replace("https://example.com", origin.url("/page/1"))
    source = source.replace("https://httpbin.org/html", origin.url("/page/2"))
    run_document(source, {})
    *got, done = capsys.readouterr().out.splitlines()
    assert sorted(got) == [f"Got: {origin.url(f'/page/{number}')}" for number in (1, 2)]
    assert done == "Done: 2 successful"


def test_the_example_with_callbacks_saves_each_result(
    server: ServerProcess, origin: Origin
) -> None:
    saved: list[dict[str, Any]] = []

    async def save_to_db(result: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        saved.append(result)

    urls = [*origin.pages(6), origin.url("/status/404")]
    client = AsyncRipTideClient(server.base_url)
    source = code_block("python", "async def handle_result", document=DOCUMENT)
    run_document(source, {"client": client, "urls": urls, "save_to_db": save_to_db})
    assert sorted(result["url"] for result in saved) == sorted(urls)
    assert sum(result["error"] is not None for result in saved) == 1


def test_the_example_of_health_monitoring_prints_latency_and_health(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    source = code_block("python", "client.streaming.ping_websocket", document=DOCUMENT)
    run_document(source, {"client": AsyncRipTideClient(server.base_url)})
    latency, healthy = capsys.readouterr().out.splitlines()
    assert 0 < float(latency.removeprefix("Latency: ").removesuffix("ms")) < 1000
    assert healthy == "Healthy: True"


# --- What else the document names -----------------------------------------------------------------


def test_the_lifecycle_of_a_connection_is_as_the_document_lists_it(
    server: ServerProcess, origin: Origin
) -> None:
    async def main() -> list[StreamingResult]:
        api = StreamingAPI(server.base_url)
        return [result async for result in api.crawl_websocket(origin.pages(4))]

    results = asyncio.run(main())
    kinds = list(dict.fromkeys(r.event_type for r in results if r.event_type != "progress"))
    assert kinds == ["welcome", "metadata", "result", "summary"]
    welcome, metadata = results[0].data, results[1].data
    assert welcome["session_id"] == metadata["session_id"]
    assert (welcome["protocol_version"], metadata["total_urls"]) == ("1.0", 4)
    assert metadata["stream_type"]
    progress = [r.data["progress"] for r in results if r.event_type == "result"]
    assert [p["completed"] for p in progress] == [1, 2, 3, 4]
    assert all(p["total"] == 4 and 0 <= p["success_rate"] <= 1 for p in progress)
    assert all(r.timestamp.endswith("Z") for r in results)


def test_a_request_that_is_refused_is_an_error_message_and_the_next_one_works(
    server: ServerProcess, origin: Origin
) -> None:
    async def main() -> None:
        async with StreamingAPI(server.base_url).connected() as (socket, _):
            for bad in ("{", '{"request_type":"crawl","data":{"urls":[]}}', "[1]"):
                await socket.send(bad)
                error = StreamingAPI.parsed(await socket.recv())
                assert error.event_type == "error"
                assert error.data["message"]
            body = {"request_type": "crawl", "data": {"urls": origin.pages(2)}}
            await socket.send(json.dumps(body).encode())  # binary frames are taken, too
            async for message in socket:
                if (result := StreamingAPI.parsed(message)).event_type == "summary":
                    assert result.data["successful"] == 2
                    return

    asyncio.run(main())


@pytest.mark.slow
def test_a_client_that_retries_with_backoff_gets_through_a_restart(origin: Origin) -> None:
    async def attempt(base_url: str, *, kill: Callable[[], Any] | None) -> int:
        seen = 0
        api = StreamingAPI(base_url, {"concurrency": 1})
        async for result in api.crawl_websocket(origin.slow_pages(4, 100)):
            seen += result.event_type == "result"
            if seen == 2 and kill is not None:
                kill()
        return seen

    with open_server("native") as first, pytest.raises(ConnectionClosed):
        asyncio.run(attempt(first.base_url, kill=first.process.kill))
    with open_server("native") as second:
        assert asyncio.run(attempt(second.base_url, kill=None)) == 4


def test_a_client_that_stops_in_the_middle_closes_in_order_and_ends_its_crawl(
    server: ServerProcess, origin: Origin
) -> None:
    async def main() -> None:
        api = StreamingAPI(server.base_url, {"concurrency": 2})
        crawl = api.crawl_websocket([*origin.pages(2), *origin.stalling(2, host=2)])
        seen = 0
        async for result in crawl:
            seen += result.event_type == "result"
            if seen == 2:
                break
        started = time.perf_counter()
        await crawl.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert time.perf_counter() - started < 2

    asyncio.run(main())
    deadline = time.monotonic() + 2
    while origin.in_flight:
        assert time.monotonic() < deadline, "its pages are still being fetched"
        time.sleep(0.01)
