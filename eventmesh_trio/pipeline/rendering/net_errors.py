"""What Chromium's network errors (``net/base/net_error_list.h``) are to a reader of results."""

from typing import Final

from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    PageError,
    RenderFailure,
    TLSFailure,
    TooManyRedirects,
)

__all__ = ["error_of"]

_NETWORK: Final = (
    *("ADDRESS_", "CONNECTION_", "CONTENT_", "EMPTY_RESPONSE", "HTTP2_", "INCOMPLETE_", "INVALID_"),
    *("INTERNET_DISCONNECTED", "NETWORK_", "PROXY_", "RESPONSE_", "SOCKET_", "TUNNEL_", "HTTP_"),
    "UNEXPECTED_",
)
_PREFIX: Final = "net::ERR_"


def error_of(text: str) -> PageError:
    """The error for a navigation that ended with such a text (``net::ERR_CONNECTION_RESET``)."""
    name = text.removeprefix(_PREFIX)
    context = {"browser_error": text[:80]}
    if name.startswith(("CERT_", "SSL_", "BAD_SSL_", "ECH_")):
        return TLSFailure("the browser does not accept the origin's certificate", context=context)
    if name.startswith(("NAME_", "DNS_", "ICANN_")):
        return DNSError("the host name has no address", context=context)
    if "TIMED_OUT" in name:
        return FetchTimeout("the origin did not answer the browser in time", context=context)
    if name == "TOO_MANY_REDIRECTS":
        return TooManyRedirects("the redirects lead in a circle", context=context)
    if name in ("UNSAFE_PORT", "UNKNOWN_URL_SCHEME", "DISALLOWED_URL_SCHEME", "UNSAFE_REDIRECT"):
        return BlockedAddress("the page leads to a URL that is not fetched", context=context)
    if name.startswith(_NETWORK):
        return NetworkFailure("the browser could not get the page", context=context)
    return RenderFailure("the browser could not load the page", context=context)
