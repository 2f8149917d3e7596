"""How much a static page already says, and so how to read it: as it is, with a probe, in a browser.

The score is the formula of the specification's own implementation; nothing here but arithmetic.
`eventmesh_trio.pipeline.extract.features` measures what goes into it.
"""

import math
from typing import Final, Literal

import attrs

from eventmesh_trio.abc import GateFeatures

__all__ = [
    "EMPTY_MOUNT",
    "HEADLESS_SCORE",
    "RAW_SCORE",
    "SURE_MARKERS",
    "GateDecision",
    "Term",
    "Verdict",
    "judge",
    "judge_data",
    "terms",
]

GateDecision = Literal["raw", "probes_first", "headless"]

EMPTY_MOUNT: Final = "empty mount point"
"""The sign of a page whose application has put nothing into its place yet, as it is told."""
RAW_SCORE: Final = 0.7
HEADLESS_SCORE: Final = 0.3
SURE_MARKERS: Final = 3
"""So many signs of a page that a script builds send it to a browser, whatever it scores below
`RAW_SCORE`."""


@attrs.frozen
class Term:
    """One summand of the score: what was measured, by which expression, and what it adds."""

    name: str
    measured: str
    expression: str
    points: float


@attrs.frozen
class Verdict:
    """``score`` is 0-1; ``reason`` is one sentence with the figures that decided."""

    score: float
    decision: GateDecision
    reason: str


def terms(features: GateFeatures) -> tuple[Term, ...]:
    """The summands of the score before it is clamped to 0-1, in the formula's order."""
    told = (
        ("text ratio", f"{features.text_ratio:.3f}", "clamp(1.2 * ratio, 0, 0.6)"),
        ("paragraphs", f"{features.paragraphs}", "clamp(0.06 * ln(1 + n), 0, 0.3)"),
        ("article or main", _yes(features.has_article), "0.15 if there is one"),
        ("OpenGraph", _yes(features.has_opengraph), "0.08 if there is some"),
        ("JSON-LD article", _yes(features.has_article_jsonld), "0.12 if there is one"),
        ("script density", f"{features.script_density:.3f}", "-clamp(0.8 * density, 0, 0.4)"),
        ("SPA markers", f"{len(features.spa_markers)}", "-0.25 if 2 or more"),
    )
    return tuple(Term(*said, points) for said, points in zip(told, _points(features), strict=True))


def _points(features: GateFeatures) -> tuple[float, ...]:
    """What each of the `terms` adds, in their order."""
    return (
        min(1.2 * features.text_ratio, 0.6),
        min(0.06 * math.log1p(features.paragraphs), 0.3),
        0.15 * features.has_article,
        0.08 * features.has_opengraph,
        0.12 * features.has_article_jsonld,
        0.0 - min(0.8 * features.script_density, 0.4),
        -0.25 if len(features.spa_markers) >= 2 else 0.0,
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def judge(features: GateFeatures) -> Verdict:
    """Score the features and decide; pure arithmetic.

    The order is the specification's: a page that scores `RAW_SCORE` has its text, however many
    signs of an application it carries.
    """
    # Nine digits: 0.6 + 0.15 - 0.05 is 0.7, whatever binary fractions make of it.
    score = round(min(max(math.fsum(_points(features)), 0.0), 1.0), 9)
    markers = features.spa_markers
    decision: GateDecision
    if score >= RAW_SCORE:
        decision, why = "raw", f"score {score:.4g} is at least {RAW_SCORE}"
    elif score <= HEADLESS_SCORE:
        decision, why = "headless", f"score {score:.4g} is at most {HEADLESS_SCORE}"
    elif len(markers) >= SURE_MARKERS:
        decision, why = "headless", f"{len(markers)} signs of a page that a script builds"
    else:
        decision, why = (
            "probes_first",
            f"score {score:.4g} lies between {HEADLESS_SCORE} and {RAW_SCORE}",
        )
    signs = f"{len(markers)} single-page markers"
    if markers:
        signs += f" ({', '.join(markers)})"
    return Verdict(
        score,
        decision,
        f"{why}: {features.text_ratio:.0%} of the page is visible text,"
        f" {features.paragraphs} paragraphs,"
        f" {features.script_density:.0%} inline script, {signs}",
    )


def judge_data(features: GateFeatures, essence: str) -> Verdict:
    """The verdict on what is not HTML: no script can build more of it, whatever it scores."""
    score = judge(features).score
    return Verdict(
        score, "raw", f"{essence} is not HTML, and so all there is to read: score {score:.4g}"
    )
