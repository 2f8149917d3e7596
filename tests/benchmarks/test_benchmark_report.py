"""What is kept of the benchmarks, and the pages that are made of it."""

import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import attrs
import docutils.core
import msgspec
import pytest

from benchmarks import report
from benchmarks.environment import ENVIRONMENT, importing
from benchmarks.machine import Machine, describe
from benchmarks.markup import between, escaped, table
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.plots import plot_names
from benchmarks.results import Record, read_all, read_record, write_record
from tests.helpers.programs import CHECKOUT

MACHINE = Machine(
    "A CPU", 2, 23.5, "6.1", "3.11.7", 0.25, {"eventmesh_trio": "0.1", "aiohttp": "3"}
)
CASE = Case(
    "ndjson, 1 reader, 1.4 KB",
    "events/s",
    (
        Figure("eventmesh_trio", (100.0, 120.0), {"first_byte_ms": 1.5}),
        Figure("granian (RSGI)", (80.0, 90.0), {"first_byte_ms": 2.5}),
        Figure("bare socket that encodes", (400.0, 400.0)),
    ),
)
RECORD = Record(
    title="Streams",
    about="All in *turn*.\n",
    taken_at="2026-11-21T12:00:00Z",
    seconds=600.0,
    options=Options(),
    machine=MACHINE,
    outcome=Outcome(
        "stream",
        (CASE,),
        (Demand("ours to granian", 1.7, 1.3, 1.2, 1.4), Demand("p99", 8.0, 3.0, at_most=True)),
        {"quart-trio": "No module named\n'quart_trio'"},
    ),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with the pages that a report is put into."""
    for path in (report.README, report.PERFORMANCE):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(CHECKOUT / path, tmp_path / path)
    return tmp_path


# --- What is kept ---------------------------------------------------------------------------------


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_record(RECORD, tmp_path / "results")
    assert path.name == "stream.json"
    assert read_record(path) == RECORD
    assert read_all(tmp_path / "results") == {"stream": RECORD}
    assert list(path.parent.iterdir()) == [path]  # no half of one is left


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stream.json").write_text('{"title": "Streams"}')
    with pytest.raises(msgspec.ValidationError, match="about"):
        read_all(tmp_path)


def test_the_machine_is_described_with_our_version_and_the_load_before_the_start() -> None:
    machine = describe(1.234)
    assert machine.load == 1.23
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert "eventmesh_trio" in machine.versions


# --- Markup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a*b*", "`x`", "under_ score_", "|bar|", "back\\slash", "plain"])
def test_escaped_text_means_nothing_but_itself(text: str) -> None:
    parts = docutils.core.publish_parts(escaped(text), writer="xml")
    paragraph = ET.fromstring(parts["whole"]).find("paragraph")
    assert paragraph is not None
    assert (paragraph.text, list(paragraph)) == (text, [])


def test_a_table_without_words_in_its_first_column_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        table(("a", "b"), [("", "1")])


def test_what_stands_between_two_comments_is_replaced_and_nothing_else() -> None:
    text = "before\n\n.. begin it\n\nold\n\n.. end it\n\nafter\n"
    assert between(text, "it", "new") == text.replace("old", "new")
    assert between(between(text, "it", "new"), "it", "old") == text


@pytest.mark.parametrize(
    "text", ["", ".. begin it\n", ".. end it\n.. begin it\n", ".. begin it\n.. end it\n" * 2]
)
def test_a_page_without_a_place_for_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place for it"):
        between(text, "it", "new")


# --- Pages ----------------------------------------------------------------------------------------


def test_the_readme_shows_ours_beside_the_best_peer(root: Path) -> None:
    pages = report.render({"stream": RECORD}, root)
    (row,) = [line for line in pages[report.README].splitlines() if line.startswith("stream:")]
    assert row.startswith("stream: ndjson, 1 reader, 1.4 KB ")
    assert "110 events/s" in row
    assert "85.0 events/s" in row
    assert "granian (RSGI)" in row
    assert row.endswith("1.29")


def test_a_page_shows_every_figure_and_what_was_missed_like_what_was_met(root: Path) -> None:
    pages = report.render({"stream": RECORD}, root)
    page, section = pages[report.PAGES / "stream.rst"], pages[report.PERFORMANCE]
    for text in (page, section):
        lines = text.splitlines()
        assert any("ours to granian" in line and "**missed**" in line for line in lines)
        assert any(line.startswith("p99") and " met " in line for line in lines)
        assert ".. image::" in text
    for figure in CASE.figures:
        assert figure.contestant in page
    assert "1.29x" in page
    assert "quart-trio: No module named 'quart\\_trio'" in page or "'quart_trio'" in page
    assert "1 of 2 demands are met" in section


def test_pages_are_rendered_without_a_complaint_of_docutils(root: Path) -> None:
    report.write({"stream": RECORD}, root)
    for path in report.render({"stream": RECORD}, root):
        docutils.core.publish_string(
            (root / path).read_text("utf-8"),
            source_path=str(root / path),
            writer="null",
            settings_overrides={"report_level": 2, "halt_level": 2},
        )


def test_a_comparison_that_is_kept_no_more_loses_its_page(root: Path) -> None:
    report.write({"stream": RECORD}, root)
    assert (root / report.PAGES / "stream.rst").exists()
    report.write({}, root)
    assert not (root / report.PAGES / "stream.rst").exists()
    assert report.NOTHING in (root / report.README).read_text("utf-8")


def test_a_peer_that_took_no_time_is_in_no_headline() -> None:
    still = attrs.evolve(CASE, figures=(CASE.figures[0], Figure("still", (0.0,))))
    assert report.headline_table([attrs.evolve(RECORD, outcome=Outcome("idle", (still,)))]) == (
        report.NOTHING
    )


def test_many_cases_are_plotted_by_what_their_names_begin_with() -> None:
    few = Outcome("crawl", (CASE,))
    assert [name for name, _ in plot_names(few)] == ["crawl.svg"]
    many = [
        attrs.evolve(CASE, name=f"{kind}, {n}") for kind in ("sse", "web socket") for n in "12345"
    ]
    names = [name for name, _ in plot_names(Outcome("stream", tuple(many)))]
    assert names == ["stream-sse.svg", "stream-web-socket.svg"]


@pytest.mark.slow
def test_a_plot_is_drawn_the_same_each_time_with_its_text_as_text(tmp_path: Path) -> None:
    python = ENVIRONMENT / "bin" / "python"
    if not python.is_file() or importing(str(python), ("matplotlib",)) is not None:
        pytest.skip("matplotlib is not installed for the peers: python -m benchmarks --report")
    path = write_record(RECORD, tmp_path)
    drawings = []
    for _ in range(2):
        command = [python, "-m", "benchmarks.plots", tmp_path, path]
        subprocess.run(command, cwd=CHECKOUT, check=True)
        drawings.append((tmp_path / "stream.svg").read_bytes())
    assert drawings[0] == drawings[1]
    text = {one.text for one in ET.fromstring(drawings[0]).iter("{http://www.w3.org/2000/svg}text")}
    assert {CASE.name, "events/s", *(figure.contestant for figure in CASE.figures)} <= text
    assert {" 110 ", " 85 "} <= text


# --- The pages that are here ----------------------------------------------------------------------


def test_readme_and_pages_are_what_the_kept_results_render_to() -> None:
    pages = report.render(read_all())
    for path, text in pages.items():
        assert (CHECKOUT / path).read_text("utf-8") == text, (
            f"{path}: python -m benchmarks --report"
        )
    there = {path.relative_to(CHECKOUT) for path in (CHECKOUT / report.PAGES).glob("*.rst")}
    assert there == {path for path in pages if path.parent == report.PAGES}


def test_every_plot_is_there_and_names_everybody_who_took_part() -> None:
    drawn = {
        CHECKOUT / report.PAGES / name: record
        for record in read_all().values()
        for name, _ in plot_names(record.outcome)
    }
    assert set((CHECKOUT / report.PAGES).glob("*.svg")) == set(drawn)
    for path, record in drawn.items():
        shown = {text.text for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}
        assert shown & {case.name for case in record.outcome.cases}
        assert any(name and name.startswith("eventmesh_trio") for name in shown)
