"""What is left out of a page, or of its main part: by its own account, or by what it looks like."""

import re
from bisect import bisect
from collections import Counter
from functools import lru_cache
from typing import Final

from eventmesh_trio.pipeline.extract.page.cues import (
    ASIDE,
    CAPTION,
    COMMENTS,
    DOUBTFUL,
    MAIN,
    MAX_NAMES_CHARS,
    NOISE,
    NOTE,
    SOURCES,
)
from eventmesh_trio.pipeline.extract.page.outline import Node, Outline
from eventmesh_trio.pipeline.extract.selection.prompts import is_prompt
from eventmesh_trio.pipeline.extract.selection.teasers import teasers

__all__ = ["HEADINGS", "prune", "strike"]

HEADINGS: Final = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_WHOLE: Final = frozenset(("body", "html", "main"))
_TELLING: Final = frozenset(("header", "form"))
_TELLING_CUES: Final = NOISE | COMMENTS | DOUBTFUL | ASIDE
_FRAMES: Final = frozenset(("header", "nav", "footer", "menu"))
_GROUPS: Final = frozenset(("ul", "ol", "div", "section", "table", "dl", "aside", "p"))
_CAPTIONED: Final = frozenset(("header", "figure"))
_IN_FIGURES: Final = frozenset(("table", "pre", "blockquote"))
_BODY_TAGS: Final = frozenset(
    ("h2", "h3", "h4", "li", "pre", "blockquote", "td", "th", "dt")
)  # what an article may begin with, however short

# Shares of the page's characters, above which an element is the page in spite of what it is called.
_NAV_LIMIT: Final = 0.6
_NAMED_LIMIT: Final = 0.45
_FOOTER_LIMIT: Final = 0.4
_COMMENTS_LIMIT: Final = 0.4
_FORM_LIMIT: Final = 0.3
# Likewise of the root's.
_LINKS_LIMIT: Final = 0.5
_CAPTION_LIMIT: Final = 0.3
_SOURCES_LIMIT: Final = 0.6

_PROSE_SHARE: Final = 0.5
"""Of an element's characters in running text: above it a doubtful name is taken for layout."""
_LINK_DENSITY: Final = 0.8
"""Of a group's characters in links: above it the group leads elsewhere."""
_LINKED_PARAGRAPHS: Final = 7
"""Of links only, side by side: a few lead away from the text, that many are what it is made of."""
_TITLE_CHARS: Final = 15
"""Of a paragraph of links: with fewer it names nothing, as "home" and "next" do not."""
_SOURCES: Final = re.compile(r"(?:^|[-_ ])(?:foot-?notes|end-?notes|sources)(?:$|[-_ ])")
_MANY_SOURCES: Final = 15
"""Items: notes of an author are fewer, lists of literature longer."""
_LEAD_BLOCKS: Final = 30
"""Within how many blocks an article begins; title, byline, date and share counts take a dozen."""
_PROSE_WEIGHT: Final = 60.0
_STANDFIRST_WEIGHT: Final = 25.0
"""Of a block that may be a standfirst, where `_PROSE_WEIGHT` is that of one that is certainly text;
in characters, less what is linked."""
_TAIL_ITEMS: Final = 3
"""So many items with links, or more, at the end of an article lead to others..."""
_TAIL_LINK_DENSITY: Final = 0.25
"""...where of each item more than that is a link: sentences with a link have less."""
_LABEL_CHARS: Final = 40
"""What is shorter, before such a list, announces it."""


