"""Who is next, when several runs want the same thing: each run in its turn, whatever it asks for.

A run of 10,000 URLs and a run of 20 get the same number of turns for as long as both wait. Every
operation takes the same time however much waits, a waiter that gives up included.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

import trio

__all__ = ["Rounds", "Slots"]

T = TypeVar("T")


class Rounds(Generic[T]):
    """What waits, by the run that it is for. Not for tasks: all of it is synchronous.

    Within a run first come is first served. A run that comes anew is served after each of the
    others once, at the latest. Items are told apart by identity or hash, and are in here once.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All items, run by run; not the order in which they would be taken."""
        for items in self._runs.values():
            yield from items

    @property
    def runs(self) -> int:
        """How many runs have something waiting."""
        return len(self._runs)

    def add(self, run: str, item: T) -> None:
        self._runs.setdefault(run, OrderedDict())[item] = None
        self._count += 1

    def take(self) -> T:
        """The next item; its run goes to the end of the round.

        Raises:
          LookupError: nothing waits.
        """
        try:
            run, items = next(iter(self._runs.items()))
        except StopIteration:
            raise LookupError("nothing waits") from None
        item, _ = items.popitem(last=False)
        self._count -= 1
        if items:
            self._runs.move_to_end(run)
        else:
            del self._runs[run]
        return item

    def discard(self, run: str, item: T) -> bool:
        """Take an item out of its place; whether it was still there."""
        items = self._runs.get(run)
        if items is None or item not in items:
            return False
        del items[item]
        self._count -= 1
        if not items:
            del self._runs[run]
        return True


class Slots:
    """So many at once, given to runs in rounds. Like a semaphore; `release` never waits."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: Rounds[trio.Event] = Rounds()

    @property
    def free(self) -> int:
        return self._free

    @property
    def waiting(self) -> int:
        """Tasks in `acquire` that have no slot yet."""
        return len(self._waiting)

    def try_acquire(self) -> bool:
        """Take a slot where one is free; then nobody waits for one."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def acquire(self, run: str) -> None:
        """Take a slot, and wait for it where none is free. Cancelled: no slot was taken."""
        await trio.lowlevel.checkpoint()
        if self.try_acquire():
            return
        given = trio.Event()
        self._waiting.add(run, given)
        try:
            await given.wait()
        except trio.Cancelled:
            if not self._waiting.discard(run, given):
                self.release()  # it was given one on its way out
            raise

    def release(self) -> None:
        """Give a slot to the next that waits, or back."""
        if self._waiting:
            self._waiting.take().set()
        else:
            self._free += 1
