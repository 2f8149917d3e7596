"""How a page is read: as it came, or again from a browser."""

from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pytest
import structlog
import trio
from trio.testing import MockClock

from eventmesh_trio.abc import Extraction, ExtractionScores, GateFeatures, Page
from eventmesh_trio.errors import NetworkFailure, ParseFailure, RenderFailure, RobotsDenied
from eventmesh_trio.pipeline.caching.cache import MemoryCache
from eventmesh_trio.pipeline.reading import Reading, ReadingLimits, is_better, is_poor, read_page
from eventmesh_trio.pipeline.stages import CrawlPorts
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakePoliteness,
    FakeRenderer,
    make_extraction,
    make_page,
    make_rendered_page,
)
from eventmesh_trio.wire.requests import CrawlOptions
from tests.pipeline.test_meter import RecordingMeter

URL = "https://example.org/a"
ONCE = ("decode", "parse", "gate", "extract")
LONG = make_page(URL, b"A long text. " * 100)


def decided(decision: str) -> Callable[[Page], Extraction]:
    """An extractor's answer: that decision for a fetched page, ``raw`` for a rendered one."""

    def answer(page: Page) -> Extraction:
        extraction = attrs.evolve(
            make_extraction(page), gate_score=0.2, gate_reason="it was judged"
        )
        return attrs.evolve(extraction, gate_decision="raw" if page.rendered else decision)

    return answer


@attrs.define(eq=False)
class Desk:
    """Where pages are read."""

    decision: str = "headless"
    extractor: FakeExtractor | None = None
    renderer: FakeRenderer | None = attrs.field(factory=FakeRenderer)
    politeness: FakePoliteness = attrs.field(factory=FakePoliteness)
    meter: RecordingMeter = attrs.field(factory=RecordingMeter)
    received: list[int] = attrs.field(factory=list)
    seconds_left: float = 10.0

    async def read(self, page: Page | None = None, **options: Any) -> Reading:
        ports = CrawlPorts(
            fetcher=FakeFetcher(),
            extractor=self.extractor or FakeExtractor(decided(self.decision)),
            cache=MemoryCache(),
            politeness=self.politeness,
            meter=self.meter,
            renderer=self.renderer,
        )
        return await read_page(
            ports,
            page or make_page(URL, b"<p>Short."),
            CrawlOptions(**options),
            ReadingLimits(),
            run="req-1",
            seconds_left=self.seconds_left,
            received=self.received.append,
        )


# --- What the gate decides ----------------------------------------------------------------------


async def test_a_raw_decision_keeps_the_document_that_is_there() -> None:
    desk = Desk("raw")
    reading = await desk.read()
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert (reading.page.rendered, reading.stages) == (False, ONCE)
    assert reading.extraction.gate_reason == "it was judged"
    assert (desk.meter.decisions, desk.meter.renders) == (["raw"], [])


async def test_a_headless_decision_takes_the_page_to_the_browser() -> None:
    desk = Desk("headless")
    reading = await desk.read()
    assert desk.renderer is not None
    assert desk.renderer.finished == [URL]
    assert reading.page.rendered
    assert "script wrote" in reading.extraction.document.text
    assert reading.stages == (*ONCE, "render", *ONCE)
    assert not reading.provisional
    assert (desk.meter.decisions, desk.meter.renders) == (["headless"], ["used"])
    assert len(desk.meter.extractions) == 2
    assert desk.received == [len(make_rendered_page(URL).body)]


async def test_the_judgement_of_a_rendered_page_is_the_one_that_sent_it_to_the_browser() -> None:
    extraction = (await Desk("headless").read()).extraction
    assert (extraction.gate_decision, extraction.gate_score) == ("headless", 0.2)
    assert extraction.gate_reason == (
        "it was judged; rendered: 58 characters of quality 80, the raw document 9 characters of"
        " quality 80"
    )


async def test_probes_first_is_content_with_a_document_that_is_not_poor() -> None:
    desk = Desk("probes_first")
    reading = await desk.read(LONG)
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert reading.stages == ONCE
    assert reading.extraction.gate_reason == (
        "it was judged; not rendered: the raw document will do (1300 characters of quality 80)"
    )


async def test_probes_first_renders_a_page_whose_document_is_poor() -> None:
    desk = Desk("probes_first")
    reading = await desk.read()
    assert desk.renderer is not None
    assert desk.renderer.finished == [URL]
    assert (reading.page.rendered, reading.extraction.gate_decision) == (True, "probes_first")
    assert "the raw document is poor (9 characters of quality 80); rendered" in (
        reading.extraction.gate_reason
    )


async def test_of_two_documents_the_better_one_is_taken() -> None:
    desk = Desk("headless")
    reading = await desk.read(LONG)
    assert (reading.page, reading.extraction.document.text[:6]) == (LONG, "A long")
    assert reading.stages == (*ONCE, "render", *ONCE)
    assert "rendered, to no avail: 58 characters" in reading.extraction.gate_reason
    assert desk.meter.renders == ["discarded"]


