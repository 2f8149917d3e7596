"""Who takes part: how each server is started, on which core, and what its requests look like."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from benchmarks.environment import ENVIRONMENT, ROOT, importing, install

START_SECONDS = 30.0
DESCRIPTORS = 16_384  # 10,000 streams, and what else is open
FRAMINGS = ("ndjson", "sse", "websocket")


@attrs.frozen
class Contestant:
    """``command`` gets a port; ``modules`` must be importable where it runs."""

    name: str
    command: Callable[[str, int], list[str]]  # python, port
    modules: tuple[str, ...]
    framings: tuple[str, ...] = FRAMINGS
    is_ours: bool = False

    def target(self, framing: str) -> str:
        ours = {"ndjson": "/crawl/stream", "sse": "/crawl/sse", "websocket": "/crawl/ws"}
        theirs = {"ndjson": "/ndjson", "sse": "/sse", "websocket": "/ws"}
        return (ours if self.is_ours else theirs)[framing]

    def body(self, count: int, *, idle: bool = False) -> bytes:
        """The JSON that asks for so many results."""
        if self.is_ours:
            url = f"http://bench/?n={count}{'&idle' if idle else ''}"
            return json.dumps({"urls": [url]}).encode()
        return json.dumps({"n": count, "idle": idle}).encode()

    def message(self, count: int, *, idle: bool = False) -> bytes:
        """The same as a WebSocket message."""
        body = self.body(count, idle=idle)
        return b'{"request_type":"crawl","data":%s}' % body if self.is_ours else body


def _module(name: str) -> Callable[[str, int], list[str]]:
    return lambda python, port: [python, "-m", name, str(port)]


def _uvicorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "uvicorn", "benchmarks.peers.starlette_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
        *("--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "false"),
    ]


def _hypercorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "hypercorn", "-k", "trio", "--workers", "0", "--log-level", "warning"),
        *("--bind", f"127.0.0.1:{port}", "benchmarks.peers.starlette_app:app"),
    ]


def _tuned(python: str, port: int) -> list[str]:
    return [python, "-m", "benchmarks.ours", str(port), "high_throughput"]


OURS = Contestant("eventmesh_trio", _module("benchmarks.ours"), (), is_ours=True)
TUNED = Contestant("eventmesh_trio, high_throughput", _tuned, (), is_ours=True)
PEERS = (
    Contestant(
        "uvicorn+uvloop+Starlette", _uvicorn, ("uvicorn", "uvloop", "sse_starlette", "httptools")
    ),
    Contestant("aiohttp+uvloop", _module("benchmarks.peers.aiohttp_app"), ("aiohttp", "uvloop")),
    Contestant("hypercorn-trio+Starlette", _hypercorn, ("hypercorn", "trio", "sse_starlette")),
    Contestant(
        "websockets+uvloop",
        _module("benchmarks.peers.websockets_app"),
        ("websockets", "uvloop"),
        ("websocket",),
    ),
)


def prepare() -> tuple[list[Contestant], dict[str, str]]:
    """Install the peers where that was not done yet; returns who can run, and why others cannot."""
    python = install()
    able, missing = [OURS], {}
    for peer in PEERS:
        reason = importing(python, (*peer.modules, "orjson"))
        if reason is None:
            able.append(peer)
        else:
            missing[peer.name] = reason
    return able, missing


def cores() -> tuple[int, int] | None:
    """One core for the servers and one for the driver; None where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


@contextmanager
def serving(contestant: Contestant, core: int | None) -> Iterator[tuple[tuple[str, int], int]]:
    """Run a server in a process of its own, on one core; yields its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    python = sys.executable if contestant.is_ours else str(ENVIRONMENT / "bin" / "python")

    process = subprocess.Popen(
        contestant.command(python, port),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    try:
        # At once, so that every thread it starts inherits both.
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        _wait_listening(process, port, contestant.name)
        yield ("127.0.0.1", port), process.pid
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_listening(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{name} did not start")
