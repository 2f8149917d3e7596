"""Sizes and durations as people write them: "64KB", "1.5 MB", "25ms", "1m30s".

A KB has 1,024 bytes, as in the streaming API document (and as KiB). What a number without a unit
means is said by the setting's name (``linger_seconds``). Where the name says nothing, a size is in
bytes, and a duration is refused: 25 could be either seconds or milliseconds.
"""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Final, Literal

__all__ = ["Unit", "read_quantity", "show_quantity", "unit_of"]

Unit = Literal["bytes", "seconds", "milliseconds"]

_SIZES: Final = {
    name: 1024**power
    for power, names in enumerate(
        (
            ("b", "byte", "bytes"),
            ("k", "kb", "kib"),
            ("m", "mb", "mib"),
            ("g", "gb", "gib"),
            ("t", "tb", "tib"),
        )
    )
    for name in names
}
_DURATIONS: Final = {  # in seconds
    name: seconds
    for seconds, names in (
        (1e-6, ("us", "µs", "microsecond", "microseconds")),
        (1e-3, ("ms", "msec", "millisecond", "milliseconds")),
        (1.0, ("s", "sec", "secs", "second", "seconds")),
        (60.0, ("m", "min", "mins", "minute", "minutes")),
        (3600.0, ("h", "hour", "hours")),
        (86_400.0, ("d", "day", "days")),
    )
    for name in names
}
_PART: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ]+)\s*")
_SUFFIXES: Final[Mapping[str, Unit]] = {
    "_bytes": "bytes",
    "_seconds": "seconds",
    "_milliseconds": "milliseconds",
    "_ms": "milliseconds",
}


def unit_of(name: str) -> Unit | None:
    """The unit that a name ends in; None where it measures neither time nor bytes."""
    return next((unit for suffix, unit in _SUFFIXES.items() if name.endswith(suffix)), None)


def read_quantity(text: str, unit: Unit) -> float:
    """What a text with units says, in ``unit``; whole where that is bytes or milliseconds.

    Raises:
      ValueError: not a number with a unit of size, or of time.
    """
    known = _SIZES if unit == "bytes" else _DURATIONS
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise ValueError(_complaint(text, unit))
        factor = known.get(part[2].lower())
        if factor is None:
            raise ValueError(f"{_complaint(text, unit)} ({part[2]} is none)")
        total += float(part[1]) * factor
        at = part.end()
    if not text.strip():
        raise ValueError(_complaint(text, unit))
    if not isfinite(total):
        raise ValueError(f"{text[:20]!r}... is too large")
    if unit == "seconds":
        return total
    if unit == "bytes" and total % 1 and total < _SIZES["kb"]:
        raise ValueError(f"{text!r} is no whole number of bytes")
    return round(total * 1000) if unit == "milliseconds" else round(total)


def _complaint(text: str, unit: Unit) -> str:
    if unit == "bytes":
        return f"{text!r} is no size such as 512, 64KB or 1.5MB"
    return f"{text!r} is no duration such as 25ms, 30s or 5m"


def show_quantity(value: float, unit: Unit) -> str:
    """The shortest text that `read_quantity` reads as the same value."""
    if not isfinite(value):
        return str(value)
    if unit == "bytes":
        for name, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"{value // size:.0f}{name}"
        return f"{value:.0f}"
    if unit == "milliseconds":
        value = value / 1000
    for name, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if value >= seconds and value % seconds == 0:
            return f"{value / seconds:.0f}{name}"
    if value and value < 1 and round(value * 1000, 9) == round(value * 1000):
        return f"{value * 1000:.0f}ms"
    return f"{value!r}s" if value else "0s"
