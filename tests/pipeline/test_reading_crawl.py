"""Rendering within a crawl: what is brought, kept, paused and counted."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.abc import Extraction, Page
from eventmesh_trio.errors import RenderFailure, RobotsDenied, UnsupportedContent
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlPorts
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    FakeRenderer,
    RecordingPublisher,
    make_extraction,
    make_page,
    make_rendered_page,
)
from eventmesh_trio.wire.events import PageResult, PipelineMetadata, Result
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest
from tests.pipeline.test_meter import RecordingMeter

URL = "https://example.org/a"
ONCE = ("decode", "parse", "gate", "extract")


def headless(page: Page) -> Extraction:
    return attrs.evolve(make_extraction(page), gate_decision="headless", gate_reason="0.1")


@attrs.define(eq=False)
class Bench:
    fetcher: FakeFetcher = attrs.field(factory=FakeFetcher)
    renderer: FakeRenderer | None = attrs.field(factory=FakeRenderer)
    extractor: FakeExtractor = attrs.field(factory=lambda: FakeExtractor(headless))
    politeness: FakePoliteness = attrs.field(factory=FakePoliteness)
    cache: MemoryCache = attrs.field(factory=MemoryCache)
    meter: RecordingMeter = attrs.field(factory=RecordingMeter)

    def job(self, *urls: str, **options: Any) -> CrawlJob:
        options.setdefault("max_retries", 0)
        ports = CrawlPorts(
            fetcher=self.fetcher,
            extractor=self.extractor,
            cache=self.cache,
            politeness=self.politeness,
            meter=self.meter,
            renderer=self.renderer,
        )
        return CrawlJob(
            CrawlRequest(urls=urls or (URL,), options=CrawlOptions(**options)),
            session_id="s",
            request_id="r",
            ports=ports,
        )

    async def crawl(self, *urls: str, **options: Any) -> list[Result]:
        publisher = RecordingPublisher()
        await self.job(*urls, **options).work(publisher)
        return [event for event in publisher.events if isinstance(event, Result)]


async def one(bench: Bench, **options: Any) -> tuple[PageResult, PipelineMetadata]:
    (event,) = await bench.crawl(**options)
    assert isinstance(event.result, PageResult)
    return event.result, event.pipeline_metadata


# --- Adaptive -------------------------------------------------------------------------------------


async def test_a_headless_page_is_fetched_then_rendered() -> None:
    bench = Bench()
    page, metadata = await one(bench)
    assert metadata.processing_stages == ("fetch", *ONCE, "render", *ONCE)
    assert (page.status, page.gate_decision) == (200, "headless")
    assert page.document is not None
    assert "script wrote" in page.document.text


async def test_where_a_script_led_is_the_final_url() -> None:
    body = b"<p>Some text that a script wrote, and that is longer."
    away = make_page(URL, body, final_url="https://example.org/b")
    bench = Bench(renderer=FakeRenderer(lambda _: attrs.evolve(away, rendered=True)))
    page, _ = await one(bench)
    assert page.final_url == "https://example.org/b"


async def test_the_fetch_and_the_render_share_the_urls_time(autojump_clock: MockClock) -> None:
    bench = Bench(
        fetcher=FakeFetcher(delay=lambda _: 4.0), renderer=FakeRenderer(delay=lambda _: 60.0)
    )
    began = trio.current_time()
    page, metadata = await one(bench, timeout_seconds=10)
    assert trio.current_time() - began == pytest.approx(10.0)
    assert page.processing_time_ms == pytest.approx(10_000, abs=20)
    assert page.document is not None
    assert "not rendered within the 6 seconds" in metadata.gate_decision_reason


async def test_a_document_of_a_failed_render_is_not_kept() -> None:
    bench = Bench(renderer=FakeRenderer(lambda _: RenderFailure("the browser crashed")))
    await bench.crawl()
    assert bench.cache.statistics().store.entries == 0
    bench.renderer = FakeRenderer()
    page, _ = await one(bench)
    assert not page.from_cache
    page, metadata = await one(bench)
    assert (page.from_cache, page.original_gate_decision) == (True, "headless")
    assert "rendered: 58 characters" in metadata.gate_decision_reason


async def test_what_was_read_without_a_browser_does_not_serve_a_crawl_with_one() -> None:
    bench = Bench(renderer=None)
    await bench.crawl()
    assert (await one(bench))[0].from_cache
    bench.renderer = FakeRenderer()
    page, metadata = await one(bench)
    assert not page.from_cache
    assert "render" in metadata.processing_stages
    assert not (await one(bench, render_mode="static"))[0].from_cache


async def test_a_pause_stops_a_render_and_a_resume_does_all_of_it_again(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(renderer=FakeRenderer(delay=lambda _: 5.0))
    job, publisher = bench.job(), RecordingPublisher()
    with trio.move_on_after(2):
        await job.work(publisher)
    assert bench.renderer is not None
    assert (bench.renderer.cancelled, bench.politeness.held) == ([URL], 0)
    assert publisher.events == []
    await job.work(publisher)
    assert job.done
    assert bench.fetcher.finished == [URL, URL]
    assert bench.renderer.finished == [URL]
    assert [type(event) for event in publisher.events] == [Result]


async def test_renders_are_counted_by_what_came_of_them() -> None:
    bench = Bench()
    await bench.crawl("https://e.org/1", "https://e.org/2")
    bench.renderer = FakeRenderer(lambda _: RenderFailure("crashed"))
    await bench.crawl("https://e.org/3")
    bench.renderer = None
    await bench.crawl("https://e.org/4")
    assert bench.meter.decisions == ["headless"] * 4
    assert bench.meter.renders == ["used", "used", "failed", "unavailable"]


# --- Dynamic --------------------------------------------------------------------------------------


async def test_dynamic_renders_at_once_and_fetches_nothing() -> None:
    bench = Bench()
    page, metadata = await one(bench, render_mode="dynamic")
    assert bench.fetcher.started == []
    assert bench.renderer is not None
    assert bench.renderer.finished == [URL]
    assert metadata.processing_stages == ("render", *ONCE)
    assert (page.status, page.gate_decision) == (200, "headless")
    assert metadata.gate_decision_reason.startswith("render_mode is dynamic, so the page was")
    assert (bench.meter.renders, bench.meter.fetches) == (["used"], [])


async def test_dynamic_heeds_robots_txt_and_holds_a_turn() -> None:
    held: list[int] = []
    bench = Bench()

    def answer(url: str) -> Page:
        held.append(bench.politeness.held)
        return make_rendered_page(url)

    bench.renderer = FakeRenderer(answer)
    await bench.crawl(render_mode="dynamic")
    assert held == [1]
    bench = Bench(politeness=FakePoliteness(refusal=lambda _: RobotsDenied("no")))
    page, metadata = await one(bench, render_mode="dynamic")
    assert page.error is not None
    assert page.error.type == "robots_denied"
    assert bench.renderer is not None
    assert bench.renderer.started == []
    assert metadata.processing_stages == ("render",)


async def test_dynamic_is_tried_again_and_fails_as_the_browser_did(
    autojump_clock: MockClock,
) -> None:
    bench = Bench(renderer=FakeRenderer(lambda _: RenderFailure("the browser crashed")))
    page, metadata = await one(bench, render_mode="dynamic", max_retries=2)
    assert bench.renderer is not None
    assert len(bench.renderer.finished) == 3
    assert page.error is not None
    assert (page.error.type, page.error.context["attempt_number"]) == ("render_error", 3)
    assert metadata.processing_stages == ("render",)
    assert bench.meter.renders == ["failed"] * 3


async def test_dynamic_is_bounded_by_the_urls_time(autojump_clock: MockClock) -> None:
    bench = Bench(renderer=FakeRenderer(delay=lambda _: 60.0))
    page, _ = await one(bench, render_mode="dynamic", timeout_seconds=3)
    assert page.error is not None
    assert page.error.type == "timeout"
    assert page.processing_time_ms == pytest.approx(3000, abs=5)


async def test_dynamic_fetches_what_turns_out_to_be_no_html() -> None:
    body = make_page(URL, b'{"a": 1}', content_type="application/json")
    bench = Bench(
        fetcher=FakeFetcher(lambda _: body),
        renderer=FakeRenderer(lambda _: attrs.evolve(body, rendered=True)),
    )
    page, metadata = await one(bench, render_mode="dynamic")
    assert bench.fetcher.finished == [URL]
    assert page.document is not None
    assert metadata.processing_stages == ("render", "fetch", *ONCE)
    assert bench.meter.renders == ["discarded"]
    assert metadata.gate_decision_reason.endswith("what is not HTML is never rendered")


async def test_dynamic_fetches_what_no_browser_shows_such_as_a_pdf() -> None:
    bench = Bench(
        fetcher=FakeFetcher(lambda _: make_page(URL, b"%PDF-1.7", content_type="application/pdf")),
        renderer=FakeRenderer(lambda _: UnsupportedContent("a download")),
    )
    page, metadata = await one(bench, render_mode="dynamic")
    assert page.document is not None
    assert metadata.processing_stages == ("render", "fetch", *ONCE)
    assert bench.meter.renders == ["discarded"]


async def test_an_error_page_in_a_browser_is_an_error_page() -> None:
    missing = make_page(URL, status=404, rendered=True)
    page, _ = await one(Bench(renderer=FakeRenderer(lambda _: missing)), render_mode="dynamic")
    assert page.error is not None
    assert (page.status, page.error.type) == (404, "http_error")


async def test_dynamic_without_a_browser_fetches() -> None:
    bench = Bench(renderer=None)
    page, metadata = await one(bench, render_mode="dynamic")
    assert bench.fetcher.finished == [URL]
    assert page.document is not None
    assert metadata.processing_stages == ("fetch", *ONCE)
    assert "no browser is configured" in metadata.gate_decision_reason


@pytest.mark.parametrize("mode", ["adaptive", "dynamic"])
async def test_a_cancelled_crawl_leaves_no_render_behind(
    mode: str, autojump_clock: MockClock
) -> None:
    bench = Bench(renderer=FakeRenderer(delay=lambda _: 60.0))
    async with trio.open_nursery() as nursery:
        job = bench.job(*(f"https://e.org/{n}" for n in range(5)), render_mode=mode)
        nursery.start_soon(job.work, RecordingPublisher())
        await wait_all_tasks_blocked()
        assert bench.renderer is not None
        await trio.sleep(1)
        assert bench.renderer.at_once == 5
        nursery.cancel_scope.cancel()
    assert (bench.renderer.at_once, bench.politeness.held) == (0, 0)
