"""reStructuredText, as much of it as a report needs."""

import re
from collections.abc import Sequence

__all__ = ["between", "escaped", "heading", "table"]


def escaped(text: str) -> str:
    """Text that means nothing but itself."""
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


def heading(text: str, underline: str) -> str:
    return f"{text}\n{underline * len(text)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A simple table; the first ``left`` columns begin at the left, the others end at the right.

    A cell that is empty in the first column would carry its row on: there must be none.
    """
    lines = [head, *rows]
    if any(not line[0] for line in lines):
        raise ValueError("the first column has an empty cell")
    widths = [max(2, *(len(line[column]) for line in lines)) for column in range(len(head))]
    rule = " ".join("=" * width for width in widths)
    drawn = [
        " ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rule, drawn[0], rule, *drawn[1:], rule])


def between(text: str, name: str, body: str) -> str:
    """The text with what stands between the two comments of that name replaced.

    Raises:
      ValueError: it does not have them, in their order and once.
    """
    first, last = f".. begin {name}\n", f".. end {name}\n"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise ValueError(f"there is no place for {name}")
    head, _, rest = text.partition(first)
    return f"{head}{first}\n{body.strip()}\n\n{last}{rest.partition(last)[2]}"
