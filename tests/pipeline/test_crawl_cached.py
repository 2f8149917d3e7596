"""What a crawl does with what is kept: uses it, asks whether it has changed, shares one fetch."""

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.abc import CacheEntry, Page, Validators
from eventmesh_trio.errors import NetworkFailure, ParseFailure
from eventmesh_trio.pipeline.caching.cache import CacheLimits, MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlPorts
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    RecordingPublisher,
    make_extraction,
    make_page,
)
from eventmesh_trio.wire.events import PageResult, Result
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest
from tests.helpers.entries import WallClock

URL = "http://e.org/a"


def answer_with(
    body: str = "text", *lines: tuple[str, str], status: int = 200, final_url: str | None = None
) -> Callable[[str], Page]:
    """A function that answers every URL so."""
    fields = tuple((name.lower().encode(), value.encode()) for name, value in lines)

    def answer(url: str) -> Page:
        page = make_page(url, body.encode(), status=status, final_url=final_url)
        return attrs.evolve(page, fields=fields)

    return answer


@attrs.define(eq=False)
class Server:
    """Runs that share a cache and an origin; ``fetcher.answer`` is what the origin says now."""

    fetcher: FakeFetcher = attrs.field(factory=FakeFetcher)
    extractor: FakeExtractor = attrs.field(factory=FakeExtractor)
    limits: CacheLimits = attrs.field(factory=CacheLimits)
    clock: WallClock = attrs.field(factory=WallClock)
    cache: MemoryCache = attrs.field(init=False)
    ports: CrawlPorts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.cache = MemoryCache(self.limits, wall_time=self.clock)
        self.ports = CrawlPorts(
            fetcher=self.fetcher,
            extractor=self.extractor,
            cache=self.cache,
            politeness=FakePoliteness(),
            cache_limits=self.limits,
            flights=self.cache.flights,
        )

    def job(self, *urls: str, **options: Any) -> CrawlJob:
        options.setdefault("max_retries", 0)
        return CrawlJob(
            CrawlRequest(urls=urls or (URL,), options=CrawlOptions(**options)),
            session_id="s",
            request_id="r",
            ports=self.ports,
            wall_time=self.clock,
        )

    async def crawl(self, url: str = URL, **options: Any) -> PageResult:
        """The result of a crawl of one URL."""
        publisher = RecordingPublisher()
        await self.job(url, **options).work(publisher)
        (page,) = pages_of(publisher)
        return page


def pages_of(publisher: RecordingPublisher) -> list[PageResult]:
    found = [event.result for event in publisher.events if isinstance(event, Result)]
    return [page for page in found if page is not UNSET]


def text_of(page: PageResult) -> str | None:
    return page.document.text if page.document else None


# --- Fresh, stale, confirmed ----------------------------------------------------------------------


async def test_a_fresh_document_is_used_and_nobody_is_asked() -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", "max-age=60"))))
    assert not (await server.crawl()).from_cache
    server.clock.now += 59
    assert (await server.crawl()).from_cache
    assert len(server.fetcher.started) == 1


async def test_a_stale_document_that_has_not_changed_is_used_without_an_extraction() -> None:
    fields = ("ETag", '"v1"'), ("Cache-Control", "max-age=60")
    server = Server(FakeFetcher(answer_with("text", *fields)))
    await server.crawl()
    server.clock.now += 61
    server.fetcher.answer = answer_with("", ("ETag", '"v1"'), status=304)
    page = await server.crawl()
    assert (page.from_cache, page.status, text_of(page)) == (True, 200, "text")
    assert page.gate_decision == "cached"
    assert server.fetcher.validators == [None, Validators(URL, '"v1"', None)]
    assert len(server.extractor.extracted) == 1
    counts = server.cache.statistics()
    assert (counts.revalidated, counts.expired, counts.hits) == (1, 1, 0)
    # It is fresh again, for as long as it was at first.
    server.clock.now += 59
    assert (await server.crawl()).from_cache
    assert len(server.fetcher.started) == 2
    server.clock.now += 2
    await server.crawl()
    assert len(server.fetcher.started) == 3


