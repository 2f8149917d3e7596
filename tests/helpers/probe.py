"""How late a trio loop wakes a task that sleeps: measured by a task of that loop, told by a file.

The same task runs beside the real server (`serve_probed` for our own transport, `app` for
hypercorn) and in a process that does nothing else, so that what the machine does to both can be
taken off. A loop that stands still for 50 ms makes ten late samples, not one: each point of time at
which the task should have run counts.
"""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.helpers.clock import queued_seconds, wait_until
from tests.helpers.programs import CHECKOUT
from tests.helpers.servers import Kind, command_of

__all__ = ["Delays", "app", "idle_process", "probed_command", "settings_for"]

FILE_VARIABLE = "PROBE_FILE"
EVERY_SECONDS = 0.005
_SAMPLE = struct.Struct("ddd")  # seconds of the monotonic clock, seconds late, of these queued


async def measure(path: str) -> None:
    """Write a sample each time it runs, until cancelled."""
    with Path(path).open("ab", buffering=0) as samples:
        due = trio.current_time() + EVERY_SECONDS
        queued = queued_seconds(os.getpid())
        while True:
            await trio.sleep_until(due)
            now, clock = trio.current_time(), time.monotonic()
            before, queued = queued, queued_seconds(os.getpid())
            # One for each time at which it should have run, all of them now: a turn of a busy loop
            # for each would count the lateness of one into that of the next.
            missed = int((now - due) / EVERY_SECONDS) + 1
            late = [now - due - number * EVERY_SECONDS for number in range(missed)]
            samples.write(
                b"".join(
                    _SAMPLE.pack(clock, seconds, min(seconds, queued - before)) for seconds in late
                )
            )
            due += missed * EVERY_SECONDS


@attrs.frozen
class Delays:
    """What one probe has written, all of it or of a span of time."""

    samples: Sequence[tuple[float, float, float]]

    @classmethod
    def read(cls, path: Path) -> "Delays":
        data = path.read_bytes()
        return cls(list(_SAMPLE.iter_unpack(data[: len(data) // _SAMPLE.size * _SAMPLE.size])))

    def between(self, start: float, end: float) -> "Delays":
        """Of this span, by `time.monotonic`."""
        return Delays([sample for sample in self.samples if start <= sample[0] <= end])

    def percentile(self, share: float, *, own: bool = False) -> float:
        """In seconds; the worst where there are too few samples to leave one out.

        With ``own`` without the time for which the process was ready and had no processor.
        """
        ordered = sorted(late - (queued if own else 0) for _, late, queued in self.samples)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@contextmanager
def idle_process(path: Path) -> Iterator[None]:
    """Measure in a process that has nothing else to do."""
    command = [sys.executable, "-m", "tests.helpers.probe", "idle"]
    environment = {**os.environ, FILE_VARIABLE: str(path)}
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 0, 20, "no probe is measuring")
        yield
    finally:
        process.kill()
        process.wait()


def probed_command(kind: Kind) -> list[str]:
    """The server as people start it, with the probe's task in its loop."""
    if kind == "native":
        return [sys.executable, "-m", "tests.helpers.probe", "serve", "--bind", "127.0.0.1:0"]
    return [*command_of(kind)[:-1], "tests.helpers.probe:app"]


def serve_probed() -> None:
    from eventmesh_trio.__main__ import main
    from eventmesh_trio.app import server

    serve = server.serve

    async def probed(*args: Any, **options: Any) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure, os.environ[FILE_VARIABLE])
            code = await serve(*args, **options)
            nursery.cancel_scope.cancel()
        return code

    server.serve = probed
    main()


async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application; the probe's task lives as long as its lifespan."""
    from eventmesh_trio.asgi import app as inner

    if scope["type"] != "lifespan":
        await inner(scope, receive, send)
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(measure, os.environ[FILE_VARIABLE])
        await inner(scope, receive, send)
        nursery.cancel_scope.cancel()


def settings_for(path: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a probed server that writes its samples to ``path``."""
    return {**settings, FILE_VARIABLE: str(path)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["idle"]:
        trio.run(measure, os.environ[FILE_VARIABLE])
    else:
        serve_probed()
