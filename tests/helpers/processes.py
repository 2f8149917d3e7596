"""Processes as the kernel shows them: any of them may be gone before it is looked at."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = [
    "children",
    "command_line",
    "descendants",
    "is_running",
    "resident_bytes",
    "resident_bytes_each",
    "workers",
]

GONE = (FileNotFoundError, ProcessLookupError)
"""Before its file was opened, and before it was read."""


def children(pid: int | str) -> list[int]:
    """The processes that one has started and not yet waited for; "self" is this one."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except GONE:
        return []
    return [child for task in tasks for child in _children_of_task(pid, task)]


def _children_of_task(pid: int | str, task: str) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    except GONE:
        return []  # a thread that ended meanwhile


def descendants(pid: int) -> list[int]:
    direct = children(pid)
    return direct + [below for child in direct for below in descendants(child)]


def workers(pid: int | str) -> set[int]:
    """The extraction processes below one."""
    return {child for child in children(pid) if b"pipeline.workers.worker" in command_line(child)}


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except GONE:
        return False
    return state != "Z"


def command_line(pid: int) -> bytes:
    """What a process was started with, NUL between the words; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except GONE:
        return b""


def resident_bytes(pid: int | str) -> int:
    """What a process has in memory, which must be there."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def resident_bytes_each(pids: Iterable[int]) -> list[int]:
    """What each of the processes has in memory that are still there."""
    found = []
    for pid in pids:
        with suppress(*GONE):
            found.append(resident_bytes(pid))
    return found
