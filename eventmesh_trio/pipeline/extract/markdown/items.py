"""Items of lists: their numbers as the page shows them, and their signs.

Source: https://spec.commonmark.org/0.31.2/#list-items
"""

from typing import Final

from eventmesh_trio.pipeline.extract.page.outline import Outline

__all__ = ["LISTS", "Items"]

LISTS: Final = frozenset(("ul", "ol", "menu", "dir"))
_MAX_NUMBER: Final = 999_999_999  # of a list item (CommonMark, 5.2)


class Items:
    """Numbers and signs of the items of one page, by node."""

    def __init__(self, page: Outline) -> None:
        self.page = page
        self._numbers: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._counted: set[int] = set()  # lists whose children have been asked for items
        self._signs: dict[int, str] = {}  # of lists: "-" or "*", "." or ")"

    def list_of(self, item: int) -> int:
        return self.page.nodes[item].parent

    def before(self, index: int) -> int | None:
        """The item before a list that is itself a child of a list."""
        nodes = self.page.nodes
        parent = nodes[index].parent
        if parent not in self._counted:
            self._counted.add(parent)
            last: int | None = None
            child = parent + 1
            while child < nodes[parent].end_node:
                if nodes[child].tag == "li":
                    last = child
                elif nodes[child].tag in LISTS and last is not None:
                    self._before[child] = last
                child = max(nodes[child].end_node, child + 1)
        return self._before.get(index)

    def begin(self, item: int, *, after: int | None) -> str:
        """The bullet of an item. ``after``: one of another list that ends right before it.

        Lists that touch have different signs, or they would be one.
        """
        siblings = self.list_of(item)
        if siblings not in self._signs:
            taken = "" if after is None else self._signs.get(self.list_of(after), "")
            if self.number(item) is None:
                self._signs[siblings] = "*" if taken == "-" else "-"
            else:
                self._signs[siblings] = ")" if taken == "." else "."
        return self.bullet(item)

    def bullet(self, item: int) -> str:
        number = self.number(item)
        sign = self._signs.get(self.list_of(item))
        return f"{sign or '-'} " if number is None else f"{number}{sign or '.'} "

    def number(self, item: int) -> int | None:
        """The number of an item as the page shows it, or None in a list without numbers."""
        parent = self.page.nodes[item].parent
        if parent < 0 or self.page.nodes[parent].tag != "ol":
            return None
        if item not in self._numbers:
            self._count(parent)
        return self._numbers[item]

    def _count(self, index: int) -> None:
        """Number the items of a list, with those that were not chosen."""
        nodes = self.page.nodes
        ordered = nodes[index]
        items: list[int] = []
        child = index + 1
        while child < ordered.end_node:
            if nodes[child].tag == "li":
                items.append(child)
            child = max(nodes[child].end_node, child + 1)
        backwards = "reversed" in ordered.attributes
        number = _integer(ordered.attributes.get("start"), len(items) if backwards else 1)
        for item in items:
            number = _integer(nodes[item].attributes.get("value"), number)
            self._numbers[item] = min(max(number, 0), _MAX_NUMBER)
            number += -1 if backwards else 1


def _integer(value: str | None, default: int) -> int:
    digits = (value or "").strip()
    if digits.lstrip("-").isascii() and digits.lstrip("-").isdigit() and len(digits) < 10:
        return int(digits) if digits.count("-") <= 1 else default
    return default
