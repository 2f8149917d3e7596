"""URLs as browsers read them (WHATWG URL), before any judgement is made about them."""

import hashlib
import re
from typing import Final
from urllib.parse import urljoin

import attrs
import can_ada
from w3lib.url import canonicalize_url

__all__ = ["MAX_URL_CHARACTERS", "URL", "cache_key", "parse_url"]

MAX_URL_CHARACTERS: Final = 2048
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class URL:
    """A parsed http(s) URL. ``host`` is lower case and ASCII; IPv6 has no brackets."""

    href: str  # normalised, without its fragment
    scheme: str
    host: str
    port: int
    target: str  # path and query, as sent in a request line


def parse_url(text: str, base: str | None = None) -> URL:
    """Parse an absolute URL, or one relative to ``base``.

    Raises:
      ValueError: not a URL, not http or https, no host, has credentials that cannot be sent, or
        over `MAX_URL_CHARACTERS`; the message says which.
    Source: https://url.spec.whatwg.org/
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise ValueError(
            f"is {len(text)} characters long; at most {MAX_URL_CHARACTERS} are allowed"
        )
    try:
        # can-ada resolves no relative references. Where urljoin differs from WHATWG (backslashes),
        # it is the joined text that is parsed and judged here, and fetched.
        parsed = can_ada.parse(text if base is None else urljoin(base, text.replace("\\", "/")))
    except (ValueError, TypeError):  # TypeError: a lone surrogate
        raise ValueError("is not an absolute URL") from None
    scheme = parsed.protocol.rstrip(":")
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"has the scheme {scheme[:32]!r}; only http and https are fetched")
    host = parsed.hostname
    if not host:
        raise ValueError("has no host")
    port = int(parsed.port) if parsed.port else _DEFAULT_PORTS[scheme]
    target = parsed.pathname + parsed.search
    return URL(
        href=f"{scheme}://{parsed.host}{target}",
        scheme=scheme,
        host=host.strip("[]"),
        port=port,
        target=target,
    )


def cache_key(url: URL, options_key: str) -> str:
    """``crawl:v1:{host}:{slug of path, 40}:{8 hex}``; the hex is over URL and options."""
    normalised = canonicalize_url(url.href)
    digest = hashlib.sha256(f"{normalised}\n{options_key}".encode()).hexdigest()[:8]
    slug = _SLUG.sub("-", url.target.partition("?")[0].lower()).strip("-")[:40]
    return f"crawl:v1:{url.host}:{slug}:{digest}"
