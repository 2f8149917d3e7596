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


def packages(requirements: str = "requirements.txt") -> list[str]:
    """What a file of this folder wants to be installed, as pip takes it."""
    text = (ROOT / "benchmarks" / requirements).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def environments() -> dict[Path, str]:
    """Every environment there may be, and the file that says what is in it.

    ``requirements-NAME.txt`` is for ``.venv-NAME``: what cannot or need not be beside the others.
    """
    files = sorted(path.name for path in (ROOT / "benchmarks").glob("requirements*.txt"))
    return {
        ENVIRONMENT.with_name(f".venv{name.removeprefix('requirements')[:-4]}"): name
        for name in files
    }


def install(environment: Path = ENVIRONMENT, requirements: str = "requirements.txt") -> str:
    """Install what a file names as far as that was not done yet; returns the interpreter.

    A package that cannot be installed, as when there is no wheel for this Python, is tried again
    the next time and costs the others nothing.
    """
    python = str(environment / "bin" / "python")
    mark = environment / "installed.txt"
    done = mark.read_text("utf-8").splitlines() if mark.is_file() else []
    wanted = [name for name in packages(requirements) if name not in done]
    if not wanted:
        return python
    print(f"installing {', '.join(wanted)} into {environment} ...", file=sys.stderr)
    if not done:
        shutil.rmtree(environment, ignore_errors=True)  # one that was left half-made
        venv.create(environment, with_pip=True)
        # The pip that Python brings along may not know how a peer writes its requirements.
        wanted = ["pip", *wanted]
    for name in wanted:
        if _pip_install(python, name):
            done.append(name)
            mark.write_text("\n".join(done) + "\n", "utf-8")
    return python


def _pip_install(python: str, name: str) -> bool:
    command = [python, "-m", "pip", "install", "-q", "-U", name]
    return subprocess.run(command, check=False).returncode == 0


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
