"""The tally: what a run has settled so far, as the counts behind its progress and its summary.

Times of one URL come in as the wire has them (whole milliseconds); the run's own time is given by
the caller, in seconds, for only it knows what counts as working. Rates are 0.0 where there is
nothing to divide by.
"""

from collections import Counter
from collections.abc import Mapping

import attrs
from msgspec import UNSET

from eventmesh_trio.abc import JobCounts
from eventmesh_trio.wire.events import (
    CrawlProgress,
    ErrorAnalysis,
    PageResult,
    PerformanceMetrics,
    PerformanceSummary,
)

__all__ = ["Tally"]


@attrs.define(eq=False)
class Tally:
    """Counts over the results that were published; ``total`` is the number of URLs asked for."""

    total: int
    successful: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    from_cache: int = attrs.field(default=0, init=False)
    bytes_transferred: int = attrs.field(default=0, init=False)
    _fastest_ms: int | None = attrs.field(default=None, init=False)
    _slowest_ms: int = attrs.field(default=0, init=False)
    _decisions: Counter[str] = attrs.field(factory=Counter, init=False)
    _error_types: Counter[str] = attrs.field(factory=Counter, init=False)
    _retryable: int = attrs.field(default=0, init=False)

    @property
    def completed(self) -> int:
        return self.successful + self.failed

    @property
    def counts(self) -> JobCounts:
        return JobCounts(completed=self.completed, successful=self.successful, failed=self.failed)

    def add(self, page: PageResult) -> None:
        """Count one published result.

        The gate's decisions are counted where there was a page to judge, so for successes only; of
        a cache hit the original decision is, and the hit itself as ``cached``.
        """
        if page.error is None:
            self.successful += 1
            original = page.original_gate_decision
            self._decisions[page.gate_decision if original is UNSET else original] += 1
        else:
            self.failed += 1
            self._error_types[page.error.type] += 1
            self._retryable += page.error.retryable
        self.from_cache += page.from_cache
        took = page.processing_time_ms
        self._fastest_ms = took if self._fastest_ms is None else min(self._fastest_ms, took)
        self._slowest_ms = max(self._slowest_ms, took)

    def add_bytes(self, wire_bytes: int) -> None:
        """Count body bytes that came from an origin, also those of a page fetched again."""
        self.bytes_transferred += wire_bytes

    def progress_with(self, *, success: bool) -> CrawlProgress:
        """What stands in the next result: the counts as they are once it is added."""
        completed = self.completed + 1
        return CrawlProgress(completed, self.total, _ratio(self.successful + success, completed))

    def performance_metrics(self, elapsed_seconds: float) -> PerformanceMetrics:
        """Rates so far; the average is elapsed time per settled URL."""
        return PerformanceMetrics(
            throughput_per_second=_ratio(self.completed, elapsed_seconds),
            avg_processing_time_ms=_ratio(elapsed_seconds * 1000, self.completed),
            success_rate=_ratio(self.successful, self.completed),
            cache_hit_rate=self.cache_hit_rate,
        )

    def performance_summary(self, elapsed_seconds: float) -> PerformanceSummary:
        """The whole run; the average is elapsed time per URL asked for."""
        return PerformanceSummary(
            avg_processing_time_ms=self.average_ms(elapsed_seconds),
            fastest_processing_ms=self._fastest_ms or 0,
            slowest_processing_ms=self._slowest_ms,
            throughput_per_second=_ratio(self.completed, elapsed_seconds),
            total_bytes_transferred=self.bytes_transferred,
        )

    def average_ms(self, elapsed_seconds: float) -> float:
        return _ratio(elapsed_seconds * 1000, self.total)

    @property
    def cache_hit_rate(self) -> float:
        """Hits per settled URL."""
        return _ratio(self.from_cache, self.completed)

    def gate_decisions(self) -> Mapping[str, int]:
        """Original decisions by name, every name present, and the hits as ``cached``."""
        names = ("raw", "probes_first", "headless")
        return {**{name: self._decisions[name] for name in names}, "cached": self.from_cache}

    def error_analysis(self) -> ErrorAnalysis:
        return ErrorAnalysis(
            error_types=dict(self._error_types),
            retryable_errors=self._retryable,
            permanent_failures=self.failed - self._retryable,
        )


def _ratio(part: float, whole: float) -> float:
    """A rate as the wire has it: rounded to what a reader can use, 0.0 of nothing."""
    return round(part / whole, 4) if whole else 0.0