# --- What the options say -----------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["headless", "probes_first"])
async def test_static_never_renders_and_says_so(decision: str) -> None:
    desk = Desk(decision)
    reading = await desk.read(render_mode="static")
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert reading.extraction.gate_decision == decision
    assert reading.extraction.gate_reason == "it was judged; not rendered: render_mode is static"
    assert desk.meter.renders == []


async def test_a_page_of_dynamic_comes_rendered_and_is_not_rendered_again() -> None:
    desk = Desk()
    reading = await desk.read(make_rendered_page(URL), render_mode="dynamic")
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert reading.stages == ONCE
    assert reading.extraction.gate_decision == "headless"
    assert reading.extraction.gate_reason == (
        "render_mode is dynamic, so the page was rendered without being judged;"
        " what came of it scores 0.2"
    )
    assert desk.meter.decisions == []


@pytest.mark.parametrize(
    ("decision", "mode", "told"),
    [
        ("headless", "adaptive", "no browser is configured, so the page is served raw"),
        ("probes_first", "adaptive", "the raw document is poor (9 characters of quality 80); no "
         "browser is configured, so the page is served raw"),
        ("raw", "dynamic", "render_mode is dynamic, but no browser is configured, so the page is "
         "served raw"),
    ],
)  # fmt: skip
async def test_without_a_browser_the_decision_stands_and_the_page_is_served_raw(
    decision: str, mode: str, told: str
) -> None:
    desk = Desk(decision, renderer=None)
    reading = await desk.read(render_mode=mode)
    assert reading.extraction.gate_decision == decision
    assert reading.extraction.gate_reason == f"it was judged; {told}"
    assert (reading.stages, reading.provisional) == (ONCE, False)
    assert desk.meter.renders == ["unavailable"]


@pytest.mark.parametrize("mode", ["adaptive", "dynamic"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/rss+xml"])
async def test_what_is_not_html_is_never_rendered(kind: str, mode: str) -> None:
    desk = Desk("headless")
    reading = await desk.read(make_page(URL, b"[]", content_type=kind), render_mode=mode)
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert reading.extraction.gate_reason.endswith("what is not HTML is never rendered")


# --- When rendering fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RenderFailure("the browser crashed"), "render_error: the browser crashed"),
        (NetworkFailure("refused"), "network_error: refused"),
        (make_page(URL, status=403, rendered=True), "http_error: "),
        (make_page(URL, b"%PDF", content_type="application/pdf", rendered=True), "render_error: "),
    ],
)
async def test_a_render_that_fails_leaves_the_raw_document(
    answer: Page | Exception, told: str
) -> None:
    desk = Desk("headless", renderer=FakeRenderer(lambda _: answer))
    reading = await desk.read()
    assert (reading.page.rendered, reading.stages) == (False, (*ONCE, "render"))
    assert f"it was judged; rendering failed ({told}" in reading.extraction.gate_reason
    assert reading.extraction.gate_reason.endswith(", so it is served raw")
    assert reading.provisional
    assert desk.meter.renders == ["failed"]


async def test_a_rendered_page_that_cannot_be_read_leaves_the_raw_document() -> None:
    def answer(page: Page) -> Extraction | Exception:
        return ParseFailure("too deep") if page.rendered else decided("headless")(page)

    desk = Desk(extractor=FakeExtractor(answer))
    reading = await desk.read()
    assert (reading.page.rendered, reading.stages) == (False, (*ONCE, "render", *ONCE))
    assert "parse_error: too deep" in reading.extraction.gate_reason


async def test_a_bug_of_the_renderer_is_logged_and_leaves_the_raw_document() -> None:
    bug = ExceptionGroup("both", [ZeroDivisionError("a"), KeyError("b")])
    with structlog.testing.capture_logs() as logs:
        reading = await Desk(renderer=FakeRenderer(lambda _: bug)).read()
    assert [entry["exc_info"] for entry in logs] == [bug]
    assert "render_error: the server failed to render this page" in reading.extraction.gate_reason


async def test_a_page_that_cannot_be_read_at_all_is_an_error() -> None:
    desk = Desk(extractor=FakeExtractor(lambda _: ParseFailure("too deep")))
    with pytest.raises(ParseFailure):
        await desk.read()
    assert desk.meter.decisions == []


# --- Time, turns, and where it ends ---------------------------------------------------------------


async def test_a_render_has_what_is_left_of_the_urls_time(autojump_clock: MockClock) -> None:
    desk = Desk(renderer=FakeRenderer(delay=lambda _: 60.0), seconds_left=2.5)
    began = trio.current_time()
    reading = await desk.read()
    assert trio.current_time() - began == pytest.approx(2.5)
    assert "timeout: not rendered within the 2.5 seconds that were left" in (
        reading.extraction.gate_reason
    )
    assert desk.renderer is not None
    assert desk.renderer.cancelled == [URL]
    assert desk.politeness.held == 0


