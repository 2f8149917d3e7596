"""The pool of extraction processes: pages go in, documents come out, no page can hurt another.

Each *slot* is one task that owns at most one process at a time. A process that hangs, dies or runs
out of memory is killed and replaced; the page that it had is tried once more, on the new one.
"""

import logging
import os
import site
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import attrs
import msgspec
import trio

import eventmesh_trio
from eventmesh_trio.abc import Extraction, Page
from eventmesh_trio.errors import ParseFailure, UnsupportedContent
from eventmesh_trio.pipeline.worker import HEADER, Answer, ExtractJob
from eventmesh_trio.wire.requests import ExtractMode

__all__ = ["ExtractorStatistics", "WorkerLimits", "WorkerPool", "open_extractor"]

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 2
_MAX_DEFAULT_WORKERS: Final = 8
_MIB: Final = 1024 * 1024


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
    jobs_per_worker: int = attrs.field(default=1000, validator=_positive)
    """Pages after which a worker is replaced by a fresh one: what it leaked goes with it."""
    queue_pages: int = attrs.field(default=32, validator=_positive)
    """Pages that wait inside the pool; further callers of `WorkerPool.extract` wait outside."""
    max_answer_bytes: int = attrs.field(default=128 * _MIB, validator=_positive)
    """The largest encoded document taken from a worker."""
    abandoned_seconds: float = attrs.field(default=0.5, validator=_positive)
    """How long a worker may go on with a page that nobody waits for any more."""
    farewell_seconds: float = attrs.field(default=5.0, validator=_positive)
    """How long to wait for a killed process to be gone."""


@attrs.frozen
class ExtractorStatistics:
    """Counts since the pool opened."""

    workers_alive: int
    workers_started: int
    workers_failed: int  # hung, died, out of memory
    pages_waiting: int
    pages_done: int
    pages_failed: int


@attrs.define(eq=False)
class _Ticket:
    """One page on its way through the pool."""

    job: ExtractJob
    done: trio.Event = attrs.field(factory=trio.Event)
    attempts: int = 0
    abandoned: bool = False
    extraction: Extraction | None = None
    error: Exception | None = None
    scope: trio.CancelScope | None = None  # of the attempt under way

    def is_abandoned(self) -> bool:
        """Whether nobody waits any more; a method, since it changes at any checkpoint."""
        return self.abandoned

    def settle(self, outcome: Extraction | Exception) -> None:
        if isinstance(outcome, Extraction):
            self.extraction = outcome
        else:
            self.error = outcome
        self.done.set()


class _WorkerFailed(Exception):
    """The worker is of no more use; the message says what happened to it."""


@attrs.define(eq=False)
class _Worker:
    """A running process, spoken to by one task at a time."""

    process: trio.Process
    limits: WorkerLimits
    decoder: "msgspec.msgpack.Decoder[list[Answer]]" = attrs.field(
        factory=lambda: msgspec.msgpack.Decoder(list[Answer])
    )
    jobs: int = 0
    buffer: bytearray = attrs.field(factory=bytearray)

    async def ask(self, job: ExtractJob) -> Answer:
        """Hand over one job and wait for its answer. Cancelled: the worker must be discarded.

        Raises: _WorkerFailed.
        """
        assert self.process.stdin is not None
        self.jobs += 1
        payload = msgspec.msgpack.encode([job])
        try:
            await self.process.stdin.send_all(HEADER.pack(len(payload)) + payload)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _WorkerFailed("died") from None
        (length,) = HEADER.unpack(await self.receive_exactly(HEADER.size))
        if length > self.limits.max_answer_bytes:
            raise _WorkerFailed(f"answered with {length} bytes")
        try:
            (answer,) = self.decoder.decode(await self.receive_exactly(length))
        except (msgspec.MsgspecError, ValueError):
            raise _WorkerFailed("answered with something else than an answer") from None
        if answer.job_id != job.job_id:
            raise _WorkerFailed("answered another question")
        if answer.failure == "memory":
            raise _WorkerFailed("ran out of memory")
        return answer

    async def receive_exactly(self, length: int) -> bytes:
        assert self.process.stdout is not None
        await trio.lowlevel.checkpoint()
        while len(self.buffer) < length:
            try:
                data = await self.process.stdout.receive_some(max(65536, length - len(self.buffer)))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise _WorkerFailed("died")
            self.buffer += data
        received = bytes(self.buffer[:length])
        del self.buffer[:length]
        return received


