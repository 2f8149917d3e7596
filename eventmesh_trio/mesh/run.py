"""`Run`: one job at work: its cancel scopes, its pause gate, its deadline, and how it ends.

Three scopes lie in one another: the hub's nursery; the *outer* scope, which cancel and the deadline
end; and the *work* scope, which pause ends and resume opens anew. Whatever happens, the run's last
events are appended synchronously and wait for no room, so that nothing need be shielded for them.

A run is one of the two boundaries that contain exceptions: a bug in a job becomes that run's
``error`` and ``summary``, and never reaches the hub.
"""

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Literal

import attrs
import structlog
import trio
from msgspec import UNSET

from eventmesh_trio.abc import Job, JobCounts
from eventmesh_trio.errors import EventMeshError, PipelineFailure, leaves
from eventmesh_trio.mesh.flow import Place
from eventmesh_trio.mesh.lifecycle import Command, Lifecycle, State
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.publisher import RunPublisher
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.events import (
    ErrorAnalysis,
    Event,
    PerformanceMetrics,
    PerformanceSummary,
    Progress,
    RunError,
    RunStatus,
    Summary,
)
from eventmesh_trio.wire.sessions import RunInfo, RunState
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["PAUSED_TOO_LONG", "Run", "RunStatistics"]

logger: Final = structlog.get_logger(__name__)

_SHOWN_SECONDS: Final = 0.001
"""How long a state that did not change is shown as it was: twenty readers are told within that."""
PAUSED_TOO_LONG: Final = "paused_too_long"


@attrs.frozen(kw_only=True)
class RunStatistics:
    """One run at one moment; counts are of URLs."""

    state: RunState
    total: int
    completed: int
    successful: int
    failed: int
    phase: str | None
    """What most of it waits for; None where the job cannot say, as for ``performance``."""
    performance: PerformanceMetrics | None
    readers: int
    """Attached readers that follow it, alone or with the rest of its session."""


