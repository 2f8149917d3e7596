"""How good an extraction is: text against text, title, author and date against what is true.

The measure of text is that of scrapinghub's article-extraction-benchmark: multisets of shingles of
4 tokens; hits, and shingles too many and too few, normalised so that each page counts the same;
precision and recall averaged over the pages that have them; F1 of the two means.
"""

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

TOKEN = re.compile(r"\w+")
SHINGLE = 4
_BY = re.compile(r"^(?:by|von|par|por|di)\s+")
_TITLE_SHARE = 0.6
"""A title within the other counts as the same from this share of its length on."""


@attrs.frozen
class Overlap:
    """Of one page: shares of hits, of what is too much, and of what is missing; their sum is 1."""

    hits: float
    extra: float
    missing: float
    exact: bool

    @property
    def f1(self) -> float:
        both = 2 * self.hits + self.extra + self.missing
        return 2 * self.hits / both if both else 1.0


def overlap(truth: str, found: str) -> Overlap:
    wanted, got = TOKEN.findall(truth), TOKEN.findall(found)
    a, b = _shingles(wanted), _shingles(got)
    hits = sum((a & b).values())
    extra, missing = b.total() - hits, a.total() - hits
    total = hits + extra + missing or 1
    return Overlap(hits / total, extra / total, missing / total, wanted == got)


def _shingles(tokens: list[str]) -> Counter[tuple[str, ...]]:
    starts = range(max(1, len(tokens) - SHINGLE + 1))
    return Counter(tuple(tokens[i : i + SHINGLE]) for i in starts if tokens)


@attrs.frozen
class TextScore:
    pages: int
    f1: float
    precision: float
    recall: float
    exact: float


def text_score(overlaps: Sequence[Overlap]) -> TextScore:
    """The score of a group of pages."""
    precision = _mean(o.hits / (o.hits + o.extra) for o in overlaps if o.hits + o.extra)
    recall = _mean(o.hits / (o.hits + o.missing) for o in overlaps if o.hits + o.missing)
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return TextScore(len(overlaps), f1, precision, recall, _mean(o.exact for o in overlaps))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0


def is_right(field: str, truth: str, found: str | None) -> bool:
    """Whether a page's title, author or date was found.

    A title is if it equals the true one, or one is most of the other; an author if half of the
    words are those of the true name; a date if the day is.
    """
    if not found:
        return False
    if field == "date":
        return truth[:10] == str(found)[:10]
    wanted, got = _folded(truth), _folded(str(found))
    if field == "author":
        a, b = set(_BY.sub("", wanted).split()), set(_BY.sub("", got).split())
        return bool(a) and 2 * len(a & b) >= max(len(a), len(b))
    short, long = sorted((wanted, got), key=len)
    return bool(short) and short in long and len(short) >= _TITLE_SHARE * len(long)


def _folded(text: str) -> str:
    return " ".join(TOKEN.findall(unicodedata.normalize("NFKC", text).casefold()))


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's: Pearson's of the ranks, ties at the mean of theirs. 0 where one is constant."""
    if len(pairs) < 2:
        return 0.0
    left, right = (_ranks(values) for values in zip(*pairs, strict=True))
    if min(left) == max(left) or min(right) == max(right):
        return 0.0
    return statistics.correlation(left, right)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + end - 1) / 2
        start = end
    return ranks
