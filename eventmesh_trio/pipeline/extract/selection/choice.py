"""Which selection a page gets: by its kind, and by how much the one for prose could find.

`eventmesh_trio.pipeline.extract.selection.scoring` looks for the one element that holds a piece of
prose. Where a page has none, that finds a part of it, or falls back on something weak. Such a page
is taken as a region, unless it says that it is an article.
"""

from typing import Final

from eventmesh_trio.pipeline.extract.page.cues import COMMENTS
from eventmesh_trio.pipeline.extract.page.outline import Outline
from eventmesh_trio.pipeline.extract.selection.kinds import Kind
from eventmesh_trio.pipeline.extract.selection.regions import link_density, select_region, strike
from eventmesh_trio.pipeline.extract.selection.scoring import Selection, select
from eventmesh_trio.pipeline.extract.selection.threads import select_thread

__all__ = ["choose", "choose_skimmed"]

_MIN_REGION_CHARS: Final = 200
_MIN_ARTICLE_CHARS: Final = 600
"""Of prose: below it comments are looked for, or names are not believed."""
_LIST_DENSITY: Final = 0.2
"""Link characters of all in the region: above it the links are the records of a list."""
_INDEX_DENSITY: Final = 0.5
"""Likewise, in what calls itself an article."""
_LINKS_DENSITY: Final = 0.7
"""Likewise: above it a page has nothing to say but its links."""
_PAGE_DENSITY: Final = 0.35
"""Of all characters of an article's page: below it the region is not looked at, to save time."""

# Of the region's characters, those that are in the prose, too.
_PART_SHARE: Final = 0.6  # below it the prose is a part of the page...
_PROSE_SHARE: Final = 0.75  # ...unless without links the region is hardly more than the prose
_LEAST_SHARE: Final = 0.2  # below it a page of links is that, though it calls itself an article
_SAME_SHARE: Final = 0.9  # above it the two differ by what frames a product

_WEAK: Final = frozenset(("index", "lenient", "whole-page", "none"))
_WEAK_FOR_ARTICLES: Final = _WEAK - {"lenient"}
_SURE_FOR_ARTICLES: Final = frozenset(("main-content",))
_SURE: Final = frozenset(("main-content", "region", "index"))
_WHOLE: Final = frozenset(("body", "html", "main", "article"))
_REGION_LEFT: Final = 0.5
_REGION_LEFT_OF_INDEX: Final = 0.1
"""Of what a weak way kept, comments apart: below it the content itself was taken for a frame. An
index keeps menus, which may be nine tenths of it."""


def choose(page: Outline, kind: Kind) -> Selection:
    """Select the content of a page of some kind."""
    if kind in ("forum", "topic"):
        thread = select_thread(page)
        if thread is not None:
            return thread
        if kind == "topic":
            kind = "article"
    prose = select(page, kind)
    weak = prose.method in (_WEAK_FOR_ARTICLES if kind == "article" else _WEAK)
    if kind == "article" and not weak and not _has_many_links(page):
        return prose
    struck = strike(page, posts=kind == "forum")
    density = link_density(page, struck)
    links = density >= _LIST_DENSITY
    region = select_region(page, struck.copy(), links=links)
    chars = _chars(page, region)
    if kind == "home" and chars >= _MIN_REGION_CHARS:
        return region
    if weak:
        left = _REGION_LEFT_OF_INDEX if prose.method == "index" else _REGION_LEFT
        content = _chars(page, prose) - _comment_chars(page)
        return region if chars and chars >= left * content else prose
    share = _share(page, region, prose)
    if kind == "article":
        return region if links and density >= _INDEX_DENSITY and share < _LEAST_SHARE else prose
    if chars < _MIN_REGION_CHARS:
        return prose
    if share < _PART_SHARE:
        if links and density < _LINKS_DENSITY:
            plain = select_region(page, struck, links=False)
            return region if _share(page, plain, prose) < _PROSE_SHARE else prose
        return region
    if kind == "product" and share >= _SAME_SHARE:
        return region if chars >= _REGION_LEFT * _chars(page, prose) else prose
    return prose


def choose_skimmed(page: Outline, kind: Kind) -> Selection | None:
    """Likewise of a page of which noise was skimmed only; None if the choice could be another when
    it is not."""
    chosen = choose(page, kind)
    if (
        chosen.method not in (_SURE_FOR_ARTICLES if kind == "article" else _SURE)
        or _chars(page, chosen) < _MIN_ARTICLE_CHARS
        or not set(page.skimmed).isdisjoint(chosen.kept)
    ):
        return None
    return chosen


def _has_many_links(page: Outline) -> bool:
    return page.link_chars_before[-1] >= _PAGE_DENSITY * page.chars_before[-1]


def _chars(page: Outline, selection: Selection) -> int:
    return sum([page.blocks[i].chars for i in selection.kept])


def _comment_chars(page: Outline) -> int:
    """What is in elements that call themselves comments, and are not the frame of all else."""
    chars = seen = 0
    for node in page.nodes:
        if node.cues & COMMENTS and node.first_block >= seen and node.tag not in _WHOLE:
            chars += page.chars(node)
            seen = node.end_block
    return chars


def _share(page: Outline, region: Selection, prose: Selection) -> float:
    """How much of the region is in the prose, 0-1."""
    found = set(prose.kept)
    chars = _chars(page, region)
    return sum([page.blocks[i].chars for i in region.kept if i in found]) / chars if chars else 1.0
