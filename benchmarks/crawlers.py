"""The crawling peers: how each is started, told what to crawl, and what that took.

Measured is from the order to the last document: starting and ending are in nobody's figure.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.environment import ENVIRONMENT, ROOT, importing, install
from benchmarks.usage import Peak, cpu_seconds, watching_memory

__all__ = ["PEERS", "Crawl", "Peer", "ask", "measured", "prepare", "run_peer", "spawned"]

_HEAVY: Final = ROOT / "benchmarks" / ".venv-crawl"
"""The environment of the peer that brings some 900 MB along."""
_ALLOWED_SECONDS: Final = 600.0
_FAREWELL_SECONDS: Final = 5.0


@attrs.frozen
class Crawl:
    """What one crawl took. ``pages`` are those that came; ``cached`` of them from our cache."""

    pages: int
    seconds: float
    cpu: float  # processor seconds of the whole tree
    main_cpu: float  # of that, the first process's own
    peak: Peak
    cached: int = 0

    @property
    def rate(self) -> float:
        return self.pages / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.pages / self.cpu


@attrs.frozen
class Peer:
    """A peer: its module of ``benchmarks.peers``, and what must be importable where it runs."""

    name: str
    module: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    share: float = 1.0  # of the pages, for those that are slow
    environment: Path = ENVIRONMENT
    requirements: str = "requirements.txt"


_TRAFILATURA: Final = ("scrapy", "trafilatura")
PEERS: Final = (
    Peer("Scrapy + trafilatura", "crawl_scrapy", ("trafilatura",), _TRAFILATURA, 0.1),
    Peer("Scrapy + trafilatura, fast", "crawl_scrapy", ("trafilatura-fast",), _TRAFILATURA, 0.1),
    Peer("Scrapy + resiliparse", "crawl_scrapy", ("resiliparse",), ("scrapy", "resiliparse"), 0.5),
    Peer("Scrapy that only fetches", "crawl_scrapy", ("nothing",), ("scrapy",)),
    Peer(
        *("Crawl4AI, HTTP strategy", "crawl_crawl4ai", (), ("crawl4ai",), 0.1),
        environment=_HEAVY,
        requirements="requirements-crawl.txt",
    ),
    Peer("httpx + trafilatura", "crawl_httpx", (), ("httpx", "trafilatura"), 0.1),
)


def prepare(peers: Sequence[Peer] = PEERS) -> tuple[list[Peer], dict[str, str]]:
    """Install the peers where that was not done yet; who can run, and why others cannot."""
    able, missing = [], {}
    for peer in peers:
        python = install(peer.environment, peer.requirements)
        reason = importing(python, peer.needs)
        if reason is None:
            able.append(peer)
        else:
            missing[peer.name] = reason
    return able, missing


@contextmanager
def spawned(
    command: Sequence[str], folder: Path, cores: set[int] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program that talks by lines; it and all below it are gone when the block ends.

    What it says of itself is in ``folder`` / ``stderr.txt``, which is its home directory as well.
    """
    with (folder / "stderr.txt").open("ab") as words:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,
        )
    # Whatever it does, it ends: a peer that hangs must not hang the comparison.
    watchdog = threading.Timer(_ALLOWED_SECONDS, process.kill)
    watchdog.start()
    try:
        if cores is not None:
            os.sched_setaffinity(process.pid, cores)
        yield process
    finally:
        watchdog.cancel()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_FAREWELL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ask(process: "subprocess.Popen[str]", line: str | None = None) -> Any:
    """Tell a program a line, where there is one, and wait for its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{process.args!r} ended with status {process.wait()}")
    return json.loads(answer)


def measured(roots: Sequence[int], crawl: Callable[[], Callable[[], tuple[int, int]]]) -> Crawl:
    """Measure the processes during ``crawl``; what it returns counts pages, and cached ones."""
    with watching_memory(roots) as peak:
        before = cpu_seconds(roots)
        began = time.perf_counter()
        count = crawl()
        seconds = time.perf_counter() - began
        after = cpu_seconds(roots)
    pages, cached = count()
    total, first = (later - earlier for later, earlier in zip(after, before, strict=True))
    return Crawl(pages, seconds, total, first, peak, cached)


def run_peer(
    peer: Peer, urls: Sequence[str], folder: Path, *, concurrency: int, processes: int
) -> Crawl:
    """Let a peer crawl, in so many processes that share the URLs; then look at what it wrote."""
    python = str(peer.environment / "bin" / "python")
    at_once = -(-concurrency // processes)
    command = [python, "-m", f"benchmarks.peers.{peer.module}", *peer.arguments, str(at_once)]
    outputs = [folder / f"output-{number}.jsonl" for number in range(processes)]
    with ExitStack() as stack:
        running = [stack.enter_context(spawned(command, folder)) for _ in range(processes)]
        tasks = []
        for number, process in enumerate(running):
            ask(process)
            share = folder / f"urls-{number}.txt"
            share.write_text("\n".join(urls[number::processes]))
            tasks.append(
                {
                    "urls": str(share),
                    "concurrency": at_once,
                    "output": str(outputs[number]),
                }
            )

        def crawl() -> Callable[[], tuple[int, int]]:
            for process, task in zip(running, tasks, strict=True):
                assert process.stdin is not None
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
            for process in running:
                ask(process)
            return lambda: (sum(map(count_documents, outputs)), 0)

        return measured([process.pid for process in running], crawl)


def count_documents(path: Path) -> int:
    """The pages that a peer has written something of."""
    with path.open(encoding="utf-8") as lines:
        return sum(not {"markdown", "bytes"}.isdisjoint(json.loads(line)) for line in lines)
