"""Accepting: connections and their caps, and what happens when descriptors run out."""

import errno
import os
import socket
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

import attrs
import structlog
import trio

from eventmesh_trio.errors import OverloadedError, RateLimited, RequestError
from eventmesh_trio.transport.addresses import AddressCounts, Network, client_of
from eventmesh_trio.transport.binds import Bind, Listener, open_listeners, parse_bind
from eventmesh_trio.transport.departures import Departures, open_departures
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.exchange import date_field
from eventmesh_trio.transport.http import Handler, serve_connection
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.http11 import ServerConnection
from eventmesh_trio.wire.problem import error_body, error_fields, error_status

__all__ = ["Bind", "Listener", "open_listeners", "parse_bind", "serve_listeners"]

_CAPACITY_ERRNOS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
# What a connection can die of between its handshake and our accept: Linux hands on what is pending
# on it (accept(2)). Not all platforms know all of them.
_FLEETING_ERRNOS: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
_FLEETING_IN_A_ROW: Final = 100
"""After so many with no connection between them it is not the connections: there is a pause."""
_RETRY_AFTER_SECONDS: Final = 1.0
_REFUSAL_SECONDS: Final = 0.05

logger = structlog.get_logger("eventmesh_trio.transport")


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[Listener],
    limits: TransportLimits,
    *,
    drain: Drain | None = None,
    proxies: Collection[Network] = (),
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and serve each in a task of its own, until cancelled or drained.

    Once ``drain`` says so, this stops accepting, and returns when the last connection has ended;
    the caller bounds that. ``task_status.started`` gets the addresses that are listened on.
    Nothing that happens in one connection ends another, or this function.

    Args:
      proxies: peers whose connections are many clients', and so not limited by address. Those of
        a Unix socket are not either.
    Cancelled: all connections are closed. The listeners are closed in any case.
    """
    try:
        async with open_departures() as departures:
            server = _Server(handler, limits, drain or Drain(), proxies, departures)
            with server.reserve:
                async with trio.open_nursery() as connections:
                    task_status.started([listener.address for listener in listeners])
                    async with trio.open_nursery() as accepting:
                        for listener in listeners:
                            accepting.start_soon(server.accept_forever, listener, connections)
                        await server.drain.wait_stopped()
                        accepting.cancel_scope.cancel()
                    for listener in listeners:
                        listener.close()
    finally:
        for listener in listeners:
            listener.close()


class _Reserve:
    """A descriptor held back, so that there is one to say no with when all others are in use."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        if self._descriptor is None:
            with suppress(OSError):  # none left: the next pause tries again
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@attrs.define(eq=False)
class _Server:
    handler: Handler
    limits: TransportLimits
    drain: Drain
    proxies: Collection[Network]
    departures: Departures | None
    reserve: _Reserve = attrs.field(factory=_Reserve, init=False)
    refusals: int = attrs.field(default=0, init=False)
    served: int = attrs.field(default=0, init=False)
    addresses: AddressCounts = attrs.field(factory=AddressCounts, init=False)
    exhausted_at: float | None = attrs.field(default=None, init=False)
    refused_since: int = attrs.field(default=0, init=False)

    async def accept_forever(self, listener: Listener, nursery: trio.Nursery) -> None:
        fleeting = 0
        while True:
            if fleeting and fleeting % _FLEETING_IN_A_ROW == 0:
                await trio.sleep(self.limits.accept_backoff_seconds)
            try:
                sock, address = await listener.socket.accept()
            except OSError as error:
                if error.errno in _FLEETING_ERRNOS:
                    fleeting += 1
                    continue
                if error.errno not in _CAPACITY_ERRNOS:
                    raise
                await self._on_exhaustion(listener, error)
                continue
            fleeting = 0
            if self.exhausted_at is not None:
                self._note_recovery(self.exhausted_at)
            peer = str(address[0]) if isinstance(address, tuple) else ""
            client = client_of(peer, (), self.proxies)
            refusal = self._refusal(client)
            if refusal is None:
                self.served += 1
                self.addresses.add(client)
                nursery.start_soon(self._serve, sock, listener, peer, client)
            elif self.refusals < self.limits.max_refusals:
                self.refusals += 1
                nursery.start_soon(self._refuse, sock, listener, refusal)
            else:
                sock.close()

    def _refusal(self, client: str | None) -> RequestError | None:
        """Why a connection more cannot be served, if so."""
        if self.served >= self.limits.max_connections:
            return _full()
        if client is None or self.addresses[client] < self.limits.max_connections_per_address:
            return None
        return RateLimited(
            "your address has as many connections as it may",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )

    async def _on_exhaustion(self, listener: Listener, error: OSError) -> None:
        """Tell those in the backlog that we are full, one by one on the reserve; then pause."""
        if self.exhausted_at is None:
            self.exhausted_at = trio.current_time()
            logger.warning("no descriptors left", error=str(error))
        self.reserve.release()
        deadline = trio.current_time() + self.limits.accept_backoff_seconds
        while (sock := await self._accept_before(deadline, listener)) is not None:
            self.refused_since += 1
            with sock, suppress(OSError):
                await self._tell_full(sock, listener)
        self.reserve.take()
        await trio.sleep(self.limits.accept_backoff_seconds)

    async def _accept_before(
        self, deadline: float, listener: Listener
    ) -> trio.socket.SocketType | None:
        with suppress(OSError), trio.move_on_at(deadline):
            sock, _ = await listener.socket.accept()
            return sock
        return None

    def _note_recovery(self, since: float) -> None:
        seconds = round(trio.current_time() - since, 3)
        logger.warning("descriptors are back", seconds=seconds, refused=self.refused_since)
        self.exhausted_at, self.refused_since = None, 0

    async def _tell_full(self, sock: trio.socket.SocketType, listener: Listener) -> None:
        """Send a 503 and wait a moment for the request, lest its arrival reset the answer."""
        with trio.move_on_after(_REFUSAL_SECONDS):
            if listener.ssl_context is None:
                await sock.send(_refusal(_full()))
                sock.shutdown(socket.SHUT_WR)
                await sock.recv(self.limits.max_header_bytes)

    async def _refuse(
        self, sock: trio.socket.SocketType, listener: Listener, error: RequestError
    ) -> None:
        """Answer a connection over a cap; TLS would cost too much, and is just closed."""
        try:
            with sock, suppress(OSError), trio.move_on_after(self.limits.farewell_seconds):
                if listener.ssl_context is None:
                    await sock.send(_refusal(error))
                    sock.shutdown(socket.SHUT_WR)
                    while await sock.recv(4096):
                        pass
        finally:
            self.refusals -= 1

    async def _serve(
        self, sock: trio.socket.SocketType, listener: Listener, peer: str, client: str | None
    ) -> None:
        try:
            with self.drain.count(), sock:
                stream = trio.SocketStream(sock)
                with suppress(OSError):  # no TCP
                    stream.setsockopt(
                        socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.limits.unsent_bytes
                    )
                if listener.ssl_context is None:
                    await serve_connection(
                        stream,
                        self.handler,
                        self.limits,
                        peer=peer,
                        drain=self.drain,
                        departures=self.departures,
                    )
                else:
                    await self._serve_tls(stream, listener.ssl_context, peer)
        except* Exception as group:
            logger.error("a connection failed", peer=peer, exc_info=group)
        finally:
            self.served -= 1
            self.addresses.remove(client)

    async def _serve_tls(
        self, stream: trio.SocketStream, ssl_context: ssl.SSLContext, peer: str
    ) -> None:
        limits, drain = self.limits, self.drain
        # Not `https_compatible`, which would send no close_notify (RFC 9112, section 9.8): it alone
        # tells a response that ends with the connection from one that was cut.
        secure = trio.SSLStream(stream, ssl_context, server_side=True)
        with (
            trio.move_on_after(limits.tls_handshake_seconds) as scope,
            drain.interrupting(scope, limits.farewell_seconds),
        ):
            try:
                await secure.do_handshake()
            except (trio.BrokenResourceError, ssl.SSLError):
                return  # the peer's trouble, and it was told by an alert
        if not scope.cancelled_caught:
            await serve_connection(
                secure, self.handler, limits, scheme="https", peer=peer, drain=drain
            )


def _full() -> OverloadedError:
    return OverloadedError(
        "the server has as many connections as it can serve",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )


def _refusal(error: RequestError) -> bytes:
    body = error_body(error, None)
    fields = [*error_fields(error), (b"content-length", b"%d" % len(body)), date_field()]
    wire = ServerConnection()
    head = wire.send_head(
        error_status(error), [*fields, (b"connection", b"close")], head_request=False
    )
    return head + wire.send_body(body) + wire.send_end()
