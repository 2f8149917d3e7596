"""The crawl: the one place where frontier, fetch, extraction and publishing are wired.

::

    frontier --lease--> fetch x N --pages--> extract x M --outcomes--> publish --settle--> frontier
                           |                                ^
                           +-- hits, failures --------------+

Every task lives in the nursery of one call of `CrawlJob.work`, which a pause cancels and a resume
calls anew. A URL is queued, leased or settled, and only the publisher settles, in one step with the
publishing; after the nursery has exited every lease goes back. So each URL has one result,
whatever was cancelled when.
"""

from collections.abc import Callable, Sequence
from time import time
from typing import Final, Literal, Protocol

import attrs
import msgspec
import trio

from eventmesh_trio.abc import JobCounts, Publisher
from eventmesh_trio.errors import CancelledByClient, EventMeshError
from eventmesh_trio.pipeline.fetching.retry import RetryLimits
from eventmesh_trio.pipeline.frontier import Errand, Frontier
from eventmesh_trio.pipeline.gauge import StageGauge
from eventmesh_trio.pipeline.reading import ReadingLimits
from eventmesh_trio.pipeline.report import (
    Outcome,
    page_result,
    result_event,
    run_error_event,
    summary_event,
)
from eventmesh_trio.pipeline.stages import CrawlPorts, Parcel, Stages
from eventmesh_trio.pipeline.stopwatch import Stopwatch
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.wire.events import (
    CrawlProgress,
    Event,
    Metadata,
    PageResult,
    Progress,
    RunStatus,
    Start,
)
from eventmesh_trio.wire.requests import CrawlRequest
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["CrawlJob", "CrawlLimits", "CrawlPorts", "RenderResult"]

_MAX_ESTIMATE_SECONDS: Final = 366 * 86_400.0
_READER_PATIENCE_SECONDS: Final = 0.05  # before other runs stop waiting for our pages
_Finished = tuple[Errand, Outcome]


class RenderResult(Protocol):
    """Makes of one URL's outcome the event that tells it; as `result_event`, which it is here."""

    def __call__(
        self,
        outcome: Outcome,
        page: PageResult,
        *,
        index: int,
        progress: CrawlProgress,
        request_id: str,
        timestamp: str,
    ) -> Event: ...


@attrs.frozen
class CrawlLimits:
    """What one run may take of the server."""

    max_fetches: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    """Fetches at once; a request's ``concurrency`` above it is clamped."""

    max_extractions: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    """Pages handed to the extractor at once. The extractor has its own, server-wide, limits."""

    retry: RetryLimits = attrs.field(factory=RetryLimits)
    """The waits between two attempts at one URL."""

    reading: ReadingLimits = attrs.field(factory=ReadingLimits)
    """When a page is worth a browser."""


