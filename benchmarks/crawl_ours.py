"""Our side of the crawl comparison: ``eventmesh serve``, asked over its public API."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Final

import attrs

from benchmarks.crawlers import Crawl, ask, measured, spawned

__all__ = ["OurServer", "count_results", "serving_ours"]

_MOST_A_RUN: Final = 64
"""Fetches at once that one request may ask for; more are asked for by several requests."""
_START_SECONDS: Final = 30.0
_READ_BYTES: Final = 1 << 20
_SETTINGS: Final[Mapping[str, object]] = {
    "fetch.allow_private": "127.0.0.0/8",
    "fetch.max_connections": 512,
    "fetch.max_idle_connections": 512,
    # The peers ask their one host for as much at once.
    "politeness.max_requests_per_host": 256,
    "politeness.max_requests": 256,
}


@attrs.frozen
class OurServer:
    """Our server, running."""

    process: "Popen[str]"
    port: int

    def delays(self) -> list[float]:
        """How late its tasks were, in seconds each, since this was last asked."""
        taken: list[float] = ask(self.process, "")
        return taken

    def crawl(self, urls: Sequence[str], *, concurrency: int, mode: str = "read_write") -> Crawl:
        """Crawl over HTTP, and measure the server and its workers.

        Args:
          mode: of the cache, as in a request's ``cache_mode``.
        """
        runs = -(-concurrency // _MOST_A_RUN)
        options = {
            "concurrency": -(-concurrency // runs),
            "cache_mode": mode,
            "respect_robots": False,
        }
        bodies = [
            json.dumps({"urls": urls[number::runs], "options": options}).encode()
            for number in range(runs)
        ]

        def crawl() -> Callable[[], tuple[int, int]]:
            with ThreadPoolExecutor(runs) as threads:
                streams = list(threads.map(self._read_stream, bodies))
            return lambda: count_results(streams)

        return measured([self.process.pid], crawl)

    def _read_stream(self, body: bytes) -> list[bytes]:
        """All that the server sends; taken apart later, so as not to take a core from it."""
        head = (
            b"POST /crawl/stream HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        pieces = []
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head + body)
            while piece := connection.recv(_READ_BYTES):
                pieces.append(piece)
        return pieces


def count_results(streams: Sequence[Sequence[bytes]]) -> tuple[int, int]:
    """The results with a document in some NDJSON responses, and how many were from the cache.

    Raises: RuntimeError: a response is none, or ends without its summary.
    """
    pages = cached = 0
    for pieces in streams:
        head, _, lines = b"".join(pieces).partition(b"\r\n\r\n")
        if not head.split(b"\r\n")[0].endswith(b" 200 OK"):
            raise RuntimeError(f"the server answered {head + lines[:500]!r}")
        event: dict[str, object] = {}
        for line in lines.splitlines():
            event = json.loads(line)
            result = event.get("result")
            if isinstance(result, dict) and result["document"] is not None:
                pages += 1
                cached += bool(result["from_cache"])
        if event.get("event") != "summary":
            raise RuntimeError("a response ended without its summary")
    return pages, cached


@contextmanager
def serving_ours(
    folder: Path, *, cores: set[int] | None = None, **settings: object
) -> Iterator[OurServer]:
    """Run our server with its cache in ``folder``, where ``eventmesh serve`` keeps one too.

    Args:
      settings: as ``--set`` has them, with ``__`` for the point.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    wanted = {
        "server.bind": f"127.0.0.1:{port}",
        "cache.store": f"sqlite:{folder / 'cache.sqlite3'}",
        **_SETTINGS,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    assignments = [f"{name}={value}" for name, value in wanted.items()]
    command = [sys.executable, "-m", "benchmarks.crawl_server", *assignments]
    with spawned(command, folder, cores) as process:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    words = (folder / "stderr.txt").read_text("utf-8", "replace")[-2000:]
                    raise RuntimeError(f"our server did not start: {words}") from None
                time.sleep(0.05)
        yield OurServer(process, port)
