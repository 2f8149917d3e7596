"""Server-sent events with the clients that people use: Chromium, npm's eventsource, two of Python.

Each follows a whole crawl of the real server, in both of its forms; sees events as they come, which
an origin that stalls makes visible; and goes on by ``Last-Event-ID`` after its connection was cut.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import sseclient
import trio
from httpx_sse import connect_sse

from tests.conformance.stream_cases import (
    Seen,
    crawl_body,
    judge_timely,
    judge_whole,
    new_session,
    start_session,
    trickling_body,
)
from tests.helpers.browser import open_page
from tests.helpers.node import run_in_node
from tests.helpers.npm import require_npm_package
from tests.helpers.origin import Origin
from tests.helpers.proxy import open_proxy
from tests.helpers.servers import ServerProcess

EVENTSOURCE = ("eventsource", "4.1.0")  # the last one that runs on Node 20
READ_SECONDS = 30.0
MAX_CONNECTIONS = 10

pytestmark = pytest.mark.slow


# --- EventSource, in Chromium and from npm -------------------------------------------------------

# Starts the crawl and follows it until the server says that there is no more (204), which is what
# ends an EventSource.
FOLLOW = """
const follow = async (EventSource, start, body, session, stream) => {
  const headers = { 'Content-Type': 'application/json', 'X-Session-ID': session };
  const started = await fetch(start, { method: 'POST', headers, body: JSON.stringify(body) });
  const seen = [], began = performance.now();
  let opened = 0;
  const source = new EventSource(stream);
  source.addEventListener('open', () => { opened++; });
  for (const kind of ['metadata', 'start', 'result', 'progress', 'summary', 'gap', 'heartbeat'])
    source.addEventListener(kind, (event) => seen.push({ kind, data: JSON.parse(event.data),
      event_id: event.lastEventId, seconds: (performance.now() - began) / 1000 }));
  while (source.readyState !== 2) await new Promise((resolve) => setTimeout(resolve, 20));
  return { status: started.status, seen, opened };
};
"""


def arguments_of(server: ServerProcess, body: dict[str, Any], stream_base: str) -> str:
    """What `follow` is called with, after the class."""
    session = new_session()
    return ", ".join(
        json.dumps(argument)
        for argument in (
            f"{server.base_url}/crawl/sse",
            body,
            session,
            f"{stream_base}/crawl/sse/stream?session_id={session}",
        )
    )


def judge_event_source(report: dict[str, Any], urls: list[str], *, inherits: bool) -> list[Seen]:
    """``inherits``: an event without an id has the id of the stream so far (WHATWG HTML, 9.2.6)."""
    assert report["status"] == 200
    seen = [Seen(**event) for event in report["seen"]]
    judge_whole(seen, urls)
    last = ""
    for event in seen:
        last = event.data.get("id", last if inherits else "")
        assert event.event_id == last
    return seen


async def follow_in_chromium(page_url: str, arguments: str) -> dict[str, Any]:
    with trio.fail_after(90):
        async with open_page(page_url) as page:
            report: dict[str, Any] = await page.evaluate(
                f"(() => {{ {FOLLOW} return follow(EventSource, {arguments}); }})()"
            )
    return report


async def test_chromiums_event_source_sees_events_as_they_come_and_stops_at_204(
    server: ServerProcess, origin: Origin
) -> None:
    body = crawl_body(origin)
    arguments = arguments_of(server, body, server.base_url)
    report = await follow_in_chromium(f"{server.base_url}/livez", arguments)
    judge_timely(judge_event_source(report, body["urls"], inherits=True))
    assert report["opened"] == 1


async def test_chromiums_event_source_goes_on_after_cuts(
    server: ServerProcess, origin: Origin, cuts: tuple[int, int]
) -> None:
    body = trickling_body(origin)
    with open_proxy(server.address, cuts) as proxy:  # another origin than the page's: CORS too
        arguments = arguments_of(server, body, proxy.base_url)
        report = await follow_in_chromium(f"{server.base_url}/livez", arguments)
        assert proxy.cut == len(cuts)
    judge_event_source(report, body["urls"], inherits=True)
    assert report["opened"] > 1  # a reset may take the head of its connection with it


@pytest.fixture(scope="session")
def eventsource(pytestconfig: pytest.Config) -> Path:
    """npm's package, installed once into pytest's cache."""
    assert pytestconfig.cache is not None
    return require_npm_package(pytestconfig.cache.mkdir("npm"), *EVENTSOURCE)


def follow_in_node(package: Path, folder: Path, arguments: str) -> dict[str, Any]:
    anchor = json.dumps(str(package / "package.json"))
    client = f"""
    import {{ createRequire }} from 'node:module';
    const {{ EventSource }} = createRequire({anchor})('eventsource');
    {FOLLOW}
    """
    epilogue = f"Object.assign(report, await follow(EventSource, {arguments}));"
    report: dict[str, Any] = run_in_node(folder, client, epilogue, {"server": "http://unused"})
    return report


def test_npms_eventsource_sees_events_as_they_come_and_stops_at_204(
    server: ServerProcess, origin: Origin, eventsource: Path, tmp_path: Path
) -> None:
    body = crawl_body(origin)
    arguments = arguments_of(server, body, server.base_url)
    report = follow_in_node(eventsource, tmp_path, arguments)
    judge_timely(judge_event_source(report, body["urls"], inherits=False))
    assert report["opened"] == 1


def test_npms_eventsource_goes_on_after_cuts(
    server: ServerProcess, origin: Origin, cuts: tuple[int, int], eventsource: Path, tmp_path: Path
) -> None:
    body = trickling_body(origin)
    with open_proxy(server.address, cuts) as proxy:
        arguments = arguments_of(server, body, proxy.base_url)
        report = follow_in_node(eventsource, tmp_path, arguments)
        assert proxy.cut == len(cuts)
    judge_event_source(report, body["urls"], inherits=False)
    assert report["opened"] > 1  # a reset may take the head of its connection with it


# --- Python --------------------------------------------------------------------------------------

Reader = Callable[[str, dict[str, str]], Iterator[Seen]]


def read_by_httpx_sse(url: str, headers: dict[str, str]) -> Iterator[Seen]:
    with httpx.Client(timeout=READ_SECONDS) as client:
        with connect_sse(client, "GET", url, headers=headers) as source:
            source.response.raise_for_status()
            if source.response.status_code == 204:
                return
            for event in source.iter_sse():
                yield Seen(event.event, event.json(), event.id or None, time.monotonic())


def read_by_sseclient(url: str, headers: dict[str, str]) -> Iterator[Seen]:
    with requests.get(url, headers=headers, stream=True, timeout=READ_SECONDS) as response:
        response.raise_for_status()
        if response.status_code == 204:
            return
        for event in sseclient.SSEClient(iter(response)).events():
            yield Seen(event.event, json.loads(event.data), event.id, time.monotonic())


python_clients = pytest.mark.parametrize(
    "read", [read_by_httpx_sse, read_by_sseclient], ids=["httpx-sse", "sseclient-py"]
)


@python_clients
def test_a_python_client_of_sse_sees_events_as_they_come(
    server: ServerProcess, origin: Origin, read: Reader
) -> None:
    body = crawl_body(origin)
    session = start_session(server, body)
    seen = list(read(f"{server.base_url}/crawl/sse/stream?session_id={session}", {}))
    judge_whole(seen, body["urls"])
    judge_timely(seen)
    last = seen[-1].data["id"]
    again = f"{server.base_url}/crawl/sse/stream?session_id={session}"
    assert list(read(again, {"Last-Event-ID": last})) == []


@python_clients
def test_a_python_client_of_sse_goes_on_after_cuts(
    server: ServerProcess, origin: Origin, cuts: tuple[int, int], read: Reader
) -> None:
    body = trickling_body(origin)
    session = start_session(server, body)
    seen: list[Seen] = []
    with open_proxy(server.address, cuts) as proxy:
        url = f"{proxy.base_url}/crawl/sse/stream?session_id={session}"
        for _ in range(MAX_CONNECTIONS):
            ids = [event.data["id"] for event in seen if "id" in event.data]
            try:
                for event in read(url, {"Last-Event-ID": ids[-1]} if ids else {}):
                    seen.append(event)  # noqa: PERF402  (what came before a cut is kept)
            except (httpx.HTTPError, requests.RequestException):
                pass  # cut, as was asked for
            if seen and seen[-1].kind == "summary":
                break
        assert proxy.cut == len(cuts)
    judge_whole(seen, body["urls"])


def test_httpx_sse_streams_a_post(server: ServerProcess, origin: Origin) -> None:
    body = crawl_body(origin)
    with httpx.Client(timeout=READ_SECONDS) as client:
        with connect_sse(client, "POST", f"{server.base_url}/crawl/sse", json=body) as source:
            seen = [
                Seen(event.event, event.json(), event.id or None, time.monotonic())
                for event in source.iter_sse()
            ]
    judge_whole(seen, body["urls"])
    judge_timely(seen)
