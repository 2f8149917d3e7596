"""Outgoing proxies: connections to judged addresses, made by the operator's own proxy.

`Tunnel` is a `eventmesh_trio.pipeline.network.dial.Connect`: it stands where a TCP connection would
be made, *after* the address was judged, and asks the proxy for a connection to that very address.
So the guard means with a proxy what it means without, and TLS and ``Host`` speak to the name as
ever. That is also why plain ``http`` is tunnelled: a forward proxy given a URL must look its host
up itself (RFC 9112, section 3.2.2), and could find another address than the one that was judged.

The proxy's own address is the operator's choice, and is not judged. Its credentials are in no
message, log line or ``repr``.
"""

import base64
import errno
import re
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address
from typing import Final, Literal, Protocol
from urllib.parse import unquote, urlsplit

import attrs
import h11
import trio

from eventmesh_trio.errors import DNSError, ProxyFailure
from eventmesh_trio.pipeline.network.guard import IPAddress, parse_address

__all__ = ["OutgoingProxy", "Tunnel", "without_credentials"]

_MAX_HEAD_BYTES: Final = 16 * 1024  # of a proxy's answer
_USERINFO: Final = re.compile(r"//[^/?#]*@")
_NOT_ALLOWED: Final = "the outgoing proxy does not allow a connection to the origin"

# RFC 1928
_SOCKS_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_USERNAME_PASSWORD: Final = 2  # RFC 1929
_SOCKS_CONNECT: Final = 1
_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_SOCKS_ERRORS: Final = {
    1: errno.EIO,
    3: errno.ENETUNREACH,
    4: errno.EHOSTUNREACH,
    5: errno.ECONNREFUSED,
    6: errno.ETIMEDOUT,
}


class _Resolver(Protocol):
    async def resolve(self, name: str) -> Sequence[IPAddress]: ...


@attrs.frozen
class OutgoingProxy:
    """Where the proxy is, what it speaks, and who we are to it."""

    scheme: Literal["http", "socks5"]
    host: str
    port: int
    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> "OutgoingProxy":
        """``http://`` or ``socks5://``, ``user:password@`` where needed, host and port.

        Raises:
          ValueError: it is none; the message does not repeat it.
        """
        try:
            split = urlsplit(text)
            port = split.port
        except ValueError:
            raise ValueError("the proxy is not a URL") from None
        if split.scheme not in ("http", "socks5"):
            raise ValueError("the proxy's URL must begin with http:// or socks5://")
        if not split.hostname or not port or split.path not in ("", "/") or split.query:
            raise ValueError("the proxy's URL must be of a host and a port, and no more")
        username, password = unquote(split.username or ""), unquote(split.password or "")
        if max(len(username.encode()), len(password.encode())) > 255 or ":" in username:
            raise ValueError("the proxy's user and password may have 255 bytes each, and no colon")
        return cls(
            "http" if split.scheme == "http" else "socks5",
            split.hostname,
            port,
            username,
            password,
        )


def without_credentials(proxy: str) -> str:
    """A proxy's URL as it may be shown: with ``***`` for user and password."""
    return _USERINFO.sub("//***@", proxy)


@attrs.define(eq=False)
class Tunnel:
    """Connects through the proxy.

    ``connect`` and ``resolver`` are for the way to the proxy itself, ``connect_seconds`` is what
    that may take. All else is bounded by whoever dials.
    """

    _proxy: OutgoingProxy
    _connect: Callable[[IPAddress, int], Awaitable[trio.abc.Stream]]
    _resolver: _Resolver
    _connect_seconds: float

    async def connect(self, address: IPAddress, port: int) -> trio.abc.Stream:
        """Connect to one judged address. Cancelled: no socket is left.

        Raises:
          ProxyFailure: the proxy is not there, is none, or refuses us or the target.
          OSError: the proxy could not connect to the target.
        """
        return await self._open(address, port)

    async def connect_name(self, name: str, port: int) -> trio.abc.Stream:
        """Connect to a name, which the proxy looks up, and nobody judges. Otherwise as
        `connect`."""
        return await self._open(name, port)

    async def _open(self, target: IPAddress | str, port: int) -> trio.abc.Stream:
        stream = await self._reach()
        try:
            if self._proxy.scheme == "http":
                await _ask_http(stream, self._proxy, target, port)
            else:
                await _ask_socks(stream, self._proxy, target, port)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)
            raise ProxyFailure("the outgoing proxy closed the connection") from None
        except BaseException:
            # Shielded: we may be here because of a cancellation. A forceful close never waits.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _reach(self) -> trio.abc.Stream:
        """A connection to the proxy itself."""
        with trio.move_on_after(self._connect_seconds):
            address = parse_address(self._proxy.host)
            try:
                addresses = (
                    (address,)
                    if address is not None
                    else await self._resolver.resolve(self._proxy.host)
                )
            except DNSError:
                raise ProxyFailure("the outgoing proxy's name has no address") from None
            for address in addresses:
                try:
                    return await self._connect(address, self._proxy.port)
                except OSError:
                    continue
            raise ProxyFailure("the outgoing proxy cannot be connected to")
        raise ProxyFailure("the outgoing proxy does not accept connections in time")


