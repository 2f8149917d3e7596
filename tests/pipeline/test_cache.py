"""The cache over the store in memory: modes, ages, bounds, counts."""

import attrs
import pytest
import trio
from msgspec import structs

from eventmesh_trio.abc import CacheEntry
from eventmesh_trio.pipeline.caching.cache import CacheLimits, MemoryCache
from eventmesh_trio.pipeline.caching.store import StoreStatistics
from eventmesh_trio.wire.events import Image, Link
from eventmesh_trio.wire.requests import CacheMode
from tests.helpers.entries import WallClock, make_entry, text_of

MODES: list[tuple[CacheMode, bool, bool]] = [
    ("read_write", True, True),
    ("read_only", True, False),
    ("write_only", False, True),
    ("disabled", False, False),
]


def cache_of(clock: WallClock | None = None, **limits: float) -> MemoryCache:
    return MemoryCache(CacheLimits(**limits), wall_time=clock or WallClock())  # type: ignore[arg-type]


def store_of(cache: MemoryCache) -> StoreStatistics:
    return cache.statistics().store


async def test_what_is_put_is_got_and_counted() -> None:
    cache = cache_of()
    kept = make_entry()
    assert await cache.get("a", "read_write") is None
    await cache.put("a", kept, "read_write")
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.extraction is kept.extraction
    counts = cache.statistics()
    assert (counts.store.entries, counts.hits, counts.misses, counts.hit_rate) == (1, 1, 1, 0.5)
    assert counts.store.bytes_used > 0


@pytest.mark.parametrize(("mode", "reads", "writes"), MODES)
async def test_each_mode_reads_and_writes_what_it_says(
    mode: CacheMode, reads: bool, writes: bool
) -> None:
    cache = cache_of()
    await cache.put("old", make_entry(), "read_write")
    assert (await cache.get("old", mode) is not None) is reads
    await cache.put("new", make_entry(), mode)
    assert (await cache.get("new", "read_write") is not None) is writes


@pytest.mark.parametrize(("mode", "reads", "writes"), MODES)
async def test_a_mode_that_does_not_write_neither_refreshes_nor_discards(
    mode: CacheMode, reads: bool, writes: bool
) -> None:
    cache = cache_of()
    await cache.put("a", make_entry(), "read_write")
    fresher = make_entry(stored_at=make_entry().stored_at - 5)
    await cache.refresh("a", fresher, mode)
    found = await cache.get("a", "read_write")
    assert found is not None
    assert (found.stored_at == fresher.stored_at) is writes
    await cache.discard("a", mode)
    assert (await cache.get("a", "read_write") is None) is writes


async def test_a_mode_that_does_not_read_counts_no_lookup() -> None:
    cache = cache_of()
    await cache.get("a", "write_only")
    await cache.get("a", "disabled")
    assert (cache.statistics().hits, cache.statistics().misses) == (0, 0)
    assert cache.statistics().hit_rate == 0.0


async def test_an_entry_is_fresh_for_as_long_as_it_says_and_stale_from_then_on() -> None:
    clock = WallClock()
    cache = cache_of(clock)
    until = clock.now + 60
    await cache.put("a", make_entry(stored_at=clock.now, fresh_until=until), "read_write")
    clock.now += 59.9
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.fresh_until > clock.now
    clock.now += 0.1
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.fresh_until <= clock.now
    counts = cache.statistics()
    assert (counts.hits, counts.misses, counts.expired, counts.store.entries) == (1, 1, 1, 1)


async def test_no_entry_is_fresh_for_longer_than_the_limit_that_holds_now() -> None:
    clock = WallClock()
    cache = cache_of(clock, max_fresh_seconds=10)
    await cache.put("a", make_entry(stored_at=clock.now - 11), "read_write")
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.fresh_until <= clock.now


async def test_an_entry_from_the_future_is_not_fresh() -> None:
    clock = WallClock()
    cache = cache_of(clock)
    await cache.put("a", make_entry(stored_at=clock.now), "read_write")
    clock.now -= 10  # the wall clock was set back
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.fresh_until <= clock.now


