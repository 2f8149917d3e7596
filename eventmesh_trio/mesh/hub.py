"""`Hub`: the sessions of one server, the nursery of their runs, and the one janitor.

The janitor waits for time on behalf of sessions: it cancels runs that lingered too long without a
reader, and forgets sessions that were kept long enough for replay. For readers `Alarms` does.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from types import MappingProxyType
from typing import Final

import trio

from eventmesh_trio.abc import Job
from eventmesh_trio.errors import ConflictError, OverloadedError, RateLimited
from eventmesh_trio.mesh.alarms import Alarms
from eventmesh_trio.mesh.budget import MemoryBudget
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.observers import LifecycleChannel, Loss, Observers
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import ABANDONED, Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import Event
from eventmesh_trio.wire.identifiers import new_identifier

__all__ = ["SHUTDOWN", "Hub", "open_hub"]

SHUTDOWN: Final = "shutdown"
"""The ``reason`` in the summary of a run that the server ends."""

_RETRY_SECONDS: Final = 5.0


@asynccontextmanager
async def open_hub(limits: MeshLimits | None = None) -> AsyncIterator["Hub"]:
    """Open a hub; all its runs end before this block does.

    Leaving the block, however, cancels every live run (``reason: "shutdown"``); each appends its
    summary, and readers that are still attached end after reading it. The wait for the
    runs is as long as the longest cleanup of a job (checkpoint: exit only).
    """
    hub: Hub | None = None
    try:
        async with trio.open_nursery() as nursery:
            hub = Hub(limits or MeshLimits(), nursery)
            nursery.start_soon(hub.tidy)
            nursery.start_soon(hub.alarms.ring)
            try:
                yield hub
            finally:
                hub.close()
    finally:
        if hub is not None:
            hub.observers.close()  # only now has every run told of its end


def _ignore(_: str) -> None:
    pass


class Hub:
    """The sessions of one server. Made by `open_hub`, whose nursery it gives to runs."""

    def __init__(self, limits: MeshLimits, nursery: trio.Nursery) -> None:
        self.limits = limits
        self.census = Census(limits.health_window_seconds, self._health_changed)
        self.observers = Observers(self._live_runs)
        self.budget = MemoryBudget(limits.max_total_bytes, self._relieve)
        self.alarms = Alarms()
        self.on_refusal: Callable[[str], None] = _ignore
        """Called with the reason of each refusal: ``draining``, ``sessions``, ``session_runs``,
        ``runs`` or ``memory``."""
        self._nursery = nursery
        self._sessions: dict[str, Session] = {}
        self._live: dict[Run, Session] = {}
        self._draining: str | None = None
        self._awaited: dict[str, trio.lowlevel.ParkingLot] = {}
        # Each is ordered by deadline, because each has one length of wait.
        self._lingering: dict[Run, float] = {}
        self._unread: dict[Run, float] = {}
        self._unused: dict[Session, float] = {}
        self._resting: dict[Session, tuple[float, int]] = {}
        self._resting_bytes = 0
        self._nap = trio.CancelScope()

    # --- Sessions -------------------------------------------------------------------------------

    @property
    def sessions(self) -> Mapping[str, Session]:
        """All sessions by id, oldest first, those included that are only kept for replay."""
        return MappingProxyType(self._sessions)

    @property
    def draining(self) -> bool:
        """Whether new runs and sessions are refused."""
        return self._draining is not None

    def find(self, session_id: str) -> Session | None:
        return self._sessions.get(session_id)

    def open_session(self, session_id: str | None = None) -> Session:
        """Get a session, or make it; None: a new one, under an id that is made here.

        Raises:
          OverloadedError: there are ``max_sessions``, all in use; or the server is draining.
        """
        if session_id is not None and (known := self._sessions.get(session_id)) is not None:
            return known
        self._refuse_draining()
        while len(self._sessions) >= self.limits.max_sessions:
            oldest = next(iter(self._resting), None)
            if oldest is None:
                raise self._full("sessions", "the server has as many sessions as it may")
            self._forget(oldest)
        chosen = session_id is not None
        session = Session(session_id or new_identifier("session"), chosen=chosen, keeper=self)
        self._sessions[session.session_id] = session
        self.rest(session)  # until something begins in it
        return session

    async def wait_session(self, session_id: str) -> Session:
        """Return the session of that id once it has a run. The caller sets the limit of time."""
        await trio.lowlevel.checkpoint()
        while True:
            session = self._sessions.get(session_id)
            if session is not None and session.runs:
                return session
            lot = self._awaited.setdefault(session_id, trio.lowlevel.ParkingLot())
            try:
                await lot.park()
            finally:
                if not lot and self._awaited.get(session_id) is lot:
                    del self._awaited[session_id]

    # --- Runs -----------------------------------------------------------------------------------

    def start_run(
        self,
        session: Session,
        job: Job,
        *,
        request_id: str,
        timeout_seconds: float | None = None,
        reader: ReaderSpec | None = None,
        held_capacity: int = 256,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> tuple[Run, Subscriber | None]:
        """Start a job in a session, with its first reader; synchronous, so neither misses a thing.

        The job's opening is in the log when this returns. Without ``reader``, and where nobody else
        follows the session, a place of ``held_capacity`` events is held from the run's first one
        on: the run lingers as if its reader had just left.

        Raises:
          ConflictError: a run of that id is live in the session.
          RateLimited: the session has ``max_runs_per_session`` live runs.
          OverloadedError: the server has ``max_runs`` live runs, holds more than
            ``max_total_bytes``, or is draining.
        """
        self._refuse_draining()
        known = session.runs.get(request_id)
        if known is not None and known.live:
            raise ConflictError(
                f"a run {request_id} is live in this session", context={"request_id": request_id}
            )
        if len(session.live_runs) >= self.limits.max_runs_per_session:
            self.on_refusal("session_runs")
            raise RateLimited(
                f"the session has {self.limits.max_runs_per_session} live runs",
                retry_after_seconds=_RETRY_SECONDS,
            )
        if len(self._live) >= self.limits.max_runs:
            raise self._full(
                "runs", f"the server has {self.limits.max_runs} live runs, as many as it may"
            )
        if self.budget.exceeded:
            raise self._full("memory", "the server has no memory left for another stream")
        if reader is not None and reader.request_id not in (None, request_id):
            raise ValueError(f"the run's first reader follows another run: {reader.request_id}")
        run = Run(
            job,
            session_id=session.session_id,
            request_id=request_id,
            log=session.log,
            limits=self.limits,
            timeout_seconds=timeout_seconds,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            on_end=self._run_ended,
        )
        self._live[run] = session
        self.census.run_started()
        session.add_run(run)
        subscriber = None
        if reader is None:
            session.hold_start(run, held_capacity)
        else:
            subscriber = session.subscribe(reader, after=session.log.top)
        run.begin()
        if subscriber is not None:
            subscriber.note_opening()
        self.observers.run_started(run)
        self._nursery.start_soon(run.drive, name=f"run {request_id}")
        lot = self._awaited.pop(session.session_id, None)
        if lot is not None:
            lot.unpark_all()
        return run, subscriber

    async def wait_idle(self) -> None:
        """Return when no run is live. The caller sets the limit of time."""
        await trio.lowlevel.checkpoint()
        while self._live:
            await next(iter(self._live)).wait_ended()

    async def drain(self, reason: str = SHUTDOWN) -> None:
        """Refuse what is new, cancel every live run, and wait until each has its summary.

        Cancelled: the runs are ending all the same.
        """
        self._draining = reason
        for run in tuple(self._live):
            run.cancel(reason)
        await trio.lowlevel.checkpoint()
        for run in tuple(self._live):
            await run.wait_ended()

    def close(self) -> None:
        """Cancel everything: the nursery ends when the runs have. Idempotent."""
        self._draining = self._draining or SHUTDOWN
        for run in tuple(self._live):
            run.cancel(SHUTDOWN)
        self._nursery.cancel_scope.cancel()
        for session in self._sessions.values():
            session.log.close()

    def _refuse_draining(self) -> None:
        if self._draining is not None:
            raise self._full("draining", "the server is shutting down")

    def _full(self, reason: str, message: str) -> OverloadedError:
        self.on_refusal(reason)
        return OverloadedError(message, retry_after_seconds=_RETRY_SECONDS)

    def _run_ended(self, run: Run, closing: Sequence[Event]) -> None:
        session = self._live.pop(run)
        self.observers.run_ended(run, closing)
        session.run_ended(run)
        self.census.run_ended(run.status)

    # --- Observers ------------------------------------------------------------------------------

    def open_lifecycle(
        self,
        *,
        capacity: int = 1024,
        overflow: Loss = "drop_oldest",
        progress_interval_seconds: float = 0.05,
    ) -> LifecycleChannel:
        """Watch the connections and runs of this hub from now on; close the channel in the end.

        Args:
          capacity: the events that may wait; one more, and one is lost and counted.
          overflow: which one: the oldest that waits, or the new one.
          progress_interval_seconds: the least time between two looks at the progress of all runs.
        """
        return self.observers.open(
            capacity=capacity,
            overflow=overflow,
            progress_interval_seconds=progress_interval_seconds,
        )

    def _live_runs(self) -> Iterator[tuple[Run, EventLog]]:
        for run, session in self._live.items():
            yield run, session.log

    # --- Times: what sessions ask for (`Keeper`), and the janitor --------------------------------

    def linger(self, run: Run) -> None:
        """Cancel the run after ``linger_seconds`` unless somebody follows it before."""
        self._lingering.pop(run, None)
        self._lingering[run] = self._due(self.limits.linger_seconds)

    def await_reader(self, run: Run) -> None:
        """As `linger`; whoever started it has ``attach_wait_seconds`` at least to come for it."""
        wait = max(self.limits.linger_seconds, self.limits.attach_wait_seconds)
        self._unread[run] = self._due(wait)

    def settle(self, run: Run) -> None:
        """The run has a reader again, or has ended."""
        self._lingering.pop(run, None)
        self._unread.pop(run, None)
        self._leave_no_timer()

    def rest(self, session: Session) -> None:
        """Forget the session after ``retention_seconds`` unless it is used before.

        One in which nothing was ever said waits ``attach_wait_seconds`` for something to begin.
        """
        self._unrest(session)
        if self._sessions.get(session.session_id) is not session:
            return
        if not session.log.top:
            self._unused[session] = self._due(self.limits.attach_wait_seconds)
            return
        if not self.limits.retention_seconds:
            self._forget(session)
            return
        nbytes = session.log.kept_bytes
        self._resting[session] = (self._due(self.limits.retention_seconds), nbytes)
        self._resting_bytes += nbytes
        while self._resting_bytes > self.limits.max_retained_bytes:
            self._forget(next(iter(self._resting)))

    def rouse(self, session: Session) -> None:
        """The session is in use again; one that was forgotten meanwhile is known again."""
        self._unrest(session)
        self._sessions.setdefault(session.session_id, session)

    def _unrest(self, session: Session) -> None:
        self._unused.pop(session, None)
        _, nbytes = self._resting.pop(session, (0.0, 0))
        self._resting_bytes -= nbytes
        self._leave_no_timer()

    def _leave_no_timer(self) -> None:
        """Where the janitor waits for nothing any more, its nap has no deadline left."""
        if not (self._lingering or self._unread or self._unused or self._resting):
            self._set_nap(self.census.next_judgement)

    def _set_nap(self, deadline: float) -> None:
        # To set what it is already takes 2 us, and each stream would do it three times.
        if deadline != self._nap.deadline:
            self._nap.deadline = deadline

    def _forget(self, session: Session) -> None:
        self._unrest(session)
        del self._sessions[session.session_id]
        session.log.release()

    def _relieve(self) -> None:
        """Memory is short: free what nobody waits for, the oldest first."""
        while self._resting and self.budget.exceeded:
            self._forget(next(iter(self._resting)))
        for session in tuple(self._sessions.values()):  # a reader that is cut off may end one
            if not self.budget.exceeded:
                return
            session.log.shrink()

    def _due(self, seconds: float) -> float:
        due = trio.current_time() + seconds
        self._set_nap(min(self._nap.deadline, due))
        return due

    async def tidy(self) -> None:
        """The janitor's task: sleeps until the next deadline of any session. Never returns."""
        while True:
            self._sweep(trio.current_time())
            with trio.CancelScope(deadline=self._next_deadline()) as self._nap:
                await trio.sleep_forever()

    def _sweep(self, now: float) -> None:
        # Not in the task itself, whose frame would keep the last session that it looked at.
        for waiting in (self._lingering, self._unread):
            for run, due in tuple(waiting.items()):
                if due > now:
                    break
                self.settle(run)
                run.cancel(ABANDONED)
        for session, due in tuple(self._unused.items()):
            if due > now:
                break
            self._forget(session)
        for session, (due, _) in tuple(self._resting.items()):
            if due > now:
                break
            self._forget(session)
        self.census.judge()

    def _next_deadline(self) -> float:
        return min(
            next(iter(self._lingering.values()), inf),
            next(iter(self._unread.values()), inf),
            next(iter(self._unused.values()), inf),
            next(iter(self._resting.values()), (inf, 0))[0],
            # Rates fade while nothing happens, and health comes back.
            self.census.next_judgement,
        )

    def _health_changed(self) -> None:
        """Wake the readers, so that they tell their clients, and judge again in a while."""
        for session in self._sessions.values():
            session.log.wake_all()
        self._set_nap(min(self._nap.deadline, self.census.next_judgement))
