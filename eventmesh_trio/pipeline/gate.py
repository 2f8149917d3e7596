"""How much a static page already says, and so how to read it: as it is, with a probe, in a browser.

The score is the formula of the specification's own implementation; every feature is measured on
the parsed page, and *text* is what a reader would see.
"""

import math
from typing import Final, Literal

import attrs
from selectolax.lexbor import LexborHTMLParser

__all__ = ["Features", "GateDecision", "Verdict", "judge", "measure"]

GateDecision = Literal["raw", "probes_first", "headless"]

RAW_SCORE: Final = 0.7
HEADLESS_SCORE: Final = 0.3
_PARAGRAPH_CHARS: Final = 25
_MOUNT_POINTS: Final = (
    "#root, #app, #__next, #__nuxt, #gatsby-focus-wrapper, #svelte, [ng-app], app-root, "
    "[data-reactroot]"
)
_STATE: Final = (
    "__NEXT_DATA__",
    "__NUXT__",
    "__INITIAL_STATE__",
    "__APOLLO_STATE__",
    "__PRELOADED_STATE__",
    "webpackJsonp",
    "webpackChunk",
)


@attrs.frozen(kw_only=True)
class Features:
    """What the score is made of. Ratios are 0-1, of the page's characters."""

    text_ratio: float  # visible text
    paragraphs: int  # <p> with a sentence's length of visible text
    has_article: bool  # <article> or <main>
    has_opengraph: bool
    has_article_jsonld: bool
    script_density: float  # inline script
    spa_markers: int  # signs that a script builds the page, 0-4


@attrs.frozen
class Verdict:
    """``score`` is 0-1; ``reason`` is one sentence with the figures that decided."""

    score: float
    decision: GateDecision
    reason: str


def measure(
    tree: LexborHTMLParser,
    page_chars: int,
    visible_chars: int,
    *,
    paragraphs: int,
    has_opengraph: bool,
    has_article_jsonld: bool,
) -> Features:
    """Measure a parsed page. ``visible_chars`` and ``paragraphs`` come from the outline's walk."""
    script_chars = sources = 0
    has_state = False
    for script in tree.css("script"):
        attributes = script.attributes
        sources += "src" in attributes
        text = script.text()
        kind = (attributes.get("type") or "").lower()
        if kind != "application/ld+json":
            script_chars += len(text)
        if attributes.get("id") in _STATE or any(word in text for word in _STATE):
            has_state = True
    mount = tree.css_first(_MOUNT_POINTS)
    bare = visible_chars < 200
    noscript = tree.css_first("body noscript")
    markers = (
        mount is not None,
        has_state,
        bare and (sources > 0 or script_chars > 0),
        bare and noscript is not None and "script" in noscript.text().lower(),
    )
    return Features(
        text_ratio=visible_chars / page_chars if page_chars else 0.0,
        paragraphs=paragraphs,
        has_article=tree.css_first("article, main") is not None,
        has_opengraph=has_opengraph,
        has_article_jsonld=has_article_jsonld,
        script_density=min(script_chars / page_chars, 1.0) if page_chars else 0.0,
        spa_markers=sum(markers),
    )


def count_paragraphs(lengths: list[int]) -> int:
    """How many paragraph lengths, in characters, are a sentence's or more."""
    return sum(length >= _PARAGRAPH_CHARS for length in lengths)


def judge(features: Features) -> Verdict:
    """Score the features and decide; pure arithmetic."""
    score = (
        min(max(1.2 * features.text_ratio, 0.0), 0.6)
        + min(max(0.06 * math.log1p(features.paragraphs), 0.0), 0.3)
        + 0.15 * features.has_article
        + 0.08 * features.has_opengraph
        + 0.12 * features.has_article_jsonld
        - min(max(0.8 * features.script_density, 0.0), 0.4)
        - 0.25 * (features.spa_markers >= 2)
    )
    score = round(min(max(score, 0.0), 1.0), 4)
    decision: GateDecision
    if features.spa_markers >= 3:
        decision, why = "headless", f"{features.spa_markers} signs of a page that a script builds"
    elif score >= RAW_SCORE:
        decision, why = "raw", f"score {score:.2f} is at least {RAW_SCORE}"
    elif score <= HEADLESS_SCORE:
        decision, why = "headless", f"score {score:.2f} is at most {HEADLESS_SCORE}"
    else:
        decision, why = (
            "probes_first",
            f"score {score:.2f} lies between {HEADLESS_SCORE} and {RAW_SCORE}",
        )
    reason = (
        f"{why}: {features.text_ratio:.0%} of the page is visible text,"
        f" {features.paragraphs} paragraphs,"
        f" {features.script_density:.0%} inline script, {features.spa_markers} single-page markers"
    )
    return Verdict(score, decision, reason)
