"""A tree to flat arrays: one walk, after which everything about a page is slices of lists.

The page becomes *blocks* (a paragraph, a heading, a cell, a run of text between two block
boundaries) in document order, and *nodes* (the elements that can hold blocks), each knowing the
slice of blocks and of nodes inside it. All sums over a part of the page are differences of prefix
sums. The walk keeps its own stack: no nesting can exhaust Python's.
"""

from collections.abc import Set
from itertools import accumulate
from typing import Final

from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.page.blocks import Block, Mark, Node, Outline
from eventmesh_trio.pipeline.extract.page.walk import Noise, Walk

__all__ = ["Block", "Mark", "Node", "Outline", "outline"]

_FRAME_LIMIT: Final = 0.4
"""Of a page's characters: from there on a navigation or footer may be what the page is about."""


def outline(
    root: LexborNode | None,
    *,
    noscript: bool = False,
    skim: bool = False,
    noise: Noise | None = None,
    signed: bool = False,
) -> Outline:
    """Walk a tree (the ``body`` element, usually) once. Hidden and non-text content is left out.

    Hidden is what ``hidden``, ``aria-hidden`` or an inline style say; style sheets are not read.

    Args:
      noscript: walk into ``<noscript>`` too.
      skim: take each navigation and footer for one block (`Outline.skimmed`), which is good for
        its length and nothing else. Where one is much of the page, none is.
      noise: likewise short elements that call themselves noise, comments or an aside and are noise
        by this, but for those around an ``h1``: for pages that show nothing of them.
    """
    if root is None:
        return Outline([], [], [0], [0], [])
    around = _around_headings(root) if noise is not None else frozenset[int]()
    page = _walked(root, noscript, skim, noise, around, signed)
    if any(page.blocks[i].chars >= _FRAME_LIMIT * page.chars_before[-1] for i in page.skimmed):
        del page  # or there would be two of a page of megabytes
        page = _walked(root, noscript, False, None, around, signed)
    return page


def _around_headings(root: LexborNode) -> Set[int]:
    """The parser's numbers of the elements that hold a first heading, each looked at once."""
    around: set[int] = set()
    for heading in root.css("h1"):
        node = heading.parent
        while node is not None and node.mem_id not in around:
            around.add(node.mem_id)
            node = node.parent
    return around


def _walked(
    root: LexborNode,
    noscript: bool,
    skim: bool,
    noise: Noise | None,
    around: Set[int],
    signed: bool,
) -> Outline:
    walk = Walk(noscript=noscript, skim=skim, noise=noise, around=around, signed=signed)
    walk.run(root)
    blocks = walk.blocks
    return Outline(
        blocks,
        walk.nodes,
        [0, *accumulate([block.chars for block in blocks])],
        [0, *accumulate([block.link_chars for block in blocks])],
        walk.skimmed,
        walk.has_skimmed_noise,
        walk.telling,
        walk.marked,
        walk.signed,
    )
