"""Full-text search over what is kept, in memory and in a file."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.caching import index
from eventmesh_trio.pipeline.caching.index import snippets, terms_of
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.memory import MemoryStore
from eventmesh_trio.pipeline.caching.opening import open_store
from eventmesh_trio.pipeline.caching.store import Store
from eventmesh_trio.wire.events import SearchHit
from tests.helpers.entries import make_entry, text_of

KINDS = ("memory", "sqlite")


@asynccontextmanager
async def store_with(kind: str, folder: Path, *texts: str, **limits: int) -> AsyncIterator[Store]:
    """A store with a document for each text, at ``http://e.org/<its number>``."""
    where = "memory:" if kind == "memory" else f"sqlite:{folder / 'store.sqlite'}"
    async with open_store(CacheLimits(store=where, **limits)) as store:
        for number, text in enumerate(texts):
            await store.put(f"k{number}", make_entry(text, f"http://e.org/{number}"))
        await store.flush()
        yield store


def numbers(hits: Sequence[SearchHit]) -> list[int]:
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    return [int(hit.url.rpartition("/")[2]) for hit in hits]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_has_all_words_comes_before_what_has_some(kind: str, tmp_path: Path) -> None:
    texts = ("red apples", "green pears", "red and green grapes, and more words", "nothing")
    async with store_with(kind, tmp_path, *texts) as store:
        assert numbers(await store.search("green red", 10))[0] == 2
        assert set(numbers(await store.search("green red", 10))) == {0, 1, 2}
        assert numbers(await store.search("green red", 1)) == [2]
        assert numbers(await store.search("bananas", 10)) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_word_in_the_title_counts_for_more(kind: str, tmp_path: Path) -> None:
    # A title is "Title of http://e.org/<number>": 1 is in one title, and in another one's text.
    async with store_with(kind, tmp_path, "here is 1 again", "something else") as store:
        hits = await store.search("1", 10)
        assert numbers(hits) == [1, 0]
        assert hits[0].search_title == "Title of http://e.org/1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("STRASSE", False),  # only case and marks are folded
        ("straße", True),
        ("CAFE", True),
        ("café", True),
        ("東京", True),
        ("京都府", False),
        ("の天気", True),
        ("서울", True),
        ("กรุงเทพ", True),
        ('"quick brown"', True),
        ('"brown quick"', False),
        ("e-mail", True),
        ("mail", True),
        ("mai", False),
    ],
)
async def test_words_are_found_in_every_script(
    kind: str, query: str, found: bool, tmp_path: Path
) -> None:
    text = "Straße, Café; 明日の東京の天気は晴れ. 나는 서울에 있다. ไปกรุงเทพพรุ่งนี้ quick brown e-mail"
    async with store_with(kind, tmp_path, text) as store:
        assert bool(await store.search(query, 10)) is found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "query",
    [
        "", " ", '"', '""', '" "', '"unclosed', "AND", "OR", "NOT", "NEAR(a b)", "apple AND", "a*",
        "*", "^apple", "title:apple", "-apple", "apple -pear", "(", "apple)", "{a b}: c", "a:b",
        "'; DROP TABLE words; --", "\0", "apple\0pear", "\ud800", "%", "_", "\\", "ä́", "😀",
        "apple " * 200, "a" * 1000, "\u200b", "+", "a + b", "{", "}", ";", "rank", "<b>",
    ],
)  # fmt: skip
async def test_any_text_is_a_query(kind: str, query: str, tmp_path: Path) -> None:
    async with store_with(kind, tmp_path, "apple pear") as store:
        hits = await store.search(query, 10)
        assert all(hit.url == "http://e.org/0" for hit in hits)
        words = query.replace("\0", " ").strip("^-()").split()
        assert bool(hits) is ("apple" in words or "apple)" in words), query
        assert store.statistics().failures == 0


@given(st.text(max_size=60))
def test_no_text_is_an_error_of_the_index(query: str) -> None:
    assert len(snippets(query, ["some text"])) == 1


def test_a_query_has_no_more_words_than_are_worth_looking_for() -> None:
    assert len(terms_of(" ".join(map(str, range(1000))))) == 32
    assert terms_of("a a  a") == ['"a"']