async def test_a_stale_document_that_has_changed_is_replaced() -> None:
    server = Server(FakeFetcher(answer_with("old", ("ETag", '"1"'), ("Cache-Control", "no-cache"))))
    await server.crawl()
    server.fetcher.answer = answer_with("new", ("ETag", '"2"'))
    page = await server.crawl()
    assert (page.from_cache, text_of(page)) == (False, "new")
    assert text_of(await server.crawl()) == "new"
    assert len(server.fetcher.started) == 2


async def test_a_stale_document_without_validators_is_fetched_anew() -> None:
    server = Server(FakeFetcher(answer_with("old", ("Cache-Control", "max-age=1"))))
    await server.crawl()
    server.clock.now += 2
    assert not (await server.crawl()).from_cache
    assert server.fetcher.validators == [None, None]


async def test_a_document_that_went_stale_before_it_could_be_shared_is_no_hit(
    autojump_clock: MockClock,
) -> None:
    fields = ("ETag", '"v1"'), ("Cache-Control", "max-age=60")
    server = Server(FakeFetcher(answer_with("text", *fields)))
    slow = RecordingPublisher()
    slow.take_room()  # read, and not yet kept: it stays in reach of others
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.job().work, slow)
        await wait_all_tasks_blocked()
        server.clock.now += 61
        for _ in range(3):
            await server.crawl(cache_mode="read_write")
        slow.give_room()
    counts = server.cache.statistics()
    # Each of the first two got a page, for what the first had is too old to be used unasked.
    assert (counts.hits, counts.misses, counts.shared, counts.revalidated) == (2, 2, 0, 0)
    assert (len(server.fetcher.started), counts.hit_rate) == (2, 0.5)


async def test_a_304_about_another_version_has_the_page_fetched() -> None:
    def answer(url: str) -> Page:
        asked = server.fetcher.validators[-1]
        if asked is None:
            return answer_with("new", ("ETag", '"v9"'))(url)
        return answer_with("", ("ETag", '"v2"'), status=304)(url)

    server = Server(
        FakeFetcher(answer_with("old", ("ETag", '"v1"'), ("Cache-Control", "no-cache")))
    )
    await server.crawl()
    server.fetcher.answer = answer
    page = await server.crawl()
    assert (page.from_cache, text_of(page), page.error) == (False, "new", None)
    assert len(server.fetcher.started) == 3


async def test_a_304_that_nobody_asked_for_is_an_error() -> None:
    server = Server(FakeFetcher(answer_with("", status=304)))
    page = await server.crawl()
    assert page.error is not None
    assert (page.status, page.error.type) == (304, "http_error")


@pytest.mark.parametrize("etag", [None, '"1"'])
async def test_a_304_that_is_about_nothing_of_ours_confirms_nothing(etag: str | None) -> None:
    fields = [("Cache-Control", "max-age=1"), *([("ETag", etag)] if etag else [])]
    server = Server(FakeFetcher(answer_with("old", *fields)))
    await server.crawl()
    server.clock.now += 2
    # Nobody asked whether it has changed, or the answer is about another version, again and again.
    server.fetcher.answer = answer_with("", ("ETag", '"9"'), status=304)
    page = await server.crawl()
    assert page.error is not None
    assert (page.from_cache, page.status, page.error.type) == (False, 304, "http_error")
    assert server.cache.statistics().revalidated == 0


@pytest.mark.parametrize("control", ["private, max-age=60", "no-store"])
async def test_a_confirmation_that_forbids_to_keep_the_document_is_obeyed(control: str) -> None:
    server = Server(
        FakeFetcher(answer_with("text", ("ETag", '"1"'), ("Cache-Control", "no-cache")))
    )
    await server.crawl()
    server.fetcher.answer = answer_with("", ("Cache-Control", control), status=304)
    assert (await server.crawl()).from_cache
    assert server.cache.statistics().store.entries == 0


async def test_a_page_is_as_old_as_it_is_however_long_it_waited_to_be_read() -> None:
    def read(page: Page) -> Any:
        server.clock.now += 50
        return make_extraction(page)

    server = Server(
        FakeFetcher(answer_with("text", ("Cache-Control", "max-age=60"))), FakeExtractor(read)
    )
    await server.crawl()
    server.clock.now += 9
    assert (await server.crawl()).from_cache
    server.clock.now += 2
    assert not (await server.crawl()).from_cache


