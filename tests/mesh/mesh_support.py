"""Jobs and readers of the mesh's tests: real ones, only small."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs
import trio
from msgspec import UNSET

from eventmesh_trio.abc import JobCounts, Publisher
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.encoders import EncodedBatch
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.events import (
    CrawlProgress,
    Document,
    ErrorAnalysis,
    Event,
    Metadata,
    PageResult,
    PerformanceMetrics,
    PerformanceSummary,
    PipelineMetadata,
    Progress,
    Result,
    RunError,
    RunStatus,
    Start,
    Summary,
)
from eventmesh_trio.wire.timestamps import utc_timestamp


def now() -> str:
    return utc_timestamp(time.time())


def result_event(request_id: str, index: int, total: int, text: str = "text") -> Result:
    url = f"http://example.test/{index}"
    stamp = now()
    return Result(
        timestamp=stamp,
        request_id=request_id,
        index=index,
        result=PageResult(
            url=url,
            status=200,
            from_cache=False,
            gate_decision="raw",
            quality_score=0.9,
            processing_time_ms=1,
            document=Document(
                url=url,
                title="A page",
                markdown=text,
                text=text,
                word_count=1,
                reading_time=1,
                quality_score=90,
                extracted_at=stamp,
                content_hash="sha256:0",
            ),
            error=None,
            cache_key="crawl:v1:example.test:page:00000000",
        ),
        progress=CrawlProgress(index + 1, total, 1.0),
        pipeline_metadata=PipelineMetadata(
            gate_decision_reason="test", extraction_method="test", processing_stages=("fetch",)
        ),
    )


Step = Callable[["SmallJob"], Any]


@attrs.define(eq=False)
class SmallJob:
    """Publishes ``total`` results, waiting for room before each, and ``nap`` seconds before that.

    ``burst`` results come after one wait each; ``holds`` is an event that work waits for first.
    """

    request_id: str = "req-1"
    total: int = 3
    nap: float = 0.0
    burst: int = 1
    text: str = "text"
    session_id: str = "s"
    fail_at: int | None = None
    failure: Exception = attrs.field(factory=lambda: RuntimeError("a bug"))
    holds: trio.Event | None = None
    kind: Literal["crawl", "deepsearch"] = "crawl"
    settled: int = 0
    works: int = 0
    unwinding: int = 0  # works that are being left now

    @property
    def done(self) -> bool:
        return self.settled >= self.total

    @property
    def counts(self) -> JobCounts:
        return JobCounts(completed=self.settled, successful=self.settled, failed=0)

    def opening(self) -> Sequence[Event]:
        common = {"timestamp": now(), "request_id": self.request_id, "session_id": self.session_id}
        return (
            Metadata(**common, total_urls=self.total, stream_type="crawl"),
            Start(**common, total_urls=self.total, options={}),
        )

    async def work(self, publisher: Publisher) -> None:
        self.works += 1
        if self.holds is not None:
            await self.holds.wait()
        while not self.done:
            if self.nap:
                await trio.sleep(self.nap)
            await publisher.wait_room()
            for _ in range(min(self.burst, self.total - self.settled)):
                if self.settled == self.fail_at:
                    raise self.failure
                # One synchronous step: what is published is settled.
                publisher.publish(
                    result_event(self.request_id, self.settled, self.total, self.text)
                )
                self.settled += 1
                publisher.touch()

    def progress(self) -> Progress:
        return Progress(
            timestamp=now(),
            request_id=self.request_id,
            completed=self.settled,
            total=self.total,
            current_url=None,
            url=None,
            phase="done" if self.done else "fetch",
            estimated_completion=None,
            performance_metrics=PerformanceMetrics(
                throughput_per_second=0.0,
                avg_processing_time_ms=0.0,
                success_rate=1.0,
                cache_hit_rate=0.0,
            ),
        )

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        stamp = now()
        summary = Summary(
            timestamp=stamp,
            request_id=self.request_id,
            session_id=self.session_id,
            total_urls=self.total,
            successful=self.settled,
            failed=0,
            cancelled=self.total - self.settled,
            from_cache=0,
            status=status,
            total_processing_time_ms=0,
            total_time_ms=0,
            avg_processing_time_ms=0.0,
            average_processing_time_ms=0.0,
            cache_hit_rate=0.0,
            performance_summary=PerformanceSummary(
                avg_processing_time_ms=0.0,
                fastest_processing_ms=0,
                slowest_processing_ms=0,
                throughput_per_second=0.0,
                total_bytes_transferred=0,
            ),
            gate_decisions={},
            error_analysis=ErrorAnalysis(error_types={}, retryable_errors=0, permanent_failures=0),
            **({"reason": reason} if reason else {}),
        )
        if error is None:
            return (summary,)
        failure = RunError(
            timestamp=stamp,
            request_id=self.request_id,
            error=error_info(error, stamp),
            recovery_suggestions=error.suggestions,
        )
        return (failure, summary)


@attrs.frozen
class LineEncoder:
    """One line an event: JSON small enough to look at, with the id where there is one."""

    name: str = "line"
    joins: bool = False

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
        raise NotImplementedError("lines are not joined")

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        raise NotImplementedError("lines do not hold the whole event")

    def encode(self, event: Event) -> bytes:
        tag = str(event.__struct_config__.tag)
        seen: dict[str, Any] = {"event": tag, "id": None if event.id is UNSET else event.id}
        for member in ("index", "request_id", "completed", "missing_from", "missing_to"):
            value = getattr(event, member, None)
            if isinstance(value, (int, str)):
                seen[member] = value
        return json.dumps(seen).encode() + b"\n"


LINES = LineEncoder()


def spec(**settings: Any) -> ReaderSpec:
    """A reader of lines, without heartbeats unless they are asked for."""
    settings.setdefault("encoder_for", lambda _: LINES)
    settings.setdefault("heartbeat_seconds", float("inf"))
    if "request_id" in settings:
        settings.setdefault("until", "run")
    return ReaderSpec(**settings)


def parsed(pieces: Sequence[bytes]) -> list[dict[str, Any]]:
    return [json.loads(piece) for piece in pieces]


def seq_of(event: dict[str, Any]) -> int:
    return int(event["id"].rpartition("-")[2])


def tags(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


async def read_all(reader: Subscriber, *, nap: float = 0.0) -> list[dict[str, Any]]:
    """Read batches to the end of the channel, as a writer does, ``nap`` seconds a write."""
    events: list[dict[str, Any]] = []
    while True:
        try:
            batch = await reader.receive_batch()
        except trio.EndOfChannel:
            return events
        assert batch.events == len(batch.pieces)
        assert batch.nbytes == sum(map(len, batch.pieces))
        if nap:
            await trio.sleep(nap)
        reader.sent(batch.events, batch.nbytes, nap)
        events += parsed(batch.pieces)


async def read_batch(reader: Subscriber, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Read one batch and report it as written within ``seconds``."""
    batch = await reader.receive_batch()
    reader.sent(batch.events, batch.nbytes, seconds)
    return parsed(batch.pieces)


def indexes(events: Sequence[dict[str, Any]]) -> list[int]:
    return [event["index"] for event in events if event["event"] == "result"]
