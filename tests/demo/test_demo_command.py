"""``eventmesh demo`` as its user meets it: a process, two pipes or a terminal, and Ctrl-C."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from eventmesh_trio.demo.site import PATHS
from tests.helpers.processes import descendants, is_running
from tests.helpers.programs import CHECKOUT, require_program

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "eventmesh_trio", "demo"]
NOT_FINE = {"/news/no-such-story": "404", "/private/ledger": "  -"}
_LINE = re.compile(r"^( {2}-|\d{3})  *(?:\d+ words)?  *\d+ ms  (/\S*) +(\S.*)$", re.MULTILINE)


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("EVENTMESH_")}


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def open_demo() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo that has crawled and stays up, and what it printed so far."""
    with subprocess.Popen(
        COMMAND,
        cwd=CHECKOUT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Ctrl-C ends it" in line:
                    break
            yield process, "".join(said)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """One whole ``demo --exit``, looked at by several tests."""
    return run_demo("--exit")


def test_demo_exit_prints_a_line_a_page_and_the_summary_and_ends_with_0(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert done.returncode == 0, done.stderr
    seen = {path: (status, text) for status, path, text in _LINE.findall(done.stdout)}
    assert set(seen) == set(PATHS)
    for path, (status, _) in seen.items():
        assert status == NOT_FINE.get(path, "200"), path
    assert seen["/news/lighthouse"][1] == "The keeper who would not be automated"
    assert seen["/ru/volga"][1] == "Паром через Волгу"
    assert seen["/private/ledger"][1].startswith("robots_denied: ")
    assert seen["/flaky"][1] == "A page that works at the second attempt"
    assert seen["/app/tide-clock"][1] == "Tide clock (built by a script: needs a browser)"
    fine = len(PATHS) - len(NOT_FINE)
    assert f"completed: {len(PATHS)} pages, {fine} fine, 2 failed, 0 cancelled" in done.stdout
    assert "errors: 1 http_error, 1 robots_denied" in done.stdout
    assert "Site and server end here" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_slow_page_is_asked_for_first_and_holds_up_no_other(
    done: subprocess.CompletedProcess[str],
) -> None:
    paths = [path for _, path, _ in _LINE.findall(done.stdout)]
    assert PATHS[0] == "/slow"
    assert paths[-1] == "/slow"


def test_the_curl_commands_that_it_prints_repeat_the_crawl() -> None:
    require_program("curl", "apt-get install curl")
    with open_demo() as (_, said):
        whole, one = (line.strip() for line in said.splitlines() if line.startswith("  curl"))
        repeated = subprocess.run(
            whole, shell=True, capture_output=True, text=True, timeout=60, check=True
        )
        events = [json.loads(line) for line in repeated.stdout.splitlines()]
        results = [event for event in events if event["event"] == "result"]
        assert len(results) == len(PATHS)
        assert events[-1]["event"] == "summary"
        assert events[-1]["from_cache"] > 20

        single = subprocess.run(
            shlex.split(one), capture_output=True, text=True, timeout=60, check=True
        )
        assert "event: result\n" in single.stdout
        assert "event: summary\n" in single.stdout


def test_ctrl_c_ends_it_with_0_and_leaves_no_process() -> None:
    with open_demo() as (process, _):
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        deadline = time.monotonic() + 2
        while any(is_running(pid) for pid in family):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_ctrl_c_during_the_crawl_prints_what_was_done_and_ends_with_130() -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=CHECKOUT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = next((line for line in process.stdout if line.startswith("200")), None)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert first
        assert f"cancelled: {len(PATHS)} pages" in said
        assert "stays up" not in said
        assert "Traceback" not in errors


def test_a_taken_port_8080_makes_it_use_another() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        done = run_demo("--exit")
    assert done.returncode == 0
    (server,) = set(re.findall(r"through (http://127\.0\.0\.1:\d+)/", done.stdout))
    assert not server.endswith(":8080")


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    with subprocess.Popen(
        [*COMMAND, "--exit"],
        cwd=CHECKOUT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Crawling")
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(20) == 128 + signal.SIGPIPE
        assert "Traceback" not in errors
        assert "Broken pipe" not in errors


def test_on_a_terminal_a_live_bar_stands_on_stderr_and_none_of_it_on_stdout() -> None:
    leader, follower = pty.openpty()
    drawn: list[bytes] = []

    def watch() -> None:
        with contextlib.suppress(OSError):  # EIO: its last writer is gone
            while piece := os.read(leader, 65536):
                drawn.append(piece)

    terminal = threading.Thread(target=watch)
    terminal.start()
    done = subprocess.run(
        [*COMMAND, "--exit"],
        cwd=CHECKOUT,
        env={**environment(), "TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=follower,
        timeout=60,
        check=False,
    )
    os.close(follower)
    terminal.join(10)
    os.close(leader)
    assert done.returncode == 0
    bar = b"".join(drawn)
    assert b"crawling" in bar
    assert f"/{len(PATHS)}".encode() in bar
    assert b"\x1b" not in done.stdout
    assert b"crawling" not in done.stdout


def test_without_a_terminal_progress_is_plain_lines(
    done: subprocess.CompletedProcess[str],
) -> None:
    counts = [
        int(count) for count in re.findall(rf"^(\d+) of {len(PATHS)} pages$", done.stderr, re.M)
    ]
    assert counts == sorted(set(counts))
    assert counts[-1] == len(PATHS)
    assert "\x1b" not in done.stderr


def test_neither_colours_that_are_forced_nor_another_encoding_change_what_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run_demo("--exit")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\u041f\u0430\u0440\u043e\u043c" in done.stdout


def test_the_demo_s_server_may_fetch_from_its_site_and_from_no_other_private_address() -> None:
    with open_demo() as (_, said):
        server = re.findall(r"stays up at (\S+);", said)[0]
        site = re.findall(r"pages of (\S+) through", said)[0]
        if "127.0.0.2" not in site:
            pytest.skip("this system has no second loopback address")
        import requests

        body = {"urls": [f"{site}/about", server.replace("localhost", "127.0.0.1") + "/livez"]}
        lines = requests.post(f"{server}/crawl/stream", json=body, timeout=20).text.splitlines()
        results = [event for event in map(json.loads, lines) if event["event"] == "result"]
        outcome = {event["url"]: event["error"] and event["error"]["type"] for event in results}
        assert outcome == {f"{site}/about": None, f"{server}/livez": "blocked_address"}