async def test_where_redirects_led_is_told_by_a_hit_too() -> None:
    there = "http://e.org/there"
    server = Server(FakeFetcher(answer_with("text", ("ETag", '"1"'), final_url=there)))
    assert (await server.crawl()).final_url == there
    assert (await server.crawl()).final_url == there
    server.clock.now += 1e6
    server.fetcher.answer = answer_with("", status=304, final_url=there)
    page = await server.crawl()
    assert (page.from_cache, page.final_url) == (True, there)
    assert server.fetcher.validators[-1] == Validators(there, '"1"', None)


@pytest.mark.parametrize("control", ["no-store", "private"])
async def test_what_may_not_be_kept_is_not(control: str) -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", control))))
    await server.crawl()
    assert not (await server.crawl()).from_cache
    assert server.cache.statistics().store.entries == 0


async def test_what_may_no_longer_be_kept_leaves() -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", "no-cache"))))
    await server.crawl()
    assert server.cache.statistics().store.entries == 1
    server.fetcher.answer = answer_with("text", ("Cache-Control", "no-store"))
    await server.crawl()
    assert server.cache.statistics().store.entries == 0


async def test_what_is_gone_leaves_and_what_fails_otherwise_stays() -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", "no-cache"))))
    await server.crawl()
    server.fetcher.answer = answer_with("", status=500)
    assert (await server.crawl()).status == 500  # not the stale document
    server.fetcher.answer = lambda _: NetworkFailure("reset")
    assert (await server.crawl()).error is not None
    assert server.cache.statistics().store.entries == 1
    server.fetcher.answer = answer_with("", status=404)
    await server.crawl()
    assert server.cache.statistics().store.entries == 0


async def test_what_is_gone_leaves_too_where_nobody_looked_for_it() -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", "max-age=60"))))
    await server.crawl()
    server.fetcher.answer = answer_with("", status=410)
    assert (await server.crawl(cache_mode="write_only")).error is not None
    assert server.cache.statistics().store.entries == 0


async def test_what_another_user_agent_was_given_is_not_used() -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", "max-age=60"))))
    await server.crawl()
    server.ports = attrs.evolve(server.ports, user_agent="another/1")
    assert not (await server.crawl()).from_cache
    assert (await server.crawl()).from_cache
    # What a request names counts, whatever the server calls itself else.
    assert not (await server.crawl(user_agent="mine/1")).from_cache
    server.ports = attrs.evolve(server.ports, user_agent=None)
    assert (await server.crawl(user_agent="mine/1")).from_cache


async def test_a_mode_that_only_reads_uses_a_confirmation_and_keeps_nothing_of_it() -> None:
    server = Server(
        FakeFetcher(answer_with("text", ("ETag", '"1"'), ("Cache-Control", "max-age=9")))
    )
    await server.crawl()
    server.clock.now += 10
    server.fetcher.answer = answer_with("", status=304)
    assert (await server.crawl(cache_mode="read_only")).from_cache
    assert (await server.crawl(cache_mode="read_only")).from_cache
    assert len(server.fetcher.started) == 3


# --- Single flight --------------------------------------------------------------------------------


async def crawl_together(server: Server, count: int, **options: Any) -> list[PageResult]:
    """The results of so many runs of one URL at once."""
    found: list[PageResult] = []

    async def one() -> None:
        found.append(await server.crawl(**options))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return found


async def test_of_a_hundred_runs_one_fetches_and_reads(autojump_clock: MockClock) -> None:
    server = Server(FakeFetcher(delay=lambda _: 5), FakeExtractor(delay=lambda _: 5))
    pages = await crawl_together(server, 100)
    assert len(server.fetcher.started) == len(server.extractor.extracted) == 1
    assert sum(page.from_cache for page in pages) == 99
    assert all(page.document == pages[0].document for page in pages)
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    counts = server.cache.statistics()
    assert (counts.shared, counts.misses) == (99, 1)
    assert counts.hit_rate == 0.99
    assert server.cache.flights.statistics().in_flight == 0


@pytest.mark.parametrize("mode", ["read_only", "write_only", "disabled"])
async def test_runs_that_do_not_read_and_write_do_not_wait(
    mode: str, autojump_clock: MockClock
) -> None:
    server = Server(FakeFetcher(delay=lambda _: 5))
    await crawl_together(server, 7, cache_mode=mode)
    assert len(server.fetcher.started) == 7


