"""The memory cache: extracted documents by key, bounded by bytes and by age.

What is kept is the `Extraction`, so that a hit costs neither a fetch nor an extraction. The least
recently used entry leaves first.
"""

from collections import OrderedDict
from collections.abc import Callable
from time import time
from typing import Final

import attrs
import msgspec
import trio

from eventmesh_trio.abc import CacheEntry
from eventmesh_trio.wire.events import Document
from eventmesh_trio.wire.requests import CacheMode

__all__ = ["CacheLimits", "CacheStatistics", "MemoryCache"]

_READING: Final = frozenset[CacheMode]({"read_write", "read_only"})
_WRITING: Final = frozenset[CacheMode]({"read_write", "write_only"})
_OVERHEAD_BYTES: Final = 2048  # the Python objects around an entry's text


@attrs.frozen
class CacheLimits:
    """What a `MemoryCache` may keep."""

    cache_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=attrs.validators.ge(0))
    """What all documents in the cache may hold together; 0 keeps none."""
    cache_ttl_seconds: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))
    """How long a document is served from the cache."""


@attrs.frozen
class CacheStatistics:
    """Counts since the cache was made; ``expired`` entries are misses too."""

    entries: int
    bytes_used: int
    hits: int
    misses: int
    expired: int
    evicted: int
    refused: int  # larger than the whole cache

    @property
    def hit_rate(self) -> float:
        """Hits per lookup, 0-1; 0.0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class MemoryCache:
    """`eventmesh_trio.abc.Cache` in this process's memory; forgotten with it.

    A lookup that the mode does not allow touches nothing and counts nothing. Entries are shared,
    not copied: they are frozen. ``wall_time`` gives seconds since the epoch, the clock of
    ``CacheEntry.stored_at``.
    """

    def __init__(
        self, limits: CacheLimits | None = None, *, wall_time: Callable[[], float] = time
    ) -> None:
        self._limits = limits or CacheLimits()
        self._wall_time = wall_time
        self._entries: OrderedDict[str, tuple[CacheEntry, int]] = OrderedDict()
        self._bytes_used = 0
        self._hits = self._misses = self._expired = self._evicted = self._refused = 0

    async def get(self, key: str, mode: CacheMode) -> CacheEntry | None:
        """The entry of that key, where the mode reads and it is not too old.

        Always a checkpoint; cancellation changes nothing.
        """
        await trio.lowlevel.checkpoint()
        if mode not in _READING:
            return None
        kept = self._entries.get(key)
        # A wall clock may have been set back: an entry of the future has no known age.
        if kept is not None and not 0 <= self._age(kept[0]) < self._limits.cache_ttl_seconds:
            self._remove(key)
            self._expired += 1
            kept = None
        if kept is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return kept[0]

    async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
        """Keep an entry, where the mode writes; the least recently used ones make room.

        Always a checkpoint; cancelled, nothing is kept.
        """
        await trio.lowlevel.checkpoint()
        if mode not in _WRITING:
            return
        if key in self._entries:
            self._remove(key)
        size = _size_of(key, entry)
        if size > self._limits.cache_bytes:
            self._refused += 1
            return
        self._entries[key] = (entry, size)
        self._bytes_used += size
        while self._bytes_used > self._limits.cache_bytes:
            self._remove(next(iter(self._entries)))
            self._evicted += 1

    def clear(self) -> None:
        """Forget every entry; the counts stay."""
        self._entries.clear()
        self._bytes_used = 0

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            entries=len(self._entries),
            bytes_used=self._bytes_used,
            hits=self._hits,
            misses=self._misses,
            expired=self._expired,
            evicted=self._evicted,
            refused=self._refused,
        )

    def _age(self, entry: CacheEntry) -> float:
        return self._wall_time() - entry.stored_at

    def _remove(self, key: str) -> None:
        _, size = self._entries.pop(key)
        self._bytes_used -= size


def _size_of(key: str, entry: CacheEntry) -> int:
    """About the memory that an entry holds, in bytes: its strings as CPython stores them.

    A string takes 1, 2 or 4 bytes a character by its widest one; `str.__sizeof__` knows.
    """
    document = entry.extraction.document
    strings = [key, entry.final_url, entry.extraction.method, entry.extraction.gate_reason]
    strings += [value for value in _values(document) if isinstance(value, str)]
    strings += document.tags
    pairs = [(link.url, link.text) for link in document.links]
    pairs += [(image.url, image.alt) for image in document.images]
    size = sum(text.__sizeof__() for text in strings)
    size += sum(_PAIR_BYTES + one.__sizeof__() + two.__sizeof__() for one, two in pairs)
    return size + _OVERHEAD_BYTES


_PAIR_BYTES: Final = 64  # a Link or Image itself


def _values(document: Document) -> tuple[object, ...]:
    return msgspec.structs.astuple(document)
