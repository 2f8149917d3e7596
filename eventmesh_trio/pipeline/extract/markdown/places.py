"""Where a block stands: in which items, quotes and notes, in a heading, a table, a definition."""

from typing import Final

import msgspec

from eventmesh_trio.pipeline.extract.markdown.footnotes import Footnotes
from eventmesh_trio.pipeline.extract.markdown.items import LISTS, Items
from eventmesh_trio.pipeline.extract.markdown.tables import is_data_table
from eventmesh_trio.pipeline.extract.page.outline import Outline

__all__ = ["Place", "Places"]

_HEADINGS: Final = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_LEVELS: Final = frozenset("123456")
_SHAPING: Final = frozenset(
    (*_HEADINGS, *LISTS, "li", "blockquote", "dt", "dd", "table", "summary")
)
_MAX_NESTING: Final = 32
"""Lists and quotes inside each other that are shown; every line repeats the signs of all. The
deepest of 407 real pages has 6."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """What a block stands in. A class of attrs takes five times as long to be filled."""

    path: tuple[int, ...]  # items, quotes and notes, outermost first
    heading: int = 0  # 1-6, or 0
    table: int = -1  # the data table
    term: int = -1  # the nearest <dt> or <dd> inside these
    summary: bool = False


_NOWHERE: Final = Place(())


class Places:
    """The places of the nodes of one page, each found once.

    Args:
      root: what stands around this node is left out.
    """

    def __init__(self, page: Outline, root: int, notes: Footnotes, items: Items) -> None:
        self.page = page
        self.root = root
        self.notes = notes
        self.items = items
        self._places: dict[int, Place] = {}

    def of(self, node: int) -> Place:
        """The place of a node; those of its ancestors are found on the way, each once."""
        nodes, places = self.page.nodes, self._places
        known = places.get(node)
        if known is not None:
            return known
        noted = bool(self.notes.nodes)
        inner = nodes[node]
        around = places.get(inner.parent)
        if around is not None:  # as for nearly all: blocks stand side by side
            if inner.tag in _SHAPING or noted or "role" in inner.attributes:
                around = self._inside(around, node)
            places[node] = around
            return around
        chain: list[int] = []
        place: Place | None = None
        while place is None and node >= self.root and node >= 0:
            chain.append(node)
            node = nodes[node].parent
            place = places.get(node)
        if place is None:
            place = _NOWHERE
        for index in reversed(chain):
            inner = nodes[index]
            if noted or inner.tag in _SHAPING or "role" in inner.attributes:
                place = self._inside(place, index)
            places[index] = place
        return place

    def _inside(self, place: Place, index: int) -> Place:
        node = self.page.nodes[index]
        tag = node.tag
        if index in self.notes.nodes:
            return Place((index,))
        if place.table >= 0:
            return place
        if tag in ("li", "blockquote"):
            if len(place.path) >= _MAX_NESTING:
                return place
            return Place((*place.path, index))
        if tag in LISTS:
            return self._list_place(place, index)
        heading, table, term, summary = place.heading, place.table, place.term, place.summary
        if tag in _HEADINGS:
            heading = _HEADINGS[tag]
        elif tag in ("dt", "dd"):
            term = index
        elif tag == "table" and is_data_table(self.page, index):
            table = index
        elif tag == "summary":
            summary = True
        elif node.attributes.get("role") == "heading":
            level = node.attributes.get("aria-level") or ""
            heading = int(level) if level in _LEVELS else 2
        return Place(place.path, heading, table, term, summary)

    def _list_place(self, place: Place, index: int) -> Place:
        """A list that is a child of a list, not of an item, belongs to the item before it."""
        nodes = self.page.nodes
        parent = nodes[index].parent
        if parent < 0 or nodes[parent].tag not in LISTS or len(place.path) >= _MAX_NESTING:
            return place
        item = self.items.before(index)
        return place if item is None else Place((*place.path, item))
