"""One extraction process from outside: how it is started, asked, heard and ended.

Its other side is `eventmesh_trio.pipeline.workers.worker`. Which page goes to which process, and
what a failure costs, is the pool's to decide (`eventmesh_trio.pipeline.workers.pool`).
"""

import fcntl
import logging
import os
import site
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import attrs
import msgspec
import trio

import eventmesh_trio
from eventmesh_trio.pipeline.workers.messages import HEADER, Answer, ExtractJob, job_frame

__all__ = ["WorkerFailed", "WorkerLimits", "WorkerProcess", "running", "start_process"]

logger = logging.getLogger(__name__)

_MAX_DEFAULT_WORKERS: Final = 8
_MIB: Final = 1024 * 1024
_PIPE_BYTES: Final = _MIB
"""What a pipe to or from a worker holds, the most that Linux allows anyone: nine pages of ten go
over it in one write, where 64 KiB took three, and woke both sides for each. The kernel takes no
memory for what is not in it."""
_READ_BYTES: Final = 224 * 1024
"""Of an answer at once: all of nearly every one, and no block that malloc maps anew each time."""
_MALLOC: Final = {
    "MALLOC_ARENA_MAX": "1",  # the thread that watches for the parent's end needs none of its own
    "MALLOC_TRIM_THRESHOLD_": str(_MIB),  # bytes: of the heap's end, no more is kept
}
"""How glibc keeps memory in a worker, mallopt(3): after 86 pages of 10 to 500 KB it holds 25.5 MB,
not 28, for the same processor time."""


def _default_workers() -> int:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(usable, _MAX_DEFAULT_WORKERS))


def _positive(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value}")


