"""`Formatting`: the elements that blocks open again until their end tag ("active formatting").

Source: https://html.spec.whatwg.org/multipage/parsing.html#the-list-of-active-formatting-elements
"""

from bisect import bisect_right
from itertools import pairwise, takewhile
from typing import Final

from eventmesh_trio.pipeline.extract.source.elements import FOREIGN
from eventmesh_trio.pipeline.extract.source.open_elements import Format, OpenElements

__all__ = ["Formatting"]

_MOST_ALIKE: Final = 3
"""Formatting elements with the same attributes, of which no more are opened again (13.2.4.3)."""
_MOST_BLOCKS: Final = 8
"""Through which an end tag takes a formatting element out at once (13.2.6.4.7)..."""
_MOST_CLONED: Final = 3
"""...and others that stand between two of them, and are opened again within."""
_BYTES_PER_COPY: Final = 64
"""Of a tag, that count as one element opened again: attributes take up to 40 times their bytes."""


class Formatting:
    """``reopened``: elements that were opened again, or cloned, so far."""

    def __init__(self, elements: OpenElements) -> None:
        self.reopened = 0
        self._elements = elements
        self._active: list[Format | None] = []  # None: a marker, which none is opened through

    def __bool__(self) -> bool:
        """Whether there is some that a block may open again."""
        return bool(self._active) and self._active[-1] is not None

    def mark(self) -> None:
        """Note an element that formatting does not go through, which was opened just now."""
        self._active.append(None)

    def end_marked(self, at: int) -> None:
        """End such an element."""
        self._elements.pop_to(at)
        while self._active and self._active.pop() is not None:
            pass

    def start(self, name: bytes, tag: bytes) -> None:
        """Open one: its name in lower case, and its tag."""
        key = tag.rstrip(b"/>").lower()
        alike = [entry for entry in self._since_marker() if entry.key == key]
        if len(alike) >= _MOST_ALIKE:
            self._deactivate(alike[-1])
        entry = Format(name, key, 1 + len(tag) // _BYTES_PER_COPY)
        self._active.append(entry)
        self._elements.open(entry)

    def _since_marker(self) -> list[Format]:
        """The latest first."""
        return list(takewhile(bool, reversed(self._active)))  # type: ignore[arg-type]

    def last(self, name: bytes) -> Format | None:
        """The latest of a name."""
        for entry in reversed(self._active):
            if entry is None or entry.name == name:
                return entry
        return None

    def _deactivate(self, entry: Format) -> None:
        """Let it be opened no more; if it is open it stays so."""
        self._active.remove(entry)
        self._elements.formats.pop(entry.at, None)
        entry.at = -1

    def forget(self, entry: Format) -> None:
        """As `_deactivate`, and close it; nothing where both was done."""
        if entry in self._active:
            if entry.at >= 0:
                self._elements.take_out(entry.at)
            self._active.remove(entry)

    def reopen(self) -> None:
        """Open the formatting again that is not open ("reconstruct")."""
        active = self._active
        first = len(active)
        while first > 0 and (entry := active[first - 1]) is not None and entry.at < 0:
            first -= 1
        for entry in active[first:]:
            assert entry is not None
            self._elements.open(entry)
            self.reopened += entry.cost

    def end(self, name: bytes) -> bool:
        """An end tag; whether there was something for it to end.

        Blocks that were opened within stay open (the "adoption agency algorithm").
        """
        elements = self._elements
        top = len(elements.stack) - 1
        if elements.top == name and top not in elements.formats:
            elements.pop_to(top)
            return True
        entry = self.last(name)
        if entry is None:
            return False
        if entry.at < 0:
            self._active.remove(entry)
        elif elements.in_scope(entry.at):
            self._adopt(entry)
        return True

    def _adopt(self, entry: Format) -> None:
        elements = self._elements
        at = entry.at
        blocks = elements.special[bisect_right(elements.special, at) :]
        taken = blocks[:_MOST_BLOCKS]
        for outer, block in pairwise((at, *taken)):
            self._clone_between(outer, block)
            self.reopened += entry.cost
        if len(taken) == _MOST_BLOCKS:
            self._sink(entry, taken[-1])
            return
        elements.pop_to(blocks[-1] + 1 if blocks else at)
        if blocks:
            elements.take_out(at)
        self._active.remove(entry)

    def _clone_between(self, outer: int, block: int) -> None:
        """What stands between the formatting element and a block goes out, or into it."""
        elements = self._elements
        clones = 0
        for at in range(block - 1, outer, -1):
            if not elements.stack[at]:
                continue
            clones += 1
            entry = elements.formats.get(at)
            if entry is not None and clones <= _MOST_CLONED:
                self.reopened += entry.cost
                continue
            elements.take_out(at)
            if entry is not None:
                self._active.remove(entry)

    def _sink(self, entry: Format, block: int) -> None:
        """Move it into a block: the innermost of those that it is taken through at once."""
        elements = self._elements
        within = list(enumerate(elements.stack))[entry.at + 1 :]
        formats = {at: elements.formats.get(at) for at, _ in within}
        self.reopened += len(within) // _MOST_BLOCKS  # it takes as long as to open so many
        elements.pop_to(entry.at)
        for at, name in within:
            if not name:
                continue
            inner = formats[at]
            if inner is not None:
                elements.open(inner)
                continue
            if name.startswith(FOREIGN):
                elements.push_foreign(name)
                continue
            moved = elements.push(name)
            if at == elements.form:
                elements.form = moved
            if at == block:
                elements.open(entry)

    def end_all(self) -> bytes:
        """End tags for all that would be opened again, which end it."""
        names = [entry.name for entry in self._since_marker()]
        for name in names:
            self.end(name)
        return b"".join([b"</%s>" % name for name in names])
