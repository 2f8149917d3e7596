"""`Census`: how many connections, runs and events there are, and how healthy that is.

Counters are moved per batch, per run and per stream, never per event. Rates are judged over a
recent window, so that a server recovers its health by working well again.

Source: ``streaming-api.md``, "Performance Monitoring"; ``docs/wire.rst``.
"""

import os
import resource
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Final, Protocol

import attrs
import trio

from eventmesh_trio.mesh.global_metrics import (
    DEGRADED_RATES,
    SCORES,
    GlobalStreamingMetrics,
    Health,
    ProtocolCounts,
    health_of,
)
from eventmesh_trio.mesh.reader import StreamProtocol
from eventmesh_trio.wire.events import (
    GlobalMetrics,
    RunStatus,
    ServerHealth,
    StreamingHealth,
    SystemStatus,
)
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["Census"]

_ENOUGH_ENDS: Final = 10
"""With fewer ends than these in the window one failure would be a rate of its own."""
_HIGH_UTILIZATION: Final = 0.78125
"""Where a reader is warned, 25/32: if the mean of all is beyond it, that is worth telling."""
_BUCKETS: Final = 6
_READING_SECONDS: Final = 1.0  # how long a look at memory, load and all readers is good for
_LEAST_RATED_SECONDS: Final = 1.0  # a rate is of so much at least
_MIB: Final = 1024 * 1024


class Counted(Protocol):
    """A reader, as far as it is counted."""

    @property
    def protocol(self) -> StreamProtocol: ...

    @property
    def utilization(self) -> float:
        """The use of its window, 0-1."""
        ...


@attrs.define
class _Protocol:
    """The readers of one protocol."""

    active: int = 0
    connections: int = 0
    sent: int = 0
    nbytes: int = 0


@attrs.define
class _Bucket:
    """What happened in one part of the window that health is judged over."""

    begun: float
    sent: int = 0
    dropped: int = 0
    ends: int = 0
    errors: int = 0


