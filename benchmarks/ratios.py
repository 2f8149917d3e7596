"""Ours beside theirs: who is who in a case, and what a ratio is.

A ratio is always so that more is better for us: our rate over theirs, or their time over ours.
"""

import statistics
from collections.abc import Iterable, Iterator

import attrs

from benchmarks.outcome import Case, Demand, Figure

__all__ = [
    "LIMIT",
    "OURS",
    "Ratio",
    "best_peer",
    "is_limit",
    "is_ours",
    "ours_of",
    "peers_of",
    "ratio",
    "ratio_demand",
    "worst_against",
]

OURS = "eventmesh_trio"
LIMIT = "bare socket"


def is_ours(contestant: str) -> bool:
    """Ours with its default settings, or in some other way that follows its name."""
    return contestant.startswith(OURS)


def is_limit(contestant: str) -> bool:
    """What no server can pass: measured beside the others, and no peer."""
    return contestant.startswith(LIMIT)


def ours_of(case: Case) -> tuple[Figure, ...]:
    return tuple(figure for figure in case.figures if is_ours(figure.contestant))


def peers_of(case: Case) -> tuple[Figure, ...]:
    return tuple(
        figure
        for figure in case.figures
        if not is_ours(figure.contestant) and not is_limit(figure.contestant)
    )


@attrs.frozen
class Ratio:
    """That of the medians, and the lowest and highest of single rounds where they pair up."""

    of_medians: float
    low: float | None
    high: float | None


def ratio(ours: Figure, theirs: Figure, *, less_is_better: bool = False) -> Ratio:
    """How many times better ours is.

    Raises:
      ZeroDivisionError: a figure is 0; what took no time was not measured.
    """
    upper, lower = (theirs, ours) if less_is_better else (ours, theirs)
    low = high = None
    if len(upper.rounds) == len(lower.rounds):
        paired = [a / b for a, b in zip(upper.rounds, lower.rounds, strict=True)]
        low, high = min(paired), max(paired)
    return Ratio(upper.median / lower.median, low, high)


def best_peer(case: Case, among: Iterable[str] | None = None) -> Figure | None:
    """The peer with the best median, of all or of those named; None where there is none."""
    names = None if among is None else set(among)
    able = [peer for peer in peers_of(case) if names is None or peer.contestant in names]
    best = min if case.less_is_better else max
    return best(able, key=lambda figure: statistics.median(figure.rounds), default=None)


def ratio_demand(text: str, case: Case, theirs: Figure | None, asked: float) -> Iterator[Demand]:
    """The demand that ours (by default settings) is so many times as good; none without a rival."""
    ours = case.figure(OURS)
    if ours is None or theirs is None:
        return
    found = ratio(ours, theirs, less_is_better=case.less_is_better)
    yield Demand(text, asked, found.of_medians, found.low, found.high)


def worst_against(cases: Iterable[Case]) -> tuple[Case, Figure, Ratio] | None:
    """The case and the peer where ours does worst, by the ratio of the medians."""
    found = [
        (case, peer, ratio(ours, peer, less_is_better=case.less_is_better))
        for case in cases
        if (ours := case.figure(OURS)) is not None
        for peer in peers_of(case)
    ]
    return min(found, key=lambda one: one[2].of_medians, default=None)
