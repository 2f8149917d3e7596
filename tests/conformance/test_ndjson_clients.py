"""NDJSON with the clients that people use: curl, httpie, requests, httpx and aiohttp.

Each streams a whole crawl of the real server, in both of its forms, and sees events as they come,
which an origin that stalls makes visible. Those that are libraries attach again after a cut.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from tests.conformance.stream_cases import (
    Seen,
    crawl_body,
    judge_timely,
    judge_whole,
    start_session,
    trickling_body,
)
from tests.helpers.origin import Origin
from tests.helpers.programs import require_program
from tests.helpers.proxy import open_proxy
from tests.helpers.servers import ServerProcess

READ_SECONDS = 30.0
MAX_CONNECTIONS = 10

pytestmark = pytest.mark.slow


def seen_of(line: bytes | str) -> Seen:
    event = json.loads(line)
    return Seen(event["event"], event, event.get("id"), time.monotonic())


# --- Programs ------------------------------------------------------------------------------------


def curl_command(url: str, body: dict[str, Any]) -> list[str]:
    curl = require_program("curl", "apt-get install curl")
    data = ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    return [curl, "-sSN", "--no-buffer", "--fail", "--compressed", *data, url]


def httpie_command(url: str, body: dict[str, Any]) -> list[str]:
    options = ["--stream", "--body", "--ignore-stdin", "--check-status", "--pretty=none"]
    return [sys.executable, "-m", "httpie", *options, "--raw", json.dumps(body), "POST", url]


@pytest.mark.parametrize("command", [curl_command, httpie_command], ids=["curl", "httpie"])
def test_a_program_prints_events_as_they_come(
    server: ServerProcess, origin: Origin, command: Callable[[str, dict[str, Any]], list[str]]
) -> None:
    body = crawl_body(origin)
    process = subprocess.Popen(
        command(f"{server.base_url}/crawl/stream", body),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        seen = [seen_of(line) for line in process.stdout if line.strip()]
        assert process.wait(READ_SECONDS) == 0
    finally:
        process.kill()
        process.communicate()
    judge_whole(seen, body["urls"])
    judge_timely(seen)


def test_curl_goes_on_where_it_was_cut(
    server: ServerProcess, origin: Origin, cuts: tuple[int, int]
) -> None:
    body = trickling_body(origin)
    session = start_session(server, body)
    curl = require_program("curl", "apt-get install curl")
    seen: list[Seen] = []
    with open_proxy(server.address, cuts[:1]) as proxy:
        url = f"{proxy.base_url}/crawl/stream?session_id={session}"
        first = subprocess.run([curl, "-sSN", url], capture_output=True, timeout=60, check=False)
        assert first.returncode in (18, 56), first.stderr  # a transfer that was cut
        seen += [seen_of(line) for line in first.stdout.split(b"\n")[:-1]]
        cursor = [event.data["id"] for event in seen if "id" in event.data][-1]
        url = f"{url}&last_event_id={cursor}"
        second = subprocess.run([curl, "-sSN", url], capture_output=True, timeout=60, check=True)
        seen += [seen_of(line) for line in second.stdout.splitlines()]
    judge_whole(seen, body["urls"])


# --- Libraries -----------------------------------------------------------------------------------

Reader = Callable[[str, str, dict[str, Any] | None], Iterator[Seen]]


def read_by_requests(method: str, url: str, body: dict[str, Any] | None) -> Iterator[Seen]:
    with requests.request(method, url, json=body, stream=True, timeout=READ_SECONDS) as response:
        response.raise_for_status()
        # `decode_unicode` cuts at every line end that Unicode knows, as the client of
        # streaming-api.md does.
        for line in response.iter_lines(decode_unicode=True):
            yield seen_of(line)


def read_by_httpx(method: str, url: str, body: dict[str, Any] | None) -> Iterator[Seen]:
    with httpx.stream(method, url, json=body, timeout=READ_SECONDS) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            yield seen_of(line)


async def _lines_by_aiohttp(
    method: str, url: str, body: dict[str, Any] | None
) -> AsyncGenerator[bytes, None]:
    timeout = aiohttp.ClientTimeout(total=READ_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.request(method, url, json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                yield line


def read_by_aiohttp(method: str, url: str, body: dict[str, Any] | None) -> Iterator[Seen]:
    with asyncio.Runner() as runner:
        lines = _lines_by_aiohttp(method, url, body)
        try:
            while line := runner.run(anext(lines, b"")):
                yield seen_of(line)
        finally:
            runner.run(lines.aclose())


libraries = pytest.mark.parametrize(
    "read",
    [read_by_requests, read_by_httpx, read_by_aiohttp],
    ids=["requests", "httpx", "aiohttp"],
)


@libraries
def test_a_library_reads_events_as_they_come(
    server: ServerProcess, origin: Origin, read: Reader
) -> None:
    body = crawl_body(origin)
    seen = list(read("POST", f"{server.base_url}/crawl/stream", body))
    judge_whole(seen, body["urls"])
    judge_timely(seen)


@libraries
def test_a_library_goes_on_where_it_was_cut(
    server: ServerProcess, origin: Origin, cuts: tuple[int, int], read: Reader
) -> None:
    body = trickling_body(origin)
    session = start_session(server, body)
    seen: list[Seen] = []
    with open_proxy(server.address, cuts) as proxy:
        url = f"{proxy.base_url}/crawl/stream?session_id={session}"
        for _ in range(MAX_CONNECTIONS):
            ids = [event.data["id"] for event in seen if "id" in event.data]
            try:
                for event in read("GET", f"{url}&last_event_id={ids[-1] if ids else ''}", None):
                    seen.append(event)  # noqa: PERF402  (what came before a cut is kept)
            except (requests.RequestException, httpx.HTTPError, aiohttp.ClientError):
                pass  # cut, as was asked for
            if seen and seen[-1].kind == "summary":
                break
        assert proxy.cut == len(cuts)
    judge_whole(seen, body["urls"])
