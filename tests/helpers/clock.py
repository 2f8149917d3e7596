"""Waiting for something that another process does, and what that costs it."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(holds: Callable[[], bool], seconds: float, what: str | Callable[[], str]) -> float:
    """Poll until a condition holds.

    Returns the seconds it took, and fails, saying ``what``, after ``seconds``.
    """
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(
                f"not within {seconds} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(0.005)
    return time.monotonic() - started


def cpu_seconds(pid: int) -> float:
    """What a process has used of processors so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def queued_seconds(pid: int) -> float:
    """How long a process was ready to run and had no processor: what others took of its time.

    The second number of schedstat; 0 where the kernel does not count it.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def fresh_memory_seconds(nbytes: int, times: int = 8) -> float:
    """The longest that it takes to write to so much memory that the process did not have.

    The machine's part of whatever handles long documents: 4 KiB cost 0.7 us where it has the page
    at hand, and 16 where a virtual machine has to be given it. Which of them it is differs from one
    page to the next, hence the worst of many that are held together.
    """
    held: list[bytes] = []
    longest = 0.0
    for _ in range(times):
        started = time.monotonic()
        held.append(b"x" * nbytes)
        longest = max(longest, time.monotonic() - started)
    return longest
