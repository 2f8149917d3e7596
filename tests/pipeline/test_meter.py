"""What the stages tell their meter, from which the metrics are made."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import NetworkFailure, ParseFailure
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlPorts
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    RecordingPublisher,
    make_page,
)
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest


@attrs.define(eq=False)
class RecordingMeter:
    retries: int = 0
    fetches: list[tuple[float, int]] = attrs.field(factory=list)
    extractions: list[float] = attrs.field(factory=list)
    decisions: list[str] = attrs.field(factory=list)
    renders: list[str] = attrs.field(factory=list)
    outcomes: list[str] = attrs.field(factory=list)

    def retried(self) -> None:
        self.retries += 1

    def fetched(self, seconds: float, wire_bytes: int) -> None:
        self.fetches.append((seconds, wire_bytes))

    def extracted(self, seconds: float) -> None:
        self.extractions.append(seconds)

    def gated(self, decision: str) -> None:
        self.decisions.append(decision)

    def rendered(self, outcome: str) -> None:
        self.renders.append(outcome)

    def settled(self, outcome: str, urls: int = 1) -> None:
        self.outcomes += [outcome] * urls


def ports(
    answer: Callable[[str], Page | Exception] = make_page, **others: Any
) -> tuple[CrawlPorts, RecordingMeter]:
    meter = RecordingMeter()
    made: dict[str, Any] = {
        "extractor": FakeExtractor(),
        "cache": MemoryCache(),
        "politeness": FakePoliteness(),
        **others,
    }
    return CrawlPorts(fetcher=FakeFetcher(answer), meter=meter, **made), meter


async def crawl(used: CrawlPorts, *urls: str, **options: Any) -> None:
    job = CrawlJob(
        CrawlRequest(urls=urls, options=CrawlOptions(**options)),
        session_id="s",
        request_id="r",
        ports=used,
    )
    await job.work(RecordingPublisher())


async def test_each_url_is_settled_once_by_how_it_ended() -> None:
    def answer(url: str) -> Page | Exception:
        if url.endswith("/lost"):
            return NetworkFailure("refused")
        return make_page(url, status=404 if url.endswith("/gone") else 200)

    used, meter = ports(answer)
    urls = [f"http://e.org/{name}" for name in ("a", "gone", "lost")]
    await crawl(used, *urls, max_retries=0)
    assert sorted(meter.outcomes) == ["http_error", "network_error", "ok"]
    await crawl(used, "http://e.org/a")
    assert meter.outcomes[3:] == ["cached"]
    assert (len(meter.fetches), len(meter.extractions)) == (2, 1)


async def test_what_a_run_leaves_when_it_is_cancelled_is_settled_as_cancelled() -> None:
    used, meter = ports()
    job = CrawlJob(
        CrawlRequest(urls=[f"http://e.org/{name}" for name in "abbc"]),
        session_id="s",
        request_id="r",
        ports=used,
    )
    publisher = RecordingPublisher()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.work, publisher)
            while not meter.outcomes:
                await trio.lowlevel.checkpoint()
            publisher.take_room()
            await wait_all_tasks_blocked()
            scope.cancel()
    job.closing("cancelled", "client", None)
    done = len(meter.outcomes) - meter.outcomes.count("cancelled")
    assert len(meter.outcomes) == 3  # of four URLs two are one
    assert 1 <= done < 3
    assert set(meter.outcomes) == {"ok", "cancelled"}


async def test_a_page_is_settled_by_its_first_result_though_more_were_asked_for() -> None:
    used, meter = ports()
    job = CrawlJob(
        CrawlRequest(urls=["http://e.org/a"] * 50), session_id="s", request_id="r", ports=used
    )
    publisher = RecordingPublisher()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.work, publisher)
            while not meter.outcomes:
                await trio.lowlevel.checkpoint()
            publisher.take_room()
            await wait_all_tasks_blocked()
            scope.cancel()
    assert 1 <= job.counts.successful < 50
    job.closing("cancelled", "client", None)
    assert meter.outcomes == ["ok"]


async def test_a_page_that_cannot_be_read_is_told_as_such() -> None:
    used, meter = ports(extractor=FakeExtractor(answer=lambda _: ParseFailure("too deep")))
    await crawl(used, "http://e.org/a")
    assert meter.outcomes == ["parse_error"]
    assert len(meter.extractions) == 1


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_every_attempt_after_the_first_is_a_retry_and_its_bytes_count(
    autojump_clock: object, failures: int
) -> None:
    asked = 0

    def answer(url: str) -> Page:
        nonlocal asked
        asked += 1
        return make_page(url, b"x" * 10, status=503 if asked <= failures else 200)

    used, meter = ports(answer)
    await crawl(used, "http://e.org/a", max_retries=3)
    assert meter.retries == failures
    assert sum(nbytes for _, nbytes in meter.fetches) == 10 * (failures + 1)
    assert meter.outcomes == ["ok"]


async def test_the_time_of_an_extraction_is_that_of_its_page(autojump_clock: object) -> None:
    used, meter = ports(extractor=FakeExtractor(delay=lambda page: float(page.final_url[-1])))
    await crawl(used, "http://e.org/1", "http://e.org/3")
    assert meter.extractions == pytest.approx([1.0, 3.0])
