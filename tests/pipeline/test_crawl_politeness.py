"""Crawls and politeness together: runs side by side, hosts that ask to be left alone."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock

from eventmesh_trio.abc import Extraction, Page
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlLimits, CrawlPorts
from eventmesh_trio.pipeline.fetching.retry import RetryLimits
from eventmesh_trio.pipeline.manners.host_turns import BackOffLimits
from eventmesh_trio.pipeline.manners.politeness import Politeness, PolitenessLimits
from eventmesh_trio.testing import FakeExtractor, FakeFetcher, RecordingPublisher, make_page
from eventmesh_trio.wire.events import PageResult, Result
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest, ExtractMode

NOW_AND_AGAIN = RetryLimits(first_delay_seconds=0, max_delay_seconds=0)


class NoRobots:
    user_agent = "eventmesh/1.0"

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        await trio.lowlevel.checkpoint()
        return make_page(url, b"" * max_bytes, status=404)


@attrs.define(eq=False)
class Server:
    """What runs share: an origin of fakes, and real politeness."""

    answer: Callable[[str], Page | Exception] = make_page
    seconds: float = 0.1
    limits: PolitenessLimits = attrs.field(factory=PolitenessLimits)
    extractor: Any = attrs.field(factory=FakeExtractor)
    fetcher: FakeFetcher = attrs.field(init=False)
    ports: CrawlPorts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.fetcher = FakeFetcher(answer=self.answer, delay=lambda _: self.seconds)
        self.ports = CrawlPorts(
            fetcher=self.fetcher,
            extractor=self.extractor,
            cache=MemoryCache(),
            politeness=Politeness(NoRobots(), self.limits),
        )

    async def crawl(self, name: str, urls: list[str], **options: Any) -> list[PageResult]:
        job = CrawlJob(
            CrawlRequest(urls=tuple(urls), options=CrawlOptions(**options)),
            session_id=name,
            request_id="req-1",
            ports=self.ports,
            limits=CrawlLimits(retry=NOW_AND_AGAIN),
        )
        publisher = RecordingPublisher()
        await job.work(publisher)
        assert job.done
        results = [event for event in publisher.events if isinstance(event, Result)]
        assert len(results) == len(urls)
        pages = [event.result for event in sorted(results, key=lambda event: event.index)]
        return [page for page in pages if page is not UNSET]


def urls(count: int, kind: str = "page", host: str = "a.example") -> list[str]:
    return [f"http://{host}/{kind}/{number}" for number in range(count)]


def busy(url: str, status: int = 429, seconds: str | None = None) -> Page:
    fields = () if seconds is None else ((b"retry-after", seconds.encode()),)
    return attrs.evolve(make_page(url, b"", status=status), fields=fields)


async def test_a_run_of_10_000_urls_on_a_host_does_not_starve_a_run_of_20(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.crawl("big", urls(10_000, "big"), concurrency=64))
        await trio.sleep(1)
        pages = await server.crawl("small", urls(20, "small"), concurrency=5)
        assert all(page.error is None for page in pages)
        # Alone it would take 0.4 s; first come, first served, more than 3.
        assert trio.current_time() < 2
        # And it takes no more than its share: eight at a time are always under way.
        both = len(server.fetcher.finished)
        assert both == pytest.approx(trio.current_time() * 80, abs=16)
        nursery.cancel_scope.cancel()


async def test_runs_of_one_request_id_in_two_sessions_are_two(autojump_clock: MockClock) -> None:
    server = Server(limits=PolitenessLimits(max_requests_per_host=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.crawl("big", urls(100, "big"), concurrency=64))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: server.crawl("small", urls(10, "small"), concurrency=5))
    order = [url.split("/")[3] for url in server.fetcher.started]
    assert order[:22].count("small") == 10


async def test_equal_spellings_are_one_fetch(autojump_clock: MockClock) -> None:
    spellings = [
        "http://a.example/b/%C3%A9?x=%2F",
        "HTTP://A.EXAMPLE:80/b/%c3%a9?x=%2f",
        "http://a.example/b/é?x=%2F#top",
        "http://a.example/c/../b/./%C3%A9?x=%2f",
        "http://a.example/%62/%C3%A9?x=%2F",
        "http:\\\\a.example\\b\\é?x=%2F",
        " http://a.example/b/%C3%A9?x=%2F\t",
        "http://a.example/%2e%2e/b/%C3%A9?x=%2F",
    ]
    others = [
        "http://a.example/b/%C3%A9?x=/",
        "http://a.example/b/%C3%A9",
        "http://a.example/b/%C3%A9/?x=%2F",
        "http://a.example/B/%C3%A9?x=%2F",
        "https://a.example/b/%C3%A9?x=%2F",
        "http://a.example:8080/b/%C3%A9?x=%2F",
        "http://www.a.example/b/%C3%A9?x=%2F",
    ]
    server = Server()
    pages = await server.crawl("run", [*spellings, *others])
    assert len(server.fetcher.started) == 1 + len(others)
    assert [page.duplicate_of for page in pages] == [
        UNSET,
        *[0] * (len(spellings) - 1),
        *[UNSET] * len(others),
    ]
    assert [page.url for page in pages[: len(spellings)]] == spellings
    assert all(page.document is not None for page in pages)


# --- After a 429 or 503 ---------------------------------------------------------------------------


async def test_a_host_that_has_enough_is_left_alone_and_no_url_pays_for_the_wait(
    autojump_clock: MockClock,
) -> None:
    refusals = iter([1])

    def answer(url: str) -> Page:
        return busy(url, seconds="15") if next(refusals, None) else make_page(url)

    server = Server(answer)
    pages = await server.crawl("run", urls(30), concurrency=3, timeout_seconds=16, max_retries=1)
    assert [page.error for page in pages] == [None] * 30
    # The URL that was refused has waited in its own time, the others in none of theirs.
    assert trio.current_time() == pytest.approx(16, abs=1)


async def test_another_host_is_crawled_meanwhile(autojump_clock: MockClock) -> None:
    def answer(url: str) -> Page:
        return busy(url, seconds="100") if "a.example" in url else make_page(url)

    server = Server(answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.crawl("a", urls(1), max_retries=0))
        await trio.sleep(1)
        await server.crawl("b", urls(20, host="b.example"), concurrency=1)
    assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_a_host_that_asks_for_longer_than_is_waited_fails_its_urls_with_the_time(
    autojump_clock: MockClock,
) -> None:
    server = Server(lambda url: busy(url, 503, "250"))
    pages = await server.crawl("run", urls(1000), concurrency=8)
    kinds = Counter(page.error.type for page in pages if page.error)
    assert kinds == {"http_error": 8, "circuit_open": 992}
    assert trio.current_time() < 1
    for page in pages:
        assert page.error is not None
        assert page.error.retryable
        assert page.error.retry_after_seconds == pytest.approx(250, abs=1)
    assert len(server.fetcher.started) == 8


@pytest.mark.slow
async def test_a_host_that_only_ever_refuses_costs_a_run_minutes_and_not_days(
    autojump_clock: MockClock,
) -> None:
    server = Server(lambda url: busy(url, 429))
    pages = await server.crawl("run", urls(10_000), concurrency=64, max_retries=3)
    assert all(page.error is not None for page in pages)
    # 0.5, 1, 2 ... 64 seconds are waited for, 128 are not.
    assert trio.current_time() < 200
    assert len(server.fetcher.started) < 30


async def test_a_page_that_is_always_503_among_good_ones_slows_nobody_down_for_long(
    autojump_clock: MockClock,
) -> None:
    def answer(url: str) -> Page:
        return busy(url, 503) if url.endswith("/50") else make_page(url)

    server = Server(answer)
    pages = await server.crawl("run", urls(200), concurrency=8, max_retries=3)
    assert [page.error is not None for page in pages] == [number == 50 for number in range(200)]
    assert trio.current_time() < 8


async def test_a_pause_during_a_back_off_leaves_no_place_behind(autojump_clock: MockClock) -> None:
    server = Server(lambda url: busy(url, 503), limits=PolitenessLimits(max_requests_per_host=2))
    with trio.move_on_after(3):
        await server.crawl("run", urls(100), concurrency=20, max_retries=3)
    politeness = server.ports.politeness
    assert isinstance(politeness, Politeness)
    now = politeness.statistics()
    assert (now.waiting, now.active, now.backing_off_hosts) == (0, 0, 1)


# --- Redirects ------------------------------------------------------------------------------------


async def test_waiting_for_a_turn_at_a_redirects_target_does_not_use_up_a_urls_time(
    autojump_clock: MockClock,
) -> None:
    def answer(url: str) -> Page:
        return make_page(url, final_url=f"http://target.example/{url[-1]}")

    server = Server(answer, limits=PolitenessLimits(delay_seconds=10))
    there = [f"http://h{number}.example/{number}" for number in range(5)]
    pages = await server.crawl("run", there, concurrency=5, timeout_seconds=1)
    assert [page.error for page in pages] == [None] * 5
    assert trio.current_time() == pytest.approx(40.1, abs=0.1)


async def test_the_target_of_a_redirect_is_the_host_that_is_left_alone(
    autojump_clock: MockClock,
) -> None:
    def answer(url: str) -> Page:
        if "short" in url:
            return attrs.evolve(busy(url, seconds="15"), final_url="http://target.example/")
        return make_page(url)

    server = Server(answer)
    await server.crawl("a", ["http://short.example/"], max_retries=0)
    await server.crawl("b", ["http://short.example/1"], max_retries=0)
    began = trio.current_time()
    await server.crawl("c", ["http://target.example/2"])
    assert trio.current_time() - began > 14


# --- Extraction -----------------------------------------------------------------------------------


@attrs.define(eq=False)
class Shared(FakeExtractor):
    """An extractor that is told the runs."""

    runs: Counter[str] = attrs.field(factory=Counter)

    def for_run(self, run: str) -> "Bound":
        return Bound(self, run)


@attrs.frozen(eq=False)
class Bound:
    _shared: Shared
    _run: str

    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        self._shared.runs[self._run] += 1
        return await self._shared.extract(page, mode, max_text_chars)


async def test_an_extractor_that_can_tell_runs_apart_is_told(autojump_clock: MockClock) -> None:
    server = Server(extractor=Shared())
    await server.crawl("one", urls(3))
    await server.crawl("two", urls(2, "other"))
    assert server.extractor.runs == {"one req-1": 3, "two req-1": 2}


def test_the_limits_of_a_back_off_double_and_end() -> None:
    limits = BackOffLimits(first_seconds=0.5, max_seconds=300)
    assert [limits.pause_after(level, None) for level in (1, 2, 5, 11, 64)] == [0.5, 1, 8, 300, 300]
    assert limits.pause_after(1, 20) == 20
    assert limits.pause_after(8, 20) == 64
