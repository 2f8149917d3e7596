"""The deep search as a job: its events, their order, exactly once, pauses, and how it fails."""

import random
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.errors import DependencyError, HTTPStatusError
from eventmesh_trio.mesh.hub import open_hub
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlPorts
from eventmesh_trio.pipeline.deepsearch import DeepSearchJob
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    RecordingPublisher,
    make_page,
)
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import (
    CrawlStart,
    Event,
    Metadata,
    RunError,
    SearchHit,
    SearchResult,
    SearchResults,
    SearchStart,
    SearchSummary,
    Summary,
)
from eventmesh_trio.wire.requests import DeepSearchRequest, parse_deepsearch_request

Asked = dict[str, Any]


@attrs.define(eq=False)
class FakeProvider:
    """Answers after ``seconds``: with so many hits, or with a failure."""

    count: int = 3
    seconds: float = 1.0
    failure: Exception | None = None
    name: str = "fake"
    asked: list[Asked] = attrs.field(factory=list)
    cancelled: int = 0

    def check(self, query: str) -> None:
        pass

    async def search(
        self, query: str, limit: int, *, country: str | None, locale: str | None
    ) -> Sequence[SearchHit]:
        self.asked.append({"query": query, "limit": limit, "country": country, "locale": locale})
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return [
            SearchHit(
                url=f"http://h{number}.example/",
                rank=number,
                search_title=f"Title {number}",
                search_snippet=f"Snippet {number}",
            )
            for number in range(1, min(self.count, limit) + 1)
        ]


def request_for(**members: Any) -> DeepSearchRequest:
    return parse_deepsearch_request({"query": "trio", **members})


def ports(fetcher: FakeFetcher | None = None) -> CrawlPorts:
    return CrawlPorts(
        fetcher=fetcher or FakeFetcher(),
        extractor=FakeExtractor(),
        cache=MemoryCache(),
        politeness=FakePoliteness(),
    )


def job_of(
    request: DeepSearchRequest | None = None,
    provider: FakeProvider | None = None,
    fetcher: FakeFetcher | None = None,
) -> DeepSearchJob:
    return DeepSearchJob(
        request or request_for(),
        session_id="s",
        request_id="r",
        provider=provider or FakeProvider(),
        ports=ports(fetcher),
    )


async def whole(job: DeepSearchJob) -> list[Event]:
    """All events of an undisturbed run."""
    publisher = RecordingPublisher()
    events = list(job.opening())
    await job.work(publisher)
    assert job.done
    return [*events, *publisher.events, *job.closing("completed", None, None)]


# --- Events --------------------------------------------------------------------------------------


async def test_the_events_come_in_the_order_of_the_specification(autojump_clock: MockClock):
    events = await whole(job_of())
    assert [type(event) for event in events] == [
        *(Metadata, SearchStart, SearchResults, CrawlStart),
        *(SearchResult, SearchResult, SearchResult, SearchSummary, Summary),
    ]
    assert {event.request_id for event in events} == {"r"}


async def test_every_event_says_what_was_searched_found_and_crawled(autojump_clock: MockClock):
    def answer(url: str) -> Any:
        return make_page(url, status=404) if "h2" in url else make_page(url)

    provider = FakeProvider()
    request = request_for(limit=3, country="DE", locale="de")
    events = await whole(job_of(request, provider, FakeFetcher(answer=answer)))
    metadata, start, found, crawl, *results, search_summary, summary = events
    assert provider.asked == [{"query": "trio", "limit": 3, "country": "DE", "locale": "de"}]
    assert isinstance(metadata, Metadata)
    assert (metadata.stream_type, metadata.total_urls) == ("deepsearch", 3)
    assert isinstance(start, SearchStart)
    assert (start.query, start.limit, start.provider) == ("trio", 3, "fake")
    assert isinstance(found, SearchResults)
    assert (found.query, found.urls_found) == ("trio", 3)
    assert [hit.rank for hit in found.results] == [1, 2, 3]
    assert isinstance(crawl, CrawlStart)
    assert crawl.total_urls == 3
    by_rank = {event.rank: event for event in results if isinstance(event, SearchResult)}
    good, bad = by_rank[1], by_rank[2]
    assert (good.url, good.search_title) == ("http://h1.example/", "Title 1")
    assert good.search_snippet == "Snippet 1"
    assert good.content is not None
    assert good.content.title == "Title of http://h1.example/"
    assert good.content.word_count == len(good.content.markdown.split()) > 0
    assert good.crawl_result is not None
    assert (good.crawl_result.status, good.crawl_result.quality_score) == (200, 0.8)
    assert good.crawl_result.from_cache is False
    assert good.error is UNSET
    assert bad.content is None
    assert bad.crawl_result is not None
    assert bad.crawl_result.status == 404
    assert bad.error is not UNSET
    assert (bad.error.type, bad.error.error_code) == (HTTPStatusError.type, "HTTP_404")
    assert isinstance(search_summary, SearchSummary)
    assert isinstance(summary, Summary)
    assert (search_summary.urls_found, search_summary.urls_crawled) == (3, 3)
    assert (search_summary.successful, search_summary.failed) == (2, 1)
    assert search_summary.status == summary.status == "completed"
    assert (summary.total_urls, summary.successful, summary.failed) == (3, 2, 1)
    assert search_summary.total_processing_time_ms == summary.total_time_ms >= 1000


