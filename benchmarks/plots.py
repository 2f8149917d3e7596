"""The kept results as plots: ``python -m benchmarks.plots FOLDER FILE.json...`` writes SVG.

It is run by the peers' interpreter, which has matplotlib, and knows nothing but the JSON. A plot
has a panel for each case: a bar for everybody, its median, and a line from the lowest round to the
highest. Text stays text, and all colours can be read on white and on black.
"""

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

__all__ = ["plot_names"]

OURS: Final = "eventmesh_trio"
LIMIT: Final = "bare socket"
INK: Final = "#7d8590"
MINE, THEIRS, SOCKET = "#2f81f7", "#8b949e", "none"
ONE_PLOT_HOLDS: Final = 9
"""Cases; where there are more, those whose names begin alike share a plot."""
COLUMNS: Final = 3
PANEL_INCHES: Final = (4.6, 0.9, 0.24)  # width, height of the rest, height of a bar


class HasName(Protocol):
    @property
    def name(self) -> str: ...


class HasCases(HasName, Protocol):
    @property
    def cases(self) -> Sequence[HasName]: ...


def groups_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The cases of each plot, by what they have in common; all in one where they are few."""
    if len(names) <= ONE_PLOT_HOLDS:
        return {"": list(names)}
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(",")[0], []).append(name)
    return groups


def file_name(comparison: str, group: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")
    return f"{comparison}-{slug}.svg" if slug else f"{comparison}.svg"


def plot_names(outcome: HasCases) -> list[tuple[str, str]]:
    """The files that the plots of a comparison are written to, and what each shows."""
    groups = groups_of([case.name for case in outcome.cases])
    return [
        (file_name(outcome.name, group), f"{outcome.name}: {group or ', '.join(names[:3])}")
        for group, names in groups.items()
        if names
    ]


def draw(record: dict[str, Any], folder: Path) -> None:
    """All plots of one comparison."""
    outcome = record["outcome"]
    cases = {case["name"]: case for case in outcome["cases"]}
    for group, names in groups_of(list(cases)).items():
        if names:
            _draw_plot([cases[name] for name in names], folder / file_name(outcome["name"], group))


def _draw_plot(cases: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": path.name,  # or every drawing differs from the one before
            "font.family": "sans-serif",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
        }
    )
    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    width, rest, bar = PANEL_INCHES
    height = rest + bar * max(1, *(len(case["figures"]) for case in cases))
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False
    )
    for panel, case in zip(axes.flat, cases, strict=False):
        _draw_panel(panel, case)
    for panel in list(axes.flat)[len(cases) :]:
        panel.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _draw_panel(panel: Any, case: dict[str, Any]) -> None:
    figures = case["figures"]
    medians = [statistics.median(figure["rounds"]) for figure in figures]
    places = range(len(figures))
    # A limit may be far away: its bar then ends at the edge, and its number says where it would.
    rivals = [f for f in figures if not f["contestant"].startswith(LIMIT)] or figures
    highest = max((max(f["rounds"]) for f in rivals), default=0)
    edge = 1.3 * highest or 1.0
    for place, figure, median in zip(places, figures, medians, strict=True):
        name, rounds = figure["contestant"], figure["rounds"]
        colour = MINE if name.startswith(OURS) else SOCKET if name.startswith(LIMIT) else THEIRS
        panel.barh(place, median, color=colour, edgecolor=INK, linewidth=0.6, height=0.7)
        panel.plot([min(rounds), max(rounds)], [place, place], color=INK, linewidth=1.2)
        beyond = max(rounds) > highest
        panel.annotate(
            f" {median:,.0f} " if median >= 100 else f" {median:.3g} ",
            (edge if beyond else max(rounds), place),
            va="center",
            ha="right" if beyond else "left",
        )
    panel.set_yticks(places, [figure["contestant"] for figure in figures])
    panel.invert_yaxis()
    panel.set_xlim(0, edge)
    panel.set_title(case["name"], fontsize=10)
    better = ", less is better" if case["less_is_better"] else ""
    panel.set_xlabel(case["unit"] + better)
    panel.ticklabel_format(axis="x", style="plain")
    panel.locator_params(axis="x", nbins=4)
    panel.spines[["top", "right"]].set_visible(False)


def main(folder: str, *records: str) -> None:
    for record in records:
        draw(json.loads(Path(record).read_text("utf-8")), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
