"""A tree to flat arrays: one walk, after which everything about a page is slices of lists.

The page becomes *blocks* (a paragraph, a heading, a cell, a run of text between two block
boundaries) in document order, and *nodes* (the elements that can hold blocks), each knowing the
slice of blocks and of nodes inside it. All sums over a part of the page are differences of prefix
sums. The walk keeps its own stack: no nesting can exhaust Python's.
"""

import re
from itertools import accumulate
from typing import Final

import attrs
from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.cues import cues_of

__all__ = ["Block", "Mark", "Node", "Outline", "outline"]

Mark = tuple[str, str, str]
"""An inline event inside a block: a name (``a``, ``/a``, ``b``, ``br``, ``img``...), URL, text."""

_SKIPPED_WORDS: Final = """
    script style noscript template svg iframe object embed canvas audio video map head title
    select option optgroup datalist input textarea dialog frameset frame applet annotation
    annotation-xml source track param area base link meta progress meter rp
"""
_SKIPPED: Final = frozenset(_SKIPPED_WORDS.split())
_INLINE_WORDS: Final = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark q rt ruby
    s samp small span strike strong sub sup time tt u var nobr wbr picture slot output math
    mrow mi mo mn msup msub mfrac mtext msqrt semantics mstyle munder mover munderover mtable
    mtr mtd mspace msubsup
