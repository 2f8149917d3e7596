"""``start.py``: one environment, made once, and a clear sentence for each way it can fail."""

import configparser
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.helpers.programs import CHECKOUT, in_ci

START = CHECKOUT / "start.py"
NEEDED = ("start.py", "setup.cfg", "pyproject.toml", "README.rst", "requirements.lock")
UNREACHABLE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_NO_CACHE_DIR": "1",
}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for a checkout of its own that holds nothing but lock files."""
    spec = importlib.util.spec_from_file_location("start", START)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    for command in module.LOCKS:
        (tmp_path / f"{command}.lock").write_text(f"{command}==1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", venv)
    monkeypatch.setattr(module, "PYTHON", venv / "bin" / "python")
    monkeypatch.setattr(module, "LOCKS", {c: tmp_path / f"{c}.lock" for c in module.LOCKS})
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the checkout, in a folder with spaces in its name."""
    folder = tmp_path / "a checkout with spaces"
    folder.mkdir()
    for name in NEEDED:
        shutil.copy(CHECKOUT / name, folder)
    for name in ("eventmesh_trio", "tools"):
        shutil.copytree(
            CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def run(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a copy's start.py from another folder, with the Python that made our environment."""
    return subprocess.run(
        [base_python(), str(folder / "start.py"), *arguments],
        cwd=folder.parent,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def base_python() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@contextlib.contextmanager
def needing_an_index() -> Iterator[None]:
    """Skip where no package index can be reached; with ``CI=true`` that is a failure."""
    try:
        yield
    except AssertionError as error:
        if "package index cannot be reached" in str(error) and not in_ci():
            pytest.skip("no package index can be reached")
        raise


# --- which environment ----------------------------------------------------------------------------


def make_ready(start: ModuleType, command: str) -> None:
    start.PYTHON.parent.mkdir(parents=True, exist_ok=True)
    if not start.PYTHON.exists():
        start.PYTHON.symlink_to(sys.executable)
    start.stamp(command).write_text(start.fingerprint(command))


def test_an_environment_is_ready_once_its_stamp_is_written(start: ModuleType) -> None:
    assert not start.is_ready("demo")
    make_ready(start, "demo")
    assert start.is_ready("demo")
    assert not start.is_ready("test")


def test_a_changed_lock_file_makes_an_environment_stale(start: ModuleType) -> None:
    make_ready(start, "demo")
    start.LOCKS["demo"].write_text("demo==2\n")
    assert not start.is_ready("demo")


def test_an_environment_of_another_python_is_stale(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ready(start, "demo")
    monkeypatch.setattr(sys, "version", "3.99.0 (another)")
    assert not start.is_ready("demo")


def test_an_environment_whose_python_is_gone_is_stale(start: ModuleType) -> None:
    make_ready(start, "demo")
    start.PYTHON.unlink()
    start.PYTHON.symlink_to("/nonexistent/python3")
    assert not start.is_ready("demo")


def test_a_moved_checkout_is_stale(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready(start, "demo")
    monkeypatch.setattr(start, "ROOT", start.ROOT / "elsewhere")
    assert not start.is_ready("demo")


# --- failing clearly ------------------------------------------------------------------------------


def test_an_old_python_is_told_what_is_needed() -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 10, 9); sys.version = '3.10.9 (old)';"
        f"runpy.run_path({str(START)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "start.py: this is Python 3.10.9; start me with 3.11 or newer\n"


@pytest.mark.parametrize("arguments", [[], ["frobnicate"]])
def test_anything_but_the_two_commands_prints_them(
    start: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start.main(arguments) == 2
    usage = capsys.readouterr().err
    assert "start.py demo" in usage
    assert "start.py test" in usage


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "not the one in the lock file"),
        (
            "WARNING: NewConnectionError('...: [Errno 111] Connection refused')\n"
            "ERROR: Could not find a version that satisfies the requirement trio==1",
            "cannot be reached",
        ),
        ("ERROR: No matching distribution found for can-ada==3.0.0", "has no file for Python"),
        ("ERROR: something new", "pip could not install"),
    ],
)
def test_what_pip_says_becomes_a_reason_with_its_last_lines(
    start: ModuleType, said: str, reason: str
) -> None:
    with pytest.raises(start.Failed) as caught:
        start.fail_to_install(said)
    assert reason in str(caught.value)
    assert said.splitlines()[-1] in str(caught.value)


def test_a_folder_that_is_no_environment_is_left_alone(start: ModuleType) -> None:
    start.VENV.mkdir()
    (start.VENV / "thesis.txt").write_text("years of work")
    with pytest.raises(start.Failed, match="not a Python environment"):
        start.create()
    assert (start.VENV / "thesis.txt").exists()


def test_a_damaged_pip_is_never_run(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = start.ROOT / start.PIP.name
    damaged.write_bytes(start.PIP.read_bytes()[:-1])
    monkeypatch.setattr(start, "PIP", damaged)
    with pytest.raises(start.Failed, match="missing or damaged"):
        start.install("anything")


def test_a_full_disk_is_called_that(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_command: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(start, "prepare", fail)
    assert start.main(["demo"]) == 1
    assert capsys.readouterr().err == "start.py: the disk is full\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_a_half_made_environment_is_removed(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_arguments: object) -> None:
        assert (start.VENV / "pyvenv.cfg").exists()
        raise error

    monkeypatch.setattr(start, "install", fail)
    with pytest.raises(error):
        start.prepare("demo")
    assert not start.VENV.exists()


def test_what_a_killed_start_leaves_is_replaced(start: ModuleType) -> None:
    start.VENV.mkdir()
    (start.VENV / "pyvenv.cfg").touch()
    (start.VENV / "rest").touch()
    start.create()
    assert not (start.VENV / "rest").exists()
    assert start.PYTHON.exists()


def test_adding_what_tests_want_keeps_the_environment_of_the_demo_when_it_fails(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise start.Failed("no network")

    make_ready(start, "demo")
    monkeypatch.setattr(start, "install", fail)
    with pytest.raises(start.Failed):
        start.prepare("test")
    assert start.is_ready("demo")


# --- the checks -----------------------------------------------------------------------------------


def fake_checks(start: ModuleType, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Programs of those names, each of which says its arguments and then does what it is given."""
    bin_folder = start.VENV / "bin"
    bin_folder.mkdir(parents=True)
    for name, script in scripts.items():
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\necho "{name} was run with: $*"\n{script}\n')
        program.chmod(0o755)
    checks = {name: (name,) for name in scripts if name != "pytest"}
    monkeypatch.setattr(start, "CHECKS", checks)


def test_pytest_is_the_last_check_and_gets_the_arguments(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert list(start.CHECKS) == [
        *("import-linter", "ruff check", "ruff format", "flake8-async", "mypy")
    ]
    fake_checks(start, monkeypatch, mypy="exit 0", pytest="exit 0")
    assert start.run_checks(["-k", "start"]) == 0
    said = capfd.readouterr().out
    assert "mypy was run with: \n" in said
    assert "pytest was run with: -k start\n" in said
    assert said.count("was run") == 2
    assert "all 2 checks passed" in said.splitlines()[-1]


def test_the_first_check_that_fails_ends_it_and_is_named(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_checks(start, monkeypatch, ruff="exit 0", mypy="exit 3", pytest="exit 0")
    assert start.run_checks(["tests"]) == 1
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "--- mypy FAILED (exit 3)"
    assert "pytest was run" not in said


def test_what_runs_beside_a_check_that_fails_is_stopped_and_the_rest_never_begins(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting, stopped = start.ROOT / "waiting", start.ROOT / "stopped"
    wait = f"trap 'touch {stopped}; exit 1' INT\ntouch {waiting}\nwhile :; do sleep 0.02; done"
    fail = f"until [ -e {waiting} ]; do sleep 0.02; done\nexit 3"
    fake_checks(start, monkeypatch, flake8=wait, mypy=fail, ruff="exit 0", pytest="exit 0")
    assert start.run_checks(["tests"]) == 1
    assert stopped.exists()
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "--- mypy FAILED (exit 3)"
    assert "ruff was run" not in said


def test_a_check_that_does_not_stop_is_killed(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "STOP_SECONDS", 0.1)
    process = subprocess.Popen(["/bin/sh", "-c", "trap '' INT; echo; exec sleep 60"], stdout=-1)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        start.stop(process)
    assert process.returncode == -signal.SIGKILL


def test_without_arguments_each_test_runs_once_and_what_is_timed_runs_alone(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_checks(start, monkeypatch, mypy="exit 0", pytest="exit 0")
    assert start.run_checks([]) == 0
    said = [line for line in capfd.readouterr().out.splitlines() if "pytest was run" in line]
    begun = [line.partition("pytest was run with: ")[2] for line in said]
    folders = " ".join(start.UNTIMED)
    assert set(begun[:2]) == {start.STRESS, f"{folders} --ignore={start.STRESS}"}
    assert begun[2:] == [" ".join(f"--ignore={folder}" for folder in start.UNTIMED)]
    assert (CHECKOUT / start.STRESS).is_file()


def test_what_runs_beside_something_else_looks_at_no_clock_and_opens_no_socket(
    start: ModuleType,
) -> None:
    timed = re.compile(
        r"\b(monotonic|perf_counter|process_time|thread_time|getrusage|time\.sleep|import socket"
        r"|import subprocess|open_process|Popen|open_tcp\w*|serve_tcp|open_server|serve_here)\b"
    )
    for folder in start.UNTIMED:
        files = list((CHECKOUT / folder).glob("**/*.py"))
        assert files
        for file in files:
            assert timed.findall(file.read_text()) == [], file


# --- lock files and packaging ---------------------------------------------------------------------


def locked(name: str) -> dict[str, list[Requirement]]:
    """The requirements of a lock file by name; each line has been seen to have a hash."""
    found: dict[str, list[Requirement]] = {}
    text = (CHECKOUT / name).read_text()
    for block in re.split(r"\n(?=\S)", text):
        if block.startswith("#"):
            continue
        line, *hashes = [part.strip() for part in block.rstrip().split("\\\n")]
        assert hashes, line
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", part) for part in hashes), line
        requirement = Requirement(line)
        found.setdefault(canonical(requirement.name), []).append(requirement)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(section: str, option: str) -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    return [Requirement(line) for line in parser[section][option].splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_holds_every_requirement_at_a_version_that_setup_cfg_allows(name: str) -> None:
    wanted = declared("options", "install_requires")
    if "test" in name:
        wanted += declared("options.extras_require", "test")
    lock = locked(name)
    for requirement in wanted:
        for pinned in lock[canonical(requirement.name)]:
            (specifier,) = pinned.specifier
            assert specifier.operator == "=="
            assert requirement.specifier.contains(specifier.version, prereleases=True), requirement


def test_the_lock_for_tests_contains_the_lock_for_the_demo() -> None:
    tests = locked("requirements-test.lock")
    for name, pinned in locked("requirements.lock").items():
        assert [str(item) for item in tests[name]] == [str(item) for item in pinned]


def test_no_lock_names_an_index() -> None:
    for name in ("requirements.lock", "requirements-test.lock"):
        text = (CHECKOUT / name).read_text()
        assert "://" not in text
        assert "--find-links" not in text


def test_the_bundled_pip_is_the_one_that_start_py_expects(start: ModuleType) -> None:
    assert hashlib.sha256(start.PIP.read_bytes()).hexdigest() == start.PIP_SHA256


@pytest.mark.slow
def test_a_wheel_holds_the_demo_pages_and_the_command(copy: Path, start: ModuleType) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(start.PIP / "pip"), "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(copy / "dist"), str(copy)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        pages = {path.name for path in (CHECKOUT / "eventmesh_trio/demo/pages").iterdir()}
        assert {f"eventmesh_trio/demo/pages/{name}" for name in pages} <= names
        assert "eventmesh_trio/py.typed" in names
        assert not any(name.startswith(("tests", "tools", "benchmarks")) for name in names)
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert b"eventmesh = eventmesh_trio.__main__:main" in archive.read(entry)


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_first_starts_at_once_make_one_environment_and_later_starts_are_quick(
    copy: Path,
) -> None:
    # As on a machine whose Python has neither pip nor ensurepip.
    bare = (
        "import runpy, sys; sys.modules['ensurepip'] = sys.modules['pip'] = None;"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [base_python(), "-c", bare, str(copy / "start.py"), "demo", "--help"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=100)[0] for process in both]
    with needing_an_index():
        assert [process.returncode for process in both] == [0, 0], said
    assert sum("preparing" in text for text in said) == 1
    assert all("Usage: " in text for text in said)
    assert not (copy / ".venv/bin/pip").exists()
    assert (copy / ".venv/bin/eventmesh").exists()

    seconds = []
    for _ in range(5):
        began = time.monotonic()
        assert run(copy, "demo", "--help").returncode == 0
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1.0

    script = subprocess.run(
        [str(copy / ".venv/bin/eventmesh"), "--version"], capture_output=True, check=True
    )
    assert b"eventmesh" in script.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_is_interrupted_leaves_nothing(copy: Path, kill: signal.Signals) -> None:
    process = subprocess.Popen(
        [base_python(), str(copy / "start.py"), "demo", "--help"],
        env={**os.environ, **UNREACHABLE},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not (copy / ".venv/bin/python").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, kill)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + kill, said
    assert "Traceback" not in said
    assert not (copy / ".venv").exists()


@pytest.mark.slow
def test_without_a_network_the_first_start_says_so(copy: Path) -> None:
    done = run(copy, "demo", "--exit", environment=UNREACHABLE)
    assert done.returncode == 1
    assert "the package index cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (copy / ".venv").exists()
