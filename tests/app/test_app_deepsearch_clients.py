"""Deep searches from programs: our client over each protocol, a mesh of its own, the command."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from eventmesh_trio import open_mesh
from eventmesh_trio.client.client import StreamProtocol, open_client
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import ConfigError, DependencyError, ValidationError, leaves
from eventmesh_trio.wire.events import (
    Event,
    RunError,
    SearchResult,
    SearchResults,
    SearchSummary,
    Summary,
    UnknownEvent,
)
from tests.helpers.origin import Origin
from tests.helpers.programs import CHECKOUT
from tests.helpers.proxy import open_proxy
from tests.helpers.raw import open_crawl
from tests.helpers.search_site import KEY, SearchSite, open_search_site
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.settled import settled

pytestmark = pytest.mark.slow

PAGES = 5
PROTOCOLS: tuple[StreamProtocol, ...] = ("sse", "ndjson", "websocket")
EVENTMESH = [sys.executable, "-m", "eventmesh_trio"]
ALLOW = ["--allow-private", "127.0.0.0/8"]


@pytest.fixture(scope="module")
def site(origin: Origin) -> Iterator[SearchSite]:
    with open_search_site(origin.pages(PAGES)) as site:
        yield site


@pytest.fixture(scope="module")
def server(site: SearchSite) -> Iterator[ServerProcess]:
    settings = {
        **site.settings(),
        "EVENTMESH_SEARCH__FIRST_DELAY_SECONDS": "1ms",
        "EVENTMESH_SEARCH__MAX_RETRY_AFTER_SECONDS": "0.5s",  # longer, and the client has to wait
    }
    with open_server("native", settings) as process:
        yield process


# --- The client ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_client_searches_over_each_protocol(
    server: ServerProcess, protocol: StreamProtocol
):
    with trio.fail_after(20):
        async with (
            open_client(server.base_url) as client,
            client.deepsearch("trio", limit=3, protocol=protocol) as stream,
        ):
            events = [event async for event in stream]
    assert not [event for event in events if isinstance(event, UnknownEvent)]
    results = [event for event in events if isinstance(event, SearchResult)]
    assert sorted(result.rank for result in results) == [1, 2, 3]
    assert all(result.content is not None for result in results)
    assert isinstance(events[-1], Summary)
    assert stream.summary is events[-1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_clients_search_that_is_cut_again_and_again_is_told_once(
    server: ServerProcess, site: SearchSite, protocol: StreamProtocol
):
    before = sum(asked.text == f"severed {protocol}" for asked in site.asked)
    limits = ClientLimits(backoff_seconds=0.01, max_backoff_seconds=0.05)
    with open_proxy(server.address, cuts=[2600, 2600, 4000]) as proxy, trio.fail_after(30):
        async with (
            open_client(proxy.base_url, limits=limits) as client,
            client.deepsearch(
                f"severed {protocol}",
                crawl_options={"cache_mode": "disabled", "concurrency": 1},
                protocol=protocol,
            ) as stream,
        ):
            events = [event async for event in stream]
        assert proxy.cut >= 2
    ranks = Counter(event.rank for event in events if isinstance(event, SearchResult))
    assert ranks == Counter(range(1, PAGES + 1))
    assert [type(event) for event in events].count(SearchResults) == 1
    assert stream.gaps == ()
    assert sum(asked.text == f"severed {protocol}" for asked in site.asked) == before + 1


@pytest.mark.parametrize("protocol", ["sse", "ndjson"])
async def test_a_client_is_told_why_its_search_cannot_be_served(
    server: ServerProcess, protocol: StreamProtocol
):
    limits = ClientLimits(max_attempts=0)
    with trio.fail_after(20):
        async with open_client(server.base_url, limits=limits) as client:
            with pytest.raises(DependencyError) as caught:
                async with client.deepsearch("html", protocol=protocol):
                    pass
    assert caught.value.context["reason"] == "bad_answer"


async def test_a_client_that_may_try_again_is_served_when_the_provider_is_back(
    server: ServerProcess,
):
    with trio.fail_after(20):
        async with (
            open_client(server.base_url, limits=ClientLimits(backoff_seconds=0.01)) as client,
            client.deepsearch("busy 1 client", protocol="ndjson") as stream,
        ):
            events = [event async for event in stream]
    assert [type(event) for event in events].count(SearchResult) == PAGES
    assert not [event for event in events if isinstance(event, RunError)]


async def test_over_a_websocket_a_provider_that_fails_is_an_event(server: ServerProcess):
    with trio.fail_after(20):
        async with (
            open_client(server.base_url) as client,
            client.deepsearch("html", protocol="websocket") as stream,
        ):
            events = [event async for event in stream]
    (error,) = [event for event in events if isinstance(event, RunError)]
    assert error.error.type == "dependency_error"
    assert isinstance(events[-1], Summary)
    assert events[-1].status == "failed"


async def test_a_bad_search_is_refused_to_the_client(server: ServerProcess):
    async with open_client(server.base_url) as client:
        with pytest.raises(ValidationError):
            async with client.deepsearch("trio", limit=51):
                pass
        with pytest.raises(ValidationError):
            async with client.deepsearch("trio", crawl_options={"concurrency": 0}):
                pass


# --- Embedded ------------------------------------------------------------------------------------


def asking(site: SearchSite, *more: str) -> Any:
    return settled(
        "workers.workers=1",
        "fetch.allow_private=127.0.0.0/8",
        "search.provider=searxng",
        f"search.searxng_url={site.searxng}",
        "search.first_delay_seconds=1ms",
        *more,
    )


async def test_a_mesh_searches_within_its_program(site: SearchSite):
    events: list[Event] = []
    with trio.fail_after(30):
        async with (
            open_mesh(asking(site)) as mesh,
            mesh.deepsearch("trio", limit=2, locale="de", concurrency=1) as stream,
        ):
            events = [event async for event in stream]
            assert stream.run.kind == "deepsearch"
    assert [type(event) for event in events].count(SearchResult) == 2
    assert isinstance(events[-1], Summary)
    assert events[-1].total_urls == 2
    assert site.asked[-1].query["language"] == "de"


async def test_a_mesh_raises_why_a_search_cannot_be_served_and_goes_on(site: SearchSite):
    with trio.fail_after(30):
        async with open_mesh(asking(site)) as mesh:
            with pytest.raises(DependencyError):
                async with mesh.deepsearch("down"):
                    pass
            with pytest.raises(ValidationError):
                async with mesh.deepsearch(""):
                    pass
            async with mesh.deepsearch("trio", include_content=False) as stream:
                kinds = [type(event) async for event in stream]
            assert SearchSummary in kinds
            assert SearchResult not in kinds


async def test_leaving_a_search_early_cancels_it_and_what_it_asks(site: SearchSite):
    with trio.fail_after(30):
        async with open_mesh(asking(site, "search.answer_wait_seconds=0s")) as mesh:
            async with mesh.deepsearch("stall") as stream:
                assert (await anext(stream)).id
            await stream.run.wait_ended()
            assert stream.run.status == "cancelled"
            while site.in_flight:
                await trio.sleep(0.01)


async def test_a_mesh_whose_key_cannot_be_read_does_not_open(tmp_path: Path):
    missing = tmp_path / "key"
    config = settled("search.provider=serper", f"search.serper_key_file={missing}")
    with pytest.raises((ConfigError, BaseExceptionGroup)) as caught:
        async with open_mesh(config):
            pass
    (failure,) = leaves(caught.value)
    assert isinstance(failure, ConfigError)
    assert "search.serper_key_file" in failure.message


# --- The command ---------------------------------------------------------------------------------


def run(*arguments: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command; ``data`` is the folder of the user's data."""
    return subprocess.run(
        [*EVENTMESH, "search", *arguments],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **({} if data is None else {"XDG_DATA_HOME": str(data)})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CHECKOUT,
    )


