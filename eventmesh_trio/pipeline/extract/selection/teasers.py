"""Teasers: the cards that lead to other pages, told by their repetition, not by their names."""

from typing import Final

from eventmesh_trio.pipeline.extract.page.outline import Node, Outline

__all__ = ["teasers"]

_CARDS: Final = frozenset(("li", "div", "article", "section", "td"))
_MIN_CARDS: Final = 3
"""Two alike may be chance: a pair of columns, a before and an after."""
_MAX_CARD_CHARS: Final = 700
"""A teaser tells what the page behind it begins with, of 300 to 600 characters. An entry of a
list that is itself the article tells more."""
_TITLE_CHARS: Final = 15
_LINKED: Final = 0.8
"""Of a title's characters, in a link: a date or an author may stand beside it."""
_TITLE_BLOCKS: Final = 4
"""Within how many blocks a card has its title: after a picture, a category and a date."""


def teasers(page: Outline) -> list[int]:
    """Nodes that are cards: at least three siblings of one make, each a linked title with more."""
    groups: dict[tuple[int, str, str], list[int]] = {}
    chars, linked = page.chars_before, page.link_chars_before
    linking = [
        index
        for index, node in enumerate(page.nodes)
        if node.end_block - node.first_block > 1  # first: seven of ten have fewer
        and node.tag in _CARDS
        and linked[node.end_block] - linked[node.first_block] >= _TITLE_CHARS
        and chars[node.end_block] - chars[node.first_block] <= _MAX_CARD_CHARS
    ]
    if len(linking) < _MIN_CARDS:
        return []
    for index in linking:
        node = page.nodes[index]
        if _has_linked_title(page, node):
            names = node.attributes.get("class") or ""
            make = names.partition(" ")[0]
            groups.setdefault((node.parent, node.tag, make), []).append(index)
    return [index for group in groups.values() if len(group) >= _MIN_CARDS for index in group]


def _has_linked_title(page: Outline, node: Node) -> bool:
    for i in range(node.first_block, min(node.end_block, node.first_block + _TITLE_BLOCKS)):
        block = page.blocks[i]
        if block.chars >= _TITLE_CHARS and block.link_chars >= _LINKED * block.chars:
            return True
    return False
