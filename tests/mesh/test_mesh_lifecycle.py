import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.mesh.lifecycle import FINAL, TRANSITIONS, Command, Lifecycle, State


def test_a_run_begins_running_and_live() -> None:
    lifecycle = Lifecycle()
    assert (lifecycle.state, lifecycle.name, lifecycle.live) == (State.RUNNING, "running", True)


def test_every_state_has_its_row_and_only_final_ones_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state for state, row in TRANSITIONS.items() if not row} == FINAL


@pytest.mark.parametrize("command", [Command.PAUSE, Command.RESUME, Command.CANCEL])
@pytest.mark.parametrize("ending", [Command.COMPLETE, Command.EXPIRE, Command.FAIL])
def test_a_command_after_the_end_changes_nothing(ending: Command, command: Command) -> None:
    lifecycle = Lifecycle()
    lifecycle.apply(ending)
    before = lifecycle.state
    assert not lifecycle.apply(command)
    assert lifecycle.state is before


def test_pausing_twice_changes_nothing_the_second_time() -> None:
    lifecycle = Lifecycle()
    assert [lifecycle.apply(Command.PAUSE), lifecycle.apply(Command.PAUSE)] == [True, False]
    assert lifecycle.state is State.PAUSED


def test_a_cancelled_run_cannot_complete() -> None:
    lifecycle = Lifecycle()
    lifecycle.apply(Command.CANCEL)
    assert not lifecycle.apply(Command.COMPLETE)
    assert lifecycle.apply(Command.STOP)
    assert lifecycle.status == "cancelled"


def test_a_live_run_has_no_final_status() -> None:
    with pytest.raises(ValueError, match="running has no final status"):
        _ = Lifecycle().status


@given(st.lists(st.sampled_from(Command)))
def test_whatever_is_commanded_no_final_state_is_ever_left(commands: list[Command]) -> None:
    lifecycle = Lifecycle()
    final = None
    for command in commands:
        changed = lifecycle.apply(command)
        if final is not None:
            assert not changed
            assert lifecycle.state is final
        if not lifecycle.live:
            final = lifecycle.state
            assert lifecycle.status == lifecycle.name
