"""Which blocks of a page are its content.

Three steps on the flat arrays of `eventmesh_trio.pipeline.extract.outline`. Elements that call
themselves navigation, advertising and the like are struck out. What is left is weighed block by
block (long text, punctuation, few links), weight is handed up to the elements around it, and the
element that gathers the most is the root; where it holds too little of the page's good text, the
root is widened. Inside the root, groups that are mostly links go.

A second, lenient pass runs when the first leaves next to nothing: a page whose content sits under a
misleading class name.
"""

import re
from itertools import accumulate
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.cues import ASIDE, COMMENTS, CONTENT, MAIN, NOISE, NOTE
from eventmesh_trio.pipeline.extract.outline import Block, Node, Outline

__all__ = ["Selection", "is_prose", "select", "select_all"]

_HEADINGS: Final = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_SENTENCE: Final = re.compile(r"[.!?…:;。！？।؟][\"'”’»)\]]*(?:\s|$)|[,،、，]\s?")
_LINK_LIMIT: Final = 0.5
_SHORT_CHARS: Final = 250
_COVERED: Final = 0.75
_THIN_CHARS: Final = 600
_INDEX_SHARE: Final = 0.1
_INDEX_CHARS: Final = 1500


@attrs.frozen
class Selection:
    """The blocks that are content, in order, and how that was found."""

    kept: list[int]
    root: int
    method: str  # "main-content", "lenient", "whole-page" or "none"
    coverage: float  # share of the page's good text that was kept, 0-1
    link_density: float  # of what was kept, 0-1


def select(page: Outline, *, forum: bool = False) -> Selection:
    """Find the main content. ``forum``: the page says that its comments are its content."""
    first = _pass(page, lenient=False, comments=forum)
    chars = _chars(page, first.kept)
    if not forum and chars < _THIN_CHARS:
        other = _pass(page, lenient=False, comments=True)
        if _chars(page, other.kept) > 3 * chars:
            first, chars = other, _chars(page, other.kept)
    index = _index(page, chars)
    if index is not None:
        return index
    if chars >= _SHORT_CHARS:
        return first
    second = _pass(page, lenient=True, comments=True)
    if _chars(page, second.kept) > 2 * chars:
        return second
    if first.kept:
        return first
    struck = _strike(page, lenient=False, comments=True)
    kept = [i for i, block in enumerate(page.blocks) if block.chars and not struck[i]]
    return Selection(kept, 0, "whole-page" if kept else "none", 1.0, _link_density(page, kept))


def _chars(page: Outline, kept: list[int]) -> int:
    return sum(page.blocks[i].chars for i in kept)


def _index(page: Outline, found_chars: int) -> Selection | None:
    """For a page whose content is links (a list of stories, of products): all but the noise.

    Told by how little of what is not noise the search for prose could keep.
    """
    nodes = page.nodes
    if not nodes:
        return None
    struck = _strike(page, lenient=False, comments=True)
    root = 0
    for number, node in enumerate(nodes):
        if (node.tag == "main" or node.attributes.get("role") == "main") and page.chars(
            node
        ) >= 0.3 * page.chars(nodes[0]):
            root = number
            break
    region = nodes[root]
    kept = [
        i
        for i in range(region.first_block, region.end_block)
        if not struck[i] and page.blocks[i].chars
    ]
    chars = _chars(page, kept)
    if chars < _SHORT_CHARS or found_chars >= min(_INDEX_SHARE * chars, _INDEX_CHARS):
        return None
    return Selection(kept, root, "index", 1.0, _link_density(page, kept))


def select_all(page: Outline) -> Selection:
    """Keep every visible block."""
    kept = list(range(len(page.blocks)))
    return Selection(kept, 0, "whole-page" if kept else "none", 1.0, _link_density(page, kept))


def is_prose(block: Block) -> bool:
    """Whether a block reads like sentences."""
    return block.chars >= 25 and _SENTENCE.search(block.text) is not None


def _link_density(page: Outline, kept: list[int]) -> float:
    chars = sum(page.blocks[i].chars for i in kept)
    return sum(page.blocks[i].link_chars for i in kept) / chars if chars else 0.0


def _pass(page: Outline, *, lenient: bool, comments: bool) -> Selection:
    nodes, blocks = page.nodes, page.blocks
    if not blocks:
        return Selection([], 0, "none", 0.0, 0.0)
    struck = _strike(page, lenient=lenient, comments=comments)
    weights = [0.0 if struck[i] else _weight(block) for i, block in enumerate(blocks)]
    before = [0.0, *accumulate(weights)]
    total = before[-1]
    if total <= 0:
        return Selection([], 0, "none", 0.0, 0.0)
    root = _best(page, weights)

    def covered(index: int) -> float:
        node = nodes[index]
        return (before[node.end_block] - before[node.first_block]) / total

    while nodes[root].parent >= 0 and covered(root) < _COVERED:
        root = nodes[root].parent
    node = nodes[root]
    keep = _prune(page, root, struck)
    kept = [i for i in range(node.first_block, node.end_block) if keep[i]]
    kept = _trim(page, kept)
    method = "lenient" if lenient else ("main-content" if nodes[root].parent >= 0 else "whole-page")
    return Selection(
        kept, root, method, sum(weights[i] for i in kept) / total, _link_density(page, kept)
    )


