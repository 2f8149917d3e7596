"""The benchmark of extraction: its measures are right, and it runs on a folder of pages."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import Overlap, is_right, overlap, rank_correlation, text_score
from benchmarks.extraction import OURS, cases_of, demands, running, take_rounds
from benchmarks.peers.extractors import read_folder
from benchmarks.quality import field_accuracy, groups_of, half_of
from benchmarks.ratios import is_ours

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "The old pump gave up on the night of the flood, when it was needed most. "
PAGE = (
    "<!DOCTYPE html><html><head><title>The pump | The Gull</title>"
    '<meta name="author" content="Ada Byron"><meta name="date" content="2024-05-17"></head><body>'
    f"<nav>Home News Sport</nav><article><h1>The pump</h1><p>{SENTENCE * 5}</p></article></body>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, source in enumerate(("ours", "theirs")):
        truth = {
            "url": f"https://gull{number}.example/pump",
            "text": SENTENCE * 5,
            "title": "The pump",
            "author": "Ada Byron",
            "date": "2024-05-17",
            "source": source,
            "page_type": "article",
        }
        (tmp_path / f"p{number}.json").write_text(json.dumps(truth))
        (tmp_path / f"p{number}.html.gz").write_bytes(gzip.compress(PAGE.encode()))
    (tmp_path / "without-page.json").write_text("{}")
    return tmp_path


def test_shingles_count_what_is_too_much_and_what_is_missing() -> None:
    assert overlap("a b c d e", "a b c d e") == Overlap(1.0, 0.0, 0.0, True)
    # Two shingles of four are wanted; one is there, one is not, and one is too many.
    found = overlap("a b c d e", "x a b c d")
    assert (found.hits, found.extra, found.missing, found.exact) == (1 / 3, 1 / 3, 1 / 3, False)
    assert found.f1 == pytest.approx(0.5)
    assert overlap("", "").f1 == overlap("a", "a").f1 == 1.0
    assert overlap("a b", "").f1 == 0.0


def test_f1_is_of_mean_precision_and_mean_recall() -> None:
    score = text_score([Overlap(1.0, 0.0, 0.0, True), Overlap(0.5, 0.5, 0.0, False)])
    assert (score.precision, score.recall, score.exact) == (0.75, 1.0, 0.5)
    assert score.f1 == pytest.approx(2 * 0.75 / 1.75)
    assert text_score([]).f1 == 0.0


@pytest.mark.parametrize(
    ("field", "truth", "found", "right"),
    [
        ("title", "The pump", "The Pump!", True),
        ("title", "The pump gives up", "The pump gives up today", True),
        ("title", "The pump gives up at last", "The pump", False),
        ("author", "Ada Byron", "By Ada Byron", True),
        ("author", "Ada Byron", "Jo Marsh", False),
        ("date", "2024-05-17", "2024-05-17T08:30:00Z", True),
        ("date", "2024-05-17", "2024-05-18", False),
        ("date", "2024-05-17", None, False),
    ],
)
def test_a_field_is_right_if_it_says_the_same(
    field: str, truth: str, found: str | None, right: bool
) -> None:
    assert is_right(field, truth, found) is right


def test_rank_correlation_is_of_the_order_alone() -> None:
    assert rank_correlation([(1, 10), (2, 200), (3, 201)]) == pytest.approx(1.0)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1.0)
    assert rank_correlation([(1, 1), (1, 2), (2, 2), (2, 3)]) == pytest.approx(0.7071, abs=1e-3)
    assert rank_correlation([(1, 1), (1, 2)]) == rank_correlation([(1, 1)]) == 0.0


def test_pages_of_one_host_are_in_one_half() -> None:
    halves = {half_of({"id": n, "url": f"https://gull.example/{n}"}) for n in "abcdef"}
    assert len(halves) == 1
    truths = [{"id": "a", "url": "https://x.example", "source": "s", "page_type": "forum"}]
    assert groups_of(truths)["all"] == ["a"]


def test_our_extractor_runs_in_a_process_of_its_own(folder: Path) -> None:
    truths = [truth for truth, _ in read_folder(folder)]
    assert [truth["id"] for truth in truths] == ["p0", "p1"]
    with running(OURS, sys.executable, folder, None, None) as runner:
        report = take_rounds([runner], truths, 1)[OURS]
    assert report.rate > 0
    assert report.failures == {}
    assert all(page.f1 > 0.9 for page in report.overlaps.values())
    assert all(field_accuracy(report, truths, name) == (1.0, 2) for name in ("title", "date"))


def test_an_outcome_has_speed_text_and_metadata_with_what_is_asked_of_them(folder: Path) -> None:
    truths = [truth for truth, _ in read_folder(folder)]
    with running(OURS, sys.executable, folder, None, None) as runner:
        reports = take_rounds([runner], truths, 1)
    cases = cases_of(reports, truths)
    assert cases[0].unit == "pages/s"
    everything = next(case for case in cases if case.name == "text, all, 2 pages")
    assert everything.figures[0].median > 0.9
    title = next(case for case in cases if case.name == "metadata, title of 2 pages")
    assert title.figures[0].rounds == (1.0,)
    assert all(is_ours(figure.contestant) for case in cases for figure in case.figures)
    # Nobody to be ten times as fast as: what is left is asked of F1 alone.
    assert [demand.text for demand in demands(reports, truths, cases[0])] == ["F1, all"]


def test_one_page_of_so_many_is_read(folder: Path) -> None:
    assert [truth["id"] for truth, _ in read_folder(folder, None, 2)] == ["p0"]
    with running(OURS, sys.executable, folder, None, None, 2) as runner:
        assert set(runner.ask("answers")["answers"]) == set()
        runner.ask("0 1")
        assert set(runner.ask("answers")["answers"]) == {"p0"}


def test_the_command_prints_what_was_measured(folder: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures"
    options = ("--ours", "--quick", "--source", "ours", "--json", str(written))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.extraction", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for heading in ("all, 1 pages", "metadata title of 1", "pages/s of one core", "quality_score"):
        assert heading in done.stdout
    assert json.loads(written.read_text())[OURS]["pages"]["p0"]["title"] is True
