"""A short run of ``tools/fuzz_extract.py``; ten minutes of it are run by hand before a release."""

import random
import re
import sys
from pathlib import Path
from subprocess import run

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import fuzz_extract

ROOT = Path(__file__).resolve().parents[2]


def test_broken_pages_are_read_or_refused_within_their_time_and_memory() -> None:
    rng = random.Random(5)
    for _ in range(150):
        case = fuzz_extract.make_case(rng, fuzz_extract.OWN_PAGES)
        case = case._replace(body=case.body[:300_000])
        outcome = fuzz_extract.read_case(case)
        assert not outcome.failure


def test_the_same_seed_breaks_the_same_pages() -> None:
    one, two = (
        [fuzz_extract.make_case(rng, fuzz_extract.OWN_PAGES) for _ in range(40)]
        for rng in (random.Random(1), random.Random(1))
    )
    assert one == two
    assert len({case.body for case in one}) > 30


def test_the_command_prints_its_figures_and_keeps_what_fails(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text("<p>A page.")
    done = run(
        [
            *(sys.executable, ROOT / "tools" / "fuzz_extract.py", "--seconds", "1"),
            *("--pages", tmp_path / "pages", "--keep", tmp_path / "bad"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    figures = re.search(r"pages 8, mutations (\d+), MB \d+\nfailures (\d+)\n", done.stdout)
    assert figures is not None, done.stderr
    assert int(figures[1]) > 0
    assert done.returncode == (1 if int(figures[2]) else 0)
    assert (tmp_path / "bad").exists() is bool(int(figures[2]))


@pytest.mark.parametrize("wrong", ["time", "memory", "crash"])
def test_what_takes_too_much_or_raises_is_told(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        if wrong == "crash":
            raise IndexError("string index out of range")

    monkeypatch.setattr("eventmesh_trio.pipeline.extract.extract_page", read)
    if wrong == "time":
        monkeypatch.setattr(fuzz_extract, "LEAST_SECONDS", -1.0)
        monkeypatch.setattr(fuzz_extract, "SECONDS_PER_MB", -1.0)
    if wrong == "memory":
        monkeypatch.setattr(fuzz_extract, "MAX_PAGE_MB", -1)
    outcome = fuzz_extract.read_case(fuzz_extract.Case(b"x", None, None, "article"))
    assert {"time": "took", "memory": "MB", "crash": "IndexError"}[wrong] in outcome.failure
