from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import structlog
import trio
import trio.testing
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.abc import CacheEntry, Extraction, KeysAhead, Page
from eventmesh_trio.errors import (
    BlockedAddress,
    CircuitOpen,
    NetworkFailure,
    ParseFailure,
    PipelineFailure,
    RobotsDenied,
)
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlLimits, CrawlPorts
from eventmesh_trio.pipeline.fetching.retry import RetryLimits
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    FakeTurn,
    RecordingPublisher,
    make_extraction,
    make_page,
)
from eventmesh_trio.wire.events import Metadata, PageResult, Result, RunError, Start, Summary
from eventmesh_trio.wire.requests import CacheMode, CrawlOptions, CrawlRequest, parse_crawl_request
from eventmesh_trio.wire.urls import cache_key, parse_url


def urls(count: int) -> list[str]:
    return [f"https://example.org/{number}" for number in range(count)]


@attrs.define(eq=False)
class Bench:
    """A crawl on fakes, and what it published."""

    fetcher: FakeFetcher = attrs.field(factory=FakeFetcher)
    extractor: FakeExtractor = attrs.field(factory=FakeExtractor)
    cache: Any = attrs.field(factory=MemoryCache)
    politeness: FakePoliteness = attrs.field(factory=FakePoliteness)
    publisher: RecordingPublisher = attrs.field(factory=RecordingPublisher)
    limits: CrawlLimits = attrs.field(factory=CrawlLimits)

    def job(self, what: list[str], **options: Any) -> CrawlJob:
        options.setdefault("max_retries", 0)
        return CrawlJob(
            CrawlRequest(urls=tuple(what), options=CrawlOptions(**options)),
            session_id="session-1",
            request_id="req-1",
            ports=CrawlPorts(
                fetcher=self.fetcher,
                extractor=self.extractor,
                cache=self.cache,
                politeness=self.politeness,
            ),
            limits=self.limits,
        )

    async def crawl(self, what: list[str], **options: Any) -> CrawlJob:
        job = self.job(what, **options)
        await job.work(self.publisher)
        assert job.done
        return job

    @property
    def results(self) -> list[Result]:
        return [event for event in self.publisher.events if isinstance(event, Result)]

    @property
    def pages(self) -> list[PageResult]:
        """The nested results in the order of the request."""
        return [page_of(event) for event in sorted(self.results, key=lambda event: event.index)]


def page_of(event: Result) -> PageResult:
    assert event.result is not UNSET
    return event.result


def summary_of(job: CrawlJob, status: Any = "completed", reason: str | None = None) -> Summary:
    (summary,) = job.closing(status, reason, None)
    assert isinstance(summary, Summary)
    return summary


def pages_by_path(**answers: Page | Exception) -> Callable[[str], Page | Exception]:
    return lambda url: answers.get(url.rpartition("/")[2], make_page(url))


# --- The whole way ------------------------------------------------------------------------------


async def test_every_url_gets_one_result_with_its_document(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda url: hash(url) % 7 / 10))
    job = await bench.crawl(urls(40))
    assert sorted(event.index for event in bench.results) == list(range(40))
    for number, page in enumerate(bench.pages):
        assert page.url == urls(40)[number]
        assert page.document is not None
        assert (page.status, page.error, page.from_cache) == (200, None, False)
        assert page.cache_key == cache_key(parse_url(page.url), CrawlOptions().extraction_key)
    assert (job.counts.completed, job.counts.successful, job.counts.failed) == (40, 40, 0)


async def test_the_progress_inside_results_counts_them_in_their_order() -> None:
    bench = Bench(FakeFetcher(answer=pages_by_path(**{"1": NetworkFailure("refused")})))
    await bench.crawl(urls(4), concurrency=1)
    inside = [event.progress for event in bench.results]
    assert [progress.completed for progress in inside] == [1, 2, 3, 4]
    assert [progress.success_rate for progress in inside] == [1.0, 0.5, 0.6667, 0.75]
    assert bench.publisher.touches == 4


