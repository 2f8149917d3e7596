"""The hot paths execute no more instructions than they did; and the guard itself sees when."""

from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.instructions import INSTALL, RENEW, TOLERANCE, Stored, regressions, stored, write
from tests.helpers.programs import in_ci, require_program


@pytest.mark.slow
def test_no_hot_path_takes_a_tenth_more_instructions_than_it_did() -> None:
    require_program("valgrind", INSTALL)
    before = stored()
    if before is None:
        message = f"no counts for Python {instructions.version()}; store them with: {RENEW}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    found = regressions(instructions.count(), before.instructions)
    assert not found, "\n".join(
        (*found, f"stored by {before.build}", f"if that is meant, store what is true: {RENEW}")
    )


def test_a_tenth_more_is_a_regression_and_less_is_none() -> None:
    before = {"a": 1000, "b": 1000, "c": 1000}
    assert regressions({"a": 1100, "b": 1000, "c": 10}, before) == []
    (found,) = regressions({"a": 1101, "b": 1000, "c": 1000}, before)
    assert found == "a: 1,101 instructions, +10.1% of 1,000"
    assert TOLERANCE == 0.1


def test_a_path_that_is_not_stored_or_not_counted_fails_too() -> None:
    found = regressions({"new": 5}, {"old": 5})
    assert found == [
        "new: 5 instructions, and nothing is stored",
        "old: stored, but not counted any more",
    ]


def test_what_is_written_is_read_back_and_other_versions_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "instructions.json"
    assert stored(file) is None
    write({"a": 1}, file)
    monkeypatch.setattr(instructions, "version", lambda: "3.99")
    assert stored(file) is None
    write({"a": 2}, file)
    write({"a": 3}, file)
    assert stored(file) == Stored(instructions.build(), {"a": 3})
    monkeypatch.undo()
    assert stored(file) == Stored(instructions.build(), {"a": 1})
