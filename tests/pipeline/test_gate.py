"""The gate's score, decision and reason."""

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.pipeline.extract import extract_page
from eventmesh_trio.pipeline.gate import Features, judge

BARE = Features(
    text_ratio=0.0,
    paragraphs=0,
    has_article=False,
    has_opengraph=False,
    has_article_jsonld=False,
    script_density=0.0,
    spa_markers=0,
)


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({}, 0.0),
        ({"text_ratio": 0.25}, 0.3),
        ({"text_ratio": 0.5}, 0.6),
        ({"text_ratio": 0.9}, 0.6),
        ({"paragraphs": 10}, 0.06 * math.log(11)),
        ({"paragraphs": 1000}, 0.3),
        ({"has_article": True}, 0.15),
        ({"has_opengraph": True}, 0.08),
        ({"has_article_jsonld": True}, 0.12),
        ({"text_ratio": 0.5, "script_density": 0.25}, 0.4),
        ({"text_ratio": 0.5, "script_density": 0.9}, 0.2),
        ({"text_ratio": 0.5, "spa_markers": 1}, 0.6),
        ({"text_ratio": 0.5, "spa_markers": 2}, 0.35),
        ({"script_density": 1.0}, 0.0),
        ({"text_ratio": 1, "paragraphs": 1000, "has_article": True, "has_opengraph": True}, 1.0),
    ],
)
def test_each_feature_moves_the_score_as_the_formula_says(
    changes: dict[str, float], score: float
) -> None:
    assert judge(attrs.evolve(BARE, **changes)).score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({"text_ratio": 0.5, "has_article": True}, "raw"),
        ({"text_ratio": 0.5}, "probes_first"),
        ({"text_ratio": 0.25}, "headless"),
        ({"text_ratio": 1, "paragraphs": 1000, "has_article": True, "spa_markers": 3}, "headless"),
    ],
)
def test_the_score_decides_unless_a_script_builds_the_page(
    changes: dict[str, float], decision: str
) -> None:
    assert judge(attrs.evolve(BARE, **changes)).decision == decision


@given(
    st.builds(
        Features,
        text_ratio=st.floats(0, 1),
        paragraphs=st.integers(0, 10**6),
        has_article=st.booleans(),
        has_opengraph=st.booleans(),
        has_article_jsonld=st.booleans(),
        script_density=st.floats(0, 1),
        spa_markers=st.integers(0, 4),
    )
)
def test_the_score_is_always_a_share_and_the_reason_a_sentence(features: Features) -> None:
    verdict = judge(features)
    assert 0 <= verdict.score <= 1
    assert f"{features.paragraphs} paragraphs" in verdict.reason


def gate_of(page: str) -> tuple[float, str]:
    extraction = extract_page(page.encode())
    return extraction.gate_score, extraction.gate_reason


def test_text_that_nobody_sees_is_no_text() -> None:
    text = "A sentence of some length that a reader sees. " * 10
    seen = gate_of(f"<body><p>{text}</p>")
    hidden = gate_of(f"<body><p hidden>{text}</p>")
    scripted = gate_of(f"<body><script>{text}</script>")
    assert seen[0] > 0.6
    assert hidden[0] == scripted[0] == 0.0
    assert "1 paragraphs" in seen[1]
    assert "0% of the page is visible text" in hidden[1]


def test_inline_script_lowers_the_score_and_structured_data_does_not() -> None:
    body = "<body><p>" + "A sentence of some length. " * 20
    plain, _ = gate_of(body)
    script, _ = gate_of(body + "<script>" + "x();" * 300 + "</script>")
    data, _ = gate_of(
        body
        + '<script type="application/ld+json">{"@type": "NewsArticle", "a": "'
        + "x" * 100
        + '"}</script>'
    )
    assert script < plain - 0.2
    assert data == pytest.approx(plain + 0.12)
