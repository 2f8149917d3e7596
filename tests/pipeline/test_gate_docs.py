"""The page about the pipeline: its example of the gate is what the code computes."""

import re

from eventmesh_trio.app.explain_text import gate_lines
from eventmesh_trio.app.explanation import Judged
from eventmesh_trio.pipeline.extract import extract_page
from eventmesh_trio.pipeline.gate import HEADLESS_SCORE, RAW_SCORE, SURE_MARKERS, terms
from tests.helpers.programs import CHECKOUT

TEXT = (CHECKOUT / "docs" / "pipeline.rst").read_text("utf-8")


def block_after(text: str) -> str:
    """The literal or code block that follows, dedented."""
    found = re.search(re.escape(text) + r"\n\n((?: {4}.*\n|\n)+)", TEXT)
    assert found is not None
    return re.sub(r"^ {4}", "", found[1], flags=re.M).strip()


def test_the_example_is_what_the_gate_says_of_the_page() -> None:
    found = extract_page(block_after(".. code-block:: html").encode())
    assert found.gate_features is not None
    judged = Judged(
        found.gate_features,
        terms(found.gate_features),
        found.gate_score,
        found.gate_decision,
        found.gate_reason,
    )
    assert block_after("``eventmesh explain`` says of it::").splitlines() == gate_lines(judged)


def test_the_thresholds_are_those_of_the_code() -> None:
    assert f"the score is {RAW_SCORE} or more" in TEXT
    assert f"the score is {HEADLESS_SCORE} or less" in TEXT
    assert f"there are {SURE_MARKERS} SPA markers or more" in TEXT
