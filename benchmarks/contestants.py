"""Who takes part: how each server is started, on which core, and what its requests look like."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

import attrs

from benchmarks.environment import ENVIRONMENT, ROOT, importing, install, install_node
from benchmarks.synthetic import MEDIUM

START_SECONDS = 30.0
STOP_SECONDS = 5.0
DESCRIPTORS = 16_384  # 10,000 streams, and what else is open
FRAMINGS = ("ndjson", "sse", "websocket")


@attrs.frozen
class Contestant:
    """``command`` gets a port; ``modules`` must be importable where it runs.

    ``runtime``: what it runs in: our interpreter, that of the peers' environment, or Node.
    """

    name: str
    command: Callable[[str, int], list[str]]  # python, port
    modules: tuple[str, ...] = ()
    framings: tuple[str, ...] = FRAMINGS
    is_ours: bool = False
    runtime: Literal["ours", "peers", "node"] = "peers"

    def target(self, framing: str) -> str:
        ours = {"ndjson": "/crawl/stream", "sse": "/crawl/sse", "websocket": "/crawl/ws"}
        theirs = {"ndjson": "/ndjson", "sse": "/sse", "websocket": "/ws"}
        return (ours if self.is_ours else theirs)[framing]

    def body(
        self,
        count: int,
        *,
        idle: bool = False,
        size: int = MEDIUM,
        readers: int = 0,
        lossy: bool = False,
        shared: bool = False,
    ) -> bytes:
        """The JSON that asks for so many events; what the words mean is said in `benchmarks.ours`,
        and of ``shared``, which is for peers only, in `benchmarks.peers.payload`."""
        if self.is_ours:
            words = [f"n={count}", f"size={size}", f"readers={readers}"]
            words += ["idle"] * idle + ["lossy"] * lossy
            return json.dumps({"urls": [f"http://bench/?{'&'.join(words)}"]}).encode()
        return json.dumps({"n": count, "idle": idle, "size": size, "shared": shared}).encode()

    def message(self, count: int, *, size: int = MEDIUM) -> bytes:
        """The same as a WebSocket message."""
        body = self.body(count, size=size)
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


def _granian(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "granian", "benchmarks.peers.granian_app:app", "--port", str(port)),
        *("--interface", "rsgi", "--loop", "uvloop", "--http", "1", "--log-level", "warning"),
        *("--runtime-mode", "st"),  # all threads are on one core here: both modes are as fast
        *("--backpressure", str(DESCRIPTORS)),  # requests at once; 1,024 by default
    ]


def _quart(python: str, port: int) -> list[str]:
    return [*_hypercorn(python, port)[:-1], "benchmarks.peers.quart_app:app"]


def _node(_: str, port: int) -> list[str]:
    return ["node", str(ROOT / "benchmarks" / "peers" / "node_app.mjs"), str(port)]


def _encoding_bare(python: str, port: int) -> list[str]:
    return [python, "-m", "benchmarks.bare", str(port), "encode"]


OURS = Contestant("eventmesh_trio", _module("benchmarks.ours"), is_ours=True, runtime="ours")
TUNED = Contestant("eventmesh_trio, high_throughput", _tuned, is_ours=True, runtime="ours")
UVICORN = Contestant(
    "uvicorn+uvloop+Starlette",
    _uvicorn,
    ("uvicorn", "uvloop", "sse_starlette", "httptools", "orjson"),
)
AIOHTTP = Contestant(
    "aiohttp+uvloop", _module("benchmarks.peers.aiohttp_app"), ("aiohttp", "uvloop", "orjson")
)
GRANIAN = Contestant("granian (RSGI)", _granian, ("granian", "uvloop", "orjson"))
HYPERCORN = Contestant(
    "hypercorn-trio+Starlette", _hypercorn, ("hypercorn", "trio", "sse_starlette", "orjson")
)
QUART = Contestant("quart-trio", _quart, ("hypercorn", "quart_trio", "orjson"))
WEBSOCKETS = Contestant(
    "websockets+uvloop",
    _module("benchmarks.peers.websockets_app"),
    ("websockets", "uvloop", "orjson"),
    ("websocket",),
)
NODE = Contestant("Node (http, ws)", _node, runtime="node")
PEERS = (UVICORN, AIOHTTP, GRANIAN, HYPERCORN, QUART, WEBSOCKETS, NODE)
BARE = Contestant(
    "bare socket, encoded before", _module("benchmarks.bare"),
    framings=("ndjson", "sse"), runtime="ours",
)  # fmt: skip
ENCODING_BARE = Contestant(
    "bare socket that encodes", _encoding_bare, framings=("ndjson", "sse"), runtime="ours"
)
LIMITS = (BARE, ENCODING_BARE)
"""Not peers: what the sockets themselves allow on this machine, in this Python."""


def prepare() -> tuple[list[Contestant], dict[str, str]]:
    """Install the peers where that was not done yet; returns who can run, and why others cannot."""
    python = install()
    able, missing = [OURS], {}
    for peer in PEERS:
        reason = install_node() if peer.runtime == "node" else importing(python, peer.modules)
        if reason is None:
            able.append(peer)
        else:
            missing[peer.name] = reason
    return able, missing


def cores() -> tuple[int, int] | None:
    """One core for the servers and one for the driver; None where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def start_all(
    stack: ExitStack, contestants: Iterable[Contestant], core: int | None, missing: dict[str, str]
) -> list[tuple[Contestant, tuple[str, int], int]]:
    """Start each, to be ended with ``stack``; a peer that does not start costs the others nothing.

    Returns: of each its address and process id; why others are not there is noted in ``missing``.
    """
    servers = []
    for contestant in contestants:
        try:
            servers.append((contestant, *stack.enter_context(serving(contestant, core))))
        except RuntimeError as error:
            if contestant.is_ours:
                raise
            missing[contestant.name] = str(error)
    return servers


@contextmanager
def serving(contestant: Contestant, core: int | None) -> Iterator[tuple[tuple[str, int], int]]:
    """Run a server in a process of its own, on one core; yields its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    python = sys.executable if contestant.runtime == "ours" else str(ENVIRONMENT / "bin" / "python")
    process = subprocess.Popen(
        contestant.command(python, port),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # some start workers, which outlive a parent that is killed
    )
    try:
        # At once, so that every thread it starts inherits both.
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        _wait_listening(process, port, contestant.name)
        yield ("127.0.0.1", port), process.pid
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it has started: what is left would work beside the next ones."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
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
