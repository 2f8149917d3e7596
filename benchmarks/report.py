"""The pages that the kept results are rendered to: `render` knows them all, and writes none.

``docs/performance.rst`` is written by hand but for what stands between two comments, and so is the
table in the README; ``docs/performance/NAME.rst`` has everything of one comparison. Plots are drawn
by `benchmarks.plots`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.environment import ROOT
from benchmarks.machine import Machine
from benchmarks.markup import between, escaped, heading, table
from benchmarks.outcome import Case, Demand
from benchmarks.plots import plot_names
from benchmarks.ratios import best_peer, is_limit, is_ours, ours_of, ratio
from benchmarks.results import Record
from benchmarks.tables import columns, number, ratio_cell, spread

__all__ = ["ORDER", "PAGES", "case_table", "demand_table", "headline_table", "render", "write"]

ORDER: Final = ("stream", "fanout", "latency", "idle", "connect", "crawl", "extraction")
"""All comparisons, in the order in which they are run and shown."""
README: Final = Path("README.rst")
PERFORMANCE: Final = Path("docs/performance.rst")
PAGES: Final = Path("docs/performance")
MARK: Final = "what the benchmarks wrote"
HEADLINES: Final[Mapping[str, tuple[str, ...]]] = {
    "stream": tuple(
        f"{framing}, {readers} 1.4 KB"
        for framing in ("ndjson", "sse", "websocket")
        for readers in ("1 reader,", "20 readers,")
    ),
    "extraction": ("speed", "text, all"),
}
"""How the names of the cases for the README begin; of a comparison that is not here, the first."""
NOTHING: Final = "Nothing has been measured yet."


def render(records: Mapping[str, Record], root: Path = ROOT) -> dict[Path, str]:
    """Each page that depends on results, by its path below the root."""
    ordered = [records[name] for name in ORDER if name in records]
    pages = {PAGES / f"{record.outcome.name}.rst": _page(record) for record in ordered}
    for path, body in (
        (README, headline_table(ordered)),
        (PERFORMANCE, "\n\n".join(map(_section, ordered)) or NOTHING),
    ):
        pages[path] = between((root / path).read_text("utf-8"), MARK, body)
    return pages


def write(records: Mapping[str, Record], root: Path = ROOT) -> None:
    """Write all pages, and remove those of comparisons that are kept no more."""
    pages = render(records, root)
    for path in (root / PAGES).glob("*.rst"):
        if path.relative_to(root) not in pages:
            path.unlink()
    for path, text in pages.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


def headline_table(records: Sequence[Record]) -> str:
    """For the README: of each comparison what tells most, beside the best peer."""
    rows = [
        row
        for record in records
        for case in _headlines(record)
        if (row := _headline(record, case)) is not None
    ]
    if not rows:
        return NOTHING
    return table(("What", "Ours", "Best other", "Which", "Ratio"), rows)


def _headlines(record: Record) -> list[Case]:
    named = HEADLINES.get(record.outcome.name)
    if named is None:
        return list(record.outcome.cases[:1])
    return [case for case in record.outcome.cases if case.name.startswith(named)]


def _headline(record: Record, case: Case) -> tuple[str, ...] | None:
    ours, peer = ours_of(case)[:1], best_peer(case)
    if not ours or peer is None or not (peer.median and ours[0].median):
        return None  # nobody to compare with, or nothing to divide by
    found = ratio(ours[0], peer, less_is_better=case.less_is_better)
    what = case.name.partition(";")[0]  # what follows tells of the pages, on their own page
    return (
        escaped(f"{record.outcome.name}: {what}"),
        f"{number(ours[0].median)} {case.unit}",
        f"{number(peer.median)} {case.unit}",
        escaped(peer.contestant),
        f"{found.of_medians:.2f}",
    )


def demand_table(demands: Sequence[Demand]) -> str:
    """What is asked and what was found, met or missed."""
    rows = [
        (
            escaped(demand.text),
            "met" if demand.is_met else "**missed**",
            f"{'at most' if demand.at_most else 'at least'} {number(demand.asked)}",
            number(demand.found),
            ""
            if demand.low is None or demand.high is None
            else f"{number(demand.low)} - {number(demand.high)}",
        )
        for demand in demands
    ]
    return table(("What is asked", "Is it?", "Asked", "Found", "Single rounds"), rows, left=2)


def case_table(case: Case) -> str:
    """Everybody in one case, ours first."""
    details = columns(case)
    rows = [
        (
            f"**{escaped(figure.contestant)}**"
            if is_ours(figure.contestant)
            else f"*{escaped(figure.contestant)}*"
            if is_limit(figure.contestant)
            else escaped(figure.contestant),
            number(figure.median),
            spread(figure),
            *(number(figure.details[n]) if n in figure.details else "" for n in details),
            ratio_cell(case, figure),
        )
        for figure in case.figures
    ]
    head = ("Who", case.unit, "Low - high", *map(_words, details), "Ours are")
    return table([escaped(cell) for cell in head], rows)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def machine_text(machine: Machine) -> str:
    """One paragraph on where it was measured, and one with all versions."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{escaped(machine.cpu)}, {machine.cores} cores, {machine.memory_gib:g} GiB, Linux "
        f"{escaped(machine.kernel)}, Python {machine.python}; load {machine.load:g} before the "
        f"start.\n\nVersions: {escaped(versions)}."
    )


def _taken(record: Record) -> str:
    rounds = {len(f.rounds) for case in record.outcome.cases for f in case.figures} or {0}
    counts = " to ".join(str(count) for count in sorted({min(rounds), max(rounds)}))
    return f"Taken {record.taken_at} in {record.seconds / 60:.0f} minutes, {counts} rounds."


def _missing(record: Record) -> Iterator[str]:
    if record.outcome.missing:
        yield "Not measured:"
        yield "\n".join(
            f"- {escaped(name)}: {escaped(' '.join(reason.split()))}"
            for name, reason in record.outcome.missing.items()
        )


def _images(record: Record, folder: str) -> Iterator[str]:
    for name, title in plot_names(record.outcome):
        yield f".. image:: {folder}{name}\n   :alt: {title}"


def _section(record: Record) -> str:
    """What ``docs/performance.rst`` has of one comparison."""
    outcome = record.outcome
    met = sum(demand.is_met for demand in outcome.demands)
    page = f"`All figures of this comparison <{PAGES.name}/{outcome.name}.rst>`__."
    return "\n\n".join(
        [
            heading(record.title, "-"),
            record.about.strip(),
            f"{_taken(record)} {met} of {len(outcome.demands)} demands are met. {page}",
            *([demand_table(outcome.demands)] if outcome.demands else []),
            *_images(record, f"{PAGES.name}/"),
        ]
    )


def _page(record: Record) -> str:
    """All of one comparison."""
    outcome = record.outcome
    parts = [
        heading(record.title, "="),
        record.about.strip(),
        f"{_taken(record)} {machine_text(record.machine)}",
        "`How to read this, and all other comparisons <../performance.rst>`__.",
        *_missing(record),
    ]
    if outcome.demands:
        parts += [heading("What is asked", "-"), demand_table(outcome.demands)]
    for case in outcome.cases:
        better = " (less is better)" if case.less_is_better else ""
        parts += [heading(escaped(case.name) + better, "-"), case_table(case)]
    return "\n\n".join([*parts, *_images(record, "")]) + "\n"
