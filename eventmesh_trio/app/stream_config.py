"""How streams behave: the part of the configuration that the streaming API document names.

Attributes have their units in their names, as everywhere; the settings have the names of the
document (`eventmesh_trio.app.settings` maps one to the other).
"""

import re
from typing import Final, Literal

import attrs
from attrs import validators

from eventmesh_trio.wire.headers import STREAM_FIELDS, ReaderBounds, ReaderWishes, wish_fields

__all__ = [
    "BufferConfig",
    "GeneralConfig",
    "HTTPStreamConfig",
    "NDJSONConfig",
    "Protocol",
    "SSEConfig",
    "StreamConfig",
    "WebSocketConfig",
]

Protocol = Literal["ndjson", "sse", "websocket"]

_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?|")  # RFC 9110, 5.5
_OURS: Final = frozenset(
    {
        "access-control-allow-origin",
        "access-control-expose-headers",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "keep-alive",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        *(
            name.decode()
            for name, _ in (
                *STREAM_FIELDS,
                *wish_fields(ReaderWishes(), capacity=1, used=0, session_id="", request_id=""),
            )
        ),
    }
)


def _response_fields(_: object, __: object, fields: tuple[tuple[str, str], ...]) -> None:
    for name, value in fields:
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a response field")
        if name.lower() in _OURS:
            raise ValueError(f"the response field {name} is the server's own")
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name} has characters that no response field may have")


@attrs.frozen(kw_only=True)
class BufferConfig(ReaderBounds):
    """The window of each reader: what it may lag, and how that adapts (`DynamicBuffer`).

    Raises:
      ValueError: a value makes no sense; the message names it.
    """

    growth_factor: float = attrs.field(default=1.5, validator=validators.gt(1))
    """By how much a window grows when events were dropped, or had to wait."""
    shrink_factor: float = attrs.field(
        default=0.75, validator=validators.and_(validators.gt(0), validators.lt(1))
    )
    """By how much the window of a slow reader shrinks."""
    backpressure_window_sends: int = attrs.field(default=50, validator=validators.ge(5))
    """The last sends over which a reader is judged slow; at least 5."""


@attrs.frozen(kw_only=True)
class HTTPStreamConfig:
    """What both kinds of streamed response have."""

    flush_interval_seconds: float = attrs.field(default=0.05, validator=validators.ge(0))
    """The least time between two progress events of a run; what came between is coalesced."""
    keep_alive_interval_seconds: float = attrs.field(default=30.0, validator=validators.gt(0))
    """The silence after which the stream carries a heartbeat."""
    max_connection_seconds: float = attrs.field(default=300.0, validator=validators.gt(0))
    """How long a stream may stay open while no run of its session is live; then it is cut."""


@attrs.frozen(kw_only=True)
class NDJSONConfig(HTTPStreamConfig):
    """NDJSON streams."""

    max_line_bytes: int = attrs.field(default=10 * 1024 * 1024, validator=validators.ge(4096))
    """The longest line of a result; a larger document is cut, with ``truncated: true``."""


@attrs.frozen(kw_only=True)
class SSEConfig(HTTPStreamConfig):
    """Streams of server-sent events."""

    retry_interval_seconds: float = attrs.field(
        default=3.0, validator=validators.and_(validators.ge(0), validators.le(86_400))
    )
    """What clients are told to wait before they reconnect (``retry:``)."""
    max_buffered_events: int = attrs.field(default=128, validator=validators.gt(0))
    """The most events in one write of an SSE stream, and so in a client's buffer at once."""
    enable_cors: bool = True
    """Let pages of other origins (``server.cors_origins``) read these streams."""
    custom_headers: tuple[tuple[str, str], ...] = attrs.field(
        default=(), validator=_response_fields
    )
    """Response fields of our operator's own; a table in a file, ``Name: value`` elsewhere."""


@attrs.frozen(kw_only=True)
class WebSocketConfig:
    """WebSockets, but for what their transport limits."""

    flush_interval_seconds: float = attrs.field(default=0.05, validator=validators.ge(0))
    """The least time between two progress events of a run; what came between is coalesced."""
    backpressure_threshold_events: int = attrs.field(default=0, validator=validators.ge(0))
    """How far a reader lags when it is warned, if that is less than 25/32 of its window; 0: never
    less."""


@attrs.frozen(kw_only=True)
class GeneralConfig:
    """All streams together."""

    max_concurrent_streams: int = attrs.field(default=10_000, validator=validators.gt(0))
    """Streams at once, over all protocols; more are told 503."""
    max_streams_per_address: int = attrs.field(default=500, validator=validators.gt(0))
    """Streams at once of one client address (of IPv6: one /64); more are told 429."""
    enable_compression: bool = False
    """Compress NDJSON and SSE streams for clients that accept gzip."""


@attrs.frozen(kw_only=True)
class StreamConfig:
    """How streams behave."""

    buffer: BufferConfig = attrs.field(factory=BufferConfig)
    ndjson: NDJSONConfig = attrs.field(factory=NDJSONConfig)
    sse: SSEConfig = attrs.field(factory=SSEConfig)
    websocket: WebSocketConfig = attrs.field(factory=WebSocketConfig)
    general: GeneralConfig = attrs.field(factory=GeneralConfig)

    def http(self, framing: Literal["ndjson", "sse"]) -> HTTPStreamConfig:
        """The settings of one kind of streamed response."""
        return self.sse if framing == "sse" else self.ndjson
