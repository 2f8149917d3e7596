import attrs
import pytest
import trio
from msgspec import structs

from eventmesh_trio.abc import CacheEntry
from eventmesh_trio.pipeline.cache import CacheLimits, MemoryCache
from eventmesh_trio.testing import make_extraction, make_page
from eventmesh_trio.wire.events import Image, Link
from eventmesh_trio.wire.requests import CacheMode


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def entry(body: bytes = b"text", stored_at: float = 1_000_000.0) -> CacheEntry:
    page = make_page("https://example.org/", body)
    return CacheEntry(make_extraction(page), 200, page.final_url, stored_at)


def cache_of(clock: Clock, **limits: float) -> MemoryCache:
    return MemoryCache(CacheLimits(**limits), wall_time=clock)  # type: ignore[arg-type]


async def test_what_is_put_is_got_and_counted() -> None:
    cache = cache_of(Clock())
    kept = entry()
    assert await cache.get("a", "read_write") is None
    await cache.put("a", kept, "read_write")
    assert await cache.get("a", "read_write") is kept
    counts = cache.statistics()
    assert (counts.entries, counts.hits, counts.misses, counts.hit_rate) == (1, 1, 1, 0.5)
    assert counts.bytes_used > 0


@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        ("read_write", True, True),
        ("read_only", True, False),
        ("write_only", False, True),
        ("disabled", False, False),
    ],
)
async def test_each_mode_reads_and_writes_what_it_says(
    mode: CacheMode, reads: bool, writes: bool
) -> None:
    cache = cache_of(Clock())
    await cache.put("old", entry(), "read_write")
    assert (await cache.get("old", mode) is not None) is reads
    await cache.put("new", entry(), mode)
    assert (await cache.get("new", "read_write") is not None) is writes


async def test_a_mode_that_does_not_read_counts_no_lookup() -> None:
    cache = cache_of(Clock())
    await cache.get("a", "write_only")
    await cache.get("a", "disabled")
    assert (cache.statistics().hits, cache.statistics().misses) == (0, 0)
    assert cache.statistics().hit_rate == 0.0


async def test_an_entry_lives_just_as_long_as_the_limit_says() -> None:
    clock = Clock()
    cache = cache_of(clock, cache_ttl_seconds=60)
    await cache.put("a", entry(stored_at=clock.now), "read_write")
    clock.now += 59.9
    assert await cache.get("a", "read_write") is not None
    clock.now += 0.1
    assert await cache.get("a", "read_write") is None
    counts = cache.statistics()
    assert (counts.expired, counts.entries, counts.bytes_used) == (1, 0, 0)


async def test_an_entry_from_the_future_is_not_trusted() -> None:
    clock = Clock()
    cache = cache_of(clock)
    await cache.put("a", entry(stored_at=clock.now), "read_write")
    clock.now -= 10  # the wall clock was set back
    assert await cache.get("a", "read_write") is None


async def test_the_least_recently_used_entries_make_room() -> None:
    clock = Clock()
    size = await _size_of(entry(b"x" * 1000))
    cache = cache_of(clock, cache_bytes=3 * size)
    for key in "abc":
        await cache.put(key, entry(b"x" * 1000), "read_write")
    assert await cache.get("a", "read_write") is not None  # now b is the oldest
    await cache.put("d", entry(b"x" * 1000), "read_write")
    present = [key for key in "abcd" if await cache.get(key, "read_write")]
    assert present == ["a", "c", "d"]
    assert cache.statistics().evicted == 1


async def test_the_bound_holds_after_any_number_of_puts() -> None:
    cache = cache_of(Clock(), cache_bytes=50_000)
    for number in range(200):
        await cache.put(f"key {number % 70}", entry(b"x" * (number * 37 % 9000)), "read_write")
        assert cache.statistics().bytes_used <= 50_000
    assert cache.statistics().entries > 1


async def test_an_entry_larger_than_the_cache_is_refused_and_evicts_nothing_else() -> None:
    cache = cache_of(Clock(), cache_bytes=20_000)
    await cache.put("small", entry(), "read_write")
    await cache.put("large", entry(b"x" * 30_000), "read_write")
    assert await cache.get("large", "read_write") is None
    assert await cache.get("small", "read_write") is not None
    assert cache.statistics().refused == 1


async def test_a_new_entry_takes_the_place_of_the_old_one_of_its_key() -> None:
    cache = cache_of(Clock())
    await cache.put("a", entry(b"old"), "read_write")
    before = cache.statistics().bytes_used
    await cache.put("a", entry(b"new"), "read_write")
    assert cache.statistics().bytes_used == before
    found = await cache.get("a", "read_write")
    assert found is not None
    assert found.extraction.document.text == "new"


async def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = cache_of(Clock(), cache_bytes=0)
    await cache.put("a", entry(), "read_write")
    assert await cache.get("a", "read_write") is None


async def test_cleared_the_cache_is_empty() -> None:
    cache = cache_of(Clock())
    await cache.put("a", entry(), "read_write")
    cache.clear()
    assert (cache.statistics().entries, cache.statistics().bytes_used) == (0, 0)


async def test_a_cancelled_put_keeps_nothing() -> None:
    cache = cache_of(Clock())
    with trio.CancelScope() as scope:
        scope.cancel()
        await cache.put("a", entry(), "read_write")
    assert scope.cancelled_caught
    assert cache.statistics().entries == 0


async def test_links_images_tags_and_wide_characters_count_as_memory() -> None:
    plain = entry()
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


@pytest.mark.parametrize("limits", [{"cache_bytes": -1}, {"cache_ttl_seconds": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        CacheLimits(**limits)  # type: ignore[arg-type]


async def _size_of(one: CacheEntry) -> int:
    cache = cache_of(Clock())
    await cache.put("k", one, "read_write")
    return cache.statistics().bytes_used