def engine(site: SearchSite, provider: str = "searxng") -> list[str]:
    settings = [
        f"search.provider={provider}",
        f"search.{provider}_url={getattr(site, provider)}",
        "search.first_delay_seconds=1ms",
    ]
    return [word for setting in settings for word in ("--set", setting)]


def test_a_search_in_process_writes_its_events(site: SearchSite):
    done = run("structured concurrency", "--limit", "2", *ALLOW, *engine(site))
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        *("metadata", "search_start", "search_results", "crawl_start"),
        *("search_result", "search_result", "search_summary", "summary"),
    ]


def test_a_search_on_a_server_writes_markdown(server: ServerProcess, tmp_path: Path):
    output = tmp_path / "found.md"
    done = run(
        *("trio", "--limit", "3", "--country", "DE", "--locale", "de", "--format", "markdown"),
        *("--server", server.base_url, "-o", str(output)),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = output.read_text()
    assert text.startswith("1. <http://127.0.0.1")
    assert "# Page 2" in text


def test_a_search_without_a_provider_finds_what_was_crawled_for_this_user(
    origin: Origin, tmp_path: Path
):
    with open_server("native", {"XDG_DATA_HOME": str(tmp_path)}) as server:
        with open_crawl(server.address, origin.pages(3)) as stream:
            assert list(stream.read_events())[-1].data["successful"] == 3
    before = sum(origin.requests.values())
    done = run("crawl server reads pages", *ALLOW, data=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    results = [event for event in events if event["event"] == "search_result"]
    assert sorted(result["url"] for result in results) == sorted(origin.pages(3))
    assert sum(origin.requests.values()) == before  # their documents were kept, too


def test_only_searching_crawls_nothing(site: SearchSite, origin: Origin):
    before = sum(origin.requests.values())
    done = run("trio", "--only-search", "--format", "markdown", *engine(site))
    assert done.returncode == 0
    assert done.stdout.count("Title ") == PAGES
    assert sum(origin.requests.values()) == before


def test_a_search_that_cannot_be_served_is_exit_code_1_and_one_line(site: SearchSite):
    done = run("html", *engine(site))
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last == ("eventmesh: the search provider searxng cannot serve: its answer is not JSON")
    assert "Traceback" not in done.stderr


def test_a_key_of_a_command_is_not_in_what_it_says(site: SearchSite, tmp_path: Path):
    file = tmp_path / "key"
    file.write_text(KEY)
    key = ["--set", f"search.brave_key_file={file}"]
    done = run("forbidden", *engine(site, "brave"), *key)
    assert done.returncode == 1
    assert KEY not in done.stdout + done.stderr
    done = run("trio", "--only-search", *engine(site, "brave"), *key)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [" "],
        ["trio", "--limit", "51"],
        ["trio", "--country", "Germany"],
        ["trio", "--locale", "?"],
        ["trio", "--set", "search.provider=brave"],
        ["trio", "--server", "http://x", *ALLOW],
    ],
)
def test_wrong_usage_of_a_search_is_exit_code_2_and_one_clear_line(arguments: list[str]):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