async def test_results_come_as_they_are_ready_not_by_rank(autojump_clock: MockClock):
    fetcher = FakeFetcher(delay=lambda url: 9.0 if "h1." in url else 1.0)
    events = await whole(job_of(fetcher=fetcher))
    assert [event.rank for event in events if isinstance(event, SearchResult)][-1] == 1


async def test_the_options_of_the_crawl_are_the_requests(autojump_clock: MockClock):
    fetcher = FakeFetcher()
    request = request_for(
        crawl_options={"concurrency": 1, "user_agent": "mine", "cache_mode": "off"}
    )
    await whole(job_of(request, FakeProvider(5), fetcher))
    assert fetcher.most_at_once == 1
    assert {options.user_agent for options in fetcher.options} == {"mine"}


async def test_without_content_nothing_is_crawled(autojump_clock: MockClock):
    fetcher = FakeFetcher()
    events = await whole(job_of(request_for(include_content=False), fetcher=fetcher))
    assert [type(event) for event in events] == [
        *(Metadata, SearchStart, SearchResults, SearchSummary, Summary)
    ]
    assert fetcher.started == []
    *_, search_summary, summary = events
    assert isinstance(search_summary, SearchSummary)
    assert isinstance(summary, Summary)
    assert (search_summary.urls_found, search_summary.urls_crawled) == (3, 0)
    assert summary.total_urls == 0


async def test_a_search_that_finds_nothing_is_complete(autojump_clock: MockClock):
    events = await whole(job_of(provider=FakeProvider(0)))
    assert [type(event) for event in events] == [
        *(Metadata, SearchStart, SearchResults, CrawlStart, SearchSummary, Summary)
    ]


async def test_text_that_was_cut_says_so(autojump_clock: MockClock):
    class Cutting(FakeExtractor):
        async def extract(self, page: Any, mode: Any, max_text_chars: Any) -> Any:
            found = await super().extract(page, mode, max_text_chars)
            document = msgspec.structs.replace(found.document, truncated=True)
            return attrs.evolve(found, document=document)

    job = DeepSearchJob(
        request_for(),
        session_id="s",
        request_id="r",
        provider=FakeProvider(1),
        ports=attrs.evolve(ports(), extractor=Cutting()),
    )
    (result,) = [event for event in await whole(job) if isinstance(event, SearchResult)]
    assert result.content is not None
    assert result.content.truncated is True


# --- Progress ------------------------------------------------------------------------------------


async def test_progress_tells_of_the_search_and_then_of_the_crawl(autojump_clock: MockClock):
    job = job_of(request_for(limit=7), fetcher=FakeFetcher(delay=lambda _: 5.0))
    phases: list[tuple[str, int, int]] = []

    def look() -> None:
        progress = job.progress()
        assert progress.total == job.total
        phases.append((progress.phase, progress.completed, progress.total))

    look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, RecordingPublisher())
        await trio.sleep(0.5)
        look()
        await trio.sleep(1.5)
        look()
    look()
    assert phases == [("search", 0, 7), ("search", 0, 7), ("fetch", 0, 3), ("done", 3, 3)]
    assert job_of(request_for(include_content=False)).total == 0


# --- Pause, cancel, exactly once -----------------------------------------------------------------


async def test_a_search_that_is_paused_is_made_again_and_told_once(autojump_clock: MockClock):
    provider = FakeProvider()
    job, publisher = job_of(provider=provider), RecordingPublisher()
    with trio.move_on_after(0.5):
        await job.work(publisher)
    assert (job.done, publisher.events, provider.cancelled) == (False, [], 1)
    await job.work(publisher)
    assert job.done
    assert len(provider.asked) == 2
    assert [type(event) for event in publisher.events].count(SearchResults) == 1


async def test_an_answer_that_waits_for_room_is_not_asked_for_again(autojump_clock: MockClock):
    provider = FakeProvider()
    job, publisher = job_of(provider=provider), RecordingPublisher()
    publisher.take_room()
    with trio.move_on_after(2):
        await job.work(publisher)
    assert publisher.events == []
    provider.failure = DependencyError("it is down by now")
    publisher.give_room()
    await job.work(publisher)
    assert job.done
    assert len(provider.asked) == 1


async def test_a_search_that_waits_for_room_has_been_answered(autojump_clock: MockClock):
    job, publisher = job_of(), RecordingPublisher()
    publisher.take_room()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, publisher)
        assert await job.first_answer.wait() is None
        await wait_all_tasks_blocked()
        assert publisher.events == []
        publisher.give_room()
    assert job.done


