"""The network under the HTTP client: names are resolved, judged and dialled here and nowhere else.

`GuardedBackend` is httpcore2's network backend. It connects to the very address that was judged, so
that a second answer of the name server changes nothing; the TLS server name and ``Host`` stay the
name. `GuardedStream` holds the time and size limits of one exchange's head and body.
"""

# The signatures are httpcore2's, time limits included; the limits used are ours.
# ruff: noqa: ARG002

import errno
import math
import ssl
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import httpcore2
import trio

from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    TLSFailure,
    TooLarge,
)
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress, parse_address, unmapped
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.race import first_connected
from eventmesh_trio.pipeline.network.resolver import Resolver
from eventmesh_trio.pipeline.network.trace import current_hop, phase

__all__ = ["Connect", "ConnectName", "GuardedBackend", "GuardedStream", "Targets", "connect_tcp"]

Connect: TypeAlias = Callable[[IPAddress, int], Awaitable[trio.abc.Stream]]
"""Connect to one address and port. Raises OSError. Cancelled: no socket is left."""

ConnectName: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""Connect to a name that somebody else looks up. Otherwise as `Connect`."""

Targets: TypeAlias = tuple[IPAddress | str, ...]
"""Judged addresses, best first; or the one name that is left to an outgoing proxy."""

# A head is read in small pieces: however many interim responses or fields a piece holds, parsing it
# takes a few milliseconds, and other tasks run before the next.
_HEAD_READ_BYTES = 4096
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError)


async def connect_tcp(address: IPAddress, port: int) -> trio.SocketStream:
    """Open a TCP connection; the production `Connect`."""
    family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
    socket = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await socket.connect((str(address), port))
    except BaseException:
        socket.close()
        raise
    return trio.SocketStream(socket)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Dials only what the policy allows, on every hop of every request."""

    def __init__(
        self,
        limits: FetchLimits,
        policy: AddressPolicy,
        resolver: Resolver,
        connect: Connect = connect_tcp,
        connect_name: ConnectName | None = None,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._resolver = resolver
        self._connect = connect
        self._connect_name = connect_name
        self.connections_made = 0
        self.open_connections = 0

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "GuardedStream":
        """Resolve, judge, connect, for one exchange after the other.

        Raises:
          BlockedAddress, DNSError, FetchTimeout, NetworkFailure.
        """
        return await self.open(await self.locate(host, port), port)

    async def open(self, targets: Targets, port: int) -> "GuardedStream":
        """Connect to what `locate` found, for one exchange after the other.

        Raises:
          FetchTimeout, NetworkFailure.
        """
        stream = await self._dial(targets, port)
        self.connections_made += 1
        self.open_connections += 1
        return GuardedStream(stream, self._limits, self._forget)

    async def dial(self, host: str, port: int) -> trio.abc.Stream:
        """Judge, resolve, judge, connect: the one way to the network.

        The stream is the caller's, and so are all further limits.

        Raises:
          BlockedAddress, DNSError, FetchTimeout, NetworkFailure.
        """
        return await self._dial(await self.locate(host, port), port)

    async def locate(self, host: str, port: int) -> Targets:
        """Judge, resolve, judge: what may be connected to, best first.

        Args:
          host: of a parsed URL: a name in ASCII, or an address without brackets.
        Raises:
          BlockedAddress, DNSError.
        """
        self._policy.judge_target(host, port)
        try:
            addresses = await self._lookup(host)
        except DNSError:
            if self._connect_name is None:
                raise
            # The operator leaves what cannot be resolved here to the outgoing proxy.
            return (host,)
        self._policy.judge_addresses(addresses)
        return addresses[: self._limits.max_addresses]

    async def survey(self, host: str, port: int) -> tuple[tuple[IPAddress, bool], ...]:
        """What `dial` would find, dialling nothing: a host's addresses, and which may be dialled.

        Raises:
          BlockedAddress: by its name or port; nobody is asked for its addresses.
          DNSError: there are none.
        """
        self._policy.judge_target(host, port)
        addresses = await self._lookup(host)
        return tuple((address, self._policy.is_allowed(address)) for address in addresses)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[Any] | None = None,
    ) -> "GuardedStream":
        raise BlockedAddress("only TCP addresses are fetched from")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def _lookup(self, host: str) -> tuple[IPAddress, ...]:
        address = parse_address(host)
        if address is not None:
            await trio.lowlevel.checkpoint()
            return (address,)
        limit = self._limits.resolve_seconds
        with phase("dns"), trio.move_on_after(limit) as scope:
            addresses = tuple(await self._resolver.resolve(host))
        if scope.cancelled_caught:
            raise DNSError(
                f"the host name was not resolved within {limit:g} seconds",
                context={"timeout_threshold_ms": round(limit * 1000)},
            )
        if not addresses:
            raise DNSError("the host name has no address")
        return addresses

    async def _dial(self, targets: Targets, port: int) -> trio.abc.Stream:
        if (hop := current_hop()) is not None:
            hop.addresses = tuple(map(str, targets))
        limits = self._limits
        try:
            with phase("connect"):
                stream = await first_connected(
                    [partial(self._connect_to, target, port) for target in targets],
                    attempt_seconds=limits.connect_seconds,
                    next_seconds=limits.next_address_seconds,
                )
        except OSError as error:
            reason = "was refused" if error.errno == errno.ECONNREFUSED else "failed"
            raise NetworkFailure(f"the connection to the origin {reason}") from None
        if stream is None:
            raise _too_slow("connecting", limits.connect_seconds)
        return stream

    async def _connect_to(self, target: IPAddress | str, port: int) -> trio.abc.Stream:
        if isinstance(target, str):
            assert self._connect_name is not None
            return await self._connect_name(target, port)
        # A mapped address as IPv4: hosts without IPv6 can dial that.
        return await self._connect(unmapped(target), port)

    def _forget(self) -> None:
        self.open_connections -= 1


