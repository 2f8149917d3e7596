"""What a comparison gives: the figures of all who took part, and the ratios that were asked.

A comparison is a module of this package with ``TITLE`` (a line), ``ABOUT`` (what was done, in
reStructuredText) and ``compare(options) -> Outcome``; ``__main__`` lists them.
"""

import statistics
from collections.abc import Mapping

import attrs

__all__ = ["Case", "Demand", "Figure", "Options", "Outcome"]


@attrs.frozen
class Options:
    """How thoroughly to measure.

    Args:
      quick: the whole comparison in under a minute.
      rounds: of each case; None leaves it to the comparison.
    """

    quick: bool = False
    rounds: int | None = None


@attrs.frozen
class Figure:
    """What one contestant did in one case: a number a round, in the case's unit.

    ``details`` are further figures of all rounds together, with their units in their names:
    ``peak_mib``, ``p99_ms``.
    """

    contestant: str
    rounds: tuple[float, ...]
    details: Mapping[str, float] = {}

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@attrs.frozen
class Case:
    """One thing measured, with all who took part in turn; ours comes first."""

    name: str
    unit: str
    figures: tuple[Figure, ...]
    less_is_better: bool = False

    def figure(self, contestant: str) -> Figure | None:
        return next((one for one in self.figures if one.contestant == contestant), None)


@attrs.frozen
class Demand:
    """A ratio, or a bound in some unit, that the project holds itself to.

    Args:
      text: what is asked, as a sentence that the table shows.
      asked: the number asked.
      found: the number measured: for a ratio, that of the medians.
      low, high: the same of single rounds, where rounds pair up.
      at_most: ``asked`` is an upper bound.
    """

    text: str
    asked: float
    found: float
    low: float | None = None
    high: float | None = None
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.found <= self.asked if self.at_most else self.found >= self.asked


@attrs.frozen
class Outcome:
    """All of one comparison. ``missing`` says of each peer that did not take part why."""

    name: str
    cases: tuple[Case, ...]
    demands: tuple[Demand, ...] = ()
    missing: Mapping[str, str] = {}