async def test_a_confirmation_counts_for_the_hit_rate() -> None:
    clock = WallClock()
    cache = cache_of(clock)
    stale = make_entry(stored_at=clock.now, fresh_until=clock.now)
    await cache.put("a", stale, "read_write")
    await cache.get("a", "read_write")
    await cache.refresh("a", attrs.evolve(stale, fresh_until=clock.now + 9), "read_write")
    assert await cache.get("a", "read_write") is not None
    counts = cache.statistics()
    assert (counts.hits, counts.misses, counts.revalidated) == (1, 1, 1)
    assert counts.hit_rate == 1.0


async def test_the_least_recently_used_entries_make_room() -> None:
    size = await _size_of(make_entry("x" * 1000))
    cache = cache_of(cache_bytes=3 * size)
    for key in "abc":
        await cache.put(key, make_entry("x" * 1000), "read_write")
    assert await cache.get("a", "read_write") is not None  # now b is the oldest
    await cache.put("d", make_entry("x" * 1000), "read_write")
    present = [key for key in "abcd" if await cache.get(key, "read_write")]
    assert present == ["a", "c", "d"]
    assert store_of(cache).evicted == 1


async def test_the_bound_holds_after_any_number_of_puts() -> None:
    cache = cache_of(cache_bytes=50_000)
    for number in range(200):
        await cache.put(f"key {number % 70}", make_entry("x" * (number * 37 % 9000)), "read_write")
        assert store_of(cache).bytes_used <= 50_000
    assert store_of(cache).entries > 1


async def test_an_entry_larger_than_the_cache_is_refused_and_evicts_nothing_else() -> None:
    cache = cache_of(cache_bytes=20_000)
    await cache.put("small", make_entry(), "read_write")
    await cache.put("large", make_entry("x" * 30_000), "read_write")
    assert await cache.get("large", "read_write") is None
    assert await cache.get("small", "read_write") is not None
    assert store_of(cache).refused == 1


async def test_a_new_entry_takes_the_place_of_the_old_one_of_its_key() -> None:
    cache = cache_of()
    await cache.put("a", make_entry("old"), "read_write")
    before = store_of(cache).bytes_used
    await cache.put("a", make_entry("new"), "read_write")
    assert store_of(cache).bytes_used == before
    assert text_of(await cache.get("a", "read_write")) == "new"


async def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = cache_of(cache_bytes=0)
    await cache.put("a", make_entry(), "read_write")
    assert await cache.get("a", "read_write") is None


async def test_a_cancelled_put_keeps_nothing() -> None:
    cache = cache_of()
    with trio.CancelScope() as scope:
        scope.cancel()
        await cache.put("a", make_entry(), "read_write")
    assert scope.cancelled_caught
    assert store_of(cache).entries == 0


async def test_links_images_tags_and_wide_characters_count_as_memory() -> None:
    plain = make_entry()
    document = plain.extraction.document

    def with_document(**changes: object) -> CacheEntry:
        extraction = attrs.evolve(plain.extraction, document=structs.replace(document, **changes))
        return attrs.evolve(plain, extraction=extraction)

    base = await _size_of(plain)
    assert await _size_of(with_document(links=(Link("u" * 500, "t" * 500),))) >= base + 1000
    assert await _size_of(with_document(images=(Image("u" * 500, "a" * 500),))) >= base + 1000
    assert await _size_of(with_document(tags=("t" * 1000,))) >= base + 1000
    assert await _size_of(with_document(html="h" * 1000)) >= base + 1000
    assert await _size_of(with_document(text="\N{GRINNING FACE}" * 1000)) >= base + 3000


@pytest.mark.parametrize(
    "limits",
    [
        {"cache_bytes": -1},
        {"store_bytes": 1000},
        {"max_pending_bytes": -1},
        {"default_fresh_seconds": -1},
        {"max_indexed_characters": -1},
        {"store": "redis:"},
        {"store": "sqlite:"},
        {"store": "sqlite:a\0b"},
        {"min_fresh_seconds": 20, "max_fresh_seconds": 10},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        CacheLimits(**limits)  # type: ignore[arg-type]


async def _size_of(one: CacheEntry) -> int:
    cache = cache_of()
    await cache.put("k", one, "read_write")
    return store_of(cache).bytes_used
