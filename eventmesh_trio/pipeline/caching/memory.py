"""The store in this process's memory: bounded by bytes, least recently used first out."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import Final

import apsw
import attrs
import msgspec
import trio

from eventmesh_trio.abc import CacheEntry, KeysAhead
from eventmesh_trio.pipeline.caching import index as cache_index
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.store import StoreStatistics
from eventmesh_trio.wire.events import Document, SearchHit

__all__ = ["MemoryStore", "entry_bytes"]

_OVERHEAD_BYTES: Final = 2048  # the Python objects around an entry's text
_PAIR_BYTES: Final = 64  # a Link or Image itself
_INDEX_BATCH: Final = 64  # documents that one trip to a thread indexes


@attrs.frozen
class _Kept:
    entry: CacheEntry
    nbytes: int
    row: int  # its number in the index; never used again


class MemoryStore:
    """`eventmesh_trio.pipeline.caching.store.Store`; forgotten with the process.

    Entries are shared, not copied: they are frozen. Words are indexed by the first search that
    comes after, so that who never searches pays nothing; the index is not part of ``cache_bytes``.

    Args:
      trouble: why this stands in for another store; for its statistics.
    """

    def __init__(self, limits: CacheLimits | None = None, *, trouble: str | None = None) -> None:
        self._limits = limits or CacheLimits()
        self._trouble = trouble
        self._entries: OrderedDict[str, _Kept] = OrderedDict()
        self._keys: dict[int, str] = {}  # by row
        self._rows = count(1)
        self._bytes_used = 0
        self._evicted = self._refused = 0
        self._index: apsw.Connection | None = None
        self._indexed: set[int] = set()
        self._gone: list[int] = []  # rows that are indexed, and should not be
        self._added: dict[int, None] = {}  # rows to index; in order
        self._searching = trio.Lock()

    async def get(self, key: str, ahead: KeysAhead | None = None) -> CacheEntry | None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        kept = self._entries.get(key)
        if kept is None:
            return None
        self._entries.move_to_end(key)
        return kept.entry

    async def put(self, key: str, entry: CacheEntry) -> None:
        await trio.lowlevel.checkpoint()
        self._remove(key)
        nbytes = entry_bytes(key, entry)
        if nbytes > self._limits.cache_bytes:
            self._refused += 1
            return
        row = next(self._rows)
        self._entries[key] = _Kept(entry, nbytes, row)
        self._keys[row] = key
        self._added[row] = None
        self._bytes_used += nbytes
        while self._bytes_used > self._limits.cache_bytes:
            self._remove(next(iter(self._entries)))
            self._evicted += 1

    async def refresh(self, key: str, entry: CacheEntry) -> None:
        await trio.lowlevel.checkpoint()
        kept = self._entries.get(key)
        if kept is not None:
            fresher = attrs.evolve(entry, extraction=kept.entry.extraction)
            self._entries[key] = attrs.evolve(kept, entry=fresher)

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._remove(key)

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        async with self._searching:
            await self._bring_up_to_date()
            assert self._index is not None
            rows = await trio.to_thread.run_sync(_all_matches, self._index, query)
        found: dict[str, Document] = {}
        for row in rows:
            # What left the store while the thread was looking is no hit any more.
            if (key := self._keys.get(row)) is not None and len(found) < limit:
                entry = self._entries[key].entry
                found.setdefault(entry.final_url, entry.extraction.document)
        texts = [
            document.text[: self._limits.max_indexed_characters] for document in found.values()
        ]
        snippets = await trio.to_thread.run_sync(cache_index.snippets, query, texts)
        return tuple(
            SearchHit(url=url, rank=rank, search_title=document.title, search_snippet=snippet)
            for rank, ((url, document), snippet) in enumerate(
                zip(found.items(), snippets, strict=True), start=1
            )
        )

    async def flush(self) -> None:
        """There is nothing to wait for: searches bring the index up to date."""
        await trio.lowlevel.checkpoint()

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            kind="memory",
            trouble=self._trouble,
            entries=len(self._entries),
            bytes_used=self._bytes_used,
            pending_bytes=0,
            evicted=self._evicted,
            refused=self._refused,
            dropped=0,
            failures=0,
        )

    async def aclose(self) -> None:
        """Forget everything."""
        await trio.lowlevel.checkpoint()
        self._entries.clear()
        self._keys.clear()
        self._added.clear()
        self._indexed.clear()
        self._gone.clear()
        self._bytes_used = 0
        async with self._searching:
            index, self._index = self._index, None
            if index is not None:
                index.close()

    def _remove(self, key: str) -> None:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self._bytes_used -= kept.nbytes
            del self._keys[kept.row]
            self._added.pop(kept.row, None)
            if kept.row in self._indexed:
                self._indexed.discard(kept.row)
                self._gone.append(kept.row)

    async def _bring_up_to_date(self) -> None:
        """Index what is new and take out what has gone, a batch at a time: it may be cancelled."""
        if self._index is None:
            self._index = await trio.to_thread.run_sync(_new_index)
        size = self._limits.max_indexed_characters
        while self._gone or (self._added and size):
            gone = self._gone.copy()
            rows = list(islice(self._added, _INDEX_BATCH if size else 0))
            new = [(row, self._entries[self._keys[row]].entry) for row in rows]
            # Not to be abandoned: a batch is in the index, and known to be, or neither.
            await trio.to_thread.run_sync(_apply, self._index, gone, new, size)
            del self._gone[: len(gone)]  # others were only added behind them
            for row in rows:
                if self._added.pop(row, 0) is None:
                    self._indexed.add(row)
                else:  # it left the store meanwhile
                    self._gone.append(row)


def entry_bytes(key: str, entry: CacheEntry) -> int:
    """About the memory that an entry holds: its strings as CPython stores them.

    A string takes 1, 2 or 4 bytes a character by its widest one; `str.__sizeof__` knows.
    """
    document = entry.extraction.document
    strings = [key, entry.final_url, entry.extraction.method, entry.extraction.gate_reason]
    values: Iterable[object] = msgspec.structs.astuple(document)
    strings += [value for value in values if isinstance(value, str)]
    strings += document.tags
    for link in document.links:
        strings += (link.url, link.text)
    for image in document.images:
        strings += (image.url, image.alt)
    size = sum(map(str.__sizeof__, strings))  # a third of the time that an expression takes
    size += _PAIR_BYTES * (len(document.links) + len(document.images) + len(entry.fields))
    size += sum(len(name) + len(value) for name, value in entry.fields)
    return size + _OVERHEAD_BYTES


# --- In a thread ----------------------------------------------------------------------------------


def _new_index() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(cache_index.SCHEMA)
    return connection


def _apply(
    index: apsw.Connection,
    gone: Sequence[int],
    new: Sequence[tuple[int, CacheEntry]],
    max_characters: int,
) -> None:
    with index:
        cache_index.remove(index, gone)
        for row, entry in new:
            document = entry.extraction.document
            text = cache_index.clean(document.text[:max_characters])
            cache_index.add(index, row, cache_index.clean(document.title), text)


def _all_matches(index: apsw.Connection, query: str) -> list[int]:
    return list(cache_index.match(index, query))
