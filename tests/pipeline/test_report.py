import attrs
import pytest
from msgspec import UNSET

from eventmesh_trio.abc import Fields
from eventmesh_trio.errors import FetchTimeout, PipelineFailure
from eventmesh_trio.pipeline.report import (
    Outcome,
    page_result,
    refusal_of,
    result_event,
    run_error_event,
    summary_event,
)
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.testing import make_extraction, make_page
from eventmesh_trio.wire.events import CrawlProgress, PageResult, Result

URL = "https://example.org/a"
KEY = "crawl:v1:example.org:a:12345678"
NOW = "2024-01-15T10:30:00.000Z"


def success(**changes: object) -> Outcome:
    page = make_page(URL)
    outcome = Outcome(
        cache_key=KEY,
        seconds=0.2504,
        stages=("fetch", "decode", "parse", "extract"),
        status=200,
        extraction=make_extraction(page),
    )
    return attrs.evolve(outcome, **changes)


def failure() -> Outcome:
    return Outcome(cache_key=KEY, seconds=30.0, stages=("fetch",), error=FetchTimeout("slow"))


def event_of(outcome: Outcome, page: PageResult | None = None) -> Result:
    return result_event(
        outcome,
        page or page_result(outcome, url=URL, timestamp=NOW),
        index=3,
        progress=CrawlProgress(4, 10, 1.0),
        request_id="req-1",
        timestamp=NOW,
    )


@pytest.mark.parametrize("outcome", [success(), failure()], ids=["success", "failure"])
def test_a_result_repeats_its_scalars_at_the_top(outcome: Outcome) -> None:
    page = page_result(outcome, url=URL, timestamp=NOW)
    event = event_of(outcome, page)
    assert event.result is page
    flat = ("url", "status", "from_cache", "gate_decision", "quality_score", "processing_time_ms")
    for name in (*flat, "error"):
        assert getattr(event, name) == getattr(page, name), name
    assert (event.index, event.request_id, event.timestamp) == (3, "req-1", NOW)
    assert event.document is UNSET


def test_a_success_has_a_document_and_no_error() -> None:
    outcome = success()
    page = page_result(outcome, url=URL, timestamp=NOW)
    assert outcome.extraction is not None
    assert page.document is outcome.extraction.document
    assert page.error is None
    assert (page.status, page.quality_score, page.processing_time_ms) == (200, 0.8, 250)
    assert (page.gate_decision, page.original_gate_decision) == ("raw", UNSET)
    assert (page.cache_key, page.final_url, page.duplicate_of) == (KEY, UNSET, UNSET)


def test_a_failure_has_an_error_and_no_document() -> None:
    page = page_result(failure(), url=URL, timestamp=NOW)
    assert page.document is None
    assert page.error is not None
    assert (page.error.type, page.error.timestamp) == ("timeout", NOW)
    assert (page.status, page.quality_score, page.processing_time_ms) == (0, 0.0, 30_000)


def test_a_hit_is_cached_and_keeps_its_original_decision() -> None:
    page = page_result(success(from_cache=True, stages=("cache",)), url=URL, timestamp=NOW)
    assert (page.from_cache, page.gate_decision) == (True, "cached")
    assert page.original_gate_decision == "raw"


def test_a_redirect_and_a_duplicate_are_told() -> None:
    outcome = success(final_url="https://example.org/b")
    page = page_result(outcome, url=URL, timestamp=NOW, duplicate_of=0)
    assert (page.final_url, page.duplicate_of) == ("https://example.org/b", 0)


def test_the_metadata_says_how_the_document_came_about() -> None:
    outcome = success()
    metadata = event_of(outcome).pipeline_metadata
    assert metadata.gate_decision_reason == "the page is a fake"
    assert metadata.extraction_method == "fake"
    assert metadata.processing_stages == ("fetch", "decode", "parse", "extract")


def test_the_metadata_of_a_failure_says_that_nothing_was_judged() -> None:
    outcome = failure()
    metadata = event_of(outcome).pipeline_metadata
    assert metadata.gate_decision_reason == "no page to judge: timeout"
    assert (metadata.extraction_method, metadata.processing_stages) == (None, ("fetch",))


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 503])
def test_any_status_outside_200_to_299_is_an_error(status: int) -> None:
    error = refusal_of(make_page(URL, status=status), now=0.0, attempt_number=2)
    assert error is not None
    assert (error.type, error.error_code) == ("http_error", f"HTTP_{status}")
    assert error.context["attempt_number"] == 2


@pytest.mark.parametrize("status", [200, 203, 206, 299])
def test_a_status_of_200_to_299_is_none(status: int) -> None:
    assert refusal_of(make_page(URL, status=status), now=0.0) is None


@pytest.mark.parametrize(
    ("status", "fields", "seconds"),
    [
        (503, [(b"retry-after", b"120")], 120.0),
        (429, [(b"retry-after", b"Mon, 15 Jan 2024 10:30:10 GMT")], 10.0),
        (503, [], None),
        (404, [(b"retry-after", b"120")], None),
    ],
)
def test_a_retry_after_reaches_the_client_where_a_retry_can_help(
    status: int, fields: Fields, seconds: float | None
) -> None:
    page = attrs.evolve(make_page(URL, status=status), fields=fields)
    error = refusal_of(page, now=1705314600.0)
    assert error is not None
    assert error.retry_after_seconds == seconds


def test_a_failed_run_is_an_error_without_a_url() -> None:
    event = run_error_event(PipelineFailure("broken"), request_id="r", timestamp=NOW)
    assert (event.url, event.index) == (UNSET, UNSET)
    assert event.error.error_code == "PIPELINE"
    assert event.recovery_suggestions == PipelineFailure.suggestions


def test_a_summary_accounts_for_every_url() -> None:
    tally = Tally(5)
    tally.add(page_result(success(), url=URL, timestamp=NOW))
    tally.add(page_result(success(from_cache=True), url=URL, timestamp=NOW))
    tally.add(page_result(failure(), url=URL, timestamp=NOW))
    summary = summary_event(
        tally,
        elapsed_seconds=2.0,
        status="cancelled",
        reason="shutdown",
        session_id="s",
        request_id="r",
        timestamp=NOW,
    )
    assert (summary.successful, summary.failed, summary.cancelled) == (2, 1, 2)
    assert summary.total_urls == 5
    assert (summary.status, summary.reason) == ("cancelled", "shutdown")
    assert summary.total_processing_time_ms == summary.total_time_ms == 2000
    assert summary.avg_processing_time_ms == summary.average_processing_time_ms == 400.0
    assert summary.performance_summary.avg_processing_time_ms == 400.0
    assert (summary.from_cache, summary.cache_hit_rate) == (1, 0.3333)
    assert summary.performance_summary.slowest_processing_ms == 30_000
    assert summary.gate_decisions == {"raw": 2, "probes_first": 0, "headless": 0, "cached": 1}
    assert summary.error_analysis.error_types == {"timeout": 1}


def test_a_summary_without_a_reason_has_no_such_member() -> None:
    summary = summary_event(
        Tally(0),
        elapsed_seconds=0.0,
        status="completed",
        reason=None,
        session_id="s",
        request_id="r",
        timestamp=NOW,
    )
    assert summary.reason is UNSET
