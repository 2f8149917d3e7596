"""The real server in a process of its own: our own transport, or hypercorn's trio worker."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tests.helpers.processes import children, command_line, descendants, is_running
from tests.helpers.programs import CHECKOUT

Kind = Literal["native", "hypercorn"]
KINDS: tuple[Kind, ...] = ("native", "hypercorn")
START_SECONDS = 30.0
STOP_SECONDS = 10.0
_READY = re.compile(r"(?:listening on|Running on) (http://\S+)\s")


class ServerProcess:
    """A running server: where it listens, which process serves, and what it said on stderr."""

    def __init__(self, kind: Kind, process: subprocess.Popen[bytes], log: Path) -> None:
        self.kind = kind
        self.process = process
        self.log_path = log
        self.base_url = ""

    @property
    def address(self) -> tuple[str, int]:
        split = urlsplit(self.base_url)
        assert split.hostname is not None
        assert split.port is not None
        return split.hostname, split.port

    @property
    def ws_url(self) -> str:
        return self.base_url.replace("http://", "ws://", 1)

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    @property
    def serving_pid(self) -> int:
        """The process that holds the connections (hypercorn serves from a child)."""
        if self.kind == "native":
            return self.process.pid
        for child in children(self.process.pid):
            if b"spawn_main" in command_line(child):
                return child
        return self.process.pid

    def descriptors(self) -> int:
        """How many file descriptors the serving process has open."""
        return len(os.listdir(f"/proc/{self.serving_pid}/fd"))

    def fewest_descriptors(self, seconds: float) -> int:
        """The fewest that were open at any time of some seconds: what is kept has expired."""
        until = time.monotonic() + seconds
        fewest = self.descriptors()
        while time.monotonic() < until:
            time.sleep(0.02)
            fewest = min(fewest, self.descriptors())
        return fewest

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (found := _READY.search(self.log)) is not None:
                self.base_url = found[1].rstrip("/")
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise AssertionError(f"the {self.kind} server did not start:\n{self.log}")

    def stop(self) -> int:
        """SIGTERM, and SIGKILL for all that is left after `STOP_SECONDS`; returns the exit code."""
        family = [self.process.pid, *descendants(self.process.pid)]
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in family[1:]:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        return self.process.returncode


def command_of(kind: Kind) -> list[str]:
    if kind == "native":
        return [sys.executable, "-m", "eventmesh_trio", "serve", "--bind", "127.0.0.1:0"]
    return [
        *(sys.executable, "-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0"),
        # Hypercorn 0.18, with any application, overlooks some peers that close right after their
        # response, and keeps the descriptor for this long (5 seconds where nothing is said).
        *("--keep-alive", "1", "eventmesh_trio.asgi:app"),
    ]


@contextmanager
def open_server(
    kind: Kind,
    settings: Mapping[str, str] | None = None,
    *,
    command: Sequence[str] | None = None,
) -> Iterator[ServerProcess]:
    """Start a server on a free loopback port; it has ended, whatever happened, after the block.

    Args:
      settings: environment variables, such as ``EVENTMESH_MESH__STALL_SECONDS``. Loopback is
        allowed unless they say otherwise.
      command: how it is started, where that is not the usual.
    """
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("EVENTMESH_")
    }
    with tempfile.TemporaryDirectory() as folder:
        environment |= {
            "EVENTMESH_FETCH__ALLOW_PRIVATE": '["127.0.0.0/8"]',
            # The default, a file in the user's data directory, but in one of this server alone.
            "XDG_DATA_HOME": folder,
            **(settings or {}),
        }
        log = Path(folder) / "stderr.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command or command_of(kind),
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = ServerProcess(kind, process, log)
        try:
            server.wait_ready()
            yield server
        finally:
            server.stop()
        text = server.log
    assert "Traceback" not in text, f"the {kind} server logged an exception:\n{text[-8000:]}"
