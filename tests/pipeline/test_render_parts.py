"""The parts of rendering that need no browser: errors, folders, memory, and what is refused."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    PageError,
    RenderFailure,
    TLSFailure,
    TooManyRedirects,
)
from eventmesh_trio.pipeline.rendering import browser_keeper
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.net_errors import error_of
from eventmesh_trio.pipeline.rendering.process_memory import memory_below
from tests.helpers.processes import is_running

PREFIX = "eventmesh-browser-"
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("net::ERR_CONNECTION_REFUSED", NetworkFailure),
        ("net::ERR_EMPTY_RESPONSE", NetworkFailure),
        ("net::ERR_HTTP2_PROTOCOL_ERROR", NetworkFailure),
        ("net::ERR_TUNNEL_CONNECTION_FAILED", NetworkFailure),
        ("net::ERR_INCOMPLETE_CHUNKED_ENCODING", NetworkFailure),
        ("net::ERR_NAME_NOT_RESOLVED", DNSError),
        ("net::ERR_CERT_AUTHORITY_INVALID", TLSFailure),
        ("net::ERR_SSL_PROTOCOL_ERROR", TLSFailure),
        ("net::ERR_CONNECTION_TIMED_OUT", FetchTimeout),
        ("net::ERR_TIMED_OUT", FetchTimeout),
        ("net::ERR_TOO_MANY_REDIRECTS", TooManyRedirects),
        ("net::ERR_UNSAFE_PORT", BlockedAddress),
        ("net::ERR_BLOCKED_BY_RESPONSE", RenderFailure),
        ("something new", RenderFailure),
    ],
)
def test_an_error_of_the_network_is_the_error_that_a_fetch_would_have(
    text: str, error: type[PageError]
):
    found = error_of(text)
    assert type(found) is error
    assert found.context == {"browser_error": text}


@pytest.mark.parametrize(
    "wrong",
    [{"max_pages": 0}, {"page_seconds": -1.0}, {"left_out": ("pictures",)}, {"browser": ""}],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        RenderLimits(**wrong)  # type: ignore[arg-type]


@linux
def test_the_memory_of_all_processes_below_one_is_seen():
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c',"
        " \"kept = b'x' * 50_000_000; print(1, flush=True); input()\"]); child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        (child,) = memory_below(process.pid)
        assert 50_000_000 < child.held_bytes < 100_000_000
        assert b"input()" in child.command
        assert process.pid in {found.pid for found in memory_below(os.getpid())}
        process.communicate(b"\n")
    assert memory_below(process.pid) == []


def test_only_folders_of_keepers_that_are_gone_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    used, lock = browser_keeper.make_folder(PREFIX)
    left, left_lock = browser_keeper.make_folder(PREFIX)
    (Path(left) / "Default").mkdir()
    os.close(left_lock)  # as the end of its process does
    young = tmp_path / f"{PREFIX}young"
    young.mkdir()
    old = tmp_path / f"{PREFIX}old"
    old.mkdir()
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    other = tmp_path / "something-else"
    other.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / browser_keeper.LOCK_NAME).touch()
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(elsewhere)
    file = tmp_path / f"{PREFIX}file"
    file.touch()
    assert browser_keeper.remove_stale_folders(PREFIX) == 2
    assert not Path(left).exists()
    assert not old.exists()
    for kept in (Path(used), young, other, elsewhere, link, file):
        assert kept.exists()
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


@linux
@pytest.mark.parametrize("ended_by", ["us", "itself"])
def test_a_keeper_kills_what_its_program_leaves_behind(ended_by: str, tmp_path: Path):
    """A program that ignores signals, and whose children have left its group and session."""
    marker = tmp_path / "pids"
    end = "sleep 1000" if ended_by == "us" else "sleep 0.3"
    script = (
        f"trap '' TERM HUP INT; setsid sleep 1000 & echo $! >> {marker}; echo $$ >> {marker};"
        f" pwd >> {marker}; {end}"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", browser_keeper.__file__, PREFIX, PREFIX),
            "/bin/sh",
            "-c",
            script,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 20
        while not marker.exists() or marker.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        *pids, folder = marker.read_text().split()
        assert folder.startswith(str(tmp_path / PREFIX))
        if ended_by == "us":
            process.send_signal(signal.SIGTERM)  # which is not for it to decide upon
            assert all(is_running(int(pid)) for pid in pids)
            assert process.stdin is not None
            process.stdin.close()
        process.wait(10)
        assert not any(is_running(int(pid)) for pid in pids)
        assert not Path(folder).exists()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


def test_folders_are_removed_by_their_prefix_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in (f"{PREFIX}1-a", f"{PREFIX}2-b", "other"):
        (tmp_path / name / "within").mkdir(parents=True)
    browser_keeper.remove_folders(f"{PREFIX}1-")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{PREFIX}2-b", "other"])
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))  # then neither does a keeper take it
    browser_keeper.remove_folders(f"{PREFIX}3-")
