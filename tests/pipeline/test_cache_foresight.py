"""What a look into the file takes along: used once, for a moment, and never when it has changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import attrs
import pytest
import trio
import trio.testing

from eventmesh_trio.pipeline.caching.file import StoreFile
from eventmesh_trio.pipeline.caching.foresight import Foresight, Row
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.caching.sqlite import open_sqlite_store
from tests.helpers.entries import make_entry, text_of

ROW: Row = (b"head", b"document")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@attrs.define
class Looks:
    """The keys of each look into a file, in order; ``during`` is called, in the thread, by each."""

    taken: list[list[str]] = attrs.field(factory=list)
    during: Callable[[], object] = lambda: None


@contextmanager
def watched_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    looks = Looks()
    real = StoreFile.look

    def look(self: StoreFile, keys: list[str], most_bytes: int) -> object:
        looks.taken.append(list(keys))
        found = real(self, keys, most_bytes)
        looks.during()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(StoreFile, "look", look)
        yield looks


async def test_one_look_serves_all_that_was_asked_for_ahead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{number}" for number in range(9)]
    async with open_sqlite_store(path) as store:
        for key in keys[::2]:
            await store.put(key, make_entry(key))
        await store.flush()
        with watched_looks(monkeypatch) as looks:
            found = [await store.get(key, lambda: keys[1:]) for key in keys]
        assert [entry and text_of(entry) for entry in found] == [
            key if number % 2 == 0 else None for number, key in enumerate(keys)
        ]
        assert looks.taken == [keys]


async def test_who_asks_while_a_look_is_under_way_waits_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite_store(path) as store:
        with watched_looks(monkeypatch) as looks:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.get, "a", lambda: ["b", "c"])
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(store.get, "b")
                nursery.start_soon(store.get, "c")
        assert looks.taken == [["a", "b", "c"]]


async def test_a_look_that_is_cancelled_leaves_those_who_wait_to_look_themselves(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("b", make_entry("text"))
        await store.flush()
        found = []

        async def ask() -> None:
            found.append(await store.get("b"))

        going_on = threading.Event()
        with watched_looks(monkeypatch) as looks:
            looks.during = going_on.wait
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()

                async def look() -> None:
                    with scope:
                        await store.get("a", lambda: ["b"])

                nursery.start_soon(look)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                going_on.set()
        assert [text_of(entry) for entry in found] == ["text"]
        assert looks.taken[-1] == ["b"]


@pytest.mark.parametrize("written", [False, True])
async def test_what_is_kept_after_a_look_is_found(path: Path, written: bool) -> None:
    async with open_sqlite_store(path) as store:
        assert await store.get("a", lambda: ["b"]) is None
        await store.put("b", make_entry("text"))
        if written:
            await store.flush()
        assert text_of(await store.get("b")) == "text"
        await store.get("a", lambda: ["b"])
        await store.delete("b")
        if written:
            await store.flush()
        assert await store.get("b") is None


async def test_what_is_kept_during_a_look_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sqlite_store(path) as store:
        with watched_looks(monkeypatch) as looks:
            looks.during = lambda: trio.from_thread.run(store.put, "b", make_entry("text"))
            assert await store.get("a", lambda: ["b"]) is None
        await store.flush()
        assert text_of(await store.get("b")) == "text"


async def test_what_waits_to_be_written_is_not_looked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The file does not have it, and would be believed when it has been written.
    async with open_sqlite_store(path) as store:
        await store.put("b", make_entry("text"))
        with watched_looks(monkeypatch) as looks:
            assert await store.get("a", lambda: ["b"]) is None
        assert looks.taken == [["a"]]
        await store.flush()
        assert text_of(await store.get("b")) == "text"


async def test_a_large_document_found_ahead_is_whole(path: Path) -> None:
    text = " ".join(f"{number * number:x}" for number in range(60_000))
    async with open_sqlite_store(path) as store:
        await store.put("b", make_entry(text))
        await store.flush()
        await store.get("a", lambda: ["b"])
        assert text_of(await store.get("b")) == text


async def test_a_document_found_ahead_that_cannot_be_decoded_is_a_miss_and_leaves(
    path: Path,
) -> None:
    async with open_sqlite_store(path) as store:
        await store.put("b", make_entry("text"))
        await store.flush()
        with apsw.Connection(str(path)) as other:
            other.execute("UPDATE documents SET body = x'00112233'")
        await store.get("a", lambda: ["b"])
        assert await store.get("b") is None
        await store.flush()
        assert (store.statistics().entries, store.statistics().failures) == (0, 1)


async def test_a_look_takes_no_more_than_it_may(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        for key in "abcd":
            await store.put(key, make_entry(key))
        await store.flush()
    file = StoreFile(path, CacheLimits())
    entry, rows = file.look(list("abcd"), 1)
    file.close()
    assert text_of(entry) == "a"
    assert list(rows) == ["b"]


def test_what_was_found_is_used_once_and_not_for_long() -> None:
    now = 5.0
    foresight = Foresight(lambda: now)
    foresight.end(foresight.begin("a", ["b", "c", "d"]), {"b": ROW, "c": None, "d": ROW})
    assert foresight.take("a") == "unknown"
    assert foresight.take("b") == ROW
    assert foresight.take("b") == "unknown"
    assert foresight.take("c") is None
    now = 6.1
    assert foresight.take("d") == "unknown"
    assert foresight.nbytes == 0


def test_what_was_found_too_long_ago_is_not_kept() -> None:
    now = 5.0
    foresight = Foresight(lambda: now)
    foresight.end(foresight.begin("a", ["b"]), {"b": ROW})
    now = 5.9
    foresight.end(foresight.begin("c", ["d"]), {"d": ROW})
    now = 6.5
    foresight.forget_old()
    assert foresight.nbytes == len(ROW[0]) + len(ROW[1])
    assert foresight.take("d") == ROW


def test_what_is_found_ahead_is_bounded() -> None:
    foresight = Foresight(lambda: 0.0)
    large = (b"", bytes(900_000))
    foresight.end(foresight.begin("a", "bcd"), dict.fromkeys("bcd", large))
    assert [foresight.take(key) != "unknown" for key in "bcd"] == [False, True, True]
    many = [str(number) for number in range(600)]
    foresight.end(foresight.begin("a", many), dict.fromkeys(many))
    assert sum(foresight.take(key) is None for key in many) == 512


def test_what_is_known_or_is_being_found_is_not_looked_for_again() -> None:
    foresight = Foresight(lambda: 0.0)
    foresight.end(foresight.begin("a", ["b"]), {"b": None})
    look = foresight.begin("c", ["b", "c", "d", "d"])
    assert look.keys == ["c", "d"]
    assert foresight.begin("e", ["d"]).keys == ["e"]
    foresight.clear()
    foresight.end(look, {"d": ROW})
    assert foresight.take("b") == foresight.take("d") == "unknown"
    assert foresight.under_way("d") is None
