"""`GlobalStreamingMetrics`: a whole server in figures, and what they say of its health.

Source: ``streaming-api.md``, "Performance Monitoring"; ``docs/wire.rst``.
"""

from collections.abc import Mapping
from typing import Final, Literal

import attrs

from eventmesh_trio.mesh.reader import StreamProtocol
from eventmesh_trio.wire.events import RunStatus

__all__ = [
    "DEGRADED_RATES",
    "SCORES",
    "GlobalStreamingMetrics",
    "Health",
    "ProtocolCounts",
    "health_of",
]

Health = Literal["healthy", "degraded", "critical"]

SCORES: Final[Mapping[Health, int]] = {"healthy": 100, "degraded": 75, "critical": 20}

CRITICAL_RATES: Final = (0.1, 0.2)  # error rate, drop ratio: above either
DEGRADED_RATES: Final = (0.05, 0.1)


def health_of(error_rate: float, drop_ratio: float) -> Health:
    """Judge a server by its failures among ends, and its lost events for each one sent."""
    if error_rate > CRITICAL_RATES[0] or drop_ratio > CRITICAL_RATES[1]:
        return "critical"
    if error_rate > DEGRADED_RATES[0] or drop_ratio > DEGRADED_RATES[1]:
        return "degraded"
    return "healthy"


@attrs.frozen(kw_only=True)
class GlobalStreamingMetrics:
    """The whole server at one moment. Totals count since its start; rates are recent.

    A connection is one attached reader: an HTTP stream, a WebSocket, or an embedder's channel.
    ``error_rate`` is that of `eventmesh_trio.mesh.census.Census`: it judges the server, so a URL
    that could not be fetched is no part of it.
    """

    active_connections: int
    total_connections: int
    protocols: Mapping[StreamProtocol, "ProtocolCounts"]
    """The same by protocol, with what was sent; protocols that were never used are left out."""
    active_runs: int
    total_runs: int
    failed_runs: int
    ended_runs: Mapping[RunStatus, int]
    """Runs that have ended, by how."""
    total_messages_sent: int
    total_bytes_sent: int
    total_messages_dropped: int
    total_progress_coalesced: int
    total_warnings: int
    total_evictions: int
    average_connection_duration_ms: float
    buffer_utilization: float
    """The mean use of the windows of attached readers, 0-1."""
    health_status: Health
    memory_usage_bytes: int
    error_rate: float
    drop_ratio: float
    throughput_events_per_sec: float
    uptime_seconds: float

    def efficiency(self) -> float:
        """The mean of two shares: of what was sent less what was lost in it, and of good ends.

        Source: ``streaming-api.md``, ``efficiency``.
        """
        if not self.total_messages_sent:
            return 1.0
        delivered = max(0, self.total_messages_sent - self.total_messages_dropped)
        return (delivered / self.total_messages_sent + 1.0 - self.error_rate) / 2


@attrs.frozen(kw_only=True)
class ProtocolCounts:
    """The readers of one protocol. Totals count since the server's start."""

    active_connections: int
    total_connections: int
    messages_sent: int
    bytes_sent: int
