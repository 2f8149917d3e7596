"""The process between ours and the browser: when we are gone, however we went, so is the browser.

It starts the browser, lends it its own standard streams as the pipes of
``--remote-debugging-pipe``, and waits for one of two ends: the browser's, or that of whoever holds
the other end of standard input. Then it kills what is left of the browser, which need not
co-operate, and removes the browser's folder. Were the keeper itself killed, the kernel would kill
the browser (Linux), and whoever started the keeper would remove the folder, or the next keeper.

Run as a file, not as a module: it starts in 20 ms because it imports nothing of the package.
``python browser_keeper.py FOLDER_PREFIX OWN_PREFIX PROGRAM ARGUMENT...``: ``{folder}`` in an
argument is replaced by the path of a new folder, whose name begins with the second prefix, as all
of them begin with the first.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

__all__ = ["LOCK_NAME", "make_folder", "remove_folders", "remove_stale_folders"]

LOCK_NAME = "eventmesh.lock"
_YOUNG_SECONDS = 60.0
_REAP_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PASSED_ON = ("PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "FONTCONFIG_FILE")


def make_folder(prefix: str) -> tuple[str, int]:
    """A new private folder and the descriptor whose lock says that it is in use."""
    while True:
        folder = tempfile.mkdtemp(prefix=prefix)
        path = os.path.join(folder, LOCK_NAME)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another keeper may have taken it for a stale one before the lock was there.
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return folder, descriptor
        os.close(descriptor)


def remove_stale_folders(prefix: str) -> int:
    """Remove the folders of keepers that were killed; how many there were."""
    removed = 0
    parent = tempfile.gettempdir()
    for entry in os.scandir(parent):
        if not entry.name.startswith(prefix):
            continue
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if not entry.is_dir(follow_symlinks=False) or status.st_uid != os.geteuid():
                continue
            try:
                descriptor = os.open(os.path.join(entry.path, LOCK_NAME), os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                if time.time() - status.st_mtime > _YOUNG_SECONDS:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed += 1
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: in use
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += 1
            finally:
                os.close(descriptor)
    return removed


def remove_folders(prefix: str) -> None:
    """Remove the folders of that prefix, into which a dying browser may still write."""
    # What a keeper takes, which is younger than our own first look for it.
    parent = os.environ.get("TMPDIR", "")
    if not os.path.isdir(parent):
        parent = tempfile.gettempdir()
    until = time.monotonic() + _REAP_SECONDS
    while time.monotonic() < until:
        with os.scandir(parent) as entries:
            left = [entry.path for entry in entries if entry.name.startswith(prefix)]
        if not left:
            return
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.005)


def _environment(folder: str) -> dict[str, str]:
    """What a browser needs and no more: ours has keys, and a page may take over its process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }
    return {**kept, "HOME": folder, "TMPDIR": folder, "XDG_RUNTIME_DIR": folder}


def _start(command: list[str], folder: str) -> "subprocess.Popen[bytes]":
    keeper = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the browser leaves comes to us

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:  # it was killed before that was set
                os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        env=_environment(folder),
        cwd=folder,
        pass_fds=(3, 4),
        process_group=0,
        # One thread, no locks held: nothing here can be caught half way.
        preexec_fn=prepare,  # noqa: PLW1509
    )


def _wait(browser: "subprocess.Popen[bytes]") -> None:
    """Return when the browser has ended, or the other end of standard input is closed."""
    wakes, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: only a hang-up or an error wakes it
    poll.register(wakes, select.POLLIN)
    while browser.poll() is None:
        for descriptor, _ in poll.poll():
            if descriptor == 0:
                return
            os.read(wakes, 4096)


def _children() -> list[int]:
    try:
        with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _kill(browser: "subprocess.Popen[bytes]") -> None:
    """Kill the browser's group, then whatever has become our child, until there is nothing."""
    deadline = time.monotonic() + _REAP_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            os.killpg(browser.pid, signal.SIGKILL)
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def main() -> None:
    prefix, own_prefix, *command = sys.argv[1:]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # whoever holds our standard input decides
    os.dup2(0, 3)  # where the browser expects them; nothing else is open yet
    os.dup2(1, 4)
    remove_stale_folders(prefix)
    folder, _lock = make_folder(own_prefix)
    try:
        browser = _start([part.replace("{folder}", folder) for part in command], folder)
        os.dup2(2, 1)  # only the browser writes there: its end is the end of the stream
        os.closerange(3, 5)
        try:
            _wait(browser)
        finally:
            _kill(browser)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
