"""What is different for every reader: members of events that only its own window can fill.

Metadata, progress and summary are shared by all readers but for these; warnings and heartbeats
are a reader's own altogether. Nothing here decides when something is sent.
"""

import time
from math import ceil
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from eventmesh_trio.mesh.census import Census
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.mesh.reader import ReaderSpec, SubscriberStatistics
from eventmesh_trio.wire.events import (
    BackpressureWarning,
    BufferInfo,
    BufferStatistics,
    ConnectionHealth,
    ConnectionStats,
    CurrentMetrics,
    Event,
    Gap,
    Heartbeat,
    Metadata,
    PerformanceConfig,
    PressureWarning,
    Progress,
    Summary,
)
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = [
    "gap_event",
    "heartbeat_event",
    "personal_event",
    "personal_progress",
    "warning_event",
]

_ADVICE: Final = {
    "slow_client": (
        "Read the stream faster, or on its own task",
        "Reduce request concurrency",
        "Raise X-Slow-Client-Threshold if this pace is intended",
    ),
    "buffer_pressure": (
        "Reduce request concurrency",
        "Increase client processing speed",
        "Ask for a larger X-Buffer-Size",
    ),
}


def _percentage(statistics: SubscriberStatistics) -> float:
    return round(statistics.utilization * 100, 1)


def personal_event(
    event: Event, spec: ReaderSpec, limits: MeshLimits, statistics: SubscriberStatistics
) -> Event:
    """A logged event with this reader's members put in; others come back as they are."""
    if isinstance(event, Metadata):
        return _metadata(event, spec, limits, statistics)
    if isinstance(event, Summary):
        return _summary(event, statistics)
    return event


def _metadata(
    event: Metadata, spec: ReaderSpec, limits: MeshLimits, statistics: SubscriberStatistics
) -> Metadata:
    return replace(
        event,
        buffer_info=BufferInfo(
            used=statistics.used,
            current_size=statistics.used,
            capacity=statistics.capacity,
            utilization_percentage=_percentage(statistics),
            max_memory_bytes=spec.batch_bytes + spec.coder_bytes,
            backpressure_threshold=statistics.threshold,
            adaptive_sizing_enabled=spec.adaptive,
        ),
        performance_config=PerformanceConfig(
            ttfb_target_ms=limits.ttfb_target_ms,
            slow_client_threshold_ms=round(spec.slow_client_threshold_ms),
            buffer_flush_interval_ms=round(spec.flush_interval_seconds * 1000),
        ),
    )


def _summary(event: Summary, statistics: SubscriberStatistics) -> Summary:
    performance = event.performance_summary
    if statistics.ttfb_ms is not None:
        performance = replace(performance, ttfb_ms=round(statistics.ttfb_ms, 3))
    return replace(
        event,
        performance_summary=performance,
        buffer_statistics=BufferStatistics(
            peak_utilization=round(statistics.peak_utilization, 4),
            avg_utilization=round(statistics.avg_utilization, 4),
            total_flushes=statistics.flushes,
            messages_dropped=statistics.dropped,
            backpressure_events=statistics.episodes,
            buffer_resizes=statistics.resizes,
            progress_coalesced=statistics.coalesced,
        ),
    )


def personal_progress(
    event: Progress,
    request_id: str,
    spec: ReaderSpec,
    statistics: SubscriberStatistics,
    pending_bytes: int,
    *,
    pressed: bool,
) -> Progress:
    """A run's progress with this reader's window and pace; of ``request_id`` where it says none."""
    return replace(
        event,
        request_id=request_id if event.request_id is UNSET else event.request_id,
        buffer_info=BufferInfo(
            used=statistics.used,
            capacity=statistics.capacity,
            utilization_percentage=_percentage(statistics),
            pending_flushes=ceil(pending_bytes / spec.batch_bytes),
            backpressure_detected=pressed,
        ),
        connection_health=ConnectionHealth(
            avg_send_time_ms=round(statistics.avg_send_time_ms, 3),
            slow_sends_count=statistics.slow_sends,
            is_slow_client=statistics.is_slow,
        ),
    )


def warning_event(connection_id: str, statistics: SubscriberStatistics) -> BackpressureWarning:
    """Tell a reader that it is slow, or that its window is nearly full."""
    kind = "slow_client" if statistics.is_slow else "buffer_pressure"
    subject = "Client processing too slow" if statistics.is_slow else "Client lags"
    return BackpressureWarning(
        timestamp=utc_timestamp(time.time()),
        connection_id=connection_id,
        warning=PressureWarning(
            type=kind,
            message=f"{subject}, buffer at {statistics.utilization:.0%} capacity",
            buffer_utilization=round(statistics.utilization, 4),
            avg_send_time_ms=round(statistics.avg_send_time_ms, 3),
            suggested_actions=_ADVICE[kind],
        ),
        current_metrics=CurrentMetrics(
            buffer_used=statistics.used,
            buffer_capacity=statistics.capacity,
            pending_messages=statistics.pending,
            slow_sends_count=statistics.slow_sends,
        ),
    )


def heartbeat_event(session_id: str, census: Census, statistics: SubscriberStatistics) -> Heartbeat:
    """Break a silence: how the server and this connection are."""
    return Heartbeat(
        timestamp=utc_timestamp(time.time()),
        session_id=session_id,
        server_health=census.server_health(),
        connection_stats=ConnectionStats(
            bytes_sent=statistics.bytes_sent,
            messages_sent=statistics.messages_sent,
            avg_send_time_ms=round(statistics.avg_send_time_ms, 3),
            connection_duration_seconds=round(statistics.connected_seconds, 3),
        ),
    )


def gap_event(missing_from: int | None, missing_to: int | None, *, epoch_changed: bool) -> Gap:
    """Say that events are lost to this reader; numbers None where they are not known."""
    return Gap(
        timestamp=utc_timestamp(time.time()),
        missing_from=missing_from,
        missing_to=missing_to,
        epoch_changed=epoch_changed,
    )
