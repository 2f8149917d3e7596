"""What the program tells of itself: Prometheus metrics, the same as JSON, health, and its log.

Names and labels are documented in ``docs/metrics.rst``. No label carries a URL, host or session.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.pipeline.cache import MemoryCache

__all__ = ["CONTENT_TYPE", "Metrics", "configure_logging"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_FIRST_BYTE_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)


class Metrics:
    """A registry of its own, so that two programs in one process do not meet."""

    def __init__(self, hub: Hub, cache: MemoryCache) -> None:
        self.registry = CollectorRegistry()
        self._first_byte = Histogram(
            "streaming_ttfb_duration_seconds",
            "From the parsed request to the first byte handed to the socket.",
            ["protocol"],
            buckets=_FIRST_BYTE_BUCKETS,
            registry=self.registry,
        )
        self._evictions = Counter(
            "streaming_evictions",
            "Readers that were cut off, by the reason.",
            ["reason"],
            registry=self.registry,
        )
        self.registry.register(_Snapshot(hub, cache))

    def first_byte(self, protocol: str, seconds: float) -> None:
        self._first_byte.labels(protocol).observe(seconds)

    def eviction(self, reason: str) -> None:
        self._evictions.labels(reason).inc()

    def samples(self) -> dict[str, float | dict[str, float]]:
        """Every sample but the buckets, by name; one with labels by their values."""
        found: dict[str, Any] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_created")):
                    continue
                if sample.labels:
                    labels = ",".join(sample.labels.values())
                    found.setdefault(sample.name, {})[labels] = sample.value
                else:
                    found[sample.name] = sample.value
        return found

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)


class _Snapshot(Collector):
    """Families that are read from the hub and the cache when somebody asks."""

    def __init__(self, hub: Hub, cache: MemoryCache) -> None:
        self._hub = hub
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        now = self._hub.census.snapshot()
        cache = self._cache.statistics()
        for name, text, value in (
            ("streaming_active_connections", "Readers attached now.", now.active_connections),
            ("streaming_active_runs", "Runs that are live.", now.active_runs),
            ("streaming_sessions", "Sessions, kept ones included.", len(self._hub.sessions)),
            (
                "streaming_buffer_utilization_ratio",
                "Mean use of the readers' windows, 0-1.",
                _mean_utilization(self._hub),
            ),
            (
                "streaming_error_ratio",
                "Share of recent ends of runs and streams that were failures, 0-1.",
                now.error_rate,
            ),
            ("streaming_uptime_seconds", "Since the server started.", now.uptime_seconds),
            ("cache_size_bytes", "Held by the cache.", cache.bytes_used),
            ("cache_entries", "Documents in the cache.", cache.entries),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        for name, text, value in (
            ("streaming_events", "Events written to readers.", now.total_messages_sent),
            ("streaming_sent_bytes", "Bytes written to readers.", now.total_bytes_sent),
            ("streaming_connections", "Readers ever attached.", now.total_connections),
            ("streaming_runs", "Runs ever started.", now.total_runs),
            ("streaming_dropped", "Events lossy readers lost.", now.total_messages_dropped),
            ("streaming_progress_coalesced", "Progress skipped.", now.total_progress_coalesced),
            ("cache_hits", "Lookups served.", cache.hits),
            ("cache_misses", "Lookups not served.", cache.misses),
        ):
            yield CounterMetricFamily(name, text, value=value)


def _mean_utilization(hub: Hub) -> float:
    readers = [reader for session in hub.sessions.values() for reader in session.subscribers]
    used = sum(reader.statistics().utilization for reader in readers)
    return used / len(readers) if readers else 0.0


def configure_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Log to stderr: lines for people on a terminal, JSON objects elsewhere.

    Tracebacks are plain ones in both. structlog's own choice on a terminal shows local variables,
    and those of ours hold page bodies and what clients sent.
    """
    exceptions: list[structlog.typing.Processor]
    if as_json:
        exceptions = [structlog.processors.format_exc_info]
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        exceptions = []
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
