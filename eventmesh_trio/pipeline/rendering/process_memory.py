"""What a tree of processes holds of the memory, by Linux's ``/proc``; nothing is known elsewhere.

Pages of files (the program itself, which all its processes share) do not count: the kernel takes
them back when it needs to.
"""

from contextlib import suppress
from pathlib import Path

import attrs

__all__ = ["ProcessMemory", "memory_below"]

_KIB = 1024


@attrs.frozen
class ProcessMemory:
    pid: int
    parent_pid: int
    held_bytes: int  # anonymous and shared memory that is resident
    command: bytes  # its arguments, each ended by NUL; empty when only its end is left of it


def memory_below(pid: int) -> list[ProcessMemory]:
    """The processes below one, itself not included; those that end meanwhile are left out."""
    found: list[ProcessMemory] = []
    waiting = [(child, pid) for child in _children(pid)]
    while waiting:
        child, parent = waiting.pop()
        with suppress(OSError, ValueError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            found.append(ProcessMemory(child, parent, _held_bytes(child), command))
        waiting += [(below, child) for below in _children(child)]
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError):
                found += map(int, (task / "children").read_text("ascii").split())
    return found


def _held_bytes(pid: int) -> int:
    held = 0
    for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            held += int(line.split()[1]) * _KIB
    return held
