"""The genuine Autobahn|Testsuite against ``examples/echo_server.py``.

It is a program for CPython 2.7. What it needs is installed once into pytest's cache folder, and
nowhere else. Cases 12 and 13 (compression) take ten minutes; ``EVENTMESH_AUTOBAHN=all`` runs them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.helpers.programs import CHECKOUT, in_ci

SUITE: Final = "autobahntestsuite==25.10.1"
# Informational cases have no right answer; a non-strict one is right, but not as early as could be.
NOT_FAILING: Final = {"OK", "NON-STRICT", "INFORMATIONAL"}
AGENT: Final = "echo_server"
MIB: Final = 2**20
INSTALL_SECONDS: Final = 300
_RUN: Final = (
    "import site, sys; site.addsitedir(sys.argv.pop(1));"
    " from autobahntestsuite.wstest import run; run()"
)
_WHICH: Final = (
    "import platform, sys; print(platform.python_implementation(), sys.version_info[:2])"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * INSTALL_SECONDS)]


def python27() -> Path:
    """CPython 2.7 from the path or from pyenv; where there is none the test skips."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found) for name in ("python2.7", "python2") if (found := shutil.which(name))]
    candidates += sorted(pyenv.glob("versions/2.7*/bin/python2.7"))
    for candidate in candidates:  # one of pyenv's shims may be there and lead nowhere
        said = subprocess.run(
            [candidate, "-c", _WHICH], capture_output=True, text=True, check=False
        )
        if said.stdout.strip() == "('CPython', (2, 7))":
            return candidate
    pytest.skip("the Autobahn|Testsuite needs CPython 2.7; install it with: pyenv install 2.7.18")


@pytest.fixture(scope="module")
def python() -> Path:
    return python27()


@pytest.fixture(scope="module")
def suite(
    python: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder with the suite and all that it needs."""
    cache = getattr(pytestconfig, "cache", None)  # there is none under -p no:cacheprovider
    parent = cache.mkdir("autobahn") if cache else tmp_path_factory.mktemp("autobahn")
    folder = parent / SUITE.replace("==", "-")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as half_made:
        target = Path(half_made) / "packages"
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--target", target, SUITE],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            message = f"{SUITE} cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
            pytest.fail(message) if in_ci() else pytest.skip(message)
        if not folder.exists():  # another test run was quicker
            target.rename(folder)
    return folder


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@contextmanager
def echo_server(max_message_bytes: int) -> Iterator[str]:
    """The example in a process of its own; the URL of its WebSocket."""
    process = subprocess.Popen(
        [
            *(sys.executable, CHECKOUT / "examples" / "echo_server.py"),
            *("--bind", "127.0.0.1:0", "--max-message-bytes", str(max_message_bytes)),
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            base = process.stdout.readline().removeprefix("listening on ").strip()
            yield base.replace("http://", "ws://", 1) + "/ws"
        finally:
            process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("cases", "count", "max_message_bytes"),
    [
        pytest.param([f"{n}.*" for n in (*range(1, 8), 10)], 247, 10 * MIB, id="1-7 and 10"),
        # Its largest messages are 16 MiB, which is more than we take by ourselves.
        pytest.param(["9.*"], 54, 16 * MIB, id="9"),
        pytest.param(
            ["12.*", "13.*"],
            216,
            10 * MIB,
            id="12 and 13",
            marks=[
                pytest.mark.timeout(3600),
                pytest.mark.skipif(
                    os.environ.get("EVENTMESH_AUTOBAHN") != "all",
                    reason="takes ten minutes; run it with EVENTMESH_AUTOBAHN=all",
                ),
            ],
        ),
    ],
)
def test_no_case_of_the_autobahn_testsuite_fails(
    python: Path, suite: Path, tmp_path: Path, cases: list[str], count: int, max_message_bytes: int
) -> None:
    with echo_server(max_message_bytes) as url:
        specification = {
            "outdir": str(tmp_path / "reports"),
            "servers": [{"agent": AGENT, "url": url}],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (tmp_path / "fuzzingclient.json").write_text(json.dumps(specification))
        subprocess.run(
            [python, "-c", _RUN, suite, "-m", "fuzzingclient", "-s", "fuzzingclient.json"],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
    report = json.loads((tmp_path / "reports" / "index.json").read_text())[AGENT]
    failing = {
        case: (verdict["behavior"], verdict["behaviorClose"])
        for case, verdict in report.items()
        if not {verdict["behavior"], verdict["behaviorClose"]} <= NOT_FAILING
    }
    behaviours = Counter(verdict["behavior"] for verdict in report.values())
    print(f"{len(report) - len(failing)} of {len(report)} cases not failing: {dict(behaviours)}")
    assert failing == {}
    assert len(report) == count
