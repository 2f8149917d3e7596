"""From what a stage brought home to what the wire says of it.

An `Outcome` is the end of one URL's way through the pipeline; these functions render it, and what
a run says of itself. Nothing here waits or reads a clock: timestamps are given.
"""

import attrs
from msgspec import UNSET

from eventmesh_trio.abc import CacheEntry, Extraction, Page
from eventmesh_trio.errors import EventMeshError, HTTPStatusError
from eventmesh_trio.pipeline.fetching.retry import asked_wait
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.events import (
    CrawlProgress,
    GateDecision,
    PageResult,
    PipelineMetadata,
    Result,
    RunError,
    RunStatus,
    Summary,
)

__all__ = [
    "Outcome",
    "page_result",
    "refusal_of",
    "result_event",
    "run_error_event",
    "summary_event",
]


@attrs.frozen
class Outcome:
    """How the fetching and reading of one URL ended: with an ``extraction`` or an ``error``.

    ``status`` is the HTTP status, 0 where there was no response; ``final_url`` is set where
    redirects led elsewhere. ``stages`` are those that the URL entered, in order.
    """

    cache_key: str
    seconds: float  # from lease to here, without any wait for readers
    stages: tuple[str, ...]
    status: int = 0
    final_url: str | None = None
    extraction: Extraction | None = None
    error: EventMeshError | None = None
    from_cache: bool = False
    provisional: bool = (
        False  # a render failed or was cut short: the next attempt may bring a better document
    )
    entry: CacheEntry | None = None  # what the cache may keep of it

    @property
    def name(self) -> str:
        """How it ended, in a word: ``cached``, ``ok``, or the type of its error."""
        if self.error is not None:
            return self.error.type
        return "cached" if self.from_cache else "ok"


def refusal_of(page: Page, *, now: float, **context: object) -> HTTPStatusError | None:
    """The error of a page that is not the document asked for: any status but 200 to 299.

    ``now`` is in seconds since the epoch, for a ``Retry-After`` that is a date.
    """
    if 200 <= page.status <= 299:
        return None
    error = HTTPStatusError(page.status, **context)
    if error.can_retry:
        error.retry_after_seconds = asked_wait(page.fields, now)
    return error


def result_event(
    outcome: Outcome,
    page: PageResult,
    *,
    index: int,
    progress: CrawlProgress,
    request_id: str,
    timestamp: str,
) -> Result:
    """The canonical ``result``: nested, with flat copies of its scalars at the top."""
    return Result(
        timestamp=timestamp,
        request_id=request_id,
        index=index,
        result=page,
        progress=progress,
        pipeline_metadata=PipelineMetadata(
            gate_decision_reason=_gate_reason(outcome),
            extraction_method=outcome.extraction.method if outcome.extraction else None,
            processing_stages=outcome.stages,
        ),
        url=page.url,
        status=page.status,
        from_cache=page.from_cache,
        gate_decision=page.gate_decision,
        quality_score=page.quality_score,
        processing_time_ms=page.processing_time_ms,
        error=page.error,
    )


def page_result(
    outcome: Outcome, *, url: str, timestamp: str, duplicate_of: int | None = None
) -> PageResult:
    """One URL as the wire has it; ``url`` as it stood in the request."""
    extraction = outcome.extraction
    # A page that nobody judged has the decision that costs least, and the score of nothing.
    original: GateDecision = extraction.gate_decision if extraction else "raw"
    return PageResult(
        url=url,
        status=outcome.status,
        from_cache=outcome.from_cache,
        gate_decision="cached" if outcome.from_cache else original,
        quality_score=round(extraction.gate_score, 4) if extraction else 0.0,
        processing_time_ms=round(outcome.seconds * 1000),
        document=extraction.document if extraction else None,
        error=error_info(outcome.error, timestamp) if outcome.error else None,
        cache_key=outcome.cache_key,
        final_url=UNSET if outcome.final_url is None else outcome.final_url,
        original_gate_decision=original if outcome.from_cache else UNSET,
        duplicate_of=UNSET if duplicate_of is None else duplicate_of,
    )


def _gate_reason(outcome: Outcome) -> str:
    extraction = outcome.extraction
    if extraction is None:
        assert outcome.error is not None, "an outcome has an extraction or an error"
        return f"no page to judge: {outcome.error.type}"
    return extraction.gate_reason


def run_error_event(error: EventMeshError, *, request_id: str, timestamp: str) -> RunError:
    """The ``error`` of a run that failed as a whole: it names no URL."""
    return RunError(
        timestamp=timestamp,
        request_id=request_id,
        error=error_info(error, timestamp),
        recovery_suggestions=error.suggestions,
    )


def summary_event(
    tally: Tally,
    *,
    elapsed_seconds: float,
    status: RunStatus,
    reason: str | None,
    session_id: str,
    request_id: str,
    timestamp: str,
) -> Summary:
    """The last event of a run; ``cancelled`` are the URLs that have no result."""
    elapsed_ms = round(elapsed_seconds * 1000)
    average_ms = tally.average_ms(elapsed_seconds)
    return Summary(
        timestamp=timestamp,
        request_id=request_id,
        session_id=session_id,
        total_urls=tally.total,
        successful=tally.successful,
        failed=tally.failed,
        cancelled=tally.total - tally.completed,
        from_cache=tally.from_cache,
        status=status,
        reason=UNSET if reason is None else reason,
        total_processing_time_ms=elapsed_ms,
        total_time_ms=elapsed_ms,
        avg_processing_time_ms=average_ms,
        average_processing_time_ms=average_ms,
        cache_hit_rate=tally.cache_hit_rate,
        performance_summary=tally.performance_summary(elapsed_seconds),
        gate_decisions=tally.gate_decisions(),
        error_analysis=tally.error_analysis(),
    )
