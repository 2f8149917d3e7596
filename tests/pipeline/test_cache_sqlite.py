"""The store in a file: bounded, durable, shared, and no trouble of its own making."""

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import apsw
import attrs
import pytest
import trio

from eventmesh_trio.pipeline.caching.codec import VERSION
from eventmesh_trio.pipeline.caching.file import Change, StoreFile, Unusable
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.opening import open_store, user_store
from eventmesh_trio.pipeline.caching.sqlite import open_sqlite_store
from eventmesh_trio.pipeline.caching.store import Unsearchable
from tests.helpers.entries import WallClock, make_entry, text_of
from tests.helpers.programs import CHECKOUT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.sqlite"


def write(path: Path, *texts: str) -> None:
    """Begin a store with a document for each text."""
    file = StoreFile(path, CacheLimits())
    changes = [(f"k{number}", Change("put", make_entry(text))) for number, text in enumerate(texts)]
    file.write(changes, [], 1.0)
    file.close()


def words(number: int, count: int = 700) -> str:
    """A text of some kilobytes that hardly compresses."""
    return " ".join(f"w{(number * 7919 + n * 104729) % 999_983:x}" for n in range(count))


async def test_what_is_kept_is_there_after_a_restart(path: Path) -> None:
    entry = make_entry("text", "http://e.org/a", fresh_until=2e9, etag='"x"')
    async with open_sqlite_store(path) as store:
        await store.put("a", entry)
        assert await store.get("a") == entry  # though it may not be written yet
    async with open_sqlite_store(path) as store:
        assert await store.get("a") == entry
        assert await store.get("b") is None
        await store.delete("a")
        assert await store.get("a") is None
    async with open_sqlite_store(path) as store:
        assert await store.get("a") is None
    assert sorted(os.listdir(path.parent)) == ["store.sqlite", "store.sqlite.lock"]


