"""Each setting under ``cache`` and what it changes."""

import threading
import time
from pathlib import Path

import apsw
import attrs
import pytest
import trio

from eventmesh_trio.abc import Page
from eventmesh_trio.pipeline.caching.file import StoreFile
from eventmesh_trio.testing import FakeFetcher, make_page
from tests.helpers.entries import make_entry
from tests.helpers.settled import World, events_of, open_world, shows


def saying(*lines: str, text: str = "text") -> FakeFetcher:
    """An origin whose responses have these header fields."""
    split = (line.partition(": ") for line in lines)
    fields = tuple((name.lower().encode(), value.encode()) for name, _, value in split)

    def answer(url: str) -> Page:
        return attrs.evolve(make_page(url, text.encode()), fields=fields)

    return FakeFetcher(answer)


async def is_cached(*settings: str, after: float = 0.0, says: tuple[str, ...] = ()) -> bool:
    """Whether the second crawl of a page is served from the cache."""
    async with open_world(*settings, fetcher=saying(*says)) as world:
        await world.crawl()
        time.sleep(after)  # its age is told by the wall clock
        return await from_cache(world)


async def from_cache(world: World) -> bool:
    answer = await world.crawl()
    (result,) = (event for event in events_of(answer.body) if event["event"] == "result")
    return bool(result["from_cache"])


async def fill(world: World, count: int, text: str = "x" * 1000) -> None:
    """Put so many documents into the store."""
    for number in range(count):
        entry = make_entry(f"{number} {text}", f"http://e.org/{number}")
        await world.mesh.cache.put(f"k{number}", entry, "read_write")


@shows("cache.cache_bytes")
async def test_the_memory_holds_cache_bytes():
    assert await is_cached()
    assert not await is_cached("cache.cache_bytes=0")
    assert not await is_cached("cache.cache_bytes=100")


@shows("cache.store")
async def test_documents_are_kept_in_the_store(tmp_path: Path):
    for where in (f"sqlite:{tmp_path}/a", "memory:"):
        async with open_world(f"cache.store={where}") as world:
            assert not await from_cache(world)
    async with open_world(f"cache.store=sqlite:{tmp_path}/a") as world:
        assert await from_cache(world)
    async with open_world("cache.store=memory:") as world:
        assert not await from_cache(world)


@shows("cache.store_bytes")
async def test_the_file_holds_store_bytes(tmp_path: Path):
    entries = []
    for size in ("600KB", "100MB"):
        setting = f"cache.store_bytes={size}"
        where = f"cache.store=sqlite:{tmp_path}/{size}"
        async with open_world(setting, where) as world:
            text = " ".join(f"w{number * 104729 % 999_983:x}" for number in range(500))
            await fill(world, 300, text)
            await world.mesh.cache.store.flush()
            entries.append(world.mesh.cache.statistics().store.entries)
    assert 0 < entries[0] < entries[1] == 300


@shows("cache.max_pending_bytes")
async def test_what_waits_to_be_written_is_at_most_max_pending_bytes(tmp_path: Path):
    where = f"cache.store=sqlite:{tmp_path}/a"
    async with open_world(where, "cache.max_pending_bytes=20KB") as world:
        await fill(world, 30)
        assert world.mesh.cache.statistics().store.dropped > 0
        assert world.mesh.cache.statistics().store.pending_bytes <= 20 * 1024
    async with open_world(where) as world:
        await fill(world, 30)
        assert world.mesh.cache.statistics().store.dropped == 0


@shows("cache.busy_seconds")
async def test_a_write_waits_busy_seconds_for_another_process(tmp_path: Path):
    where = f"cache.store=sqlite:{tmp_path}/a"
    for seconds, kept in ((0.05, False), (5, True)):
        async with open_world(where, f"cache.busy_seconds={seconds}") as world:
            await world.mesh.cache.store.flush()
            other = apsw.Connection(f"{tmp_path}/a")
            other.execute("BEGIN IMMEDIATE")
            await fill(world, 1)
            await trio.sleep(0.3)
            other.execute("ROLLBACK")
            other.close()
            await world.mesh.cache.store.flush()
            assert (world.mesh.cache.statistics().store.trouble is None) is kept


@shows("cache.lookup_seconds")
async def test_a_document_is_looked_for_no_longer_than_lookup_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = threading.Event()
    asked: list[str] = []

    def hang(file: StoreFile, keys: list[str], most_bytes: int) -> None:
        asked.extend(keys)
        disk.wait(30)

    where = f"cache.store=sqlite:{tmp_path}/a"
    settings = (where, "cache.lookup_seconds=0.1", "cache.retry_seconds=1")
    async with open_world(*settings) as world:
        store = world.mesh.cache.store
        monkeypatch.setattr(StoreFile, "look", hang)
        try:
            with trio.fail_after(20):
                assert await store.get("k0") is None
                for _ in range(100):  # nobody asks it for a while, and nobody waits
                    assert await store.get("k0") is None
            assert asked == ["k0"]
            assert store.statistics().trouble == "a look into the file took too long"
        finally:
            disk.set()
        monkeypatch.undo()
        await trio.sleep(1.1)
        await fill(world, 1)
        await store.flush()
        assert await store.get("k0") is not None
        assert store.statistics().trouble is None


@shows("cache.retry_seconds")
async def test_after_a_failure_nothing_is_written_for_retry_seconds(tmp_path: Path):
    where = f"cache.store=sqlite:{tmp_path}/a"
    for seconds, kept in ((60, False), (0, True)):
        settings = (where, "cache.busy_seconds=0", f"cache.retry_seconds={seconds}")
        async with open_world(*settings) as world:
            other = apsw.Connection(f"{tmp_path}/a")
            other.execute("BEGIN IMMEDIATE")
            await fill(world, 1)
            await world.mesh.cache.store.flush()
            other.execute("ROLLBACK")
            other.close()
            await fill(world, 1)
            await world.mesh.cache.store.flush()
            assert (await world.mesh.cache.store.get("k0") is not None) is kept


@shows("cache.default_fresh_seconds")
async def test_a_document_of_which_nothing_is_said_is_fresh_for_default_fresh_seconds():
    assert await is_cached(after=0.06)
    assert not await is_cached("cache.default_fresh_seconds=50ms", after=0.06)


@shows("cache.min_fresh_seconds")
async def test_a_document_is_fresh_for_at_least_min_fresh_seconds():
    says = ("Cache-Control: max-age=0",)
    assert not await is_cached(says=says)
    assert await is_cached("cache.min_fresh_seconds=60", says=says)


@shows("cache.max_fresh_seconds")
async def test_a_document_is_fresh_for_at_most_max_fresh_seconds():
    says = ("Cache-Control: max-age=600",)
    assert await is_cached(says=says, after=0.06)
    assert not await is_cached("cache.max_fresh_seconds=50ms", says=says, after=0.06)


@shows("cache.max_indexed_characters")
@pytest.mark.parametrize(("most", "found"), [(0, 0), (8, 1), (40, 2)])
async def test_a_text_is_searched_for_max_indexed_characters(most: int, found: int):
    setting = f"cache.max_indexed_characters={most}"
    async with open_world(setting, fetcher=saying(text="apples and pears")) as world:
        await world.crawl()
        hits = [await world.mesh.cache.search(word, 5) for word in ("apples", "pears")]
        assert sum(map(len, hits)) == found
