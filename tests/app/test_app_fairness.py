"""Runs side by side on the real server: a large one does not starve a small one, at no stage."""

import threading
import uuid
from contextlib import suppress

import h11
import requests

from tests.helpers.origin import Origin
from tests.helpers.raw import open_crawl
from tests.helpers.servers import ServerProcess


def asked(origin: Origin, path: str) -> int:
    """How many pages below a path the origin was asked for."""
    return sum(count for page, count in origin.requests.copy().items() if page.startswith(path))


def test_a_run_of_10_000_urls_on_a_host_does_not_starve_a_run_of_20(
    server: ServerProcess, origin: Origin
) -> None:
    mark = uuid.uuid4().hex[:8]
    big = [origin.url(f"/slow/{mark}-big-{n}?ms=60", host=2) for n in range(10_000)]
    small = [origin.url(f"/slow/{mark}-small-{n}?ms=60", host=2) for n in range(20)]
    begun = threading.Event()
    seen: list[str] = []

    with open_crawl(server.address, big, {"concurrency": 64}) as large:

        def read() -> None:
            with suppress(OSError, h11.RemoteProtocolError):  # the test hangs up
                for event in large.read_events():
                    seen.append(event.kind)
                    if seen.count("result") >= 40:
                        begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert begun.wait(30), seen[-5:]
            before = asked(origin, f"/slow/{mark}-big-")
            with open_crawl(server.address, small, {"concurrency": 20}) as stream:
                events = list(stream.read_events())
            meanwhile = asked(origin, f"/slow/{mark}-big-") - before
            assert "summary" not in seen
        finally:
            large.socket.shutdown(2)
            reader.join(20)
    summary = events[-1].data
    assert (events[-1].kind, summary["successful"], summary["failed"]) == ("summary", 20, 0)
    # As many as the small one had while it waited, and those that its last pages were read beside.
    # First come, first served would be 64 for each 20.
    assert meanwhile <= 50
    assert asked(origin, f"/slow/{mark}-big-") >= 40


def test_what_politeness_does_is_in_the_metrics_and_names_no_host(
    server: ServerProcess, origin: Origin
) -> None:
    before = requests.get(f"{server.base_url}/stats", timeout=10).json()["metrics"]
    url = origin.url(f"/busy/{uuid.uuid4().hex}?seconds=3", host=3)
    with open_crawl(server.address, [url], {"max_retries": 0, "respect_robots": True}) as stream:
        assert list(stream.read_events())[-1].kind == "summary"
    now = requests.get(f"{server.base_url}/stats", timeout=10).json()["metrics"]
    assert now["politeness_back_offs_total"] == before["politeness_back_offs_total"] + 1
    assert now["politeness_backing_off_hosts"] == before["politeness_backing_off_hosts"] + 1
    assert now["robots_misses_total"] == before["robots_misses_total"] + 1
    assert now["robots_files"] >= 1
    assert now["politeness_waiting_urls"] == 0
    text = requests.get(f"{server.base_url}/metrics", timeout=10).text
    assert "127.0.0.4" not in text
