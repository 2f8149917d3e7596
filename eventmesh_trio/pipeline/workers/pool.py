"""The pool of extraction processes: pages go in, documents come out, no page can hurt another.

Pages are taken round by round over the runs, so that a run which brings many at once holds up no
other. A caller that knows its run's name says it by `WorkerPool.for_run`.

Each *slot* is one task that owns at most one process at a time. A process that hangs, dies or runs
out of memory is killed and replaced; the page that it had is tried once more, on the new one.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import Extraction, Extractor, Page
from eventmesh_trio.errors import ParseFailure, UnsupportedContent
from eventmesh_trio.pipeline.manners.rounds import Rounds, Slots
from eventmesh_trio.pipeline.workers.messages import Answer, ExtractJob
from eventmesh_trio.pipeline.workers.process import (
    WorkerFailed,
    WorkerLimits,
    WorkerProcess,
    running,
    start_process,
)
from eventmesh_trio.wire.requests import ExtractMode

__all__ = ["ExtractorStatistics", "WorkerLimits", "WorkerPool", "open_extractor"]

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 2


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
    run: str
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


class WorkerPool:
    """An `eventmesh_trio.abc.Extractor` over worker processes; made by `open_extractor`."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._ids = count(1)
        self._waiting: Rounds[_Ticket] = Rounds()
        self._room = Slots(limits.queue_pages)
        # Slots without a page: those whose process runs, and those that would start one first.
        self._idle = trio.lowlevel.ParkingLot()
        self._asleep = trio.lowlevel.ParkingLot()
        self._closed = False
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
            pages_waiting=len(self._waiting),
            pages_done=self._done,
            pages_failed=self._failed_pages,
        )

    def for_run(self, run: str) -> Extractor:
        """This pool as an extractor whose pages are that run's."""
        return _RunExtractor(self, run)

    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None, *, run: str = ""
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
                page.final_url,
                page.charset,
                page.content_type,
                mode,
                max_text_chars,
                page.body,
            ),
            run,
        )
        if not self._room.try_acquire():
            await self._room.acquire(run)
        if self._closed:
            self._room.release()
            raise trio.ClosedResourceError("the extractor is closed")
        self._waiting.add(run, ticket)
        # Not who has waited longest: while a process idles, no page waits for another to start.
        (self._idle or self._asleep).unpark()
        try:
            await ticket.done.wait()
        except trio.Cancelled:
            if self._waiting.discard(run, ticket):
                self._room.release()
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
                    ticket = await self._next_ticket(self._asleep)
                prewarm = False
                try:
                    process = await start_process(self._limits)
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
                    async with running(process, self._limits) as worker:
                        while worker.jobs < self._limits.jobs_per_worker:
                            if ticket is None:
                                ticket = await self._next_ticket(self._idle)
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

    async def _next_ticket(self, lot: trio.lowlevel.ParkingLot) -> _Ticket:
        # No checkpoint where a page waits: handing it over is one.
        while not self._waiting:
            await lot.park()
        self._room.release()
        return self._waiting.take()

    async def _serve(self, worker: WorkerProcess, ticket: _Ticket) -> bool:
        """Make one attempt at a page; return whether the worker can take another.

        The ticket is settled, unless the attempt failed and it has another.
        """
        if ticket.is_abandoned():  # while its process was starting
            await trio.lowlevel.checkpoint()
            self._settle(ticket, ParseFailure("the page was given up"))
            return True
        ticket.attempts += 1
        failure: str | None = None
        answer: Answer | None = None
        ticket.scope = trio.CancelScope(deadline=trio.current_time() + self._limits.job_seconds)
        try:
            with ticket.scope:
                answer = await worker.ask(ticket.job)
        except WorkerFailed as error:
            failure = str(error)
        except Exception:
            # A bug, which no page may make the end of all that the pool serves.
            logger.exception("worker %d could not be asked", worker.process.pid)
            failure = "could not be asked"
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
        """Refuse new pages, and let go of those that wait, for room too."""
        self._closed = True
        while self._waiting:
            self._waiting.take().settle(trio.ClosedResourceError("the extractor was closed"))
            self._room.release()


@attrs.frozen(eq=False)
class _RunExtractor:
    """An `eventmesh_trio.abc.Extractor`: the pool, as one run has it."""

    _pool: WorkerPool
    _run: str

    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        return await self._pool.extract(page, mode, max_text_chars, run=self._run)


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