def test_the_opening_says_what_is_to_come_and_leaves_readers_members_unset() -> None:
    job = Bench(limits=CrawlLimits(max_fetches=3)).job(urls(7), concurrency=9, max_text_chars=50)
    metadata, start = job.opening()
    assert isinstance(metadata, Metadata)
    assert isinstance(start, Start)
    assert (metadata.total_urls, metadata.session_id, metadata.request_id) == (
        7,
        "session-1",
        "req-1",
    )
    assert (metadata.stream_type, metadata.buffer_info, metadata.performance_config) == (
        "crawl",
        UNSET,
        UNSET,
    )
    assert start.total_urls == 7
    assert set(start.options) == set(CrawlOptions.__struct_fields__)
    assert start.options["max_text_chars"] == 50
    assert start.options["concurrency"] == 3  # what is in force, not what was asked for


async def test_the_options_of_start_are_accepted_as_options_again() -> None:
    options = CrawlOptions(timeout_seconds=7.5, cache_mode="read_only", user_agent="me")
    job = CrawlJob(
        CrawlRequest(urls=("https://example.org/",), options=options),
        session_id="s",
        request_id="r",
        ports=CrawlPorts(FakeFetcher(), FakeExtractor(), MemoryCache(), FakePoliteness()),
    )
    start = job.opening()[1]
    assert isinstance(start, Start)
    body = {"urls": ["https://example.org/"], "options": dict(start.options)}
    assert parse_crawl_request(body, max_urls=1).options == options


async def test_no_more_fetches_run_at_once_than_asked_for(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 1.0))
    await bench.crawl(urls(20), concurrency=4)
    assert bench.fetcher.most_at_once == 4
    assert trio.current_time() == pytest.approx(5.0, abs=0.01)


async def test_the_servers_limit_clamps_concurrency(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 1.0), limits=CrawlLimits(max_fetches=2))
    await bench.crawl(urls(6), concurrency=64)
    assert bench.fetcher.most_at_once == 2


async def test_no_more_extractions_run_at_once_than_the_limit(autojump_clock: MockClock) -> None:
    bench = Bench(
        extractor=FakeExtractor(delay=lambda _: 1.0), limits=CrawlLimits(max_extractions=3)
    )
    await bench.crawl(urls(9), concurrency=8)
    assert bench.extractor.most_at_once == 3


@pytest.mark.parametrize("limits", [{"max_fetches": 0}, {"max_extractions": 0}])
def test_limits_that_would_stop_everything_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        CrawlLimits(**limits)


async def test_nothing_is_fetched_ahead_while_readers_have_no_room(
    autojump_clock: MockClock,
) -> None:
    bench = Bench()
    bench.publisher.take_room()
    job = bench.job(urls(100), concurrency=3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, bench.publisher)
        await wait_all_tasks_blocked()
        # One with the publisher, and one in the hands of each fetcher and each extractor.
        assert len(bench.fetcher.started) <= 7
        assert bench.results == []
        bench.publisher.give_room()
    assert len(bench.results) == 100


# --- Failures of one URL ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        NetworkFailure("refused"),
        BlockedAddress("not public"),
        RobotsDenied("robots.txt says no"),
    ],
    ids=lambda failure: str(failure.type),
)
async def test_a_fetch_that_fails_is_its_urls_result_and_no_other_suffers(
    failure: NetworkFailure,
) -> None:
    bench = Bench(FakeFetcher(answer=pages_by_path(**{"1": failure})))
    job = await bench.crawl(urls(3))
    page = bench.pages[1]
    assert page.error is not None
    assert (page.error.type, page.error.message) == (failure.type, failure.message)
    assert (page.status, page.document) == (0, None)
    assert bench.results[0].pipeline_metadata.processing_stages[0] == "fetch"
    assert (job.counts.successful, job.counts.failed) == (2, 1)
    assert [p.error for p in bench.pages if p is not page] == [None, None]


async def test_an_error_page_keeps_its_status_and_is_not_extracted() -> None:
    missing = make_page(urls(1)[0], status=404, final_url="https://example.org/gone")
    bench = Bench(FakeFetcher(answer=lambda _: missing))
    await bench.crawl(urls(1))
    (page,) = bench.pages
    assert page.error is not None
    assert (page.status, page.document, page.error.type) == (404, None, "http_error")
    assert (page.error.error_code, page.error.retryable) == ("HTTP_404", False)
    assert page.error.context == {
        "attempt_number": 1,
        "max_retries": 0,
        "timeout_threshold_ms": 30_000,
    }
    assert page.final_url == "https://example.org/gone"
    assert bench.extractor.extracted == []