async def test_runs_with_other_options_do_not_wait(autojump_clock: MockClock) -> None:
    server = Server(FakeFetcher(delay=lambda _: 5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.crawl, URL)
        nursery.start_soon(lambda: server.crawl(URL, extract_mode="raw"))
    assert len(server.fetcher.started) == 2


async def test_a_confirmation_is_shared_too(autojump_clock: MockClock) -> None:
    server = Server(FakeFetcher(answer_with("text", ("ETag", '"1"'))))
    await server.crawl()
    server.clock.now += 1e6
    server.fetcher.answer = answer_with("", status=304)
    server.fetcher.delay = lambda _: 5
    pages = await crawl_together(server, 20)
    assert all(page.from_cache for page in pages)
    assert len(server.fetcher.started) == 2


async def test_when_the_first_fails_the_next_has_its_turn(autojump_clock: MockClock) -> None:
    fails = iter([NetworkFailure("reset"), NetworkFailure("reset")])
    server = Server(FakeFetcher(lambda url: next(fails, None) or make_page(url), lambda _: 1))
    pages = await crawl_together(server, 10)
    assert len(server.fetcher.started) == 3
    assert sum(page.error is not None for page in pages) == 2
    assert sum(page.from_cache for page in pages) == 7


async def test_when_the_first_cannot_be_read_the_next_has_its_turn(
    autojump_clock: MockClock,
) -> None:
    server = Server(FakeFetcher(delay=lambda _: 1), FakeExtractor(lambda _: ParseFailure("poison")))
    pages = await crawl_together(server, 4)
    assert len(server.fetcher.started) == 4
    assert all(page.error is not None for page in pages)
    assert server.cache.flights.statistics().in_flight == 0


@pytest.mark.parametrize("trouble", ["fetch", "extraction"])
async def test_a_failure_frees_those_who_wait_although_its_run_goes_on(
    trouble: str, autojump_clock: MockClock
) -> None:
    def delay(url: str) -> float:
        return 50 if url.endswith("slow") else 1

    fails = iter([True])  # the first one

    def fetched(url: str) -> Page | Exception:
        bad = trouble == "fetch" and url == URL and next(fails, False)
        return NetworkFailure("reset") if bad else make_page(url)

    def read(page: Page) -> Any:
        bad = trouble == "extraction" and page.url == URL and next(fails, False)
        return ParseFailure("poison") if bad else make_extraction(page)

    server = Server(FakeFetcher(fetched, delay), FakeExtractor(read))
    async with trio.open_nursery() as nursery:
        job = server.job(URL, "http://e.org/slow", timeout_seconds=100)
        nursery.start_soon(job.work, RecordingPublisher())
        await wait_all_tasks_blocked()
        assert (await server.crawl()).error is None
        assert trio.current_time() == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("control", ["no-store", "no-cache", "max-age=0"])
async def test_what_may_not_be_shared_is_fetched_by_all_that_waited_at_once(
    control: str, autojump_clock: MockClock
) -> None:
    server = Server(FakeFetcher(answer_with("text", ("Cache-Control", control)), lambda _: 5))
    pages = await crawl_together(server, 6)
    assert len(server.fetcher.started) == 6
    assert not any(page.from_cache for page in pages)
    assert trio.current_time() == pytest.approx(10, abs=0.1)


async def test_when_the_first_is_paused_the_next_has_its_turn(autojump_clock: MockClock) -> None:
    server = Server(FakeFetcher(delay=lambda _: 5))
    publisher, job = RecordingPublisher(), server.job()
    got: list[PageResult] = []

    async def second() -> None:
        await trio.sleep(1)
        got.append(await server.crawl())

    async def first() -> None:
        with trio.move_on_after(2):  # a pause is a cancelled scope
            await job.work(publisher)
        await trio.sleep(1)
        await job.work(publisher)  # resumed, it waits for the second one

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
    (mine,) = pages_of(publisher)
    assert (mine.from_cache, got[0].from_cache) == (True, False)
    assert len(server.fetcher.started) == 2
    assert trio.current_time() == pytest.approx(7, abs=0.1)


async def test_a_reader_that_stands_still_holds_up_no_other_run(autojump_clock: MockClock) -> None:
    server = Server(FakeFetcher(delay=lambda _: 1))
    slow = RecordingPublisher()
    slow.take_room()
    urls = [f"http://e.org/{number}" for number in range(20)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.job(*urls, concurrency=4).work, slow)
        await trio.sleep(5)
        assert len(server.fetcher.started) > 4  # its pages wait for one another
        began = trio.current_time()
        quick = RecordingPublisher()
        await server.job(*urls, concurrency=20).work(quick)
        assert trio.current_time() - began < 2
        assert len(pages_of(quick)) == 20
        slow.give_room()
    assert len(pages_of(slow)) == 20
    assert server.cache.flights.statistics().in_flight == 0


async def test_who_waits_has_its_own_time_afterwards(autojump_clock: MockClock) -> None:
    def delay(url: str) -> float:
        return 100 if len(server.fetcher.started) == 1 else 3

    server = Server(FakeFetcher(delay=delay))
    got: list[PageResult] = []

    async def second() -> None:
        got.append(await server.crawl(timeout_seconds=4))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.crawl(timeout_seconds=200))
        await wait_all_tasks_blocked()
        await second()
        assert trio.current_time() == pytest.approx(7, abs=0.1)
        assert got[0].error is None
    assert server.cache.flights.statistics().waited_out == 1