class Run:
    """One crawl or search of a session. Made by `Hub.start_run`; `drive` is its task.

    `pause`, `resume` and `cancel` are synchronous and idempotent; each tells whether it changed
    anything. The run's events are in the session's log, under its `track`.
    """

    def __init__(
        self,
        job: Job,
        *,
        session_id: str,
        request_id: str,
        log: EventLog,
        limits: MeshLimits,
        timeout_seconds: float | None,
        idempotency_key: str | None,
        fingerprint: str | None,
        on_end: Callable[["Run", Sequence[Event]], None],
    ) -> None:
        self._opening = job.opening()  # first: if this fails there is no run
        self.session_id = session_id
        self.request_id = request_id
        self.kind: Literal["crawl", "deepsearch"] = job.kind
        self._total = job.total
        self.started_at = time.time()
        self.idempotency_key = idempotency_key
        self.fingerprint = fingerprint
        self.place: Place | None = None
        """Held for a reader that left, or has not come yet, while nobody follows the run."""
        self._job: Job | None = job
        self._counts = job.counts
        self._log = log
        self._limits = limits
        self._on_end = on_end
        self._lifecycle = Lifecycle()
        self._reason: str | None = None
        self._outer = trio.CancelScope(
            deadline=inf if timeout_seconds is None else trio.current_time() + timeout_seconds
        )
        self._work: trio.CancelScope | None = None
        self._gate: trio.Event | None = None  # what the work waits for while it is paused
        self._time_left = inf
        self._ended = trio.Event()
        self._shown: tuple[int, float, Progress | None] = (-1, -inf, None)
        self.track = log.open_track(request_id, self._shared_progress)

    # --- What others read ---------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._lifecycle.state

    @property
    def live(self) -> bool:
        """Whether the summary is still to come."""
        return self._lifecycle.live

    @property
    def status(self) -> RunStatus:
        """How the run ended; a `ValueError` while it is live."""
        return self._lifecycle.status

    @property
    def failed(self) -> bool:
        """Whether the run ended by an error of its own."""
        return self.state is State.FAILED

    @property
    def reason(self) -> str | None:
        """Why the run was cancelled, where somebody said so."""
        return self._reason

    @property
    def has_reader(self) -> bool:
        """Whether anybody follows this run, alone or with the rest of its session."""
        return self.track.readers > 0 or self._log.readers > 0

    @property
    def total(self) -> int:
        """How many URLs there are; of a search whose answer is out, how many there can be."""
        return self._total if self._job is None else self._job.total

    @property
    def counts(self) -> JobCounts:
        """Settled so far."""
        return self._counts if self._job is None else self._job.counts

    def statistics(self) -> RunStatistics:
        """How far this run has come."""
        counts, progress = self.counts, self.track.progress()
        return RunStatistics(
            state=self._lifecycle.name,
            total=self.total,
            completed=counts.completed,
            successful=counts.successful,
            failed=counts.failed,
            phase=None if progress is None else progress.phase,
            performance=None if progress is None else progress.performance_metrics,
            readers=self.track.readers + self._log.readers,
        )

    @property
    def first_seq(self) -> int:
        """The sequence number of the run's first event."""
        return self.track.first_seq

    def is_exhausted(self, after: int) -> bool:
        """Whether nothing of it follows ``after``, and nothing will: it has ended."""
        return not self.live and self._log.counted(self.track, after)[0] == self.track.events

    async def wait_ended(self) -> None:
        """Return when the summary is in the log."""
        await self._ended.wait()

    def document(self) -> RunInfo:
        """This run in a session's JSON."""
        counts = self.counts
        return RunInfo(
            request_id=self.request_id,
            kind=self.kind,
            state=self._lifecycle.name,
            total=self.total,
            completed=counts.completed,
            successful=counts.successful,
            failed=counts.failed,
            started_at=utc_timestamp(self.started_at),
        )

    # --- Commands -------------------------------------------------------------------------------

    def pause(self) -> bool:
        """Stop the work; what was in flight will be done again. The run's deadline stands still.

        A run that stays paused for ``max_paused_seconds`` is cancelled.
        """
        if self._outer.cancel_called or not self._lifecycle.apply(Command.PAUSE):
            return False
        now = trio.current_time()
        self._time_left = self._outer.deadline - now
        self._outer.deadline = now + self._limits.max_paused_seconds
        self._gate = trio.Event()
        if self._work is not None:
            self._work.cancel()
        return True

    def resume(self) -> bool:
        """Go on, with the time that was left."""
        if self._outer.cancel_called or not self._lifecycle.apply(Command.RESUME):
            return False
        self._outer.deadline = trio.current_time() + self._time_left
        if self._gate is not None:
            self._gate.set()
            self._gate = None
        return True

    def cancel(self, reason: str | None = None) -> bool:
        """End the run: its work is cancelled, and a summary with status ``cancelled`` follows."""
        if not self._lifecycle.apply(Command.CANCEL):
            return False
        self._reason = reason
        self._outer.cancel()
        return True

    def begin(self) -> None:
        """Append the first events, once it is known who reads them; `drive` follows."""
        opening, self._opening = self._opening, ()
        for event in opening:
            self._log.append(self.track, event)

    # --- The task -------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Work until the job is done, cancelled or out of time; then append its last events.

        Raises nothing of the job's. Cancelled from outside (the hub is closing): the run ends as
        cancelled, with its summary, and the cancellation goes on.
        """
        error: EventMeshError | None = None
        try:
            with self._outer:
                await self._work_until_done()
        except Exception as failure:
            error = self._contain(failure)
        except BaseException as ending:
            # Cancelled by the hub's nursery, maybe with a bug beside it; or an interrupt.
            bugs = ending.split(Exception)[0] if isinstance(ending, BaseExceptionGroup) else None
            if bugs is not None:
                error = self._contain(bugs)
            self.cancel("shutdown")
            self._end(error)
            raise
        self._end(error)

    async def _work_until_done(self) -> None:
        job = self._job
        assert job is not None, "driven once, before the end"
        publisher = RunPublisher(self._log, self.track, self._limits)
        await trio.lowlevel.checkpoint()
        while not job.done:
            if self._gate is not None:
                await self._gate.wait()
            with trio.CancelScope() as work:
                self._work = work
                if self.state is State.PAUSED:  # between the gate and here
                    work.cancel()
                await job.work(publisher)
            self._work = None
            if not job.done and not work.cancel_called:
                raise RuntimeError("the job's work returned before it was done")

    def _contain(self, failure: Exception) -> EventMeshError:
        """Log a failure of the job, and say what a client may know of it."""
        causes = list(leaves(failure))
        if all(isinstance(cause, EventMeshError) for cause in causes):
            error = causes[0]
            assert isinstance(error, EventMeshError)
            logger.warning("run failed", **self._names(), error=error.message)
            return error
        logger.error("run failed by a bug", **self._names(), exc_info=failure)
        return PipelineFailure("the run failed by an error of the server")

    def _end(self, error: EventMeshError | None) -> None:
        """Settle the final state and append the last events; synchronous, waits for no room."""
        job = self._job
        assert job is not None, "ended once"
        if self.state is State.PAUSED and error is None and not job.done:
            self.cancel(PAUSED_TOO_LONG)
        if error is not None:
            self._lifecycle.apply(Command.FAIL)
        elif self.state is State.CANCELLING:
            self._lifecycle.apply(Command.STOP)
        else:
            self._lifecycle.apply(Command.COMPLETE if job.done else Command.EXPIRE)
        closing = self._closing(job, error)
        for event in closing:
            self._log.append(self.track, event)
        self._counts, self._total = job.counts, job.total
        last = self._progress()
        self.track.progress = lambda: last  # the job may go; a replay shows this one
        self._job = None
        self._log.close_track(self.track)
        self._ended.set()
        self._on_end(self, closing)

    def _closing(self, job: Job, error: EventMeshError | None) -> Sequence[Event]:
        status = self._lifecycle.status
        try:
            return job.closing(status, self._reason, error)
        except Exception as failure:
            # Readers wait for a summary, so there is one, of what the run itself knows.
            logger.error("closing a run failed", **self._names(), exc_info=failure)
            return self._plain_closing(
                job, error or PipelineFailure("the run could not be summed up")
            )

    def _plain_closing(self, job: Job, error: EventMeshError) -> Sequence[Event]:
        counts = job.counts
        now = time.time()
        elapsed_ms = round((now - self.started_at) * 1000)
        average = elapsed_ms / self.total if self.total else 0.0
        timestamp = utc_timestamp(now)
        return (
            RunError(
                timestamp=timestamp,
                request_id=self.request_id,
                error=error_info(error, timestamp),
                recovery_suggestions=error.suggestions,
            ),
            Summary(
                timestamp=timestamp,
                request_id=self.request_id,
                session_id=self.session_id,
                total_urls=self.total,
                successful=counts.successful,
                failed=counts.failed,
                cancelled=self.total - counts.completed,
                from_cache=0,
                status=self._lifecycle.status,
                total_processing_time_ms=elapsed_ms,
                total_time_ms=elapsed_ms,
                avg_processing_time_ms=average,
                average_processing_time_ms=average,
                cache_hit_rate=0.0,
                performance_summary=PerformanceSummary(
                    avg_processing_time_ms=average,
                    fastest_processing_ms=0,
                    slowest_processing_ms=0,
                    throughput_per_second=counts.completed * 1000 / elapsed_ms
                    if elapsed_ms
                    else 0.0,
                    total_bytes_transferred=0,
                ),
                gate_decisions={},
                error_analysis=ErrorAnalysis(
                    error_types={}, retryable_errors=0, permanent_failures=counts.failed
                ),
                reason=UNSET if self._reason is None else self._reason,
            ),
        )

    def _shared_progress(self) -> Progress | None:
        """The newest state, made once for all readers that are told of it at the same time."""
        version, now = self.track.version, trio.current_time()
        if self._shown[0] != version or now >= self._shown[1] + _SHOWN_SECONDS:
            self._shown = (version, now, self._progress())
        return self._shown[2]

    def _progress(self) -> Progress | None:
        """The job's newest state; None where it cannot say, which must not end a reader."""
        job = self._job
        if job is None:
            return None
        try:
            return job.progress()
        except Exception as failure:
            logger.error("rendering progress failed", **self._names(), exc_info=failure)
            return None

    def _names(self) -> dict[str, str]:
        return {"session_id": self.session_id, "request_id": self.request_id}
