"""How long a document may be used without asking its origin, as its response says (RFC 9111).

We are a shared cache: one client's document serves another. So what is ``private`` is not kept, and
``s-maxage`` counts before ``max-age``. `Vary` is no part of the key: all that we send that an
answer could vary with is either the same in every request (``Accept``, ``Accept-Language``,
``Accept-Encoding``, no cookies, no credentials) or in the key already (``User-Agent``). A stale
document is never served because its origin fails: the failure is the result
(``stale-if-error`` and ``stale-while-revalidate``, RFC 5861, are not used).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from eventmesh_trio.abc import CacheEntry, Extraction, Fields, Page, Validators
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.wire.http_dates import parse_http_date

__all__ = ["confirmed", "entry_of", "freshness_of", "is_confirmation", "may_be_kept"]

_HEURISTIC_SHARE: Final = 0.1  # of the time since the last change (RFC 9111, 4.2.2)
_MAX_DELTA_SECONDS: Final = 2**31  # what a larger number means (RFC 9111, 1.2.2)
# Possessive throughout: what an origin sends must not make us look at it again and again.
_UP_TO_COMMA: Final = re.compile(r'(?:[^,"]++|"(?:[^"\\]|\\.)*+")*+')  # or to a quote left open
_DIRECTIVE: Final = re.compile(
    r"""\s*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)\s*+(?:=\s*+("(?:[^"\\]|\\.)*+"|[^\s,"]*+))?+"""
)
_KEPT_FIELDS: Final = frozenset(
    {b"cache-control", b"expires", b"date", b"age", b"etag", b"last-modified", b"vary"}
)
_OF_ONE_RESPONSE: Final = frozenset({b"date", b"age"})  # never carried over to the next one
_MAX_FIELD_BYTES: Final = 8192  # a validator that is longer is not worth its place
_DELTA: Final = re.compile(r"[0-9]+")
_KEPT_UNASKED: Final = frozenset({200, 203, 204})  # of 2xx; RFC 9110, section 15.1
_PARTIAL: Final = 206
_FORBIDDING: Final = frozenset({"no-store", "private"})
_SAYS_SO: Final = frozenset({"public", "max-age", "s-maxage"})


def may_be_kept(status: int, fields: Fields) -> bool:
    """Whether a shared cache may keep a response at all (RFC 9111, section 3).

    The qualified forms of ``private`` count as the plain one, as most caches have it. A part of a
    document, which nobody asked for, is never kept (section 3.3); a status that says nothing of
    the document (202: "not yet") only where the response says for how long it is good.
    """
    directives = _cache_control(fields)
    if "private" in directives or status == _PARTIAL:
        return False
    if "no-store" in directives:
        return "must-understand" in directives and status == 200  # a status that we do understand
    if status in _KEPT_UNASKED or not _SAYS_SO.isdisjoint(directives):
        return True
    return any(name == b"expires" for name, _ in fields)


def freshness_of(fields: Fields, now: float, limits: CacheLimits) -> float:
    """Until when a response that came ``now`` is fresh, in seconds since the epoch.

    By the first of ``s-maxage``, ``max-age``, ``Expires``, and a tenth of the time since
    ``Last-Modified``; a value that cannot be read is no time at all. Less its age, and within the
    operator's limits. Without any of them it is ``default_fresh_seconds``, whatever the age.
    """
    seconds = _seconds_left(fields, now)
    if seconds is None:
        seconds = limits.default_fresh_seconds
    return now + min(max(seconds, limits.min_fresh_seconds), limits.max_fresh_seconds)


def entry_of(extraction: Extraction, page: Page, now: float, limits: CacheLimits) -> CacheEntry:
    """What to keep of a page that has been read.

    A page that a browser has built has no validators: what they say is true of the page's source
    alone, not of what its scripts bring.
    """
    fields = _worth_keeping(page.fields)
    return CacheEntry(
        extraction=extraction,
        status=page.status,
        final_url=page.final_url,
        stored_at=now,
        fresh_until=_fresh_until(fields, page, now, limits),
        validators=None if page.rendered else _validators(page.final_url, fields),
        fields=fields,
    )


def is_confirmation(page: Page, validators: Validators) -> bool:
    """Whether a response says that the document with these validators has not changed.

    It does not where it names another version, or comes from elsewhere (RFC 9111, 4.3.4).
    """
    if page.status != 304 or page.final_url != validators.url:
        return False
    etag = _last(page.fields, b"etag")
    if etag is None or validators.etag is None:
        return True
    return _weak(etag) == _weak(validators.etag)


def confirmed(entry: CacheEntry, page: Page, now: float, limits: CacheLimits) -> CacheEntry:
    """The entry as its confirmation leaves it: fields of the 304 replace those of their names."""
    newer = _worth_keeping(page.fields)
    named = {name for name, _ in newer} | _OF_ONE_RESPONSE
    fields = (*(field for field in entry.fields if field[0] not in named), *newer)
    return attrs.evolve(
        entry,
        stored_at=now,
        fresh_until=_fresh_until(fields, page, now, limits),
        validators=_validators(entry.final_url, fields),
        fields=fields,
    )


# --- Times ----------------------------------------------------------------------------------------


def _fresh_until(fields: Fields, page: Page, now: float, limits: CacheLimits) -> float:
    """Until when a document is fresh that ``page`` led to.

    It is kept under the address that was asked for, so a redirect on the way that may lead
    elsewhere tomorrow counts as well: by the same rules, and one that is not to be kept at once
    (RFC 9110, section 15.4.3).
    """
    least = now + limits.min_fresh_seconds
    until = freshness_of(fields, now, limits)
    for detour in page.detours:
        forbids = not _FORBIDDING.isdisjoint(_cache_control(detour))
        until = min(until, least if forbids else freshness_of(detour, now, limits))
    return until


def _seconds_left(fields: Fields, now: float) -> float | None:
    """How long it is fresh from now on, by what the response says; None where it says nothing."""
    directives = _cache_control(fields)
    vary = ",".join(_values(fields, b"vary"))
    if "no-cache" in directives or "*" in (name.strip() for name in vary.split(",")):
        return 0.0
    lifetime = _lifetime(directives, fields, now)
    return None if lifetime is None else max(lifetime - _age(fields, now), 0.0)


def _lifetime(directives: Mapping[str, str], fields: Fields, now: float) -> float | None:
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return _delta(directives[name]) or 0.0
    date = parse_http_date(_last(fields, b"date"))
    if date is None:
        date = now
    expires = next((value for name, value in fields if name == b"expires"), None)
    if expires is not None:  # of two the first, as of directives
        until = parse_http_date(expires)
        return 0.0 if until is None else until - date  # "0" and the like are in the past
    modified = parse_http_date(_last(fields, b"last-modified"))
    if modified is None:
        return None
    return max(date - modified, 0.0) * _HEURISTIC_SHARE


def _age(fields: Fields, now: float) -> float:
    """How old a response was when it came (RFC 9111, 4.2.3)."""
    date = parse_http_date(_last(fields, b"date"))
    apparent = 0.0 if date is None else max(now - date, 0.0)
    told = next(
        (_delta(value.partition(",")[0].strip()) for value in _values(fields, b"age")), None
    )
    return max(apparent, told or 0.0)


def _delta(text: str) -> float | None:
    if not _DELTA.fullmatch(text):
        return None
    # Python refuses to read some thousand digits; nobody means them.
    return float(_MAX_DELTA_SECONDS if len(text) > 10 else min(int(text), _MAX_DELTA_SECONDS))


# --- Fields ---------------------------------------------------------------------------------------


def _cache_control(fields: Fields) -> Mapping[str, str]:
    """The directives by lower-case name; of two of one name the first (RFC 9111, 4.2.1)."""
    found: dict[str, str] = {}
    for value in _values(fields, b"cache-control"):
        for member in _members(value):
            if directive := _DIRECTIVE.match(member):
                name, argument = directive.groups("")
                found.setdefault(name.lower(), argument.strip('"'))
    return found


def _members(value: str) -> Iterator[str]:
    """The members of a list, a comma in quotes being part of one; linear in its length."""
    at = 0
    while at <= len(value):
        found = _UP_TO_COMMA.match(value, at)
        assert found is not None  # it matches what is empty, too
        if value.startswith('"', found.end()):  # nothing closes it: it quotes nothing
            yield from value[at:].split(",")
            return
        yield found[0]
        at = found.end() + 1


def _worth_keeping(fields: Fields) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (bytes(name), bytes(value))
        for name, value in fields
        if name in _KEPT_FIELDS and len(value) <= _MAX_FIELD_BYTES
    )


def _validators(url: str, fields: Fields) -> Validators | None:
    etag, modified = _last(fields, b"etag"), _last(fields, b"last-modified")
    if etag is None and modified is None:
        return None
    return Validators(
        url=url,
        etag=None if etag is None else etag.decode("latin-1"),
        last_modified=None if modified is None else modified.decode("latin-1"),
    )


def _weak(etag: bytes | str) -> str:
    text = etag if isinstance(etag, str) else etag.decode("latin-1")
    return text.strip().removeprefix("W/")


def _values(fields: Fields, name: bytes) -> Iterable[str]:
    return (value.decode("latin-1").strip() for key, value in fields if key == name)


def _last(fields: Fields, name: bytes) -> bytes | None:
    return next((value for key, value in reversed(fields) if key == name), None)
