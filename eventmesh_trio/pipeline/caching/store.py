"""What a store of documents does: the port between the cache and where it keeps things."""

from collections.abc import Sequence
from typing import Protocol

import attrs

from eventmesh_trio.abc import CacheEntry, KeysAhead
from eventmesh_trio.wire.events import SearchHit

__all__ = ["Store", "StoreStatistics", "Unsearchable"]


class Unsearchable(Exception):
    """A store could not be searched just now; the message says why."""


@attrs.frozen
class StoreStatistics:
    """A store as it is now, and its counts since it was opened."""

    kind: str  # "memory" or "sqlite"
    trouble: str | None  # why it does not keep documents as it should, or not where it should
    entries: int
    bytes_used: int  # by documents and their index
    pending_bytes: int  # that wait to be written
    evicted: int  # made room for others
    refused: int  # larger than the whole store
    dropped: int  # came while too much waited to be written, or nothing could be
    failures: int  # operations of the store that failed
    set_aside: int = 0  # broken files that were moved away, a new one begun


class Store(Protocol):
    """Documents by key, and an index of their words. Any number of tasks may call it.

    What it cannot do it does not raise: it counts it, says it in its statistics, and has nothing.
    But for `search`: that nothing was found would be taken for the truth.
    """

    async def get(self, key: str, ahead: KeysAhead | None = None) -> CacheEntry | None:
        """The entry of that key, and mark it as used. Cancellation changes nothing.

        Args:
          ahead: which keys will be asked for next, as in `eventmesh_trio.abc.Cache.get`.
        """
        ...

    async def put(self, key: str, entry: CacheEntry) -> None:
        """Keep an entry in place of the one of that key. Cancelled, it may be kept or not."""
        ...

    async def refresh(self, key: str, entry: CacheEntry) -> None:
        """Replace all but the document of the entry of that key, if there still is one."""
        ...

    async def delete(self, key: str) -> None:
        """Forget the entry of that key."""
        ...

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        """The documents that have the words of ``query``, best first, at most ``limit``.

        Each URL is there once. Any text may be a query: one without a word finds nothing.
        Cancelled, the search stops.

        Raises:
          Unsearchable: it cannot be told what there is.
        """
        ...

    async def flush(self) -> None:
        """Wait until what was put before can be found by a search, and survives this process."""
        ...

    def statistics(self) -> StoreStatistics: ...

    async def aclose(self) -> None:
        """Write what waits, within a bounded time, and close; idempotent."""
        ...
