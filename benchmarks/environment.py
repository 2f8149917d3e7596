"""Where the peers run: a virtual environment, and Node's modules beside it; made at first use."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "benchmarks" / ".venv"
NODE_MODULES = ROOT / "benchmarks" / "node_modules"
"""Where Node looks for the modules of the scripts in ``benchmarks/peers``."""
NODE_PACKAGES = ("ws",)


def requirements(file: str = "requirements.txt") -> list[str]:
    """What is to be installed, as pip takes it."""
    text = (ROOT / "benchmarks" / file).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def install(environment: Path = ENVIRONMENT, file: str = "requirements.txt") -> str:
    """Install what a file names where that was not done yet; returns the interpreter."""
    python = str(environment / "bin" / "python")
    wanted = "\n".join(requirements(file))
    mark = environment / "installed.txt"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    print(f"installing the peers into {environment} ...", file=sys.stderr)
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True)
    # pip first: the one that Python brings along may not know how a peer writes its requirements.
    # The rest one by one: a package that has no wheel here must not cost us the others.
    done = [
        subprocess.run([python, "-m", "pip", "install", "-q", "-U", name], check=False).returncode
        for name in ("pip", *requirements(file))
    ]
    if not any(done):
        mark.write_text(wanted)
    return python


def install_node() -> str | None:
    """Install Node's modules where that was not done yet; why Node's peers cannot run, or None."""
    if shutil.which("node") is None:
        return "there is no node"
    wanted = [name for name in NODE_PACKAGES if not (NODE_MODULES / name).is_dir()]
    if not wanted:
        return None
    if shutil.which("npm") is None:
        return f"there is no npm to install {', '.join(wanted)}"
    done = subprocess.run(
        # A prefix of its own, or npm looks for a package.json in the folders above.
        ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix",
         str(NODE_MODULES.parent), *wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (done.stderr.strip().splitlines() or ["npm failed"])[-1] if done.returncode else None


def importing(python: str, modules: tuple[str, ...]) -> str | None:
    """Why an interpreter cannot import some modules, or None where it can."""
    test = "; ".join(f"import {module}" for module in modules)
    tried = subprocess.run([python, "-c", test], capture_output=True, check=False)
    return tried.stderr.decode().strip().splitlines()[-1] if tried.returncode else None
