"""Real pages with ground truth and hazards, from the folder beside the checkout where there is one.

``EVENTMESH_SHARED`` names another place for that folder.
"""

import gzip
import json
import os
import re
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eventmesh_trio.errors import UnsupportedContent
from eventmesh_trio.pipeline.extract import extract_document, extract_page

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EVENTMESH_SHARED") or ROOT.parent / "shared") / "extraction"
HAZARDS = SHARED / "hazards"
PAGES = SHARED / "dev" / "pages"
MANIFEST: list[dict[str, Any]] = (
    json.loads((HAZARDS / "manifest.json").read_text())
    if (HAZARDS / "manifest.json").exists()
    else []
)
SLOW_MACHINE = 2
"""Time limits of the manifest are for a quiet machine."""


def read(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.skipif(not MANIFEST, reason=f"{HAZARDS} is not there")
@pytest.mark.parametrize("case", MANIFEST, ids=lambda case: str(case["file"]).partition(".")[0])
def test_a_hazard_page_gives_what_its_manifest_says(case: dict[str, Any]) -> None:
    body = read(HAZARDS / case["file"])
    charset = case["content_type"].partition("charset=")[2] or None
    started = time.process_time()
    text = markdown = ""
    try:
        document = extract_page(
            body, "https://example.org/a/b", charset=charset, content_type=case["content_type"]
        ).document
        text, markdown = document.text, document.markdown
    except UnsupportedContent:
        assert not case["contains"]  # a refusal is an answer where nothing is to be found
    elapsed_ms = (time.process_time() - started) * 1000
    for words in case["contains"]:
        assert words in text
    for words in case["absent"]:
        assert words not in text + markdown
    assert elapsed_ms < case["limit_ms"] * SLOW_MACHINE


def shingles(text: str) -> Counter[tuple[str, ...]]:
    tokens = re.findall(r"\w+", text)
    return Counter(
        tuple(tokens[i : i + 4]) for i in range(max(1, len(tokens) - 3)) if tokens[i : i + 4]
    )


def f1(pages: list[tuple[str, str]]) -> float:
    """F1 of mean precision and recall over 4-token shingles, as in scrapinghub's benchmark."""
    precisions, recalls = [], []
    for truth, found in pages:
        true, got = shingles(truth), shingles(found)
        hits = sum((true & got).values())
        if got:
            precisions.append(hits / sum(got.values()))
        if true:
            recalls.append(hits / sum(true.values()))
    precision, recall = statistics.fmean(precisions), statistics.fmean(recalls)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.slow
@pytest.mark.skipif(not PAGES.exists(), reason=f"{PAGES} is not there")
def test_main_text_is_found_on_real_pages() -> None:
    by_source: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(PAGES.glob("*.json")):
        truth = json.loads(path.read_text())
        document = extract_document(read(path.with_suffix(".html.gz")), truth["url"])
        by_source.setdefault(truth["source"], []).append((truth["text"], document.text))
    scores = {source: round(f1(pages), 3) for source, pages in by_source.items()}
    print(scores)
    assert scores["sh"] >= 0.97
    assert scores["moz"] >= 0.945
    assert f1([page for pages in by_source.values() for page in pages]) >= 0.865
