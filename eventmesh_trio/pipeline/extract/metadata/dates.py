"""Dates as pages write them, read into RFC 3339 or ``YYYY-MM-DD``."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final

__all__ = ["is_day_first", "local_form", "parse_date", "url_date"]

_DIGITS: Final = re.compile(r"\d\D*+\d\D*+\d\D*+\d")
"""No date of those below is written with fewer, or could not be read without doubt."""
_ISO: Final = re.compile(
    r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"
    r"(?:[T\s]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?",
    re.IGNORECASE,
)
_COMPACT: Final = re.compile(r"\b((?:19|20)\d{2})(\d{2})(\d{2})(?:T\d{4,6}Z?)?\b")
_EPOCH: Final = re.compile(r"\s*(1\d{9})(?:\d{3})?\s*")
_MONTH_WORDS: Final = """
    jan january januar janvier enero janeiro gennaio januari января styczeń stycznia ocak ledna
        січня يناير tammikuuta ιανουαρίου ianuarie
    feb february februar février fevrier febrero fevereiro febbraio februari февраля lutego şubat
        února лютого فبراير helmikuuta φεβρουαρίου februarie
    mar march märz maerz mars marzo março marco maart maret марта marca mart března березня مارس
        maaliskuuta μαρτίου martie
    apr april avril abril aprile апреля kwietnia nisan dubna квітня أبريل huhtikuuta
        απριλίου aprilie
    may mai mayo maio maggio mei мая maj maja mayıs května травня مايو toukokuuta μαΐου
    jun june juni juin junio junho giugno июня czerwca haziran června червня يونيو kesäkuuta ιουνίου
        iunie
    jul july juli juillet julio julho luglio июля lipca temmuz července липня يوليو heinäkuuta
        ιουλίου iulie
    aug august août aout agosto augustus augusti agustus августа sierpnia ağustos srpna серпня
        أغسطس elokuuta αυγούστου
    sep sept september septembre septiembre setembro settembre сентября września eylül září вересня
        سبتمبر syyskuuta σεπτεμβρίου septembrie
    oct october oktober octobre octubre outubro ottobre okt октября października ekim října жовтня
        أكتوبر lokakuuta οκτωβρίου octombrie
    nov november novembre noviembre novembro ноября listopada kasım listopadu листопада نوفمبر
        marraskuuta νοεμβρίου noiembrie
    dec december dezember décembre decembre diciembre dezembro dicembre dez desember декабря grudnia
        aralık prosince грудня ديسمبر joulukuuta δεκεμβρίου decembrie
"""
_MONTHS: Final = {
    name: number
    for number, names in enumerate(re.split(r"\n {4}(?! )", _MONTH_WORDS.rstrip())[1:], 1)
    for name in names.split()
}
_DAY_FIRST: Final = re.compile(
    r"\b(\d{1,2})(?:st|nd|rd|th|\.|º|er|-)?\s*(?:of\s+|de\s+)?([^\W\d_]{3,12})\.?,?[\s-]*(?:de\s+|del\s+)?"
    r"(\d{4})\b"
)
_MONTH_FIRST: Final = re.compile(
    r"\b([^\W\d_]{3,12})\.?\s+(\d{1,2})(?:st|nd|rd|th)?\s*,?\s+(\d{4})\b"
)
# Two digits are a year only where a time follows: "10.11.15" alone may be a version.
_DOTTED: Final = re.compile(
    r"(?<![\d.])(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4}|\d{2}(?=,?\s+\d{1,2}:\d{2}))(?![\d.]\d)"
)
_SLASHED: Final = re.compile(r"(?<![\d/])(\d{1,2})[/-](\d{1,2})[/-](\d{4})(?![\d/])")
_CJK: Final = re.compile(r"(\d{4})\s*[年년]\s*(\d{1,2})\s*[月월]\s*(\d{1,2})\s*[日일]")
_URL: Final = re.compile(
    r"/((?:19|20)\d{2})(?:([/-])(\d{1,2}|[a-z]{3})\2(\d{1,2})|(\d{2})(\d{2}))(?=[/-]|$)",
    re.IGNORECASE,
)
_MONTH_FIRST_TAGS: Final = frozenset(("en-US", "en-PH"))
_UNCERTAIN_TAGS: Final = frozenset(("en", "en-CA"))
_EARLIEST_YEAR: Final = 1980
_MAX_CHARS: Final = 200


def is_day_first(language: str | None) -> bool | None:
    """Whether readers of a language write 3/4 for the 3rd of April; None where both are usual."""
    if language is None or language in _UNCERTAIN_TAGS:
        return None
    return language not in _MONTH_FIRST_TAGS


def parse_date(text: str | None, *, day_first: bool | None = None) -> str | None:
    """The first date in a short text, or None. A time is kept only where its offset is known.

    ``03/04/2020`` is read only where ``day_first`` says which of the two is the month;
    ``23/04/2020`` leaves no doubt.
    """
    if not text:
        return None
    text = text[:_MAX_CHARS]
    # Of the short lines of a page, which are what is mostly asked for, few have so many digits.
    return _first_date(text, day_first) if _DIGITS.search(text) is not None else None


# A page has its date four times, in its head, in structured data and in its text.
@lru_cache(maxsize=512)
def _first_date(text: str, day_first: bool | None) -> str | None:
    if match := _ISO.search(text):
        return _checked(match[1], match[2], match[3], match[4], match[5], match[6], match[7])
    if match := _CJK.search(text):
        return _checked(match[1], match[2], match[3])
    for pattern, day, month in ((_DAY_FIRST, 1, 2), (_MONTH_FIRST, 2, 1)):
        for match in pattern.finditer(text):
            number = _MONTHS.get(match[month].lower())
            if number is not None:
                return _checked(match[3], str(number), match[day])
    if match := _DOTTED.search(text):  # with dots it is the day that is first, all over the world
        year = match[3] if len(match[3]) == 4 else f"20{match[3]}"
        return _checked(year, match[2], match[1])
    if match := _SLASHED.search(text):
        return _slashed(match[1], match[2], match[3], day_first)
    if match := _COMPACT.search(text):
        return _checked(match[1], match[2], match[3])
    if match := _EPOCH.fullmatch(text):
        return datetime.fromtimestamp(int(match[1]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return None


def url_date(url: str | None) -> str | None:
    """The date in a path like ``/2020/05/17/title``, ``/2020/may/17/`` or ``/20200517/``."""
    match = _URL.search(url) if url else None
    if match is None:
        return None
    month, day = match[3] or match[5], match[4] or match[6]
    number = month if month.isdigit() else str(_MONTHS.get(month.lower(), 0))
    return _checked(match[1], number, day)


def local_form(first: str, others: Iterable[str]) -> str:
    """The same moment with the publisher's own offset, where one of the others has it so.

    A moment in UTC may be of another day than the one that the page shows.
    """
    if first.endswith("Z"):
        moment = datetime.fromisoformat(first)
        for other in others:
            has_offset = len(other) > len("2020-05-17") and not other.endswith("Z")
            if has_offset and datetime.fromisoformat(other) == moment:
                return other
    return first


def _slashed(first: str, second: str, year: str, day_first: bool | None) -> str | None:
    if int(first) > 12:
        return _checked(year, second, first)
    if int(second) > 12:
        return _checked(year, first, second)
    if day_first is None:
        return _checked(year, first, second) if first == second else None
    return _checked(year, second, first) if day_first else _checked(year, first, second)


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
