"""`OpenElements`: what a parser has open, innermost last, found by name without a search.

Source: https://html.spec.whatwg.org/multipage/parsing.html#the-stack-of-open-elements
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.source.elements import (
    FOREIGN,
    FORMATTING,
    HOLDS_HTML,
    PASSED,
    SCOPES,
    SPECIAL,
    STRUCTURE,
    TABLE_SCOPES,
)

__all__ = ["Format", "OpenElements"]

GONE: Final = b""

_LISTED: Final = (SPECIAL, SCOPES, SPECIAL - PASSED, TABLE_SCOPES, STRUCTURE)
_LISTS: Final = {
    name: tuple(number for number, names in enumerate(_LISTED) if name in names)
    for name in frozenset().union(*_LISTED)
}
"""In which lists of places a name stands."""


@attrs.define(eq=False)
class Format:
    """A formatting element that blocks open again until its end tag: ``at`` is its place, or -1.

    ``key``: its tag; of those alike only so many are kept.
    """

    name: bytes
    key: bytes
    cost: int
    at: int = -1


class OpenElements:
    """The stack. What is taken out of its middle leaves a gap, which counts until it is on top."""

    def __init__(self) -> None:
        self.stack: list[bytes] = []
        self.places: dict[bytes, list[int]] = {}  # of every open name, in the stack
        self.formats: dict[int, Format] = {}  # by place
        self.special: list[int] = []
        self.scopes: list[int] = []
        self.items: list[int] = []  # special elements that keep an item open
        self.tables: list[int] = []
        self.structure: list[int] = []
        self.drawings: list[int] = []  # the outermost of each drawing or formula
        self.form: int | None = None  # the one that takes no other into it; -1: it is closed
        self._lists = (self.special, self.scopes, self.items, self.tables, self.structure)
        self._lists_of: dict[bytes, tuple[list[int], ...]] = {}  # where a name's places stand

    @property
    def top(self) -> bytes:
        return self.stack[-1] if self.stack else GONE

    def in_foreign(self) -> bool:
        """Whether the innermost element is one of a drawing or formula."""
        return bool(self.drawings) and self.stack[-1].startswith(FOREIGN)

    def last(self, name: bytes) -> int:
        """The place of the innermost element of a name, or -1."""
        places = self.places.get(name)
        return places[-1] if places else -1

    def last_of(self, names: Iterable[bytes]) -> int:
        """Likewise of several."""
        return max(map(self.last, names))

    def in_scope(self, at: int) -> bool:
        """Whether the end tag of an element that stands there reaches it."""
        return not self.scopes or at >= self.scopes[-1]

    def push(self, name: bytes) -> int:
        stack = self.stack
        at = len(stack)
        stack.append(name)
        lists = self._lists_of.get(name)
        if lists is None:
            self.places[name] = []
            others = [self._lists[number] for number in _LISTS.get(name, ())]
            lists = self._lists_of[name] = (self.places[name], *others)
        for places in lists:
            places.append(at)
        return at

    def push_foreign(self, name: bytes) -> None:
        """Push a part of a drawing or formula, or the whole of it."""
        if not self.in_foreign():
            self.drawings.append(len(self.stack))
        self.push(name)

    def open(self, entry: Format) -> None:
        """Push a formatting element."""
        entry.at = self.push(entry.name)
        self.formats[entry.at] = entry

    def pop(self) -> None:
        """Close the innermost element."""
        self.pop_to(len(self.stack) - 1)

    def pop_to(self, floor: int) -> None:
        """Close the element at ``floor`` and all in it, and gaps below it."""
        stack = self.stack
        while len(stack) > floor or (stack and not stack[-1]):
            name = stack.pop()
            if not name:
                continue
            for places in self._lists_of[name]:
                places.pop()
            if name in FORMATTING:
                self._close(len(stack))
        while self.drawings and self.drawings[-1] >= len(stack):
            self.drawings.pop()

    def _close(self, at: int) -> None:
        entry = self.formats.pop(at, None)
        if entry is not None:
            entry.at = -1

    def take_out(self, at: int) -> None:
        """Close an element of HTML, not what is open in it."""
        for places in self._lists_of[self.stack[at]]:
            places.remove(at)
        self.stack[at] = GONE
        self._close(at)
        if at == len(self.stack) - 1:
            self.pop_to(at)
        elif self.drawings and at < self.drawings[-1]:
            self._join_drawings(at)

    def _join_drawings(self, at: int) -> None:
        """A drawing that stood in an element that is gone may stand in another drawing now."""
        outer = bisect_right(self.drawings, at)
        above = self.stack[at : self.drawings[outer]]
        below = next(filter(None, reversed(self.stack[:at])), GONE)
        if below.startswith(FOREIGN) and not any(above):
            del self.drawings[outer]

    def leave_drawing(self) -> None:
        """Close parts of a drawing or formula up to one that holds HTML, or all of it."""
        self.pop_to(max(self.drawings[-1], self.last_of(HOLDS_HTML) + 1))
