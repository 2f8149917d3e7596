"""Markdown (GFM) of the chosen blocks: headings, lists, quotes, code, tables, notes.

Written from the same blocks as the plain text, so the two never disagree. This module sees to the
blocks and what they stand in; what is inside a line is `inline`, and what is escaped `escaping`.

Definition lists are written as bold terms with ``: definition`` below, which GFM shows as one
paragraph and Markdown Extra as a definition list. ``<summary>`` is a bold paragraph (a heading, if
it has one) above what it opens.

Source: https://spec.commonmark.org/0.31.2/ and https://github.github.com/gfm/
"""

from typing import Final

from eventmesh_trio.pipeline.extract.markdown.escaping import (
    escape_block,
    escape_cell,
    escape_lines,
)
from eventmesh_trio.pipeline.extract.markdown.fences import code_of, fence
from eventmesh_trio.pipeline.extract.markdown.footnotes import find_footnotes, without_backlinks
from eventmesh_trio.pipeline.extract.markdown.inline import BOLD, InlineWriter
from eventmesh_trio.pipeline.extract.markdown.items import Items
from eventmesh_trio.pipeline.extract.markdown.places import Place, Places
from eventmesh_trio.pipeline.extract.markdown.signs import code_span
from eventmesh_trio.pipeline.extract.markdown.tables import render_table, rows_of
from eventmesh_trio.pipeline.extract.page.outline import Block, Mark, Outline
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["markdown"]

_NOTE_INDENT: Final = "    "
_BREAK_IN_CELL: Final = "<br>"


def markdown(page: Outline, kept: list[int], root: int, base: str | None) -> str:
    """Render blocks (their indexes, rising) as Markdown. ``base`` resolves relative links.

    What stands around the node ``root`` (a table that holds the whole page, say) is left out.
    """
    return _Writer(page, kept, root, base).write()