"""
_INLINE: Final = frozenset(_INLINE_WORDS.split())
_MARKED: Final = {
    "b": "b",
    "strong": "b",
    "i": "i",
    "em": "i",
    "code": "code",
    "kbd": "code",
    "samp": "code",
    "tt": "code",
    "del": "s",
    "s": "s",
    "strike": "s",
}
_HIDING_STYLE: Final = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


@attrs.define(eq=False)
class Block:
    """A run of inline content. ``text`` is what a reader sees, spaces collapsed but in ``pre``."""

    text: str
    parts: list[str | Mark]
    chars: int
    link_chars: int
    links: int
    node: int  # index of the innermost node around it
    tag: str  # of that node
    images: int = 0


@attrs.define(eq=False)
class Node:
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

    def chars(self, node: Node) -> int:
        """Visible characters inside a node."""
        return self.chars_before[node.end_block] - self.chars_before[node.first_block]

    def link_chars(self, node: Node) -> int:
        """Of these, the characters inside links."""
        return self.link_chars_before[node.end_block] - self.link_chars_before[node.first_block]


def outline(root: LexborNode | None, *, noscript: bool = False) -> Outline:
    """Walk a tree (the ``body`` element, usually) once. Hidden and non-text content is left out.

    ``noscript`` walks into ``<noscript>`` too. Hidden is what ``hidden``, ``aria-hidden`` or an
    inline style say; style sheets are not read.
    """
    walk = _Walk(_SKIPPED - {"noscript"} if noscript else _SKIPPED)
    if root is not None:
        walk.run(root)
    blocks = walk.blocks
    return Outline(
        blocks,
        walk.nodes,
        [0, *accumulate(block.chars for block in blocks)],
        [0, *accumulate(block.link_chars for block in blocks)],
    )


def _hidden(attributes: dict[str, str | None]) -> bool:
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") == "true":
        return True
    style = attributes.get("style")
    return bool(style) and _HIDING_STYLE.search(style) is not None  # type: ignore[arg-type]


class _Walk:
    """The state of the one walk; see `outline`."""

    def __init__(self, skipped: frozenset[str]) -> None:
        self.skipped = skipped
        self.blocks: list[Block] = []
        self.nodes: list[Node] = []
        self.current = -1
        self.parts: list[str | Mark] = []
        self.link_chars = 0
        self.links = 0
        self.images = 0
        self.in_link = 0
        self.link_mark: Mark = ("a", "", "")
        self.pre = 0
        self.has_text = False

    def run(self, root: LexborNode) -> None:
        attributes = root.attributes
        skipped = self.skipped
        self.open_node(root.tag or "body", attributes)
        stack: list[tuple[LexborNode, str]] = []
        node = root.child
        while True:
            if node is None:
                if not stack:
                    break
                node, closing = stack.pop()
                self.close(closing)
                node = node.next
                continue
            tag = node.tag or ""
            if tag == "-text":
                self.add_text(node.text_content or "")
            elif tag in skipped or tag[0] in "-_!":
                pass
            elif tag == "br":
                self.add_break()
            elif tag == "hr":
                self.flush()
            elif tag == "img":
                self.add_image(node.attributes)
            else:
                attributes = node.attributes
                if not (attributes and _hidden(attributes)):
                    stack.append((node, self.open(tag, attributes)))
                    node = node.child
                    continue
            node = node.next
        self.close_node()

    def open(self, tag: str, attributes: dict[str, str | None]) -> str:
        """Enter an element; return the word by which `close` will know what to do."""
        if tag in _INLINE:
            if tag == "a":
                href = attributes.get("href")
                if href is None:
                    return ""
                self.in_link += 1
                self.links += 1
                self.link_mark = ("a", href, "")
                self.parts.append(self.link_mark)
                return "a"
            if self.pre:
                if tag == "code" and attributes.get("class"):
                    self.parts.append(("lang", attributes["class"] or "", ""))
                return ""
            mark = _MARKED.get(tag)
            if mark is None:
                return ""
            self.parts.append((mark, "", ""))
            return mark
        if self.pre:  # markup inside preformatted text: lines as elements, and highlighting
            return "line" if tag in ("div", "p", "li", "tr") else ""
        self.flush()
        self.open_node(tag, attributes)
        if tag == "pre":
            self.pre += 1
            return "pre"
        return "node"

    def close(self, what: str) -> None:
        if what == "node":
            self.flush()
            self.close_node()
        elif what == "pre":
            self.flush()
            self.pre -= 1
            self.close_node()
        elif what == "a":
            self.in_link -= 1
            self.parts.append(("/a", "", ""))
        elif what == "line":
            self.parts.append("\n")
        elif what:
            self.parts.append(("/" + what, "", ""))

    def open_node(self, tag: str, attributes: dict[str, str | None]) -> None:
        parent = self.current
        self.current = len(self.nodes)
        self.nodes.append(Node(tag, parent, cues_of(tag, attributes), attributes, len(self.blocks)))

    def close_node(self) -> None:
        self.flush()
        node = self.nodes[self.current]
        node.end_block = len(self.blocks)
        node.end_node = len(self.nodes)
        self.current = node.parent

    def add_text(self, text: str) -> None:
        if self.has_text or not text.isspace():
            self.parts.append(text)
            self.has_text = True
            if self.in_link:
                self.link_chars += len(text.strip())

    def add_break(self) -> None:
        if self.pre:
            self.parts.append("\n")
            return
        # Two in a row end a paragraph, as they did before style sheets.
        for part in reversed(self.parts):
            if isinstance(part, str):
                if not part.isspace():
                    break
            elif part[0] == "br":
                self.flush()
                return
            else:
                break
        self.parts.append(("br", "", ""))

    def add_image(self, attributes: dict[str, str | None]) -> None:
        source = attributes.get("src") or ""
        if not source or source.startswith("data:"):  # a placeholder of a lazy loader
            source = attributes.get("data-src") or attributes.get("data-lazy-src") or ""
        if not source or source[:5].lower() == "data:" or _tiny(attributes):
            return
        self.parts.append(("img", source, attributes.get("alt") or ""))
        self.images += 1

    def flush(self) -> None:
        """End the block, if there is one."""
        parts = self.parts
        if not parts:
            return
        if self.has_text or self.images:
            if self.pre:
                text = "".join(part for part in parts if isinstance(part, str)).strip("\n")
                text = "\n".join(line.rstrip() for line in text.split("\n"))
            else:
                text = _visible(parts)
            if text or self.images:
                self.blocks.append(
                    Block(
                        text,
                        parts,
                        len(text),
                        min(self.link_chars, len(text)),
                        self.links,
                        self.current,
                        self.nodes[self.current].tag,
                        self.images,
                    )
                )
        self.parts = [self.link_mark] if self.in_link else []
        self.link_chars = 0
        self.links = 1 if self.in_link else 0
        self.images = 0
        self.has_text = False


def _visible(parts: list[str | Mark]) -> str:
    if any(part[0] == "br" for part in parts if not isinstance(part, str)):
        joined = "".join(
            part if isinstance(part, str) else "\x1f" if part[0] == "br" else "" for part in parts
        )
        lines = (" ".join(line.split()) for line in joined.split("\x1f"))
        return "\n".join(line for line in lines if line)
    return " ".join("".join([part for part in parts if isinstance(part, str)]).split())


def _tiny(attributes: dict[str, str | None]) -> bool:
    """Whether an image is a tracking pixel or an icon by its own width and height."""
    for name in ("width", "height"):
        value = attributes.get(name)
        if value and value.isdigit() and int(value) < 32:
            return True
    return False
