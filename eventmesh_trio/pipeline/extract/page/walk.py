"""The one walk over a tree that makes the arrays of an outline.

It keeps its own stack: no nesting can exhaust Python's. It is the longest loop of an extraction, a
few thousand turns a page, and written accordingly: what most nodes need is in `Walk.run` itself.
One module although it is long: every step of it moves the same state, from one block to the next.
"""

import re
from collections.abc import Callable, Set
from typing import Final

from selectolax.lexbor import LexborNode

from eventmesh_trio.pipeline.extract.page.attributes import (
    MAX_ADDRESS_CHARS,
    image_source,
    is_gutter,
    is_hidden,
    is_tiny,
)
from eventmesh_trio.pipeline.extract.page.blocks import Block, Mark, Node
from eventmesh_trio.pipeline.extract.page.cues import (
    ASIDE,
    COMMENTS,
    CUES_SEEN,
    FRAME,
    MAIN,
    NOISE,
    NOTE,
    SIGNED,
    cues_of,
    cues_of_attributes,
    cues_of_names,
)
from eventmesh_trio.pipeline.extract.page.elements import (
    LEAF,
    LINK,
    MARKED,
    MARKING,
    NODE,
    PLAIN_INLINE,
    TAGS_SEEN,
    TEXT_ID,
    meet,
)
from eventmesh_trio.pipeline.extract.page.formulas import formula

__all__ = ["Noise", "Walk", "is_beside"]

Noise = Callable[[Node], bool]
"""Whether an element that calls itself noise, comments or an aside is that, by all it says."""

_LIGHT_STYLE: Final = re.compile(r"font-weight\s*:\s*(?:normal|[1-4]00)\b", re.IGNORECASE)
_MAX_MARKS: Final = 16
"""Emphasis and links that are open where a block begins, and are repeated in it. Emphasis has six
kinds; hundreds inside each other would be repeated in every block."""
_SKIMMED: Final = FRAME | NOISE | COMMENTS | ASIDE
_NOT_SKIMMED: Final = MAIN | NOTE
_MAX_FRAME_CHARS: Final = 2500
"""Of a navigation or footer that is skimmed: a longer one may be much of the page, which then would
have to be walked once more."""
_MAX_NOISE_CHARS: Final = 1500
"""Of an element that is skimmed for its name: a longer one may be more than it is called."""
_MAX_VAIN_CHARS: Final = 100_000
"""Of elements that proved to be longer; they can be inside each other, and are read each time."""
_MAX_SIGNED: Final = 400
"""Elements called an author or a date, in the page's order: what it says of itself stands first."""


def is_beside(node: Node) -> bool:
    """Whether an element calls itself noise, comments or an aside, and not also content."""
    return not node.cues & _NOT_SKIMMED


