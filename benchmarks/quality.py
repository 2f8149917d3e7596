"""How good an extractor's answers are, over groups of pages whose truth is known."""

import statistics
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import attrs

from benchmarks.accuracy import Overlap, is_right, rank_correlation
from benchmarks.peers.extractors import Answer

__all__ = ["FIELDS", "Report", "confidence", "field_accuracy", "groups_of", "half_of"]

FIELDS = ("title", "author", "date")


@attrs.frozen
class Report:
    """What one extractor made of the pages."""

    name: str
    answers: Mapping[str, Answer]
    failures: Mapping[str, str]
    rates: tuple[float, ...]  # pages/s of each round
    overlaps: Mapping[str, Overlap]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def groups_of(truths: Sequence[Answer]) -> dict[str, list[str]]:
    """Ids by source, by kind of page, and by the halves of hosts: tuned on one, tested on both."""
    groups: dict[str, list[str]] = defaultdict(list)
    for truth in truths:
        source, kind = truth.get("source") or "pages", truth.get("page_type")
        names = {source, f"{source} {kind}" if kind else source, f"{half_of(truth)} hosts", "all"}
        for name in names:
            groups[name].append(truth["id"])
    # A source of one kind needs no second line for it.
    lines: dict[str, list[str]] = {}
    for name in sorted(groups, key=lambda name: (name == "all", name.endswith(" hosts"), name)):
        if groups[name] not in lines.values() or name == "all":
            lines[name] = groups[name]
    return lines


def half_of(truth: Answer) -> str:
    """``even`` or ``odd``: which half of the hosts a page belongs to."""
    host = urlsplit(truth.get("url") or truth["id"]).hostname or truth["id"]
    return ("even", "odd")[zlib.crc32(host.encode()) & 1]


def field_accuracy(report: Report, truths: Sequence[Answer], field: str) -> tuple[float, int]:
    """The share of pages whose field was found, of those that have it; and how many these are."""
    known = [truth for truth in truths if truth.get(field)]
    right = [is_right(field, t[field], report.answers[t["id"]].get(field)) for t in known]
    return (statistics.fmean(right) if right else 0.0), len(known)


def confidence(report: Report, ids: Sequence[str]) -> float:
    """The rank correlation of ``quality_score`` with the F1 of each page."""
    return rank_correlation(
        [(report.answers[page].get("quality", 0), report.overlaps[page].f1) for page in ids]
    )