async def test_a_page_that_cannot_be_read_keeps_its_status() -> None:
    bench = Bench(
        FakeFetcher(answer=lambda url: make_page(url, status=203)),
        FakeExtractor(answer=lambda _: ParseFailure("too deep")),
    )
    await bench.crawl(urls(1))
    (page,) = bench.pages
    assert page.error is not None
    assert (page.status, page.document, page.error.type) == (203, None, "parse_error")
    stages = bench.results[0].pipeline_metadata.processing_stages
    assert stages == ("fetch", "decode", "parse", "gate", "extract")


async def test_a_url_whose_time_is_up_fails_with_what_it_had(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda url: 60.0 if url.endswith("/1") else 1.0))
    await bench.crawl(urls(3), timeout_seconds=2.5, max_retries=2)
    page = bench.pages[1]
    assert page.error is not None
    assert (page.status, page.error.type, page.error.error_code) == (0, "timeout", "NET_TIMEOUT")
    assert page.error.context == {
        "attempt_number": 1,
        "max_retries": 2,
        "timeout_threshold_ms": 2500,
    }
    assert page.processing_time_ms == pytest.approx(2500, abs=5)
    assert bench.fetcher.cancelled == [urls(3)[1]]
    assert [bench.pages[number].error for number in (0, 2)] == [None, None]


async def test_the_urls_time_covers_its_retries(autojump_clock: MockClock) -> None:
    bench = Bench(
        FakeFetcher(answer=lambda _: NetworkFailure("reset"), delay=lambda _: 1.0),
        limits=CrawlLimits(retry=RetryLimits(first_delay_seconds=0, max_delay_seconds=0)),
    )
    await bench.crawl(urls(1), timeout_seconds=3.5, max_retries=10)
    (page,) = bench.pages
    assert page.error is not None
    assert page.error.context["attempt_number"] == 4
    assert page.error.type == "timeout"
    assert trio.current_time() == pytest.approx(3.5, abs=0.01)


async def test_a_failure_that_passes_is_tried_again(autojump_clock: MockClock) -> None:
    answers = iter([NetworkFailure("reset"), make_page(urls(1)[0], status=503)])
    bench = Bench(FakeFetcher(answer=lambda url: next(answers, make_page(url))))
    await bench.crawl(urls(1), max_retries=2)
    assert bench.pages[0].error is None
    assert len(bench.fetcher.started) == 3


async def test_waiting_for_a_turn_does_not_use_up_a_urls_time(autojump_clock: MockClock) -> None:
    bench = Bench(
        FakeFetcher(delay=lambda _: 1.0), politeness=FakePoliteness(delay=lambda _: 100.0)
    )
    await bench.crawl(urls(3), concurrency=1, timeout_seconds=2)
    assert [page.error for page in bench.pages] == [None] * 3
    assert bench.politeness.held == 0


async def test_an_origin_that_stalls_its_robots_txt_uses_up_the_urls_time(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(politeness=FakePoliteness(check_delay=lambda _: 60.0))
    await bench.crawl(urls(1), timeout_seconds=2)
    (page,) = bench.pages
    assert page.error is not None
    assert page.error.type == "timeout"
    assert trio.current_time() == pytest.approx(2.0, abs=0.01)


async def test_robots_txt_is_asked_about_the_url_and_about_each_redirect() -> None:
    asked: list[str] = []

    def refusal(url: str) -> Exception | None:
        asked.append(url)
        return RobotsDenied("not there") if url.endswith("/private") else None

    moved = make_page(urls(1)[0], final_url="https://example.org/private")
    bench = Bench(FakeFetcher(answer=lambda _: moved), politeness=FakePoliteness(refusal=refusal))
    await bench.crawl(urls(1))
    assert asked == [urls(1)[0], "https://example.org/private"]
    assert bench.pages[0].error is not None
    assert bench.pages[0].error.type == "robots_denied"
    assert bench.politeness.held == 0


async def test_a_failure_before_the_turn_leaves_the_urls_time_running(
    autojump_clock: MockClock,
) -> None:
    class Refusing(FakePoliteness):
        @asynccontextmanager
        async def turn(
            self, url: str, options: CrawlOptions, run: str = ""
        ) -> AsyncIterator[FakeTurn]:
            await trio.sleep(1)
            raise CircuitOpen("left alone", retry_after_seconds=2.0)
            yield FakeTurn(self)

    bench = Bench(politeness=Refusing())
    await bench.crawl(urls(1), timeout_seconds=5, max_retries=10)
    assert bench.pages[0].error is not None
    assert bench.pages[0].error.type == "circuit_open"
    # Three turns that were waited for, and two waits of the URL's own time; a third is too long.
    assert trio.current_time() == pytest.approx(7.0, abs=0.01)


async def test_a_turn_is_given_back_when_the_urls_time_is_up(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 60.0))
    await bench.crawl(urls(2), timeout_seconds=1)
    assert bench.politeness.held == 0


