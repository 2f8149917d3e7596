"""Dates as pages write them, read into RFC 3339 or ``YYYY-MM-DD``."""

import re
from datetime import UTC, date, datetime
from typing import Final

__all__ = ["parse_date", "url_date"]

_ISO: Final = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"
    r"(?:[T\s]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?",
    re.IGNORECASE,
)
_COMPACT: Final = re.compile(r"\b((?:19|20)\d{2})(\d{2})(\d{2})(?:T\d{4,6}Z?)?\b")
_EPOCH: Final = re.compile(r"\s*(1\d{9})(?:\d{3})?\s*")
_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar janvier enero janeiro gennaio januari января styczeń stycznia",
            "feb february februar février fevrier febrero fevereiro febbraio februari февраля lutego",  # noqa: E501
            "mar march märz maerz mars marzo março marco maart марта marca",
            "apr april avril abril aprile апреля kwietnia",
            "may mai mayo maio maggio mei мая maja maj",
            "jun june juni juin junio junho giugno июня czerwca",
            "jul july juli juillet julio julho luglio июля lipca",
            "aug august août aout agosto augustus augusti августа sierpnia",
            "sep sept september septembre septiembre setembro settembre сентября września",
            "oct october oktober octobre octubre outubro ottobre okt октября października",
            "nov november novembre noviembre novembro ноября listopada",
            "dec december dezember décembre decembre diciembre dezembro dicembre dez декабря grudnia",  # noqa: E501
        ),
        1,
    )
    for name in names.split()
}
_DAY_FIRST: Final = re.compile(
    r"\b(\d{1,2})(?:st|nd|rd|th|\.|º)?\s+(?:de\s+)?([^\W\d_]{3,12})\.?,?\s+(?:de\s+)?(\d{4})\b"
)
_MONTH_FIRST: Final = re.compile(r"\b([^\W\d_]{3,12})\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})\b")
_CJK: Final = re.compile(r"(\d{4})\s*[年년]\s*(\d{1,2})\s*[月월]\s*(\d{1,2})\s*[日일]")
_URL: Final = re.compile(r"/((?:19|20)\d{2})[/-](\d{1,2})[/-](\d{1,2})(?:[/-]|$)")
_EARLIEST_YEAR: Final = 1980


def parse_date(text: str | None) -> str | None:
    """The first date in a short text, or None. A time is kept only where its offset is known.

    ``03/04/2020`` is not read: nothing says which of the two is the month.
    """
    if not text:
        return None
    text = text[:200]
    if match := _ISO.search(text):
        return _checked(match[1], match[2], match[3], match[4], match[5], match[6], match[7])
    if match := _CJK.search(text):
        return _checked(match[1], match[2], match[3])
    for pattern, day, month in ((_DAY_FIRST, 1, 2), (_MONTH_FIRST, 2, 1)):
        for match in pattern.finditer(text):
            number = _MONTHS.get(match[month].lower())
            if number is not None:
                return _checked(match[3], str(number), match[day])
    if match := _COMPACT.search(text):
        return _checked(match[1], match[2], match[3])
    if match := _EPOCH.fullmatch(text):
        return datetime.fromtimestamp(int(match[1]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return None


def url_date(url: str | None) -> str | None:
    """The date in a path like ``/2020/05/17/title``."""
    match = _URL.search(url) if url else None
    return _checked(match[1], match[2], match[3]) if match else None


def _checked(
    year: str,
    month: str,
    day: str,
    hour: str | None = None,
    minute: str | None = None,
    second: str | None = None,
    offset: str | None = None,
) -> str | None:
    try:
        found = date(int(year), int(month), int(day))
        if not _EARLIEST_YEAR <= found.year <= 2100:
            return None
        if hour is None or offset is None:
            return found.isoformat()
        moment = datetime(
            found.year, found.month, found.day, int(hour), int(minute or 0), int(second or 0)
        )
    except ValueError:
        return None
    zone = offset.upper()
    zone = "Z" if zone in ("Z", "UTC", "GMT") else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    if zone != "Z" and (int(zone[1:3]) > 23 or int(zone[4:6]) > 59):
        return found.isoformat()
    return moment.isoformat() + zone
