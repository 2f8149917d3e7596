"""Each setting under ``crawl`` and ``politeness`` and what it changes."""

import attrs
import pytest
import trio
from trio.testing import MockClock

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import NetworkFailure, PageError, RobotsDenied
from eventmesh_trio.pipeline.manners.politeness import Politeness
from eventmesh_trio.pipeline.manners.robots import RobotsCache
from eventmesh_trio.testing import FakeExtractor, FakeFetcher, make_page
from eventmesh_trio.wire.events import Start
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url
from tests.helpers.settled import World, crawl_of, open_world, settled, shows

OPTIONS = CrawlOptions()


async def crawl(world: World, count: int, **options: object) -> float:
    """Crawl so many URLs; the seconds that it took."""
    began = trio.current_time()
    body = crawl_of(count, **options)
    assert (await world.request("POST", "/crawl/stream", body=body)).status == 200
    return trio.current_time() - began


# --- Crawls -----------------------------------------------------------------------------------


@shows("crawl.max_fetches")
@pytest.mark.parametrize("most", [3, 64])
async def test_a_run_has_no_more_than_max_fetches_at_once(most: int, autojump_clock: MockClock):
    fetcher = FakeFetcher(delay=lambda _: 1)
    async with open_world(f"crawl.max_fetches={most}", fetcher=fetcher) as world:
        await crawl(world, 70, concurrency=64)
        assert fetcher.most_at_once == most


@shows("crawl.max_extractions")
@pytest.mark.parametrize("most", [2, 5])
async def test_a_run_has_no_more_than_max_extractions_at_once(most: int, autojump_clock: MockClock):
    extractor = FakeExtractor(delay=lambda _: 1)
    async with open_world(f"crawl.max_extractions={most}", extractor=extractor) as world:
        await crawl(world, 20, concurrency=20)
        assert extractor.most_at_once == most


@shows("crawl.concurrency")
async def test_a_run_that_does_not_say_has_concurrency_fetches_at_once(autojump_clock: MockClock):
    fetcher = FakeFetcher(delay=lambda _: 1)
    async with open_world("crawl.concurrency=9", fetcher=fetcher) as world:
        await crawl(world, 20, concurrency=2, cache_mode="disabled")
        assert fetcher.most_at_once == 2
        await crawl(world, 20, cache_mode="disabled")
        assert fetcher.most_at_once == 9
        async with world.mesh.crawl(["http://e.org/"]) as stream:
            (start,) = [event async for event in stream if isinstance(event, Start)]
        assert start.options["concurrency"] == 9


def failing_once() -> FakeFetcher:
    """Every URL fails once, in a way that may pass."""
    failed: set[str] = set()

    def answer(url: str) -> Page | Exception:
        if url in failed:
            return make_page(url)
        failed.add(url)
        return NetworkFailure("reset")

    return FakeFetcher(answer=answer)


async def longest_wait(*settings: str) -> float:
    """The longest of thirty waits before a second attempt."""
    async with open_world(*settings, fetcher=failing_once()) as world:
        return await crawl(world, 30, concurrency=30, timeout_seconds=300)


@shows("crawl.retry.first_delay_seconds")
async def test_the_second_attempt_comes_within_first_delay_seconds(autojump_clock: MockClock):
    # Each wait is anything up to that; that thirty are all under a fifth of it is once in 10**20.
    most = "crawl.retry.max_delay_seconds=100"
    assert 0.1 < await longest_wait(most) <= 0.6
    assert 10 < await longest_wait(most, "crawl.retry.first_delay_seconds=50") <= 51


@shows("crawl.retry.max_delay_seconds")
async def test_no_wait_is_longer_than_max_delay_seconds(autojump_clock: MockClock):
    first = "crawl.retry.first_delay_seconds=50"
    assert 0.4 < await longest_wait(first, "crawl.retry.max_delay_seconds=2") <= 2.1


@shows("crawl.retry.max_retry_after_seconds")
@pytest.mark.parametrize(("most", "attempts"), [(20, 4), (5, 1)])
async def test_an_origin_that_asks_for_more_than_max_retry_after_seconds_is_not_asked_again(
    most: int, attempts: int, autojump_clock: MockClock
):
    def busy(url: str) -> Page:
        return attrs.evolve(make_page(url, status=503), fields=((b"retry-after", b"6"),))

    fetcher = FakeFetcher(answer=busy)
    setting = f"crawl.retry.max_retry_after_seconds={most}"
    async with open_world(setting, fetcher=fetcher) as world:
        seconds = await crawl(world, 1)
        assert len(fetcher.started) == attempts
        assert seconds == pytest.approx(6 * (attempts - 1), abs=0.1)


# --- Politeness: turns ------------------------------------------------------------------------


@attrs.define(eq=False)
class Source:
    """Robots.txt files: ``answer`` for every origin, after ``seconds``."""

    answer: bytes | int | PageError = 404
    seconds: float = 0.0
    user_agent: str = "eventmesh/1.0"
    asked: list[str] = attrs.field(factory=list)
    max_bytes: int = 0

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.asked.append(url)
        self.max_bytes = max_bytes
        await trio.sleep(self.seconds)
        if isinstance(self.answer, PageError):
            raise self.answer
        if isinstance(self.answer, int):
            return make_page(url, b"", status=self.answer, content_type="text/plain")
        return make_page(url, self.answer, content_type="text/plain")


