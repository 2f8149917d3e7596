"""What a reader asks for, what it is handed, and how it fared: frozen data of `Subscriber`."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Literal

import attrs
from attrs import validators

from eventmesh_trio.abc import Encoder
from eventmesh_trio.mesh.flow import Track

__all__ = [
    "Batch",
    "OverflowStrategy",
    "ReaderSpec",
    "StreamProtocol",
    "SubscriberStatistics",
    "Until",
]

OverflowStrategy = Literal["block", "drop_oldest", "drop_newest", "disconnect"]
Until = Literal["run", "idle", "never"]
StreamProtocol = Literal["ndjson", "sse", "websocket", "channel"]
"""How a reader is written to; ``channel`` is an embedder, who takes events as they are."""


@attrs.frozen(kw_only=True)
class ReaderSpec:
    """How one reader wants its events. Defaults are those of ``docs/wire.rst``.

    ``encoder_for`` picks the encoder of the events of a run, and with None that of what belongs to
    no run (a gap, a heartbeat). It must give equal encoders for the same run.
    """

    encoder_for: Callable[[Track | None], Encoder]
    until: Until = "idle"
    """When the channel ends: after ``request_id``'s summary, when no run is live, or never."""
    request_id: str | None = None
    """With ``until="run"``: the one run this reader follows. Else it follows all of the session."""
    connection_id: str = "local"
    protocol: StreamProtocol = "channel"
    patient: bool = False
    """Whether its runs wait for it however long it stands still: one within this program, say."""
    requested_at: float | None = None
    """`trio.current_time` when its request was parsed; None: when it was attached."""
    capacity: int = attrs.field(default=256, validator=validators.gt(0))
    """Events the reader may lag at first (`X-Buffer-Size`)."""
    min_capacity: int = attrs.field(default=64, validator=validators.gt(0))
    max_capacity: int = attrs.field(default=2048, validator=validators.gt(0))
    growth_factor: float = attrs.field(default=1.5, validator=validators.gt(1))
    shrink_factor: float = attrs.field(
        default=0.75, validator=validators.and_(validators.gt(0), validators.lt(1))
    )
    adaptive: bool = True
    """Whether the capacity adapts and warnings are sent (`X-Enable-Backpressure`)."""
    judged_sends: int = attrs.field(default=50, validator=validators.ge(5))
    """The last sends over which the reader is judged slow."""
    warning_events: int = attrs.field(default=0, validator=validators.ge(0))
    """How far the reader lags when it is warned, where that is less than its window's own
    threshold; 0: never less."""
    slow_client_threshold_ms: float = 100.0
    """A slower send counts as slow (`X-Slow-Client-Threshold`)."""
    buffer_timeout_ms: float = 2000.0
    """The longest that progress is withheld from a reader that lags (`X-Buffer-Timeout`)."""
    batch_bytes: int = attrs.field(default=65_536, validator=validators.gt(0))
    """What one batch may hold (`X-Max-Memory-Per-Connection`); a single event may pass it."""
    batch_events: float = attrs.field(default=inf, validator=validators.gt(0))
    """Logged events in one batch, where that is less than `MeshLimits.max_batch_events`."""
    coder_bytes: int = attrs.field(default=0, validator=validators.ge(0))
    """What of the connection's memory its content coding holds, beside the batch."""
    strategy: OverflowStrategy = "block"
    """What happens when the window is full: the run waits (lossless), or the reader loses."""
    progress: bool = True
    """Whether progress is rendered for this reader."""
    system_status: bool = True
    """Whether the reader hears of changes of the server's health (HTTP does, WebSocket not)."""
    heartbeat_seconds: float = attrs.field(default=30.0, validator=validators.gt(0))
    """The silence after which a heartbeat is sent; `math.inf` for none."""
    max_idle_seconds: float = attrs.field(default=inf, validator=validators.gt(0))
    """How long it may go on writing while no run of the session is live; then it is cancelled."""
    flush_interval_seconds: float = attrs.field(default=0.05, validator=validators.ge(0))
    """The least time between two progress events of one run."""

    def __attrs_post_init__(self) -> None:
        if (self.until == "run") != (self.request_id is not None):
            raise ValueError("request_id goes with until='run', and only with it")
        if not self.min_capacity <= self.max_capacity:
            raise ValueError("min_capacity is greater than max_capacity")

    @property
    def lossless(self) -> bool:
        """Whether runs wait for this reader instead of it losing events."""
        return self.strategy == "block"

    @property
    def beats(self) -> bool:
        """Whether silence is broken by heartbeats."""
        return self.heartbeat_seconds < inf


@attrs.frozen
class Batch:
    """What a writer should write now, in order: ``events`` in ``nbytes``.

    A piece is one event, or several where the encoder joins them. ``first_bytes`` has, of each run
    that was asked for on this connection and begins here, the seconds from the asking to now.
    """

    pieces: Sequence[bytes]
    events: int
    nbytes: int
    first_bytes: Sequence[float] = ()


@attrs.frozen(kw_only=True)
class SubscriberStatistics:
    """How one reader fares. Utilizations are 0-1 of the window; times in milliseconds."""

    used: int
    """Logged events that count against the window: appended, and not yet reported as sent."""
    pending: int
    """All logged events before this reader, those of a replay included."""
    capacity: int
    threshold: int
    """The number of used events at which a warning is due: ``capacity * 25 // 32``."""
    utilization: float
    peak_utilization: float
    avg_utilization: float
    avg_send_time_ms: float
    slow_sends: int
    is_slow: bool
    bytes_sent: int
    messages_sent: int
    flushes: int
    """Writes that were reported by `Subscriber.sent`."""
    dropped: int
    """Logged events that a lossy reader did not get (it got a gap)."""
    coalesced: int
    """Progress states that were skipped for a newer one."""
    episodes: int
    """Times that the reader came under pressure (the threshold reached, or judged slow)."""
    warnings: int
    """Warnings that it was sent: at most one an episode."""
    resizes: int
    notices: int
    """Replies that wait to be written."""
    connected_seconds: float
    ttfb_ms: float | None