@pytest.mark.parametrize("kind", KINDS)
async def test_a_snippet_shows_the_words_and_is_short(kind: str, tmp_path: Path) -> None:
    filler = "nothing of interest here " * 400
    text = f"{filler}\n\n the needle   is 東京 here {filler}"
    async with store_with(kind, tmp_path, text) as store:
        (hit,) = await store.search("needle", 10)
        assert "the needle is 東京 here" in hit.search_snippet
        assert len(hit.search_snippet) <= 300
        (hit,) = await store.search("0", 10)  # only its title has it: the text's beginning then
        assert hit.search_snippet.startswith("nothing of interest")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_left_the_store_is_not_found(kind: str, tmp_path: Path) -> None:
    async with store_with(kind, tmp_path, "alpha", "alpha beta") as store:
        assert len(await store.search("alpha", 10)) == 2
        await store.delete("k0")
        await store.put("k1", make_entry("gamma", "http://e.org/1"))
        await store.flush()
        assert numbers(await store.search("alpha", 10)) == []
        assert numbers(await store.search("gamma", 10)) == [1]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_evicted_is_not_found(kind: str, tmp_path: Path) -> None:
    bounds = {"cache_bytes": 30_000, "store_bytes": 512 * 1024}
    async with store_with(kind, tmp_path, **bounds) as store:
        for number in range(300):
            words = " ".join(f"w{number}x{n}" for n in range(900))
            await store.put(f"k{number}", make_entry(words, f"http://e.org/{number}"))
            if number % 20 == 0:
                await store.flush()
        await store.flush()
        assert store.statistics().evicted > 0
        assert await store.search("w0x5", 10) == ()
        assert numbers(await store.search("w299x5", 10)) == [299]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_url_is_found_once_however_often_it_is_kept(kind: str, tmp_path: Path) -> None:
    async with store_with(kind, tmp_path) as store:
        for number in range(30):
            await store.put(f"k{number}", make_entry("alpha", f"http://e.org/{number % 3}"))
        await store.flush()
        assert sorted(numbers(await store.search("alpha", 10))) == [0, 1, 2]
        assert len(await store.search("alpha", 2)) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_search_can_be_cancelled_and_the_next_one_works(kind: str, tmp_path: Path) -> None:
    texts = [f"alpha {' '.join(f'b{n}' for n in range(2000))}" for _ in range(100)]
    async with store_with(kind, tmp_path, *texts) as store:
        for seconds in (0, 0.001, 0.005):
            with trio.move_on_after(seconds):
                await store.search("alpha b1 b2 b3", 50)
        assert len(await store.search("alpha b1", 50)) == 50
        assert store.statistics().failures == 0


@pytest.mark.parametrize("ticks", range(8))
async def test_a_search_that_is_cancelled_leaves_nothing_in_the_index_for_good(ticks: int) -> None:
    store = MemoryStore()
    for number in range(3):
        await store.put(f"k{number}", make_entry("alpha", f"http://e.org/{number}"))
    assert len(await store.search("alpha", 5)) == 3
    await store.delete("k1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.search, "alpha", 5)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert len(await store.search("alpha", 5)) == 2
    assert store._index is not None
    assert store._index.execute("SELECT count(*) FROM words_docsize").fetchall() == [(2,)]
    await store.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_searches_and_writes_go_on_side_by_side(kind: str, tmp_path: Path) -> None:
    async with store_with(kind, tmp_path) as store, trio.open_nursery() as nursery:

        async def write(first: int) -> None:
            for number in range(first, first + 60):
                await store.put(f"k{number}", make_entry("alpha", f"http://e.org/{number}"))
                await trio.sleep(0.001)

        async def search() -> None:
            seen = 0
            while seen < 180:
                hits = await store.search("alpha", 500)
                assert len(hits) >= seen
                seen = len(hits)

        with trio.fail_after(60):
            for first in (0, 60, 120):
                nursery.start_soon(write, first)
            nursery.start_soon(search)


@pytest.mark.parametrize("kind", KINDS)
async def test_texts_are_searched_as_far_as_they_are_indexed(kind: str, tmp_path: Path) -> None:
    async with store_with(kind, tmp_path, "one two three", max_indexed_characters=7) as store:
        assert await store.search("two", 10)
        assert not await store.search("three", 10)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", KINDS)
async def test_after_any_changes_just_what_is_kept_is_found(
    kind: str, seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    kept: dict[str, str] = {}
    async with store_with(kind, tmp_path) as store, trio.open_nursery() as nursery:
        for step in range(150):
            key = f"k{dice.randrange(12)}"
            match dice.choice(["put", "put", "delete", "refresh", "search", "wait", "get"]):
                case "put":
                    kept[key] = f"word{step}"
                    await store.put(key, make_entry(kept[key], f"http://e.org/{key}"))
                case "delete":
                    kept.pop(key, None)
                    await store.delete(key)
                case "refresh":
                    entry = make_entry(kept.get(key, "never"), f"http://e.org/{key}")
                    await store.refresh(key, entry)
                case "search":
                    nursery.start_soon(store.search, f"word{step - 3} common", 5)
                case "wait":
                    await trio.sleep(dice.random() / 500)
                case "get":
                    assert text_of(await store.get(key)) == kept.get(key)
        await store.flush()
        for step in range(150):
            urls = [hit.url for hit in await store.search(f"word{step}", 50)]
            assert urls == [
                f"http://e.org/{k}" for k, text in kept.items() if text == f"word{step}"
            ]
        for number in range(12):
            assert text_of(await store.get(f"k{number}")) == kept.get(f"k{number}")
        assert store.statistics().failures == 0


def test_every_letter_of_a_script_without_spaces_is_a_word_of_its_own() -> None:
    # Which text has one is found by the bytes of UTF-8; all of them that there are.
    letters = (chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    unspaced = [letter for letter in letters if index._UNSPACED.match(letter)]
    assert len(unspaced) > 100_000
    assert all(index._spaced(letter) != letter for letter in unspaced)
    assert index._spaced("“Crème brûlée” – 5 €, Ελλάδα, Россия") == (
        "“Crème brûlée” – 5 €, Ελλάδα, Россия"
    )
