"""A case, and the demands of a comparison, as text for a terminal."""

from collections.abc import Sequence

from benchmarks.outcome import Case, Demand, Figure
from benchmarks.ratios import is_ours, ours_of, ratio

__all__ = ["case_text", "columns", "demand_text", "number", "ratio_cell", "spread"]


def number(value: float) -> str:
    """With as many digits as one reads: 12,345, 123, 12.3, 1.23, 0.123, 0.012."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def spread(figure: Figure) -> str:
    """The lowest and the highest round; nothing where there was but one."""
    if len(figure.rounds) < 2:
        return ""
    return f"{number(min(figure.rounds))} - {number(max(figure.rounds))}"


def columns(case: Case) -> list[str]:
    """The names of all details, in the order in which they first come."""
    return list(dict.fromkeys(name for figure in case.figures for name in figure.details))


def ratio_cell(case: Case, figure: Figure) -> str:
    """How many times better each of ours is than this one; nothing for our own."""
    if is_ours(figure.contestant):
        return ""
    return " ".join(
        f"{ratio(mine, figure, less_is_better=case.less_is_better).of_medians:.2f}x"
        for mine in ours_of(case)
        if mine.median and figure.median
    )


def case_text(case: Case) -> str:
    """The table of one case."""
    details = columns(case)
    rows = [["", case.unit, "low - high", *details, "ours are"]]
    for figure in case.figures:
        shown = [number(figure.details[name]) if name in figure.details else "" for name in details]
        rows.append(
            [figure.contestant, number(figure.median), spread(figure), *shown,
             ratio_cell(case, figure)]
        )  # fmt: skip
    return f"{case.name}\n{_aligned(rows)}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def demand_text(demand: Demand) -> str:
    """One line: whether it is met, what was asked and what was found."""
    sign = "at most" if demand.at_most else "at least"
    line = (
        f"{'met   ' if demand.is_met else 'MISSED'} {demand.text}: {sign} {number(demand.asked)}, "
        f"found {number(demand.found)}"
    )
    if demand.low is None or demand.high is None:
        return line
    return f"{line} ({number(demand.low)} - {number(demand.high)})"
