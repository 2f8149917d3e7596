"""URLs as browsers read them (WHATWG URL), before any judgement is made about them."""

import hashlib
import re
from functools import lru_cache
from typing import Final

import attrs
import can_ada

__all__ = ["MAX_URL_CHARACTERS", "URL", "cache_key", "equivalence_key", "parse_url"]

MAX_URL_CHARACTERS: Final = 2048
_SLUG: Final = re.compile(r"[^a-z0-9]+")
_NO_TAB_OR_NEWLINE: Final = str.maketrans("", "", "\t\n\r")
_C0_OR_SPACE: Final = "".join(map(chr, range(0x21)))
_PATH: Final = re.compile(r"[^?#]*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_LABEL: Final = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN: Final = re.compile(rf"https?://{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?/[A-Za-z0-9/._~-]*")
"""A parsed URL in which there is nothing to quote, to sort or to resolve."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_REMEMBERED: Final = 512
"""URLs: each is asked for seven times on its way through a crawl. At most some megabytes."""


@attrs.frozen
class URL:
    """A parsed http(s) URL. ``host`` is lower case and ASCII; IPv6 has no brackets."""

    href: str  # normalised, without its fragment
    scheme: str
    host: str
    port: int
    target: str  # path and query, as sent in a request line


@lru_cache(_REMEMBERED)
def parse_url(text: str, base: str | None = None) -> URL:
    """Parse an absolute URL, or one relative to ``base``.

    Raises:
      ValueError: not a URL, not http or https, no host, has credentials that cannot be sent, or
        over `MAX_URL_CHARACTERS`, as it is written or as it is sent; the message says which. What
        is parsed can be parsed again.
    Source: https://url.spec.whatwg.org/
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise ValueError(
            f"is {len(text)} characters long; at most {MAX_URL_CHARACTERS} are allowed"
        )
    try:
        parsed = can_ada.parse(text if base is None else _joined(base, text))
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
    href = f"{scheme}://{parsed.host}{target}"
    if len(href) > MAX_URL_CHARACTERS:  # a letter may be nine characters of percent-encoding
        raise ValueError(
            f"is {len(href)} characters long as it is sent; "
            f"at most {MAX_URL_CHARACTERS} are allowed"
        )
    return URL(
        href=href,
        scheme=scheme,
        host=host.strip("[]"),
        port=port,
        target=target,
    )


def _joined(base: str, text: str) -> str:
    """A reference as an absolute URL, not normalised yet; can-ada resolves none.

    `urllib.parse.urljoin` does not do here: to the standard backslashes are slashes up to the
    query, and any number of them from two on begins a host.
    """
    text = text.translate(_NO_TAB_OR_NEWLINE).strip(_C0_OR_SPACE)
    found = _PATH.match(text)
    assert found is not None  # it matches what is empty, too
    path, rest = found[0].replace("\\", "/"), text[found.end() :]
    under = can_ada.parse(base)
    if (scheme := _SCHEME.match(path)) is not None:
        if scheme[0].lower() != under.protocol or path.startswith("//", scheme.end()):
            return path + rest
        path = path[scheme.end() :]  # one of the base's scheme without "//" is relative
    if path.startswith("//"):
        return f"{under.protocol}{path}{rest}"
    root = f"{under.protocol}//{under.host}"
    if path.startswith("/"):
        return f"{root}{path}{rest}"
    if path:
        folder = under.pathname.rpartition("/")[0]
        return f"{root}{folder}/{path}{rest}"
    return f"{root}{under.pathname}{rest if rest.startswith('?') else under.search}"


def equivalence_key(url: URL) -> str:
    """What two URLs have in common that name the same page: one of them is enough to fetch.

    WHATWG parsing leaves percent-encodings as they are; "%c3" is "%C3" all the same, and "%7E" "~".
    Source: RFC 3986, sections 6.2.2.1 and 6.2.2.2.
    """
    return _PERCENT.sub(_one_spelling, url.href)


def _one_spelling(encoded: re.Match[str]) -> str:
    character = chr(int(encoded[1], 16))
    return character if character in _UNRESERVED else encoded[0].upper()


def _canonical(url: URL) -> str:
    """What `w3lib.url.canonicalize_url` makes of a URL."""
    if _PLAIN.fullmatch(url.href) and "xn--" not in url.host and "/." not in url.target:
        return url.href  # in a tenth of its time, which in the middle of a crawl is 0.08 ms
    # Here: it loads an HTTP client and a parser of mails, which an extraction process never needs.
    from w3lib.url import canonicalize_url  # noqa: PLC0415

    return canonicalize_url(url.href)


def cache_key(url: URL, options_key: str) -> str:
    """``crawl:v1:{host}:{slug of path, 40}:{8 hex}``; the hex is over URL and options."""
    digest = hashlib.sha256(f"{_canonical(url)}\n{options_key}".encode()).hexdigest()[:8]
    slug = _SLUG.sub("-", url.target.partition("?")[0].lower()).strip("-")[:40]
    return f"crawl:v1:{url.host}:{slug}:{digest}"
