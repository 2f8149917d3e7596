"""The cache of extracted documents: what each mode may do, and how often that helped.

What is kept is the `Extraction`, so that a hit costs neither a fetch nor an extraction. Where it is
kept is a `Store`'s business, how long it is used
`eventmesh_trio.pipeline.caching.freshness`'s, and both is put to use in
`eventmesh_trio.pipeline.stages`.
"""

from collections.abc import Callable, Sequence
from time import time
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import CacheEntry, KeysAhead
from eventmesh_trio.pipeline.caching.flights import Flights
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.memory import MemoryStore
from eventmesh_trio.pipeline.caching.store import Store, StoreStatistics
from eventmesh_trio.wire.events import SearchHit
from eventmesh_trio.wire.requests import CacheMode

__all__ = ["READING", "WRITING", "CacheLimits", "CacheStatistics", "DocumentCache", "MemoryCache"]

READING: Final = frozenset[CacheMode]({"read_write", "read_only"})
WRITING: Final = frozenset[CacheMode]({"read_write", "write_only"})


@attrs.frozen
class CacheStatistics:
    """Lookups since the cache was made, and the store as it is now.

    A document found that is no longer fresh is ``expired`` and a miss; where its origin then says
    that it has not changed it counts as ``revalidated`` too. One that another run was just fetching
    needed no lookup, and is ``shared``.
    """

    hits: int
    misses: int
    expired: int
    revalidated: int
    shared: int
    store: StoreStatistics

    @property
    def hit_rate(self) -> float:
        """The share of documents asked for that took no page, 0-1; 0.0 before the first."""
        asked = self.hits + self.misses + self.shared
        return (self.hits + self.revalidated + self.shared) / asked if asked else 0.0


class DocumentCache:
    """`eventmesh_trio.abc.Cache` over a store.

    A lookup that the mode does not allow touches nothing and counts nothing. ``wall_time`` gives
    seconds since the epoch, the clock of `CacheEntry.stored_at`.
    """

    def __init__(
        self,
        store: Store,
        limits: CacheLimits | None = None,
        *,
        wall_time: Callable[[], float] = time,
    ) -> None:
        self.store: Final = store
        self._limits = limits or CacheLimits()
        self._wall_time = wall_time
        self.flights: Final = Flights()
        self._hits = self._misses = self._expired = self._revalidated = 0

    async def get(
        self, key: str, mode: CacheMode, *, ahead: KeysAhead | None = None
    ) -> CacheEntry | None:
        """The entry of that key, where the mode reads.

        It is usable as it is until its ``fresh_until``, which may have passed. Always a checkpoint
        where the mode reads; cancellation changes nothing.
        """
        if mode not in READING:
            await trio.lowlevel.checkpoint()
            return None
        entry = await self.store.get(key, ahead)
        if entry is None:
            self._misses += 1
            return None
        now = self._wall_time()
        until = min(entry.fresh_until, entry.stored_at + self._limits.max_fresh_seconds)
        if entry.stored_at > now:
            until = now  # the wall clock was set back: what comes from the future has no known age
        if until > now:
            self._hits += 1
        else:
            self._expired += 1
            self._misses += 1
        return attrs.evolve(entry, fresh_until=until) if until != entry.fresh_until else entry

    async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
        """Keep an entry, where the mode writes. Always a checkpoint."""
        if mode in WRITING:
            await self.store.put(key, entry)
        else:
            await trio.lowlevel.checkpoint()

    async def refresh(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
        """Keep that an entry's document was confirmed; counted in every mode. A checkpoint."""
        self._revalidated += 1
        if mode in WRITING:
            await self.store.refresh(key, entry)
        else:
            await trio.lowlevel.checkpoint()

    async def discard(self, key: str, mode: CacheMode) -> None:
        """Forget an entry, where the mode writes. Always a checkpoint."""
        if mode in WRITING:
            await self.store.delete(key)
        else:
            await trio.lowlevel.checkpoint()

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        """The kept documents that have the words of a query: as `Store.search`."""
        return await self.store.search(query, limit)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            expired=self._expired,
            revalidated=self._revalidated,
            shared=self.flights.statistics().shared,
            store=self.store.statistics(),
        )


class MemoryCache(DocumentCache):
    """A cache in this process's memory alone: for programs that embed a mesh, and for tests."""

    def __init__(
        self, limits: CacheLimits | None = None, *, wall_time: Callable[[], float] = time
    ) -> None:
        super().__init__(MemoryStore(limits), limits, wall_time=wall_time)
