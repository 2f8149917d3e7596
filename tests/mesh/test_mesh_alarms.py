"""Alarms ring once, in time, and for nobody who has left."""

from math import inf

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.mesh.alarms import Alarm, Alarms


class Sleeper:
    def __init__(self) -> None:
        self.woken_at: list[float] = []

    def wake(self) -> None:
        self.woken_at.append(trio.current_time())


@pytest.fixture
async def alarms(nursery: trio.Nursery) -> Alarms:
    alarms = Alarms()
    nursery.start_soon(alarms.ring)
    await trio.testing.wait_all_tasks_blocked()
    return alarms


async def test_each_sleeper_is_woken_once_when_its_time_has_come(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    late, soon = Sleeper(), Sleeper()
    alarms.set(late, began + 30)
    alarms.set(soon, began + 2)
    await trio.sleep(100)
    assert late.woken_at == [pytest.approx(began + 30)]
    assert soon.woken_at == [pytest.approx(began + 2)]
    assert len(alarms) == 0


async def test_an_alarm_that_is_put_off_is_left_as_it_is_and_one_that_is_brought_forward_replaced(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    sleeper = Sleeper()
    first = alarms.set(sleeper, began + 5)
    assert alarms.set(sleeper, began + 9, first) is first
    second = alarms.set(sleeper, began + 3, first)
    assert second is not first
    await trio.sleep(100)
    assert sleeper.woken_at == [pytest.approx(began + 3)]


async def test_an_alarm_that_has_rung_is_set_anew(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    sleeper = Sleeper()
    alarm = alarms.set(sleeper, trio.current_time() + 1)
    await trio.sleep(2)
    again = alarms.set(sleeper, trio.current_time() + 1, alarm)
    assert again is not alarm
    await trio.sleep(2)
    assert len(sleeper.woken_at) == 2


async def test_the_last_alarm_to_be_forgotten_takes_its_timer_along(alarms: Alarms) -> None:
    first, last = (alarms.set(Sleeper(), trio.current_time() + due) for due in (5, 9))
    alarms.forget(first)
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline < 10
    alarms.forget(last)
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == inf


async def test_a_forgotten_alarm_never_rings_and_holds_nobody(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    sleeper = Sleeper()
    alarm = alarms.set(sleeper, trio.current_time() + 1)
    assert alarm is not None
    alarms.forget(alarm)
    alarms.forget(alarm)
    assert alarm.sleeper is None
    assert len(alarms) == 0
    await trio.sleep(2)
    assert not sleeper.woken_at


async def test_who_waits_for_ever_has_no_alarm(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    sleeper = Sleeper()
    assert alarms.set(sleeper, inf) is None
    alarm = alarms.set(sleeper, trio.current_time() + 5)
    assert alarms.set(sleeper, inf, alarm) is alarm  # it rings for nothing, once


async def test_an_alarm_in_the_past_rings_at_once(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    sleeper, began = Sleeper(), trio.current_time()
    alarms.set(sleeper, began - 5)
    await trio.testing.wait_all_tasks_blocked()
    assert sleeper.woken_at == [pytest.approx(began)]


async def test_what_was_brought_forward_again_and_again_is_not_kept(
    alarms: Alarms, autojump_clock: trio.testing.MockClock
) -> None:
    sleeper, now, alarm = Sleeper(), trio.current_time(), None
    for step in range(20_000):
        alarm = alarms.set(sleeper, now + 50_000 - step, alarm)
    assert len(alarms) == 1
    assert len(alarms._heap) <= 1_003
    await trio.sleep(60_000)
    assert sleeper.woken_at == [pytest.approx(now + 50_000 - 19_999)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50), st.booleans()), max_size=40))
async def test_whatever_is_set_and_forgotten_each_sleeper_wakes_by_its_earliest_time(
    steps: list[tuple[int, int, bool]],
) -> None:
    alarms = Alarms()
    sleepers = [Sleeper() for _ in range(5)]
    held: dict[int, Alarm | None] = dict.fromkeys(range(5))
    for who, due, forgets in steps:
        if forgets:
            alarms.forget(held[who])
            held[who] = None
        else:
            held[who] = alarms.set(sleepers[who], due, held[who])
    wanted = {who: alarm.due for who, alarm in held.items() if alarm is not None}
    assert len(alarms) == len(wanted)
    rung: dict[int, int] = {}
    for now in range(51):
        alarms._ring_due(now)
        for who, sleeper in enumerate(sleepers):
            if sleeper.woken_at and who not in rung:
                rung[who] = now
    assert rung == wanted
    assert all(len(sleeper.woken_at) <= 1 for sleeper in sleepers)
