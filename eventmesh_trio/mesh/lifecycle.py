"""What states a run has, which command leads where; the table is the only writer of state.

A command that the table does not list for a state changes nothing: the client that sent it could
not know (paused twice, cancelled after the end), so it is no error.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, cast

from eventmesh_trio.wire.events import RunStatus
from eventmesh_trio.wire.sessions import RunState

__all__ = ["FINAL", "TRANSITIONS", "Command", "Lifecycle", "State"]


class State(Enum):
    """Values are what clients read; the last four are final, and a summary's ``status``."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


class Command(Enum):
    """What moves a run: the first three come from clients, the rest from the run itself."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    COMPLETE = "complete"  # everything is settled
    EXPIRE = "expire"  # the run's own time is up
    FAIL = "fail"  # a bug, or a stage that cannot go on
    STOP = "stop"  # a cancelled run's work has unwound


FINAL: Final = frozenset({State.COMPLETED, State.CANCELLED, State.FAILED, State.TIMED_OUT})

TRANSITIONS: Final[Mapping[State, Mapping[Command, State]]] = {
    State.RUNNING: {
        Command.PAUSE: State.PAUSED,
        Command.CANCEL: State.CANCELLING,
        Command.COMPLETE: State.COMPLETED,
        Command.EXPIRE: State.TIMED_OUT,
        Command.FAIL: State.FAILED,
    },
    State.PAUSED: {
        Command.RESUME: State.RUNNING,
        Command.CANCEL: State.CANCELLING,
        # The pause came while the last unit was being settled.
        Command.COMPLETE: State.COMPLETED,
        Command.FAIL: State.FAILED,
    },
    State.CANCELLING: {
        # Cancelled stays cancelled, even when the work was done by then: it was acknowledged.
        Command.STOP: State.CANCELLED,
        Command.FAIL: State.FAILED,
    },
    State.COMPLETED: {},
    State.CANCELLED: {},
    State.FAILED: {},
    State.TIMED_OUT: {},
}


class Lifecycle:
    """The state of one run."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = State.RUNNING

    @property
    def state(self) -> State:
        return self._state

    @property
    def name(self) -> RunState:
        """The state as clients read it."""
        return self._state.value

    @property
    def status(self) -> RunStatus:
        """The final state as a summary's ``status``; only of a run that has ended."""
        if self._state not in FINAL:
            raise ValueError(f"a run that is {self._state.value} has no final status")
        return cast(RunStatus, self._state.value)

    @property
    def live(self) -> bool:
        return self._state not in FINAL

    def apply(self, command: Command) -> bool:
        """Obey ``command``; whether it changed anything."""
        after = TRANSITIONS[self._state].get(command)
        if after is None:
            return False
        self._state = after
        return True
