"""Where a server is, read from a base URL."""

from typing import Final
from urllib.parse import quote, unquote, urlencode, urlsplit

import attrs

from eventmesh_trio.errors import ConfigError
from eventmesh_trio.wire.urls import parse_url

__all__ = ["Address", "parse_base_url"]

_UNIX: Final = "http+unix://"
_SHORT_UNIX: Final = "unix:"
_PATH: Final = "/%:@!$&'()*+,;="  # what stays as it is in a path (RFC 3986, section 3.3)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Address:
    """What to dial, and what goes before each path."""

    scheme: str  # "http" or "https"
    host: str  # IPv6 without brackets; "localhost" on a Unix socket
    port: int
    prefix: str = ""  # of every path: "" or "/..." without a final slash
    unix_path: str | None = None

    @property
    def authority(self) -> str:
        """The ``Host`` field's value (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def target(self, *segments: str, **query: str | None) -> str:
        """A request target: segments are percent-encoded, query members that are None left out."""
        path = "".join(f"/{quote(segment, safe=':')}" for segment in segments)
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self.prefix}{path}?{urlencode(given)}" if given else self.prefix + path

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"{_SHORT_UNIX}{self.unix_path}"
        return f"{self.scheme}://{self.authority}{self.prefix}"


def parse_base_url(text: str) -> Address:
    """Read ``http(s)://host[:port][/prefix]``, ``unix:/path`` or ``http+unix://%2Fpath[/prefix]``.

    Raises:
      ConfigError: none of these, or with a query or credentials.
    """
    if text.startswith(_UNIX):
        try:
            parts = urlsplit(text)
            socket_path, prefix = unquote(parts.netloc), quote(parts.path, safe=_PATH)
        except ValueError as error:
            raise ConfigError(f"the base URL {text!r} cannot be read: {error}") from None
        if parts.query or parts.fragment:
            raise ConfigError(f"the base URL {text!r} has a query or fragment")
        return _unix(text, socket_path, prefix)
    if text.startswith(_SHORT_UNIX):
        return _unix(text, text.removeprefix(_SHORT_UNIX), "")
    try:
        url = parse_url(text)
    except ValueError as error:
        raise ConfigError(f"the base URL {text!r} {error}") from None
    if "@" in text.partition("//")[2].partition("/")[0]:
        raise ConfigError(f"the base URL of {url.host} has credentials; none are sent that way")
    if "?" in url.target:
        raise ConfigError(f"the base URL {text!r} has a query")
    return Address(url.scheme, url.host, url.port, url.target.rstrip("/"))


def _unix(text: str, socket_path: str, prefix: str) -> Address:
    if not socket_path:
        raise ConfigError(f"the base URL {text!r} names no socket")
    return Address("http", "localhost", 80, prefix.rstrip("/"), socket_path)