async def _ask_http(
    stream: trio.abc.Stream, proxy: OutgoingProxy, target: IPAddress | str, port: int
) -> None:
    """RFC 9110, section 9.3.6."""
    host = f"[{target}]" if not isinstance(target, str) and target.version == 6 else str(target)
    authority = f"{host}:{port}"
    fields = [("Host", authority)]
    if proxy.username or proxy.password:
        userpass = f"{proxy.username}:{proxy.password}".encode()
        fields.append(("Proxy-Authorization", f"Basic {base64.b64encode(userpass).decode()}"))
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    head = connection.send(h11.Request(method="CONNECT", target=authority, headers=fields))
    await stream.send_all((head or b"") + (connection.send(h11.EndOfMessage()) or b""))
    received = 0
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            raise ProxyFailure("the outgoing proxy does not speak HTTP") from None
        if isinstance(event, h11.Response):
            break
        if event is h11.NEED_DATA:
            data = await stream.receive_some(4096)
            received += len(data)
            if received > _MAX_HEAD_BYTES:
                raise ProxyFailure("the outgoing proxy's answer is too large")
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.ConnectionClosed):
            raise ProxyFailure("the outgoing proxy closed the connection")
    status = event.status_code
    if 200 <= status < 300:
        if connection.trailing_data[0]:
            raise ProxyFailure("the outgoing proxy sends what nobody has asked for")
        return
    if status == 407:
        raise ProxyFailure("the outgoing proxy does not accept the server's credentials")
    if status in (502, 503, 504):
        raise OSError(errno.EHOSTUNREACH, "the proxy could not connect")
    raise ProxyFailure(_NOT_ALLOWED)


async def _ask_socks(
    stream: trio.abc.Stream, proxy: OutgoingProxy, target: IPAddress | str, port: int
) -> None:
    """RFC 1928, with RFC 1929 where there are credentials."""
    secret = bool(proxy.username or proxy.password)
    methods = bytes((_NO_AUTHENTICATION, _USERNAME_PASSWORD) if secret else (_NO_AUTHENTICATION,))
    await stream.send_all(bytes((_SOCKS_VERSION, len(methods))) + methods)
    version, method = await _receive_exactly(stream, 2)
    if version != _SOCKS_VERSION:
        raise ProxyFailure("the outgoing proxy does not speak SOCKS 5")
    if method == _USERNAME_PASSWORD and secret:
        username, password = proxy.username.encode(), proxy.password.encode()
        await stream.send_all(
            b"\x01" + bytes((len(username),)) + username + bytes((len(password),)) + password
        )
        _, status = await _receive_exactly(stream, 2)
        if status != 0:
            raise ProxyFailure("the outgoing proxy does not accept the server's credentials")
    elif method != _NO_AUTHENTICATION:
        raise ProxyFailure("the outgoing proxy does not accept the server's credentials")
    if isinstance(target, str):
        name = target.encode("ascii")
        where = bytes((_NAME, len(name))) + name
    else:
        where = bytes((_IPV4 if isinstance(target, IPv4Address) else _IPV6,)) + target.packed
    await stream.send_all(
        bytes((_SOCKS_VERSION, _SOCKS_CONNECT, 0)) + where + port.to_bytes(2, "big")
    )
    _, reply, _, kind = await _receive_exactly(stream, 4)
    if reply in _SOCKS_ERRORS:
        raise OSError(_SOCKS_ERRORS[reply], "the proxy could not connect")
    if reply != 0:
        raise ProxyFailure(_NOT_ALLOWED)
    # The address that the proxy dials from, which is of no use to us.
    lengths = {_IPV4: 4, _IPV6: 16}
    length = lengths.get(kind) or (await _receive_exactly(stream, 1))[0]
    await _receive_exactly(stream, length + 2)


async def _receive_exactly(stream: trio.abc.ReceiveStream, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        more = await stream.receive_some(nbytes - len(data))
        if not more:
            raise ProxyFailure("the outgoing proxy closed the connection")
        data += more
    return data
