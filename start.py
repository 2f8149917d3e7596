#!/usr/bin/env python3
"""Try or test this checkout with nothing but Python 3.11 or newer.

    python3 start.py demo [--exit]         crawl a bundled site through a server of our own
    python3 start.py test [pytest args]    run every check and every test

The first start makes ``.venv`` beside this file out of a lock file, and nowhere else: the system's
Python is not touched, and needs neither pip nor ensurepip (``tools/`` holds the pip that is used).
Later starts look at a stamp in ``.venv`` and go straight on. The stamp holds what the environment
was made of: lock file, Python, folder. Where one has changed, ``.venv`` is made anew.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - what runs this file decides, not our metadata
    sys.exit(f"start.py: this is Python {sys.version.split()[0]}; start me with 3.11 or newer")

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
PIP = ROOT / "tools" / "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
LOCKS = {"demo": ROOT / "requirements.lock", "test": ROOT / "requirements-test.lock"}
CHECKS = {
    "import-linter": ("lint-imports",),
    "ruff check": ("ruff", "check"),
    "ruff format": ("ruff", "format", "--check"),
    "flake8-async": ("flake8",),
    "mypy": ("mypy",),
}
UNTIMED = ("tests/mesh", "tests/wire")
"""Folders whose tests look at no clock and open no socket, so that nothing beside them matters."""
STRESS = "tests/mesh/test_mesh_stress.py"
"""It takes as long as all the rest of them, and the checks."""
STOP_SECONDS = 10.0
"""What a check that is told to stop may take, because another has failed."""
INSTALL_FAILURES = (
    (r"No space left on device|Disk quota exceeded", "the disk is full"),
    (
        r"DO NOT MATCH THE HASHES",
        "the package index serves a file that is not the one in the lock file",
    ),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError"
        r"|establish a new connection|name resolution|Connection (refused|reset)|timed out",
        "the package index cannot be reached; the first start needs a network (a proxy or a mirror "
        "is taken from pip's own configuration)",
    ),
    (
        r"Could not find a version|No matching distribution",
        f"the package index has no file for Python {sys.version_info[0]}.{sys.version_info[1]} on "
        "this machine; Python 3.11, 3.12 and 3.13 on Linux are tried",
    ),
)


class Failed(Exception):
    """What the user reads before we end."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in LOCKS:
        print(__doc__.partition("\n\nThe first")[0], file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    command, *rest = arguments
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not is_ready(command):
            prepare(command)
        if command == "test":
            return run_checks(rest)
        os.execv(PYTHON, [str(PYTHON), "-P", "-m", "eventmesh_trio", command, *rest])
    except Failed as failure:
        print(f"start.py: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error
        print(f"start.py: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("start.py: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def run_checks(pytest_arguments: Sequence[str]) -> int:
    """Every check and every test; the first that fails ends it.

    Two at once where time does not matter: that is two minutes of 28. All other tests run alone.
    """
    began = time.monotonic()
    beside, last = plan(pytest_arguments)
    if not run_side_by_side(beside):
        return 1
    print(f"--- pytest: {' '.join(last)}", flush=True)
    done = subprocess.run([VENV / "bin" / last[0], *last[1:]], cwd=ROOT, check=False)
    if done.returncode:
        print(f"--- pytest FAILED (exit {done.returncode})", flush=True)
        return 1
    count = len(beside) + 1
    print(f"--- all {count} checks passed in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def plan(pytest_arguments: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The commands that may run beside each other, and the one that comes last."""
    if pytest_arguments:  # which say what to test
        return dict(CHECKS), ("pytest", *pytest_arguments)
    beside = {
        "pytest of the mesh's stress": ("pytest", STRESS),
        **CHECKS,
        "pytest of what is untimed": ("pytest", *UNTIMED, f"--ignore={STRESS}"),
    }
    return beside, ("pytest", *(f"--ignore={folder}" for folder in UNTIMED))


def run_side_by_side(checks: Mapping[str, Sequence[str]]) -> bool:
    """Run commands, two at once, and print what each has said when it ends; whether all passed."""
    waiting, failed = list(checks.items()), False
    with contextlib.ExitStack() as stack:
        running: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        while (waiting or running) and not failed:
            while waiting and len(running) < 2:
                name, (program, *arguments) = waiting.pop(0)
                log = stack.enter_context(tempfile.TemporaryFile())
                process = subprocess.Popen(
                    [VENV / "bin" / program, *arguments],
                    cwd=ROOT,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                stack.callback(stop, process)
                running[name] = process, log
            time.sleep(0.05)
            for name, (process, output) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                output.seek(0)
                print(f"--- {name}: {' '.join(checks[name])}", flush=True)
                sys.stdout.write(output.read().decode("utf-8", "replace"))
                if process.returncode:
                    print(f"--- {name} FAILED (exit {process.returncode})", flush=True)
                    failed = True
                    break
    return not failed


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a check as Ctrl-C would, so that it can clean up; what does not listen is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the environment ------------------------------------------------------------------------------


def fingerprint(command: str) -> str:
    """What an environment for that command is made of."""
    made_of = hashlib.sha256(LOCKS[command].read_bytes())
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    made_of.update("\0".join([sys.version, python, str(ROOT)]).encode("utf-8", "surrogateescape"))
    return made_of.hexdigest()


def stamp(command: str) -> Path:
    return VENV / f"ready-for-{command}"


def is_ready(command: str) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return os.access(PYTHON, os.X_OK) and stamp(command).read_text() == fingerprint(command)
    return False


def prepare(command: str) -> None:
    """Make ``.venv``, or add to it what tests want; a half-made one is removed again."""
    with only_one():
        if is_ready(command):
            return  # another start made it while we waited
        began = time.monotonic()
        anew = not is_ready("demo")
        print(
            f"start.py: preparing {VENV} (once; about half a minute)", file=sys.stderr, flush=True
        )
        try:
            if anew:
                create()
            install("--require-hashes", "--only-binary=:all:", "--requirement", LOCKS[command])
            if anew:
                install("--no-deps", "--no-build-isolation", "--no-index", "--editable", ROOT)
            for made in {command, "demo"}:
                stamp(made).write_text(fingerprint(made))
        except BaseException:
            if anew:
                shutil.rmtree(VENV, ignore_errors=True)
            raise
        print(f"start.py: ready in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Let one start at a time prepare; the kernel frees the lock when its holder ends, however."""
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:
        raise Failed("this needs Linux or another POSIX system") from None
    with open(__file__, "rb+") as door:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                "start.py: waiting for another start to end its work", file=sys.stderr, flush=True
            )
            fcntl.flock(door, fcntl.LOCK_EX)
        yield


def create() -> None:
    """Put an empty environment in the place of whatever environment is there."""
    try:
        import venv  # noqa: PLC0415
    except ImportError:
        raise Failed(
            "this Python lacks its venv module; on Debian: apt-get install python3"
        ) from None
    if VENV.is_symlink() or VENV.is_file():
        raise Failed(f"{VENV} is not a folder; move it away, I make one of that name")
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        raise Failed(f"{VENV} is not a Python environment; move it away, I make one of that name")
    if VENV.is_dir():
        shutil.rmtree(VENV)
    VENV.mkdir()
    (VENV / "pyvenv.cfg").touch()  # first, so that what a kill leaves behind is known as ours
    venv.EnvBuilder(symlinks=True, with_pip=False).create(VENV)


def install(*arguments: "str | Path") -> None:
    """Run the pip of ``tools/`` in ``.venv``; which index it asks is pip's own configuration."""
    if not PIP.is_file() or hashlib.sha256(PIP.read_bytes()).hexdigest() != PIP_SHA256:
        raise Failed(f"{PIP} is missing or damaged; get it back with: git checkout -- tools")
    elsewhere = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN")
    environment = {key: value for key, value in os.environ.items() if key not in elsewhere}
    command = [PYTHON, "-I", PIP / "pip", "--disable-pip-version-check", "--no-input", "install"]
    command += ["--quiet", "--no-user", "--no-warn-script-location", "--retries=2"]
    done = subprocess.run(
        [*map(str, command), *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        fail_to_install(done.stdout)


def fail_to_install(output: str) -> NoReturn:
    reason = next((text for pattern, text in INSTALL_FAILURES if re.search(pattern, output)), None)
    tail = "\n".join(f"    {line}" for line in output.strip().splitlines()[-12:])
    raise Failed(
        f"{reason or 'pip could not install the packages'}\n\nThe end of what pip said:\n{tail}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
