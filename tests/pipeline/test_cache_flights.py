"""Single flight: one fetches, the others wait for it."""

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from eventmesh_trio.abc import CacheEntry
from eventmesh_trio.pipeline.caching.flights import Flight, Flights
from tests.helpers.entries import make_entry


def usable(entry: CacheEntry) -> bool:
    return True


async def hold(flights: Flights, key: str = "k") -> Flight:
    flight = await flights.board(key, 1, usable)
    assert isinstance(flight, Flight)
    return flight


async def test_those_who_wait_get_what_the_holder_lands_with() -> None:
    flights, entry = Flights(), make_entry()
    flight = await hold(flights)
    got: list[object] = []

    async def wait() -> None:
        got.append(await flights.board("k", 100, usable))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert flights.statistics().waiting == 100
        flights.land(flight, entry)
    assert got == [entry] * 100
    # Whoever comes before it is in the store has it too; who comes after flies anew.
    assert await flights.board("k", 1, usable) is entry
    flights.finish(flight)
    assert isinstance(await flights.board("k", 1, usable), Flight)
    assert flights.statistics().shared == 101


async def test_what_has_gone_stale_since_it_landed_is_not_shared() -> None:
    flights = Flights()
    flights.land(await hold(flights), make_entry())
    assert await flights.board("k", 1, lambda entry: False) is None
    assert flights.statistics().shared == 0


async def test_other_keys_do_not_wait() -> None:
    flights = Flights()
    await hold(flights, "a")
    assert isinstance(await flights.board("b", 1, usable), Flight)


async def test_when_a_flight_is_given_up_one_of_those_who_wait_takes_it() -> None:
    flights = Flights()
    flight = await hold(flights)
    held: list[Flight] = []

    async def wait() -> None:
        mine = await flights.board("k", 100, usable)
        assert isinstance(mine, Flight)
        held.append(mine)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
        for number in range(3):
            assert len(held) == number
            flights.finish(held[-1] if held else flight)
            await wait_all_tasks_blocked()
    assert len(held) == 3


async def test_what_may_not_be_shared_lets_all_go_at_once() -> None:
    flights = Flights()
    flight = await hold(flights)
    got: list[object] = []

    async def wait() -> None:
        got.append(await flights.board("k", 100, usable))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        flights.land(flight, None)
    assert got == [None] * 3
    assert flights.statistics().in_flight == 0


async def test_patience_has_an_end(autojump_clock: MockClock) -> None:
    flights = Flights()
    await hold(flights)
    began = trio.current_time()
    assert await flights.board("k", 7, usable) is None
    assert trio.current_time() - began == pytest.approx(7)
    assert flights.statistics().waited_out == 1
    assert flights.statistics().waiting == 0


async def test_a_flight_that_was_given_up_can_land_on_nobody() -> None:
    flights = Flights()
    old = await hold(flights)
    flights.finish(old)
    new = await hold(flights)
    flights.land(old, make_entry("old"))
    assert new.entry is None
    flights.finish(old)  # nor can it end another's
    with trio.move_on_after(0):
        await flights.board("k", 100, usable)
    assert flights.statistics().in_flight == 1


async def test_a_wait_that_is_cancelled_holds_nothing() -> None:
    flights = Flights()
    flight = await hold(flights)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flights.board, "k", 100, usable)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert flights.statistics().waiting == 0
    flights.finish(flight)
    assert flights.statistics().in_flight == 0


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_flies_lands_fails_or_is_cancelled_nobody_waits_for_ever(
    seed: int, autojump_clock: MockClock
) -> None:
    dice = random.Random(seed)
    flights = Flights()
    flying: set[str] = set()
    done = 0

    async def one() -> None:
        nonlocal done
        key = dice.choice("abc")
        await trio.sleep(dice.random())
        with trio.move_on_after(dice.choice([0.3, 50])):
            got = await flights.board(key, 20, usable)
            if isinstance(got, Flight):
                assert key not in flying, "two hold one flight"
                flying.add(key)
                try:
                    await trio.sleep(dice.random())
                    end = dice.choice(["land", "fail", "alone"])
                    if end != "fail":
                        flights.land(got, make_entry(key) if end == "land" else None)
                        flying.discard(key)  # what follows is no flight any more
                        await trio.sleep(dice.random())
                finally:
                    if got.entry is None and not got.alone:
                        flying.discard(key)
                    flights.finish(got)
            else:
                assert got is None or isinstance(got, CacheEntry)
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(one)
    assert done == 60
    assert flights.statistics().in_flight == 0
    assert trio.current_time() < 100
