#!/usr/bin/env python3
"""Renew the lock files from setup.cfg: exact versions, with hashes, true for several Pythons.

    tools/lock.py PYTHON3.11 PYTHON3.12 PYTHON3.13 [-- pip-compile options, such as --upgrade]

Each is a Python that has pip-tools. They resolve one after another, the later ones bound to the
versions of the first, and what only some of them need gets a marker that says which.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    *("--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--strip-extras"),
    *("--allow-unsafe", "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links"),
    "--build-deps-for=editable",
)


def main(arguments: Sequence[str]) -> None:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    pythons, options = arguments[:split], arguments[split + 1 :]
    if not pythons:
        sys.exit(__doc__)
    test, run = ROOT / "requirements-test.lock", ROOT / "requirements.lock"
    upgrade = any("upgrade" in option or option in ("-U", "-P") for option in options)
    first = resolve(pythons[0], None if upgrade else test, ["--extra=test", *options])
    write(test, [first])
    write(test, [first, *(resolve(python, test, ["--extra=test"]) for python in pythons[1:])])
    write(run, [resolve(python, test, []) for python in pythons])


def resolve(python: str, bound: Path | None, options: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The version of a Python, and what it needs: ``name==version`` -> its lines in a lock.

    ``bound`` is a lock file whose versions are kept.
    """
    shown = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock"
        constraints = [f"--constraint={bound}"] if bound and bound.exists() else []
        command = [python, "-m", "piptools", "compile", *OPTIONS, *constraints, *options]
        subprocess.run([*command, f"--output-file={output}", "setup.cfg"], cwd=ROOT, check=True)
        blocks: dict[str, str] = {}
        for line in output.read_text().splitlines():
            if line[:1].isalnum():
                # A constraint's marker comes along; `write` makes it anew.
                name = line.removesuffix(" \\").partition(" ;")[0]
                blocks[name] = ""
            elif line.startswith("    "):
                blocks[name] += f"{line}\n"
    return version, blocks


def write(path: Path, resolved: Sequence[tuple[str, dict[str, str]]]) -> None:
    versions = [version for version, _ in resolved]
    lines = [f"# Made by tools/lock.py from setup.cfg, for Python {', '.join(versions)}.\n"]
    for name in sorted({name for _, blocks in resolved for name in blocks}):
        having = [version for version, blocks in resolved if name in blocks]
        hashes = next(blocks[name] for _, blocks in resolved if name in blocks)
        lines.append(f"{name}{marker(having, versions)} \\\n{hashes}")
    path.write_text("".join(lines))


def marker(having: Sequence[str], versions: Sequence[str]) -> str:
    lacking = [version for version in versions if version not in having]
    if not lacking:
        return ""
    if len(lacking) < len(having):
        return " ; " + " and ".join(f'python_version != "{version}"' for version in lacking)
    return " ; " + " or ".join(f'python_version == "{version}"' for version in having)


if __name__ == "__main__":
    main(sys.argv[1:])