class Census:
    """Counts of one hub. Times are `trio.current_time`; make it inside the hub's trio run.

    Args:
      window_seconds: the recent time that health is judged over.
      on_change: called when health has changed, from wherever that was noticed.
    """

    def __init__(
        self, window_seconds: float = 60.0, on_change: Callable[[], None] = lambda: None
    ) -> None:
        now = trio.current_time()
        self._on_change = on_change
        self._started_at = now
        self._bucket_seconds = window_seconds / _BUCKETS
        self._buckets: deque[_Bucket] = deque([_Bucket(now)], maxlen=_BUCKETS + 1)
        self._streams: dict[Counted, float] = {}  # attached reader -> since when
        self._protocols: defaultdict[StreamProtocol, _Protocol] = defaultdict(_Protocol)
        self._ended_runs: Counter[RunStatus] = Counter()
        self._total_streams = 0
        self._ended_seconds = 0.0
        self._begun_at_sum = 0.0  # of attached readers; with it their mean age costs nothing
        self._active_runs = 0
        self._total_runs = 0
        self._dropped = self._coalesced = 0
        self._warnings = self._evictions = 0
        self._health: Health = "healthy"
        self._process: tuple[float, int, float] | None = None
        self._status: tuple[float, int, SystemStatus] | None = None
        self.health_version = 0
        """Rises when health has changed; readers compare, and tell their clients."""

    # --- What the rest of the mesh tells ------------------------------------------------------

    def stream_opened(self, reader: Counted) -> None:
        self._total_streams += 1
        counts = self._protocols[reader.protocol]
        counts.connections += 1
        counts.active += 1
        now = trio.current_time()
        self._streams[reader] = now
        self._begun_at_sum += now

    def stream_closed(self, reader: Counted, *, failed: bool = False) -> None:
        """A reader has left; ``failed``: it was cut off."""
        since = self._streams.pop(reader, None)
        if since is not None:
            self._protocols[reader.protocol].active -= 1
            self._begun_at_sum -= since
            self._ended_seconds += trio.current_time() - since
            self._evictions += failed
            self._end(failed)

    def run_started(self) -> None:
        self._active_runs += 1
        self._total_runs += 1

    def run_ended(self, status: RunStatus) -> None:
        self._active_runs -= 1
        self._ended_runs[status] += 1
        self._end(status == "failed")

    def sent(self, protocol: StreamProtocol, events: int, nbytes: int) -> None:
        """One write to one reader of that protocol went through."""
        counts = self._protocols[protocol]
        counts.sent += events
        counts.nbytes += nbytes
        self._bucket().sent += events

    def dropped(self, events: int) -> None:
        """A lossy reader lost logged events."""
        self._dropped += events
        self._bucket().dropped += events
        self.judge()

    def coalesced(self, states: int) -> None:
        self._coalesced += states

    def warned(self) -> None:
        self._warnings += 1

    @property
    def active_runs(self) -> int:
        """Runs that are live."""
        return self._active_runs

    # --- Health -------------------------------------------------------------------------------

    @property
    def health(self) -> Health:
        self.judge()
        return self._health

    def judge(self) -> None:
        """Look at the rates, and say so if they have changed health."""
        recent = self._recent()
        before = self._health
        self._health = health_of(_error_rate(recent), _drop_ratio(recent))
        if self._health == before:
            return
        self.health_version += 1
        self._on_change()

    @property
    def error_rate(self) -> float:
        """The share of recent ends of runs and streams that were failures; 0.0 while they are few.

        A run fails by an error of the whole job, not by URLs that cannot be fetched, a deadline or
        a cancel; a stream fails by being cut off, not by a client that leaves.
        """
        return _error_rate(self._recent())

    @property
    def drop_ratio(self) -> float:
        """Recent logged events that lossy readers lost, for each one that was sent."""
        return _drop_ratio(self._recent())

    @property
    def next_judgement(self) -> float:
        """When to look at health again though nothing happens, in trio's time; inf: never."""
        if self._health == "healthy":
            return inf
        return self._bucket().begun + self._bucket_seconds

    def _end(self, failed: bool) -> None:
        bucket = self._bucket()
        bucket.ends += 1
        bucket.errors += failed
        # With neither a failure nor a loss there is nothing to judge: 4 us of each stream.
        if self._health != "healthy" or any(part.errors or part.dropped for part in self._buckets):
            self.judge()

    def _bucket(self) -> _Bucket:
        """The bucket of now."""
        newest = self._buckets[-1]
        now = trio.current_time()
        if now >= newest.begun + self._bucket_seconds:  # rounded as `next_judgement` rounds it
            newest = _Bucket(now)
            self._buckets.append(newest)
        return newest

    def _recent(self) -> list[_Bucket]:
        self._bucket()
        horizon = trio.current_time() - self._bucket_seconds * _BUCKETS
        return [bucket for bucket in self._buckets if bucket.begun > horizon]

    # --- What others read ---------------------------------------------------------------------

    def snapshot(self) -> GlobalStreamingMetrics:
        """Everything counted, at this moment."""
        memory, _ = self._process_state()
        return GlobalStreamingMetrics(
            active_connections=len(self._streams),
            total_connections=self._total_streams,
            protocols=self._by_protocol(),
            active_runs=self._active_runs,
            total_runs=self._total_runs,
            failed_runs=self._ended_runs["failed"],
            ended_runs=dict(self._ended_runs),
            total_messages_sent=sum(counts.sent for counts in self._protocols.values()),
            total_bytes_sent=sum(counts.nbytes for counts in self._protocols.values()),
            total_messages_dropped=self._dropped,
            total_progress_coalesced=self._coalesced,
            total_warnings=self._warnings,
            total_evictions=self._evictions,
            average_connection_duration_ms=self._average_seconds() * 1000,
            buffer_utilization=self._utilization(),
            health_status=self.health,
            memory_usage_bytes=memory,
            error_rate=self.error_rate,
            drop_ratio=self.drop_ratio,
            throughput_events_per_sec=self._throughput(),
            uptime_seconds=trio.current_time() - self._started_at,
        )

    def server_health(self) -> ServerHealth:
        """What a heartbeat says of the server."""
        memory, load = self._process_state()
        return ServerHealth(
            status=self.health,
            active_connections=len(self._streams),
            system_load=round(load, 2),
            memory_usage_mb=round(memory / _MIB),
            uptime_seconds=int(trio.current_time() - self._started_at),
        )

    def system_status(self) -> SystemStatus:
        """What HTTP readers are told when health changes; for all of them made once a second."""
        health = self.health
        now = trio.current_time()
        if self._status is not None:
            made_at, version, status = self._status
            if version == self.health_version and now - made_at < _READING_SECONDS:
                return status
        status = self._make_status(health)
        self._status = (now, self.health_version, status)
        return status

    def _make_status(self, health: Health) -> SystemStatus:
        error_rate, drop_ratio = self.error_rate, self.drop_ratio
        issues = []
        if error_rate > DEGRADED_RATES[0]:
            issues.append(f"Elevated error rate: {error_rate:.1%}")
        if drop_ratio > DEGRADED_RATES[1]:
            issues.append(f"Events dropped for slow readers: {drop_ratio:.1%}")
        if (utilization := self._utilization()) > _HIGH_UTILIZATION:
            issues.append(f"High buffer utilization across connections: {utilization:.0%}")
        return SystemStatus(
            timestamp=utc_timestamp(time.time()),
            streaming_health=StreamingHealth(
                status=health, score=SCORES[health], issues=tuple(issues)
            ),
            global_metrics=GlobalMetrics(
                active_streams=len(self._streams),
                total_throughput_events_per_sec=round(self._throughput(), 1),
                global_error_rate=round(error_rate, 4),
                avg_connection_duration_seconds=round(self._average_seconds(), 3),
            ),
        )

    def _average_seconds(self) -> float:
        """The mean age of all connections, those that have ended included."""
        attached = trio.current_time() * len(self._streams) - self._begun_at_sum
        total = self._ended_seconds + max(0.0, attached)
        return total / self._total_streams if self._total_streams else 0.0

    def _by_protocol(self) -> Mapping[StreamProtocol, ProtocolCounts]:
        return {
            protocol: ProtocolCounts(
                active_connections=counts.active,
                total_connections=counts.connections,
                messages_sent=counts.sent,
                bytes_sent=counts.nbytes,
            )
            for protocol, counts in self._protocols.items()
        }

    def _utilization(self) -> float:
        used = sum(reader.utilization for reader in self._streams)
        return used / len(self._streams) if self._streams else 0.0

    def _throughput(self) -> float:
        # Not by the age of the oldest bucket: after a silence that is the one just begun.
        newest, now = self._bucket(), trio.current_time()
        window = self._bucket_seconds * _BUCKETS
        seconds = max(_LEAST_RATED_SECONDS, min(now - self._started_at, window))
        sent = float(newest.sent)
        for bucket in islice(self._buckets, len(self._buckets) - 1):
            # Of one that ends in the window, and did not begin in it, the share that lies in it.
            in_window = bucket.begun + self._bucket_seconds - (now - window)
            sent += bucket.sent * min(1.0, max(0.0, in_window / self._bucket_seconds))
        return sent / seconds

    def _process_state(self) -> tuple[int, float]:
        """Resident bytes, and the load average over a minute; read at most once a second."""
        now = trio.current_time()
        if self._process is None or now - self._process[0] >= _READING_SECONDS:
            self._process = (now, _resident_bytes(), os.getloadavg()[0])
        return self._process[1:]


def _error_rate(recent: Sequence[_Bucket]) -> float:
    ends = sum(bucket.ends for bucket in recent)
    return sum(bucket.errors for bucket in recent) / ends if ends >= _ENOUGH_ENDS else 0.0


def _drop_ratio(recent: Sequence[_Bucket]) -> float:
    sent = sum(bucket.sent for bucket in recent)
    return sum(bucket.dropped for bucket in recent) / sent if sent else 0.0


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no procfs (macOS): the peak instead of the present
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
