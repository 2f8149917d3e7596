from collections import Counter

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.frontier import Errand, Frontier


def urls(count: int) -> list[str]:
    return [f"https://example.org/{number}" for number in range(count)]


async def test_urls_are_leased_in_the_order_of_the_request() -> None:
    frontier = Frontier(urls(3))
    leased = [await frontier.lease() for _ in range(3)]
    assert [errand.href for errand in leased] == urls(3)


async def test_the_end_comes_when_the_last_url_is_settled_and_wakes_who_waits() -> None:
    frontier = Frontier(urls(1))
    errand = await frontier.lease()
    ended = []

    async def wait_for_the_end() -> None:
        with pytest.raises(trio.EndOfChannel):
            await frontier.lease()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_the_end)
        nursery.start_soon(wait_for_the_end)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        assert not frontier.done
        frontier.settle(errand)
    assert ended == [True, True]
    assert frontier.done


async def test_what_is_given_back_is_leased_again_before_the_rest_in_order() -> None:
    frontier = Frontier(urls(4))
    first = [await frontier.lease() for _ in range(3)]
    frontier.settle(first[1])
    frontier.give_back()
    again = [await frontier.lease() for _ in range(3)]
    assert [errand.first for errand in again] == [0, 2, 3]


async def test_a_task_that_waits_gets_what_is_given_back() -> None:
    frontier = Frontier(urls(1))
    await frontier.lease()
    got: list[Errand] = []

    async def wait() -> None:
        got.append(await frontier.lease())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not got
        frontier.give_back()
    assert [errand.first for errand in got] == [0]


async def test_a_cancelled_wait_takes_no_lease() -> None:
    frontier = Frontier(urls(2))
    await frontier.lease()
    with trio.CancelScope() as scope:
        scope.cancel()
        await frontier.lease()
    assert scope.cancelled_caught
    assert frontier.statistics().leased == 1


async def test_equal_urls_are_one_errand_whose_indices_are_settled_one_by_one() -> None:
    spellings = ["https://example.org/a", "HTTPS://EXAMPLE.org:443/a#part", "https://example.org/b"]
    frontier = Frontier([*spellings, spellings[0]])
    errand = await frontier.lease()
    assert errand.spellings == {0: spellings[0], 1: spellings[1], 3: spellings[0]}
    settled = []
    while errand.spellings:
        settled.append(errand.next_index)
        frontier.settle(errand)
    assert settled == [0, 1, 3]
    assert (await frontier.lease()).href == spellings[2]


async def test_an_errand_that_comes_back_half_settled_keeps_its_other_indices() -> None:
    frontier = Frontier(["https://example.org/"] * 3)
    errand = await frontier.lease()
    frontier.settle(errand)
    frontier.give_back()
    again = await frontier.lease()
    assert again.first == 0
    assert list(again.spellings) == [1, 2]


async def test_settling_without_a_lease_is_refused_and_changes_nothing() -> None:
    frontier = Frontier(urls(1))
    errand = await frontier.lease()
    frontier.give_back()
    with pytest.raises(RuntimeError, match="without a lease"):
        frontier.settle(errand)
    assert frontier.statistics().settled == 0
    frontier.settle(await frontier.lease())
    with pytest.raises(RuntimeError, match="without a lease"):
        frontier.settle(errand)
    assert frontier.settled == 1


def test_a_text_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="scheme"):
        Frontier(["ftp://example.org/"])


def test_a_frontier_of_nothing_is_done() -> None:
    assert Frontier([]).done


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=25),
    st.lists(st.sampled_from(["lease", "settle", "give back"]), max_size=80),
)
def test_every_index_is_queued_leased_or_settled_whatever_happens(
    numbers: list[int], steps: list[str]
) -> None:
    async def main() -> None:
        frontier = Frontier([f"https://example.org/{number}" for number in numbers])
        held: list[Errand] = []
        settled: Counter[int] = Counter()
        for step in steps:
            if step == "lease":
                if frontier.statistics().queued:
                    held.append(await frontier.lease())
            elif step == "settle" and held:
                errand = held[0]
                settled[errand.next_index] += 1
                frontier.settle(errand)
                if not errand.spellings:
                    held.pop(0)
            elif step == "give back":
                frontier.give_back()
                held.clear()
            counts = frontier.statistics()
            assert counts.queued + counts.leased + counts.settled == counts.total == len(numbers)
            assert counts.leased == sum(len(errand.spellings) for errand in held)
            assert counts.settled == settled.total()
        frontier.give_back()
        while not frontier.done:
            errand = await frontier.lease()
            settled[errand.next_index] += 1
            frontier.settle(errand)
            frontier.give_back()
        assert settled == Counter(range(len(numbers)))

    trio.run(main)
