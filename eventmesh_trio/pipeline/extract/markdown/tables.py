"""Tables: which hold data and which lay out the page, and data tables in GFM.

A cell that spans rows or columns has its words in the first of them; the others are empty, so that
every cell stands under its own heading.

Source: https://github.github.com/gfm/#tables-extension-
"""

from collections.abc import Callable
from typing import Final

import attrs
import msgspec

from eventmesh_trio.pipeline.extract.page.outline import Node, Outline

__all__ = ["Cell", "is_data_table", "render_table", "rows_of"]

MAX_CELLS: Final = 20_000
"""Cells, of a table in Markdown, spans resolved; a larger one is written as paragraphs."""

MAX_COLUMNS: Final = 256
_MAX_CELL_CHARS: Final = 1000  # more is an article in a cell
_MAX_CELL_BLOCKS: Final = 12  # likewise
_LAYOUT_ROLES: Final = frozenset(("presentation", "none"))
_LAYOUT_TAGS: Final = frozenset(("table", "h1", "h2", "h3", "form", "article", "section", "pre"))
_DATA_TAGS: Final = frozenset(("th", "thead", "caption", "tfoot"))


class Cell(msgspec.Struct, frozen=True, gc=False):
    node: int
    header: bool  # a <th>, or a cell of <thead>
    columns: int
    rows: int


@attrs.frozen
class Rows:
    rows: list[list[Cell]]
    captions: list[int]  # nodes
    in_head: list[bool]  # by row: it stands in <thead>


def rows_of(page: Outline, index: int) -> Rows:
    """The rows of a table, not of tables inside it."""
    nodes = page.nodes
    table = nodes[index]
    rows: list[list[Cell]] = []
    in_head: list[bool] = []
    captions: list[int] = []
    number = index + 1
    while number < table.end_node:
        node = nodes[number]
        tag = node.tag
        if tag == "tr":
            rows.append([])
            in_head.append(nodes[node.parent].tag == "thead")
        elif tag in ("td", "th"):
            if not rows:
                rows.append([])
                in_head.append(False)
            columns = min(_span(node, "colspan"), MAX_COLUMNS)
            rows[-1].append(
                Cell(number, tag == "th" or in_head[-1], columns, _span(node, "rowspan"))
            )
            number = node.end_node
            continue
        elif tag == "caption":
            captions.append(number)
            number = node.end_node
            continue
        number += 1
    return Rows(rows, captions, in_head)


def _span(node: Node, name: str) -> int:
    value = node.attributes.get(name)
    if not value:
        return 1
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 6:
        return max(1, int(value))
    return 1


def is_data_table(page: Outline, index: int) -> bool:
    """Whether a table holds data. One that lays out the page is written as what is in it."""
    nodes = page.nodes
    node = nodes[index]
    if node.attributes.get("role") in _LAYOUT_ROLES:
        return False
    inside = [inner.tag for inner in nodes[index + 1 : node.end_node]]
    tags = set(inside)
    cells = inside.count("td") + inside.count("th")
    rows = inside.count("tr")
    if "table" in tags or not 1 < cells <= MAX_CELLS:
        return False
    said = not tags.isdisjoint(_DATA_TAGS)
    if not said and (rows < 2 or cells < 2 * rows - 1):  # one row, or one column
        return False
    if not said and not tags.isdisjoint(_LAYOUT_TAGS):
        return False
    if cells < rows and "th" not in tags:
        return False
    for number in range(index + 1, node.end_node):
        cell = nodes[number]
        if cell.tag in ("td", "th") and (
            page.chars(cell) > _MAX_CELL_CHARS
            or cell.end_block - cell.first_block > _MAX_CELL_BLOCKS
        ):
            return False
    return True


def render_table(rows: Rows, text_of: Callable[[int], str], is_bold: Callable[[int], bool]) -> str:
    """A GFM table. ``text_of`` gives a cell's content by its node, pipes escaped.

    The first row is the heading when it says so or is bold throughout; else the heading is empty.
    """
    grid = _resolved(rows, text_of)
    if not grid:
        return ""
    if not _has_heading(rows, grid, is_bold):
        grid.insert(0, (-1, []))
    else:
        grid[0] = grid[0][0], [_plain(text) for text in grid[0][1]]
    width = max(len(line) for _, line in grid)
    if width == 1 and len(grid) == 1:
        return grid[0][1][0]
    lines = ["| " + " | ".join(line + [""] * (width - len(line))) + " |" for _, line in grid]
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines)


def _resolved(rows: Rows, text_of: Callable[[int], str]) -> list[tuple[int, list[str]]]:
    """Rows that have text, each with its number and its cells in their columns."""
    spans = (
        sum(len(row) for row in rows.rows) > 0
        and len(rows.rows) * max(sum(cell.columns for cell in row) for row in rows.rows)
        <= MAX_CELLS
    )
    grid: list[tuple[int, list[str]]] = []
    below: dict[int, int] = {}  # column: how many rows more it is taken from above
    widest = 0
    for number, row in enumerate(rows.rows):
        line: list[str] = []
        taken = below
        below = {column: left - 1 for column, left in taken.items() if left > 1}
        for cell in row:
            while len(line) in taken:
                line.append("")
            column = len(line)
            line.append(text_of(cell.node))
            columns = cell.columns if spans else 1
            line.extend([""] * (columns - 1))
            if cell.rows > 1 and spans and column + columns <= MAX_COLUMNS:
                below.update(dict.fromkeys(range(column, column + columns), cell.rows - 1))
        if any(line):
            widest = max(widest, _last(line))
            grid.append((number, line))
    return [(number, line[:widest]) for number, line in grid]


def _plain(text: str) -> str:
    """A heading's cell without the sign of what it is already: bold."""
    bold = text[:2] == text[-2:] == "**" and text.count("**") == 2
    return text[2:-2] if bold else text


def _last(line: list[str]) -> int:
    end = len(line)
    while end and not line[end - 1]:
        end -= 1
    return end


def _has_heading(
    rows: Rows, grid: list[tuple[int, list[str]]], is_bold: Callable[[int], bool]
) -> bool:
    number = grid[0][0]
    row = rows.rows[number]
    if rows.in_head[number] or all(cell.header for cell in row):
        return True
    if len(row) > 1 and all(cell.header for cell in row[1:]):
        return True  # the corner above a column of headings is often a plain cell
    return len(row) > 1 and len(grid) > 1 and all(cell.header or is_bold(cell.node) for cell in row)
