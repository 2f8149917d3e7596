"""What a module of tests has left behind: processes, listening sockets, threads, files.

All that the suite starts inherits ``TMPDIR``, a folder made for this run of it; so a process of
ours is known by its environment, even when its parent is gone, and a file of ours by where it is.
"""

import gc
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Leftovers", "Suite"]

GRACE_SECONDS: Final = 3.0
"""How long what is ending may take to be gone."""

# The standard library's: one for each process that has used multiprocessing, as long as it lives.
_TRACKER: Final = b"from multiprocessing.resource_tracker import main"
_CACHED_THREAD: Final = re.compile(r"Trio thread \d+")
_LISTEN, _UNIX_LISTEN = "0A", "00010000"


@attrs.frozen
class Leftovers:
    """What there is at one moment, each with what is known of it."""

    processes: frozenset[str] = frozenset()
    sockets: frozenset[str] = frozenset()
    threads: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    def beyond(self, other: "Leftovers") -> "Leftovers":
        """Those that the other has not."""
        return Leftovers(
            self.processes - other.processes,
            self.sockets - other.sockets,
            self.threads - other.threads,
            self.files - other.files,
        )

    def __bool__(self) -> bool:
        return bool(self.processes or self.sockets or self.threads or self.files)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {', '.join(sorted(found))}"
            for kind, found in attrs.asdict(self, recurse=False).items()
            if found
        )


@attrs.frozen
class Suite:
    """One run of the suite, with the folder in which all its temporary files are."""

    folder: Path

    @classmethod
    def begin(cls) -> "Suite":
        """Make the folder, and make it what everything started from now on uses."""
        # Where pytest keeps what ``tmp_path`` was, to be looked at after the run.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix="eventmesh-suite-"))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        return cls(folder)

    def leftovers(self) -> Leftovers:
        """What there is now; a few milliseconds."""
        return Leftovers(
            processes=frozenset(self._processes()),
            sockets=frozenset(_listening()),
            threads=frozenset(_threads()),
            files=frozenset(entry.name for entry in self.folder.iterdir()),
        )

    def left_since(self, before: Leftovers) -> Leftovers:
        """What is there now and was not before, and stays for `GRACE_SECONDS`."""
        deadline = time.monotonic() + GRACE_SECONDS
        while left := self.leftovers().beyond(before):
            if time.monotonic() > deadline:
                break
            gc.collect()  # what nobody refers to any more is closed by that, with a warning
            time.sleep(0.02)
        return left

    def end(self) -> None:
        """Kill every process of the suite, and remove its folder if it is empty."""
        for line in list(self._processes()):
            try:
                os.kill(int(line.split(" ", 1)[0]), signal.SIGKILL)
            except ProcessLookupError:
                continue
        for entry in self.folder.iterdir():
            if entry.is_socket() or entry.is_file():
                entry.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _processes(self) -> Iterator[str]:
        """Ours that run, wherever they hang now, and children of this process that nobody reaped.

        Kernels tell a process's environment to its owner only, which we are.
        """
        mark = f"TMPDIR={self.folder}".encode()
        own = os.getpid()
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == own:
                continue
            try:
                stat = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                if stat[0] == b"Z":
                    if int(stat[1]) == own:
                        yield f"{entry.name} (ended, and never waited for)"
                elif mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                    if int(stat[1]) == own and _TRACKER in command:
                        continue
                    yield f"{entry.name} {command.decode('utf-8', 'replace').strip()[:120]}"
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended, or is none of ours


def _listening() -> Iterator[str]:
    """The sockets of this process that listen."""
    owned: dict[str, str] = {}
    for entry in os.scandir("/proc/self/fd"):
        try:
            target = os.readlink(entry.path)
        except FileNotFoundError:
            continue  # that of the listing itself
        if target.startswith("socket:["):
            owned[target[8:-1]] = entry.name
    if not owned:
        return
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in owned:
                yield f"{table} port {int(fields[1].rpartition(':')[2], 16)} (inode {fields[9]})"
    for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _UNIX_LISTEN and fields[6] in owned:
            yield f"unix {fields[7] if len(fields) > 7 else '-'} (inode {fields[6]})"


def _threads() -> Iterator[str]:
    """All but the main one, and those that trio keeps for ten seconds after their last use."""
    for thread in threading.enumerate():
        if thread is threading.main_thread() or _CACHED_THREAD.fullmatch(thread.name):
            continue
        yield f"{thread.name} ({thread.ident})"
