"""The three workloads that the streaming API document tunes for, as settings.

Source: ``streaming-api.md``, "Performance Tuning Parameters" and, in its quick start, "Performance
Tuning". Where the two differ the first, more detailed one stands: ``low_latency`` begins at 64
events and grows to 256, which the quick start gives as its one ``buffer_size``. A
``flush_interval`` that the quick start gives without a protocol is that of all three.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["PROFILES"]

PROFILES: Final[Mapping[str, Mapping[str, object]]] = {
    "high_throughput": {
        "stream.buffer.default_size": 2048,
        "stream.buffer.max_size": 4096,
        "stream.buffer.growth_factor": 2.0,
        "stream.buffer.memory_limit_per_connection": "128KB",
        "stream.ndjson.flush_interval": "25ms",
        "stream.ndjson.max_line_length": "1MB",
        "stream.sse.flush_interval": "25ms",
        "stream.sse.max_buffered_events": 4096,
        "stream.websocket.flush_interval": "25ms",
        "crawl.concurrency": 8,
    },
    "low_latency": {
        "stream.buffer.default_size": 64,
        "stream.buffer.max_size": 256,
        "stream.buffer.growth_factor": 1.2,
        "stream.buffer.memory_limit_per_connection": "32KB",
        "stream.ndjson.flush_interval": "10ms",
        "stream.sse.flush_interval": "10ms",
        "stream.websocket.flush_interval": "10ms",
        "stream.websocket.ping_interval": "15s",
        "stream.websocket.backpressure_threshold": 32,
        "crawl.concurrency": 3,
    },
    "memory_optimized": {
        "stream.buffer.default_size": 64,
        "stream.buffer.memory_limit_per_connection": "16KB",
        "stream.buffer.global_memory_limit": "10MB",
        "stream.general.max_concurrent_streams": 100,
        "stream.general.enable_compression": True,
        "transport.max_connections": 100,
    },
}
"""Settings by the name of the profile that changes them."""