async def test_a_bug_in_the_handling_of_one_url_is_its_internal_error_and_is_logged() -> None:
    bench = Bench(
        FakeFetcher(answer=pages_by_path(**{"0": ZeroDivisionError("secret detail")})),
        FakeExtractor(
            answer=lambda page: (
                KeyError("secret detail") if page.url.endswith("/1") else make_extraction(page)
            )
        ),
    )
    with structlog.testing.capture_logs() as logs:
        await bench.crawl(urls(3))
    for page, status in zip(bench.pages[:2], (0, 200), strict=True):
        assert page.error is not None
        assert (page.error.type, page.status, page.document) == ("internal_error", status, None)
        assert "secret" not in page.error.message
    assert bench.pages[2].error is None
    assert {(log["url"], log["stage"]) for log in logs} == {
        (urls(2)[0], "fetch"),
        (urls(2)[1], "extraction"),
    }
    assert all(isinstance(log["exc_info"], Exception) for log in logs)
    assert all(log["request_id"] == "req-1" for log in logs)


async def test_a_group_of_bugs_is_contained_like_one_bug() -> None:
    group = ExceptionGroup("from a nursery", [ValueError("a"), ValueError("b")])
    bench = Bench(FakeFetcher(answer=lambda _: group))
    with structlog.testing.capture_logs() as logs:
        await bench.crawl(urls(1))
    assert bench.pages[0].error is not None
    assert bench.pages[0].error.type == "internal_error"
    assert logs[0]["exc_info"] is group


async def test_a_bug_at_the_moment_of_a_pause_neither_fails_the_run_nor_loses_the_url() -> None:
    class Clumsy(FakeFetcher):
        async def fetch(self, url: str, options: CrawlOptions, **hooks: Any) -> Page:
            async def stumble() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("while closing")

            if not self.started:
                self.started.append(url)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stumble)
                    await trio.sleep_forever()
            return await super().fetch(url, options, **hooks)

    bench = Bench(Clumsy())
    job = bench.job(urls(1))
    with structlog.testing.capture_logs() as logs:
        await paused_after(job, bench.publisher, wait_all_tasks_blocked)
    assert logs[0]["stage"] == "fetch"
    assert bench.results == []
    await job.work(bench.publisher)
    assert bench.pages[0].error is None


async def test_a_pause_is_not_a_bug_of_a_port_that_uses_nurseries() -> None:
    class Busy(FakeFetcher):
        async def fetch(self, url: str, options: CrawlOptions, **hooks: Any) -> Page:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
            raise AssertionError("unreachable")

    bench = Bench(Busy())
    with structlog.testing.capture_logs() as logs:
        await paused_after(bench.job(urls(3)), bench.publisher, wait_all_tasks_blocked)
    assert logs == []
    assert bench.results == []


async def test_a_bug_of_the_publisher_fails_the_work_and_gives_the_leases_back() -> None:
    class Broken(RecordingPublisher):
        def publish(self, event: object) -> None:
            raise LookupError("a bug")

    bench = Bench()
    job = bench.job(urls(5))
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        await job.work(Broken())
    assert not job.done
    assert job.counts.completed == 0
    error, summary = job.closing("failed", None, PipelineFailure("the run failed"))
    assert isinstance(error, RunError)
    assert isinstance(summary, Summary)
    assert (error.url, error.error.error_code) == (UNSET, "PIPELINE")
    assert (summary.status, summary.cancelled) == ("failed", 5)


# --- The cache ----------------------------------------------------------------------------------