@attrs.frozen(kw_only=True)
class WorkerLimits:
    """What extraction may use."""

    workers: int = attrs.field(factory=_default_workers, validator=_positive)
    """Processes at once; by default one a usable processor, at most 8."""
    job_seconds: float = attrs.field(default=20.0, validator=_positive)
    """How long one page may take before its worker is killed; a worker's start counts too."""
    memory_bytes: int = attrs.field(default=1024 * _MIB, validator=_positive)
    """Address space of one worker (``RLIMIT_AS``)."""
    jobs_per_worker: int = attrs.field(default=5000, validator=_positive)
    """Pages after which a worker is replaced by a fresh one: what it leaked goes with it. To start
    one takes as much as to read 20 pages."""
    queue_pages: int = attrs.field(default=32, validator=_positive)
    """Pages that wait for a process at once; further ones wait for a place among them."""
    max_answer_bytes: int = attrs.field(default=128 * _MIB, validator=_positive)
    """The largest encoded document taken from a worker."""
    abandoned_seconds: float = attrs.field(default=0.5, validator=_positive)
    """How long a worker may go on with a page that nobody waits for any more."""
    farewell_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long to wait for a killed process to be gone."""


class WorkerFailed(Exception):
    """The worker is of no more use; the message says what happened to it."""


@attrs.define(eq=False)
class WorkerProcess:
    """A running process, spoken to by one task at a time."""

    process: trio.Process
    limits: WorkerLimits
    decoder: "msgspec.msgpack.Decoder[list[Answer]]" = attrs.field(
        factory=lambda: msgspec.msgpack.Decoder(list[Answer])
    )
    jobs: int = 0

    async def ask(self, job: ExtractJob) -> Answer:
        """Hand over one job and wait for its answer. Cancelled: the worker must be discarded.

        Raises: WorkerFailed.
        """
        self.jobs += 1
        await self._send(job)
        frame = await self._receive()
        try:
            with memoryview(frame) as view, view[HEADER.size :] as payload:
                (answer,) = self.decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError):
            raise WorkerFailed("answered with something else than an answer") from None
        if answer.job_id != job.job_id:
            raise WorkerFailed("answered another question")
        if answer.failure == "memory":
            raise WorkerFailed("ran out of memory")
        return answer

    async def _send(self, job: ExtractJob) -> None:
        """No checkpoint where the pipe takes all of it, as it does of nearly every page."""
        assert isinstance(self.process.stdin, trio.lowlevel.FdStream)
        pieces = job_frame(job)
        try:
            sent = os.writev(self.process.stdin.fileno(), pieces)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise WorkerFailed("died") from None
        try:
            for piece in pieces:
                if sent < len(piece):
                    with memoryview(piece) as view, view[sent:] as rest:
                        await self.process.stdin.send_all(rest)
                sent = max(0, sent - len(piece))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise WorkerFailed("died") from None

    async def _receive(self) -> bytes | bytearray:
        """One frame, its header included; what follows it would answer nothing that was asked.

        Raises: WorkerFailed.
        """
        received: bytes | bytearray = await self._receive_some(_READ_BYTES)
        while len(received) < HEADER.size:
            received += await self._receive_some(_READ_BYTES)
        (length,) = HEADER.unpack_from(received)
        if length > self.limits.max_answer_bytes:
            raise WorkerFailed(f"answered with {length} bytes")
        missing = HEADER.size + length - len(received)
        if missing > 0:
            received = bytearray(received)
        while missing > 0:
            data = await self._receive_some(max(_READ_BYTES, missing))
            received += data
            missing -= len(data)
        if missing < 0:
            raise WorkerFailed("answered more than was asked")
        return received

    async def _receive_some(self, max_bytes: int) -> bytes:
        assert self.process.stdout is not None
        try:
            data = await self.process.stdout.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise WorkerFailed("died")
        return bytes(data)


def _environment() -> dict[str, str]:
    """Ours, so that the child imports the same package, wherever it was imported from."""
    environment = {**_MALLOC, **os.environ}
    package_parent = str(Path(eventmesh_trio.__file__).resolve().parent.parent)
    if package_parent not in (*site.getsitepackages(), site.getusersitepackages()):
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = package_parent + (os.pathsep + known if known else "")
    return environment


async def start_process(limits: WorkerLimits) -> trio.Process:
    """Raises: OSError (no more processes, descriptors or memory to be had)."""
    process = await trio.lowlevel.open_process(
        # -P: the directory that we happen to be in is no place to import modules from.
        [
            *(sys.executable, "-P", "-m", "eventmesh_trio.pipeline.workers.worker"),
            *(str(limits.memory_bytes), str(limits.job_seconds)),
        ],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=_environment(),
        process_group=0,  # a Ctrl-C before the child can ignore it must not reach it
    )
    if sys.platform == "linux":
        for stream in (process.stdin, process.stdout):
            assert isinstance(stream, trio.lowlevel.FdStream)
            with suppress(OSError):  # this user has enough in pipes already; then it stays small
                fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


@asynccontextmanager
async def running(process: trio.Process, limits: WorkerLimits) -> AsyncIterator[WorkerProcess]:
    """When the block ends the process is killed and waited for, and its pipes are closed."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain_stderr, process)
            yield WorkerProcess(process, limits)
            nursery.cancel_scope.cancel()
    finally:
        process.kill()  # it holds nothing that a farewell could save
        # Shielded, for we are often here because we were cancelled; bounded, though a killed
        # process is gone in a millisecond.
        with trio.move_on_after(limits.farewell_seconds, shield=True):
            await process.wait()
        # Shielded: cancelled, the first would be closed and the others left open. Never waits.
        with trio.CancelScope(shield=True):
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)


async def _drain_stderr(process: trio.Process) -> None:
    """Log what a worker says, line by line; a full pipe would stop it."""
    assert process.stderr is not None
    pending = b""
    async for data in process.stderr:
        *lines, pending = (pending + data).split(b"\n")
        pending = pending[-4096:]
        for line in lines:
            logger.warning("worker %d: %s", process.pid, line.decode("utf-8", "replace"))