def strike(
    page: Outline, prose: list[float], *, lenient: bool, comments: bool, article: bool = False
) -> list[bool]:
    """Blocks that are no content by the account of the elements around them.

    Args:
      prose: the blocks' weights, summed up to each (one more than there are blocks).
      lenient: only navigation and footers; names are not believed.
      comments: readers' comments are content.
      article: cards that lead to other pages are not.
    """
    struck = [False] * len(page.blocks)
    chars = page.chars_before
    total = chars[-1] or 1
    titled = _names_around_title(page)
    nodes = page.nodes
    article_end = 0  # nodes up to here are inside an article: a header there is its own
    end = 1  # nodes up to here are struck, or the root
    for index in page.telling:
        if index < end:
            continue
        node = nodes[index]
        tag = node.tag
        if node.cues & MAIN and tag in ("article", "main"):
            article_end = max(article_end, node.end_node)
        first, last = node.first_block, node.end_block
        share = (chars[last] - chars[first]) / total
        if tag == "header":
            noise = not lenient and index >= article_end and share < _NAMED_LIMIT
        elif node.cues & _TELLING_CUES or tag in _TELLING:
            noise = (tag in _FRAMES or node.attributes.get("class") not in titled) and _is_noise(
                page, node, prose, share, lenient, comments
            )
        else:
            noise = False
        if noise:
            _strike_node(struck, node)
            end = node.end_node
    if article:
        for index in teasers(page):
            _strike_node(struck, nodes[index])
    return struck


def _strike_node(struck: list[bool], node: Node) -> None:
    first, end = node.first_block, node.end_block
    struck[first:end] = [True] * (end - first)


def _names_around_title(page: Outline) -> frozenset[str | None]:
    """What the elements around the page's only ``h1`` are called: of these, none is noise."""
    found = -1
    for block in page.blocks:
        if block.tag == "h1" and block.chars:
            if found >= 0:
                return frozenset()
            found = block.node
    names: set[str | None] = set()
    while found >= 0:
        node = page.nodes[found]
        names.add(node.attributes.get("class"))
        found = node.parent
    names.discard(None)
    return frozenset(names)


def _is_noise(
    page: Outline, node: Node, prose: list[float], share: float, lenient: bool, comments: bool
) -> bool:
    cues, tag = node.cues, node.tag
    if tag in _WHOLE:
        return False
    if tag in ("nav", "menu"):
        return share < _NAV_LIMIT
    if tag == "footer":
        return share < _FOOTER_LIMIT
    if lenient or share > _NAMED_LIMIT:
        return False
    if tag == "form":
        return share < _FORM_LIMIT
    if cues & COMMENTS and not comments:
        return share < _COMMENTS_LIMIT
    if cues & NOISE:
        return not cues & MAIN
    if cues & DOUBTFUL and not cues & MAIN:
        written = prose[node.end_block] - prose[node.first_block]
        if written < _PROSE_SHARE * page.chars(node):
            return True
    return bool(cues & ASIDE) and not cues & NOTE


def prune(
    page: Outline, root_index: int, struck: list[bool], weights: list[float], *, article: bool
) -> list[int]:
    """The blocks of the root that are content: what is struck goes, and groups of links.

    ``article``: so do captions, the title and byline before the text, prompts within it, and the
    list of other articles after it.
    """
    nodes, blocks = page.nodes, page.blocks
    root = nodes[root_index]
    gone = struck.copy()
    whole = page.chars(root)
    inner = range(root_index + 1, root.end_node)
    groups = _linked_groups(page, inner)
    linked = Counter([nodes[i].parent for i in groups if nodes[i].tag == "p"])
    leading = {
        i
        for i in groups
        if page.chars(nodes[i]) < _LINKS_LIMIT * whole
        and not (
            nodes[i].tag == "p"
            and linked[nodes[i].parent] >= _LINKED_PARAGRAPHS
            and not (article and _leads_on(page, nodes[i]))
        )
    }
    if article:
        leading.update(_captions(page, inner, _CAPTION_LIMIT * whole))
        leading.update(_sources(page, inner, _SOURCES_LIMIT * whole))
    end = 0
    for index in sorted(leading):
        if index >= end:
            node = nodes[index]
            _strike_node(gone, node)
            end = node.end_node
    kept = [i for i in range(root.first_block, root.end_block) if not gone[i] and blocks[i].chars]
    if article:
        kept = kept[_lead(page, kept, weights) :]
        kept = [i for i in kept if not is_prompt(blocks[i], heading=blocks[i].tag in HEADINGS)]
        del kept[_without_tail(page, kept) :]
    while kept and blocks[kept[-1]].tag in HEADINGS:  # what they announced was left out
        kept.pop()
    return kept