async def test_waiting_for_the_hosts_turn_is_not_the_urls_time(autojump_clock: MockClock) -> None:
    desk = Desk(
        renderer=FakeRenderer(delay=lambda _: 2.0),
        politeness=FakePoliteness(delay=lambda _: 60.0),
        seconds_left=2.5,
    )
    assert (await desk.read()).page.rendered


async def test_a_fetch_that_took_all_the_time_leaves_none_for_a_render() -> None:
    desk = Desk(seconds_left=0.0)
    reading = await desk.read()
    assert desk.renderer is not None
    assert desk.renderer.started == []
    assert "the fetch has used up the URL's time" in reading.extraction.gate_reason


async def test_a_render_holds_a_turn_at_the_host() -> None:
    held: list[int] = []
    desk = Desk()

    def answer(url: str) -> Page:
        held.append(desk.politeness.held)
        return make_rendered_page(url)

    desk.renderer = FakeRenderer(answer)
    await desk.read()
    assert (held, desk.politeness.held) == ([1], 0)


async def test_where_redirects_led_is_what_is_rendered() -> None:
    desk = Desk()
    await desk.read(make_page(URL, b"<p>", final_url="https://example.org/b"))
    assert desk.renderer is not None
    assert desk.renderer.started == ["https://example.org/b"]


async def test_a_script_that_leads_where_robots_may_not_leaves_the_raw_document() -> None:
    def refusal(url: str) -> Exception | None:
        return RobotsDenied("not there") if url.endswith("/private") else None

    away = make_page(URL, final_url="https://example.org/private", rendered=True)
    desk = Desk(renderer=FakeRenderer(lambda _: away), politeness=FakePoliteness(refusal=refusal))
    reading = await desk.read()
    assert not reading.page.rendered
    assert "robots_denied: not there" in reading.extraction.gate_reason


async def test_cancelled_it_gives_back_its_turn_and_the_browsers_page(
    autojump_clock: MockClock,
) -> None:
    desk = Desk(renderer=FakeRenderer(delay=lambda _: 5.0))
    with trio.move_on_after(1) as scope:
        await desk.read()
    assert scope.cancelled_caught
    assert desk.renderer is not None
    assert (desk.renderer.cancelled, desk.politeness.held) == ([URL], 0)
    assert desk.meter.renders == []


# --- Poor, and better ---------------------------------------------------------------------------


def document(chars: int, quality: int = 80, **features: Any) -> Extraction:
    extraction = make_extraction(make_page(URL))
    scores = ExtractionScores(text_chars=chars, length=1.0, prose=1.0, continuity=1.0, trust=1.0)
    members: dict[str, Any] = {
        "page_chars": 10_000,
        "visible_chars": chars,
        "paragraphs": 1,
        "has_article": False,
        "has_opengraph": False,
        "has_article_jsonld": False,
        "script_chars": 0,
    }
    return attrs.evolve(
        extraction,
        document=msgspec.structs.replace(extraction.document, quality_score=quality),
        scores=scores,
        gate_features=GateFeatures(**{**members, **features}),
    )


@pytest.mark.parametrize(
    ("extraction", "poor"),
    [
        (document(499), True),
        (document(500), False),
        (document(5000, quality=29), True),
        (document(5000, quality=30), False),
        (document(5000, spa_markers=("empty mount point",)), True),
        (document(5000, spa_markers=("application state",)), False),
    ],
)
def test_a_document_is_poor_by_its_length_its_quality_or_an_empty_mount_point(
    extraction: Extraction, poor: bool
) -> None:
    assert is_poor(extraction, "article", ReadingLimits()) is poor


def test_the_text_before_any_cut_is_what_counts() -> None:
    assert len(document(5000).document.text) < 500
    assert not is_poor(document(5000), "article", ReadingLimits())


@pytest.mark.parametrize("mode", ["raw", "metadata"])
def test_a_mode_without_content_looks_at_what_a_reader_would_see(mode: Any) -> None:
    limits = ReadingLimits()
    assert is_poor(document(5000, visible_chars=10), mode, limits)
    assert not is_poor(document(0, quality=0, visible_chars=5000), mode, limits)
    assert is_better(document(0, visible_chars=100), document(0, visible_chars=99), mode)
    assert not is_better(document(0, visible_chars=99), document(0, visible_chars=100), mode)


@pytest.mark.parametrize(
    ("rendered", "raw", "better"),
    [
        (document(1000), document(100), True),
        (document(100), document(1000), False),
        (document(1000, quality=20), document(400, quality=80), False),
        (document(1000), document(1000), True),
        (document(0), document(0), True),
    ],
)
def test_a_document_is_better_by_its_text_weighed_by_its_quality(
    rendered: Extraction, raw: Extraction, better: bool
) -> None:
    assert is_better(rendered, raw, "article") is better
