"""Percentiles of what was measured, by the nearest rank: each is a value that did occur."""

from collections.abc import Mapping, Sequence
from math import ceil

__all__ = ["in_ms", "percentile"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that ``percent`` of 100 of the values do not pass; 100 is the greatest.

    Raises:
      ValueError: there are no values, or no such percentile.
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no {percent}th percentile of {len(values)} values")
    # Rounded: 99.9 % of 1,000 are 999 values, not the thousandth for a bit in the last place.
    return sorted(values)[ceil(round(len(values) * percent / 100, 6)) - 1]


def in_ms(seconds: Sequence[float]) -> Mapping[str, float]:
    """p50, p95, p99, p99.9 and the worst, in milliseconds, under names that say so."""
    names = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p99_9_ms": 99.9, "worst_ms": 100}
    return {name: percentile(seconds, percent) * 1000 for name, percent in names.items()}
