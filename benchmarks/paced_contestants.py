"""Who takes part in the comparison of latency: servers whose events come by a schedule."""

import shutil
from collections.abc import Callable

from benchmarks.contestants import Contestant
from benchmarks.environment import ROOT, importing, install

__all__ = ["FRAMINGS", "OURS", "PEERS", "able_contestants"]

FRAMINGS = ("ndjson", "websocket")


def _peer_module(name: str) -> Callable[[str, int], list[str]]:
    return lambda python, port: [python, "-m", f"benchmarks.peers.{name}", str(port)]


def _uvicorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "uvicorn", "benchmarks.peers.paced_starlette:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
        *("--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "false"),
    ]


def _granian(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "granian", "benchmarks.peers.paced_granian:app", "--port", str(port)),
        *("--interface", "rsgi", "--loop", "uvloop", "--http", "1", "--log-level", "warning"),
        *("--runtime-mode", "st"),
    ]


def _hypercorn(python: str, port: int) -> list[str]:
    return [
        *(python, "-m", "hypercorn", "-k", "trio", "--workers", "0", "--log-level", "warning"),
        *("--bind", f"127.0.0.1:{port}", "benchmarks.peers.paced_starlette:app"),
    ]


OURS = Contestant(
    "eventmesh_trio",
    lambda python, port: [python, "-m", "benchmarks.paced", str(port)],
    framings=FRAMINGS,
    is_ours=True,
    runtime="ours",
)
UVICORN = Contestant(
    "uvicorn+uvloop+Starlette", _uvicorn, ("uvicorn", "uvloop", "httptools", "orjson"), FRAMINGS
)
GRANIAN = Contestant("granian (RSGI)", _granian, ("granian", "uvloop", "orjson"), FRAMINGS)
AIOHTTP = Contestant(
    "aiohttp+uvloop", _peer_module("paced_aiohttp"), ("aiohttp", "uvloop", "orjson"), FRAMINGS
)
HYPERCORN = Contestant(
    "hypercorn-trio+Starlette", _hypercorn, ("hypercorn", "trio", "starlette", "orjson"), FRAMINGS
)
NODE = Contestant(
    "Node http",
    lambda _, port: ["node", str(ROOT / "benchmarks" / "peers" / "paced_node.js"), str(port)],
    framings=("ndjson",),
    runtime="node",
)
PEERS = (UVICORN, GRANIAN, AIOHTTP, HYPERCORN, NODE)


def able_contestants() -> tuple[list[Contestant], dict[str, str]]:
    """Who can run here, ours first; and why others cannot."""
    python = install()
    able, missing = [OURS], {}
    for peer in PEERS:
        if peer.runtime == "node":
            reason = None if shutil.which("node") else "there is no node"
        else:
            reason = importing(python, peer.modules)
        if reason is None:
            able.append(peer)
        else:
            missing[peer.name] = reason
    return able, missing