@pytest.mark.parametrize("seconds", [0, 0.5, 1.2, 2.1, 3.3, 4.7])
async def test_a_run_that_is_over_early_leaves_no_flight(
    seconds: float, autojump_clock: MockClock
) -> None:
    server = Server(
        FakeFetcher(delay=lambda url: float(url[-1])), FakeExtractor(delay=lambda _: 0.4)
    )
    job = server.job(*(f"http://e.org/{number}" for number in range(9)), concurrency=3)
    with trio.move_on_after(seconds):
        await job.work(RecordingPublisher())
    assert not job.done
    assert server.cache.flights.statistics().in_flight == 0


async def test_between_landing_and_storing_the_document_is_in_reach(
    autojump_clock: MockClock,
) -> None:
    server = Server()
    put = server.cache.put

    async def slow_put(key: str, entry: CacheEntry, mode: Any) -> None:
        await trio.sleep(5)
        await put(key, entry, mode)

    server.cache.put = slow_put  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.crawl)
        await trio.sleep(2)
        assert (await server.crawl()).from_cache
        assert trio.current_time() == pytest.approx(2, abs=0.1)
    assert len(server.fetcher.started) == 1


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_paused_cancelled_slow_or_failing_every_run_gets_every_result(
    seed: int, autojump_clock: MockClock
) -> None:
    """Runs of the same URLs, some paused again and again, some with readers that stand still."""
    dice = random.Random(seed)

    def fetched(url: str) -> Page | Exception:
        if dice.random() < 0.1:
            return NetworkFailure("reset")
        control = dice.choice(["max-age=60", "no-store", "no-cache", "public"])
        return answer_with("text", ("Cache-Control", control), ("ETag", '"1"'))(url)

    server = Server(
        FakeFetcher(fetched, lambda _: dice.random() * 3),
        FakeExtractor(delay=lambda _: dice.random()),
    )
    urls = [f"http://e.org/{number}" for number in range(15)]

    async def read_on(publisher: RecordingPublisher) -> None:
        await trio.sleep(dice.random() * 3)
        publisher.give_room()

    async def run(patience: float) -> None:
        mine = dice.sample(urls, dice.randint(1, len(urls)))
        job = server.job(*mine, concurrency=dice.randint(1, 6), timeout_seconds=10)
        publisher = RecordingPublisher()
        while not job.done:
            if dice.random() < 0.5:
                publisher.take_room()
            with trio.move_on_after(patience):
                async with trio.open_nursery() as nursery:
                    if dice.random() < 0.7:
                        nursery.start_soon(read_on, publisher)
                    await job.work(publisher)
            publisher.give_room()
            patience += 2
            await trio.sleep(dice.random())
        assert sorted(page.url for page in pages_of(publisher)) == sorted(mine)

    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(run, dice.choice([0.5, 3, 60]))
    assert server.cache.flights.statistics().in_flight == 0
    assert server.cache.flights.statistics().waiting == 0
