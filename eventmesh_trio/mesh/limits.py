"""The standing limits of the mesh: each with its unit in its name and a default."""

from math import inf
from typing import Any

import attrs

__all__ = ["MeshLimits"]


def _positive(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} must be greater than 0, not {value}")


def _not_negative(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name} must not be negative: {value}")


def _finite(_: object, attribute: "attrs.Attribute[Any]", value: float) -> None:
    if not 0 < value < inf:
        raise ValueError(f"{attribute.name} must be greater than 0 and finite, not {value}")


@attrs.frozen(kw_only=True)
class MeshLimits:
    """Limits of one hub; they hold for all its sessions, runs and readers.

    Raises:
      ValueError: a limit is out of range; the message names it.
    """

    linger_seconds: float = attrs.field(default=30.0, validator=_not_negative)
    """How long a run of a session with a chosen id outlives its last reader."""

    retention_seconds: float = attrs.field(default=300.0, validator=_not_negative)
    """How long a session without live runs and readers is kept for replay."""

    replay_bytes: int = attrs.field(default=16 * 1024 * 1024, validator=_not_negative)
    """What a log keeps at least behind its end: events and their encoded forms together. With less
    than two windows, who is away when its run ends may come back to a gap."""

    max_pinned_bytes: int = attrs.field(default=64 * 1024 * 1024, validator=_positive)
    """What a reader of one run may make a log keep of *other* runs before it is cut off."""

    max_retained_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=_not_negative)
    """What all sessions that are only kept for replay may hold; the oldest is forgotten first."""

    max_total_bytes: int = attrs.field(default=1024 * 1024 * 1024, validator=_positive)
    """What the logs of all sessions may hold together, live ones included."""

    window_bytes: int = attrs.field(default=1024 * 1024, validator=_positive)
    """How many shared bytes a lossless reader may lag before its runs wait."""

    stall_seconds: float = attrs.field(default=30.0, validator=_positive)
    """How long a reader that holds its run back may stand still before it is cut off. One within
    this program is not: its run waits for it as long as it may take."""

    max_paused_seconds: float = attrs.field(default=3600.0, validator=_positive)
    """How long a run may stay paused before it is cancelled."""

    max_sessions: int = attrs.field(default=10_000, validator=_positive)
    """Sessions at once; a kept one is forgotten for a new one, then new ones are refused."""

    max_runs: int = attrs.field(default=10_000, validator=_positive)
    """Live runs of all sessions at once; more are refused."""

    max_runs_per_session: int = attrs.field(default=64, validator=_positive)
    """Live runs of one session at once; more are refused."""

    max_finished_runs: int = attrs.field(default=256, validator=_positive)
    """Finished runs that a session still lists."""

    max_batch_events: int = attrs.field(default=1024, validator=_positive)
    """Logged events in one batch, however small they are."""

    publish_stride: int = attrs.field(default=96, validator=_positive)
    """Events that a publisher appends before it lets other tasks run."""

    notice_queue: int = attrs.field(default=64, validator=_positive)
    """Replies that wait for a connection's writer; then its reader stops reading."""

    warning_seconds: float = attrs.field(default=5.0, validator=_not_negative)
    """The least time between two backpressure warnings to one reader."""

    attach_wait_seconds: float = attrs.field(default=5.0, validator=_not_negative)
    """How long a session waits for its first run or reader before it is forgotten, a run that was
    started without a reader for its first at least, and a GET for its POST (which the handler
    applies)."""

    ttfb_target_ms: int = attrs.field(default=500, validator=_positive)
    """The time to first byte that ``metadata`` states as our aim."""

    health_window_seconds: float = attrs.field(default=60.0, validator=_finite)
    """The recent time over which error rate and drop ratio, and so health, are judged."""
