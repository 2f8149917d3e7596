"""A server in a process of its own that tells what it holds: tasks, descriptors, objects."""

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.process import collect_less_often
from tests.helpers.here import serve_here
from tests.helpers.programs import CHECKOUT

__all__ = ["CountedServer", "open_counted_server"]


@attrs.frozen
class CountedServer:
    """``address`` is where it serves."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]

    def held(self) -> tuple[int, int]:
        """Its tasks and its descriptors."""
        tasks, descriptors = self._ask("held")
        return tasks, descriptors

    def objects(self) -> Counter[str]:
        """How many objects of the program's own types it has, by type."""
        return Counter(self._ask("objects"))

    def _ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what.encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def open_counted_server(settings: Mapping[str, Any]) -> Iterator[CountedServer]:
    """Start one with these settings; it has ended after the block."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(settings)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            host, port = json.loads(process.stdout.readline())
            yield CountedServer(process, (host, port))
        finally:
            process.kill()


def _held() -> tuple[int, int]:
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


def _objects() -> Counter[str]:
    gc.collect()
    names = (f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return Counter(name for name in names if name.startswith("eventmesh_trio."))


async def _main(settings: Mapping[str, Any]) -> None:
    collect_less_often()
    async with serve_here(load_config(overrides=settings)) as (_, address):
        print(json.dumps(address), flush=True)
        async for line in trio.wrap_file(sys.stdin):
            answer = _objects() if line.strip() == "objects" else _held()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    trio.run(_main, json.loads(sys.argv[1]))