def _strike(page: Outline, *, lenient: bool, comments: bool) -> list[bool]:
    """Blocks inside elements that are noise by their own account."""
    struck = [False] * len(page.blocks)
    total = page.chars_before[-1] or 1
    index = 0
    nodes = page.nodes
    while index < len(nodes):
        node = nodes[index]
        if index and _is_noise(page, node, total, lenient, comments):
            for i in range(node.first_block, node.end_block):
                struck[i] = True
            index = node.end_node
        else:
            index += 1
    return struck


def _is_noise(page: Outline, node: Node, total: int, lenient: bool, comments: bool) -> bool:
    cues = node.cues
    tag = node.tag
    if tag in ("body", "html", "main"):
        return False
    share = page.chars(node) / total
    if tag in ("nav", "menu"):
        return share < 0.6
    if tag == "footer":
        return share < 0.4
    if lenient:
        return False
    if share > 0.45:
        return False
    if tag == "header":
        return not _inside(page, node, ("article", "main"))
    if tag == "form":
        return share < 0.3
    if cues & COMMENTS and not comments:
        return share < 0.4
    if cues & NOISE:
        return not cues & MAIN
    if cues & ASIDE:
        return not cues & NOTE
    return False


def _inside(page: Outline, node: Node, tags: tuple[str, ...]) -> bool:
    parent = node.parent
    while parent >= 0:
        if page.nodes[parent].tag in tags:
            return True
        parent = page.nodes[parent].parent
    return False


def _weight(block: Block) -> float:
    chars = block.chars
    if not chars:
        return 0.0
    density = block.link_chars / chars
    if density > _LINK_LIMIT or block.tag in _HEADINGS:
        return 0.0
    text = chars - block.link_chars
    if text < 25:
        return 0.0
    if text < 80 and _SENTENCE.search(block.text) is None:
        return text * 0.3
    return text * (1.0 - density)


def _best(page: Outline, weights: list[float]) -> int:
    nodes = page.nodes
    scores: dict[int, float] = {}
    for i, weight in enumerate(weights):
        if weight < 25:
            continue
        block = page.blocks[i]
        points = 1.0 + len(_SENTENCE.findall(block.text)) * 0.5 + min(weight / 100, 3.0)
        index = block.node
        if nodes[index].tag not in ("div", "section", "article", "main", "body", "td"):
            index = nodes[index].parent
        level = 0
        while index >= 0 and level < 5:
            scores[index] = scores.get(index, 0.0) + (
                points if level == 0 else points / 2 if level == 1 else points / (level * 3)
            )
            index = nodes[index].parent
            level += 1
    return max(scores, key=lambda index: _standing(page, index, scores[index]), default=0)


def _standing(page: Outline, index: int, score: float) -> float:
    """A node's points, by what it calls itself and how much of it is links."""
    node = page.nodes[index]
    factor = 1.25 if node.cues & (CONTENT | MAIN) else 1.0
    if node.cues & (NOISE | COMMENTS):
        factor *= 0.7
    chars = page.chars(node)
    return score * factor * (1.0 - min(page.link_chars(node) / chars, 1.0) if chars else 1.0)


def _prune(page: Outline, root_index: int, struck: list[bool]) -> list[bool]:
    """Inside the root: strike groups that are mostly links, and blocks that are only links."""
    nodes = page.nodes
    root = nodes[root_index]
    keep = [False] * len(page.blocks)
    for i in range(root.first_block, root.end_block):
        keep[i] = not struck[i] and page.blocks[i].chars > 0
    index = root_index + 1
    while index < root.end_node:
        node = nodes[index]
        if node.tag in ("ul", "ol", "div", "section", "table", "dl", "p", "aside"):
            chars = page.chars(node)
            density = page.link_chars(node) / chars if chars else 0.0
            if chars and density > 0.6 and chars < 0.5 * page.chars(root):
                for i in range(node.first_block, node.end_block):
                    keep[i] = False
                index = node.end_node
                continue
        index += 1
    return keep


def _trim(page: Outline, kept: list[int]) -> list[int]:
    """Take headings off the end: what they announced was left out."""
    while kept and page.blocks[kept[-1]].tag in _HEADINGS:
        kept.pop()
    return kept
