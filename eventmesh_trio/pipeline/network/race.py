"""One connection out of several that may be had: Happy Eyeballs (RFC 8305, section 5)."""

from collections.abc import Awaitable, Callable, Sequence

import trio

from eventmesh_trio.errors import PageError

__all__ = ["first_connected"]


async def first_connected(
    attempts: Sequence[Callable[[], Awaitable[trio.abc.Stream]]],
    *,
    attempt_seconds: float,
    next_seconds: float,
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
    connected: list[trio.abc.Stream] = []
    failures: list[OSError | PageError] = []

    async def attempt(connect: Callable[[], Awaitable[trio.abc.Stream]], over: trio.Event) -> None:
        try:
            with trio.move_on_after(attempt_seconds):
                connected.append(await connect())
                nursery.cancel_scope.cancel()
        except OSError as error:
            failures.append(error)
        except PageError as error:
            failures.append(error)
            nursery.cancel_scope.cancel()
        over.set()

    try:
        async with trio.open_nursery() as nursery:
            for connect in attempts:
                over = trio.Event()
                nursery.start_soon(attempt, connect, over)
                with trio.move_on_after(next_seconds):
                    await over.wait()
    except BaseException:
        await _close(connected)
        raise
    await _close(connected[1:])
    if connected:
        return connected[0]
    if failures:
        raise failures[-1]
    return None


async def _close(streams: Sequence[trio.abc.Stream]) -> None:
    # Shielded, for all of them are to be closed; a forceful close never waits.
    with trio.CancelScope(shield=True):
        for stream in streams:
            await trio.aclose_forcefully(stream)
