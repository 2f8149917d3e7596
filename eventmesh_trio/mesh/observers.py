"""`Observers`: who watches a hub, and the bounded channel through which each is told.

Telling is synchronous and never waits: a channel that is full loses an event, and counts it. What
happens to a connection or a run is queued; progress is not: it is looked at when somebody
receives, so that it costs nothing where nobody does, and never crowds out what matters more.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Literal
from weakref import WeakKeyDictionary

import attrs
import trio

from eventmesh_trio.mesh.lifecycle_events import (
    ConnectionClosed,
    ConnectionEstablished,
    LifecycleEvent,
    ProgressUpdate,
    StreamCompleted,
    StreamError,
    StreamStarted,
)
from eventmesh_trio.mesh.log import EventLog
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.events import Event, RunError, Summary

__all__ = ["LifecycleChannel", "LifecycleStatistics", "Loss", "Observers"]

Loss = Literal["drop_oldest", "drop_newest"]


@attrs.frozen(kw_only=True)
class LifecycleStatistics:
    """How one observer fares, counted in events."""

    capacity: int
    used: int
    """Waiting to be received."""
    received: int
    """Handed out; progress included, which never waits."""
    dropped: int
    """Lost because the channel was full."""


class Observers:
    """The open channels of one hub. Where there is none, nothing is made.

    Args:
      live_runs: the runs that are live now, each with the log that it writes to.
    """

    def __init__(self, live_runs: Callable[[], Iterable[tuple[Run, EventLog]]]) -> None:
        self.live_runs = live_runs
        self.closed = False
        self._channels: dict[LifecycleChannel, None] = {}

    def open(
        self, *, capacity: int, overflow: Loss, progress_interval_seconds: float
    ) -> "LifecycleChannel":
        """A channel that is told everything from now on."""
        channel = LifecycleChannel(self, capacity, overflow, progress_interval_seconds)
        self._channels[channel] = None
        return channel

    # --- What the hub and its sessions tell; synchronous -----------------------------------------

    def reader_attached(self, reader: Subscriber, session_id: str) -> None:
        if self._channels:
            self._emit(
                ConnectionEstablished(
                    at=time.time(),
                    connection_id=reader.spec.connection_id,
                    protocol=reader.spec.protocol,
                    session_id=session_id,
                    request_id=reader.spec.request_id,
                )
            )

    def reader_left(self, reader: Subscriber, session_id: str) -> None:
        if not self._channels:
            return
        now, spec, statistics = time.time(), reader.spec, reader.statistics()
        if reader.failure is not None:
            self._emit(
                StreamError(
                    at=now,
                    session_id=session_id,
                    request_id=spec.request_id,
                    connection_id=spec.connection_id,
                    error=reader.failure.message,
                    error_type=reader.failure.type,
                    recoverable=reader.failure.can_retry,
                )
            )
        self._emit(
            ConnectionClosed(
                at=now,
                connection_id=spec.connection_id,
                protocol=spec.protocol,
                session_id=session_id,
                duration_seconds=statistics.connected_seconds,
                bytes_sent=statistics.bytes_sent,
                messages_sent=statistics.messages_sent,
            )
        )

    def run_started(self, run: Run) -> None:
        if self._channels:
            self._emit(
                StreamStarted(
                    at=time.time(),
                    session_id=run.session_id,
                    request_id=run.request_id,
                    total_items=run.total,
                )
            )

    def run_ended(self, run: Run, closing: Iterable[Event]) -> None:
        """``closing`` are the run's last events: its error, where it failed, and its summary."""
        if not self._channels:
            return
        now = time.time()
        for event in closing:
            if isinstance(event, RunError):
                self._emit(
                    StreamError(
                        at=now,
                        session_id=run.session_id,
                        request_id=run.request_id,
                        connection_id=None,
                        error=event.error.message,
                        error_type=event.error.type,
                        recoverable=event.error.retryable,
                    )
                )
            elif isinstance(event, Summary):
                self._emit(
                    StreamCompleted(
                        at=now,
                        session_id=run.session_id,
                        request_id=run.request_id,
                        summary=event,
                    )
                )

    def _emit(self, event: LifecycleEvent) -> None:
        for channel in self._channels:
            channel.offer(event)

    def forget(self, channel: "LifecycleChannel") -> None:
        """The channel is closed. Idempotent."""
        self._channels.pop(channel, None)

    def close(self) -> None:
        """Nothing follows: channels end when everything was received. Idempotent."""
        self.closed = True
        for channel in self._channels:
            channel.wake()