async def visit(polite: Politeness, host: str = "a.example", count: int = 1) -> None:
    """Visit a host so many times at once, a second each."""

    async def once() -> None:
        async with polite.turn(f"http://{host}/", OPTIONS, "run"):
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(once)


def polite(source: Source, *settings: str) -> Politeness:
    return Politeness(source, settled(*settings).politeness)


async def is_allowed(politeness: Politeness, host: str = "a.example") -> bool:
    try:
        await politeness.check(parse_url(f"http://{host}/"), OPTIONS)
    except RobotsDenied:
        return False
    return True


@shows("politeness.max_requests_per_host")
@pytest.mark.parametrize(("most", "seconds"), [(8, 2), (4, 4)])
async def test_a_host_has_no_more_than_max_requests_per_host_at_once(
    most: int, seconds: int, autojump_clock: MockClock
):
    politeness = polite(Source(), f"politeness.max_requests_per_host={most}")
    await visit(politeness, count=16)
    assert trio.current_time() == pytest.approx(seconds)


@shows("politeness.delay_seconds")
async def test_two_requests_to_a_host_are_delay_seconds_apart(autojump_clock: MockClock):
    await visit(polite(Source(), "politeness.delay_seconds=5"), count=3)
    assert trio.current_time() == pytest.approx(11)


@shows("politeness.max_crawl_delay_seconds")
async def test_a_crawl_delay_is_kept_up_to_max_crawl_delay_seconds(autojump_clock: MockClock):
    source = Source(b"User-agent: *\nCrawl-delay: 100")
    await visit(polite(source, "politeness.max_crawl_delay_seconds=7"), count=2)
    assert trio.current_time() == pytest.approx(8)


@shows("politeness.max_resting_hosts")
async def test_max_resting_hosts_are_remembered_until_their_delay_is_over(
    autojump_clock: MockClock,
):
    settings = ("politeness.max_resting_hosts=5", "politeness.delay_seconds=100")
    politeness = polite(Source(), *settings)
    for number in range(20):
        await visit(politeness, f"h{number}.example")
    assert politeness.known_hosts == 5


# --- Politeness: robots.txt -------------------------------------------------------------------


@shows("politeness.robots.max_bytes")
async def test_max_bytes_of_a_robots_txt_are_read(autojump_clock: MockClock):
    source = Source()
    await is_allowed(polite(source, "politeness.robots.max_bytes=3KB"))
    assert source.max_bytes == 3072


@shows("politeness.robots.fetch_seconds")
async def test_a_robots_txt_may_take_fetch_seconds(autojump_clock: MockClock):
    politeness = polite(Source(seconds=1000), "politeness.robots.fetch_seconds=7")
    with pytest.raises(PageError):
        await is_allowed(politeness)
    assert trio.current_time() == pytest.approx(7)


@shows("politeness.robots.attempts")
async def test_a_robots_txt_is_asked_for_attempts_times(autojump_clock: MockClock):
    source = Source(503)
    assert not await is_allowed(polite(source, "politeness.robots.attempts=4"))
    assert len(source.asked) == 4


@shows("politeness.robots.keep_seconds")
async def test_a_robots_txt_is_used_for_keep_seconds(autojump_clock: MockClock):
    source = Source()
    politeness = polite(source, "politeness.robots.keep_seconds=50")
    for wait, asked in ((0, 1), (49, 1), (2, 2)):
        await trio.sleep(wait)
        assert await is_allowed(politeness)
        assert len(source.asked) == asked


@shows("politeness.robots.unreachable_seconds")
async def test_an_origin_in_trouble_is_left_alone_for_unreachable_seconds(
    autojump_clock: MockClock,
):
    source = Source(500)
    politeness = polite(source, "politeness.robots.unreachable_seconds=9")
    assert not await is_allowed(politeness)
    source.answer = 404
    await trio.sleep(8)
    assert not await is_allowed(politeness)
    await trio.sleep(2)
    assert await is_allowed(politeness)


@shows("politeness.robots.failure_seconds")
async def test_a_failure_that_may_pass_is_shared_for_failure_seconds(autojump_clock: MockClock):
    source = Source(NetworkFailure("refused"))
    politeness = polite(source, "politeness.robots.failure_seconds=9")
    with pytest.raises(NetworkFailure):
        await is_allowed(politeness)
    source.answer = 404
    await trio.sleep(8)
    with pytest.raises(NetworkFailure):
        await is_allowed(politeness)
    await trio.sleep(2)
    assert await is_allowed(politeness)


async def remember(*settings: str) -> RobotsCache:
    """What is remembered of fifty origins."""
    source = Source(b"User-agent: *\n" + b"Disallow: /x\n" * 100)
    cache = RobotsCache(source, settled(*settings).politeness.robots)
    for number in range(50):
        await cache.get(parse_url(f"http://h{number}.example/"))
    return cache


@shows("politeness.robots.max_entries")
async def test_max_entries_of_origins_are_remembered(autojump_clock: MockClock):
    assert len(await remember()) == 50
    assert len(await remember("politeness.robots.max_entries=20")) == 20


@shows("politeness.robots.max_kept_bytes")
async def test_max_kept_bytes_of_robots_txt_are_remembered(autojump_clock: MockClock):
    assert (await remember()).kept_bytes > 100_000
    assert 0 < (await remember("politeness.robots.max_kept_bytes=100000")).kept_bytes <= 100_000
