"""Where the peers are installed: each once, and one that cannot be costs the others nothing."""

import sys
from pathlib import Path

import pytest

from benchmarks import environment


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was asked to install; nothing is, and what is called broken cannot be."""
    names: list[str] = []

    def pip_install(_: str, name: str) -> bool:
        names.append(name)
        return name != "broken"

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "requirements.txt").write_text("# peers\none\n\nbroken\ntwo[x]\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "_pip_install", pip_install)
    monkeypatch.setattr(environment.venv, "create", lambda path, **_: path.mkdir())
    return names


def test_each_package_is_installed_once_and_one_that_failed_is_tried_again(
    tmp_path: Path, asked: list[str]
) -> None:
    folder = tmp_path / "environment"
    assert environment.install(folder) == str(folder / "bin" / "python")
    assert asked == ["pip", "one", "broken", "two[x]"]
    asked.clear()
    environment.install(folder)
    assert asked == ["broken"]


def test_a_package_that_is_named_later_is_installed_beside_the_others(
    tmp_path: Path, asked: list[str]
) -> None:
    folder = tmp_path / "environment"
    environment.install(folder)
    asked.clear()
    (tmp_path / "benchmarks" / "requirements.txt").write_text("one\nthree\n")
    environment.install(folder)
    assert asked == ["three"]


def test_an_environment_that_was_left_half_made_is_made_anew(
    tmp_path: Path, asked: list[str]
) -> None:
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "half").touch()
    environment.install(folder)
    assert not (folder / "half").exists()
    assert asked[0] == "pip"


def test_each_file_of_requirements_has_an_environment_of_its_own(
    tmp_path: Path, asked: list[str]
) -> None:
    (tmp_path / "benchmarks" / "requirements-crawl.txt").write_text("large\n")
    assert {path.name: name for path, name in environment.environments().items()} == {
        ".venv": "requirements.txt",
        ".venv-crawl": "requirements-crawl.txt",
    }
    environment.install(tmp_path / "crawl", "requirements-crawl.txt")
    assert asked == ["pip", "large"]


def test_a_module_that_is_not_there_is_the_reason_of_a_peer_that_is_missing() -> None:
    assert environment.importing(sys.executable, ("json", "os")) is None
    reason = environment.importing(sys.executable, ("json", "no_such_module"))
    assert reason == "ModuleNotFoundError: No module named 'no_such_module'"
