"""The suite looks for what its tests leave behind; here is what it would find."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import leftovers
from tests.helpers.clock import wait_until
from tests.helpers.leftovers import Leftovers, Suite

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
ORPHAN = """
import subprocess, sys
print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)
"""


@pytest.fixture
def suite() -> Suite:
    return Suite(Path(os.environ["TMPDIR"]))


@contextmanager
def noticed(suite: Suite, kind: str, what: str) -> Iterator[None]:
    """There is one thing more within the block, of that kind, and after it there is none."""
    before = suite.leftovers()
    yield
    left = suite.left_since(before)
    (found,) = getattr(left, kind)
    assert what in found
    assert what in str(left)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", 0.2)


def test_a_process_that_still_runs_is_found(suite: Suite) -> None:
    with noticed(suite, "processes", "time.sleep"):
        child = subprocess.Popen(SLEEP)
    child.kill()
    child.wait()


def test_a_process_whose_parent_has_gone_is_found(suite: Suite) -> None:
    with noticed(suite, "processes", "time.sleep"):
        command = [sys.executable, "-I", "-S", "-c", ORPHAN, *SLEEP]
        pid = int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    os.kill(pid, signal.SIGKILL)


def test_a_process_that_was_never_waited_for_is_found(suite: Suite) -> None:
    with noticed(suite, "processes", "never waited for"):
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
        stat = Path(f"/proc/{child.pid}/stat")
        wait_until(lambda: ") Z " in stat.read_text(), 10, "it does not end")
    child.wait()


def test_sockets_that_listen_are_found(suite: Suite, tmp_path: Path) -> None:
    with noticed(suite, "sockets", "tcp port"):
        server = socket.create_server(("127.0.0.1", 0))
    server.close()
    path = str(tmp_path / "s")
    with noticed(suite, "sockets", path), socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        kept = unix.dup()
    kept.close()


def test_a_thread_is_found(suite: Suite) -> None:
    stop = threading.Event()
    with noticed(suite, "threads", "forgotten"):
        threading.Thread(target=stop.wait, name="forgotten", daemon=True).start()
    stop.set()


def test_a_file_and_a_folder_are_found(suite: Suite) -> None:
    for make in (Path.touch, Path.mkdir):
        path = suite.folder / make.__name__
        with noticed(suite, "files", make.__name__):
            make(path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_was_there_before_is_nobodys_fault_and_what_ends_in_time_is_none(
    suite: Suite,
) -> None:
    path = suite.folder / "there before"
    path.touch()
    before = suite.leftovers()
    child = subprocess.Popen(SLEEP)
    killer = threading.Timer(0.05, lambda: (child.kill(), child.wait()))
    killer.start()
    assert suite.left_since(before) == Leftovers()
    killer.join()
    path.unlink()
