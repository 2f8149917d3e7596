"""What is asked of an origin: one GET, for each hop of a fetch."""

import re
from collections.abc import Iterator
from typing import Final

import attrs
import httpcore2

from eventmesh_trio.abc import Validators
from eventmesh_trio.errors import BlockedAddress
from eventmesh_trio.pipeline.fetching.body import BodyLimits
from eventmesh_trio.pipeline.fetching.codings import ACCEPT_ENCODING
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = ["Ask", "RequestNotProcessed", "make_request", "parse_target"]

_ACCEPT_LANGUAGE: Final = b"en;q=0.9,*;q=0.8"
_SENDABLE: Final = re.compile(
    r"[\x21-\x7e\x80-\xff](?:[ \x21-\x7e\x80-\xff]{0,1022}[\x21-\x7e\x80-\xff])?"
)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class RequestNotProcessed(httpcore2.RemoteProtocolError):
    """The origin says that it has not looked at the request: it may be sent again.

    Source: RFC 9113, section 8.7.
    """


@attrs.frozen
class Ask:
    """What is asked of every hop."""

    user_agent: str
    accept: bytes
    body: BodyLimits
    max_redirects: int
    validators: Validators | None = None


def parse_target(text: str, base: URL | None = None) -> URL:
    """Parse a URL that is about to be fetched, or a redirect's target.

    Raises:
      BlockedAddress: not one that is fetched, whatever its address: `parse_url` says why.
    """
    try:
        return parse_url(text, base.href if base else None)
    except ValueError as error:
        subject = "the redirect leads to a URL that" if base else "the URL"
        raise BlockedAddress(f"{subject} {error}") from None


def make_request(url: URL, ask: Ask) -> httpcore2.Request:
    """The request for one hop."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    if url.port != _DEFAULT_PORTS[url.scheme]:
        host = f"{host}:{url.port}"
    known = ask.validators
    return httpcore2.Request(
        b"GET",
        httpcore2.URL(
            scheme=url.scheme.encode("ascii"),
            host=url.host.encode("ascii"),
            port=url.port,
            target=url.target.encode("ascii"),
        ),
        headers=[
            (b"Host", host.encode("ascii")),
            (b"User-Agent", ask.user_agent.encode("ascii")),
            (b"Accept", ask.accept),
            (b"Accept-Language", _ACCEPT_LANGUAGE),
            (b"Accept-Encoding", ACCEPT_ENCODING),
            *(_conditions(known) if known is not None else ()),
        ],
        # A fully qualified name ends in a dot; certificates and servers know it without (RFC 6066).
        extensions={"sni_hostname": url.host.rstrip(".")},
    )


def _conditions(known: Validators) -> Iterator[tuple[bytes, bytes]]:
    """The fields of a conditional request. Both are sent: origins that know one ignore the other.

    What an origin sent that cannot be sent back as it is (RFC 9110, section 5.5) is left out.
    """
    for name, value in (
        (b"If-None-Match", known.etag),
        (b"If-Modified-Since", known.last_modified),
    ):
        if value and _SENDABLE.fullmatch(value):
            yield name, value.encode("latin-1")
