"""The ``eventmesh`` command as a user has it: real processes, pipes, exit codes, signals."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.commands import in_shell
from tests.helpers.origin import Origin
from tests.helpers.programs import CHECKOUT
from tests.helpers.servers import open_server

EVENTMESH = [sys.executable, "-m", "eventmesh_trio"]
ALLOW = ["--allow-private", "127.0.0.0/8"]


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EVENTMESH, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CHECKOUT,
    )


def events(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_crawl_in_process_writes_ndjson_to_stdout_and_nothing_to_a_stderr_that_is_no_terminal(
    origin: Origin,
):
    done = run("crawl", *ALLOW, *origin.pages(3))
    assert (done.returncode, done.stderr) == (0, "")
    written = events(done.stdout)
    assert (written[0]["event"], written[-1]["event"]) == ("metadata", "summary")
    assert {event["url"] for event in written if event["event"] == "result"} == set(origin.pages(3))
    assert written[-1]["successful"] == 3


def test_one_url_that_fails_makes_the_exit_code_1(origin: Origin):
    done = run("crawl", *ALLOW, origin.url("/page/1"), origin.url("/status/404"))
    assert done.returncode == 1
    assert events(done.stdout)[-1]["failed"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["crawl"],
        ["crawl", "file:///etc/passwd"],
        ["crawl", "http://e.org/", "--concurrency", "0"],
        ["crawl", "http://e.org/", "--format", "pdf"],
        ["crawl", "http://e.org/", "--set", "mesh.lingers=1"],
        ["crawl", "http://e.org/", "--config", "/nonexistent/file.toml"],
        ["crawl", "http://e.org/", "--server", "http://x", "--allow-private", "10.0.0.0/8"],
        ["serve", "--tls-key", __file__],
        ["explode"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_clear_line(arguments: list[str]):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["crawl", "search", "explain"])
def test_a_browser_that_cannot_be_used_is_exit_code_2_and_one_clear_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    done = run(command, "https://example.org/", "--browser", "http://192.0.2.1:9222")
    assert (done.returncode, done.stdout) == (2, "")
    assert "render.browser is at 192.0.2.1: it must be on this machine" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # who only looks into a store makes none


def test_a_list_that_is_no_text_and_an_output_that_cannot_be_written_are_exit_code_2(
    tmp_path: Path,
):
    listed = tmp_path / "urls"
    listed.write_bytes(b"\xff\xfe\n")
    for arguments, said in (
        (["-i", str(listed)], "is not utf-8 text"),
        (["http://e.org/", "-o", str(tmp_path / "no" / "x")], "cannot write to"),
        (["http://e.org/", "-o", str(tmp_path / "no" / "x"), "--server", "http://e.org"], "cannot"),
    ):
        done = run("crawl", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_stands_still_loses_nothing(origin: Origin):
    pages = [origin.url(f"/large/{number}?kb=200") for number in range(12)]
    with subprocess.Popen(
        [*EVENTMESH, "crawl", *ALLOW, "--set", "mesh.stall_seconds=0.5", *pages],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
    ) as process:
        time.sleep(4)
        out, _ = process.communicate(timeout=60)
    assert events(out.decode())[-1]["event"] == "summary"
    assert process.returncode == 0


def test_ctrl_c_ends_a_crawl_that_no_server_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*EVENTMESH, "crawl", "--server", address, "http://e.org/"], cwd=CHECKOUT
        )
        try:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == 130
        finally:
            process.kill()
            process.wait()


def test_a_url_without_a_scheme_may_have_one_further_on(origin: Origin):
    host = origin.url("/page/1").removeprefix("http://")
    done = run("crawl", *ALLOW, f"{host}?next=https://e.org/", "-i", "-", stdin="\ufeff# none\n")
    assert [e["url"] for e in events(done.stdout) if e["event"] == "result"] == [
        f"https://{host}?next=https://e.org/"
    ]


def test_a_second_ctrl_c_ends_a_crawl_whose_output_nobody_reads(origin: Origin):
    pages = [origin.url(f"/large/{number}?kb=200") for number in range(4)]
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*EVENTMESH, "crawl", *ALLOW, *pages], stdout=writing, stderr=subprocess.PIPE, cwd=CHECKOUT
    )
    try:
        wait_until(lambda: not select.select([], [writing], [], 0)[1], 30, "the pipe is not full")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # it waits for its reader, to print the partial summary
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
        if process.stderr is not None:
            process.stderr.close()


def test_a_server_that_is_not_there_is_exit_code_3():
    done = run("crawl", "--server", "http://127.0.0.1:1", "http://e.org/")
    assert done.returncode == 3
    assert done.stderr.startswith("eventmesh: ")
    assert "Traceback" not in done.stderr


def test_a_server_that_refuses_is_exit_code_4_and_one_whose_url_cannot_be_read_is_2(
    origin: Origin,
):
    with open_server("native", {"EVENTMESH_SERVER__MAX_URLS": "1"}) as server:
        refused = run("crawl", "--server", server.base_url, *origin.pages(2))
    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr.startswith("eventmesh: ")
    assert "urls" in refused.stderr
    unread = run("crawl", "--server", "ftp://example.org/", "http://e.org/")
    assert (unread.returncode, unread.stdout) == (2, "")
    assert "Traceback" not in refused.stderr + unread.stderr


def test_a_crawl_on_a_server_writes_the_same_events(origin: Origin, native_server):
    done = run("crawl", "--server", native_server.base_url, *origin.pages(2))
    assert done.returncode == 0
    written = events(done.stdout)
    assert [event["event"] for event in written if event["event"] != "progress"] == [
        *("metadata", "start", "result", "result", "summary")
    ]


def test_how_many_urls_a_server_takes_is_for_the_server_to_say(
    origin: Origin, native_server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EVENTMESH_SERVER__MAX_URLS", "1")
    there = run("crawl", "--server", native_server.base_url, *origin.pages(2))
    assert (there.returncode, there.stderr) == (0, "")
    here = run("crawl", *ALLOW, *origin.pages(2))
    assert (here.returncode, here.stdout) == (2, "")
    assert "allowed are 1 to 1" in here.stderr


def test_a_server_whose_name_cannot_be_one_is_exit_code_3():
    done = run("crawl", "--server", "http://a..b:9", "http://e.org/")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("eventmesh: cannot connect to http://a..b:9: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-"])
def test_a_closed_stderr_is_no_trouble_of_a_crawl(origin: Origin, closed: str):
    done = in_shell(f"crawl {' '.join(ALLOW)} {origin.url('/page/1')} {closed}")
    assert done.returncode == 0
    assert events(done.stdout)[-1]["successful"] == 1


def test_a_closed_stdout_is_exit_code_2_and_one_clear_line(origin: Origin):
    asked = origin.requests.total()
    done = in_shell(f"crawl {' '.join(ALLOW)} {origin.url('/page/1')} >&-")
    assert done.returncode == 2
    assert done.stderr == "eventmesh: cannot write to stdout: Bad file descriptor\n"
    assert in_shell(f"crawl {' '.join(ALLOW)} {origin.url('/page/1')} >&- 2>&-").returncode == 2
    assert origin.requests.total() == asked


def test_a_server_runs_with_a_closed_stderr(tmp_path: Path):
    path = tmp_path / "s"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {' '.join(EVENTMESH)} serve --store memory: --bind unix:{path} 2>&-"],
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    try:
        wait_until(path.exists, 30, "the server listens")
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(30)
            asking.connect(str(path))
            asking.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
            assert asking.recv(65536).startswith(b"HTTP/1.1 200")
        assert os.readlink(f"/proc/{process.pid}/fd/2") == os.devnull
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_urls_come_from_a_file_or_from_stdin_without_blank_lines_and_comments(
    origin: Origin, tmp_path: Path
):
    listed = f"# pages\n{origin.url('/page/1')}\n\n  {origin.url('/page/2')}  \n"
    (tmp_path / "urls.txt").write_text(listed)
    from_file = run("crawl", *ALLOW, "-i", str(tmp_path / "urls.txt"))
    from_stdin = run("crawl", *ALLOW, "-i", "-", stdin=listed)
    for done in (from_file, from_stdin):
        assert done.returncode == 0
        assert events(done.stdout)[-1]["total_urls"] == 2


def test_markdown_goes_to_a_file_when_asked(origin: Origin, tmp_path: Path):
    target = tmp_path / "out put.md"
    done = run("crawl", *ALLOW, "--format", "markdown", "-o", str(target), origin.url("/page/1"))
    assert (done.returncode, done.stdout) == (0, "")
    assert target.read_text().startswith(f"<!-- {origin.url('/page/1')} -->\n\n# ")


def test_a_reader_that_has_enough_ends_it_quietly(origin: Origin):
    urls = " ".join(origin.pages(30))
    command = f"{' '.join(EVENTMESH)} crawl {' '.join(ALLOW)} {urls} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=CHECKOUT,
    )
    assert done.stderr == ""
    assert events(done.stdout)[0]["event"] == "metadata"


def test_ctrl_c_cancels_and_the_partial_summary_is_printed(origin: Origin):
    lines = []
    with subprocess.Popen(
        [*EVENTMESH, "crawl", *ALLOW, origin.url("/page/1"), *origin.stalling(2)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "result":
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=30)
    lines += events(out)
    assert (process.returncode, err) == (130, "")
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["status"] == "cancelled"
    assert (lines[-1]["successful"], lines[-1]["cancelled"]) == (1, 2)


def test_progress_is_drawn_on_a_terminal_and_never_on_stdout(origin: Origin):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*EVENTMESH, "crawl", *ALLOW, *origin.pages(3)],
        stdout=subprocess.PIPE,
        stderr=slave,
        cwd=CHECKOUT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    drawn = b""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            piece = os.read(master, 65536)
        except OSError:  # EIO: the last holder of the other side has gone
            break
        drawn += piece
    os.close(master)
    assert process.returncode == 0
    assert b"3 fine" in drawn
    assert all(json.loads(line) for line in out.splitlines())


def test_no_variable_of_the_environment_draws_progress_where_there_is_no_terminal(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run("crawl", *ALLOW, *origin.pages(3))
    assert (done.returncode, done.stderr) == (0, "")


def test_an_address_that_others_can_reach_is_refused_with_the_reason():
    done = run("serve", "--bind", "0.0.0.0:0")
    assert done.returncode == 1
    assert "no authentication" in done.stderr
    assert "--insecure-bind" in done.stderr


def test_a_key_file_that_is_not_there_is_one_clear_line(tmp_path: Path):
    done = run(
        *("serve", "--bind", "127.0.0.1:0", "--store", "memory:"),
        *("--set", "search.provider=brave", "--set", f"search.brave_key_file={tmp_path}/none"),
    )
    assert done.returncode == 1
    reason = f"{tmp_path}/none: No such file or directory"
    assert done.stderr == f"Error: search.brave_key_file: {reason}\n"


def test_a_port_in_use_is_one_clear_line(native_server):
    host, port = native_server.address
    done = run("serve", "--bind", f"{host}:{port}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_is_quick_because_it_loads_no_server():
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, eventmesh_trio.app.cli; print('eventmesh_trio.app.server' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert loaded.stdout.strip() == "False"


def test_ctrl_c_while_the_command_is_still_being_loaded_is_quiet(tmp_path: Path):
    # A stand-in for the first module that the command imports is where the signal arrives.
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [*EVENTMESH, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_before_the_crawl_has_begun_is_quiet(tmp_path: Path):
    urls = tmp_path / "urls"
    os.mkfifo(urls)
    with subprocess.Popen(
        [*EVENTMESH, "crawl", "-i", str(urls)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        with urls.open("w"):  # returns when the command has opened its end, and waits for a line
            process.send_signal(signal.SIGINT)
            written, errors = process.communicate(timeout=20)
    assert (process.returncode, written, errors.strip()) == (130, "", "")


def test_markdown_has_no_place_for_a_url_that_failed_so_stderr_tells_of_it(origin: Origin):
    missing = origin.url("/status/404")
    done = run("crawl", *ALLOW, "--format", "markdown", origin.url("/page/1"), missing)
    assert (done.returncode, done.stdout.count("<!-- ")) == (1, 1)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"eventmesh: {missing}: http_error: ")
    assert "404" in line


@pytest.mark.parametrize(
    "command", ["config show", "config docs --format json", "--help", "--version", "serve --help"]
)
def test_whatever_cannot_be_written_is_exit_code_1_and_one_clear_line(command: str):
    done = in_shell(f"{command} >/dev/full")
    reason = "cannot write to stdout: No space left on device"
    assert (done.returncode, done.stderr) == (1, f"Error: {reason}\n")


def test_a_crawl_whose_output_is_full_names_the_output(origin: Origin):
    done = run("crawl", *ALLOW, "-o", "/dev/full", origin.url("/page/1"))
    reason = "cannot write to /dev/full: No space left on device"
    assert (done.returncode, done.stderr) == (1, f"eventmesh: {reason}\n")


def test_an_address_that_cannot_be_listened_on_is_named(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--bind", "127.0.0.1:0", "--bind", f"127.0.0.1:{port}")
    assert done.returncode == 1
    reason = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert done.stderr == f"Error: {reason}\n"
    path = tmp_path / "nowhere" / "socket"
    done = run("serve", "--bind", f"unix:{path}")
    reason = f"cannot listen on unix:{path}: No such file or directory"
    assert (done.returncode, done.stderr) == (1, f"Error: {reason}\n")
