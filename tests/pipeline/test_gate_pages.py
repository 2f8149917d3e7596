"""What the gate decides for pages of every kind, through the real parser."""

import pytest

from eventmesh_trio.abc import Extraction
from eventmesh_trio.pipeline.extract import extract_page
from tests.pipeline.page_kinds import KINDS


def read(name: str) -> Extraction:
    page, content_type, _ = KINDS[name]
    return extract_page(page.encode(), "https://e.org/", content_type=content_type)


@pytest.mark.parametrize("name", KINDS)
def test_the_gate_decides_by_kind(name: str) -> None:
    extraction = read(name)
    assert extraction.gate_decision == KINDS[name][2], extraction.gate_reason


@pytest.mark.parametrize("name", ["react_shell", "vue_shell", "next_csr", "infinite_feed"])
def test_an_empty_application_has_three_signs_or_more(name: str) -> None:
    features = read(name).gate_features
    assert features is not None
    assert len(features.spa_markers) >= 3


@pytest.mark.parametrize(
    "name", ["article", "blog", "docs", "wiki", "amp", "angular_universal", "cookie_banner"]
)
def test_a_page_with_its_text_has_no_sign(name: str) -> None:
    features = read(name).gate_features
    assert features is not None
    assert features.spa_markers == ()


@pytest.mark.parametrize("name", ["next_ssr", "nuxt_ssr", "next_rsc"])
def test_state_beside_the_text_that_it_was_made_of_is_one_sign(name: str) -> None:
    features = read(name).gate_features
    assert features is not None
    assert features.spa_markers == ("application state",)
