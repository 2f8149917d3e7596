"""Instructions that the hot paths execute, counted by valgrind: a guard that no noise disturbs.

``python -m benchmarks.instructions`` counts, compares with ``instructions.json``, and exits 1 where
a path takes a tenth more than it did; ``--write`` puts what was counted in the place of what was
compared with. Times on a busy machine differ by half; these counts come again within a fiftieth,
whatever else runs. They differ by version of Python, so the file keeps them by that, each with the
build that they are of: one that its compiler optimised for itself takes 1 to 10 % fewer.

One process under valgrind imports and prepares everything, and forks: one child for each path that
does its rounds, and one that does none, whose count is taken off the others'. The tool is
cachegrind without its caches: it counts the same as callgrind, in a third of the time.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

ROOT: Final = Path(__file__).resolve().parents[1]
STORED: Final = Path(__file__).with_name("instructions.json")
INSTALL: Final = "apt-get install valgrind"
RENEW: Final = "python -m benchmarks.instructions --write"
TOLERANCE: Final = 0.10
"""How much more than stored is a regression."""
SECONDS: Final = 240.0
"""How long counting may take at most; 10 are usual on a quiet machine."""

_WARM_UP: Final = 9
"""Rounds before the fork: Python specialises what it has run eight times."""
# Each byte that ``rep movsb`` copies counts as an instruction, and whether a buffer that grows is
# copied depends on what happens to lie behind it: with it the counts differ by a fifth.
_NO_STRING_INSTRUCTIONS: Final = ":".join(
    f"glibc.cpu.x86_rep_{name}_threshold={2**30}" for name in ("movsb", "stosb")
)
_TOTAL: Final = re.compile(rb"^summary: (\d+)", re.MULTILINE)


def version() -> str:
    """Under which name the counts of this Python are stored: ``3.11``."""
    return ".".join(platform.python_version_tuple()[:2])


def build() -> str:
    """This very Python: how it was made tells why counts of one version differ."""
    made = (platform.python_implementation(), platform.python_version(), platform.python_compiler())
    return " ".join((*made, platform.machine()))


def count() -> dict[str, int]:
    """Instructions of one round of each hot path, by its name.

    Raises:
      FileNotFoundError: valgrind is not installed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError(f"valgrind is not installed; install it with: {INSTALL}")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(valgrind, "--quiet", "--tool=cachegrind", "--cache-sim=no"),
                f"--cachegrind-out-file={folder}/%p",
                *(sys.executable, "-m", "benchmarks.instructions", "--fork"),
            ],
            cwd=ROOT,
            # Nothing of what the caller's environment may say to Python.
            env={
                "PYTHONHASHSEED": "0",
                "PYTHONPATH": str(ROOT),
                "PATH": os.defpath,
                "GLIBC_TUNABLES": _NO_STRING_INSTRUCTIONS,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"counting failed:\n{done.stderr.decode(errors='replace')}")
        children: list[dict[str, Any]] = json.loads(done.stdout)
        counts = [_total(Path(folder, str(child["pid"]))) for child in children]
    idle = counts.pop(0)
    return {
        child["name"]: round((total - idle) / child["rounds"])
        for child, total in zip(children[1:], counts, strict=True)
    }


def _total(file: Path) -> int:
    found = _TOTAL.search(file.read_bytes())
    assert found is not None, f"valgrind wrote no total: {file}"
    return int(found[1])


def fork_for_each() -> None:
    """Under valgrind: do each path's rounds in a child, and print which child did what."""
    from benchmarks.hot_paths import HOT_PATHS  # noqa: PLC0415  # only here, where it is counted

    works = [(path, path.prepare()) for path in HOT_PATHS]
    for _, work in works:
        work(_WARM_UP)
    # Nothing of ours makes cycles here, and what the collector looks at is not what a path does.
    gc.collect()
    gc.freeze()
    gc.disable()
    path, work = works[0]
    children: list[dict[str, Any]] = [{"name": "nothing", "rounds": 0, "pid": _run(work, 0)}]
    for path, work in works:
        children.append({"name": path.name, "rounds": path.rounds, "pid": _run(work, path.rounds)})
    json.dump(children, sys.stdout)


def _run(work: Any, rounds: int) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work(rounds)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a hot path failed: {os.waitstatus_to_exitcode(status)}")
    return pid


# --- what was counted before ----------------------------------------------------------------------


@attrs.frozen
class Stored:
    """What was counted by a Python of one version."""

    build: str
    instructions: Mapping[str, int]


def stored(file: Path = STORED) -> Stored | None:
    """What is stored for this version of Python; None: nothing."""
    whole = json.loads(file.read_text()) if file.exists() else {}
    return Stored(**whole[version()]) if version() in whole else None


def write(counts: Mapping[str, int], file: Path = STORED) -> None:
    """Store the counts of this version; those of others stay as they are."""
    whole = json.loads(file.read_text()) if file.exists() else {}
    whole[version()] = attrs.asdict(Stored(build(), counts))
    file.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def regressions(counts: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """A sentence for each path that takes more than it may, or is on one side only."""
    found = [f"{name}: stored, but not counted any more" for name in before.keys() - counts.keys()]
    for name, now in counts.items():
        if name not in before:
            found.append(f"{name}: {now:,} instructions, and nothing is stored")
        elif now > before[name] * (1 + TOLERANCE):
            change = now / before[name] - 1
            found.append(f"{name}: {now:,} instructions, {change:+.1%} of {before[name]:,}")
    return sorted(found)


def table(counts: Mapping[str, int], before: Mapping[str, int]) -> str:
    lines = [f"{'instructions a round':32}{'now':>14}{'stored':>14}"]
    for name, now in counts.items():
        old = before.get(name)
        change = "" if old is None else f"{old:14,}{now / old - 1:+8.1%}"
        lines.append(f"{name:32}{now:14,}{change}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="store what is counted")
    parser.add_argument("--fork", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.fork:
        fork_for_each()
        return 0
    try:
        counts = count()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    before = stored() or Stored("nothing", {})
    print(f"counted by {build()}, stored by {before.build}")
    print(table(counts, before.instructions))
    if given.write:
        write(counts)
        return 0
    found = regressions(counts, before.instructions)
    for line in found:
        print(f"MORE THAN BEFORE: {line}", file=sys.stderr)
    if found:
        print(f"if that is meant: {RENEW}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
