"""``python -m benchmarks``: what it writes where, and with which status it ends."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import command
from benchmarks.outcome import Case, Demand, Figure, Options, Outcome
from benchmarks.results import read_record

Compare = Callable[[Options], Outcome]


def outcome(name: str, found: float, **missing: str) -> Outcome:
    case = Case("a case", "events/s", (Figure("eventmesh_trio", (found,)), Figure("x", (1.0,))))
    return Outcome(name, (case,), (Demand("ours to x", 2.0, found),), missing)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results go to a folder of the test, and nothing is rendered."""
    monkeypatch.setattr(command, "RESULTS", tmp_path / "full")
    monkeypatch.setattr(command, "QUICK_RESULTS", tmp_path / "quick")
    monkeypatch.setattr(command, "report", lambda: command.MEASURED)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    return tmp_path


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Compare], None]:
    """Puts a comparison in the place of a module of that name."""

    def put(name: str, compare: Compare) -> None:
        module = ModuleType(f"benchmarks.{name}")
        vars(module).update(TITLE=f"The {name}", ABOUT="How.\n", compare=compare)
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)

    return put


def test_a_comparison_is_shown_and_kept(
    folders: Path,
    comparison: Callable[[str, Compare], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    comparison("stream", lambda options: outcome("stream", 3.0, y="not there"))
    assert command.main(["stream", "--rounds", "4"]) == 0
    record = read_record(folders / "full" / "stream.json")
    assert (record.title, record.options) == ("The stream", Options(rounds=4))
    assert record.outcome == outcome("stream", 3.0, y="not there")
    shown = capsys.readouterr().out
    for words in ("The stream", "a case", "3.00x", "met    ours to x", "missing: y: not there"):
        assert words in shown


def test_a_quick_run_never_touches_what_is_kept(
    folders: Path, comparison: Callable[[str, Compare], None]
) -> None:
    comparison("stream", lambda options: outcome("stream", 9.0 if options.quick else 3.0))
    assert command.main(["stream"]) == 0
    kept = (folders / "full" / "stream.json").read_bytes()
    assert command.main(["stream", "--quick"]) == 0
    assert (folders / "full" / "stream.json").read_bytes() == kept
    assert read_record(folders / "quick" / "stream.json").outcome == outcome("stream", 9.0)


@pytest.mark.parametrize(("found", "status"), [(2.0, 0), (1.9, 1)])
def test_check_ends_with_1_where_a_demand_is_missed(
    folders: Path, comparison: Callable[[str, Compare], None], found: float, status: int
) -> None:
    comparison("stream", lambda options: outcome("stream", found))
    assert command.main(["stream", "--check"]) == status
    assert command.main(["stream"]) == 0


def test_check_ends_with_1_where_a_peer_was_missing(
    folders: Path, comparison: Callable[[str, Compare], None], capsys: pytest.CaptureFixture[str]
) -> None:
    comparison("stream", lambda options: outcome("stream", 3.0, y="not there"))
    assert command.main(["stream", "--check"]) == 1
    assert "not checked beside every peer, for some were missing: stream" in capsys.readouterr().out


def test_a_comparison_that_fails_or_is_not_there_costs_the_others_nothing(
    folders: Path,
    comparison: Callable[[str, Compare], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: Options) -> Outcome:
        raise RuntimeError("the peer is gone")

    comparison("stream", fail)
    comparison("fanout", lambda options: outcome("fanout", 3.0))
    monkeypatch.setitem(sys.modules, "benchmarks.latency", None)  # cannot be imported
    assert command.main(["stream", "latency", "fanout", "--check"]) == 3
    assert [path.name for path in (folders / "full").iterdir()] == ["fanout.json"]
    said = capsys.readouterr().err
    assert "the peer is gone" in said
    assert "not measured: stream, latency" in said


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--rounds", "0"], ["--report", "stream"], ["--report", "--check"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
