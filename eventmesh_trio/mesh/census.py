"""`Census`: how many connections, runs and events there are, and how healthy that is.

Counters are moved per batch, per run and per stream, never per event. Rates are judged over a
recent window, so that a server recovers its health by working well again.

Source: ``streaming-api.md``, "Performance Monitoring"; WIRE.md, section 8.
"""

import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Final, Literal

import attrs
import trio

from eventmesh_trio.wire.events import GlobalMetrics, ServerHealth, StreamingHealth, SystemStatus
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["SCORES", "Census", "GlobalStreamingMetrics", "Health"]

Health = Literal["healthy", "degraded", "critical"]

SCORES: Final[Mapping[Health, int]] = {"healthy": 100, "degraded": 75, "critical": 20}

_CRITICAL: Final = (0.1, 0.2)  # error rate, drop ratio: above either
_DEGRADED: Final = (0.05, 0.1)
_ENOUGH_ENDS: Final = 10
"""With fewer ends than these in the window one failure would be a rate of its own."""
_BUCKETS: Final = 6
_PROCESS_SECONDS: Final = 1.0  # how long a reading of memory and load is good for
_MIB: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class GlobalStreamingMetrics:
    """The whole server at one moment. Totals count since its start; rates are recent.

    A connection is one attached reader: an HTTP stream, a WebSocket, or an embedder's channel.
    ``error_rate`` is `Census.error_rate`: it judges the server, so a URL that could not be fetched
    is no part of it.
    """

    active_connections: int
    total_connections: int
    active_runs: int
    total_runs: int
    failed_runs: int
    total_messages_sent: int
    total_bytes_sent: int
    total_messages_dropped: int
    total_progress_coalesced: int
    total_warnings: int
    total_evictions: int
    average_connection_duration_ms: float
    health_status: Health
    memory_usage_bytes: int
    error_rate: float
    drop_ratio: float
    throughput_events_per_sec: float
    uptime_seconds: float

    def efficiency(self) -> float:
        """The mean of two shares: of events that were delivered, and of ends without error."""
        if not self.total_messages_sent:
            return 1.0
        delivered = max(0, self.total_messages_sent - self.total_messages_dropped)
        return (delivered / self.total_messages_sent + 1.0 - self.error_rate) / 2


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
        self._buckets: deque[_Bucket] = deque([_Bucket(now)], maxlen=_BUCKETS)
        self._streams: dict[object, float] = {}  # attached reader -> since when
        self._total_streams = 0
        self._ended_seconds = 0.0
        self._active_runs = 0
        self._total_runs = 0
        self._failed_runs = 0
        self._sent = self._bytes = self._dropped = self._coalesced = 0
        self._warnings = self._evictions = 0
        self._health: Health = "healthy"
        self._process: tuple[float, int, float] | None = None
        self.health_version = 0
        """Rises when health has changed; readers compare, and tell their clients."""

    # --- What the rest of the mesh tells ------------------------------------------------------

    def stream_opened(self, reader: object) -> None:
        self._total_streams += 1
        self._streams[reader] = trio.current_time()

    def stream_closed(self, reader: object, *, failed: bool = False) -> None:
        """A reader has left; ``failed``: it was cut off."""
        since = self._streams.pop(reader, None)
        if since is not None:
            self._ended_seconds += trio.current_time() - since
            self._evictions += failed
            self._end(failed)

    def run_started(self) -> None:
        self._active_runs += 1
        self._total_runs += 1

    def run_ended(self, *, failed: bool) -> None:
        self._active_runs -= 1
        self._failed_runs += failed
        self._end(failed)

    def sent(self, events: int, nbytes: int) -> None:
        """One write to one reader went through."""
        self._sent += events
        self._bytes += nbytes
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

    # --- Health -------------------------------------------------------------------------------

    @property
    def health(self) -> Health:
        self.judge()
        return self._health

    def judge(self) -> None:
        """Look at the rates, and say so if they have changed health."""
        rates = (self.error_rate, self.drop_ratio)
        before = self._health
        if any(rate > most for rate, most in zip(rates, _CRITICAL, strict=True)):
            self._health = "critical"
        elif any(rate > most for rate, most in zip(rates, _DEGRADED, strict=True)):
            self._health = "degraded"
        else:
            self._health = "healthy"
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
        recent = self._recent()
        ends = sum(bucket.ends for bucket in recent)
        return sum(bucket.errors for bucket in recent) / ends if ends >= _ENOUGH_ENDS else 0.0

    @property
    def drop_ratio(self) -> float:
        """Recent logged events that lossy readers lost, for each one that was sent."""
        recent = self._recent()
        sent = sum(bucket.sent for bucket in recent)
        return sum(bucket.dropped for bucket in recent) / sent if sent else 0.0

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
        self.judge()

    def _bucket(self) -> _Bucket:
        """The bucket of now."""
        newest = self._buckets[-1]
        now = trio.current_time()
        if now - newest.begun >= self._bucket_seconds:
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
            active_runs=self._active_runs,
            total_runs=self._total_runs,
            failed_runs=self._failed_runs,
            total_messages_sent=self._sent,
            total_bytes_sent=self._bytes,
            total_messages_dropped=self._dropped,
            total_progress_coalesced=self._coalesced,
            total_warnings=self._warnings,
            total_evictions=self._evictions,
            average_connection_duration_ms=self._average_seconds() * 1000,
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
        """What every HTTP reader is told when health changes."""
        health = self.health
        error_rate, drop_ratio = self.error_rate, self.drop_ratio
        issues = []
        if error_rate > _DEGRADED[0]:
            issues.append(f"Elevated error rate: {error_rate:.1%}")
        if drop_ratio > _DEGRADED[1]:
            issues.append(f"Events dropped for slow readers: {drop_ratio:.1%}")
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
        now = trio.current_time()
        total = self._ended_seconds + sum(now - since for since in self._streams.values())
        return total / self._total_streams if self._total_streams else 0.0

    def _throughput(self) -> float:
        recent = self._recent()
        seconds = trio.current_time() - recent[0].begun
        return sum(bucket.sent for bucket in recent) / seconds if seconds > 0 else 0.0

    def _process_state(self) -> tuple[int, float]:
        """Resident bytes, and the load average over a minute; read at most once a second."""
        now = trio.current_time()
        if self._process is None or now - self._process[0] >= _PROCESS_SECONDS:
            self._process = (now, _resident_bytes(), os.getloadavg()[0])
        return self._process[1:]


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no procfs (macOS): the peak instead of the present
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