class CrawlJob:
    """One crawl, as `eventmesh_trio.abc.Job`.

    Its elapsed time is the time spent in `work`: a paused run's clock stands still, as its
    deadlines do. ``wall_time`` gives seconds since the epoch, for timestamps only.

    A job that crawls as a part of its work gives its own ``render_result``, and its ``stopwatch``.

    Raises:
      ValueError: a URL is not one that `parse_url` reads.
    """

    kind: Literal["crawl", "deepsearch"] = "crawl"

    def __init__(
        self,
        request: CrawlRequest,
        *,
        session_id: str,
        request_id: str,
        ports: CrawlPorts,
        limits: CrawlLimits | None = None,
        wall_time: Callable[[], float] = time,
        render_result: RenderResult = result_event,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._limits = limits or CrawlLimits()
        self._options = msgspec.structs.replace(
            request.options,
            concurrency=min(request.options.concurrency, self._limits.max_fetches),
        )
        self._session_id = session_id
        self._request_id = request_id
        self._wall_time = wall_time
        self._frontier = Frontier(request.urls)
        self.total: int = self._frontier.total
        self._tally = Tally(self.total)
        self._gauge = StageGauge()
        run = f"{session_id} {request_id}"  # request ids are told apart within a session only
        self._meter = ports.meter
        self._stages = Stages(
            ports=ports.for_run(run),
            options=self._options,
            retry=self._limits.retry,
            reading=self._limits.reading,
            run=run,
            request_id=request_id,
            received=self._tally.add_bytes,
            wall_time=wall_time,
            upcoming=self._frontier.upcoming,
        )
        self._current_url: str | None = None
        self._render_result = render_result
        self._stopwatch = stopwatch or Stopwatch()
        # What a pause found in the publisher's hand: with some indices of an errand published, the
        # others must not cost a second fetch. One a pause, and it is first in line after it.
        self._in_hand: dict[int, Outcome] = {}

    @property
    def done(self) -> bool:
        return self._frontier.done

    @property
    def counts(self) -> JobCounts:
        return self._tally.counts

    @property
    def elapsed_seconds(self) -> float:
        """How long this run has worked; pauses do not count."""
        return self._stopwatch.elapsed_seconds

    def opening(self) -> Sequence[Event]:
        """``metadata`` and ``start``; the options are those that are in force, clamped ones too."""
        timestamp = self._timestamp()
        return (
            Metadata(
                timestamp=timestamp,
                request_id=self._request_id,
                session_id=self._session_id,
                total_urls=self.total,
                stream_type="crawl",
            ),
            Start(
                timestamp=timestamp,
                request_id=self._request_id,
                session_id=self._session_id,
                total_urls=self.total,
                options=msgspec.to_builtins(self._options),
            ),
        )

    def progress(self) -> Progress:
        """The newest state. ``current_url`` is the one whose fetch began last."""
        elapsed = self.elapsed_seconds
        return Progress(
            timestamp=self._timestamp(),
            request_id=self._request_id,
            completed=self._tally.completed,
            total=self.total,
            current_url=self._current_url,
            url=self._current_url,
            phase="done" if self.done else self._gauge.busiest,
            estimated_completion=self._estimated_completion(elapsed),
            performance_metrics=self._tally.performance_metrics(elapsed),
        )

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        """A run ``error`` where there is one, then ``summary``. Once, when the run is over."""
        self._meter.settled(CancelledByClient.type, self._frontier.untouched)
        timestamp = self._timestamp()
        summary = summary_event(
            self._tally,
            elapsed_seconds=self.elapsed_seconds,
            status=status,
            reason=reason,
            session_id=self._session_id,
            request_id=self._request_id,
            timestamp=timestamp,
        )
        if error is None:
            return (summary,)
        return (
            run_error_event(error, request_id=self._request_id, timestamp=timestamp),
            summary,
        )

    async def work(self, publisher: Publisher) -> None:
        """Fetch, read and publish until every URL is settled.

        Cancelled at any checkpoint, it leaves each URL published or queued again; calling it once
        more goes on from there. Exceptions are bugs of the publisher or of ours: one URL's trouble,
        a bug in its handling included, is that URL's result.
        """
        try:
            with self._stopwatch:
                await self._run_stages(publisher)
        finally:
            # The nursery has exited: no task carries an errand any more.
            self._frontier.give_back()
            self._stages.shelf.end()
            self._gauge.clear()

    async def _run_stages(self, publisher: Publisher) -> None:
        send_page, pages = trio.open_memory_channel[Parcel](0)
        send_outcome, outcomes = trio.open_memory_channel[_Finished](0)
        at_once = min(self._options.concurrency, self.total)  # most crawls are of one page or two
        async with trio.open_nursery() as nursery, send_page, pages, send_outcome, outcomes:
            for _ in range(at_once):
                nursery.start_soon(self._fetch_urls, send_page.clone(), send_outcome.clone())
            for _ in range(min(at_once, self._limits.max_extractions)):
                nursery.start_soon(self._extract_pages, pages.clone(), send_outcome.clone())
            nursery.start_soon(self._publish_outcomes, outcomes.clone(), publisher)

    # --- fetch ------------------------------------------------------------------------------------

    async def _fetch_urls(
        self, pages: trio.MemorySendChannel[Parcel], outcomes: trio.MemorySendChannel[_Finished]
    ) -> None:
        async with pages, outcomes:
            while True:
                try:
                    errand = await self._frontier.lease()
                except trio.EndOfChannel:
                    return
                self._current_url = errand.href
                self._gauge.enter("fetch")
                brought = self._in_hand.get(errand.first) or await self._stages.bring(errand)
                if isinstance(brought, Outcome):
                    self._gauge.move("fetch", "publish")
                    await outcomes.send((errand, brought))
                else:
                    self._gauge.move("fetch", "extraction")
                    await pages.send(brought)

    # --- extract ----------------------------------------------------------------------------------

    async def _extract_pages(
        self, pages: trio.MemoryReceiveChannel[Parcel], outcomes: trio.MemorySendChannel[_Finished]
    ) -> None:
        async with pages, outcomes:
            async for parcel in pages:
                outcome = await self._stages.read(parcel)
                self._gauge.move("extraction", "publish")
                await outcomes.send((parcel.errand, outcome))

    # --- publish ----------------------------------------------------------------------------------

    async def _publish_outcomes(
        self, outcomes: trio.MemoryReceiveChannel[_Finished], publisher: Publisher
    ) -> None:
        async with outcomes:
            async for errand, outcome in outcomes:
                await self._publish(errand, outcome, publisher)
                self._gauge.leave("publish")
                if outcome.extraction is not None and not outcome.from_cache:
                    await self._stages.shelf.keep(errand, outcome)

    async def _publish(self, errand: Errand, outcome: Outcome, publisher: Publisher) -> None:
        """Publish a result for each index of the errand that is not settled yet."""
        self._in_hand[errand.first] = outcome
        while True:
            await self._wait_room(publisher)
            # No checkpoint from here to the end of the loop: what is published is settled.
            index = errand.next_index
            timestamp = self._timestamp()
            page = page_result(
                outcome,
                url=errand.spellings[index],
                timestamp=timestamp,
                duplicate_of=None if index == errand.first else errand.first,
            )
            event = self._render_result(
                outcome,
                page,
                index=index,
                progress=self._tally.progress_with(success=page.error is None),
                request_id=self._request_id,
                timestamp=timestamp,
            )
            publisher.publish(event)
            self._frontier.settle(errand)
            self._tally.add(page)
            if index == errand.first:  # what stands twice in a request is one page
                self._meter.settled(outcome.name)
            publisher.touch()
            if not errand.spellings:
                break
        del self._in_hand[errand.first]

    async def _wait_room(self, publisher: Publisher) -> None:
        """Wait for our readers; and let no other run wait for them."""
        if publisher.has_room():
            await publisher.wait_room()  # it may be time to let others run
            return
        with trio.move_on_after(_READER_PATIENCE_SECONDS):
            await publisher.wait_room()
            return
        self._stages.shelf.release_waiting()
        await publisher.wait_room()
        self._stages.shelf.hold_waiting()

    # --- the small change ---------------------------------------------------------------------

    def _timestamp(self) -> str:
        return utc_timestamp(self._wall_time())

    def _estimated_completion(self, elapsed_seconds: float) -> str | None:
        """When the rest is done at the rate so far; None before the first result and when done.

        Also None where the rate says years: nobody plans by that.
        """
        completed = self._tally.completed
        if not completed or self.done:
            return None
        left = (self.total - completed) * elapsed_seconds / completed
        return utc_timestamp(self._wall_time() + left) if left < _MAX_ESTIMATE_SECONDS else None