class GuardedStream(httpcore2.AsyncNetworkStream):
    """One connection to an origin. ``aclose`` is immediate, whatever the peer does.

    A `write` begins a request, and with it the head of a response: until `head_received` all reads
    together are bounded in time and bytes; after it each read is bounded by the idle limit.
    """

    def __init__(
        self, stream: trio.abc.Stream, limits: FetchLimits, on_close: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._limits = limits
        self._on_close = on_close
        self._closed = False
        self._in_head = False
        self._head_deadline = math.inf
        self._max_rest_bytes = limits.max_body_bytes
        self._rest_bytes = 0
        self.head_bytes = 0
        """What the origin has sent since the last request was written, up to the head's end."""

    def head_received(self, max_bytes: int) -> None:
        """The response head is complete: from here on the limits are the body's.

        Args:
          max_bytes: of all that is still to come, framing (chunk extensions, trailers) included.
        """
        self._in_head = False
        self._max_rest_bytes = max_bytes
        self._rest_bytes = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """Receive some bytes, ``b""`` at the end.

        Raises:
          FetchTimeout, TooLarge: over a limit.
          httpcore2.ReadError: the connection failed.
        """
        if self._in_head:
            return await self._read_head(max_bytes)
        limit = self._limits.idle_read_seconds
        room = self._max_rest_bytes - self._rest_bytes
        try:
            with trio.move_on_after(limit):
                data = bytes(await self._stream.receive_some(min(max_bytes, room + 1)))
                self._rest_bytes += len(data)
                if len(data) > room:
                    raise TooLarge(
                        f"the body is larger than {self._max_rest_bytes} bytes",
                        context={"limit_bytes": self._max_rest_bytes},
                    )
                return data
        except _LOST as error:
            raise httpcore2.ReadError(str(error)) from error
        raise _too_slow("waiting for more of the response body", limit)

    async def _read_head(self, max_bytes: int) -> bytes:
        room = self._limits.max_header_bytes - self.head_bytes
        if room <= 0:
            raise TooLarge(
                "the response head is too large",
                context={"limit_bytes": self._limits.max_header_bytes},
            )
        try:
            with trio.move_on_at(self._head_deadline):
                most = min(max_bytes, room, _HEAD_READ_BYTES)
                data = bytes(await self._stream.receive_some(most))
                self.head_bytes += len(data)
                return data
        except _LOST as error:
            raise httpcore2.ReadError(str(error)) from error
        raise _too_slow("waiting for the response head", self._limits.response_head_seconds)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send a request.

        Raises:
          FetchTimeout: over its limit.
          httpcore2.WriteError: the connection failed; there may be a response all the same.
        """
        if not buffer:
            await trio.lowlevel.checkpoint()
            return
        self.head_bytes = 0
        self._in_head = True
        # Also where the write fails: the reader then looks for an early response.
        self._head_deadline = trio.current_time() + self._limits.response_head_seconds
        limit = self._limits.write_seconds
        try:
            with trio.move_on_after(limit):
                await self._stream.send_all(buffer)
                self._head_deadline = trio.current_time() + self._limits.response_head_seconds
                return
        except _LOST as error:
            raise httpcore2.WriteError(str(error)) from error
        raise _too_slow("sending the request", limit)

    async def write_control(self, buffer: bytes) -> None:
        """Send what the protocol asks for within a response; no limit of it begins anew.

        Raises: as `write` does.
        """
        limit = self._limits.write_seconds
        try:
            with trio.move_on_after(limit):
                await self._stream.send_all(buffer)
                return
        except _LOST as error:
            raise httpcore2.WriteError(str(error)) from error
        raise _too_slow("answering the origin's frames", limit)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "GuardedStream":
        """Become a TLS stream; this one is used up. Any failure, cancellation too, closes it.

        Raises:
          FetchTimeout, NetworkFailure, TLSFailure.
        """
        limit = self._limits.connect_seconds
        tls = trio.SSLStream(
            self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True
        )
        try:
            with phase("tls"), trio.move_on_after(limit) as scope:
                await tls.do_handshake()
            if scope.cancelled_caught:
                raise _too_slow("the TLS handshake", limit)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.CertificateError) as error:
            await self.aclose()
            raise _tls_failure(error) from None
        except BaseException:
            await self.aclose()
            raise
        self._stream = tls
        return self

    async def aclose(self) -> None:  # noqa: ASYNC910  # nothing to wait for
        """Close at once; idempotent. Says no TLS farewell: nothing unread is trusted after it."""
        if not self._closed:
            self._closed = True
            self._on_close()
            # Shielded: we are usually here because of a cancellation. A forceful close never waits.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    def get_extra_info(self, info: str) -> Any:
        stream = self._stream
        if info == "ssl_object":
            return stream if isinstance(stream, trio.SSLStream) else None
        if info == "is_readable":
            while isinstance(stream, trio.SSLStream):
                # What came behind an answer, in one record or one packet with its end, is here
                # already, and would be taken for the next answer.
                if stream.pending() or stream._incoming.pending:  # no other way
                    return True
                stream = stream.transport_stream
            return isinstance(stream, trio.SocketStream) and stream.socket.is_readable()
        return None


def _too_slow(what: str, seconds: float) -> FetchTimeout:
    return FetchTimeout(
        f"{what} took longer than {seconds:g} seconds",
        context={"timeout_threshold_ms": round(seconds * 1000)},
    )


def _tls_failure(error: Exception) -> NetworkFailure | TLSFailure:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TLSFailure(f"the origin's certificate is not acceptable: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return TLSFailure(f"the TLS handshake failed: {cause.reason or 'unknown reason'}")
    return NetworkFailure("the connection ended during the TLS handshake")
