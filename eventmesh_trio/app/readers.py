"""What a reader asks for, within what the settings allow."""

from collections.abc import Callable
from math import inf
from typing import Any, Literal

from eventmesh_trio.abc import Encoder
from eventmesh_trio.app.stream_config import Protocol, StreamConfig
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.reader import ReaderSpec, Until
from eventmesh_trio.wire.headers import ReaderWishes

__all__ = ["reader_spec"]


def reader_spec(
    stream: StreamConfig,
    wishes: ReaderWishes,
    *,
    protocol: Protocol,
    encoder_for: Callable[[Track | None], Encoder],
    until: Until,
    connection_id: str,
    request_id: str | None = None,
    requested_at: float | None = None,
    coder_bytes: int = 0,
) -> ReaderSpec:
    """What a reader's wishes and the settings make of it.

    Args:
      coder_bytes: what of its memory the coding of its content takes.
    """
    bounds = stream.buffer
    # Made once: a copy with other values is checked anew, 8 us of each stream.
    own = _socket_members(stream) if protocol == "websocket" else _http_members(stream, protocol)
    return ReaderSpec(
        encoder_for=encoder_for,
        capacity=wishes.buffer_size,
        min_capacity=bounds.min_events,
        max_capacity=bounds.max_events,
        growth_factor=bounds.growth_factor,
        shrink_factor=bounds.shrink_factor,
        judged_sends=bounds.backpressure_window_sends,
        adaptive=wishes.enable_backpressure,
        slow_client_threshold_ms=wishes.slow_client_threshold_ms,
        buffer_timeout_ms=wishes.buffer_timeout_ms,
        batch_bytes=wishes.max_memory_bytes - coder_bytes,
        coder_bytes=coder_bytes,
        until=until,
        request_id=request_id,
        connection_id=connection_id,
        protocol=protocol,
        requested_at=requested_at,
        **own,
    )


def _socket_members(stream: StreamConfig) -> dict[str, Any]:
    return {
        "heartbeat_seconds": inf,
        "flush_interval_seconds": stream.websocket.flush_interval_seconds,
        "warning_events": stream.websocket.backpressure_threshold_events,
        "system_status": False,
    }


def _http_members(stream: StreamConfig, protocol: Literal["ndjson", "sse"]) -> dict[str, Any]:
    http = stream.http(protocol)
    return {
        "heartbeat_seconds": http.keep_alive_interval_seconds,
        "max_idle_seconds": http.max_connection_seconds,
        "flush_interval_seconds": http.flush_interval_seconds,
        "batch_events": stream.sse.max_buffered_events if protocol == "sse" else inf,
    }
