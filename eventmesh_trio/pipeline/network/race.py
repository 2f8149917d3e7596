"""One connection out of several that may be had: Happy Eyeballs (RFC 8305, section 5)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import attrs
import trio

from eventmesh_trio.errors import PageError

__all__ = ["first_connected"]

_CLOSE_SECONDS: Final = 1.0

Attempt: TypeAlias = Callable[[], Awaitable[trio.abc.Stream]]


async def first_connected(
    attempts: Sequence[Attempt], *, attempt_seconds: float, next_seconds: float
) -> trio.abc.Stream | None:
    """Make the attempts, best first, until one brings a connection.

    The next one begins when the one before it has failed, or has taken ``next_seconds``; each may
    go on for ``attempt_seconds``. Whatever comes after the first connection is closed. None where
    no attempt ended in time.

    Raises:
      OSError: the last failure.
      PageError: as an attempt raised it, at once: what is between us and the addresses has failed.
    Cancelled: no connection is left.
    """
    if len(attempts) == 1:  # no race, and no nursery
        with trio.move_on_after(attempt_seconds):
            return await attempts[0]()
        return None
    race = _Race(attempt_seconds)
    lost = race.connected
    try:
        async with trio.open_nursery() as nursery:
            for attempt in attempts:
                over = trio.Event()
                nursery.start_soon(race.run, attempt, over, nursery.cancel_scope)
                with trio.move_on_after(next_seconds):
                    await over.wait()
        lost = race.connected[1:]
    finally:
        # Shielded, for none of them may be left; a forceful close never waits.
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            for stream in lost:
                await trio.aclose_forcefully(stream)
    if race.connected:
        return race.connected[0]
    failure, race.failure = race.failure, None
    if failure is None:
        return None
    try:
        raise failure
    finally:
        del failure  # as above


@attrs.define(eq=False)
class _Race:
    attempt_seconds: float
    connected: list[trio.abc.Stream] = attrs.field(factory=list, init=False)
    failure: OSError | PageError | None = attrs.field(default=None, init=False)

    async def run(self, attempt: Attempt, over: trio.Event, race: trio.CancelScope) -> None:
        try:
            with trio.move_on_after(self.attempt_seconds):
                self.connected.append(await attempt())
                race.cancel()
        except (OSError, PageError) as error:
            # Its traceback holds this frame, which holds us: a cycle, for the collector to find.
            self.failure = error.with_traceback(None)
            if isinstance(error, PageError):
                race.cancel()
        over.set()
