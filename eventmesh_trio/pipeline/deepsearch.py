"""The deep search: a provider is asked, and what it found is crawled, result by result.

The crawl is a `CrawlJob` of the hits, with results of another look; so exactly-once, pause, cancel
and deadlines are its own. The search before it is one step: cancelled before its answer came it is
made again by the next call of `work`; an answer is kept, and published and taken over without a
checkpoint between the two.
"""

from collections.abc import Callable, Sequence
from time import time
from typing import Final, Literal

import msgspec
import trio
from msgspec import UNSET

from eventmesh_trio.abc import JobCounts, Publisher, SearchProvider
from eventmesh_trio.errors import EventMeshError, RequestError, bare
from eventmesh_trio.pipeline.crawl import CrawlJob, CrawlLimits, CrawlPorts
from eventmesh_trio.pipeline.report import Outcome
from eventmesh_trio.pipeline.stopwatch import Stopwatch
from eventmesh_trio.wire.events import (
    CrawlProgress,
    CrawlStart,
    Event,
    Metadata,
    PageResult,
    Progress,
    RunStatus,
    SearchContent,
    SearchCrawlResult,
    SearchHit,
    SearchResult,
    SearchResults,
    SearchStart,
    SearchSummary,
)
from eventmesh_trio.wire.requests import CrawlRequest, DeepSearchRequest
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["DeepSearchJob", "FirstAnswer"]

SEARCH_PHASE: Final = "search"


class FirstAnswer:
    """Whether the provider has answered: for who must know it before a response begins."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._failure: RequestError | None = None

    async def wait(self) -> RequestError | None:
        """Return when the search is over: None, or why the provider could not serve.

        None as well where the run ended for another reason: its events tell it. A checkpoint.
        """
        await self._event.wait()
        return self._failure

    def settle(self, failure: RequestError | None = None) -> None:
        """The search is over; only the first call counts."""
        if not self._event.is_set():
            self._failure = None if failure is None else bare(failure)
            self._event.set()


class DeepSearchJob:
    """One deep search, as `eventmesh_trio.abc.Job`.

    Until the provider has answered, ``total`` is the most that can be: the request's ``limit``, or
    0 where nothing is to be crawled.
    """

    kind: Literal["crawl", "deepsearch"] = "deepsearch"

    def __init__(
        self,
        request: DeepSearchRequest,
        *,
        session_id: str,
        request_id: str,
        provider: SearchProvider,
        ports: CrawlPorts,
        limits: CrawlLimits | None = None,
        wall_time: Callable[[], float] = time,
    ) -> None:
        self._request = request
        self._session_id = session_id
        self._request_id = request_id
        self._provider = provider
        self._ports = ports
        self._limits = limits
        self._wall_time = wall_time
        self._stopwatch = Stopwatch()
        self._answer: tuple[SearchHit, ...] | None = None  # of the provider, told or not
        self._hits: tuple[SearchHit, ...] | None = None  # that were told
        self._closed = False
        self._crawl = self._crawl_of(())
        self.first_answer = FirstAnswer()

    @property
    def total(self) -> int:
        if self._hits is None and not self._closed:
            return self._request.limit if self._request.include_content else 0
        return self._crawl.total

    @property
    def done(self) -> bool:
        return self._hits is not None and self._crawl.done

    @property
    def counts(self) -> JobCounts:
        return self._crawl.counts

    def opening(self) -> Sequence[Event]:
        """``metadata``, whose ``total_urls`` is the most that can be, and ``search_start``."""
        timestamp = self._timestamp()
        return (
            Metadata(
                timestamp=timestamp,
                request_id=self._request_id,
                session_id=self._session_id,
                total_urls=self.total,
                stream_type="deepsearch",
            ),
            SearchStart(
                timestamp=timestamp,
                request_id=self._request_id,
                query=self._request.query,
                limit=self._request.limit,
                provider=self._provider.name,
            ),
        )

    async def work(self, publisher: Publisher) -> None:
        """Search, then crawl what was found; cancelled anywhere, the next call goes on.

        Raises:
          RequestError: the provider could not serve (`DependencyError`), or not this query.
        """
        with self._stopwatch:
            if self._hits is None:
                await self._search(publisher)
            if not self._crawl.done:
                await self._crawl.work(publisher)

    def progress(self) -> Progress:
        """The newest state; its ``phase`` is ``search`` until the provider has answered."""
        progress = self._crawl.progress()
        if self._hits is not None or self._closed:
            return progress
        return msgspec.structs.replace(progress, total=self.total, phase=SEARCH_PHASE)

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        """A run ``error`` where there is one, ``search_summary``, ``summary``."""
        self._closed = True
        self.first_answer.settle(error if isinstance(error, RequestError) else None)
        *before, summary = self._crawl.closing(status, reason, error)
        counts = self._crawl.counts
        search_summary = SearchSummary(
            timestamp=summary.timestamp,
            request_id=self._request_id,
            query=self._request.query,
            urls_found=len(self._hits or ()),
            urls_crawled=counts.completed,
            successful=counts.successful,
            failed=counts.failed,
            total_processing_time_ms=round(self._stopwatch.elapsed_seconds * 1000),
            status=status,
        )
        return (*before, search_summary, summary)

    async def _search(self, publisher: Publisher) -> None:
        request = self._request
        if self._answer is None:
            self._answer = tuple(
                await self._provider.search(
                    request.query, request.limit, country=request.country, locale=request.locale
                )
            )
        hits = self._answer
        crawl = self._crawl_of(hits if request.include_content else ())
        # The provider has served: what is still to come waits for readers, not for it.
        self.first_answer.settle()
        await publisher.wait_room()
        # No checkpoint from here on: what is published is taken over.
        timestamp = self._timestamp()
        publisher.publish(
            SearchResults(
                timestamp=timestamp,
                request_id=self._request_id,
                query=request.query,
                urls_found=len(hits),
                results=hits,
            )
        )
        if request.include_content:
            publisher.publish(
                CrawlStart(timestamp=timestamp, request_id=self._request_id, total_urls=crawl.total)
            )
        self._hits, self._crawl = hits, crawl
        publisher.touch()

    def _crawl_of(self, hits: Sequence[SearchHit]) -> CrawlJob:
        return CrawlJob(
            CrawlRequest(urls=tuple(hit.url for hit in hits), options=self._request.crawl_options),
            session_id=self._session_id,
            request_id=self._request_id,
            ports=self._ports,
            limits=self._limits,
            wall_time=self._wall_time,
            render_result=self._search_result,
            stopwatch=self._stopwatch,
        )

    def _search_result(
        self,
        outcome: Outcome,
        page: PageResult,
        *,
        index: int,
        progress: CrawlProgress,  # noqa: ARG002 - the specification shows none in it
        request_id: str,
        timestamp: str,
    ) -> SearchResult:
        assert self._hits is not None, "what is crawled was found"
        hit = self._hits[index]
        document = page.document
        return SearchResult(
            timestamp=timestamp,
            request_id=request_id,
            url=hit.url,
            rank=hit.rank,
            search_title=hit.search_title,
            search_snippet=hit.search_snippet,
            content=None
            if document is None
            else SearchContent(
                title=document.title,
                markdown=document.markdown,
                word_count=document.word_count,
                truncated=document.truncated,
            ),
            crawl_result=SearchCrawlResult(
                status=page.status,
                processing_time_ms=page.processing_time_ms,
                quality_score=page.quality_score,
                from_cache=outcome.from_cache,
                final_url=page.final_url,
            ),
            error=UNSET if page.error is None else page.error,
        )

    def _timestamp(self) -> str:
        return utc_timestamp(self._wall_time())
