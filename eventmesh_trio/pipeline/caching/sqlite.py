"""The store in a SQLite file, as the event loop sees it: nothing of it blocks, nothing of it fails.

Lookups, searches and writes each have a thread at a time and a connection of their own. (Not apsw's
own asynchronous connections: their threads keep a program alive whose loop has gone without closing
them, and each row of an answer may cost a way there and back.) Writes go through one task, in
batches: what comes while one batch is written is the next. Until it is written, it is found where
it waits.

Trouble is not the crawls' trouble. What cannot be written in time, or at all, is dropped and
counted; a broken file is moved away and a new one begun; and where even that fails there is no
store until the next start.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from time import time
from typing import Final, Generic, TypeVar

import apsw
import attrs
import structlog
import trio

from eventmesh_trio.abc import CacheEntry, KeysAhead
from eventmesh_trio.pipeline.caching.codec import EntryCodec, UnreadableEntry
from eventmesh_trio.pipeline.caching.file import (
    BROKEN,
    Change,
    StoreFile,
    Unusable,
    Written,
    reason_of,
)
from eventmesh_trio.pipeline.caching.foresight import Foresight, Row
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.memory import entry_bytes
from eventmesh_trio.pipeline.caching.store import StoreStatistics, Unsearchable
from eventmesh_trio.wire.events import SearchHit

__all__ = ["SQLiteStore", "open_sqlite_store"]

_logger: Final = structlog.get_logger(__name__)
T = TypeVar("T")

_BATCH_BYTES: Final = 4 * 1024 * 1024  # of documents as they are in memory
_BATCH_ENTRIES: Final = 64  # a batch keeps other processes from writing: some ten milliseconds
_MAX_USED: Final = 4096  # keys whose use waits to be written; a few more do not matter
_NOTE_USE_SECONDS: Final = 5.0  # how long a use may wait to be written
_AHEAD_BYTES: Final = 1024 * 1024  # of documents that a look finds for keys ahead
_DECODED_HERE_BYTES: Final = 32 * 1024
"""Of a document found ahead: up to that it is decoded in the loop, in half a millisecond at most;
a way into a thread and back would take as long."""
_GATHER_SECONDS: Final = 0.2
"""From one transaction to the next, for changes to gather in: one costs as much as the writing of
two documents. With twenty of them to one, writing takes half of the time. What comes after a rest
is written at once."""
_CLOSE_SECONDS: Final = 5.0  # what waits at the end has this long to be written
_GONE: Final = "the store is closed"


@asynccontextmanager
async def open_sqlite_store(
    path: Path, limits: CacheLimits | None = None, *, wall_time: Callable[[], float] = time
) -> AsyncIterator["SQLiteStore"]:
    """Open a store, or begin one; at the end what waits is written, within 5 seconds.

    Raises:
      Unusable: see `StoreFile`; nothing is open then.
    """
    limits = limits or CacheLimits()
    file = await trio.to_thread.run_sync(StoreFile, path, limits)
    store = SQLiteStore(file, limits, wall_time)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write_forever)
            try:
                yield store
            finally:
                await store.aclose()
    finally:
        # Shielded, for this is done however the block ended; bounded, for a disk may hang.
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await store.close_file()


class _Call(Generic[T]):
    """A method of the store's file, to be called in a thread, and perhaps to be interrupted.

    Whether it runs is written by that thread and read by the loop. An interrupt between two of its
    statements is lost: it goes on to its end then, which is not far.
    """

    def __init__(self, store: "SQLiteStore", method: Callable[[StoreFile], T]) -> None:
        self._store = store
        self._method = method
        self._file: StoreFile | None = None  # while it runs

    def __call__(self) -> T | None:
        file = self._file = self._store.file
        try:
            return None if file is None else self._method(file)
        finally:
            self._file = None

    def interrupt(self) -> None:
        """Make it end, if it is a search that runs."""
        file = self._file
        if file is not None:
            file.interrupt()


class SQLiteStore:
    """`eventmesh_trio.pipeline.caching.store.Store`. Made by `open_sqlite_store`.

    ``wall_time`` gives seconds since the epoch: by it the least recently used document is known
    across processes and restarts.
    """

    def __init__(
        self, file: StoreFile, limits: CacheLimits, wall_time: Callable[[], float]
    ) -> None:
        self.file: StoreFile | None = file
        self._limits = limits
        self._wall_time = wall_time
        self._pending: dict[str, Change] = {}
        self._writing: dict[str, Change] = {}
        self._used: dict[str, float] = {}
        self._foresight = Foresight()
        self._codec = EntryCodec()  # the loop's own
        self._pending_bytes = 0
        self._batch_bytes = min(_BATCH_BYTES, limits.store_bytes // 32)
        self._wanted = trio.Event()
        self._wrote_at = -inf  # when the last transaction ended, by trio's clock
        self._urgent = trio.Event()  # what waits is written without waiting for more
        self._progress = trio.lowlevel.ParkingLot()
        self._closed = False
        self._writer_scope = trio.CancelScope(shield=True)
        self._broken: BaseException | None = None  # found so, and not yet replaced
        self._trouble: str | None = None
        self._reading_trouble: str | None = None
        self._blocked_until = 0.0  # of trio's clock: nothing is written before
        self._unread_until = 0.0  # likewise: nothing is looked up before
        self._size = Written(entries=0, bytes_used=0)
        self._evicted = self._refused = self._dropped = self._failures = self._set_aside = 0
        # One thread at a time for each connection; whoever holds all three has the file alone.
        self._reading, self._searching, self._storing = (trio.CapacityLimiter(1) for _ in range(3))
        if file.set_aside is not None:
            self._note_set_aside(file.set_aside)

    # --- Reading --------------------------------------------------------------------------------

    async def get(self, key: str, ahead: KeysAhead | None = None) -> CacheEntry | None:
        while True:
            newer: CacheEntry | None = None  # all of it but its document, which may have gone
            for change in (self._pending.get(key), self._writing.get(key)):
                if change is not None and change.kind == "refresh":
                    newer = newer or change.entry
                elif change is not None:
                    await trio.lowlevel.checkpoint()
                    return _refreshed(change.entry, newer)
            if (look := self._foresight.under_way(key)) is None:
                break
            await look.wait()
        try:
            entry = await self._look_up(key, ahead)
        except UnreadableEntry:
            self._failures += 1
            self._submit(key, Change("delete", None))
            return None
        if entry is not None and len(self._used) < _MAX_USED:
            self._used[key] = self._wall_time()
        return _refreshed(entry, newer)

    async def _look_up(self, key: str, ahead: KeysAhead | None) -> CacheEntry | None:
        if trio.current_time() < self._unread_until:
            await trio.lowlevel.checkpoint()
            return None
        row = self._foresight.take(key)
        if row is None:
            await trio.lowlevel.checkpoint()
            return None
        with trio.move_on_after(self._limits.lookup_seconds):
            if row == "unknown":
                return await self._look(key, ahead)
            if len(row[1]) <= _DECODED_HERE_BYTES:
                await trio.lowlevel.checkpoint()
                return self._codec.decode(*row)
            return await self._in_thread(
                self._reading, _Call(self, partial(StoreFile.decode, row=row))
            )
        self._unread_until = trio.current_time() + self._limits.retry_seconds
        self._fail_to_read(TimeoutError("a look into the file took too long"))
        return None

    async def _look(self, key: str, ahead: KeysAhead | None) -> CacheEntry | None:
        """Look into the file for a key, and on the same way for those that come next."""
        # What waits to be written is found where it waits, and is not what the file has.
        others = () if ahead is None else ahead()
        look = self._foresight.begin(
            key, [one for one in others if one not in self._pending and one not in self._writing]
        )
        rows: Mapping[str, Row | None] = {}
        try:
            found = await self._in_thread(
                self._reading,
                _Call(self, partial(StoreFile.look, keys=look.keys, most_bytes=_AHEAD_BYTES)),
            )
            if found is None:
                return None
            self._reading_trouble = None
            entry, rows = found
            return entry
        finally:
            self._foresight.end(look, rows)

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        call = _Call(self, partial(StoreFile.search, query=query, limit=limit))
        try:
            found = await self._in_thread(self._searching, call)
        except trio.Cancelled:
            call.interrupt()
            raise
        if found is None:
            trouble = self._trouble or self._reading_trouble
            raise Unsearchable(trouble or "the file is broken, and is being replaced")
        return tuple(
            SearchHit(url=one.url, rank=rank, search_title=one.title, search_snippet=snippet)
            for rank, (one, snippet) in enumerate(found, start=1)
        )

    async def _in_thread(self, limiter: trio.CapacityLimiter, call: "_Call[T]") -> T | None:
        """Call a method of the file when its connection is free; None where it fails.

        Cancelled, the thread is left to end by itself: the connection is not free before.
        """
        if self._broken is not None:
            await trio.lowlevel.checkpoint()
            return None
        try:
            return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)
        except BROKEN as error:
            self._failures += 1
            self._broken = error
            self._wanted.set()
            self._urgent.set()
        except apsw.InterruptError:
            pass  # the store is being closed
        except apsw.Error as error:
            if limiter is self._storing:
                self._fail(error)
            else:
                self._fail_to_read(error)
        return None

    # --- Writing --------------------------------------------------------------------------------

    async def put(self, key: str, entry: CacheEntry) -> None:
        await trio.lowlevel.checkpoint()
        self._submit(key, Change("put", entry, entry_bytes(key, entry)))

    async def refresh(self, key: str, entry: CacheEntry) -> None:
        await trio.lowlevel.checkpoint()
        waiting = self._pending.get(key)
        if waiting is None or waiting.entry is not None:
            kind = "refresh" if waiting is None else waiting.kind
            if waiting is not None and waiting.entry is not None:  # its document is the newer one
                entry = attrs.evolve(entry, extraction=waiting.entry.extraction)
            self._submit(key, Change(kind, entry, entry_bytes(key, entry)))

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._submit(key, Change("delete", None))

    def _submit(self, key: str, change: Change) -> None:
        """Have a change written, or drop it where there is no place to wait."""
        self._foresight.forget(key)
        before = self._pending.pop(key, None)
        self._pending_bytes -= before.nbytes if before else 0
        full = self._pending_bytes + change.nbytes > self._limits.max_pending_bytes
        blocked = trio.current_time() < self._blocked_until
        if self._closed or self.file is None or full or blocked:
            self._dropped += change.kind == "put"
            return
        self._pending[key] = change
        self._pending_bytes += change.nbytes
        self._wanted.set()
        if len(self._pending) >= _BATCH_ENTRIES or self._pending_bytes >= self._batch_bytes:
            self._urgent.set()

    async def flush(self) -> None:
        while (self._pending or self._writing) and not self._closed:
            self._urgent.set()
            await self._progress.park()
        await trio.lowlevel.checkpoint()

    async def write_forever(self) -> None:
        """Write what comes, until `aclose`. What goes wrong is logged, and counted."""
        # Shielded, so that what waits when everything is cancelled is written all the same.
        with self._writer_scope:
            await self._contained(self._make_room)
            while True:
                with trio.move_on_after(_NOTE_USE_SECONDS):
                    await self._wanted.wait()
                self._foresight.forget_old()  # of a crawl that was cancelled
                self._wanted = trio.Event()
                while self._pending or self._used or self._broken is not None:
                    with trio.move_on_at(self._wrote_at + _GATHER_SECONDS):
                        await self._urgent.wait()
                    self._urgent = trio.Event()
                    await self._contained(self._write_batch)

    async def _contained(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception as bug:  # the cache's bugs are not the server's end
            _logger.exception("the document store could not be written")
            self._fail(bug)
            self._drop_pending()

    async def _make_room(self) -> None:
        self._note(await self._in_thread(self._storing, _Call(self, StoreFile.make_room)))

    async def _write_batch(self) -> None:
        if self._broken is not None:
            await self._replace(self._broken)
        nbytes = 0
        while self._pending and len(self._writing) < _BATCH_ENTRIES and nbytes < self._batch_bytes:
            key = next(iter(self._pending))
            change = self._writing[key] = self._pending.pop(key)
            nbytes += change.nbytes
        used, self._used = list(self._used.items()), {}
        try:
            written = await self._in_thread(
                self._storing,
                _Call(
                    self,
                    partial(
                        StoreFile.write,
                        changes=list(self._writing.items()),
                        used=used,
                        now=self._wall_time(),
                    ),
                ),
            )
            if written is not None:
                self._note(written)
                if self._writing and self._trouble is not None:
                    _logger.info("the document store works again")
                    self._trouble = None
            else:
                self._dropped += sum(one.kind == "put" for one in self._writing.values())
        finally:
            self._pending_bytes -= nbytes
            self._writing = {}
            self._wrote_at = trio.current_time()
            self._progress.unpark_all()

    def _note(self, written: Written | None) -> None:
        if written is not None:
            self._size = written
            self._evicted += written.evicted
            self._refused += written.refused
            self._failures += written.unreadable

    # --- Trouble --------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Count a failure, tell of the first in a row, and leave the file alone for a while."""
        self._failures += 1
        reason = reason_of(error)
        if self._trouble is None:
            path = None if self.file is None else str(self.file.path)
            _logger.error("the document store fails; crawling goes on", path=path, reason=reason)
        self._trouble = reason
        self._blocked_until = trio.current_time() + self._limits.retry_seconds

    def _fail_to_read(self, error: Exception) -> None:
        """Likewise of a look or a search: it works again when a look does."""
        self._failures += 1
        if self._reading_trouble is None:
            _logger.error("the document store cannot be read", reason=reason_of(error))
        self._reading_trouble = reason_of(error)

    async def _replace(self, error: BaseException) -> None:
        """Begin a new file in place of a broken one, or do without."""
        file = self.file
        assert file is not None, "only an open file is found broken"
        async with self._reading, self._searching:
            self._broken = None
            self._foresight.clear()
            try:
                broken = await trio.to_thread.run_sync(
                    file.replace, error, limiter=self._storing, abandon_on_cancel=True
                )
            except Unusable as trouble:
                self.file = None
                self._trouble = str(trouble)
                self._drop_pending()
                _logger.error("the document store is broken, and given up", reason=str(trouble))
            else:
                self._trouble = None
                self._note_set_aside(broken)

    def _note_set_aside(self, broken: Path) -> None:
        self._set_aside += 1
        _logger.error("the document store was broken, and a new one begun", moved_to=str(broken))

    def _drop_pending(self) -> None:
        self._dropped += sum(change.kind == "put" for change in self._pending.values())
        self._pending.clear()
        self._used.clear()
        self._pending_bytes = sum(change.nbytes for change in self._writing.values())
        self._progress.unpark_all()

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            kind="sqlite",
            trouble=self._trouble or self._reading_trouble,
            entries=self._size.entries,
            bytes_used=self._size.bytes_used,
            pending_bytes=self._pending_bytes,
            evicted=self._evicted,
            refused=self._refused,
            dropped=self._dropped,
            failures=self._failures,
            set_aside=self._set_aside,
        )

    # --- The end --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Write what waits, within 5 seconds; after that the store is empty, and keeps nothing."""
        # Shielded, for we are here because something ended; bounded, for a disk may hang.
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await self.flush()
        self._closed = True
        self._drop_pending()
        self._writer_scope.cancel()

    async def close_file(self) -> None:
        """Close the file, when no thread uses it any more; idempotent."""
        file, self.file = self.file, None
        self._trouble = self._trouble or _GONE
        if file is not None:
            file.interrupt()
            async with self._reading, self._searching, self._storing:
                await trio.to_thread.run_sync(file.close, abandon_on_cancel=True)


def _refreshed(entry: CacheEntry | None, newer: CacheEntry | None) -> CacheEntry | None:
    """An entry with all but its document of a newer one, where there is one."""
    if entry is None or newer is None:
        return entry
    return attrs.evolve(newer, extraction=entry.extraction)