def _environment() -> dict[str, str]:
    """Ours, so that the child imports the same package, wherever it was imported from."""
    environment = dict(os.environ)
    package_parent = str(Path(eventmesh_trio.__file__).resolve().parent.parent)
    if package_parent not in (*site.getsitepackages(), site.getusersitepackages()):
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = package_parent + (os.pathsep + known if known else "")
    return environment


async def _start_process(limits: WorkerLimits) -> trio.Process:
    """Raises: OSError (no more processes, descriptors or memory to be had)."""
    return await trio.lowlevel.open_process(
        # -P: the directory that we happen to be in is no place to import modules from.
        [
            *(sys.executable, "-P", "-m", "eventmesh_trio.pipeline.worker"),
            *(str(limits.memory_bytes), str(limits.job_seconds)),
        ],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=_environment(),
        process_group=0,  # a Ctrl-C before the child can ignore it must not reach it
    )


@asynccontextmanager
async def _running(process: trio.Process, limits: WorkerLimits) -> AsyncIterator[_Worker]:
    """When the block ends the process is killed and waited for, and its pipes are closed."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain_stderr, process)
            yield _Worker(process, limits)
            nursery.cancel_scope.cancel()
    finally:
        process.kill()  # it holds nothing that a farewell could save
        # Shielded, for we are often here because we were cancelled; bounded, though a killed
        # process is gone in a millisecond.
        with trio.move_on_after(limits.farewell_seconds, shield=True):
            await process.wait()
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


class WorkerPool:
    """An `eventmesh_trio.abc.Extractor` over worker processes; made by `open_extractor`."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._ids = count(1)
        self._send: trio.MemorySendChannel[_Ticket]
        self._receive: trio.MemoryReceiveChannel[_Ticket]
        self._send, self._receive = trio.open_memory_channel(limits.queue_pages)
        self._alive = 0
        self._started = 0
        self._failed_workers = 0
        self._done = 0
        self._failed_pages = 0

    def statistics(self) -> ExtractorStatistics:
        return ExtractorStatistics(
            workers_alive=self._alive,
            workers_started=self._started,
            workers_failed=self._failed_workers,
            pages_waiting=self._receive.statistics().current_buffer_used,
            pages_done=self._done,
            pages_failed=self._failed_pages,
        )

    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        """Read a page in a worker. Cancellation leaves the pool usable: a worker that does not end
        the page within ``abandoned_seconds`` is replaced, others never notice.

        Raises:
          ParseFailure: the page took too long or too much memory, or crashed its worker, twice.
          UnsupportedContent: the body is binary data.
          trio.ClosedResourceError: the pool's block has ended.
        """
        ticket = _Ticket(
            ExtractJob(
                next(self._ids),
                page.body,
                page.final_url,
                page.charset,
                page.content_type,
                mode,
                max_text_chars,
            )
        )
        try:
            await self._send.send(ticket)
            await ticket.done.wait()
        except trio.BrokenResourceError:
            raise trio.ClosedResourceError("the extractor is closed") from None
        except trio.Cancelled:
            ticket.abandoned = True
            if ticket.scope is not None:
                latest = trio.current_time() + self._limits.abandoned_seconds
                ticket.scope.deadline = min(ticket.scope.deadline, latest)
            raise
        if ticket.extraction is not None:
            return ticket.extraction
        assert ticket.error is not None
        raise ticket.error

    async def run_slot(self, prewarm: bool) -> None:
        """Serve tickets with one process after another, until cancelled."""
        ticket: _Ticket | None = None
        try:
            while True:
                if ticket is not None and ticket.is_abandoned():
                    ticket = None  # between two attempts
                if ticket is None and not prewarm:
                    ticket = await self._next_ticket()
                prewarm = False
                try:
                    process = await _start_process(self._limits)
                except OSError as error:
                    logger.error("no extraction process could be started: %s", error)
                    self._failed_workers += 1
                    if ticket is not None:
                        self._settle(
                            ticket, ParseFailure("no process could be started to read the page")
                        )
                        ticket = None
                    continue
                self._started += 1
                self._alive += 1
                try:
                    async with _running(process, self._limits) as worker:
                        while worker.jobs < self._limits.jobs_per_worker:
                            if ticket is None:
                                ticket = await self._next_ticket()
                            if worker.jobs and process.poll() is not None:
                                break  # it died while idle, which is not the page's fault
                            usable = await self._serve(worker, ticket)
                            if ticket.done.is_set():
                                ticket = None
                            if not usable:
                                break
                finally:
                    self._alive -= 1
        finally:
            if ticket is not None:
                ticket.settle(trio.ClosedResourceError("the extractor was closed"))

    async def _next_ticket(self) -> _Ticket:
        while True:
            ticket = await self._receive.receive()
            if not ticket.is_abandoned():
                return ticket

    async def _serve(self, worker: _Worker, ticket: _Ticket) -> bool:
        """Make one attempt at a page; return whether the worker can take another.

        The ticket is settled, unless the attempt failed and it has another.
        """
        await trio.lowlevel.checkpoint()
        if ticket.is_abandoned():  # while its process was starting
            self._settle(ticket, ParseFailure("the page was given up"))
            return True
        ticket.attempts += 1
        failure: str | None = None
        answer: Answer | None = None
        ticket.scope = trio.CancelScope(deadline=trio.current_time() + self._limits.job_seconds)
        try:
            with ticket.scope:
                answer = await worker.ask(ticket.job)
        except _WorkerFailed as error:
            failure = str(error)
        ticket.scope = None
        if answer is not None:
            self._settle(ticket, _outcome(answer))
            return True
        if ticket.is_abandoned():  # killed for going on with what nobody waits for
            self._settle(ticket, ParseFailure("the page was given up"))
            return False
        failure = failure or f"took longer than {self._limits.job_seconds:g} seconds"
        self._failed_workers += 1
        logger.warning(
            "worker %d %s at %s (attempt %d)",
            worker.process.pid,
            failure,
            ticket.job.url,
            ticket.attempts,
        )
        if ticket.attempts >= _ATTEMPTS:
            self._settle(
                ticket,
                ParseFailure(
                    f"the process that read the page {failure}", context={"attempts": _ATTEMPTS}
                ),
            )
        return False

    def _settle(self, ticket: _Ticket, outcome: Extraction | Exception) -> None:
        self._done += 1
        self._failed_pages += not isinstance(outcome, Extraction)
        ticket.settle(outcome)

    def close(self) -> None:
        """Refuse new pages, and let go of those that wait."""
        self._send.close()
        while True:
            try:
                ticket = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            ticket.settle(trio.ClosedResourceError("the extractor was closed"))
        self._receive.close()


def _outcome(answer: Answer) -> Extraction | Exception:
    if answer.extraction is not None:
        return answer.extraction
    if answer.failure == "unsupported":
        return UnsupportedContent(answer.message)
    return ParseFailure(answer.message)


@asynccontextmanager
async def open_extractor(
    limits: WorkerLimits | None = None, *, prewarm: bool = False
) -> AsyncIterator[WorkerPool]:
    """Open a pool of extraction processes. No process and no descriptor outlives the block.

    Args:
      limits: what extraction may use; `WorkerLimits()` where None.
      prewarm: start all processes now, not with the first pages.

    Works wherever a process can be started: in a daemonic process of `multiprocessing` (hypercorn's
    workers), and in scripts without a main guard.
    """
    limits = limits if limits is not None else WorkerLimits()
    pool = WorkerPool(limits)
    async with trio.open_nursery() as nursery:
        for _ in range(limits.workers):
            nursery.start_soon(pool.run_slot, prewarm)
        try:
            yield pool
        finally:
            nursery.cancel_scope.cancel()
            pool.close()
