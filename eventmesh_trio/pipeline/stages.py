"""What happens to one URL of a crawl: looked up, fetched, read, kept.

Each method takes one URL a step further and ends in a `Parcel` or an `Outcome`, never in an
exception: this is the boundary at which one URL's trouble, a bug in its handling included, becomes
that URL's result. Nothing here knows of the frontier's states, of channels, or of readers.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf
from typing import Final, Protocol, TypeAlias

import attrs
import structlog
import trio

from eventmesh_trio.abc import Cache, CacheEntry, Extraction, Extractor, Page
from eventmesh_trio.errors import EventMeshError, FetchTimeout, InternalError, PageError, bare
from eventmesh_trio.pipeline.frontier import Errand
from eventmesh_trio.pipeline.report import Outcome, extraction_stages, judged, refusal_of
from eventmesh_trio.pipeline.retry import RetryLimits, fetch_with_retries
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL, cache_key, parse_url

__all__ = ["BeforeHop", "CrawlPorts", "HopFetcher", "Meter", "Parcel", "Stages", "Turns"]

_logger: Final = structlog.get_logger(__name__)


BeforeHop: TypeAlias = Callable[[URL], Awaitable[None]]


class HopFetcher(Protocol):
    """A `eventmesh_trio.abc.Fetcher` that asks before it follows a redirect."""

    async def fetch(
        self, url: str, options: CrawlOptions, *, before_hop: BeforeHop | None = None
    ) -> Page:
        """As `eventmesh_trio.abc.Fetcher.fetch`; a `PageError` of ``before_hop`` ends it."""
        ...


class Turns(Protocol):
    """What a crawl asks of `eventmesh_trio.pipeline.politeness.Politeness`."""

    async def check(self, url: URL, options: CrawlOptions) -> None:
        """Return if the URL may be fetched; gets the host's robots.txt first where it must.

        Raises: PageError of the kind that fits: `RobotsDenied`, `CircuitOpen`.
        """
        ...

    def turn(self, url: str, options: CrawlOptions) -> AbstractAsyncContextManager[object]:
        """Wait for this URL's turn at its host, and hold it for the length of the block.

        Raises: as `check` does.
        """
        ...


class Meter(Protocol):
    """Who counts what the stages of all runs do. Synchronous and quick; it must not fail."""

    def retried(self) -> None:
        """A URL is tried again."""
        ...

    def fetched(self, seconds: float, wire_bytes: int) -> None:
        """An attempt brought a whole response, of any status."""
        ...

    def extracted(self, seconds: float) -> None:
        """A page was read, or could not be; waiting for a worker included."""
        ...

    def settled(self, outcome: str) -> None:
        """A URL is done with: ``ok``, ``cached``, or the type of its error."""
        ...


class _NoMeter:
    """Counts nothing."""

    def retried(self) -> None: ...

    def fetched(self, seconds: float, wire_bytes: int) -> None: ...

    def extracted(self, seconds: float) -> None: ...

    def settled(self, outcome: str) -> None: ...


@attrs.frozen
class CrawlPorts:
    """What all runs of a server share."""

    fetcher: HopFetcher
    extractor: Extractor
    cache: Cache
    politeness: Turns
    meter: Meter = attrs.field(factory=_NoMeter)


@attrs.frozen
class Parcel:
    """A page on its way to extraction."""

    errand: Errand
    cache_key: str
    page: Page
    attempts: int
    seconds: float  # that the fetch took


@attrs.define(eq=False)
class _TimedFetcher:
    """A `Fetcher` for one URL: each attempt waits for its turn, and the URL's time for it.

    Without that, a run on a host with a long crawl delay would time out on its own good manners.
    What the origin does with its time counts, its robots.txt included.
    """

    _ports: CrawlPorts
    _scope: trio.CancelScope
    _received: Callable[[int], None]
    attempts: int = attrs.field(default=0, init=False)

    async def fetch(self, url: str, options: CrawlOptions) -> Page:
        politeness = self._ports.politeness
        await politeness.check(parse_url(url), options)
        left = self._scope.deadline - trio.current_time()
        self._scope.deadline = inf
        try:
            async with politeness.turn(url, options):
                self._scope.deadline = trio.current_time() + left
                page = await self._ports.fetcher.fetch(
                    url, options, before_hop=partial(politeness.check, options=options)
                )
                self._received(page.wire_bytes)
                self._ports.meter.fetched(page.elapsed_seconds, page.wire_bytes)
                return page
        finally:
            if self._scope.deadline == inf:  # there was no turn
                self._scope.deadline = trio.current_time() + left

    def note(self, attempt: int) -> None:
        self.attempts = attempt
        if attempt > 1:
            self._ports.meter.retried()


@attrs.define(eq=False)
class Stages:
    """The steps of one run: its options, and the ports it uses.

    ``received`` is told the body bytes of each response of an origin, those included that are
    answered by another attempt; ``wall_time`` gives seconds since the epoch.
    """

    _ports: CrawlPorts
    _options: CrawlOptions
    _retry: RetryLimits
    _request_id: str
    _received: Callable[[int], None]
    _wall_time: Callable[[], float]

    async def bring(self, errand: Errand) -> Parcel | Outcome:
        """Get one URL's page; an outcome where the cache has its document, or nothing came."""
        brought = await self._bring(errand)
        if isinstance(brought, Outcome):
            self._ports.meter.settled("cached" if brought.from_cache else _type_of(brought.error))
        return brought

    async def _bring(self, errand: Errand) -> Parcel | Outcome:
        began = trio.current_time()
        key = cache_key(parse_url(errand.href), self._options.extraction_key)
        if (hit := await self._look_up(errand)) is not None:
            return Outcome(
                cache_key=key,
                seconds=trio.current_time() - began,
                stages=("cache",),
                status=hit.status,
                final_url=_elsewhere(errand, hit.final_url),
                extraction=hit.extraction,
                from_cache=True,
            )
        page: Page | None = None
        attempts: int | None = None
        error: EventMeshError | None
        try:
            page, attempts = await self._fetch(errand)
            error = refusal_of(page, now=self._wall_time())
        except (Exception, BaseExceptionGroup) as failure:
            error = self._contain(failure, errand, "fetch")
        seconds = trio.current_time() - began
        if error is not None:
            self._explain(error, attempts)
        elif page is not None and attempts is not None:
            return Parcel(errand, key, page, attempts, seconds)
        return Outcome(
            cache_key=key,
            seconds=seconds,
            stages=("fetch",),
            status=page.status if page else 0,
            final_url=_elsewhere(errand, page.final_url) if page else None,
            error=error,
        )

    async def read(self, parcel: Parcel) -> Outcome:
        """Extract the document of a page."""
        options, page = self._options, parcel.page
        began = trio.current_time()
        extraction: Extraction | None = None
        error: EventMeshError | None = None
        try:
            found = await self._ports.extractor.extract(
                page, options.extract_mode, options.max_text_chars
            )
            extraction = judged(found, page, options.render_mode)
        except (Exception, BaseExceptionGroup) as failure:
            error = self._contain(failure, parcel.errand, "extraction")
            self._explain(error, parcel.attempts)
            await trio.lowlevel.checkpoint()  # it may have failed before its first one
        self._ports.meter.extracted(trio.current_time() - began)
        self._ports.meter.settled(_type_of(error))
        return Outcome(
            cache_key=parcel.cache_key,
            seconds=parcel.seconds + trio.current_time() - began,
            stages=("fetch", *extraction_stages(options.extract_mode)),
            status=page.status,
            final_url=_elsewhere(parcel.errand, page.final_url),
            extraction=extraction,
            error=error,
        )

    async def keep(self, errand: Errand, extraction: Extraction, outcome: Outcome) -> None:
        """Put a fresh document into the cache; cancelled, it is just not kept."""
        entry = CacheEntry(
            extraction=extraction,
            status=outcome.status,
            final_url=outcome.final_url or errand.href,
            stored_at=self._wall_time(),
        )
        try:
            await self._ports.cache.put(self._store_key(errand), entry, self._options.cache_mode)
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")  # only the next crawl pays for it
            await trio.lowlevel.checkpoint()

    async def _look_up(self, errand: Errand) -> CacheEntry | None:
        try:
            return await self._ports.cache.get(self._store_key(errand), self._options.cache_mode)
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")  # a store that fails is a miss
            await trio.lowlevel.checkpoint()
            return None

    async def _fetch(self, errand: Errand) -> tuple[Page, int]:
        """The page, and how many attempts it took; `FetchTimeout` when the URL's time is up."""
        options = self._options
        with trio.move_on_after(options.timeout_seconds) as scope:
            fetcher = _TimedFetcher(self._ports, scope, self._received)
            page = await fetch_with_retries(
                fetcher, errand.href, options, limits=self._retry, on_attempt=fetcher.note
            )
            return page, fetcher.attempts
        raise FetchTimeout(
            f"no page within {options.timeout_seconds:g} seconds",
            context={"attempt_number": fetcher.attempts},
        )

    def _explain(self, error: EventMeshError, attempts: int | None) -> None:
        """Say of a URL's error how hard it was tried, and when trying again makes sense.

        Where the origin named no time, that is what we would wait before the next attempt.
        """
        if attempts is not None:
            error.context.setdefault("attempt_number", attempts)
        error.context.setdefault("max_retries", self._options.max_retries)
        error.context.setdefault(
            "timeout_threshold_ms", round(self._options.timeout_seconds * 1000)
        )
        if error.can_retry and error.retry_after_seconds is None:
            attempt = error.context.get("attempt_number")
            error.retry_after_seconds = self._retry.delay_after(
                attempt if isinstance(attempt, int) else 1
            )

    def _store_key(self, errand: Errand) -> str:
        """The whole of what the wire's ``cache_key`` is a digest of.

        Its 32 bits name a document well enough, but a site could find two of its pages, or two
        option sets, that share them, and have one served for the other.
        """
        return f"{self._options.extraction_key}\n{errand.href}"

    def _contain(self, failure: BaseException, errand: Errand, stage: str) -> EventMeshError:
        """What the client is told of a failure; a bug is logged.

        Of a group only the exceptions are contained: a cancellation or an interrupt that came at
        the same moment goes on its way.
        """
        if isinstance(failure, PageError):
            return bare(failure)
        others: BaseException | None = None
        if isinstance(failure, BaseExceptionGroup):
            bugs, others = failure.split(Exception)
            if bugs is None:
                raise failure
        _logger.error(
            "a URL could not be handled",
            url=errand.href,
            stage=stage,
            request_id=self._request_id,
            exc_info=failure,
        )
        if others is not None:
            raise others
        return InternalError("the server failed to handle this URL; its log says why")


def _type_of(error: EventMeshError | None) -> str:
    return "ok" if error is None else error.type


def _elsewhere(errand: Errand, final_url: str) -> str | None:
    """Where redirects led, if they led away from the URL that was asked for."""
    return None if final_url == errand.href else final_url
