"""Which blocks of a page are its content.

Three steps on the flat arrays of `eventmesh_trio.pipeline.extract.page.outline`. Elements that call
themselves navigation, advertising and the like are struck out. What is left is weighed block by
block (long text, punctuation, few links), weight is handed up to the elements around it, and the
element that gathers the most is the root; where it holds too little of the page's good text, the
root is widened. What is left out inside the root is
`eventmesh_trio.pipeline.extract.selection.pruning`.

A second, lenient pass runs when the first leaves next to nothing: a page whose content sits under a
misleading class name.
"""

import re
from itertools import accumulate
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.page.cues import COMMENTS, CONTENT, MAIN, NOISE
from eventmesh_trio.pipeline.extract.page.outline import Block, Outline
from eventmesh_trio.pipeline.extract.selection.pruning import HEADINGS, prune, strike

__all__ = ["Selection", "is_prose", "select", "select_all"]

_SENTENCE: Final = re.compile(r"[.!?…:;。！？।؟,،、，](?:(?<=[,،、，])|[\"'”’»)\]]*(?:\s|$))")
"""A comma, or what ends a sentence and has white space behind it. All characters that it may begin
with are in one set, which `re` looks for at twice the speed that it has for an alternative."""
_LINK_LIMIT: Final = 0.5
"""Of a block's characters in links: above it the block is no text."""
_MIN_TEXT_CHARS: Final = 25
"""Below it a block is a label. Likewise in Readability, whose limit this was."""
_LINE_CHARS: Final = 80
"""A line of that many characters is text even without punctuation, as in a poem or a list."""
_LINE_SHARE: Final = 0.3
"""What a shorter line without punctuation weighs, of its characters: it may be a label."""
_COVERED: Final = 0.75
"""Of a page's good text, in its root. Below it other parts are taken in with the root, so a higher
value costs precision and a lower one recall: at 0.65 and at 0.85 F1 was 0.002 lower."""
_SHORT_CHARS: Final = 250
"""A result below it may be all there is, or a sign that a name misled: then names do not count."""
_THIN_CHARS: Final = 600
"""A result below it gives way to comments, if these are `_COMMENTS_FACTOR` times as long."""
_COMMENTS_FACTOR: Final = 3
_LENIENT_FACTOR: Final = 2
"""How much more must be found for names not to be believed: most of it is then new."""
_INDEX_SHARE: Final = 0.1
"""Of what is not noise, in the prose found: below it the page is a list of links."""
_INDEX_CHARS: Final = 1500
"""With more prose than that a page is no list of links, however many it has."""
_INDEX_MAIN_SHARE: Final = 0.3
"""Of the page's characters, in ``main``: below it that element holds something else."""
_DIVISORS: Final = (1, 2, 6, 9, 12)
"""Of a block's points: what goes to the element around it, to the one around that, and so on. Above
these, elements gather what does not belong together."""
_CONTAINERS: Final = frozenset(("div", "section", "article", "main", "body", "td"))


@attrs.frozen
class Selection:
    """The blocks that are content, in order, and how that was found."""

    kept: list[int]
    root: int
    method: str  # "main-content", "lenient", "whole-page" or "none"
    coverage: float  # share of the page's good text that was kept, 0-1
    link_density: float  # of what was kept, 0-1


def select(page: Outline, kind: str = "article") -> Selection:
    """Find the main content of a page.

    Args:
      kind: ``article``: what stands inside its text without being of it is left out; ``forum``:
        comments are content; any other: neither.
    """
    forum = kind == "forum"
    article = kind == "article"
    weights = [
        _weight(block) if block.chars - block.link_chars >= _MIN_TEXT_CHARS else 0.0
        for block in page.blocks
    ]
    prose = [0.0, *accumulate(weights)]
    first = _pass(page, weights, prose, lenient=False, comments=forum, article=article)
    chars = _chars(page, first.kept)
    # Without comments it would be the same pass once more.
    if not forum and chars < _THIN_CHARS and any(n.cues & COMMENTS for n in page.nodes):
        other = _pass(page, weights, prose, lenient=False, comments=True, article=article)
        if _chars(page, other.kept) > _COMMENTS_FACTOR * chars:
            first, chars = other, _chars(page, other.kept)
    index = _index(page, prose, chars)
    if index is not None:
        return index
    if chars >= _SHORT_CHARS:
        return first
    second = _pass(page, weights, prose, lenient=True, comments=True, article=article)
    if _chars(page, second.kept) > _LENIENT_FACTOR * chars:
        return second
    if first.kept:
        return first
    struck = strike(page, prose, lenient=False, comments=True)
    kept = [i for i, block in enumerate(page.blocks) if block.chars and not struck[i]]
    return Selection(kept, 0, "whole-page" if kept else "none", 1.0, _link_density(page, kept))