async def test_a_second_crawl_is_served_from_the_cache() -> None:
    bench = Bench(
        FakeFetcher(answer=lambda url: make_page(url, final_url="https://example.org/moved"))
    )
    await bench.crawl(urls(1))
    bench.publisher = RecordingPublisher()
    job = await bench.crawl(urls(1))
    (page,) = bench.pages
    assert (page.from_cache, page.gate_decision, page.original_gate_decision) == (
        True,
        "cached",
        "raw",
    )
    assert (page.status, page.final_url) == (200, "https://example.org/moved")
    assert page.document is not None
    assert bench.results[0].pipeline_metadata.processing_stages == ("cache",)
    assert len(bench.fetcher.started) == len(bench.extractor.extracted) == 1
    summary = summary_of(job)
    assert (summary.from_cache, summary.cache_hit_rate) == (1, 1.0)
    assert summary.gate_decisions == {"raw": 1, "probes_first": 0, "headless": 0, "cached": 1}
    assert summary.performance_summary.total_bytes_transferred == 0


@pytest.mark.parametrize(
    ("first", "second", "fetches"),
    [
        ("read_write", "read_only", 1),
        ("write_only", "read_write", 1),
        ("read_write", "write_only", 2),
        ("read_write", "disabled", 2),
        ("read_only", "read_write", 2),
        ("disabled", "read_write", 2),
    ],
)
async def test_the_cache_mode_says_what_is_read_and_written(
    first: CacheMode, second: CacheMode, fetches: int
) -> None:
    bench = Bench()
    await bench.crawl(urls(1), cache_mode=first)
    await bench.crawl(urls(1), cache_mode=second)
    assert len(bench.fetcher.started) == fetches


async def test_other_extraction_options_are_other_documents() -> None:
    bench = Bench()
    await bench.crawl(urls(1))
    await bench.crawl(urls(1), max_text_chars=10)
    await bench.crawl(urls(1), extract_mode="raw")
    assert len(bench.fetcher.started) == 3


async def test_urls_that_share_a_short_cache_key_do_not_share_a_document() -> None:
    bench = Bench(FakeFetcher(answer=lambda url: make_page(url, url.encode())))
    seen: dict[str, str] = {}
    # The wire's key has 32 bits of digest; the query does not show in it otherwise. A site that
    # looks for two of its pages that share a key finds them; here the cache must not care.
    for number in range(300):
        seen[f"https://example.org/p?id={number}"] = cache_key(
            parse_url(f"https://example.org/p?id={number}"), ""
        )[:20]
    assert len(set(seen.values())) == 1
    await bench.crawl(list(seen))
    bench.publisher = RecordingPublisher()
    await bench.crawl(list(seen))
    for page in bench.pages:
        assert page.from_cache
        assert page.document is not None
        assert page.document.text == page.url


async def test_failures_are_not_kept() -> None:
    bench = Bench(FakeFetcher(answer=lambda url: make_page(url, status=500)))
    await bench.crawl(urls(1))
    bench.fetcher.answer = make_page
    await bench.crawl(urls(1))
    assert [event.error is None for event in bench.results] == [False, True]
    assert len(bench.fetcher.started) == 2


async def test_a_cache_that_fails_is_a_miss_and_is_logged() -> None:
    class Broken:
        async def get(
            self, key: str, mode: CacheMode, *, ahead: KeysAhead | None = None
        ) -> CacheEntry | None:
            raise OSError("disk")

        async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
            raise OSError("disk")

    bench = Bench(cache=Broken())
    with structlog.testing.capture_logs() as logs:
        await bench.crawl(urls(2))
    assert [page.error for page in bench.pages] == [None, None]
    assert [log["stage"] for log in logs] == ["cache"] * 4


async def test_a_cancelled_cache_write_publishes_nothing_twice() -> None:
    class Slow(MemoryCache):
        async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
            await trio.sleep_forever()

    bench = Bench(cache=Slow())
    job = bench.job(urls(3), concurrency=1)
    await paused_after(job, bench.publisher, wait_all_tasks_blocked)
    assert [event.index for event in bench.results] == [0]
    bench.cache.put = MemoryCache().put
    await job.work(bench.publisher)
    assert sorted(event.index for event in bench.results) == [0, 1, 2]


# --- Duplicates ---------------------------------------------------------------------------------


async def test_a_url_named_twice_is_fetched_once_and_has_a_result_for_each() -> None:
    bench = Bench()
    job = await bench.crawl(
        ["https://example.org/a#x", "https://example.org/b", "https://example.org/a"]
    )
    assert sorted(bench.fetcher.started) == ["https://example.org/a", "https://example.org/b"]
    first, _, again = bench.pages
    assert (first.url, again.url) == ("https://example.org/a#x", "https://example.org/a")
    assert (first.duplicate_of, again.duplicate_of) == (UNSET, 0)
    assert again.document == first.document
    summary = summary_of(job)
    assert (summary.total_urls, summary.successful) == (3, 3)


