"""`Tables`: what tags do within tables and templates, where elements have but one place.

Source: https://html.spec.whatwg.org/multipage/parsing.html#parsing-main-intable, and what follows
"""

from typing import Final

from eventmesh_trio.pipeline.extract.source.elements import CELLS, IN_TABLES, MARKERS, SECTIONS
from eventmesh_trio.pipeline.extract.source.formatting import Formatting
from eventmesh_trio.pipeline.extract.source.open_elements import OpenElements

__all__ = ["Tables"]

_IN_HEAD: Final = frozenset(
    b"base basefont bgsound link meta noframes script style template title".split()
)


class Tables:
    """``templates``: of each open one, what it holds: "template" until a tag has told."""

    def __init__(self, elements: OpenElements, formatting: Formatting) -> None:
        self.templates: list[bytes] = []
        self._elements = elements
        self._formatting = formatting

    @property
    def innermost(self) -> bytes:
        """The part of a table in which words would stand: b"" outside, and in a template."""
        elements = self._elements
        part = elements.stack[elements.structure[-1]] if elements.structure else b""
        return b"" if part == b"template" else part

    def start(self, name: bytes) -> bool:
        """End the parts of a table that a tag cannot stand in, and open those that it needs.

        Returns whether it is for the rules of the body, which know nothing of tables.
        """
        elements = self._elements
        while elements.structure:
            at = elements.structure[-1]
            part = elements.stack[at]
            is_open = part != b"template"
            if not is_open:
                part = self._part_of_template(name)
            if part == b"colgroup":
                if name in (b"col", b"template"):
                    return name == b"template"
                if not is_open:
                    return False
                elements.pop_to(at)
                continue
            if name not in IN_TABLES and name != b"table":
                return True
            if not part:
                return name == b"table"
            if part in CELLS or part == b"caption":
                if name == b"table":
                    return True
                self._formatting.end_marked(at)
            elif name == b"table":
                at = elements.tables[-1]
                if elements.stack[at] != b"table":
                    return False
                elements.pop_to(at)
            elif not self._fill(name, part, at, is_open=is_open):
                return False
        return name not in IN_TABLES

    def _fill(self, name: bytes, part: bytes, at: int, *, is_open: bool) -> bool:
        """One step of `start` in a table, a section or a row; whether more are to follow."""
        elements = self._elements
        within: bytes | None = None  # what opens in the part
        if part == b"tr":
            within = name if name in CELLS else None
        elif part in SECTIONS:
            within = b"tr" if name in CELLS or name == b"tr" else None
        elif name in (b"col", b"colgroup"):
            within = b"colgroup"
        else:
            within = b"tbody" if name in CELLS or name == b"tr" else name
        if within is None:
            if is_open:
                elements.pop_to(at)
            return is_open
        elements.pop_to(at + 1)
        elements.push(within)
        if within in MARKERS:
            self._formatting.mark()
        return name not in (within, b"col")

    def _part_of_template(self, name: bytes) -> bytes:
        """What a template holds, which its first tag tells; b"": no part of a table."""
        if self.templates[-1] == b"template":
            if name in (b"caption", b"colgroup") or name in SECTIONS:
                self.templates[-1] = b"table"
            elif name in IN_TABLES:
                self.templates[-1] = {b"col": b"colgroup", b"tr": b"tbody"}.get(name, b"tr")
            elif name in _IN_HEAD:
                return b""
            else:
                self.templates[-1] = b""
        return self.templates[-1]

    def end(self, name: bytes) -> None:
        """The end tag of a table or of a part of one."""
        elements = self._elements
        while elements.structure:
            at = elements.structure[-1]
            part = elements.stack[at]
            through = elements.last(name) >= elements.tables[-1]  # it ends what this part is in
            if name == part:
                self._formatting.end_marked(at) if name in MARKERS else elements.pop_to(at)
                return
            rows = part == b"tr" or part in SECTIONS
            if part in CELLS or part == b"caption":
                if not through or name in CELLS or (part == b"caption" and name != b"table"):
                    return
                self._formatting.end_marked(at)
            elif (rows and name == b"table") or (part == b"tr" and through and name in SECTIONS):
                elements.pop_to(at)
            else:
                return
