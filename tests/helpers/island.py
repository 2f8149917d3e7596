"""A real server on an island: a network of its own in which every address answers.

What is in it and how it is commanded: `tests.helpers.island_inside`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from tests.helpers.programs import CHECKOUT, in_ci, require_program

STOP_SECONDS = 20.0


@attrs.frozen
class Voyage:
    """What came of one crawl. ``results`` has the error of each URL, None where it was read;
    ``texts`` what was read; ``how`` its way through the pipeline."""

    results: list[dict[str, Any] | None]
    texts: list[str]
    how: list[dict[str, Any]]
    refused: int | None
    dialled: list[tuple[str, int]]
    asked: list[str]

    @property
    def kinds(self) -> list[str | None]:
        return [None if error is None else str(error["type"]) for error in self.results]


@attrs.define(eq=False)
class Island:
    process: "subprocess.Popen[str]"

    def crawl(self, urls: Sequence[str], **options: Any) -> Voyage:
        """Crawl these and see what is dialled and which names are asked for."""
        limits = {
            "max_retries": 0,
            "timeout_seconds": 20,
            "concurrency": 64,
            "cache_mode": "bypass",
        }
        command = {"urls": list(urls), "options": {**limits, **options}}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        results = answer["results"]
        refused = results[0].get("refused") if results else None
        return Voyage(
            results=[] if refused else [one["error"] for one in results],
            texts=[] if refused else [one["text"] for one in results],
            how=[] if refused else [one["how"] for one in results],
            refused=refused,
            dialled=[(address, port) for address, port in answer["dialled"]],
            asked=answer["asked"],
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the island sank; its last words are in the captured stderr"
        answer: dict[str, Any] = json.loads(line)
        return answer


def require_namespaces() -> list[str]:
    """The command that makes the namespaces; where it may not be used, skip, or fail in CI."""
    unshare = require_program("unshare", "apt-get install --yes util-linux")
    require_program("ip", "apt-get install --yes iproute2")
    require_program("mount", "apt-get install --yes mount")
    command = [unshare, "--net", "--mount"]
    if os.geteuid() != 0:
        command.append("--map-root-user")
    tried = subprocess.run(
        [*command, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        message = f"no right to make network namespaces: {tried.stderr.strip()}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return command


@contextmanager
def open_island(
    ports: Sequence[int], settings: Mapping[str, str] | None = None
) -> Iterator[Island]:
    """Run a server with these settings where a site answers on these ports of every address."""
    command = require_namespaces()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(*command, sys.executable, "-m", "tests.helpers.island_inside", folder),
                json.dumps(sorted(ports)),
                json.dumps({"EVENTMESH_FETCH__ALLOW_PRIVATE": "", **(settings or {})}),
            ],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        island = Island(process)
        try:
            assert "ready" in island.read()
            yield island
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                code = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()
        assert code == 0
