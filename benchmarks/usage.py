"""What a process and all below it take of the machine: processor seconds, and memory at its peak.

Both are read from ``/proc``, by the process that measures. Processor time counts children that have
ended, once they were waited for. Memory is the proportional set size (PSS): a page that several
processes share is divided among them, so that the sum over a tree is what the tree costs.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

__all__ = [
    "Peak",
    "cpu_seconds",
    "parse_stat",
    "resident_bytes",
    "touched_bytes",
    "tree_of",
    "watching_memory",
]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS: Final = 0.2
"""Between two looks at the memory: one look at 200 MB costs the kernel some 2 ms."""
_MIB: Final = 1024 * 1024


@attrs.frozen
class Stat:
    """What ``/proc/PID/stat`` says of a process."""

    parent: int
    own_ticks: int
    children_ticks: int  # of those that have ended and were waited for


def parse_stat(text: str) -> Stat:
    """Read a line of ``/proc/PID/stat``; the name, in parentheses, may hold anything."""
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return Stat(int(fields[1]), user + system, children_user + children_system)


def touched_bytes(root: int) -> int:
    """Memory that a server's processes have been given page by page so far."""
    return _summed(root, 7)


def resident_bytes(root: int) -> int:
    """Memory that a server's processes have now; granian's first only looks after its worker."""
    return _summed(root, 21)


def _summed(root: int, field: int) -> int:
    """Pages by a field of ``/proc/PID/stat`` behind the name, of all alive, as bytes."""
    pages = 0
    for pid in tree_of([root], {pid: stat.parent for pid, stat in _stats().items()}):
        with suppress(OSError):  # it has ended
            text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            pages += int(text.rpartition(")")[2].split()[field])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stats() -> dict[int, Stat]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path("/proc", name, "stat").read_text("utf-8", "replace")
            except OSError:  # it has ended
                continue
            found[int(name)] = parse_stat(text)
    return found


def tree_of(roots: Sequence[int], parents: dict[int, int]) -> list[int]:
    """The roots that are alive and all below them, each once."""
    tree = [root for root in dict.fromkeys(roots) if root in parents]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid and child not in tree]
    return tree


def cpu_seconds(roots: Sequence[int]) -> tuple[float, float]:
    """Processor seconds so far: of the whole trees with all that have ended, and the first root's.

    What a child took is its parent's from when that has waited for it: the sum loses nothing when a
    worker is replaced.
    """
    stats = _stats()
    tree = tree_of(roots, {pid: stat.parent for pid, stat in stats.items()})
    ticks = sum(stats[pid].own_ticks + stats[pid].children_ticks for pid in tree)
    return ticks / _TICKS, stats[roots[0]].own_ticks / _TICKS


@attrs.define(eq=False)
class Peak:
    """The most memory that was seen, in MiB: of all processes together, and of each root alone."""

    pss_mib: float = 0.0
    rss_mib: float = 0.0  # shared pages counted in each process
    processes: int = 0
    largest_mib: float = 0.0  # of one process, PSS

    def note(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Note one look: (PSS, RSS) in bytes of each process."""
        pss = sum(size for size, _ in sizes) / _MIB
        if pss > self.pss_mib:
            self.pss_mib, self.processes = pss, len(sizes)
        self.rss_mib = max(self.rss_mib, sum(size for _, size in sizes) / _MIB)
        self.largest_mib = max(self.largest_mib, *(size / _MIB for size, _ in sizes), 0.0)


def _memory(pid: int) -> tuple[int, int] | None:
    values = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name in ("Pss", "Rss"):
                    values[name] = int(rest.split()[0]) * 1024
    except OSError:  # it has ended
        return None
    return (values["Pss"], values["Rss"]) if len(values) == 2 else None


@contextmanager
def watching_memory(roots: Sequence[int]) -> Iterator[Peak]:
    """Look at the memory of the trees again and again, for as long as the block lasts."""
    peak = Peak()
    over = threading.Event()

    def look() -> None:
        parents = {pid: stat.parent for pid, stat in _stats().items()}
        sizes = [size for pid in tree_of(roots, parents) if (size := _memory(pid))]
        if sizes:
            peak.note(sizes)

    def watch() -> None:
        while not over.wait(SAMPLE_SECONDS):
            began = time.perf_counter()
            look()
            # Never more than a tenth of the time: a look must not be what is measured.
            over.wait(9 * (time.perf_counter() - began) - SAMPLE_SECONDS)

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        look()