async def test_a_pause_between_two_results_of_one_url_costs_no_second_fetch() -> None:
    bench = Bench()
    job = bench.job(["https://example.org/"] * 3)
    publisher = _OneAtATime()
    await paused_after(job, publisher, wait_all_tasks_blocked)
    assert [event.index for event in publisher.results] == [0]
    publisher.give_room()
    await job.work(publisher)
    assert [event.index for event in publisher.results] == [0, 1, 2]
    assert [page_of(event).duplicate_of for event in publisher.results] == [UNSET, 0, 0]
    assert len(bench.fetcher.started) == 1


class _OneAtATime(RecordingPublisher):
    """Has room for one event, until it is given more."""

    def publish(self, event: Any) -> None:
        if not self.events:
            self.take_room()
        super().publish(event)

    @property
    def results(self) -> list[Result]:
        return [event for event in self.events if isinstance(event, Result)]


# --- Pause, cancel ------------------------------------------------------------------------------


async def paused_after(
    job: CrawlJob, publisher: RecordingPublisher, condition: Callable[[], Any]
) -> None:
    """Work until the condition has been waited for, then cancel the work as a pause does."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.work, publisher)
            await condition()
            scope.cancel()


async def test_pages_in_flight_at_a_pause_are_fetched_again_after_it(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(FakeFetcher(delay=lambda url: 1.0 if url.endswith("/0") else 10.0))
    job = bench.job(urls(4), concurrency=4)
    await paused_after(job, bench.publisher, lambda: trio.sleep(5))
    assert [event.index for event in bench.results] == [0]
    assert bench.fetcher.at_once == 0
    assert sorted(bench.fetcher.cancelled) == urls(4)[1:]
    await trio.sleep(1000)
    await job.work(bench.publisher)
    assert sorted(event.index for event in bench.results) == [0, 1, 2, 3]


async def test_a_paused_runs_clock_stands_still(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 2.0))
    job = bench.job(urls(2), concurrency=1)
    await paused_after(job, bench.publisher, lambda: trio.sleep(3))
    await trio.sleep(1000)
    assert job.elapsed_seconds == pytest.approx(3.0)
    await job.work(bench.publisher)
    assert job.elapsed_seconds == pytest.approx(5.0)
    summary = summary_of(job)
    assert summary.total_time_ms == pytest.approx(5000, abs=2)
    assert summary.performance_summary.throughput_per_second == pytest.approx(0.4, abs=0.001)


async def test_a_cancelled_run_accounts_for_the_urls_without_a_result(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(
        FakeFetcher(
            answer=pages_by_path(**{"1": NetworkFailure("refused")}),
            delay=lambda url: 1.0 if url[-1] in "01" else 60.0,
        )
    )
    job = bench.job(urls(5))
    await paused_after(job, bench.publisher, lambda: trio.sleep(2))
    summary = summary_of(job, "cancelled", "shutdown")
    assert (summary.successful, summary.failed, summary.cancelled) == (1, 1, 3)
    assert (summary.total_urls, summary.status, summary.reason) == (5, "cancelled", "shutdown")


async def test_a_run_that_never_worked_can_be_summed_up() -> None:
    job = Bench().job(urls(2))
    summary = summary_of(job, "cancelled")
    assert (summary.cancelled, summary.total_time_ms, summary.cache_hit_rate) == (2, 0, 0.0)
    progress = job.progress()
    assert (progress.completed, progress.current_url, progress.estimated_completion) == (
        0,
        None,
        None,
    )


# --- Progress and summary -----------------------------------------------------------------------


async def test_the_phase_is_the_stage_that_holds_most_urls(autojump_clock: MockClock) -> None:
    bench = Bench(
        FakeFetcher(delay=lambda _: 1.0),
        FakeExtractor(delay=lambda _: 10.0),
    )
    job = bench.job(urls(4), concurrency=4)
    phases = [job.progress().phase]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, bench.publisher)
        await trio.sleep(0.5)
        phases.append(job.progress().phase)
        await trio.sleep(1)
        phases.append(job.progress().phase)
        bench.publisher.take_room()
        await trio.sleep(10)
        phases.append(job.progress().phase)
        bench.publisher.give_room()
    phases.append(job.progress().phase)
    assert phases == ["fetch", "fetch", "extraction", "publish", "done"]


async def test_progress_estimates_the_end_by_the_rate_so_far(autojump_clock: MockClock) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 2.0))
    job = CrawlJob(
        CrawlRequest(urls=tuple(urls(5)), options=CrawlOptions(concurrency=1, max_retries=0)),
        session_id="s",
        request_id="r",
        ports=CrawlPorts(bench.fetcher, bench.extractor, bench.cache, bench.politeness),
        wall_time=lambda: 1705314600.0 + trio.current_time(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, bench.publisher)
        await trio.sleep(4)
        await wait_all_tasks_blocked()
        progress = job.progress()
        assert (progress.completed, progress.total) == (2, 5)
        assert progress.current_url == progress.url == urls(5)[2]
        assert progress.timestamp == "2024-01-15T10:30:04.000Z"
        assert progress.estimated_completion == "2024-01-15T10:30:10.000Z"
        metrics = progress.performance_metrics
        assert (metrics.throughput_per_second, metrics.avg_processing_time_ms) == (0.5, 2000.0)
        assert (metrics.success_rate, metrics.cache_hit_rate) == (1.0, 0.0)
        assert (progress.buffer_info, progress.connection_health) == (UNSET, UNSET)
    assert job.progress().estimated_completion is None


async def test_the_summary_is_measured(autojump_clock: MockClock) -> None:
    def answer(url: str) -> Page | Exception:
        number = int(url.rpartition("/")[2])
        return NetworkFailure("refused") if number == 3 else make_page(url, b"x" * 1000 * number)

    bench = Bench(FakeFetcher(answer=answer, delay=lambda url: float(url[-1])))
    job = await bench.crawl(urls(5), concurrency=5)
    summary = summary_of(job)
    assert (summary.successful, summary.failed, summary.cancelled) == (4, 1, 0)
    assert summary.total_processing_time_ms == pytest.approx(4000, abs=2)
    assert summary.avg_processing_time_ms == pytest.approx(800, abs=1)
    performance = summary.performance_summary
    assert performance.fastest_processing_ms == pytest.approx(0, abs=2)
    assert performance.slowest_processing_ms == pytest.approx(4000, abs=2)
    assert performance.total_bytes_transferred == 7000
    assert performance.throughput_per_second == pytest.approx(1.25, abs=0.01)
    assert summary.error_analysis.error_types == {"network_error": 1}
    assert (summary.buffer_statistics, summary.reason) == (UNSET, UNSET)


async def test_a_page_fetched_again_after_a_pause_counts_its_bytes_again(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(
        FakeFetcher(answer=lambda url: make_page(url, b"x" * 100)),
        FakeExtractor(delay=lambda _: 10.0),
    )
    job = bench.job(urls(1))
    await paused_after(job, bench.publisher, lambda: trio.sleep(5))
    await job.work(bench.publisher)
    assert summary_of(job).performance_summary.total_bytes_transferred == 200


async def test_a_wait_for_readers_is_not_a_urls_processing_time(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(FakeFetcher(delay=lambda _: 1.0))
    bench.publisher.take_room()
    job = bench.job(urls(6), concurrency=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(job.work, bench.publisher)
        await trio.sleep(100)
        bench.publisher.give_room()
    assert all(page.processing_time_ms == pytest.approx(1000, abs=5) for page in bench.pages)


async def test_a_headless_page_without_a_browser_is_served_raw_and_says_so() -> None:
    def headless(page: Page) -> Extraction:
        return attrs.evolve(make_extraction(page), gate_decision="headless", gate_reason="0.1")

    bench = Bench(extractor=FakeExtractor(answer=headless))
    await bench.crawl(urls(1))
    (event,) = bench.results
    assert event.gate_decision == "headless"
    assert page_of(event).document is not None
    assert "no browser is configured" in event.pipeline_metadata.gate_decision_reason


async def test_a_large_crawl_leaves_no_task_behind(autojump_clock: MockClock) -> None:
    bench = Bench()
    before = trio.lowlevel.current_statistics().tasks_living
    await bench.crawl(urls(2000), concurrency=64)
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert len(bench.results) == 2000


def test_a_url_that_cannot_be_parsed_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="scheme"):
        Bench().job(["file:///etc/passwd"])