def _chars(page: Outline, kept: list[int]) -> int:
    return sum([page.blocks[i].chars for i in kept])


def _index(page: Outline, prose: list[float], found_chars: int) -> Selection | None:
    """For a page whose content is links (a list of stories, of products): all but the noise.

    Told by how little of what is not noise the search for prose could keep.
    """
    if found_chars >= _INDEX_CHARS or found_chars >= _INDEX_SHARE * page.chars_before[-1]:
        return None
    nodes = page.nodes
    if not nodes:
        return None
    struck = strike(page, prose, lenient=False, comments=True)
    root = 0
    for number, node in enumerate(nodes):
        if (node.tag == "main" or node.attributes.get("role") == "main") and page.chars(
            node
        ) >= _INDEX_MAIN_SHARE * page.chars(nodes[0]):
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
    return block.chars >= _MIN_TEXT_CHARS and _SENTENCE.search(block.text) is not None


def _link_density(page: Outline, kept: list[int]) -> float:
    chars = _chars(page, kept)
    return sum([page.blocks[i].link_chars for i in kept]) / chars if chars else 0.0


def _pass(
    page: Outline,
    weights: list[float],
    prose: list[float],
    *,
    lenient: bool,
    comments: bool,
    article: bool,
) -> Selection:
    nodes, blocks = page.nodes, page.blocks
    if not blocks:
        return Selection([], 0, "none", 0.0, 0.0)
    struck = strike(page, prose, lenient=lenient, comments=comments, article=article)
    weights = [0.0 if gone else weight for gone, weight in zip(struck, weights, strict=True)]
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
    kept = prune(page, root, struck, weights, article=article)
    method = "lenient" if lenient else ("main-content" if nodes[root].parent >= 0 else "whole-page")
    return Selection(
        kept, root, method, sum([weights[i] for i in kept]) / total, _link_density(page, kept)
    )


def _weight(block: Block) -> float:
    """Of a block with `_MIN_TEXT_CHARS` or more that are not linked."""
    chars = block.chars
    text = chars - block.link_chars
    density = block.link_chars / chars
    if density > _LINK_LIMIT or block.tag in HEADINGS:
        return 0.0
    if text < _LINE_CHARS and _SENTENCE.search(block.text) is None:
        return text * _LINE_SHARE
    return text * (1.0 - density)


def _best(page: Outline, weights: list[float]) -> int:
    nodes, blocks = page.nodes, page.blocks
    own: dict[int, float] = {}  # paragraphs side by side go up together
    for i, weight in enumerate(weights):
        if weight < _MIN_TEXT_CHARS:
            continue
        block = blocks[i]
        index = block.node
        if block.tag not in _CONTAINERS:
            index = nodes[index].parent
        points = 1.0 + len(_SENTENCE.findall(block.text)) * 0.5 + min(weight / 100, 3.0)
        own[index] = own.get(index, 0.0) + points
    scores: dict[int, float] = {}
    for container, points in own.items():
        index = container
        for divisor in _DIVISORS:
            if index < 0:
                break
            scores[index] = scores.get(index, 0.0) + points / divisor
            index = nodes[index].parent
    return max(scores, key=lambda index: _standing(page, index, scores[index]), default=0)


def _standing(page: Outline, index: int, score: float) -> float:
    """A node's points, by what it calls itself and how much of it is links."""
    node = page.nodes[index]
    factor = 1.25 if node.cues & (CONTENT | MAIN) else 1.0
    if node.cues & (NOISE | COMMENTS):
        factor *= 0.7
    first, end = node.first_block, node.end_block
    chars = page.chars_before[end] - page.chars_before[first]
    links = page.link_chars_before[end] - page.link_chars_before[first]
    return score * factor * (1.0 - min(links / chars, 1.0) if chars else 1.0)