async def test_nobody_else_may_read_it(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("a", make_entry())
        await store.flush()
        modes = {name: stat.S_IMODE((path.parent / name).stat().st_mode)
                 for name in os.listdir(path.parent)}  # fmt: skip
        assert len(modes) == 4
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_confirmation_changes_all_but_the_document(path: Path) -> None:
    old = make_entry("text", stored_at=5.0, fresh_until=6.0)
    newer = make_entry("never kept", stored_at=7.0, fresh_until=8.0, etag='"new"')
    async with open_sqlite_store(path) as store:
        for key, flush in (("written", True), ("waiting", False)):
            await store.put(key, old)
            if flush:
                await store.flush()
            await store.refresh(key, attrs.evolve(newer, extraction=old.extraction))
        await store.refresh("unknown", newer)
        await store.flush()
        for key in ("written", "waiting"):
            assert await store.get(key) == attrs.evolve(newer, extraction=old.extraction)
        assert await store.get("unknown") is None
        assert len(await store.search("text", 9)) == 1  # both are of one URL
        assert await store.search("never", 9) == ()


async def test_of_changes_that_wait_the_last_one_counts(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("a", make_entry("one"))
        await store.put("a", make_entry("two"))
        await store.delete("a")
        await store.refresh("a", make_entry("three"))
        assert await store.get("a") is None
        await store.put("b", make_entry("four"))
        await store.delete("b")
        await store.put("b", make_entry("five"))
        assert text_of(await store.get("b")) == "five"
        await store.flush()
        assert await store.get("a") is None
        assert text_of(await store.get("b")) == "five"
        assert store.statistics().pending_bytes == 0


async def test_what_cannot_be_encoded_is_counted_and_the_rest_is_kept(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        bad = attrs.evolve(make_entry(), final_url="http://e.org/\ud800")
        await store.put("bad", bad)
        await store.put("good", make_entry())
        await store.flush()
        assert await store.get("bad") is None
        assert await store.get("good") is not None
        assert store.statistics().failures == 1


async def test_a_document_that_cannot_be_decoded_is_a_miss_and_leaves(path: Path) -> None:
    write(path, "a", "b")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE documents SET body = x'00112233' WHERE id = 1")
    connection.close()
    async with open_sqlite_store(path) as store:
        assert await store.get("k0") is None
        assert text_of(await store.get("k1")) == "b"
        await store.flush()
        assert (store.statistics().entries, store.statistics().failures) == (1, 1)


# --- Bounds ---------------------------------------------------------------------------------------


async def test_the_file_stays_within_its_bound_and_the_least_recently_used_leave(
    path: Path,
) -> None:
    clock = WallClock()
    limits = CacheLimits(store_bytes=2 * 1024 * 1024)
    largest = 0
    async with open_sqlite_store(path, limits, wall_time=clock) as store:
        await store.put("first", make_entry(words(0)))
        for number in range(600):
            clock.now += 1
            await store.put(f"k{number}", make_entry(words(number), f"http://e.org/{number}"))
            if number % 10 == 0:
                assert await store.get("first") is not None, number
                await store.flush()
                largest = max(largest, path.stat().st_size)
                assert store.statistics().bytes_used <= limits.store_bytes * 1.1
        await store.flush()
        counts = store.statistics()
        assert counts.evicted > 100
        assert counts.entries + counts.evicted == 601
        assert await store.get("k599") is not None
        assert await store.get("k0") is None
    assert largest <= limits.store_bytes * 1.6


async def test_a_bound_that_was_lowered_holds_from_the_start(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        for number in range(400):
            await store.put(f"k{number}", make_entry(words(number)))
    assert path.stat().st_size > 1_500_000
    limits = CacheLimits(store_bytes=1_000_000)
    async with open_sqlite_store(path, limits) as store:
        await store.put("new", make_entry())
        await store.flush()
        assert store.statistics().bytes_used <= 1_000_000
        assert await store.get("new") is not None
    assert path.stat().st_size <= 1_600_000


async def test_documents_of_a_time_when_the_clock_was_ahead_make_room_like_others(
    path: Path,
) -> None:
    file = StoreFile(path, CacheLimits(store_bytes=512 * 1024))
    ahead, now = 2e9, 1e9
    try:
        for begin, when in ((0, ahead), (100, now), (200, now + 1)):
            for number in range(begin, begin + 100, 10):
                changes = [
                    (f"k{key}", Change("put", make_entry(words(key))))
                    for key in range(number, number + 10)
                ]
                file.write(changes, [], when)
        kept = [key for key in range(300) if file.look([f"k{key}"], most_bytes=0)[0] is not None]
    finally:
        file.close()
    assert len(kept) > 20
    assert min(kept) >= 200


def test_a_store_in_memory_has_one_name() -> None:
    with pytest.raises(ValueError, match="a store in memory is memory:"):
        CacheLimits(store="sqlite::memory:")


async def test_a_document_too_large_for_the_store_is_refused(path: Path) -> None:
    limits = CacheLimits(store_bytes=512 * 1024)
    async with open_sqlite_store(path, limits) as store:
        await store.put("a", make_entry("old"))
        await store.flush()
        await store.put("a", make_entry(words(1, 60_000)))
        await store.flush()
        assert await store.get("a") is None  # nor is the old one, which it has replaced
        assert store.statistics().refused == 1


async def test_what_comes_while_too_much_waits_is_dropped(path: Path) -> None:
    limits = CacheLimits(max_pending_bytes=10_000)
    async with open_sqlite_store(path, limits) as store:
        for number in range(20):
            await store.put(f"k{number}", make_entry())
        await store.flush()
        counts = store.statistics()
        assert counts.dropped > 0
        assert counts.entries + counts.dropped == 20


# --- Broken and foreign files ---------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_moved_away_and_a_new_one_begun(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database " * 500)
    async with open_sqlite_store(path) as store:
        await store.put("a", make_entry())
        await store.flush()
        counts = store.statistics()
        assert (counts.entries, counts.set_aside, counts.trouble) == (1, 1, None)
    assert Path(f"{path}.broken").read_bytes().startswith(b"this is no database")


async def test_a_file_that_breaks_while_it_is_open_is_replaced(path: Path) -> None:
    write(path, *(words(number) for number in range(200)))
    size = path.stat().st_size
    async with open_sqlite_store(path) as store:
        with path.open("r+b") as file:  # all but the first page, with which it is opened
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        for number in range(200):
            await store.get(f"k{number}")
            await store.put(f"n{number}", make_entry())
        await store.flush()
        await store.put("after", make_entry())
        await store.flush()
        counts = store.statistics()
        assert counts.set_aside == 1
        assert counts.failures >= 1
        assert counts.trouble is None
        assert await store.get("after") is not None
        assert len(await store.search("text", 5)) == 1
    assert Path(f"{path}.broken").exists()


async def test_a_broken_file_that_another_uses_stays_and_memory_stands_in(path: Path) -> None:
    write(path, "a")
    other = StoreFile(path, CacheLimits())
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)
    async with open_store(CacheLimits(store=f"sqlite:{path}")) as store:
        assert store.statistics().kind == "memory"
        assert "another process uses it" in str(store.statistics().trouble)
        await store.put("a", make_entry())
        assert await store.get("a") is not None
    other.close()
    assert not Path(f"{path}.broken").exists()


async def test_a_broken_file_that_has_to_stay_where_it_is_cannot_be_searched(path: Path) -> None:
    write(path, *(words(number) for number in range(50)))
    size = path.stat().st_size
    other = StoreFile(path, CacheLimits())
    async with open_sqlite_store(path) as store:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        for number in range(50):
            await store.get(f"k{number}")
            await store.put(f"n{number}", make_entry())
        await store.flush()
        assert "another process uses it" in str(store.statistics().trouble)
        with pytest.raises(Unsearchable, match="another process uses it"):
            await store.search("text", 5)
        assert await store.get("k0") is None
    other.close()


async def test_a_confirmation_of_an_older_document_does_not_replace_a_newer_one_that_waits(
    path: Path,
) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("a", make_entry("new"))
        await store.refresh("a", make_entry("old", fresh_until=5.0))
        await store.flush()
        kept = await store.get("a")
        assert text_of(kept) == "new"
        assert kept is not None
        assert kept.fresh_until == 5.0


async def test_a_store_of_other_tables_is_begun_anew(path: Path) -> None:
    write(path, "a")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    async with open_sqlite_store(path) as store:
        assert await store.get("k0") is None
        await store.put("a", make_entry())
        await store.flush()
        assert store.statistics().trouble is None
    async with open_sqlite_store(path) as store:
        assert await store.get("a") is not None


async def test_a_store_of_other_tables_that_is_in_use_is_left_alone(path: Path) -> None:
    write(path, "a")
    other = StoreFile(path, CacheLimits())
    other._writer.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(Unusable, match="another version"):
        StoreFile(path, CacheLimits(busy_seconds=0.1))
    assert other.look(["k0"], 0)[0] is not None
    other.close()


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photographs(id)")
    connection.close()
    before = path.read_bytes()
    async with open_store(CacheLimits(store=f"sqlite:{path}")) as store:
        assert store.statistics().trouble == "the file is another program's database"
        await store.put("a", make_entry())
        assert await store.get("a") is not None
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "where", ["/proc/nowhere/store.sqlite", "/dev/null/store.sqlite", "~nobody-here/store", "."]
)
async def test_a_file_that_cannot_be_opened_leaves_memory(where: str, tmp_path: Path) -> None:
    spot = str(tmp_path) if where == "." else where
    async with open_store(CacheLimits(store=f"sqlite:{spot}")) as store:
        assert store.statistics().kind == "memory"
        assert store.statistics().trouble
        await store.put("a", make_entry())
        assert await store.get("a") is not None


# --- Locks and full disks -------------------------------------------------------------------------


async def test_a_file_that_another_locks_drops_writes_and_serves_reads(path: Path) -> None:
    limits = CacheLimits(busy_seconds=0.05, retry_seconds=0.1)
    write(path, "a")
    async with open_sqlite_store(path, limits) as store:
        await store.flush()
        other = apsw.Connection(str(path))
        other.execute("BEGIN IMMEDIATE")
        await store.put("b", make_entry())
        await store.flush()
        counts = store.statistics()
        assert counts.trouble == "database is locked"
        assert counts.dropped == 1
        assert text_of(await store.get("k0")) == "a"
        await store.put("c", make_entry())  # not even tried so soon
        assert store.statistics().dropped == 2
        other.execute("ROLLBACK")
        other.close()
        await trio.sleep(0.15)
        await store.put("d", make_entry())
        await store.flush()
        assert store.statistics().trouble is None
        assert await store.get("d") is not None


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: what a full disk does to writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_full_disk_is_told_and_when_there_is_room_again_documents_are_kept(
    path: Path,
) -> None:
    limits = CacheLimits(retry_seconds=1)
    async with open_sqlite_store(path, limits) as store:
        await store.put("old", make_entry("old text"))
        await store.flush()
        with file_size_limit(300_000):
            for number in range(100):
                await store.put(f"k{number}", make_entry(words(number)))
            await store.flush()
            counts = store.statistics()
            assert counts.trouble is not None
            assert counts.dropped > 0
            assert text_of(await store.get("old")) == "old text"
            assert len(await store.search("old", 5)) == 1
        await trio.sleep(1.1)
        await store.put("new", make_entry())
        await store.flush()
        assert store.statistics().trouble is None
    async with open_sqlite_store(path, limits) as store:
        assert await store.get("old") is not None
        assert await store.get("new") is not None
        assert store.statistics().set_aside == 0


async def test_a_store_that_finds_no_room_to_begin_leaves_memory(path: Path) -> None:
    with file_size_limit(1000):
        async with open_store(CacheLimits(store=f"sqlite:{path}")) as store:
            assert store.statistics().kind == "memory"
            assert store.statistics().trouble


# --- Several at once, and sudden ends -------------------------------------------------------------

WRITER = """
import sys, trio
from pathlib import Path
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.sqlite import open_sqlite_store
from tests.helpers.entries import make_entry
async def main(path, name, count):
    async with open_sqlite_store(Path(path), CacheLimits()) as store:
        for number in range(count):
            url = f"http://e.org/{name}/{number}"
            await store.put(f"{name}{number}", make_entry(f"text of {name} {number}", url))
            await store.flush()
            print(number, flush=True)
    assert store.statistics().dropped == store.statistics().failures == 0, store.statistics()
trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def start_writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_several_processes_write_one_store_from_its_beginning(path: Path) -> None:
    def run() -> None:
        writers = [start_writer(path, name, 60) for name in "abc"]
        for writer in writers:
            writer.communicate(timeout=60)
            assert writer.returncode == 0

    await trio.to_thread.run_sync(run)
    async with open_sqlite_store(path) as store:
        for name in "abc":
            for number in range(60):
                found = await store.get(f"{name}{number}")
                assert text_of(found) == f"text of {name} {number}"
            assert len(await store.search(f'"text of {name}"', 100)) == 60


async def test_what_was_written_before_a_kill_is_there_after_it(path: Path) -> None:
    def run() -> int:
        with start_writer(path, "k", 100_000) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= 50:
                    writer.kill()
                    break
            rest = writer.stdout.read().split()
            return int(rest[-1]) if rest else 50

    for _ in range(3):
        written = await trio.to_thread.run_sync(run)
        async with open_sqlite_store(path) as store:
            for number in range(written + 1):
                assert await store.get(f"k{number}") is not None
            assert store.statistics().set_aside == 0
            assert len(await store.search("text", 1000)) >= written


async def test_what_waits_when_all_is_cancelled_is_written(path: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_sqlite_store(path) as store:
            for number in range(300):
                await store.put(f"k{number}", make_entry())
            scope.cancel()
            await trio.sleep_forever()
    async with open_sqlite_store(path) as store:
        assert all([await store.get(f"k{number}") for number in range(300)])


async def test_a_closed_store_has_nothing_and_keeps_nothing(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("a", make_entry())
    await store.put("b", make_entry())
    await store.flush()
    assert await store.get("a") is None
    assert await store.get("b") is None
    with pytest.raises(Unsearchable, match="closed"):  # that nothing was found would be no answer
        await store.search("text", 5)
    assert store.statistics().trouble == "the store is closed"


# --- The loop -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_loop_is_not_held_up_while_thousands_of_documents_are_written(
    path: Path,
) -> None:
    """Compared with an idle loop of the same moment: the machine may be busy."""

    async def watch(delays: list[float]) -> None:
        while True:
            began = time.perf_counter()
            await trio.sleep(0.002)
            delays.append(time.perf_counter() - began - 0.002)

    idle: list[float] = []
    busy: list[float] = []
    entries = [make_entry(words(number, 600), f"http://e.org/{number}") for number in range(250)]
    with trio.move_on_after(3):
        await watch(idle)
    limits = CacheLimits(max_pending_bytes=1 << 40)
    async with open_sqlite_store(path, limits) as store, trio.open_nursery() as nursery:
        nursery.start_soon(watch, busy)
        for number in range(5000):
            await store.put(f"k{number}", entries[number % 250])
            if number % 25 == 0:
                await store.get(f"k{number // 2}")
        await store.flush()
        nursery.cancel_scope.cancel()
    assert store.statistics().entries == 5000
    idle.sort()
    busy.sort()
    assert busy[int(len(busy) * 0.999)] <= idle[int(len(idle) * 0.999)] + 0.05


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        ("/data", "sqlite:/data/eventmesh/documents.sqlite"),
        ("", "sqlite:~/.local/share/eventmesh/documents.sqlite"),
        ("relative", "sqlite:~/.local/share/eventmesh/documents.sqlite"),
    ],
)
def test_a_servers_store_is_in_the_users_data_directory(home: str, expected: str) -> None:
    assert user_store({"XDG_DATA_HOME": home}) == expected
    assert CacheLimits(store=expected).store_bytes < inf
