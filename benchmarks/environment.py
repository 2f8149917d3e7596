"""The virtual environment the peers run in, made at the first run of a benchmark."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "benchmarks" / ".venv"


def install(environment: Path = ENVIRONMENT, requirements: str = "requirements.txt") -> str:
    """Install what a file names where that was not done yet; returns the interpreter."""
    python = str(environment / "bin" / "python")
    wanted = (ROOT / "benchmarks" / requirements).read_text()
    mark = environment / "installed.txt"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    print(f"installing the peers into {environment} ...", file=sys.stderr)
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True)
    names = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    # pip first: the one that Python brings along may not know how a peer writes its requirements.
    # The rest one by one: a package that has no wheel here must not cost us the others.
    done = [
        subprocess.run([python, "-m", "pip", "install", "-q", "-U", name], check=False).returncode
        for name in ("pip", *names)
    ]
    if not any(done):
        mark.write_text(wanted)
    return python


def importing(python: str, modules: tuple[str, ...]) -> str | None:
    """Why an interpreter cannot import some modules, or None where it can."""
    test = "; ".join(f"import {module}" for module in modules)
    tried = subprocess.run([python, "-c", test], capture_output=True, check=False)
    return tried.stderr.decode().strip().splitlines()[-1] if tried.returncode else None
