"""What clients ask for, read from untrusted JSON (``docs/wire.rst``).

Unknown members are ignored; a wrong type or value raises `ValidationError` naming its member.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.urls import parse_url

__all__ = [
    "CacheMode",
    "CrawlOptions",
    "CrawlRequest",
    "DeepSearchRequest",
    "ExtractMode",
    "RenderMode",
    "parse_crawl_request",
    "parse_deepsearch_request",
]

CacheMode = Literal["read_write", "read_only", "write_only", "disabled"]
ExtractMode = Literal["article", "full", "metadata", "raw"]
RenderMode = Literal["static", "adaptive", "dynamic"]

_CACHE_MODES: Final[Mapping[str, CacheMode]] = {
    "read_write": "read_write",
    "enabled": "read_write",
    "read_through": "read_write",
    "read_only": "read_only",
    "read": "read_only",
    "write_only": "write_only",
    "write": "write_only",
    "write_through": "write_only",
    "refresh": "write_only",
    "disabled": "disabled",
    "none": "disabled",
    "off": "disabled",
    "bypass": "disabled",
}
_TIMEOUT_UNITS: Final = {  # units in a second
    "timeout_seconds": 1,
    "timeout": 1,
    "timeout_secs": 1,
    "timeout_ms": 1000,
}
T = TypeVar("T")
# In the words of both Python and ECMAScript, for openapi.json; a "$" alone lets a last LF pass.
_PRINTABLE: Final = r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?(?!\n)$"
_COUNTRY: Final = r"^[A-Za-z]{2}(?!\n)$"
_LOCALE: Final = r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,2}(?!\n)$"
_PATTERNS: Final = (  # what is said of one that does not match; the pattern would be shown escaped
    (_PRINTABLE, "only printable ASCII characters are allowed, and no space at either end"),
    (_COUNTRY, "a country has two letters, such as DE"),
    (_LOCALE, "a locale is a language, with a region or not: de, pt-BR"),
)
_PATH: Final = re.compile(r" - at `\$\.?(.*)`$")


class CrawlOptions(Struct, frozen=True, kw_only=True):
    """How a run crawls; each member's default is the server's answer to silence."""

    concurrency: Annotated[int, Meta(ge=1, le=64)] = 5
    cache_mode: CacheMode = "read_write"
    timeout_seconds: Annotated[float, Meta(ge=0.1, le=300)] = 30.0
    run_timeout_seconds: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    extract_mode: ExtractMode = "article"
    render_mode: RenderMode = "adaptive"
    dynamic_wait_for: Annotated[str, Meta(max_length=1024)] | None = None
    scroll_steps: Annotated[int, Meta(ge=0, le=100)] = 0
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 3
    respect_robots: bool = True
    user_agent: Annotated[str, Meta(min_length=1, max_length=512, pattern=_PRINTABLE)] | None = None
    max_text_chars: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None

    @property
    def extraction_key(self) -> str:
        """What of the options changes a document: a part of its cache key."""
        return encode_json(
            (
                self.extract_mode,
                self.render_mode,
                self.dynamic_wait_for,
                self.scroll_steps,
                self.max_text_chars,
                self.user_agent,
            )
        ).decode()


class CrawlRequest(Struct, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    options: CrawlOptions = CrawlOptions()


class DeepSearchRequest(Struct, frozen=True, kw_only=True):
    """``country`` is of ISO 3166-1 (``DE``), ``locale`` of BCP 47 (``de``, ``pt-BR``)."""

    query: Annotated[str, Meta(min_length=1, max_length=1000)]
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    include_content: bool = True
    country: Annotated[str, Meta(max_length=8, pattern=_COUNTRY)] | None = None
    locale: Annotated[str, Meta(max_length=16, pattern=_LOCALE)] | None = None
    crawl_options: CrawlOptions = CrawlOptions()


def parse_crawl_request(body: Any, *, max_urls: int, concurrency: int = 5) -> CrawlRequest:
    """Read a decoded JSON body: ``{"urls": [...], "options": {...}}``.

    Args:
      concurrency: that of a request which does not say.
    Raises:
      ValidationError: naming the member; a URL by its index (``urls[3]``).
    """
    members = _object(body, "")
    if "urls" not in members:
        raise ValidationError("urls is missing: send a list of absolute URLs", field="urls")
    urls = members["urls"]
    if not isinstance(urls, list):
        raise ValidationError("urls must be a list of absolute URLs", field="urls")
    if not 1 <= len(urls) <= max_urls:
        raise ValidationError(
            f"urls has {len(urls)} entries; allowed are 1 to {max_urls}", field="urls"
        )
    for index, url in enumerate(urls):
        name = f"urls[{index}]"
        if not isinstance(url, str):
            raise ValidationError(f"{name} is not a string", field=name)
        try:
            parse_url(url)
        except ValueError as error:
            raise ValidationError(f"{name} {error}", field=name) from None
    options = parse_options(members.get("options"), "options", concurrency=concurrency)
    return CrawlRequest(urls=tuple(urls), options=options)


def parse_deepsearch_request(body: Any, *, concurrency: int = 5) -> DeepSearchRequest:
    """Read ``{"query", "limit", "include_content", "country", "locale", "crawl_options"}``.

    Args:
      concurrency: that of a request which does not say.
    Raises:
      ValidationError: naming the member.
    """
    members = dict(_object(body, ""))
    if "query" not in members:
        raise ValidationError("query is missing: send what to search for", field="query")
    options = parse_options(
        members.pop("crawl_options", None), "crawl_options", concurrency=concurrency
    )
    request = _convert(members, DeepSearchRequest, "")
    if not request.query.strip():
        raise ValidationError("query is blank: send what to search for", field="query")
    return msgspec.structs.replace(request, crawl_options=options)


def parse_options(options: Any, name: str, *, concurrency: int = 5) -> CrawlOptions:
    """Read ``options`` with the spellings that clients use for them; None is all defaults."""
    if options is None:
        return CrawlOptions(concurrency=concurrency)
    members = dict(_object(options, name))
    mode = members.get("cache_mode")
    if isinstance(mode, str):
        members["cache_mode"] = _CACHE_MODES.get(mode.lower(), mode)
    for key in ("render_mode", "extract_mode"):
        if isinstance(members.get(key), str):
            members[key] = members[key].lower()
    if (skip := members.pop("skip_extraction", None)) is not None:
        if not isinstance(skip, bool):
            raise ValidationError(
                f"{name}.skip_extraction must be true or false", field=f"{name}.skip_extraction"
            )
        if skip:
            members["extract_mode"] = "raw"
    members.setdefault("concurrency", concurrency)
    _unify_timeouts(members, name)
    return _convert(members, CrawlOptions, name)


def _unify_timeouts(members: dict[str, Any], name: str) -> None:
    found: dict[str, float] = {}
    for key, units in _TIMEOUT_UNITS.items():
        value = members.pop(key, None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValidationError(f"{name}.{key} must be a number", field=f"{name}.{key}")
        if not 0.1 * units <= value <= 300 * units:
            raise ValidationError(
                f"{name}.{key} is out of range: 0.1 to 300 seconds", field=f"{name}.{key}"
            )
        found[key] = value / units
    if len(set(found.values())) > 1:
        keys = " and ".join(found)
        raise ValidationError(
            f"{name}: {keys} differ; send one", field=f"{name}.{next(iter(found))}"
        )
    if found:
        members["timeout_seconds"] = next(iter(found.values()))


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValidationError(f"{name or 'the body'} must be a JSON object", field=name or None)
    return value


def _convert(members: Mapping[str, Any], target: type[T], name: str) -> T:
    try:
        return msgspec.convert(members, target)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        path = found[1] if found else ""
        field = ".".join(part for part in (name, path) if part)
        reason = text[: found.start()] if found else text
        if "matching regex" in reason:
            reason = next(
                (said for regex, said in _PATTERNS if repr(regex) in reason), _PATTERNS[0][1]
            )
        raise ValidationError(f"{field or 'the body'}: {reason}", field=field or None) from None