def _linked_groups(page: Outline, inner: range) -> list[int]:
    """Of some nodes, the groups that are links."""
    chars, links = page.chars_before, page.link_chars_before
    return [
        index
        for index, node in enumerate(page.nodes[inner.start : inner.stop], inner.start)
        if node.tag in _GROUPS
        and (linked := links[node.end_block] - links[node.first_block])
        and linked > _LINK_DENSITY * (chars[node.end_block] - chars[node.first_block])
    ]


def _leads_on(page: Outline, node: Node) -> bool:
    """Whether a paragraph of links names another page of the same site: "read also"."""
    return any(
        part[0] == "a" and part[1][:1] == "/" and part[1][:2] != "//"
        for block in page.blocks[node.first_block : node.end_block]
        if block.chars >= _TITLE_CHARS
        for part in block.parts
        if not isinstance(part, str)
    )


def _sources(page: Outline, inner: range, limit: float) -> list[int]:
    """Of some nodes, long lists of literature. Few notes are the author's words, and stay."""
    nodes = page.nodes
    named = [
        index
        for index in page.telling_within(inner)
        if nodes[index].cues & SOURCES
        and (names := nodes[index].attributes.get("class"))
        and _are_sources_named(names[:MAX_NAMES_CHARS])
        and page.chars(nodes[index]) < limit
    ]
    if not named:  # as in most articles
        return []
    items = [index for index in inner if nodes[index].tag == "li"]
    return [
        index
        for index in named
        if bisect(items, nodes[index].end_node - 1) - bisect(items, index) >= _MANY_SOURCES
    ]


@lru_cache(maxsize=1024)
def _are_sources_named(names: str) -> bool:
    return _SOURCES.search(names.lower()) is not None


def _captions(page: Outline, inner: range, limit: float) -> list[int]:
    """Of some nodes, those that label a picture or the article, and pictures; none too long."""
    nodes = page.nodes
    found = []
    holders: list[int] | None = None  # tables and the like: what a figure holds may be content
    for index in page.telling_within(inner):
        node = nodes[index]
        if not (node.cues & CAPTION or node.tag in _CAPTIONED) or page.chars(node) >= limit:
            continue
        if node.tag == "figure" and not node.cues & CAPTION:
            if holders is None:
                holders = [i for i, holder in enumerate(nodes) if holder.tag in _IN_FIGURES]
            if bisect(holders, index) != bisect(holders, node.end_node - 1):
                continue
        found.append(index)
    return found


def _lead(page: Outline, kept: list[int], weights: list[float]) -> int:
    """How many blocks at the front are title, byline and date, and not yet the article."""
    blocks = page.blocks
    start = 0
    for position, i in enumerate(kept[:_LEAD_BLOCKS]):
        if blocks[i].tag == "h1":
            start = position + 1
        elif weights[i] >= _PROSE_WEIGHT:
            break
    else:
        return start
    for position in range(start, len(kept)):
        i = kept[position]
        if weights[i] > _STANDFIRST_WEIGHT or blocks[i].tag in _BODY_TAGS:
            return position
    return start


def _without_tail(page: Outline, kept: list[int]) -> int:
    """How many blocks there are before a list of links to other pages that ends them, if any."""
    blocks = page.blocks
    items = 0
    position = start = len(kept)
    while position:
        block = blocks[kept[position - 1]]
        if block.tag == "li" and block.link_chars > _TAIL_LINK_DENSITY * block.chars:
            items += 1
        elif not items or block.chars >= _LABEL_CHARS:
            break
        position -= 1
        start = position
    return start if items >= _TAIL_ITEMS else len(kept)
