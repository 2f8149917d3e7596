"""The arrays of an outline: blocks of text, and the elements that hold them."""

from bisect import bisect_left

import attrs
import msgspec
from selectolax.lexbor import LexborNode

__all__ = ["Block", "Mark", "Node", "Outline"]

Mark = tuple[str, str, str]
"""An inline event inside a block: a name (``a``, ``/a``, ``b``, ``br``, ``img``...), URL, text.

``a`` has its own id as text; ``id`` is an anchor without an address; ``math`` has TeX, and "block"
when it is displayed; ``hr`` is alone in its block; ``task`` is a check box, "x" when checked.
"""


class Block(msgspec.Struct, eq=False, gc=False):
    """A run of inline content. ``text`` is what a reader sees, spaces collapsed but in ``pre``."""

    text: str
    parts: list[str | Mark]
    chars: int
    link_chars: int
    links: int
    node: int  # index of the innermost node around it
    tag: str  # of that node
    images: int = 0


class Node(msgspec.Struct, eq=False, gc=False):
    """An element that can hold blocks, with the half-open slices of what is inside it."""

    tag: str
    parent: int  # -1 for the root
    cues: int
    attributes: dict[str, str | None]
    first_block: int
    end_block: int = 0
    end_node: int = 0


@attrs.define(eq=False)
class Outline:
    blocks: list[Block]
    nodes: list[Node]
    chars_before: list[int]
    link_chars_before: list[int]
    skimmed: list[int]  # blocks that are all of a navigation, a footer or noise, not to be shown
    has_skimmed_noise: bool = False  # more than navigations and footers
    # Nodes that few look for and all would have to be asked: noted while they are at hand.
    telling: list[int] = attrs.field(factory=list)  # that have cues
    marked: list[int] = attrs.field(factory=list)  # that have other attributes than a class
    # Elements named as an author or a date, if they were asked for.
    signed: list[LexborNode] = attrs.field(factory=list)

    def telling_within(self, inner: range) -> list[int]:
        """Of some nodes, those that have cues."""
        telling = self.telling
        return telling[bisect_left(telling, inner.start) : bisect_left(telling, inner.stop)]

    def chars(self, node: Node) -> int:
        """Visible characters inside a node."""
        return self.chars_before[node.end_block] - self.chars_before[node.first_block]

    def link_chars(self, node: Node) -> int:
        """Of these, the characters inside links."""
        return self.link_chars_before[node.end_block] - self.link_chars_before[node.first_block]
