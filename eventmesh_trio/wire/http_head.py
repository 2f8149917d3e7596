"""What a request's head says, judged strictly (RFC 9112, sections 2, 3 and 6; RFC 9110).

h11 parses the head. Here is refused what h11 lets pass and servers have been attacked with: two
framings of one body, control characters, a malformed Host or target, versions and expectations that
nobody knows. `check_raw_head` comes before h11, `validate_head` after it.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Final, Literal
from urllib.parse import unquote

import attrs
import h11

from eventmesh_trio.errors import RemoteProtocolError

__all__ = ["Fields", "Head", "check_raw_head", "decode_path", "validate_head"]

Fields = Sequence[tuple[bytes, bytes]]

_MAX_PORT: Final = 65_535
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TRANSFER_ENCODING: Final = re.compile(rb"\r\nTransfer-Encoding:([^\r]*)", re.IGNORECASE)
# Of more digits than any body has bytes; h11 would call it malformed, which it is not.
_ENDLESS: Final = re.compile(rb"\r\nContent-Length:[ \t]*0*[1-9][0-9]{18,}[ \t]*\r", re.IGNORECASE)
_REG_NAME: Final = rb"(?:[-A-Za-z0-9._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*"
_AUTHORITY: Final = re.compile(
    rb"(?:\[(?:([0-9A-Fa-f:.]+)|v[0-9A-Fa-f]+\.[-A-Za-z0-9._~!$&'()*+,;=:]+)\]|"
    + _REG_NAME
    + rb")(?::([0-9]{0,5}))?"
)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_BROKEN_TRIPLET: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH: Final = re.compile(rb"%(2[Ff])")


@attrs.frozen
class Head:
    """A request's head, validated (RFC 9112, sections 2, 3 and 6)."""

    method: str
    path: str  # by `decode_path`, starting with "/"; "*" where OPTIONS means the whole server
    query: bytes
    fields: Fields
    http_version: Literal["1.0", "1.1"]
    content_length: int | None  # None: chunked
    wants_websocket: bool


def check_raw_head(raw: bytes) -> bytes:
    """Judge a whole head whose line ends were checked, and return it as h11 is to see it.

    Raises:
      RemoteProtocolError: 400, 413 or 501.
    """
    if _CONTROL.search(raw):
        raise RemoteProtocolError("the request's head contains a control character")
    if _ENDLESS.search(raw):
        raise RemoteProtocolError("the request body is too large", status_hint=413)
    if values := _TRANSFER_ENCODING.findall(raw):
        _check_transfer_codings(_tokens(values))
        if values != [b" chunked"]:  # empty list members, which RFC 9110, 5.6.1 has us ignore
            raw = _TRANSFER_ENCODING.sub(b"", raw)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    return raw


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
    content_length = _body_length(values, version)
    authority, path, query = _split_target(request.method, request.target)
    fields = tuple(request.headers)
    if authority is not None:
        # RFC 9112, 3.2.2: the Host field that came with an absolute target is ignored.
        fields = (*(field for field in fields if field[0] != b"host"), (b"host", authority))
    for expectation in _tokens(values.get(b"expect", [])):
        if expectation != b"100-continue":
            raise RemoteProtocolError("the expectation is unknown", status_hint=417)
    return Head(
        method=request.method.decode("ascii"),
        path=path,
        query=query,
        fields=fields,
        http_version=version,
        content_length=content_length,
        wants_websocket=(
            request.method == b"GET"
            and version == "1.1"
            # RFC 9110, 7.8: an Upgrade may be ignored. Beside content it is: nobody could tell the
            # content from the first frames.
            and content_length == 0
            and b"websocket" in _tokens(values.get(b"upgrade", []))
            and b"upgrade" in _tokens(values.get(b"connection", []))
        ),
    )


def decode_path(raw: bytes) -> str:
    """Percent-decode a path, but for an encoded "/": it separates nothing (RFC 3986, 2.2)."""
    if b"%" not in raw:
        return raw.decode("latin-1")
    return unquote(_ENCODED_SLASH.sub(rb"%25\1", raw).decode("latin-1"))


def _version(request: h11.Request) -> Literal["1.0", "1.1"]:
    major, _, minor = request.http_version.partition(b".")
    if major != b"1":
        raise RemoteProtocolError("only HTTP/1.0 and HTTP/1.1 are spoken here", status_hint=505)
    return "1.0" if minor == b"0" else "1.1"  # RFC 9110, 2.5: a higher minor is treated as ours


def _check_host(hosts: Sequence[bytes], version: str) -> None:
    if len(hosts) != 1 and (hosts or version != "1.0"):
        raise RemoteProtocolError("the request needs exactly one Host field")
    if hosts and not _is_authority(hosts[0]):
        raise RemoteProtocolError("the Host field is malformed")


def _is_authority(value: bytes) -> bool:
    """Whether it is ``uri-host [":" port]`` (RFC 9110, 7.2); the host may be empty."""
    found = _AUTHORITY.fullmatch(value)
    if found is None or int(found[2] or 0) > _MAX_PORT:
        return False
    if found[1] is not None:
        try:
            IPv6Address(found[1].decode("ascii"))
        except ValueError:
            return False
    return True


def _split_target(method: bytes, target: bytes) -> tuple[bytes | None, str, bytes]:
    """The authority that an absolute target names, the path and the query (RFC 9112, 3.2)."""
    authority: bytes | None = None
    if method == b"CONNECT":
        host, _, port = target.rpartition(b":")
        if not host or not port or not _is_authority(target):
            raise RemoteProtocolError("the request target is malformed")
        raise RemoteProtocolError("this server is no proxy", status_hint=501)
    if not target.startswith(b"/") and (absolute := _ABSOLUTE.fullmatch(target)):
        authority, target = absolute[1], absolute[2]
        if authority[:1] in (b"", b":") or not _is_authority(authority):
            raise RemoteProtocolError("the request target's authority is malformed")
        if not target and method == b"OPTIONS":
            target = b"*"
        elif not target.startswith(b"/"):
            target = b"/" + target
    if target == b"*" and method == b"OPTIONS":
        return authority, "*", b""
    raw_path, _, query = target.partition(b"?")
    # A query is not judged: browsers send a "%" in it as it was typed.
    if not target.startswith(b"/") or b"#" in target or _BROKEN_TRIPLET.search(raw_path):
        raise RemoteProtocolError("the request target is malformed")
    return authority, decode_path(raw_path), query


def _check_transfer_codings(codings: Sequence[bytes]) -> None:
    """RFC 9112, 6.1 and 6.3: 400 where the body's end is in doubt, else 501 for what is unknown."""
    if not codings or codings[-1] != b"chunked":
        raise RemoteProtocolError("chunked is not the last transfer coding")
    if b"chunked" in codings[:-1]:
        raise RemoteProtocolError("the transfer coding chunked is named twice")
    if len(codings) > 1:
        raise RemoteProtocolError("the transfer coding is unknown", status_hint=501)


def _body_length(values: dict[bytes, list[bytes]], version: str) -> int | None:
    lengths = values.get(b"content-length", [])
    if b"transfer-encoding" in values:
        if version == "1.0":
            raise RemoteProtocolError("Transfer-Encoding is not part of HTTP/1.0")
        if lengths:
            raise RemoteProtocolError("Content-Length and Transfer-Encoding exclude each other")
        return None
    # h11 has seen to it that they are digits, has merged equal ones, and refused unequal ones.
    return int(lengths[0]) if lengths else 0


def _tokens(values: Sequence[bytes]) -> list[bytes]:
    return [
        token.strip().lower() for value in values for token in value.split(b",") if token.strip()
    ]