class LifecycleChannel(trio.abc.ReceiveChannel[LifecycleEvent]):
    """One observer of a hub. Made by `eventmesh_trio.mesh.hub.Hub.open_lifecycle`.

    Iterate it; it ends when the hub has. One task at a time may receive. It has no task and no
    timer of its own.
    """

    def __init__(
        self, observers: Observers, capacity: int, overflow: Loss, interval_seconds: float
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        if not interval_seconds > 0:
            raise ValueError(
                f"progress_interval_seconds must be greater than 0, not {interval_seconds}"
            )
        self._observers = observers
        self._capacity = capacity
        self._overflow = overflow
        self._interval = interval_seconds
        self._queue: deque[LifecycleEvent] = deque()
        self._received = self._dropped = 0
        self._closed = False
        self._news: trio.Event | None = None  # somebody is receiving, and waits for this
        # Progress: the version of each run that was told, and who is to be told in this round.
        self._told: WeakKeyDictionary[Run, int] = WeakKeyDictionary()
        self._round: deque[Run] = deque()
        self._next_round = -inf

    def statistics(self) -> LifecycleStatistics:
        """How this observer fares at this moment."""
        return LifecycleStatistics(
            capacity=self._capacity,
            used=len(self._queue),
            received=self._received,
            dropped=self._dropped,
        )

    def offer(self, event: LifecycleEvent) -> None:
        """Queue an event, or lose one; synchronous. For `Observers`."""
        if len(self._queue) >= self._capacity:
            self._dropped += 1
            if self._overflow == "drop_newest":
                return
            self._queue.popleft()
        self._queue.append(event)
        self.wake()

    async def receive(self) -> LifecycleEvent:
        """What happened next; where nothing did, how far a live run has come.

        Raises:
          trio.EndOfChannel: the hub has ended, and everything was received.
          trio.ClosedResourceError: this channel is closed.
          trio.BusyResourceError: another task receives from it.
        Cancelled: nothing is lost.
        """
        if self._news is not None:
            raise trio.BusyResourceError("another task is receiving from this channel")
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            event = self._queue.popleft() if self._queue else self._progress()
            if event is not None:
                self._received += 1
                return event
            if self._observers.closed:
                raise trio.EndOfChannel
            await self._wait()

    def wake(self) -> None:
        """Let the receiver look again; for logs, when an event was appended. Idempotent."""
        if self._news is not None:
            self._news.set()

    async def _wait(self) -> None:
        self._news = trio.Event()
        if self._next_round <= trio.current_time():
            # Nothing is new in any run: whichever appends first wakes us. A log forgets a sleeper
            # that it has woken; others may wake us once more for nothing.
            for _, log in self._observers.live_runs():
                log.sleepers[self] = None
            deadline = inf
        else:
            deadline = self._next_round
        try:
            with trio.CancelScope(deadline=deadline):
                await self._news.wait()
        finally:
            self._news = None

    def _progress(self) -> ProgressUpdate | None:
        """The newest state of the next run that has news; all are looked at once an interval."""
        now = trio.current_time()
        if not self._round and now >= self._next_round:
            for run, _ in self._observers.live_runs():
                if self._told.get(run, 0) != run.track.version:
                    self._round.append(run)
            if self._round:
                self._next_round = now + self._interval
        while self._round:
            run = self._round.popleft()
            self._told[run] = run.track.version
            if run.live and (update := _update_of(run)) is not None:
                return update
        return None

    def close(self) -> None:
        """Stop watching; what waits is forgotten. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._observers.forget(self)
        self._queue.clear()
        self._round.clear()
        for _, log in self._observers.live_runs():
            log.sleepers.pop(self, None)
        self.wake()

    async def aclose(self) -> None:
        """`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()


def _update_of(run: Run) -> ProgressUpdate | None:
    """None where the run cannot say."""
    progress = run.track.progress()
    if progress is None:
        return None
    return ProgressUpdate(
        at=time.time(),
        session_id=run.session_id,
        request_id=run.request_id,
        completed=progress.completed,
        total=progress.total,
        throughput=progress.performance_metrics.throughput_per_second,
    )
