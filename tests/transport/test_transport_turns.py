"""One has the turn at a time, in the order of asking."""

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from eventmesh_trio.transport.turns import Turns


async def test_those_who_wait_have_their_turns_in_the_order_of_asking() -> None:
    turns, order = Turns(), []

    async def ask(number: int) -> None:
        async with turns:
            assert turns.taken
            order.append(number)
            await trio.lowlevel.checkpoint()
            assert order[-1] == number  # nobody came in between

    async with trio.open_nursery() as nursery:
        assert turns.take_nowait()
        for number in range(5):
            nursery.start_soon(ask, number)
            await wait_all_tasks_blocked()
        turns.give()
    assert order == list(range(5))
    assert not turns.taken


async def test_nobody_overtakes_who_was_handed_the_turn() -> None:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        assert turns.take_nowait()
        nursery.start_soon(turns.take)
        await wait_all_tasks_blocked()
        turns.give()
        assert not turns.take_nowait()
    turns.give()
    assert turns.take_nowait()


async def test_who_is_cancelled_while_waiting_never_had_the_turn() -> None:
    turns = Turns()
    assert turns.take_nowait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    turns.give()
    assert not turns.taken


async def test_who_is_handed_the_turn_and_cancelled_at_once_has_it() -> None:
    turns, had = Turns(), False

    async def ask() -> None:
        nonlocal had
        async with turns:
            had = True

    async with trio.open_nursery() as nursery:
        assert turns.take_nowait()
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        turns.give()
        nursery.cancel_scope.cancel()
    assert had
    assert not turns.taken


async def test_a_turn_that_nobody_has_is_taken_with_a_checkpoint_and_not_when_cancelled() -> None:
    turns = Turns()
    with trio.testing.assert_checkpoints():
        await turns.take()
    turns.give()
    with trio.CancelScope() as scope:
        scope.cancel()
        await turns.take()
    assert scope.cancelled_caught
    assert not turns.taken


async def test_a_block_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns:
            raise ZeroDivisionError
    assert not turns.taken