class _Writer:
    def __init__(self, page: Outline, kept: list[int], root: int, base: str | None) -> None:
        self.page = page
        self.kept = kept
        self.notes = find_footnotes(page, kept, base)
        self.inline = InlineWriter(base, self.notes.labels)
        self.items = Items(page)
        self.places = Places(page, root, self.notes, self.items)
        self.prefixes: dict[int, str] = {}  # of containers that have begun
        self.out: list[str] = []
        self.last_path: tuple[int, ...] = ()
        self.last_kind = ""
        self.last_term = -1

    def write(self) -> str:
        page, kept = self.page, self.kept
        position = 0
        while position < len(kept):
            index = kept[position]
            block = page.blocks[index]
            place = self.places.of(block.node)
            if place.table < 0:
                self.block(index, block, place)
                position += 1
                continue
            end = page.nodes[place.table].end_block
            start = position
            while position < len(kept) and kept[position] < end:
                position += 1
            self.table(place, kept[start:position])
        if self.last_kind == "rule":
            self.out[-2:] = []
        return "".join(self.out).strip("\n")

    # One block.

    def block(self, index: int, block: Block, place: Place) -> None:
        parts = block.parts
        path = place.path
        if self.notes.labels:
            if index in self.notes.blocks:
                path = (-index - 2,)
            if path and self.is_note(path[0]):
                parts = without_backlinks(
                    parts, self.inline.base, first=path[0] not in self.prefixes
                )
        if block.tag == "pre":
            self.emit(path, fence(block, self.page.nodes), "code")
        elif not block.chars and ("hr", "", "") in parts:
            if self.out and self.last_kind != "rule":
                self.emit(path, "***" if path else "---", "rule")
        elif place.heading:
            text = block.text if parts is block.parts else None
            content = self.inline.write(parts, uniform=True, hard_break=" ", text=text)
            self.emit(path, _heading(place.heading, content), "heading")
        elif place.summary or (place.term >= 0 and block.tag == "dt"):
            content = self.inline.write(parts, forced=BOLD)
            self.emit(path, content, "summary" if place.summary else "term", place.term)
        else:
            self.paragraph(block, parts, path, place.term)

    def paragraph(
        self, block: Block, parts: list[str | Mark], path: tuple[int, ...], term: int
    ) -> None:
        if "\n" in block.text:
            listing = _listing(parts)
            if listing is not None:
                self.emit(path, listing, "code")
                return
        text = block.text
        if parts is not block.parts:
            content = self.inline.write(parts)
        elif len(parts) == 1 and text.isprintable() and text:
            content = escape_block(text)  # half of all blocks are so
        else:
            content = self.inline.write(parts, text=text)
        if not content:
            return
        content = escape_lines(content)
        if path:
            for part in parts[:4]:
                if not isinstance(part, str) and part[0] == "task":
                    content = f"[{part[1] or ' '}] {content}"
                    break
        if term >= 0 and self.last_kind in ("term", "definition") and term != self.last_term:
            self.emit(path, f": {content}", "definition", term)
        else:
            self.emit(path, content, "paragraph")

    # Tables.

    def table(self, place: Place, kept: list[int]) -> None:
        page = self.page
        chosen = set(kept)
        rows = rows_of(page, place.table)
        for caption in rows.captions:
            for index in range(page.nodes[caption].first_block, page.nodes[caption].end_block):
                if index in chosen:
                    content = self.inline.write(page.blocks[index].parts)
                    self.emit(place.path, escape_lines(content) if content else "", "paragraph")
        content = render_table(
            rows,
            lambda node: self.cell(node, chosen),
            lambda node: self.is_bold(node, chosen),
        )
        self.emit(place.path, content, "table")

    def cell(self, node: int, chosen: set[int]) -> str:
        """A cell's blocks in one line; items of a list keep their signs."""
        nodes, blocks = self.page.nodes, self.page.blocks
        lines: list[str] = []
        begun = -1
        for index in range(nodes[node].first_block, nodes[node].end_block):
            if index not in chosen:
                continue
            block = blocks[index]
            if block.tag == "pre":
                lines.extend(code_span(line) for line in code_of(block).split("\n") if line.strip())
                continue
            content = self.inline.write(block.parts, hard_break=_BREAK_IN_CELL, text=block.text)
            if not content:
                continue
            item = block.node
            while item > node and nodes[item].tag != "li":
                item = nodes[item].parent
            if item > node and item != begun:
                begun = item
                content = self.items.bullet(item) + content
            lines.append(content)
        return escape_cell(_BREAK_IN_CELL.join(lines))

    def is_bold(self, node: int, chosen: set[int]) -> bool:
        """Whether everything in a cell is bold, and there is something."""
        nodes, blocks = self.page.nodes, self.page.blocks
        some = False
        for index in range(nodes[node].first_block, nodes[node].end_block):
            if index in chosen:
                bold = 0
                for part in blocks[index].parts:
                    if not isinstance(part, str):
                        bold += (part[0] == "b") - (part[0] == "/b")
                    elif not part.isspace():
                        if not bold:
                            return False
                        some = True
        return some

    # Lines, and the signs before them.

    def emit(self, path: tuple[int, ...], content: str, kind: str, term: int = -1) -> None:
        """Put one block under its items and quotes."""
        if not content:
            return
        if not path and kind != "definition":  # most blocks stand in nothing
            self.out += ("\n\n", content) if self.out else (content,)
            self.last_path = path
            self.last_kind = kind
            self.last_term = term
            return
        if self.last_kind == "rule" and path and self.is_note(path[0]) and len(self.out) > 1:
            del self.out[-2:]  # notes are set apart without a rule
        last = self.last_path
        common = 0
        if path is last or path == last:
            common = len(path)
        else:
            shorter = min(len(path), len(last))
            while common < shorter and path[common] == last[common]:
                common += 1
        if self.out:
            if self.is_tight(path, common, kind):
                self.out.append("\n")
            else:
                between = "".join(self.prefixes[container] for container in path[:common])
                self.out.append(f"\n{between.rstrip()}\n")
        first = rest = ""
        for container in path:
            begun = self.prefixes.get(container)
            if begun is None:
                sign, begun = self.sign(container, path, common)
                self.prefixes[container] = begun
                first += sign
            else:
                first += begun
            rest += begun
        if "\n" not in content:
            self.out.append(first + content)
        elif not rest:
            self.out.append(content)
        else:
            lines = content.split("\n")
            blank = rest.rstrip()
            self.out.append(first + lines[0])
            self.out.extend(f"\n{rest}{line}" if line else f"\n{blank}" for line in lines[1:])
        self.last_path = path
        self.last_kind = kind
        self.last_term = term

    def is_tight(self, path: tuple[int, ...], common: int, kind: str) -> bool:
        """Whether no blank line goes before a block: it is the next item, or a definition."""
        last = self.last_path
        if kind == "definition":
            return path == last
        if common == len(path) or path[common] in self.prefixes or not self.is_item(path[common]):
            return False
        if common < len(last):
            return self.is_item(last[common]) and self.items.list_of(
                path[common]
            ) == self.items.list_of(last[common])
        # The first item of a list inside an item; a number but 1 would go on with the paragraph.
        return (
            common > 0
            and self.last_kind == "paragraph"
            and self.is_item(path[common - 1])
            and self.items.number(path[common]) in (None, 1)
        )

    def is_note(self, container: int) -> bool:
        return container < 0 or container in self.notes.nodes

    def is_item(self, container: int) -> bool:
        return not self.is_note(container) and self.page.nodes[container].tag == "li"

    def sign(self, container: int, path: tuple[int, ...], common: int) -> tuple[str, str]:
        """What begins the first line of a container, and each line after."""
        if container < 0:
            return f"[^{self.notes.blocks[-container - 2]}]: ", _NOTE_INDENT
        if container in self.notes.nodes:
            return f"[^{self.notes.nodes[container]}]: ", _NOTE_INDENT
        if not self.is_item(container):
            return "> ", "> "
        after = None
        if common < len(self.last_path) and path[common] == container:
            after = self.last_path[common]
        bullet = self.items.begin(
            container, after=after if after is not None and self.is_item(after) else None
        )
        return bullet, " " * len(bullet)


def _heading(level: int, content: str) -> str:
    if not content:
        return ""
    if content.endswith("#"):  # a closing sequence, if a space is before it
        head = content.rstrip("#")
        if not head or head[-1] == " ":
            content = f"{head}\\{content[len(head) :]}"
    return "#" * level + " " + content


def _listing(parts: list[str | Mark]) -> str | None:
    """Lines of code without ``<pre>``: a block that is all code, with breaks in it; else None."""
    depth = 0
    code: list[str] = []
    for part in parts:
        if isinstance(part, str):
            if depth:
                code.append(part.replace("\n", " "))
            elif not part.isspace():
                return None
        elif part[0] == "br":
            if not depth:
                return None
            code.append("\n")
        elif part[0] in ("code", "/code"):
            depth += 1 if part[0] == "code" else -1
        else:
            return None
    text = clean("".join(code)).replace("\xa0", " ").strip("\n")
    if not text.strip():
        return None
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    longest = max((len(run) for run in lines.split() if set(run) == {"`"}), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}\n{lines}\n{ticks}"
