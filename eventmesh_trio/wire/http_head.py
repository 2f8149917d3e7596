"""What a request's head says, judged strictly (RFC 9112, sections 2, 3 and 6; RFC 9110, 10.1.1).

h11 has parsed the head. Here is refused what h11 lets pass and servers have been attacked with: two
framings of one body, a malformed Host or target, versions and expectations that nobody knows.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import unquote

import attrs
import h11

from eventmesh_trio.errors import RemoteProtocolError

__all__ = ["Fields", "Head", "validate_head"]

Fields = Sequence[tuple[bytes, bytes]]

_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[-A-Za-z0-9._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_DIGITS: Final = re.compile(rb"[0-9]{1,19}")


@attrs.frozen
class Head:
    """A request's head, validated (RFC 9112, sections 2, 3 and 6)."""

    method: str
    path: str  # percent-decoded, always starting with "/"
    query: bytes
    fields: Fields
    http_version: Literal["1.0", "1.1"]
    content_length: int | None  # None: chunked
    wants_websocket: bool


def validate_head(request: h11.Request) -> Head:
    """Judge a head that h11 has parsed.

    Raises:
      RemoteProtocolError: 400, 417, 501 or 505.
    """
    version = _version(request)
    values: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        values.setdefault(name, []).append(value)
    _check_host(values.get(b"host", []), version)
    path, query = _split_target(request.method, request.target)
    for expectation in _tokens(values.get(b"expect", [])):
        if expectation != b"100-continue":
            raise RemoteProtocolError("the expectation is unknown", status_hint=417)
    return Head(
        method=request.method.decode("ascii"),
        path=path,
        query=query,
        fields=tuple(request.headers),
        http_version=version,
        content_length=_body_length(values, version),
        wants_websocket=(
            request.method == b"GET"
            and version == "1.1"
            and b"websocket" in _tokens(values.get(b"upgrade", []))
            and b"upgrade" in _tokens(values.get(b"connection", []))
        ),
    )


def _version(request: h11.Request) -> Literal["1.0", "1.1"]:
    major, _, minor = request.http_version.partition(b".")
    if major != b"1":
        raise RemoteProtocolError("only HTTP/1.0 and HTTP/1.1 are spoken here", status_hint=505)
    return "1.0" if minor == b"0" else "1.1"  # RFC 9110, 2.5: a higher minor is treated as ours


def _check_host(hosts: Sequence[bytes], version: str) -> None:
    if len(hosts) != 1 and (hosts or version != "1.0"):
        raise RemoteProtocolError("the request needs exactly one Host field")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise RemoteProtocolError("the Host field is malformed")


def _split_target(method: bytes, target: bytes) -> tuple[str, bytes]:
    if method == b"CONNECT":
        raise RemoteProtocolError("this server is no proxy", status_hint=501)
    if target == b"*" and method == b"OPTIONS":
        return "/", b""
    if absolute := _ABSOLUTE.fullmatch(target):
        if not absolute[1] or not _HOST.fullmatch(absolute[1]):
            raise RemoteProtocolError("the request target's authority is malformed")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if not target.startswith(b"/") or b"#" in target:
        raise RemoteProtocolError("the request target is malformed")
    path, _, query = target.partition(b"?")
    return unquote(path.decode("ascii")), query


def _body_length(values: dict[bytes, list[bytes]], version: str) -> int | None:
    codings = _tokens(values.get(b"transfer-encoding", []))
    lengths = values.get(b"content-length", [])
    if b"transfer-encoding" in values:
        if version == "1.0":
            raise RemoteProtocolError("Transfer-Encoding is not part of HTTP/1.0")
        if lengths:
            raise RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
        if codings != [b"chunked"]:
            raise RemoteProtocolError("the transfer coding is unknown", status_hint=501)
        return None
    if not lengths:
        return 0
    # h11 has merged equal lengths, and refused unequal ones.
    if len(lengths) != 1 or not _DIGITS.fullmatch(lengths[0]):
        raise RemoteProtocolError("the Content-Length field is malformed")
    return int(lengths[0])


def _tokens(values: Sequence[bytes]) -> list[bytes]:
    return [
        token.strip().lower() for value in values for token in value.split(b",") if token.strip()
    ]
