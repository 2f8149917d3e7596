"""Bodies that are decoded share one turn, so that many are no longer a pause than one."""

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
import trio.testing

from eventmesh_trio.pipeline.fetching.decode_turn import SLICE_SECONDS, DecodeTurn

PIECE_SECONDS = 0.001


class Clock:
    """Seconds that pass only where a test says that work was done."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


async def decode(turn: DecodeTurn, pieces: int, work: Callable[[float], None]) -> None:
    async with turn.held():
        for _ in range(pieces):
            work(PIECE_SECONDS)
            await turn.pause()


@pytest.mark.parametrize("bodies", [1, 40])
async def test_between_two_rounds_of_the_loop_all_bodies_take_no_longer_than_one_may(
    clock: Clock, bodies: int
) -> None:
    turn = DecodeTurn()
    rounds: list[float] = []

    async def watch() -> None:
        while True:
            rounds.append(clock.now)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with trio.open_nursery() as decoders:
            for _ in range(bodies):
                decoders.start_soon(decode, turn, 50, clock.work)
        nursery.cancel_scope.cancel()
    longest = max(later - earlier for earlier, later in pairwise(rounds))
    # One piece more: that the slice is used up is seen when the piece has been made. And twice: in
    # one round whoever watches may come before the body that is decoded, in the next after it.
    assert SLICE_SECONDS <= longest <= 2 * (SLICE_SECONDS + 2 * PIECE_SECONDS)
    assert clock.now == pytest.approx(bodies * 50 * PIECE_SECONDS)


async def test_a_body_that_is_alone_and_small_waits_for_nothing(clock: Clock) -> None:
    turn = DecodeTurn()
    with trio.CancelScope() as scope:
        scope.cancel()  # so that any checkpoint would show
        await decode(turn, 3, clock.work)
    assert not scope.cancelled_caught


async def test_turns_are_had_in_the_order_of_coming(clock: Clock) -> None:
    turn = DecodeTurn()
    slices: list[str] = []

    async def decode_named(name: str) -> None:
        async with turn.held():
            for _ in range(3):
                slices.append(name)
                clock.work(2 * SLICE_SECONDS)
                await turn.pause()

    async with trio.open_nursery() as nursery:
        async with turn.held():
            for name in "abc":
                nursery.start_soon(decode_named, name)
                await trio.testing.wait_all_tasks_blocked()
    assert slices == list("abcabcabc")


@pytest.mark.parametrize("where", ["while it waits for the first time", "within a pause"])
async def test_a_cancelled_body_leaves_the_turn_to_the_next(clock: Clock, where: str) -> None:
    turn = DecodeTurn()
    cancelled = trio.CancelScope()

    async def give_up() -> None:
        with cancelled:
            async with turn.held():
                clock.work(2 * SLICE_SECONDS)
                await turn.pause()
                raise AssertionError("it was cancelled")

    async with trio.open_nursery() as nursery:
        if where == "within a pause":
            nursery.start_soon(give_up)
            nursery.start_soon(decode, turn, 9, clock.work)
            cancelled.cancel()
        else:
            async with turn.held():
                nursery.start_soon(give_up)
                await trio.testing.wait_all_tasks_blocked()
                cancelled.cancel()
                await trio.testing.wait_all_tasks_blocked()
    assert cancelled.cancelled_caught
    await decode(turn, 9, clock.work)
