from msgspec import UNSET, UnsetType

from eventmesh_trio.errors import EventMeshError, FetchTimeout, HTTPStatusError, ParseFailure
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.events import GateDecision, PageResult


def page(
    took_ms: int = 100,
    *,
    error: EventMeshError | None = None,
    decision: GateDecision = "raw",
    original: GateDecision | UnsetType = UNSET,
) -> PageResult:
    return PageResult(
        url="https://example.org/",
        status=200,
        from_cache=decision == "cached",
        gate_decision=decision,
        quality_score=0.5,
        processing_time_ms=took_ms,
        document=None,
        error=error_info(error, "2024-01-15T10:30:00.000Z") if error else None,
        cache_key="crawl:v1:example.org::00000000",
        original_gate_decision=original,
    )


def test_successes_and_failures_are_counted_apart() -> None:
    tally = Tally(5)
    tally.add(page())
    tally.add(page(error=HTTPStatusError(404)))
    tally.add(page())
    assert (tally.counts.completed, tally.counts.successful, tally.counts.failed) == (3, 2, 1)


def test_fastest_and_slowest_are_those_of_single_urls() -> None:
    tally = Tally(3)
    for took in (120, 45, 2100):
        tally.add(page(took))
    summary = tally.performance_summary(10.0)
    assert (summary.fastest_processing_ms, summary.slowest_processing_ms) == (45, 2100)


def test_a_url_that_took_no_measurable_time_is_the_fastest() -> None:
    tally = Tally(2)
    tally.add(page(0))
    tally.add(page(7))
    assert tally.performance_summary(1.0).fastest_processing_ms == 0


def test_the_gate_counts_originals_and_hits_as_cached_and_no_failures() -> None:
    tally = Tally(5)
    tally.add(page(decision="raw"))
    tally.add(page(decision="headless"))
    tally.add(page(decision="cached", original="probes_first"))
    tally.add(page(decision="cached", original="raw"))
    tally.add(page(error=FetchTimeout("slow")))
    assert tally.gate_decisions() == {"raw": 2, "probes_first": 1, "headless": 1, "cached": 2}


def test_errors_are_counted_by_type_and_by_what_a_retry_can_do() -> None:
    tally = Tally(4)
    for error in (FetchTimeout("a"), FetchTimeout("b"), HTTPStatusError(503), ParseFailure("c")):
        tally.add(page(error=error))
    analysis = tally.error_analysis()
    assert analysis.error_types == {"timeout": 2, "http_error": 1, "parse_error": 1}
    assert (analysis.retryable_errors, analysis.permanent_failures) == (3, 1)


def test_an_analysis_that_was_given_out_does_not_change() -> None:
    tally = Tally(2)
    tally.add(page(error=FetchTimeout("a")))
    analysis = tally.error_analysis()
    tally.add(page(error=FetchTimeout("b")))
    assert analysis.error_types == {"timeout": 1}


def test_rates_divide_by_what_the_contract_says() -> None:
    tally = Tally(10)
    tally.add(page())
    tally.add(page(decision="cached", original="raw"))
    tally.add(page(error=FetchTimeout("a")))
    tally.add(page())
    metrics = tally.performance_metrics(2.0)
    assert metrics.throughput_per_second == 2.0  # completed / elapsed
    assert metrics.avg_processing_time_ms == 500.0  # elapsed / completed
    assert (metrics.success_rate, metrics.cache_hit_rate) == (0.75, 0.25)
    summary = tally.performance_summary(2.0)
    assert summary.avg_processing_time_ms == tally.average_ms(2.0) == 200.0  # elapsed / total
    assert summary.throughput_per_second == 2.0


def test_before_the_first_result_every_rate_is_zero() -> None:
    tally = Tally(0)
    metrics = tally.performance_metrics(0.0)
    assert (metrics.throughput_per_second, metrics.avg_processing_time_ms) == (0.0, 0.0)
    assert (metrics.success_rate, metrics.cache_hit_rate) == (0.0, 0.0)
    summary = tally.performance_summary(0.0)
    assert (summary.fastest_processing_ms, summary.avg_processing_time_ms) == (0, 0.0)


def test_the_progress_of_the_next_result_includes_it_before_it_is_added() -> None:
    tally = Tally(4)
    tally.add(page())
    after = tally.progress_with(success=False)
    assert (after.completed, after.total, after.success_rate) == (2, 4, 0.5)
    assert tally.completed == 1


def test_bytes_add_up() -> None:
    tally = Tally(1)
    tally.add_bytes(1000)
    tally.add_bytes(24)
    assert tally.performance_summary(1.0).total_bytes_transferred == 1024
