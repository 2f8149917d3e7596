"""The frontier: which URLs of a run are queued, leased or settled.

A URL is fetched once however often a request names it: URLs of one `equivalence_key` are one
*errand*, in its first spelling, with several *indices*, and each index is settled on its own. An
errand is queued, or leased to the one task that carries it, until its last index is settled. All
but `lease` is synchronous, and nothing here knows what an errand brings home.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import attrs
import trio

from eventmesh_trio.wire.urls import equivalence_key, parse_url

__all__ = ["Errand", "Frontier", "FrontierStatistics"]


@attrs.define(eq=False)
class Errand:
    """One URL to fetch, and the indices in the request that wait for it.

    ``spellings`` maps each index that is not settled yet to the URL as it stood there; in order.
    ``first`` is the lowest index of all: what a result of another index is a duplicate of.
    """

    first: Final[int]
    href: Final[str]
    spellings: Final[dict[int, str]]

    @property
    def next_index(self) -> int:
        """The first index that is not settled. Raises StopIteration when all are."""
        return next(iter(self.spellings))


@attrs.frozen
class FrontierStatistics:
    """Indices by state; ``queued + leased + settled == total``."""

    total: int
    queued: int
    leased: int
    settled: int


class Frontier:
    """The URLs of one run, and where each of them stands.

    Raises:
      ValueError: a URL is not one that `parse_url` reads.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.total: Final = len(urls)
        self._settled = 0
        self._leased: dict[int, Errand] = {}
        self._wanting = trio.lowlevel.ParkingLot()
        errands: dict[str, Errand] = {}
        for index, url in enumerate(urls):
            parsed = parse_url(url)
            errand = errands.setdefault(equivalence_key(parsed), Errand(index, parsed.href, {}))
            errand.spellings[index] = url
        self._queue = deque(errands.values())

    @property
    def done(self) -> bool:
        """Whether every index is settled."""
        return self._settled == self.total

    @property
    def settled(self) -> int:
        return self._settled

    @property
    def untouched(self) -> int:
        """Errands of which no index is settled."""
        errands = chain(self._queue, self._leased.values())
        return sum(errand.first in errand.spellings for errand in errands)

    async def lease(self) -> Errand:
        """Take the next errand; wait while all are leased, for one may come back.

        Cancellation loses nothing: a lease that was taken is always returned.
        Raises:
          trio.EndOfChannel: every URL is settled.
        """
        if self._queue:
            await trio.lowlevel.checkpoint_if_cancelled()  # what is done with it lets others run
        else:
            await trio.lowlevel.checkpoint()
        while not self._queue:
            if self.done:
                raise trio.EndOfChannel
            await self._wanting.park()
        # No checkpoint from here on: an errand that left the queue stands among the leased.
        errand = self._queue.popleft()
        self._leased[errand.first] = errand
        return errand

    def upcoming(self, count: int) -> Iterator[Errand]:
        """The errands that are leased next, at most so many; to be looked at before any await."""
        return islice(self._queue, count)

    def settle(self, errand: Errand) -> None:
        """Mark the errand's `Errand.next_index` as published; its last one ends the lease.

        Raises:
          RuntimeError: the errand is not leased: a bug of the caller, and nothing has changed.
        """
        if self._leased.get(errand.first) is not errand:
            raise RuntimeError(f"{errand.href} is settled without a lease")
        del errand.spellings[errand.next_index]
        self._settled += 1
        if not errand.spellings:
            del self._leased[errand.first]
        if self.done:
            self._wanting.unpark_all()

    def give_back(self) -> None:
        """Queue every leased errand again, first in line and in the request's order.

        Only when no task carries an errand any more: after the nursery of the work has exited.
        """
        returned = sorted(self._leased.values(), key=lambda errand: errand.first, reverse=True)
        self._leased.clear()
        self._queue.extendleft(returned)
        self._wanting.unpark(count=len(returned))

    def statistics(self) -> FrontierStatistics:
        """Count the indices by state; linear in the number of leases."""
        leased = sum(len(errand.spellings) for errand in self._leased.values())
        return FrontierStatistics(
            total=self.total,
            queued=self.total - self._settled - leased,
            leased=leased,
            settled=self._settled,
        )
