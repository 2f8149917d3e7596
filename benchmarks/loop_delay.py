"""How late a trio program's tasks are: the delays of a task that sleeps a little, over and over.

``python -m benchmarks.loop_delay`` is a program that does nothing else: how late the machine lets
any program be. A line on its input makes it answer with the delays since the last one.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import attrs
import trio

__all__ = ["DelayWatch", "quantile"]

PAUSE_SECONDS: Final = 0.005
"""Between two looks: 200 a second, so that ten seconds hold two of the slowest thousandth."""


@attrs.define(eq=False)
class DelayWatch:
    """Collects delays, in seconds, until they are taken."""

    _delays: list[float] = attrs.field(factory=list, init=False)

    async def watch(self) -> NoReturn:
        while True:
            due = trio.current_time() + PAUSE_SECONDS
            await trio.sleep_until(due)
            self._delays.append(trio.current_time() - due)

    def take(self) -> list[float]:
        """The delays since the last time, each rounded to a microsecond."""
        taken, self._delays = self._delays, []
        return [round(delay, 6) for delay in taken]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that a share of all is not above: no interpolation, none invented."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def answer_lines(take: Callable[[], list[float]]) -> None:
    """Answer each line of the input with what was taken, as a line of JSON, until it ends."""
    # Bytes, so that a line is never left in a buffer that nobody looks into.
    async with trio.lowlevel.FdStream(os.dup(0)) as lines:
        while await lines.receive_some():
            print(json.dumps(take()), flush=True)


async def main() -> None:
    watch = DelayWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.watch)
        await answer_lines(watch.take)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
