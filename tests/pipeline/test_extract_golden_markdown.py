"""Pages of our own, and the Markdown they should give: each is named by what goes wrong elsewhere.

A case is ``golden_markdown/<name>.html``, the body of a page at https://example.org/a/b, and
``<name>.md``. To add one, write both by hand; to read one, look at them side by side.
"""

from pathlib import Path

import pytest

from eventmesh_trio.pipeline.extract import extract_document

FOLDER = Path(__file__).with_name("golden_markdown")
CASES = sorted(path.stem for path in FOLDER.glob("*.html"))
URL = "https://example.org/a/b"
MIN_CASES = 60


def test_the_corpus_is_there_and_whole() -> None:
    assert len(CASES) >= MIN_CASES
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == CASES


@pytest.mark.parametrize("name", CASES)
def test_a_page_gives_the_markdown_beside_it(name: str) -> None:
    page = (FOLDER / f"{name}.html").read_text(encoding="utf-8")
    expected = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    written = extract_document(
        f"<!DOCTYPE html><body>{page.rstrip()}</body>".encode(), URL, mode="full", charset="utf-8"
    ).markdown
    assert written + "\n" == expected
