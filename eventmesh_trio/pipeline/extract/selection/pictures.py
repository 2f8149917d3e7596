"""Pictures and rules between the chosen blocks.

The choice of content goes by text. A block without any (an image alone in its paragraph, a line
across the page) belongs to it by where it stands.
"""

from typing import Final

from eventmesh_trio.pipeline.extract.page.cues import ASIDE, COMMENTS, NOISE
from eventmesh_trio.pipeline.extract.page.outline import Outline

__all__ = ["with_pictures"]

_WALL: Final = 4
"""So many pictures in a row, half of them without a name of their own, show partners and awards."""

_OTHER: Final = NOISE | COMMENTS | ASIDE


def with_pictures(page: Outline, kept: list[int]) -> list[int]:
    """The blocks, rising, and those without text that stand among them.

    An image belongs when the text before or behind it does, it is inside the smallest element
    around all that was kept, and no element between the two is navigation or the like. A rule
    belongs when the text on both sides does.
    """
    if not kept:
        return kept
    nodes, blocks = page.nodes, page.blocks
    root = _around(page, kept[0], kept[-1])
    first, end = nodes[root].first_block, nodes[root].end_block
    chosen = set(kept)
    found: list[int] = []
    waiting: list[int] = []
    verdicts = {root: True}
    before = False
    for index in range(first, end):
        block = blocks[index]
        if index in chosen:
            if waiting:
                waiting = _telling(page, waiting)
                found.extend([i for i in waiting if blocks[i].images or (before and found)])
                waiting = []
            before = True
            found.append(index)
        elif block.chars:
            if before and waiting:
                found.extend(i for i in _telling(page, waiting) if blocks[i].images)
            waiting = []
            before = False
        elif _belongs(page, block.node, verdicts):
            waiting.append(index)
    if before:
        found.extend(i for i in _telling(page, waiting) if blocks[i].images)
    return found


def _telling(page: Outline, waiting: list[int]) -> list[int]:
    """Blocks without text in a row, without a wall of logos: many pictures that say nothing."""
    pictures = [i for i in waiting if page.blocks[i].images]
    if len(pictures) < _WALL:
        return waiting
    names = {
        part[2]
        for i in pictures
        for part in page.blocks[i].parts
        if not isinstance(part, str) and part[0] == "img" and part[2]
    }
    if 2 * len(names) >= len(pictures):
        return waiting
    return [i for i in waiting if not page.blocks[i].images]


def _around(page: Outline, first: int, last: int) -> int:
    """The smallest element that holds both blocks."""
    nodes = page.nodes
    index = page.blocks[first].node
    while (
        nodes[index].parent >= 0 and not nodes[index].first_block <= last < nodes[index].end_block
    ):
        index = nodes[index].parent
    if nodes[index].tag in ("p", "li", "ul", "ol", "tr") or first == last:
        index = max(nodes[index].parent, 0)
    return index


def _belongs(page: Outline, index: int, verdicts: dict[int, bool]) -> bool:
    """Whether no element up to the root is of another kind; each is asked once."""
    chain: list[int] = []
    while index >= 0 and index not in verdicts:
        chain.append(index)
        index = page.nodes[index].parent
    verdict = verdicts.get(index, False)
    for inner in reversed(chain):
        verdict = verdict and not page.nodes[inner].cues & _OTHER
        verdicts[inner] = verdict
    return verdict