class Walk:
    """The state of one walk.

    Args:
      noscript: go into ``<noscript>`` too.
      skim: make one block of all that is in a navigation or a footer; ``skimmed`` tells which.
      noise: with it, likewise of what calls itself noise, comments or an aside, is not long, and is
        noise by this...
      around: ...but for these elements, by the parser's numbers.
      signed: gather the elements that call themselves an author or a date.
    """

    def __init__(
        self,
        *,
        noscript: bool,
        skim: bool,
        noise: Noise | None,
        around: Set[int],
        signed: bool = False,
    ) -> None:
        self.signing = signed
        self.signed: list[LexborNode] = []
        self.noscript = noscript
        self.skim = skim
        self.noise = noise
        self.around = around
        self.vain_chars = 0
        self.skimmed: list[int] = []
        self.has_skimmed_noise = False
        self.telling: list[int] = []
        self.marked: list[int] = []
        self.blocks: list[Block] = []
        self.nodes: list[Node] = []
        self.current = -1
        self.parts: list[str | Mark] = []
        self.link_chars = 0
        self.links = 0
        self.images = 0
        self.in_link = 0
        self.open_marks: list[Mark] = []
        self.pre = 0
        self.line_open = False  # in preformatted text: something stands on the current line
        self.has_text = self.has_break = False

    def run(self, root: LexborNode) -> None:  # noqa: PLR0915  # a call costs a tenth of a node
        tags = TAGS_SEEN[self.noscript].copy()
        blocks, nodes = self.blocks, self.nodes
        skimmed = (FRAME if self.noise is None else _SKIMMED) if self.skim else 0
        signing, signed = self.signing, self.signed
        seen = CUES_SEEN.get
        attributes = root.attributes
        tag = root.tag or "body"
        cues = cues_of(tag, attributes)
        nodes.append(Node(tag, -1, cues, attributes, 0))
        if cues:
            self.telling.append(0)
        self.marked.append(0)
        self.current = 0
        # Elements that were entered, and what `close` is to do; None: end a node, as mostly.
        stack: list[tuple[LexborNode, str | None]] = []
        node = root.first_child
        while True:
            if node is None:
                if not stack:
                    break
                node, opened = stack.pop()
            else:
                number = node.tag_id
                if number == TEXT_ID:
                    if self.pre:
                        self.add_text(node.text_content or "")
                    # Two thirds of all text are the white space between tags.
                    elif self.has_text:
                        text = node.text_content or ""
                        self.parts.append(text)
                        if self.in_link:
                            self.link_chars += len(text.strip())
                    elif not node.is_empty_text_node:
                        self.add_text(node.text_content or "")
                    node = node.next
                    continue
                try:
                    kind, tag, cues = tags[number]
                except KeyError:
                    kind, tag, cues = tags[number] = meet(node, noscript=self.noscript)
                if kind < NODE:
                    if kind == LEAF:
                        self.add_leaf(tag, node)
                    node = node.next
                    continue
                attributes = node.attributes
                if attributes:
                    # As two of three have: then they are shown. A selector that looks for the
                    # others takes 0.1 ms a page, and a call for each half of what the names do.
                    has_class_only = len(attributes) == 1 and "class" in attributes
                    if (
                        not has_class_only
                        and (
                            "style" in attributes
                            or "hidden" in attributes
                            or "aria-hidden" in attributes
                        )
                        and is_hidden(attributes)
                    ):
                        if tag == "span":
                            self.add_hidden_math(node, attributes)
                        node = node.next
                        continue
                    if (self.pre or tag == "td") and is_gutter(node, attributes):
                        node = node.next
                        continue
                if kind != NODE or self.pre:
                    if signing and (attributes or cues):
                        # An inline element: what its class says is not asked for otherwise.
                        if attributes:
                            names = attributes.get("class")
                            if names:
                                known = seen(names)
                                cues |= cues_of_names(names) if known is None else known
                            if kind == LINK and "uthor" in (attributes.get("href") or ""):
                                cues = SIGNED
                        if cues & SIGNED:
                            signed.append(node)
                            signing = len(signed) < _MAX_SIGNED
                    if kind == PLAIN_INLINE:
                        opened = ""
                    elif kind == LINK:
                        opened = self.open_link(attributes)
                    elif kind == MARKING:
                        opened = self.open_mark(tag, attributes)
                    else:
                        opened = self.open_line(tag)
                else:
                    number = len(nodes)
                    if attributes:
                        if has_class_only:
                            names = attributes["class"] or ""
                            known = seen(names)
                            cues |= cues_of_names(names) if known is None else known
                        else:
                            cues |= cues_of_attributes(attributes)
                            self.marked.append(number)
                    if self.parts:
                        self.flush()
                    begun = Node(tag, self.current, cues, attributes, len(blocks))
                    nodes.append(begun)
                    if cues:
                        self.telling.append(number)
                        if signing and cues & SIGNED:
                            signed.append(node)
                            signing = len(signed) < _MAX_SIGNED
                        if cues & skimmed and self.skim_over(node, number, begun):
                            begun.end_block = len(blocks)
                            begun.end_node = number + 1
                            node = node.next
                            continue
                    self.current = number
                    opened = None
                    if tag == "pre":
                        self.pre = 1
                        opened = "pre"
                child = node.first_child
                # Two of five have one text and nothing else: these need no place on the stack.
                if child is not None and child.tag_id == TEXT_ID and not self.pre:
                    if self.has_text or not child.is_empty_text_node:
                        text = child.text_content or ""
                        if self.has_text or not text.isspace():  # `add_text`, without a call
                            self.parts.append(text)
                            self.has_text = True
                            if self.in_link:
                                self.link_chars += len(text.strip())
                    child = child.next
                if child is not None:
                    stack.append((node, opened))
                    node = child
                    continue
            if opened is None:
                if self.parts:
                    self.flush()
                ended = nodes[self.current]
                ended.end_block = len(blocks)
                ended.end_node = len(nodes)
                self.current = ended.parent
            elif opened == "a":
                self.close_link()
            elif opened:
                self.close(opened)
            node = node.next
        self.close_node()

    def skim_over(self, element: LexborNode, number: int, node: Node) -> bool:
        """Make one block of what is not to be shown; False, and nothing done, if it may be.

        A quarter of a page's blocks are in navigation and footers: that is 0.2 ms of 1.7. As many
        nodes of an article's page are in other noise.
        """
        if self.open_marks or self.vain_chars > _MAX_VAIN_CHARS:
            return False
        is_frame = node.cues & FRAME
        if not is_frame and (
            self.noise is None or not self.noise(node) or element.mem_id in self.around
        ):
            return False
        text = " ".join(element.text(separator=" ", skip_empty=True).split())
        chars = len(text)
        # The gate measures whole pages: for it navigations are of one kind, however long.
        exempt = is_frame and self.noise is None
        if not exempt and chars > (_MAX_FRAME_CHARS if is_frame else _MAX_NOISE_CHARS):
            self.vain_chars += chars
            return False
        self.has_skimmed_noise = self.has_skimmed_noise or not is_frame
        if text:
            linked = [len(link.text().strip()) for link in element.css("a")]
            self.skimmed.append(len(self.blocks))
            self.blocks.append(
                Block(text, [text], chars, min(sum(linked), chars), len(linked), number, node.tag)
            )
        return True

    def open_link(self, attributes: dict[str, str | None]) -> str:
        """Enter a link or an anchor; return the word by which `close` will know what to do."""
        href = attributes.get("href")
        anchor = attributes.get("id") or attributes.get("name") or ""
        if href is None:
            if anchor:
                self.parts.append(("id", anchor, ""))
            return ""
        if len(href) > MAX_ADDRESS_CHARS:
            href = ""
        self.in_link += 1
        self.links += 1
        mark = ("a", href, anchor)
        self.open_marks.append(mark)
        self.parts.append(mark)
        return "a"

    def open_mark(self, tag: str, attributes: dict[str, str | None]) -> str:
        """Enter another inline element that leaves a trace."""
        if self.pre:
            if tag == "code" and attributes:
                names = attributes.get("class") or ""
                language = attributes.get("data-lang") or attributes.get("data-language")
                if language:
                    names = f"language-{language} {names}"
                if names:
                    self.parts.append(("lang", names, ""))
            return ""
        name = MARKED.get(tag)
        if name is None:
            return self.open_quoted(tag)
        if name == "b" and _LIGHT_STYLE.search(attributes.get("style") or "") is not None:
            return ""  # pasted from word processors: a wrapper that is bold by name only
        mark = (name, "", "")
        if mark in self.open_marks:
            return ""  # bold in bold is bold; and every block repeats the marks that are open
        self.open_marks.append(mark)
        self.parts.append(mark)
        return name

    def open_line(self, tag: str) -> str:
        """Enter an element in preformatted text: a line, or highlighting."""
        if tag not in ("div", "p", "li", "tr"):
            return ""
        self.end_line()
        return "line"

    def close(self, what: str) -> None:
        if what == "pre":
            self.flush()
            self.pre = 0
            self.close_node()
        elif what == "line":
            self.end_line()
        elif what in ("”", ")"):
            self.parts.append(what)
        else:
            self.open_marks.pop()
            self.parts.append(("/" + what, "", ""))

    def open_quoted(self, tag: str) -> str:
        """Quotation marks and the reading above ideographs: characters that CSS draws."""
        self.parts.append("“" if tag == "q" else "(")
        return "”" if tag == "q" else ")"

    def close_link(self) -> None:
        self.in_link -= 1
        mark = self.open_marks.pop()
        parts = self.parts
        # The sign that links a heading to itself is no part of the heading.
        if len(parts) > 1 and mark[1][:1] == "#" and parts[-2] is mark:
            sign = parts[-1]
            if sign in ("¶", "\u200b") or (sign == "#" and self.nodes[self.current].tag[0] == "h"):
                del parts[-2:]
                self.links -= 1
                self.link_chars -= 1
                return
        parts.append(("/a", "", ""))

    def end_line(self) -> None:
        """In preformatted text: what follows is on a line of its own."""
        if self.line_open:
            self.parts.append("\n")
            self.line_open = False

    def close_node(self) -> None:
        if self.parts:
            self.flush()
        node = self.nodes[self.current]
        node.end_block = len(self.blocks)
        node.end_node = len(self.nodes)
        self.current = node.parent

    def add_leaf(self, tag: str, node: LexborNode) -> None:
        if tag == "br":
            self.add_break()
        elif tag in ("img", "amp-img"):
            self.add_image(node.attributes)
        elif tag == "hr":
            self.flush()
            self.parts = [("hr", "", "")]
            self.images = 1  # something to show, though no text
            self.flush(rule=True)
        elif tag == "math":
            self.add_math(node)
        elif tag == "mjx-container":
            math = node.css_first("math")
            if math is not None:
                self.add_math(math, display="display" in node.attributes)
        elif tag == "script":
            kind = node.attributes.get("type") or ""
            if kind.startswith("math/tex"):
                self.add_tex(node.text(deep=False).strip(), display="mode=display" in kind)
        elif not self.has_text and self.nodes[self.current].tag in ("li", "p"):
            attributes = node.attributes
            if attributes.get("type") == "checkbox":
                self.parts.append(("task", "x" if "checked" in attributes else "", ""))

    def add_hidden_math(self, node: LexborNode, attributes: dict[str, str | None]) -> None:
        """MediaWiki hides a formula's MathML beside a picture of it."""
        if "mwe-math-mathml" in (attributes.get("class") or ""):
            math = node.css_first("math")
            if math is not None:
                self.add_math(math)

    def add_math(self, node: LexborNode, *, display: bool = False) -> None:
        """A formula: its TeX where the page gives it, around the characters that are shown."""
        tex, shown = formula(node)
        self.add_tex(tex, shown, display=display or node.attributes.get("display") == "block")

    def add_tex(self, tex: str, shown: str | None = None, *, display: bool = False) -> None:
        shown = tex if shown is None or not shown.strip() else shown
        if tex and not self.pre:
            self.parts.append(("math", tex, "block" if display else ""))
            self.add_text(shown)
            self.parts.append(("/math", "", ""))
        else:
            self.add_text(shown)

    def add_text(self, text: str) -> None:
        if self.pre:
            if text:
                self.parts.append(text)
                self.line_open = text[-1] != "\n"
                self.has_text = self.has_text or not text.isspace()
                if self.in_link:
                    self.link_chars += len(text.strip())
            return
        if self.has_text or not text.isspace():
            self.parts.append(text)
            self.has_text = True
            if self.in_link:
                self.link_chars += len(text.strip())

    def add_break(self) -> None:
        if self.pre:
            self.parts.append("\n")
            self.line_open = False
            return
        # Two in a row end a paragraph, as they did before style sheets.
        for part in reversed(self.parts):
            if isinstance(part, str):
                if not part.isspace():
                    break
            elif part[0] == "br":
                self.flush()
                return
            elif part[0] in ("img", "math"):
                break
        self.parts.append(("br", "", ""))
        self.has_break = True

    def add_image(self, attributes: dict[str, str | None]) -> None:
        source = image_source(attributes)
        if not source or is_tiny(attributes) or is_hidden(attributes):
            return
        if "mwe-math" in (attributes.get("class") or ""):  # the picture of a formula
            return
        self.parts.append(("img", source, attributes.get("alt") or ""))
        self.images += 1

    def flush(self, *, rule: bool = False) -> None:
        """End the block, if there is one. ``rule``: it is a line across the page."""
        parts = self.parts
        if self.has_text or self.images:
            if self.pre:
                text = "".join([part for part in parts if isinstance(part, str)]).strip("\n")
                text = "\n".join([line.rstrip() for line in text.split("\n")])
            elif self.has_break:
                text = _lines(parts)
            else:
                first = parts[0]
                if len(parts) == 1 and isinstance(first, str):
                    text = first
                else:
                    text = "".join([part for part in parts if isinstance(part, str)])
                text = text.strip()
                # Three blocks of four then have single blanks only, and need not be taken apart.
                if "  " in text or not text.isprintable():
                    text = " ".join(text.split())
            if text or self.images:
                chars = len(text)
                linked = self.link_chars
                current = self.current
                self.blocks.append(
                    Block(
                        text,
                        parts,
                        chars,
                        linked if linked < chars else chars,
                        self.links,
                        current,
                        self.nodes[current].tag,
                        0 if rule else self.images,
                    )
                )
        self.parts = [*self.open_marks[-_MAX_MARKS:]] if self.open_marks else []
        self.link_chars = 0
        self.links = 1 if self.in_link else 0
        self.images = 0
        self.has_text = self.has_break = False


def _lines(parts: list[str | Mark]) -> str:
    """The text of a block in which there are line breaks."""
    joined = "".join(
        [part if isinstance(part, str) else "\x1f" if part[0] == "br" else "" for part in parts]
    )
    lines = (" ".join(line.split()) for line in joined.split("\x1f"))
    return "\n".join(line for line in lines if line)
