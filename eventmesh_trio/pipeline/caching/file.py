"""The store's SQLite file: its tables, what one thread at a time does with them, and their size.

Documents are rows of a head and a compressed body under a hash of their key; the index of their
words holds no text. The write-ahead log lets others read while one writes, in this process and in
others, and a process that is killed leaves the file as its last transaction did. A process holds a
shared lock (``flock`` on ``PATH.lock``) for as long as it uses the file, so that a broken one is
only ever moved away by the last to use it: SQLite files that are renamed in use ruin their
successors.
Source: https://sqlite.org/wal.html, https://sqlite.org/howtocorrupt.html
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import apsw
import attrs

from eventmesh_trio.abc import CacheEntry
from eventmesh_trio.pipeline.caching import index as cache_index
from eventmesh_trio.pipeline.caching.codec import VERSION, EntryCodec, UnreadableEntry
from eventmesh_trio.pipeline.caching.foresight import Row
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.lock import UseLock

__all__ = ["BROKEN", "Change", "Found", "StoreFile", "Unusable", "Written", "reason_of"]

BROKEN: Final = (apsw.CorruptError, apsw.NotADBError)
"""What SQLite raises where the file is not what it should be."""

_APPLICATION_ID: Final = 0x454D7472  # "EMtr"; PRAGMA application_id tells whose file it is
_MERGED_SEGMENTS: Final = 8
"""Of the index, of one level, that are merged: FTS5's own 4 write each word more often. With 8 a
document is written in 0.33 ms, not 0.4, and found as fast."""
_TABLES: Final = (
    "CREATE TABLE documents (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, "
    "used REAL NOT NULL, head BLOB NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX documents_used ON documents(used)",
    cache_index.SCHEMA,
    f"INSERT INTO words(words, rank) VALUES('automerge', {_MERGED_SEGMENTS})",
)
_JOURNAL_BYTES: Final = 16 * 1024 * 1024  # what the write-ahead log shrinks to when it can
_CHUNK: Final = 32  # documents that one step of an eviction takes out, at most
_CHUNK_SHARE: Final = 32  # and no more than one in 32 of all
_MERGED_PAGES: Final = 64  # of the index, after each step: about a step's words
_EVICTED_A_BATCH: Final = 1024  # a transaction must not grow long; the next one goes on
_EVICTION_TARGET: Final = 0.98  # of the limit; so that not every batch evicts
_VACUUMED_PAGES: Final = 512  # given back to the file system by one batch
_CLOCK_SECONDS: Final = 60.0  # by which what another process noted may be ahead of our clock
_LARGEST_SHARE: Final = 4  # one document may take a fourth of the store


class Unusable(Exception):
    """The file cannot be used as a store, and not be replaced either."""


@attrs.frozen
class Change:
    """One thing to write. ``entry`` is None for what is to be deleted."""

    kind: Literal["put", "refresh", "delete"]
    entry: CacheEntry | None
    nbytes: int = 0


@attrs.frozen
class Written:
    """What a batch came to, and the file as it is after it."""

    entries: int
    bytes_used: int
    evicted: int = 0
    refused: int = 0
    unreadable: int = 0


@attrs.frozen
class Found:
    """A document that a search has found."""

    url: str
    title: str
    text: str


class StoreFile:
    """An open file: three connections, each for one thread at a time. Everything blocks.

    ``set_aside`` tells where the broken file is, that this one has replaced.
    """

    def __init__(self, path: Path, limits: CacheLimits) -> None:
        """Open a file, or begin one.

        Raises:
          Unusable: it is in use by a version of other tables, somebody else's, or broken and in
            use; or it cannot be opened: permissions, a full disk.
        """
        self.path: Final = path
        self.set_aside: Path | None = None
        self._limits = limits
        self._connections: list[apsw.Connection] = []
        self._lock: UseLock | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = UseLock(path)
            if not self._lock.share(limits.busy_seconds):
                raise Unusable("another process is replacing the file")
            try:
                self._open()
            except BROKEN as error:
                self.set_aside = self._move_away(error)
                self._open()
        except (apsw.Error, OSError) as error:
            self.close()
            raise Unusable(reason_of(error)) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # Made by us, so that nobody else may read what was crawled.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writer = self._connect()
        self._prepare()
        self._reader = self._connect()
        self._searcher = self._connect()
        for connection in (self._reader, self._searcher):
            connection.execute("PRAGMA query_only = ON")
        self._write_codec, self._read_codec, self._search_codec = (EntryCodec() for _ in range(3))

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(
            str(self.path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=32
        )
        self._connections.append(connection)
        connection.set_busy_timeout(round(self._limits.busy_seconds * 1000))
        # A crash of the machine may cost the last transactions, but never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _prepare(self) -> None:
        """Make the tables where there are none; begin anew where they are of another version."""
        if self._is_empty():
            self._writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there are any tables
        elif self._number("PRAGMA application_id") != _APPLICATION_ID:
            raise Unusable("the file is another program's database")
        self._writer.execute("PRAGMA journal_mode = WAL")
        with self._transaction():
            version = self._number("PRAGMA user_version")
            empty = self._is_empty()
            if version == VERSION and not empty:
                return
            if not empty:
                if not self._has_alone():
                    raise Unusable(f"another version's process uses the file (version {version})")
                self._writer.execute("DROP TABLE IF EXISTS words")
                self._writer.execute("DROP TABLE IF EXISTS documents")
            for table in _TABLES:
                self._writer.execute(table)
            self._writer.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._writer.execute(f"PRAGMA user_version = {VERSION}")
        self._share()

    # --- Broken files ---------------------------------------------------------------------------

    def _move_away(self, error: BaseException) -> Path:
        """Rename a broken file to ``PATH.broken``, of which the last is kept.

        Raises:
          Unusable: another process has it open.
        """
        self._close_connections()
        if not self._has_alone():
            raise Unusable(f"{reason_of(error)}; another process uses it, so it stays where it is")
        broken = Path(f"{self.path}.broken")
        os.replace(self.path, broken)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self._share()
        return broken

    def _has_alone(self) -> bool:
        return self._lock is not None and self._lock.have_alone()

    def _share(self) -> None:
        if self._lock is not None:
            self._lock.share()

    # --- Reading --------------------------------------------------------------------------------

    def look(
        self, keys: Sequence[str], most_bytes: int
    ) -> tuple[CacheEntry | None, Mapping[str, Row | None]]:
        """The entry of the first key; and of the others their rows, None where there is none.

        Args:
          most_bytes: of rows; keys for which there is no room left are not looked for.
        Raises: UnreadableEntry, apsw.Error.
        """
        first, *others = keys
        row = self._row(first)
        rows: dict[str, Row | None] = {}
        for key in others:
            if most_bytes <= 0:
                break
            found = rows[key] = self._row(key)
            most_bytes -= 0 if found is None else len(found[1])
        return None if row is None else self.decode(row), rows

    def decode(self, row: Row) -> CacheEntry:
        """The entry of a row. Raises: UnreadableEntry."""
        return self._read_codec.decode(*row)

    def _row(self, key: str) -> Row | None:
        row: Row | None = self._reader.execute(
            "SELECT head, body FROM documents WHERE key = ?", (_digest(key),)
        ).fetchone()
        return row

    def search(self, query: str, limit: int) -> Sequence[tuple[Found, str]]:
        """What has a query's words, best first, each with a snippet; each URL once.

        Raises: apsw.InterruptError after `interrupt`, apsw.Error.
        """
        found: dict[str, Found] = {}
        with self._searcher:  # one view of the file, whatever is written meanwhile
            for row in cache_index.match(self._searcher, query):
                if len(found) >= limit:
                    break
                kept = self._searcher.execute(
                    "SELECT head, body FROM documents WHERE id = ?", (row,)
                ).fetchone()
                if kept is None:
                    continue
                try:
                    if (url := self._search_codec.final_url(kept[0])) in found:
                        continue
                    document = self._search_codec.decode(*kept).extraction.document
                except UnreadableEntry:
                    continue
                text = document.text[: self._limits.max_indexed_characters]
                found[url] = Found(url, document.title, text)
        texts = [cache_index.clean(one.text) for one in found.values()]
        return list(zip(found.values(), cache_index.snippets(query, texts), strict=True))

    def interrupt(self) -> None:
        """Make a search that is running in another thread end. Quick; from any thread."""
        with suppress(apsw.ConnectionClosedError):  # the file is just being replaced
            self._searcher.interrupt()

    # --- Writing --------------------------------------------------------------------------------

    def write(
        self, changes: Sequence[tuple[str, Change]], used: Sequence[tuple[str, float]], now: float
    ) -> Written:
        """Write a batch in one transaction, with when which key was used, and make room.

        Raises: apsw.Error; nothing of the batch was written then.
        """
        refused = unreadable = 0
        new: dict[int, tuple[str, str]] = {}
        with self._transaction():
            for key, change in changes:
                try:
                    refused += not self._apply(_digest(key), change, now, new)
                except ValueError:  # what cannot be encoded
                    unreadable += 1
            # After all rows, for each statement on another table makes FTS5 write out what it has
            # gathered of the words: in turns, all this took three times as long.
            for row, (title, text) in new.items():
                cache_index.add(self._writer, row, title, text)
            self._writer.executemany(
                "UPDATE documents SET used = max(used, ?) WHERE key = ?",
                ((when, _digest(key)) for key, when in used),
            )
            # Of a time when the clock was ahead: they would be the last to go until it has come.
            self._writer.execute(
                "UPDATE documents SET used = ? WHERE used > ?", (now, now + _CLOCK_SECONDS)
            )
            evicted = self._evict(_EVICTED_A_BATCH)
        self._vacuum()
        return attrs.evolve(self.measure(), evicted=evicted, refused=refused, unreadable=unreadable)

    def make_room(self) -> Written:
        """Evict down to the limit, which may have been lowered since the file was written."""
        evicted = 0
        while True:
            with self._transaction():
                more = self._evict(_EVICTED_A_BATCH)
            evicted += more
            if more < _EVICTED_A_BATCH:
                break
        self._writer.execute("PRAGMA incremental_vacuum").fetchall()
        return attrs.evolve(self.measure(), evicted=evicted)

    def measure(self) -> Written:
        """The file as it is."""
        return Written(
            entries=self._number("SELECT count(*) FROM documents"), bytes_used=self._bytes_used()
        )

    def _apply(
        self, key: bytes, change: Change, now: float, new: dict[int, tuple[str, str]]
    ) -> bool:
        """Make one change; whether there was room for it. What is to be indexed goes to ``new``."""
        entry, writer = change.entry, self._writer
        if entry is None:
            self._delete("key = ?", key)
            return True
        head = self._write_codec.encode_head(entry)
        if change.kind == "refresh":
            writer.execute(
                "UPDATE documents SET head = ?, used = ? WHERE key = ?", (head, now, key)
            )
            return True
        body = self._write_codec.encode_body(entry)
        size = self._limits.max_indexed_characters
        document = entry.extraction.document
        text = cache_index.clean(document.text[:size])
        # The index of a text takes about a third of it.
        if len(head) + len(body) + len(text) // 3 > self._limits.store_bytes // _LARGEST_SHARE:
            self._delete("key = ?", key)
            return False
        row = self._number(
            "INSERT INTO documents(key, used, head, body) VALUES(?, ?, ?, ?) "
            "ON CONFLICT(key) DO UPDATE SET used = excluded.used, head = excluded.head, "
            "body = excluded.body RETURNING id",
            (key, now, head, body),
        )
        if size:
            new[row] = cache_index.clean(document.title), text
        return True

    def _delete(self, condition: str, *bindings: "apsw.SQLiteValue") -> int:
        """Delete the rows of a condition, and their words; how many there were."""
        rows = [
            int(row)  # type: ignore[arg-type]
            for (row,) in self._writer.execute(
                f"SELECT id FROM documents WHERE {condition}", bindings
            ).fetchall()
        ]
        cache_index.remove(self._writer, rows)
        self._writer.executemany("DELETE FROM documents WHERE id = ?", ((row,) for row in rows))
        return len(rows)

    def _evict(self, at_most: int) -> int:
        """Take out the least recently used documents until the rest is within the limit."""
        if self._bytes_used() <= self._limits.store_bytes:
            return 0
        target = self._limits.store_bytes * _EVICTION_TARGET
        entries = self._number("SELECT count(*) FROM documents")
        step = min(_CHUNK, max(1, entries // _CHUNK_SHARE))
        evicted = 0
        while evicted < at_most and self._bytes_used() > target:
            gone = self._delete("id IN (SELECT id FROM documents ORDER BY used LIMIT ?)", step)
            if not gone:
                break
            evicted += gone
            # Their words are still there, and marked; a merge gives their pages back.
            self._writer.execute(
                "INSERT INTO words(words, rank) VALUES('merge', ?)", (_MERGED_PAGES,)
            )
        return evicted

    def _vacuum(self) -> None:
        """Give pages back that a tenth of the limit would not use again."""
        free = self._number("PRAGMA freelist_count") * self._page_bytes()
        if free <= self._limits.store_bytes // 10:
            return
        with suppress(apsw.BusyError):  # another process writes; the next batch will do
            self._writer.execute(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})").fetchall()

    def _bytes_used(self) -> int:
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._page_bytes()

    def _is_empty(self) -> bool:
        return not self._number("SELECT count(*) FROM sqlite_schema")

    def _page_bytes(self) -> int:
        return self._number("PRAGMA page_size")

    def _number(self, statement: str, bindings: "Sequence[apsw.SQLiteValue]" = ()) -> int:
        ((number,),) = self._writer.execute(statement, bindings).fetchall()
        assert isinstance(number, int)
        return number

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One that holds the write lock from its beginning: it never fails halfway for that."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            # A full disk or an I/O error may have rolled it back already.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    # --- The end --------------------------------------------------------------------------------

    def replace(self, error: BaseException) -> Path:
        """Move the broken file away, and begin a new one in its place; where the old one is now.

        Raises: Unusable; the file is closed then.
        """
        try:
            self.set_aside = self._move_away(error)
            self._open()
        except (apsw.Error, OSError) as trouble:
            self.close()
            raise Unusable(reason_of(trouble)) from trouble
        except BaseException:
            self.close()
            raise
        return self.set_aside

    def close(self) -> None:
        """Close; idempotent. The last process to do so empties the write-ahead log."""
        self._close_connections()
        if self._lock is not None:
            self._lock.close()

    def _close_connections(self) -> None:
        for connection in reversed(self._connections):  # only the writer may empty the log
            try:
                connection.close()
            except apsw.Error:  # it is closed all the same; the file may be broken
                connection.close(True)
        self._connections.clear()


def reason_of(error: BaseException) -> str:
    """What went wrong, for an operator, without an exception's name."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    return text.removeprefix(f"{type(error).__name__}: ")


def _digest(key: str) -> bytes:
    """A key of fixed length; nobody can find two keys that share it."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32).digest()
