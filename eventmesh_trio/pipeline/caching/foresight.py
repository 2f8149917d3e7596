"""What a look into the store's file has found of keys that nobody has asked for yet.

A look costs a way into a thread and back, for one key or for thirty. So it takes along the keys
that its caller will ask for next; most often these are a crawl's next URLs, and the file has none
of them. What it finds is as good as what a look now would find, for a moment: `forget` is told of
each change of this process, and what another one writes to the same file is seen a second late.

All but `Look.wait` is synchronous.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import attrs
import trio

__all__ = ["Foresight", "Look", "Row"]

Row: TypeAlias = tuple[bytes, bytes]
"""An entry as the file has it: its head, and its document."""

_GOOD_SECONDS: Final = 1.0
"""How long what was found ahead is used: what another process keeps meanwhile is fetched again."""
_MOST_BYTES: Final = 2 * 1024 * 1024  # of documents found ahead, as the file has them
_MOST_KEYS: Final = 512  # of which something is known ahead
_UNKNOWN: Final = "unknown"


@attrs.define(eq=False)
class Look:
    """A look into the file that is under way, for the first of ``keys`` and those ahead."""

    keys: Sequence[str]
    _over: trio.Event = attrs.field(factory=trio.Event, init=False)
    _changed: set[str] = attrs.field(factory=set, init=False)

    async def wait(self) -> None:
        """Wait until it is over, found something or not. Always a checkpoint."""
        await self._over.wait()


@attrs.frozen
class _Found:
    row: Row | None
    nbytes: int
    good_until: float


class Foresight:
    """What is known ahead, by key: a row, or that there is none. ``now`` is a clock in seconds."""

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._looks: dict[str, Look] = {}
        self._found: OrderedDict[str, _Found] = OrderedDict()  # oldest first
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """What the documents that were found ahead take, at most 2 MiB."""
        return self._nbytes

    def under_way(self, key: str) -> Look | None:
        """The look that will tell of a key."""
        return self._looks.get(key)

    def take(self, key: str) -> Row | Literal["unknown"] | None:
        """What was found of a key: its row, None where it has none; it is known no more."""
        found = self._drop(key)
        if found is None or found.good_until < self._now():
            return _UNKNOWN
        return found.row

    def begin(self, key: str, ahead: Iterable[str]) -> Look:
        """Begin a look for a key, and for those ahead of which nothing is known; then `end` it."""
        self.forget_old()
        new = [one for one in ahead if one not in self._found and one not in self._looks]
        look = Look(list(dict.fromkeys([key, *new])))
        for one in look.keys:
            self._looks.setdefault(one, look)
        return look

    def end(self, look: Look, rows: Mapping[str, Row | None]) -> None:
        """End a look, whatever came of it. ``rows``: what it found of the keys ahead."""
        good_until = self._now() + _GOOD_SECONDS
        for key in look.keys:
            if self._looks.get(key) is look:
                del self._looks[key]
        for key, row in rows.items():
            if key in look._changed:
                continue  # it may have been seen before or after
            self._drop(key)
            nbytes = 0 if row is None else len(row[0]) + len(row[1])
            self._found[key] = _Found(row, nbytes, good_until)
            self._nbytes += nbytes
        while self._nbytes > _MOST_BYTES or len(self._found) > _MOST_KEYS:
            self._drop(next(iter(self._found)))
        look._over.set()

    def forget(self, key: str) -> None:
        """A key's entry changes: what was found of it, or is just being found, is true no more."""
        self._drop(key)
        look = self._looks.get(key)
        if look is not None:
            look._changed.add(key)

    def clear(self) -> None:
        """Forget everything: what is found by looks under way, too."""
        for key in [*self._found, *self._looks]:
            self.forget(key)

    def forget_old(self) -> None:
        """Forget what was found too long ago to be used."""
        now = self._now()
        while self._found:
            key, found = next(iter(self._found.items()))
            if found.good_until >= now:
                break
            self._drop(key)

    def _drop(self, key: str) -> _Found | None:
        found = self._found.pop(key, None)
        if found is not None:
            self._nbytes -= found.nbytes
        return found
