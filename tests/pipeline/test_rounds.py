"""Rounds over runs: who is next, and what cancellation costs."""

import random
import time
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.manners.rounds import Rounds, Slots


def test_runs_take_turns_and_each_is_served_in_its_order() -> None:
    rounds: Rounds[str] = Rounds()
    for item in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        rounds.add(item[0], item)
    assert [rounds.take() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    with pytest.raises(LookupError):
        rounds.take()


def test_who_comes_anew_is_served_after_each_of_the_others_once_at_the_latest() -> None:
    rounds: Rounds[str] = Rounds()
    for number in range(1000):
        rounds.add("big", f"big{number}")
        rounds.add("other", f"other{number}")
    rounds.take()
    rounds.add("small", "small")
    assert "small" in [rounds.take() for _ in range(3)]


def test_a_run_that_asks_for_one_at_a_time_gets_as_many_turns_as_one_that_waits_with_many() -> None:
    rounds: Rounds[str] = Rounds()
    for number in range(100):
        rounds.add("big", f"big{number}")
    rounds.add("small", "small")
    served = Counter[str]()
    for _ in range(50):
        item = rounds.take()
        run = item.rstrip("0123456789")
        served[run] += 1
        if run == "small":
            rounds.add("small", "small")
    assert served == {"big": 25, "small": 25}


@given(st.lists(st.tuples(st.sampled_from("aatd"), st.sampled_from("xyz")), max_size=60))
def test_nothing_is_lost_or_served_twice(steps: list[tuple[str, str]]) -> None:
    rounds: Rounds[int] = Rounds()
    inside: dict[int, str] = {}
    for number, (step, run) in enumerate(steps):
        if step == "a":
            rounds.add(run, number)
            inside[number] = run
        elif step == "t" and inside:
            taken = rounds.take()
            its_run = inside.pop(taken)
            older = [other for other, its in inside.items() if its == its_run and other < taken]
            assert not older
        elif step == "d" and inside:
            gone = next(iter(inside))
            assert rounds.discard(inside.pop(gone), gone)
            assert not rounds.discard(run, gone)
        assert len(rounds) == len(inside)
        assert sorted(rounds) == sorted(inside)
        assert rounds.runs == len(set(inside.values()))


def test_giving_up_costs_the_same_however_many_wait() -> None:
    def seconds(count: int) -> float:
        rounds: Rounds[int] = Rounds()
        for number in range(count):
            rounds.add("run", number)
        some = random.Random(1).sample(range(count), 1000)
        began = time.thread_time()
        for number in some:
            rounds.discard("run", number)
        for _ in range(1000):
            rounds.take()
        return time.thread_time() - began

    seconds(2000)
    assert (
        seconds(200_000) < 50 * seconds(2000) + 0.05
    )  # a linear step would take 100 times as long


async def test_slots_are_given_in_rounds_and_never_more_than_there_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots = Slots(2)
    order: list[str] = []
    active = most = 0

    async def hold(run: str) -> None:
        nonlocal active, most
        await slots.acquire(run)
        order.append(run)
        active += 1
        most = max(most, active)
        await trio.sleep(1)
        active -= 1
        slots.release()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(hold, "big")
        await trio.testing.wait_all_tasks_blocked()
        assert slots.waiting == 8
        for _ in range(3):
            nursery.start_soon(hold, "small")
    assert most == 2
    assert order.index("small") <= 3
    assert [order[2:8].count(run) for run in ("big", "small")] == [3, 3]
    assert (slots.free, slots.waiting) == (2, 0)


async def test_whatever_is_cancelled_when_every_slot_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slots = Slots(3)
    rng = random.Random(7)

    async def hold(run: str) -> None:
        with trio.move_on_after(rng.choice([0, 0.5, 1, 1, 2, 3, 100])):
            await slots.acquire(run)
            try:
                await trio.sleep(rng.choice([0, 1, 1, 2]))
            finally:
                slots.release()

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(hold, f"run{number % 5}")
            if number % 20 == 0:
                await trio.sleep(rng.choice([0, 0.5, 1]))
    assert (slots.free, slots.waiting) == (3, 0)


async def test_a_slot_given_to_one_who_is_cancelled_at_that_moment_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.acquire("a")
    served: list[str] = []
    scope = trio.CancelScope()

    async def impatient() -> None:
        with scope:
            await slots.acquire("b")
            served.append("b")

    async def patient() -> None:
        await slots.acquire("c")
        served.append("c")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(patient)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        slots.release()  # before the cancelled task has had its turn
    assert served == ["c"]
    slots.release()
    assert slots.free == 1
