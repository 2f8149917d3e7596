"""The store of the real server: restarted, killed, broken, full, shared; and single flight."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.origin import Origin
from tests.helpers.raw import get_json, open_crawl
from tests.helpers.servers import ServerProcess, command_of, open_server

pytestmark = pytest.mark.slow

STORE = "EVENTMESH_CACHE__STORE"


def crawl(server: ServerProcess, urls: Sequence[str], **options: Any) -> list[dict[str, Any]]:
    """The results of a crawl, in the order of the request; there is one for every URL."""
    with open_crawl(server.address, list(urls), options) as stream:
        events = [event.data for event in stream.read_events()]
    results = sorted((e for e in events if e["event"] == "result"), key=lambda e: e["index"])
    assert [event["index"] for event in results] == list(range(len(urls)))
    assert events[-1]["event"] == "summary"
    assert events[-1]["status"] == "completed"
    return results


def hits(results: Sequence[dict[str, Any]]) -> int:
    return sum(result["from_cache"] for result in results)


def store_of(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = get_json(server.address, "/stats")["cache"]["store"]
    return found


def wait_until(met: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def wait_written(server: ServerProcess, entries: int) -> None:
    wait_until(lambda: store_of(server)["entries"] >= entries)


def file_in(folder: Path) -> dict[str, str]:
    return {STORE: f"sqlite:{folder / 'store.sqlite'}"}


def health_of(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = get_json(server.address, "/healthz")["cache"]
    return found


# --- Restarts and kills ---------------------------------------------------------------------------


def test_after_a_restart_the_cache_serves_and_the_origin_is_left_alone(
    origin: Origin, tmp_path: Path
) -> None:
    urls = [*origin.pages(20, first=1000), origin.url("/redirect/2")]
    with open_server("native", file_in(tmp_path)) as server:
        before = crawl(server, urls)
        assert hits(before) == 0
    with open_server("native", file_in(tmp_path)) as server:
        asked = Counter(origin.requests)
        after = crawl(server, urls)
        assert hits(after) == len(urls)
        assert origin.requests == asked
        for old, new in zip(before, after, strict=True):
            assert new["result"]["document"] == old["result"]["document"]
            assert new["result"].get("final_url") == old["result"].get("final_url")
        assert health_of(server) == {"store": "sqlite", "status": "ok", "reason": None}
        assert get_json(server.address, "/stats")["cache"]["hit_rate"] == 1.0


def test_a_server_that_is_told_nothing_keeps_its_documents_in_the_users_data_directory(
    origin: Origin, tmp_path: Path
) -> None:
    (url,) = origin.pages(1, first=1100)
    for expected in (0, 1):
        with open_server("native", {"XDG_DATA_HOME": str(tmp_path)}) as server:
            assert hits(crawl(server, [url])) == expected
    folder = tmp_path / "eventmesh"
    assert (folder / "documents.sqlite").is_file()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("store", "kept"), [("memory:", 0), ("sqlite:{}/mine", 1)])
def test_the_store_flag_says_where_documents_are_kept(
    store: str, kept: int, origin: Origin, tmp_path: Path
) -> None:
    (url,) = origin.pages(1, first=1200 + kept)
    command = [*command_of("native"), "--store", store.format(tmp_path)]
    for expected in (0, kept):
        with open_server("native", {"XDG_DATA_HOME": "/nowhere"}, command=command) as server:
            assert hits(crawl(server, [url])) == expected
            assert health_of(server)["status"] == "ok"
    assert (tmp_path / "mine").exists() is bool(kept)


def test_a_server_that_is_killed_while_it_writes_serves_what_it_had_written(
    origin: Origin, tmp_path: Path
) -> None:
    for attempt in range(2):
        urls = origin.pages(100, first=2000 + 200 * attempt)
        with open_server("native", file_in(tmp_path)) as server:
            with open_crawl(server.address, urls, {"concurrency": 16}) as stream:
                seen = 0
                for event in stream.read_events():
                    seen += event.data["event"] == "result"
                    if seen == 60:
                        break
                written = store_of(server)["entries"]
                server.process.kill()
                server.process.wait()
        with open_server("native", file_in(tmp_path)) as server:
            wait_written(server, written)
            assert store_of(server)["set_aside"] == 0
            # What was written is served, the rest is fetched, and every URL has its result.
            results = crawl(server, urls)
            assert hits(results) >= written - 100 * attempt
            assert all(result["error"] is None for result in results)


# --- Trouble --------------------------------------------------------------------------------------


def test_a_broken_store_is_moved_away_told_of_and_a_new_one_begun(
    origin: Origin, tmp_path: Path
) -> None:
    urls = origin.pages(3, first=3000)
    with open_server("native", file_in(tmp_path)) as server:
        crawl(server, urls)
    (tmp_path / "store.sqlite").write_bytes(os.urandom(20_000))
    with open_server("native", file_in(tmp_path)) as server:
        assert hits(crawl(server, urls)) == 0
        assert hits(crawl(server, urls)) == 3
        assert store_of(server)["set_aside"] == 1
        assert "the document store was broken" in server.log
    assert (tmp_path / "store.sqlite.broken").stat().st_size == 20_000
    with open_server("native", file_in(tmp_path)) as server:
        assert hits(crawl(server, urls)) == 3
        assert store_of(server)["set_aside"] == 0


def test_a_store_that_cannot_be_opened_is_told_of_and_crawling_goes_on_in_memory(
    origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "store.sqlite").mkdir()
    urls = origin.pages(3, first=3100)
    with open_server("native", file_in(tmp_path)) as server:
        assert hits(crawl(server, urls)) == 0
        assert hits(crawl(server, urls)) == 3
        health = health_of(server)
        assert (health["store"], health["status"]) == ("memory", "failing")
        assert "directory" in health["reason"].lower()
        assert "the document store cannot be used" in server.log
        assert get_json(server.address, "/stats")["metrics"]["cache_store_up"] == 0


def test_a_full_disk_is_told_of_and_crawling_goes_on(origin: Origin, tmp_path: Path) -> None:
    settings = {**file_in(tmp_path), "EVENTMESH_CACHE__RETRY_SECONDS": "0.2"}
    with open_server("native", settings) as server:
        first = origin.pages(2, first=3200)
        crawl(server, first)
        wait_written(server, 2)
        # No file of the server grows beyond this: what a full disk does to writes.
        limit = (60_000, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        many = [origin.url(f"/large/{n}?kb=200&n={n}") for n in range(30)]
        results = crawl(server, many)
        assert all(result["error"] is None for result in results)
        wait_until(lambda: health_of(server)["status"] == "failing")
        assert health_of(server)["reason"]
        assert store_of(server)["dropped"] > 0
        assert hits(crawl(server, first)) == 2  # what it has it serves
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        time.sleep(0.3)
        crawl(server, origin.pages(1, first=3300))
        wait_until(lambda: health_of(server)["status"] == "ok")
        assert "the document store works again" in server.log


# --- Several servers ------------------------------------------------------------------------------


def test_two_servers_share_one_store(origin: Origin, tmp_path: Path) -> None:
    with (
        open_server("native", file_in(tmp_path)) as one,
        open_server("native", file_in(tmp_path)) as other,
    ):
        urls = origin.pages(20, first=4000)
        crawl(one, urls[:10])
        crawl(other, urls[10:])
        wait_written(one, 10)
        wait_until(lambda: hits(crawl(one, urls, cache_mode="read_only")) == 20)
        wait_until(lambda: hits(crawl(other, urls, cache_mode="read_only")) == 20)
        one.process.send_signal(signal.SIGTERM)
        one.process.wait(10)
        assert hits(crawl(other, urls)) == 20
        assert store_of(other)["failures"] == 0
    with open_server("native", file_in(tmp_path)) as server:
        assert hits(crawl(server, urls)) == 20


# --- One fetch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["native", "hypercorn"])
def test_a_hundred_runs_of_one_url_at_once_are_one_fetch(
    kind: Any, origin: Origin, tmp_path: Path
) -> None:
    path = f"/slow/{kind}-together"
    url = origin.url(f"{path}?ms=1500")
    with open_server(kind, file_in(tmp_path)) as server, ExitStack() as stack:
        streams = [stack.enter_context(open_crawl(server.address, [url])) for _ in range(100)]
        results = []
        for stream in streams:
            events = [event.data for event in stream.read_events()]
            results += [event for event in events if event["event"] == "result"]
        assert origin.requests[path] == 1
        assert len(results) == 100
        assert hits(results) == 99
        assert all(result["error"] is None for result in results)
        assert get_json(server.address, "/stats")["cache"]["shared"] == 99


# --- Confirmed by the origin ----------------------------------------------------------------------


class Versions:
    """An origin whose pages have a version and are to be asked for each time."""

    def __init__(self) -> None:
        self.version = 1
        self.statuses: list[int] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        tag = f'"v{self.version}"'
        known = handler.headers["If-None-Match"] == tag
        body = b"" if known else f"<p>This is version {self.version}.</p>".encode()
        self.statuses.append(304 if known else 200)
        handler.send_response(self.statuses[-1])
        handler.send_header("ETag", tag)
        handler.send_header("Cache-Control", "no-cache")
        if not known:
            handler.send_header("Content-Type", "text/html")
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextmanager
def open_versions() -> Iterator[tuple[Versions, str]]:
    versions = Versions()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            versions.answer(self)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield versions, f"http://127.0.0.1:{httpd.server_address[1]}/page"
        finally:
            httpd.shutdown()
            thread.join()


def test_a_stale_document_is_confirmed_by_its_origin_over_a_restart_too(tmp_path: Path) -> None:
    with open_versions() as (versions, url):
        with open_server("native", file_in(tmp_path)) as server:
            assert hits(crawl(server, [url])) == 0
            assert hits(crawl(server, [url])) == 1
        with open_server("native", file_in(tmp_path)) as server:
            (result,) = crawl(server, [url])
            assert (result["from_cache"], result["status"]) == (True, 200)
            assert "version 1" in result["result"]["document"]["text"]
            assert get_json(server.address, "/stats")["cache"]["revalidated"] == 1
            versions.version = 2
            (result,) = crawl(server, [url])
            assert not result["from_cache"]
            assert "version 2" in result["result"]["document"]["text"]
        assert versions.statuses == [200, 304, 304, 200]


def test_an_unwritable_data_directory_does_not_keep_the_server_from_serving(
    origin: Origin,
) -> None:
    with open_server("native", {"XDG_DATA_HOME": "/dev/null"}) as server:
        assert crawl(server, origin.pages(1, first=5000))[0]["error"] is None
        assert health_of(server)["status"] == "failing"


def test_a_store_that_is_none_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventmesh_trio", "serve", "--store", "redis:"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "cache.store" in done.stderr
