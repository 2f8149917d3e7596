"""The gate's formula: the score, the decision and the reason."""

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.abc import GateFeatures
from eventmesh_trio.pipeline.gate import Term, judge, judge_data, terms

BARE = GateFeatures(
    page_chars=1000,
    visible_chars=0,
    paragraphs=0,
    has_article=False,
    has_opengraph=False,
    has_article_jsonld=False,
    script_chars=0,
)
ONE, TWO, THREE, FOUR = (tuple("abcd"[:count]) for count in (1, 2, 3, 4))
RANKS = ("headless", "probes_first", "raw")

features_of_any_page = st.builds(
    GateFeatures,
    page_chars=st.integers(0, 10**7),
    visible_chars=st.integers(0, 10**7),
    paragraphs=st.integers(0, 10**6),
    has_article=st.booleans(),
    has_opengraph=st.booleans(),
    has_article_jsonld=st.booleans(),
    script_chars=st.integers(0, 10**7),
    spa_markers=st.sampled_from([(), ONE, TWO, THREE, FOUR]),
)


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({}, 0.0),
        ({"visible_chars": 250}, 0.3),
        ({"visible_chars": 500}, 0.6),
        ({"visible_chars": 900}, 0.6),
        ({"paragraphs": 1}, 0.06 * math.log(2)),
        ({"paragraphs": 10}, 0.06 * math.log(11)),
        ({"paragraphs": 147}, 0.06 * math.log(148)),
        ({"paragraphs": 148}, 0.3),
        ({"paragraphs": 1000}, 0.3),
        ({"has_article": True}, 0.15),
        ({"has_opengraph": True}, 0.08),
        ({"has_article_jsonld": True}, 0.12),
        ({"visible_chars": 500, "script_chars": 250}, 0.4),
        ({"visible_chars": 500, "script_chars": 500}, 0.2),
        ({"visible_chars": 500, "script_chars": 900}, 0.2),
        ({"visible_chars": 500, "spa_markers": ONE}, 0.6),
        ({"visible_chars": 500, "spa_markers": TWO}, 0.35),
        ({"visible_chars": 500, "spa_markers": FOUR}, 0.35),
        ({"script_chars": 1000}, 0.0),
        ({"visible_chars": 999, "paragraphs": 999, "has_article": True}, 1.0),
        ({"page_chars": 0, "visible_chars": 0}, 0.0),
    ],
)
def test_each_feature_moves_the_score_as_the_formula_says(
    changes: dict[str, object], score: float
) -> None:
    assert judge(attrs.evolve(BARE, **changes)).score == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({"visible_chars": 500, "has_article": True}, "raw"),
        # 0.55 + 0.15, exactly at the threshold whatever binary fractions make of it
        ({"page_chars": 1200, "visible_chars": 550, "has_article": True}, "raw"),
        ({"page_chars": 12_000, "visible_chars": 5499, "has_article": True}, "probes_first"),
        ({"visible_chars": 500}, "probes_first"),
        ({"page_chars": 10_000, "visible_chars": 2501}, "probes_first"),
        ({"visible_chars": 250}, "headless"),
        ({}, "headless"),
        ({"visible_chars": 500, "has_article": True, "spa_markers": THREE}, "headless"),
        ({"visible_chars": 500, "has_article": True, "spa_markers": TWO}, "probes_first"),
        # As the formula is written: at 0.7 the text is there, whatever else is.
        ({"visible_chars": 999, "paragraphs": 99, "has_article": True, "spa_markers": TWO}, "raw"),
        ({"visible_chars": 999, "paragraphs": 99, "has_article": True, "spa_markers": FOUR}, "raw"),
    ],
)  # fmt: skip
def test_the_score_decides_and_below_raw_three_markers_do(
    changes: dict[str, object], decision: str
) -> None:
    assert judge(attrs.evolve(BARE, **changes)).decision == decision


@given(features_of_any_page)
def test_the_score_is_a_share_the_decision_fits_it_and_the_reason_says_so(
    features: GateFeatures,
) -> None:
    verdict = judge(features)
    assert 0 <= verdict.score <= 1
    if verdict.score >= 0.7:
        assert verdict.decision == "raw"
    elif verdict.score <= 0.3 or len(features.spa_markers) >= 3:
        assert verdict.decision == "headless"
    else:
        assert verdict.decision == "probes_first"
    assert f"{features.paragraphs} paragraphs" in verdict.reason
    assert f"{len(features.spa_markers)} single-page markers" in verdict.reason


@given(features_of_any_page)
def test_the_terms_are_what_the_score_is_the_sum_of(features: GateFeatures) -> None:
    summands = terms(features)
    assert len(summands) == 7
    total = math.fsum(term.points for term in summands)
    assert judge(features).score == pytest.approx(min(max(total, 0), 1), abs=1e-9)
    bounds = [(0, 0.6), (0, 0.3), (0, 0.15), (0, 0.08), (0, 0.12), (-0.4, 0), (-0.25, 0)]
    for term, (least, most) in zip(summands, bounds, strict=True):
        assert least <= term.points <= most, term


@given(features_of_any_page, features_of_any_page)
def test_more_text_and_structure_and_less_script_never_lower_score_or_decision(
    one: GateFeatures, two: GateFeatures
) -> None:
    size = max(one.page_chars, two.page_chars)
    low, high = (
        GateFeatures(
            page_chars=size,
            visible_chars=worse(one.visible_chars, two.visible_chars),
            paragraphs=worse(one.paragraphs, two.paragraphs),
            has_article=worse(one.has_article, two.has_article),
            has_opengraph=worse(one.has_opengraph, two.has_opengraph),
            has_article_jsonld=worse(one.has_article_jsonld, two.has_article_jsonld),
            script_chars=better(one.script_chars, two.script_chars),
            spa_markers=better(one.spa_markers, two.spa_markers),
        )
        for worse, better in ((min, max), (max, min))
    )
    assert judge(low).score <= judge(high).score
    assert RANKS.index(judge(low).decision) <= RANKS.index(judge(high).decision)


def test_a_term_says_what_was_measured_by_which_expression() -> None:
    features = attrs.evolve(BARE, visible_chars=100, spa_markers=TWO)
    assert terms(features)[0] == Term("text ratio", "0.100", "clamp(1.2 * ratio, 0, 0.6)", 0.12)
    assert terms(features)[-1] == Term("SPA markers", "2", "-0.25 if 2 or more", -0.25)


def test_the_reason_names_the_signs() -> None:
    features = attrs.evolve(BARE, visible_chars=500, spa_markers=("empty mount point",))
    assert judge(features).reason == (
        "score 0.6 lies between 0.3 and 0.7: 50% of the page is visible text, 0 paragraphs,"
        " 0% inline script, 1 single-page markers (empty mount point)"
    )


def test_what_is_not_html_is_read_as_it_is_whatever_it_scores() -> None:
    verdict = judge_data(attrs.evolve(BARE, visible_chars=250), "application/json")
    assert (verdict.decision, verdict.score) == ("raw", 0.3)
    assert verdict.reason.startswith("application/json is not HTML")
