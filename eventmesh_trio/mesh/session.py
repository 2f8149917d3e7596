"""`Session`: what a client attaches to: a log, the runs in it, and who reads it.

All of it is synchronous. What takes time (lingering, retention) the session tells its `Keeper`, the
hub, which has the one task that waits for it.
"""

import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import attrs

from eventmesh_trio.errors import NotFoundError
from eventmesh_trio.mesh.alarms import Alarms
from eventmesh_trio.mesh.budget import MemoryBudget
from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.observers import Observers
from eventmesh_trio.mesh.personal import gap_event
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import Gap
from eventmesh_trio.wire.sessions import SessionInfo
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["ABANDONED", "Keeper", "Position", "Session"]

ABANDONED: Final = "abandoned"
"""Why a run was cancelled whose readers have all gone."""

_EPOCH_BYTES: Final = 9
_EVENT_ID: Final = re.compile(r"([^-]{1,64})-([0-9]{1,18})", re.ASCII)


class Keeper(Protocol):
    """Who waits for a session's times: the hub."""

    limits: MeshLimits
    census: Census
    observers: Observers
    budget: MemoryBudget
    alarms: Alarms

    def linger(self, run: Run) -> None:
        """The run has no reader: cancel it after a while unless `settle` is called before."""

    def await_reader(self, run: Run) -> None:
        """As `linger`, of a run that has had no reader yet."""

    def settle(self, run: Run) -> None:
        """The run has a reader again, or has ended."""

    def rest(self, session: "Session") -> None:
        """The session has neither live runs nor readers: forget it after a while."""

    def rouse(self, session: "Session") -> None:
        """The session is in use again."""


@attrs.frozen
class Position:
    """Where a reader begins: after that sequence number, and with a gap to be told of first."""

    after: int
    gap: Gap | None


