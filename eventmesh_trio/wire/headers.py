"""The header fields of the streaming API: what clients may ask for, and what they are told.

A number out of range is clamped, one that is not a number is refused; each value that is used is
echoed under the name of its own request field. ``docs/wire.rst`` lists them.
"""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Final

import attrs

from eventmesh_trio.errors import ValidationError

__all__ = [
    "STREAM_FIELDS",
    "ReaderBounds",
    "ReaderWishes",
    "backpressure_threshold",
    "cors_fields",
    "parse_identifier",
    "parse_wishes",
    "preflight_fields",
    "wish_fields",
]

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EXPOSED: Final = (
    b"X-Request-ID, X-Session-ID, X-Buffer-Capacity, X-Buffer-Current, X-Backpressure-Threshold, "
    b"X-Buffer-Size, X-Buffer-Timeout, X-Enable-Backpressure, X-Slow-Client-Threshold, "
    b"X-Max-Memory-Per-Connection, Retry-After"
)

STREAM_FIELDS: Final = (
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
)
"""On every stream, whatever its framing."""


@attrs.frozen(kw_only=True)
class ReaderBounds:
    """What a request's tuning fields may ask for, and what stands where they ask for nothing.

    Raises:
      ValueError: a value makes no sense; the message names it.
    """

    default_events: int = attrs.field(default=256, validator=attrs.validators.gt(0))
    """The window of a reader that asks for none (``X-Buffer-Size``)."""
    min_events: int = attrs.field(default=64, validator=attrs.validators.gt(0))
    """The smallest window, asked for or adapted to."""
    max_events: int = attrs.field(default=2048, validator=attrs.validators.gt(0))
    """The largest window, asked for or adapted to."""
    slow_send_threshold_ms: int = attrs.field(default=100, validator=attrs.validators.gt(0))
    """A longer send counts as slow, where a request does not say (``X-Slow-Client-Threshold``)."""
    memory_limit_bytes: int = attrs.field(default=65_536, validator=attrs.validators.gt(0))
    """What is held for one connection alone, the batch being written, where a request does not say
    (``X-Max-Memory-Per-Connection``)."""

    def __attrs_post_init__(self) -> None:
        if not self.min_events <= self.max_events:
            raise ValueError(
                f"min_events ({self.min_events}) is more than max_events ({self.max_events})"
            )
        if not self.min_events <= self.default_events <= self.max_events:
            raise ValueError(
                f"default_events ({self.default_events}) is not between "
                f"min_events ({self.min_events}) and max_events ({self.max_events})"
            )


@attrs.frozen
class ReaderWishes:
    """What a reader asked for, as it will be used."""

    buffer_size: int = 256  # events
    buffer_timeout_ms: int = 2000
    enable_backpressure: bool = True
    slow_client_threshold_ms: int = 100
    max_memory_bytes: int = 65_536


def backpressure_threshold(capacity: int) -> int:
    """From how many events on a window of ``capacity`` counts as under pressure: 800 for 1024."""
    return capacity * 25 // 32


def parse_identifier(value: bytes | str, name: str) -> str:
    """A session or request id.

    Raises:
      ValidationError: not of the form ``[A-Za-z0-9_.:-]{1,128}``.
    """
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not _IDENTIFIER.fullmatch(text):
        raise ValidationError(f"{name} must match [A-Za-z0-9_.:-]{{1,128}}", field=name)
    return text


def parse_wishes(field: Callable[[bytes], bytes | None], bounds: ReaderBounds) -> ReaderWishes:
    """Read the tuning fields of a request; ``field`` gives the value of a lower-case name.

    Raises:
      ValidationError: not a number, or not a boolean; it names the field.
    """

    def number(name: str, key: bytes, default: int, low: int, high: int) -> int:
        value = field(key)
        if value is None:
            return default
        try:
            wanted = float(value.replace(b"_", b" "))  # "1_000" is a number to Python only
            return int(min(max(wanted, low), high))
        except ValueError:  # "NaN" ends here as well: int() refuses it
            raise ValidationError(f"{name} is not a number", field=name) from None

    def boolean(name: str, key: bytes, default: bool) -> bool:
        value = field(key)
        if value is None:
            return default
        try:
            return _BOOLEANS[value.decode("latin-1").strip().lower()]
        except KeyError:
            raise ValidationError(f"{name} is neither true nor false", field=name) from None

    return ReaderWishes(
        buffer_size=number(
            "X-Buffer-Size",
            b"x-buffer-size",
            bounds.default_events,
            bounds.min_events,
            bounds.max_events,
        ),
        buffer_timeout_ms=number("X-Buffer-Timeout", b"x-buffer-timeout", 2000, 100, 10_000),
        enable_backpressure=boolean("X-Enable-Backpressure", b"x-enable-backpressure", True),
        slow_client_threshold_ms=number(
            "X-Slow-Client-Threshold",
            b"x-slow-client-threshold",
            bounds.slow_send_threshold_ms,
            50,
            1000,
        ),
        max_memory_bytes=number(
            "X-Max-Memory-Per-Connection",
            b"x-max-memory-per-connection",
            bounds.memory_limit_bytes,
            4096,
            262_144,
        ),
    )


def wish_fields(
    wishes: ReaderWishes, *, capacity: int, used: int, session_id: str, request_id: str
) -> list[tuple[bytes, bytes]]:
    """What a stream's response says of its window and of itself."""
    numbers = (
        (b"x-buffer-capacity", capacity),
        (b"x-buffer-current", used),
        (b"x-backpressure-threshold", backpressure_threshold(capacity)),
        (b"x-buffer-size", wishes.buffer_size),
        (b"x-buffer-timeout", wishes.buffer_timeout_ms),
        (b"x-slow-client-threshold", wishes.slow_client_threshold_ms),
        (b"x-max-memory-per-connection", wishes.max_memory_bytes),
    )
    return [
        (b"x-request-id", request_id.encode()),
        (b"x-session-id", session_id.encode()),
        (b"x-enable-backpressure", b"true" if wishes.enable_backpressure else b"false"),
        *((name, b"%d" % value) for name, value in numbers),
    ]


def is_allowed_origin(origin: bytes, allowed: Collection[str]) -> bool:
    return "*" in allowed or origin.decode("latin-1") in allowed


def cors_fields(origin: bytes | None, allowed: Collection[str]) -> list[tuple[bytes, bytes]]:
    """What lets a page of another origin read the response.

    Where the answer depends on the origin, ``Vary`` says so, whatever the answer: a cache must not
    give one page what another was told (Fetch standard, "CORS protocol and HTTP caches").
    """
    varies = [(b"vary", b"Origin")] if allowed and "*" not in allowed else []
    if origin is None or not is_allowed_origin(origin, allowed):
        return varies
    told = origin if varies else b"*"
    exposed = (b"access-control-expose-headers", _EXPOSED)
    return [(b"access-control-allow-origin", told), *varies, exposed]


def preflight_fields(
    origin: bytes | None, allowed: Collection[str], methods: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """The answer to ``OPTIONS`` (Fetch standard, "CORS-preflight request")."""
    fields = cors_fields(origin, allowed)
    if origin is not None and is_allowed_origin(origin, allowed):
        fields += [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (
                b"access-control-allow-headers",
                b"Content-Type, Accept, Last-Event-ID, Idempotency-Key, X-Session-ID, "
                b"X-Request-ID, X-Buffer-Size, X-Buffer-Timeout, X-Enable-Backpressure, "
                b"X-Slow-Client-Threshold, X-Max-Memory-Per-Connection",
            ),
            (b"access-control-max-age", b"600"),
        ]
    return fields
