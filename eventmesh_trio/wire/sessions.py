"""A session and its runs as JSON: ``GET /sessions``, answers to control.

Counts are of URLs; times are RFC 3339 UTC. ``last_event_id`` is null while nothing was logged.
"""

from typing import Literal

from msgspec import Struct

__all__ = ["RunInfo", "RunState", "SessionInfo"]

RunState = Literal[
    "running", "paused", "cancelling", "completed", "cancelled", "failed", "timed_out"
]


class RunInfo(Struct, frozen=True, kw_only=True):
    """One crawl or search: what was asked, and how far it has come."""

    request_id: str
    kind: Literal["crawl", "deepsearch"]
    state: RunState
    total: int
    completed: int
    successful: int
    failed: int
    started_at: str


class SessionInfo(Struct, frozen=True, kw_only=True):
    """What a client can attach to: ``subscribers`` counts the readers that are attached now."""

    session_id: str
    epoch: str
    created_at: str
    subscribers: int
    last_event_id: str | None
    runs: tuple[RunInfo, ...]