class Session:
    """One session. Made by `Hub.open_session`.

    Args:
      chosen: its id was chosen by the client, who therefore can come back: its runs linger.
    """

    def __init__(self, session_id: str, *, chosen: bool, keeper: Keeper) -> None:
        limits = keeper.limits
        self.session_id = session_id
        self.chosen = chosen
        self.created_at = time.time()
        # No "-" in an epoch: it parts epoch and number in an id.
        epoch = secrets.token_urlsafe(_EPOCH_BYTES).replace("-", "_")
        self.log = EventLog(
            epoch,
            replay_bytes=limits.replay_bytes,
            max_pinned_bytes=limits.max_pinned_bytes,
            budget=keeper.budget,
        )
        self.limits = limits
        self.census = keeper.census
        self.alarms = keeper.alarms
        self._keeper = keeper
        self._runs: dict[str, Run] = {}
        self._live: dict[str, Run] = {}
        self._subscribers: dict[Subscriber, None] = {}

    # --- What others read ---------------------------------------------------------------------

    @property
    def epoch(self) -> str:
        return self.log.epoch

    @property
    def runs(self) -> Mapping[str, Run]:
        """Runs by ``request_id``, oldest first; of finished ones the last ``max_finished_runs``."""
        return MappingProxyType(self._runs)

    @property
    def live_runs(self) -> Sequence[Run]:
        """The runs whose summary is still to come, oldest first."""
        return tuple(self._live.values())

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self._subscribers.keys()

    @property
    def last_event_id(self) -> str | None:
        """The id of the newest event; None before the first."""
        return self.log.id_of(self.log.top) if self.log.top else None

    def document(self) -> SessionInfo:
        """The session as its JSON shows it."""
        return SessionInfo(
            session_id=self.session_id,
            epoch=self.epoch,
            created_at=utc_timestamp(self.created_at),
            subscribers=len(self._subscribers),
            last_event_id=self.last_event_id,
            runs=tuple(run.document() for run in self._runs.values()),
        )

    # --- Cursors --------------------------------------------------------------------------------

    def resolve(self, last_event_id: str | None) -> Position:
        """Find where a client goes on that has seen ``last_event_id`` (None: nothing).

        None is the start of the oldest live run, or else of the newest run. An id that is
        malformed, of another epoch, of the future, or older than what is kept begins with a gap,
        then the rest.
        """
        if last_event_id is None:
            return self._behind(self._start())
        oldest = self.log.first - 1
        match = _EVENT_ID.fullmatch(last_event_id)
        if match is None:
            return Position(oldest, gap_event(None, None, epoch_changed=False))
        epoch, seq = match[1], int(match[2])
        if epoch != self.epoch:
            return Position(oldest, gap_event(None, None, epoch_changed=True))
        if seq > self.log.top:
            return Position(oldest, gap_event(None, None, epoch_changed=False))
        return self._behind(seq)

    def _start(self) -> int:
        run = next(iter(self._live.values()), None)
        if run is None:
            run = next(reversed(self._runs.values()), None)
        return run.first_seq - 1 if run is not None else self.log.top

    def _behind(self, seq: int) -> Position:
        oldest = self.log.first - 1
        if seq >= oldest:
            return Position(seq, None)
        return Position(oldest, gap_event(seq + 1, oldest, epoch_changed=False))

    def is_exhausted(self, after: int) -> bool:
        """Whether nothing follows ``after``, and nothing will: no run is live."""
        return not self._live and after >= self.log.top

    # --- Readers --------------------------------------------------------------------------------

    def subscribe(
        self, spec: ReaderSpec, *, after: int | None = None, gap: Gap | None = None
    ) -> Subscriber:
        """Attach a reader behind ``after``; None: at the start of its run, or as ``resolve(None)``.

        It takes over the places that were held in the runs it follows: they wait for it from now on
        if it is lossless, and for nobody if it is not.

        Raises:
          NotFoundError: ``spec.request_id`` is no run of this session.
        """
        run = None
        if spec.request_id is not None and (run := self._runs.get(spec.request_id)) is None:
            raise NotFoundError(f"the session has no run {spec.request_id}")
        if after is None:
            after = self._start() if run is None else run.first_seq - 1
        if run is not None:
            after = max(after, run.first_seq - 1)  # nothing of it stands before
        position = self._behind(after)
        after, gap = position.after, gap or position.gap
        reader = Subscriber(self, spec, None if run is None else run.track, after, gap)
        self._subscribers[reader] = None
        if run is None:
            self.log.readers += 1
        else:
            run.track.readers += 1
        for followed in self._live.values() if run is None else (run,):
            self._release(followed)
        self._keeper.rouse(self)
        self._keeper.observers.reader_attached(reader, self.session_id)
        return reader

    def leave(self, reader: Subscriber, *, keep_place: bool) -> None:
        """A reader has gone. For `Subscriber`, which calls it once."""
        del self._subscribers[reader]
        place = reader.give_place()
        if reader.track is None:
            self.log.readers -= 1
        else:
            reader.track.readers -= 1
        for run in self.live_runs:
            if not run.has_reader and run.place is None:
                follows = reader.track is None or reader.track is run.track
                if follows and keep_place and self._lingers and place is not None:
                    self._hold(run, reader.read_seq, place.capacity)
                if follows:
                    self._abandon(run)
        if place is not None:
            self.log.drop_place(place)
        self.log.recount()
        self._rest_if_idle()
        self._keeper.observers.reader_left(reader, self.session_id)

    @property
    def _lingers(self) -> bool:
        return self.chosen and self.limits.linger_seconds > 0

    def _hold(self, run: Run, seq: int, capacity: int) -> None:
        """Keep a place in a run that nobody follows: it waits there when the window is full."""
        run.place = self.log.add_place(
            run.track,
            seq,
            capacity=capacity,
            window_bytes=self.limits.window_bytes,
            owner=None,
        )

    def _abandon(self, run: Run) -> None:
        if self._lingers:
            self._keeper.linger(run)
        else:
            run.cancel(ABANDONED)

    def _release(self, run: Run) -> None:
        self._keeper.settle(run)
        place, run.place = run.place, None
        if place is not None:
            self.log.drop_place(place)

    # --- Runs -----------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        """Register a run whose first events are about to be appended. For `Hub.start_run`."""
        self._runs.pop(run.request_id, None)  # a finished namesake, whose events stay
        self._runs[run.request_id] = self._live[run.request_id] = run
        if len(self._live) == 1:
            self._bound_times()
        self._keeper.rouse(self)

    def hold_start(self, run: Run, capacity: int) -> None:
        """Hold a place from the run's first event on, for a reader who has not come yet.

        Called before that event is appended, so that nothing is evicted before it is held.
        The run lingers from now on, in any session: who started it knows where it is.
        """
        if not run.has_reader:
            self._hold(run, self.log.top, capacity)
            self._keeper.await_reader(run)

    def run_ended(self, run: Run) -> None:
        """The run's summary is in the log. For `Run`."""
        self._live.pop(run.request_id, None)
        if not self._live:
            self._bound_times()
        self._release(run)
        finished = len(self._runs) - len(self._live)
        for request_id in [key for key, known in self._runs.items() if not known.live]:
            if finished <= self.limits.max_finished_runs:
                break
            del self._runs[request_id]
            finished -= 1
        self._rest_if_idle()

    def _bound_times(self) -> None:
        for reader in self._subscribers:
            reader.bound_time()

    def _rest_if_idle(self) -> None:
        if not self._live and not self._subscribers:
            self._keeper.rest(self)

    # --- Control ----------------------------------------------------------------------------------

    def pause(self, request_id: str | None = None) -> Sequence[Run]:
        """Pause one run, or all live ones; the runs addressed.

        Raises:
          NotFoundError: the session has no such run.
        """
        runs = self._addressed(request_id)
        for run in runs:
            run.pause()
        return runs

    def resume(self, request_id: str | None = None) -> Sequence[Run]:
        """Resume one run, or all live ones; otherwise as `pause`."""
        runs = self._addressed(request_id)
        for run in runs:
            run.resume()
        return runs

    def cancel(self, request_id: str | None = None, reason: str | None = None) -> Sequence[Run]:
        """Cancel one run, or all live ones; otherwise as `pause`."""
        runs = self._addressed(request_id)
        for run in runs:
            run.cancel(reason)
        return runs

    def _addressed(self, request_id: str | None) -> Sequence[Run]:
        if request_id is None:
            return self.live_runs
        run = self._runs.get(request_id)
        if run is None:
            raise NotFoundError(f"the session has no run {request_id}")
        return (run,)
