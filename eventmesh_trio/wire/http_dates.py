"""Dates, and the waits that may be given as dates, as fields of HTTP have them."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache

__all__ = ["parse_http_date", "parse_retry_after"]

_MAX_DIGITS = 9  # thirty years; nobody means more
_MAX_REMEMBERED_BYTES = 64  # of one; a date that is written as it should be has 29
_REMEMBERED = 256
"""Dates: all responses of a second have the same, and it is read twice of each."""


def parse_http_date(value: bytes | None) -> float | None:
    """Seconds since the epoch; None where there is no date, or nothing that can be read as one.

    Source: RFC 9110, section 5.6.7.
    """
    if value is None:
        return None
    return _remembered(value) if len(value) <= _MAX_REMEMBERED_BYTES else _parse(value)


def _parse(value: bytes) -> float | None:
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        # The form of asctime() names no zone, and means GMT.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


_remembered = lru_cache(_REMEMBERED)(_parse)


def parse_retry_after(value: bytes | None, now: float) -> float | None:
    """The seconds to wait that a ``Retry-After`` asks for; None where it does not say clearly.

    Args:
      now: seconds since the epoch, for a date; one that has passed asks for no wait.
    Source: RFC 9110, section 10.2.3: seconds, or a date.
    """
    text = (value or b"").strip()
    if text.isdigit():
        return float(text[:_MAX_DIGITS])
    moment = parse_http_date(text)
    return None if moment is None else max(0.0, moment - now)
