"""One run's side of the cache: what it finds there, shares with other runs, and leaves there."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import CacheEntry, Page
from eventmesh_trio.pipeline.caching.flights import Flight
from eventmesh_trio.pipeline.caching.freshness import confirmed, entry_of, may_be_kept
from eventmesh_trio.pipeline.frontier import Errand
from eventmesh_trio.pipeline.ports import CrawlPorts
from eventmesh_trio.pipeline.reading import Reading
from eventmesh_trio.pipeline.report import Outcome
from eventmesh_trio.wire.requests import CrawlOptions

__all__ = ["Shelf", "store_key"]

_AHEAD: Final = 32
"""Errands whose documents may be looked for before they are leased: of a way into a thread and
back, 0.4 ms, a thirtieth is left for each. A crawl of 150 pages/s has leased them in 0.2 s."""


@attrs.define(eq=False)
class Shelf:
    """The cache and its flights, for the errands of one run.

    A failing cache is no trouble of a URL: ``contain`` is given what it raises, and what was
    looked for is not there. ``wall_time`` gives seconds since the epoch; ``upcoming`` the errands
    that are leased next, at most so many.
    """

    _ports: CrawlPorts
    _options: CrawlOptions
    _contain: Callable[[BaseException, Errand, str], object]
    _wall_time: Callable[[], float]
    _upcoming: Callable[[int], Iterable[Errand]]
    _prefix: str = attrs.field(init=False)  # of all keys of the run
    _held: dict[Errand, Flight] = attrs.field(factory=dict, init=False)
    _unread: set[Errand] = attrs.field(factory=set, init=False)  # pages that wait to be read
    _releasing: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._prefix = store_key("", self._options, self._ports)

    # --- What there is --------------------------------------------------------------------------

    async def find(self, errand: Errand) -> CacheEntry | None:
        """The document from the cache, fresh or not, or from the run that is fetching it now.

        Without one, or with one that is not fresh, we may hold the flight of the URL: it is ours to
        `land` and to `finish`. One of a URL that is not fetched any more is as good as none; that
        it is not, the fetch will tell.
        """
        policy = self._ports.policy
        if policy is not None and not policy.admits(errand.href):
            await trio.lowlevel.checkpoint()
            return None
        key, mode = self._key(errand), self._options.cache_mode
        if mode == "read_write":
            # As long as the URL may take by itself: after that, to wait for others is no use. That
            # time does not count as the URL's own, for the others may well wait for their turn.
            boarded = await self._ports.flights.board(
                key, self._options.timeout_seconds, self.is_fresh
            )
            if isinstance(boarded, CacheEntry):
                return boarded
            if boarded is not None:
                self._held[errand] = boarded
        try:
            entry = await self._ports.cache.get(key, mode, ahead=self._keys_ahead)
            if entry is None or policy is None or policy.admits(entry.final_url):
                return entry
            return None
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")  # a store that fails is a miss
            await trio.lowlevel.checkpoint()
            return None

    def is_fresh(self, entry: CacheEntry) -> bool:
        """Whether it may be used without asking its origin."""
        return entry.fresh_until > self._wall_time()

    def entry_of(self, reading: Reading, came_at: float) -> CacheEntry | None:
        """What the cache may keep of a page that came then, in seconds since the epoch."""
        page = reading.page
        if reading.provisional or not may_be_kept(page.status, page.fields):
            return None
        return entry_of(reading.extraction, page, came_at, self._ports.cache_limits)

    # --- What is left there ---------------------------------------------------------------------

    async def keep(self, errand: Errand, outcome: Outcome) -> None:
        """Put a fresh document into the cache; cancelled, it may be kept or not.

        Not kept is what its origin forbids to, nor one whose page a browser failed to render: the
        next attempt may bring a better one.
        """
        key, mode = self._key(errand), self._options.cache_mode
        try:
            if outcome.entry is not None:
                await self._ports.cache.put(key, outcome.entry, mode)
            elif not outcome.provisional:
                await self._ports.cache.discard(key, mode)
            else:
                await trio.lowlevel.checkpoint()
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")  # only the next crawl pays for it
            await trio.lowlevel.checkpoint()
        self.finish(errand)

    async def confirm(self, errand: Errand, found: CacheEntry, page: Page) -> CacheEntry:
        """Keep that a document has not changed; the entry as it is now.

        It leaves the cache where its origin no longer lets it be kept.
        """
        entry = confirmed(found, page, self._wall_time(), self._ports.cache_limits)
        kept = may_be_kept(entry.status, entry.fields)
        self.land(errand, entry if kept else None)
        key, mode = self._key(errand), self._options.cache_mode
        try:
            await self._ports.cache.refresh(key, entry, mode)
            if not kept:
                await self._ports.cache.discard(key, mode)
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")
            await trio.lowlevel.checkpoint()
        self.finish(errand)
        return entry

    async def forget(self, errand: Errand) -> None:
        """Forget a document that is not there any more."""
        try:
            await self._ports.cache.discard(self._key(errand), self._options.cache_mode)
        except (Exception, BaseExceptionGroup) as bug:
            self._contain(bug, errand, "cache")
            await trio.lowlevel.checkpoint()

    # --- Flights --------------------------------------------------------------------------------

    def land(self, errand: Errand, entry: CacheEntry | None) -> None:
        """Share a document with those who wait for it, if it may be used without asking."""
        flight = self._held.get(errand)
        if flight is not None:
            shared = entry if entry is not None and self.is_fresh(entry) else None
            self._ports.flights.land(flight, shared)

    def finish(self, errand: Errand) -> None:
        """Give up the flight of an errand, if it has one: with a failure, or when all is kept."""
        self._unread.discard(errand)
        flight = self._held.pop(errand, None)
        if flight is not None:
            self._ports.flights.finish(flight)

    def await_reading(self, errand: Errand) -> None:
        """Its page is there, and waits to be read."""
        self._unread.add(errand)
        if self._releasing:
            self.finish(errand)

    def begin_reading(self, errand: Errand) -> None:
        """Its page waits no more: it will be read, whatever our reader does."""
        self._unread.discard(errand)

    def release_waiting(self) -> None:
        """Give up the flights of pages that wait to be read, for our reader lets us wait.

        From here on, until `hold_waiting`, no page that waits has one: whoever wants the same
        document fetches it, and does not wait for our reader.
        """
        self._releasing = True
        for errand in list(self._unread):
            self.finish(errand)

    def hold_waiting(self) -> None:
        """Our reader goes on: others may wait again for pages that wait to be read."""
        self._releasing = False

    def end(self) -> None:
        """Give up every flight. When no task of the run works any more."""
        for flight in self._held.values():
            self._ports.flights.finish(flight)
        self._held.clear()
        self._unread.clear()
        self._releasing = False

    def _keys_ahead(self) -> Iterator[str]:
        return map(self._key, self._upcoming(_AHEAD))

    def _key(self, errand: Errand) -> str:
        return self._prefix + errand.href


def store_key(href: str, options: CrawlOptions, ports: CrawlPorts) -> str:
    """The whole of what the wire's ``cache_key`` is a digest of: under this the cache has a URL.

    The digest's 32 bits name a document well enough, but a site could find two of its pages, or two
    option sets, that share them, and have one served for the other.
    """
    # What a browser would have built is not in what was read without one.
    browser = options.render_mode != "static" and ports.renderer is not None
    key = f"{options.extraction_key}|{'browser' if browser else ''}"
    if options.user_agent is None and ports.user_agent is not None:
        key += f"|{ports.user_agent}"
    return f"{key}\n{href}"
