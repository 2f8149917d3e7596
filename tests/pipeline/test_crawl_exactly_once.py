"""The promise of the crawl under fire: every URL is settled once, whatever is cancelled when.

A real hub, run and log; a real job; fakes for origin and workers that sleep and fail at random, a
reader that is slow at random, and somebody who pauses, resumes and cancels at random.
"""

import random
from collections import Counter

import pytest
import structlog
import trio
from msgspec import UNSET

from eventmesh_trio.abc import Encoder, Extraction, Page
from eventmesh_trio.errors import NetworkFailure, ParseFailure
from eventmesh_trio.mesh.hub import Hub, open_hub
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlLimits, CrawlPorts
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    make_extraction,
    make_page,
)
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import Event, Metadata, Result, Start, Summary
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest
from tests.helpers.scheduling import run_in_order

NAPS = (0.0, 0.0, 0.001, 0.01, 0.05)
ENDINGS = ("completed", "timed_out", "cancelled", "shutdown")


class Storm:
    """One random crawl, drawn from its seed."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.ending = ENDINGS[seed % len(ENDINGS)]
        urls = [f"https://example.org/{number}" for number in range(25)]
        self.urls = urls + self.rnd.choices(urls, k=self.rnd.randrange(8))
        self.rnd.shuffle(self.urls)
        self.fetcher = FakeFetcher(answer=self.answer, delay=self.nap)
        self.extractor = FakeExtractor(answer=self.read, delay=self.nap)
        self.politeness = FakePoliteness(delay=self.nap, check_delay=self.nap)
        self.seen: list[Event] = []

    def nap(self, _: object = None) -> float:
        return self.rnd.choice(NAPS)

    def answer(self, url: str) -> Page | Exception:
        dice = self.rnd.random()
        if dice < 0.05:
            return NetworkFailure("reset")
        if dice < 0.07:
            return ValueError("a bug")
        return make_page(url, status=503 if dice < 0.12 else 200)

    def read(self, page: Page) -> Extraction | Exception:
        return ParseFailure("odd") if self.rnd.random() < 0.05 else make_extraction(page)

    def job(self) -> CrawlJob:
        options = CrawlOptions(
            concurrency=self.rnd.randint(1, 8),
            timeout_seconds=self.rnd.choice((0.1, 30)),
            max_retries=self.rnd.randrange(3),
        )
        return CrawlJob(
            CrawlRequest(urls=tuple(self.urls), options=options),
            session_id="s",
            request_id="r",
            ports=CrawlPorts(self.fetcher, self.extractor, MemoryCache(), self.politeness),
            limits=CrawlLimits(max_extractions=self.rnd.randint(1, 4)),
        )

    async def poke(self, run: Run) -> None:
        for _ in range(self.rnd.randrange(25)):
            await trio.sleep(self.rnd.choice((0.0, 0.0, 0.0005, 0.003, 0.02)))
            self.rnd.choice((run.pause, run.resume))()
            if self.ending == "cancelled" and self.rnd.random() < 0.05:
                run.cancel()
        run.resume()

    async def blow(self) -> None:
        spec = ReaderSpec(
            encoder_for=_encoder_for,
            until="run",
            request_id="r",
            capacity=self.rnd.choice((1, 2, 8, 64)),
            min_capacity=1,
            progress=self.rnd.random() < 0.5,
        )
        with trio.fail_after(1000):  # of the clock that jumps: a run that hangs fails at once
            await self.run_in(spec)

    async def run_in(self, spec: ReaderSpec) -> None:
        async with open_hub() as hub:
            session = hub.open_session("s")
            run, subscriber = hub.start_run(
                session,
                self.job(),
                request_id="r",
                timeout_seconds=0.2 if self.ending == "timed_out" else None,
                reader=spec,
            )
            assert subscriber is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.poke, run)
                if self.ending == "shutdown":
                    nursery.start_soon(self.shut_down, hub)
                async for event in subscriber:
                    await trio.sleep(self.nap())
                    self.seen.append(event)

    async def shut_down(self, hub: Hub) -> None:
        await trio.sleep(self.rnd.random() * 0.3)
        await hub.drain()

    def judge(self) -> str:
        events = [event for event in self.seen if isinstance(event, Result | Summary)]
        results = [event for event in events if isinstance(event, Result)]
        assert [type(event) for event in self.seen[:2]] == [Metadata, Start]
        summary = events[-1]
        assert isinstance(summary, Summary)
        assert sum(isinstance(event, Summary) for event in events) == 1
        settled = Counter(event.index for event in results)
        assert not settled or max(settled.values()) == 1, "a URL was published twice"
        assert len(settled) == summary.successful + summary.failed
        assert summary.successful + summary.failed + summary.cancelled == len(self.urls)
        failed = sum(event.error is not None for event in results)
        assert failed == summary.failed
        counted = [event.progress.completed for event in results]
        assert counted == list(range(1, len(results) + 1))
        for event in results:
            assert event.result is not UNSET
            assert event.result.url == self.urls[event.index]
        if summary.status == "completed":
            assert settled == Counter(range(len(self.urls)))
        assert self.fetcher.at_once == self.extractor.at_once == self.politeness.held == 0
        return summary.status


def _encoder_for(_: object) -> Encoder:
    return HTTPEncoder("ndjson")


def weather(seeds: range) -> Counter[str]:
    endings: Counter[str] = Counter()
    with structlog.testing.capture_logs():
        for seed in seeds:
            storm = Storm(seed)
            try:
                run_in_order(storm.blow, str(seed))
                endings[storm.judge()] += 1
            except Exception as error:
                seen = [type(event).__name__ for event in storm.seen]
                error.add_note(f"seed {seed}, {storm.ending}; seen: {seen}")
                raise
    return endings


@pytest.mark.slow
def test_every_url_is_settled_once_through_random_pauses_resumes_cancels_and_deadlines() -> None:
    endings = weather(range(200))
    assert all(endings[status] > 10 for status in ("completed", "timed_out", "cancelled")), endings


@pytest.mark.slow
def test_every_url_is_settled_once_through_two_thousand_such_storms() -> None:
    endings = weather(range(1000, 3000))
    assert all(endings[status] > 100 for status in ("completed", "timed_out", "cancelled")), endings
