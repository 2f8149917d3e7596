"""What happens to one URL of a crawl: looked up, fetched, read, kept.

Each method takes one URL a step further and ends in a `Parcel` or an `Outcome`, never in an
exception: this is the boundary at which one URL's trouble, a bug in its handling included, becomes
that URL's result. Nothing here knows of the frontier's states, of channels, or of readers.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Final

import attrs
import structlog
import trio

from eventmesh_trio.abc import CacheEntry, Page, Validators
from eventmesh_trio.errors import EventMeshError, FetchTimeout, InternalError, PageError, bare
from eventmesh_trio.pipeline.caching.freshness import is_confirmation
from eventmesh_trio.pipeline.caching.shelf import Shelf, store_key
from eventmesh_trio.pipeline.fetching.retry import RetryLimits, fetch_with_retries
from eventmesh_trio.pipeline.frontier import Errand
from eventmesh_trio.pipeline.ports import BeforeHop, CrawlPorts, HopFetcher, Meter, Turn, Turns
from eventmesh_trio.pipeline.reading import (
    Reading,
    ReadingLimits,
    bringing_stages,
    extraction_stages,
    load_page,
    read_page,
)
from eventmesh_trio.pipeline.report import Outcome, refusal_of
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL, cache_key, parse_url

__all__ = [
    "BeforeHop",
    "CrawlPorts",
    "HopFetcher",
    "Meter",
    "Parcel",
    "Stages",
    "Turn",
    "Turns",
    "store_key",
]

_logger: Final = structlog.get_logger(__name__)
_GONE: Final = frozenset({404, 410})


@attrs.frozen
class Parcel:
    """A page on its way to extraction."""

    errand: Errand
    cache_key: str
    page: Page
    attempts: int
    seconds: float  # that the fetch took
    seconds_left: float  # of the URL's time
    came_at: float  # seconds since the epoch; it may wait for long before it is read


@attrs.frozen
class _Fetched:
    """What a fetch brought; ``confirms``: a 304, about the document that is kept."""

    page: Page
    confirms: bool
    attempts: int
    seconds_left: float  # of the URL's time


@attrs.define(eq=False)
class _TimedFetcher:
    """A `Fetcher` for one URL: each attempt waits for its turn, and the URL's time for it.

    Without that, a run on a host with a long crawl delay would time out on its own good manners.
    What the origin does with its time counts, its robots.txt included.
    """

    _ports: CrawlPorts
    _scope: trio.CancelScope
    _received: Callable[[int], None]
    _run: str
    _validators: Validators | None = None
    attempts: int = attrs.field(default=0, init=False)
    is_confirmation: bool = attrs.field(default=False, init=False)
    """Whether the page is a 304 that was asked for, and about the version that we have."""

    async def fetch(self, url: str, options: CrawlOptions) -> Page:
        page = await self._fetch(url, options)
        validators = self._validators
        if validators is not None and page.status == 304:
            self.is_confirmation = is_confirmation(page, validators)
            if not self.is_confirmation:
                self._validators = None  # it is about another version: get the page itself
                page = await self._fetch(url, options)
        return page

    async def _fetch(self, url: str, options: CrawlOptions) -> Page:
        politeness = self._ports.politeness
        await politeness.check(parse_url(url), options)
        left = self._scope.deadline - trio.current_time()
        self._scope.deadline = inf
        try:
            async with politeness.turn(url, options, self._run) as turn:
                self._scope.deadline = trio.current_time() + left
                page = await load_page(
                    self._ports,
                    url,
                    options,
                    before_hop=partial(self._move, turn, options),
                    validators=self._validators,
                )
                turn.answered(page)
                self._received(page.wire_bytes)
                return page
        finally:
            if self._scope.deadline == inf:  # there was no turn
                self._scope.deadline = trio.current_time() + left

    async def _move(self, turn: "Turn", options: CrawlOptions, target: URL) -> None:
        """Before a redirect is followed: its host has its turns too, and robots.txt counts."""
        await self._ports.politeness.check(target, options)
        left = self._scope.deadline - trio.current_time()
        self._scope.deadline = inf
        try:
            await turn.move(target)
        finally:
            self._scope.deadline = trio.current_time() + left

    def note(self, attempt: int) -> None:
        self.attempts = attempt
        if attempt > 1:
            self._ports.meter.retried()


@attrs.define(eq=False)
class Stages:
    """The steps of one run: its options, and the ports it uses.

    ``received`` is told the body bytes of each response of an origin, those included that are
    answered by another attempt; ``wall_time`` gives seconds since the epoch, ``upcoming`` the
    errands that come next, at most so many.
    """

    _ports: CrawlPorts
    _options: CrawlOptions
    _retry: RetryLimits
    _reading: ReadingLimits
    _run: str  # its name among all runs of the server
    _request_id: str
    _received: Callable[[int], None]
    _wall_time: Callable[[], float]
    _upcoming: Callable[[int], Iterable[Errand]]
    _contain: Callable[[BaseException, Errand, str], EventMeshError] = attrs.field(init=False)
    shelf: Shelf = attrs.field(init=False)
    """What the run has to do with the cache."""

    def __attrs_post_init__(self) -> None:
        # No method of ours: the shelf would hold us, and what is over is freed at once.
        self._contain = partial(_contain, self._request_id)
        self.shelf = Shelf(
            self._ports, self._options, self._contain, self._wall_time, self._upcoming
        )

    async def bring(self, errand: Errand) -> Parcel | Outcome:
        """Get one URL's page; an outcome where the cache has its document, or nothing came."""
        began = trio.current_time()
        found = await self.shelf.find(errand)
        if found is not None and self.shelf.is_fresh(found):
            self.shelf.land(errand, found)
            self.shelf.finish(errand)
            return self._hit(errand, found, began, ("cache",))
        fetched: _Fetched | None = None
        error: EventMeshError | None = None
        try:
            fetched = await self._fetch(errand, found)
            if found is not None and fetched.confirms:
                fresher = await self.shelf.confirm(errand, found, fetched.page)
                return self._hit(errand, fresher, began, ("cache", "fetch"))
            error = refusal_of(fetched.page, now=self._wall_time())
        except (Exception, BaseExceptionGroup) as failure:
            error = self._contain(failure, errand, "fetch")
        seconds = trio.current_time() - began
        page = fetched.page if fetched else None
        if error is not None:
            self._explain(error, fetched.attempts if fetched else None)
            # What is asked for anew, `Shelf.find` has not looked for.
            may_be_kept = found is not None or self._options.cache_mode == "write_only"
            if may_be_kept and page is not None and page.status in _GONE:
                await self.shelf.forget(errand)
        elif fetched is not None:
            self.shelf.await_reading(errand)
            return Parcel(
                errand,
                self._wire_key(errand),
                fetched.page,
                fetched.attempts,
                seconds,
                fetched.seconds_left,
                self._wall_time(),
            )
        self.shelf.finish(errand)
        return Outcome(
            cache_key=self._wire_key(errand),
            seconds=seconds,
            stages=bringing_stages(self._options, self._ports, page),
            status=page.status if page else 0,
            final_url=_elsewhere(errand, page.final_url) if page else None,
            error=error,
        )

    def _hit(
        self, errand: Errand, entry: CacheEntry, began: float, stages: tuple[str, ...]
    ) -> Outcome:
        return Outcome(
            cache_key=self._wire_key(errand),
            seconds=trio.current_time() - began,
            stages=stages,
            status=entry.status,
            final_url=_elsewhere(errand, entry.final_url),
            extraction=entry.extraction,
            from_cache=True,
        )

    async def read(self, parcel: Parcel) -> Outcome:
        """Read the document of a page, rendered where that is called for."""
        options, page = self._options, parcel.page
        began = trio.current_time()
        self.shelf.begin_reading(parcel.errand)
        reading: Reading | None = None
        entry: CacheEntry | None = None
        error: EventMeshError | None = None
        try:
            reading = await read_page(
                self._ports,
                page,
                options,
                self._reading,
                run=self._run,
                seconds_left=parcel.seconds_left,
                received=self._received,
            )
            page = reading.page
            came_at = parcel.came_at if page is parcel.page else self._wall_time()
            entry = self.shelf.entry_of(reading, came_at)
        except (Exception, BaseExceptionGroup) as failure:
            reading = None
            error = self._contain(failure, parcel.errand, "extraction")
            self._explain(error, parcel.attempts)
            await trio.lowlevel.checkpoint()  # it may have failed before its first one
        stages = reading.stages if reading else extraction_stages(options.extract_mode)
        if error is None:
            self.shelf.land(parcel.errand, entry)
        else:
            self.shelf.finish(parcel.errand)
        return Outcome(
            cache_key=parcel.cache_key,
            seconds=parcel.seconds + trio.current_time() - began,
            stages=(*bringing_stages(options, self._ports, parcel.page), *stages),
            status=page.status,
            final_url=_elsewhere(parcel.errand, page.final_url),
            extraction=reading.extraction if reading else None,
            error=error,
            provisional=reading is not None and reading.provisional,
            entry=entry,
        )

    async def _fetch(self, errand: Errand, known: CacheEntry | None) -> _Fetched:
        """The page, or a 304 about ``known``.

        Raises: PageError; `FetchTimeout` when that time is up.
        """
        options = self._options
        with trio.move_on_after(options.timeout_seconds) as scope:
            fetcher = _TimedFetcher(
                self._ports,
                scope,
                self._received,
                self._run,
                known.validators if known else None,
            )
            page = await fetch_with_retries(
                fetcher, errand.href, options, limits=self._retry, on_attempt=fetcher.note
            )
            left = scope.deadline - trio.current_time()
            return _Fetched(page, fetcher.is_confirmation, fetcher.attempts, left)
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

    def _wire_key(self, errand: Errand) -> str:
        return cache_key(parse_url(errand.href), self._options.extraction_key)


def _contain(request_id: str, failure: BaseException, errand: Errand, stage: str) -> EventMeshError:
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
            try:
                raise failure
            finally:  # its traceback holds this frame, which holds it
                del failure, others
    _logger.error(
        "a URL could not be handled",
        url=errand.href,
        stage=stage,
        request_id=request_id,
        exc_info=failure,
    )
    if others is not None:
        try:
            raise others
        finally:
            del failure, others
    return InternalError("the server failed to handle this URL; its log says why")


def _elsewhere(errand: Errand, final_url: str) -> str | None:
    """Where redirects led, if they led away from the URL that was asked for."""
    return None if final_url == errand.href else final_url
