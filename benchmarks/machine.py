"""What machine a comparison ran on, and with which versions of everybody."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs

import eventmesh_trio
from benchmarks.environment import NODE_MODULES, environments, packages

__all__ = ["Machine", "describe"]

GIB = 1 << 30
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@attrs.frozen
class Machine:
    """``load`` is the mean of the last minute before the start: other work spoils figures."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    load: float
    versions: Mapping[str, str] = {}


def describe(load: float) -> Machine:
    """This machine, and the peers that are installed on it now."""
    return Machine(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        load=round(load, 2),
        versions={"eventmesh_trio": eventmesh_trio.__version__, **_peers(), **_node()},
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _peers() -> dict[str, str]:
    """The versions of the required packages that the peers' environments have."""
    found: dict[str, str] = {}
    for environment, requirements in environments().items():
        python = environment / "bin" / "python"
        if python.is_file():
            names = [name.partition("[")[0] for name in packages(requirements)]
            command = [str(python), "-c", _VERSIONS, *names]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found |= json.loads(done.stdout)
    return {name: found[name] for name in sorted(found)}


def _node() -> dict[str, str]:
    try:
        done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = {"Node": done.stdout.strip().removeprefix("v")}
    package = NODE_MODULES / "ws" / "package.json"
    if package.is_file():
        found["ws"] = json.loads(package.read_text("utf-8"))["version"]
    return found
