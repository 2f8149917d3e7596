"""Markdown of the chosen blocks: headings, lists, quotes, code, tables, links, images.

Written from the same blocks as the plain text, so the two never disagree. What the page says is
data: every character that Markdown or HTML would act on is escaped, and addresses pass
`eventmesh_trio.pipeline.extract.links.absolute`.

Source: https://spec.commonmark.org/0.31.2/ and GitHub's tables extension.
"""

import re
from typing import Final

from eventmesh_trio.pipeline.extract.links import absolute
from eventmesh_trio.pipeline.extract.outline import Block, Mark, Node, Outline
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["markdown"]

_SPECIAL: Final = re.compile(r"[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|<|(?<=\])\(")
_LINE_START: Final = re.compile(
    r"^(\s*)(#{1,6}(?=\s|$)|[-+](?=\s|$)|>|={2,}|-{2,}|\d{1,9}(?=[.)](?:\s|$)))", re.M
)
_SPACE: Final = re.compile(r"\s+")
_HREF: Final = str.maketrans(
    {"(": "%28", ")": "%29", "<": "%3C", ">": "%3E", " ": "%20", "\\": "%5C"}
)
_EMPHASIS: Final = {"b": "**", "i": "*", "s": "~~"}
_LANGUAGE: Final = re.compile(
    r"(?:language|lang|brush|highlight-source|highlight-text)[-:\s]+([\w+#-]{1,20})"
)
_MAX_TABLE_CELLS: Final = 20_000


def markdown(page: Outline, kept: list[int], root: int, base: str | None) -> str:
    """Render blocks (their indexes, rising) as Markdown. ``base`` resolves relative links."""
    return clean(_Writer(page, root, base).write(kept))


def _escape(text: str) -> str:
    return _SPECIAL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character == "<":
        return "&lt;"
    if character == "&":
        return "&amp;"
    return "\\" + character


def _start_escaped(match: re.Match[str]) -> str:
    if match[2][0].isdigit():
        return f"{match[1]}{match[2]}\\"
    return f"{match[1]}\\{match[2]}"