@pytest.mark.parametrize("seed", range(40))
async def test_every_event_is_published_once_whatever_is_cancelled_when(
    seed: int, autojump_clock: MockClock
):
    rng = random.Random(seed)
    fetcher = FakeFetcher(delay=lambda _: rng.uniform(0, 2))
    job = job_of(request_for(limit=20), FakeProvider(20, seconds=1.0), fetcher)
    publisher = RecordingPublisher()
    for _ in range(200):
        with trio.move_on_after(rng.uniform(0, 2.5)):
            await job.work(publisher)
        if job.done:
            break
    assert job.done
    found, crawl, *results = publisher.events
    assert (type(found), type(crawl)) == (SearchResults, CrawlStart)
    ranks = [event.rank for event in results if isinstance(event, SearchResult)]
    assert sorted(ranks) == list(range(1, 21))
    assert len(results) == 20


async def test_the_time_of_a_search_counts_and_that_of_a_pause_does_not(
    autojump_clock: MockClock,
):
    job, publisher = job_of(fetcher=FakeFetcher(delay=lambda _: 2.0)), RecordingPublisher()
    with trio.move_on_after(0.5):
        await job.work(publisher)
    await trio.sleep(1000)
    await job.work(publisher)
    *_, summary = job.closing("completed", None, None)
    assert isinstance(summary, Summary)
    assert summary.total_time_ms == pytest.approx(500 + 1000 + 2000, abs=50)


@pytest.mark.parametrize(("after", "completed"), [(0.5, 0), (2.5, 2)])
async def test_a_cancelled_search_accounts_for_what_there_was(
    after: float, completed: int, autojump_clock: MockClock
):
    fetcher = FakeFetcher(delay=lambda url: 1.0 if "h3" not in url else 50.0)
    job, publisher = job_of(fetcher=fetcher), RecordingPublisher()
    with trio.move_on_after(after):
        await job.work(publisher)
    search_summary, summary = job.closing("cancelled", "client", None)
    assert isinstance(search_summary, SearchSummary)
    assert isinstance(summary, Summary)
    found = 3 if after > 1 else 0
    assert (search_summary.urls_found, search_summary.urls_crawled) == (found, completed)
    assert summary.total_urls == job.total == found
    assert summary.successful + summary.failed + summary.cancelled == summary.total_urls
    assert search_summary.status == summary.status == "cancelled"
    assert summary.reason == "client"
    assert await job.first_answer.wait() is None  # what follows is told by the events


# --- Failure, through the hub --------------------------------------------------------------------


async def run_in_hub(job: DeepSearchJob, **how: Any) -> tuple[list[Event], Any]:
    async with open_hub() as hub:
        session = hub.open_session()
        spec = ReaderSpec(encoder_for=lambda _: HTTPEncoder("ndjson"), until="run", request_id="r")
        run, reader = hub.start_run(session, job, request_id="r", reader=spec, **how)
        assert reader is not None
        events: list[Event] = []
        while True:
            try:
                events.append(await reader.receive())
            except trio.EndOfChannel:
                break
        reader.close()
        return [event for event in events if event.id is not UNSET], run


async def test_a_provider_that_fails_is_the_runs_error_then_both_summaries(
    autojump_clock: MockClock,
):
    failure = DependencyError("no", context={"provider": "fake", "reason": "timeout"})
    job = job_of(provider=FakeProvider(failure=failure))
    events, run = await run_in_hub(job)
    assert [type(event) for event in events] == [
        *(Metadata, SearchStart, RunError, SearchSummary, Summary)
    ]
    error, search_summary, summary = events[2:]
    assert isinstance(error, RunError)
    assert error.url is UNSET
    assert (error.error.type, error.error.retryable) == ("dependency_error", True)
    assert error.error.context == {"provider": "fake", "reason": "timeout"}
    assert isinstance(search_summary, SearchSummary)
    assert isinstance(summary, Summary)
    assert search_summary.status == summary.status == "failed"
    assert summary.total_urls == run.total == 0
    assert await job.first_answer.wait() is failure


async def test_a_bug_of_a_provider_is_contained_in_its_run(autojump_clock: MockClock):
    events, _ = await run_in_hub(job_of(provider=FakeProvider(failure=ZeroDivisionError("x"))))
    error = events[2]
    assert isinstance(error, RunError)
    assert error.error.type == "internal_error"
    assert "x" not in error.error.message.split()


async def test_a_run_out_of_time_while_it_searches_is_timed_out(autojump_clock: MockClock):
    job = job_of(provider=FakeProvider(seconds=100))
    events, run = await run_in_hub(job, timeout_seconds=5)
    assert isinstance(events[-2], SearchSummary)
    assert events[-2].status == "timed_out"
    assert run.total == 0
    assert await job.first_answer.wait() is None


async def test_the_run_knows_its_total_when_the_search_is_answered(autojump_clock: MockClock):
    async with open_hub() as hub:
        session = hub.open_session()
        job = job_of(request_for(limit=9), fetcher=FakeFetcher(delay=lambda _: 5.0))
        run, _ = hub.start_run(session, job, request_id="r")
        assert (run.total, run.kind) == (9, "deepsearch")
        await trio.sleep(2)
        assert run.total == run.document().total == run.statistics().total == 3
        await run.wait_ended()
        assert run.document().total == run.counts.successful == 3
