"""The lifecycle events: what happens to connections and runs, for programs that watch a mesh.

They are told to `eventmesh_trio.mesh.observers.LifecycleChannel`, never to clients. A *connection*
is one attached reader: an HTTP stream, a WebSocket, or an embedder's channel; a *stream* is one
run. ``at`` is in seconds since the epoch.

Source: ``streaming-api.md``, "Lifecycle Management" (``LifecycleEvent``).
"""

import attrs

from eventmesh_trio.mesh.reader import StreamProtocol
from eventmesh_trio.wire.events import Summary

__all__ = [
    "ConnectionClosed",
    "ConnectionEstablished",
    "LifecycleEvent",
    "ProgressUpdate",
    "StreamCompleted",
    "StreamError",
    "StreamStarted",
]


@attrs.frozen(kw_only=True)
class ConnectionEstablished:
    """A reader was attached to a session."""

    at: float
    connection_id: str
    """``conn-<hex>``; streams that follow each other on one HTTP connection share it."""
    protocol: StreamProtocol
    session_id: str
    request_id: str | None
    """The one run that it follows; None: all of its session."""


@attrs.frozen(kw_only=True)
class StreamStarted:
    """A run has begun: its opening is in the log."""

    at: float
    session_id: str
    request_id: str
    total_items: int


@attrs.frozen(kw_only=True)
class ProgressUpdate:
    """How far a live run has come; at most one a run in each of the channel's intervals."""

    at: float
    session_id: str
    request_id: str
    completed: int
    total: int
    throughput: float
    """Items settled per second of the run's own time, in which pauses do not count."""


@attrs.frozen(kw_only=True)
class StreamCompleted:
    """A run has ended, well or not: ``summary.status`` says how."""

    at: float
    session_id: str
    request_id: str
    summary: Summary
    """As in the log, so without what differs by reader."""


@attrs.frozen(kw_only=True)
class StreamError:
    """A run failed as a whole (`StreamCompleted` follows), or a reader was cut off
    (`ConnectionClosed` follows). A URL that could not be fetched is neither.
    """

    at: float
    session_id: str
    request_id: str | None
    connection_id: str | None
    """Of the reader that was cut off; None: it is the run that failed."""
    error: str
    """One sentence."""
    error_type: str
    """A type of ``docs/wire.rst``."""
    recoverable: bool
    """Whether the same may succeed if it is tried again."""


@attrs.frozen(kw_only=True)
class ConnectionClosed:
    """A reader has left, or was cut off. Counts are of what was written to it in whole."""

    at: float
    connection_id: str
    protocol: StreamProtocol
    session_id: str
    duration_seconds: float
    bytes_sent: int
    """0 for an embedder's channel, whose events are never encoded."""
    messages_sent: int


LifecycleEvent = (
    ConnectionEstablished
    | StreamStarted
    | ProgressUpdate
    | StreamCompleted
    | StreamError
    | ConnectionClosed
)