class _Writer:
    def __init__(self, page: Outline, root: int, base: str | None) -> None:
        self.page = page
        self.root = root
        self.base = base
        self.seen_items: set[int] = set()
        self.item_numbers: dict[int, int] = {}
        self.data_tables: dict[int, bool] = {}
        self.out: list[str] = []
        self.last_item = -1
        self.last_quotes: tuple[int, ...] = ()

    def write(self, kept: list[int]) -> str:
        position = 0
        while position < len(kept):
            block = self.page.blocks[kept[position]]
            path = self.path(block)
            table = next((index for index in path if self.is_data_table(index)), None)
            if table is None:
                self.emit(path, self.block(block))
                position += 1
                continue
            end = self.page.nodes[table].end_block
            cells = []
            while position < len(kept) and kept[position] < end:
                cells.append(kept[position])
                position += 1
            self.emit(path[: path.index(table)], self.table(table, cells))
        return "".join(self.out).strip("\n")

    def path(self, block: Block) -> list[int]:
        """The nodes that shape a block, outermost first."""
        found: list[int] = []
        index = block.node
        nodes = self.page.nodes
        while index > self.root or (index == self.root and index >= 0):
            if nodes[index].tag in ("li", "blockquote", "table"):
                found.append(index)
            index = nodes[index].parent
        found.reverse()
        return found

    def emit(self, path: list[int], content: str) -> None:
        """Put one block under its list items and quotes."""
        if not content:
            return
        nodes = self.page.nodes
        first = rest = blank = ""
        quotes: list[int] = []
        new_item = False
        item = -1
        for index in path:
            tag = nodes[index].tag
            if tag == "blockquote":
                first += "> "
                rest += "> "
                if index in self.last_quotes:
                    blank = rest
                quotes.append(index)
            elif tag == "li":
                item = index
                bullet = self.bullet(index)
                if index in self.seen_items:
                    first += " " * len(bullet)
                else:
                    self.seen_items.add(index)
                    first += bullet
                    new_item = True
                rest += " " * len(bullet)
        if self.out:
            tight = new_item and self.last_item >= 0 and item >= 0
            self.out.append("\n" if tight else f"\n{blank.rstrip()}\n")
        lines = content.split("\n")
        self.out.append(first + lines[0])
        self.out.extend(
            f"\n{(rest + line).rstrip() if not line else rest + line}" for line in lines[1:]
        )
        self.last_item = item
        self.last_quotes = tuple(quotes)

    def bullet(self, item: int) -> str:
        nodes = self.page.nodes
        parent = nodes[item].parent
        if parent < 0 or nodes[parent].tag != "ol":
            return "- "
        if item not in self.item_numbers:
            start = nodes[parent].attributes.get("start") or "1"
            first = int(start) if start.isascii() and start.isdigit() and len(start) < 9 else 1
            key = -parent - 1  # the list's own running number
            self.item_numbers[key] = self.item_numbers.get(key, first - 1) + 1
            self.item_numbers[item] = self.item_numbers[key]
        return f"{self.item_numbers[item]}. "

    def block(self, block: Block) -> str:
        tag = block.tag
        if tag == "pre":
            return self.code(block)
        content = self.inline(block.parts)
        if not content:
            return ""
        if tag[0] == "h" and tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            return "#" * int(tag[1]) + " " + content.replace("  \n", " ").rstrip("#").rstrip()
        content = _LINE_START.sub(_start_escaped, content)
        if tag == "dt":
            return f"**{content}**" if "*" not in content and "\n" not in content else content
        return content

    def code(self, block: Block) -> str:
        if not block.text:
            return ""
        names = [self.page.nodes[block.node].attributes.get("class") or ""]
        names += [
            part[1] for part in block.parts if not isinstance(part, str) and part[0] == "lang"
        ]
        match = _LANGUAGE.search(" ".join(names))
        longest = max((len(run) for run in re.findall(r"`+", block.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}{match[1] if match else ''}\n{block.text}\n{fence}"

    def inline(self, parts: list[str | Mark]) -> str:
        """Inline content; a mark that is opened elsewhere, or not closed here, does no harm."""
        frames: list[tuple[str, str, list[str]]] = [("", "", [])]
        for part in parts:
            if isinstance(part, str):
                text = _SPACE.sub(" ", part)
                frames[-1][2].append(text if frames[-1][0] == "code" else _escape(text))
                continue
            name, value, label = part
            if name == "br":
                frames[-1][2].append("  \n")
            elif name == "img":
                source = absolute(value, self.base)
                if source is not None and frames[-1][0] != "code":
                    alt = _escape(" ".join(label.split()))
                    frames[-1][2].append(f"![{alt}]({source.translate(_HREF)})")
            elif name[0] != "/":
                frames.append((name, value, []))
            elif any(frame[0] == name[1:] for frame in frames):
                while True:
                    done = frames.pop()
                    frames[-1][2].append(self.wrap(*done))
                    if done[0] == name[1:]:
                        break
        while len(frames) > 1:
            done = frames.pop()
            frames[-1][2].append(self.wrap(*done))
        content = "".join(frames[0][2])
        lines = [re.sub(r" {2,}", " ", line.strip(" ")) for line in content.split("\n")]
        return "  \n".join(line for line in lines if line)

    def wrap(self, name: str, value: str, pieces: list[str]) -> str:
        content = "".join(pieces)
        inner = content.strip()
        if not inner:
            return " " if content else ""
        before = " " if content[0].isspace() else ""
        after = " " if content[-1].isspace() else ""
        if name == "a":
            address = absolute(value, self.base, clickable=True)
            if address is not None:
                inner = f"[{inner}]({address.translate(_HREF)})"
        elif name == "code":
            longest = max((len(run) for run in re.findall(r"`+", inner)), default=0)
            ticks = "`" * (longest + 1) if longest else "`"
            pad = " " if inner[0] == "`" or inner[-1] == "`" else ""
            inner = f"{ticks}{pad}{inner}{pad}{ticks}"
        elif name in _EMPHASIS:
            sign = _EMPHASIS[name]
            inner = f"{sign}{inner}{sign}"
        return before + inner + after

    def is_data_table(self, index: int) -> bool:
        """Whether a table holds data; one that lays out the page does not become a table."""
        if index not in self.data_tables:
            self.data_tables[index] = self.judge_table(index)
        return self.data_tables[index]

    def judge_table(self, index: int) -> bool:
        nodes = self.page.nodes
        node = nodes[index]
        if node.tag != "table" or node.attributes.get("role") == "presentation":
            return False
        inside = nodes[index + 1 : node.end_node]
        rows = sum(inner.tag == "tr" for inner in inside)
        cells = [inner for inner in inside if inner.tag in ("td", "th")]
        if any(inner.tag in ("table", "ul", "ol", "pre", "h1", "h2", "h3") for inner in inside):
            return False
        if not 1 < len(cells) <= _MAX_TABLE_CELLS or rows < 2 or len(cells) < 2 * rows - 1:
            return False
        return all(self.page.chars(cell) < 1000 for cell in cells)

    def table(self, index: int, kept: list[int]) -> str:
        nodes, blocks = self.page.nodes, self.page.blocks
        chosen = set(kept)
        rows: list[list[str]] = []
        captions: list[str] = []
        has_header = False
        table = nodes[index]
        for number in range(index + 1, table.end_node):
            node = nodes[number]
            if node.tag == "tr":
                rows.append([])
            elif node.tag in ("td", "th", "caption"):
                content = " ".join(
                    self.inline(blocks[i].parts).replace("  \n", " ")
                    for i in range(node.first_block, node.end_block)
                    if i in chosen
                ).replace("|", "\\|")
                if node.tag == "caption":
                    captions.append(content)
                elif rows:
                    has_header = has_header or (node.tag == "th" and len(rows) == 1)
                    rows[-1].append(content)
                    rows[-1].extend([""] * (_span(node) - 1))
        rows = [row for row in rows if any(row)]
        if not rows:
            return ""
        width = max(map(len, rows))
        if not has_header:
            rows.insert(0, [""] * width)
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows]
        lines.insert(1, "|" + " --- |" * width)
        return "\n".join([*(f"{caption}\n" for caption in captions if caption), *lines])


def _span(node: Node) -> int:
    value = node.attributes.get("colspan") or "1"
    return (
        min(int(value), 50)
        if value.isascii() and value.isdigit() and len(value) < 4 and value != "0"
        else 1
    )
