"""A tree to flat arrays: one walk, after which everything about a page is slices of lists.

The page becomes *blocks* (a paragraph, a heading, a cell, a run of text between two block
boundaries) in document order, and *nodes* (the elements that can hold blocks), each knowing the
slice of blocks and of nodes inside it. All sums over a part of the page are differences of prefix
sums. The walk keeps its own stack: no nesting can exhaust Python's.
"""

from itertools import accumulate

from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.page.blocks import Block, Mark, Node, Outline
from eventmesh_trio.pipeline.extract.page.walk import Walk

__all__ = ["Block", "Mark", "Node", "Outline", "outline"]


def outline(root: LexborNode | None, *, noscript: bool = False) -> Outline:
    """Walk a tree (the ``body`` element, usually) once. Hidden and non-text content is left out.

    ``noscript`` walks into ``<noscript>`` too. Hidden is what ``hidden``, ``aria-hidden`` or an
    inline style say; style sheets are not read.
    """
    walk = Walk(noscript=noscript)
    if root is not None:
        walk.run(root)
    blocks = walk.blocks
    return Outline(
        blocks,
        walk.nodes,
        [0, *accumulate([block.chars for block in blocks])],
        [0, *accumulate([block.link_chars for block in blocks])],
    )
