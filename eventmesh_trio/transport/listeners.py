"""Listening: addresses, TLS, the connection cap, and what happens when descriptors run out."""

import errno
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import attrs
import structlog
import trio

from eventmesh_trio.errors import ConfigError, OverloadedError
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.exchange import date_field
from eventmesh_trio.transport.http import Handler, serve_connection
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.http11 import ServerConnection
from eventmesh_trio.wire.problem import error_body, error_fields, error_status

__all__ = ["Bind", "Listener", "open_listeners", "parse_bind", "serve_listeners"]

_BACKLOG: Final = 1024
_DEFAULT_PORT: Final = 8080
_CAPACITY_ERRNOS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
# What a connection can die of between its handshake and our accept (accept(2)).
_FLEETING_ERRNOS: Final = (errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN)
_RETRY_AFTER_SECONDS: Final = 1.0
_REFUSAL_SECONDS: Final = 0.05

logger = structlog.get_logger("eventmesh_trio.transport")


# --- addresses ------------------------------------------------------------------------------------


@attrs.frozen
class Bind:
    """Where to listen: ``host`` and ``port``, or a Unix socket's ``path``."""

    host: str = ""
    port: int = 0  # 0: one that is free
    path: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as not."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_bind(text: str) -> Bind:
    """Read ``HOST:PORT``, ``[IPV6]:PORT``, ``HOST`` (8080), ``:PORT`` (localhost), ``unix:PATH``.

    Raises:
      ConfigError: saying what is wrong with it.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ConfigError("unix: needs the path of the socket, like unix:/run/eventmesh.sock")
        return Bind(path=path)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{text!r}: an IPv6 address needs brackets, like [::1]:8080")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"{text!r}: the port must be a number from 0 to 65535")
    return Bind(host=host or "localhost", port=int(port))


@attrs.define(eq=False)
class Listener:
    """One listening socket. ``unix_path`` and its inode tell which file is ours to remove."""

    socket: trio.socket.SocketType
    ssl_context: ssl.SSLContext | None = None
    unix_path: str | None = None
    _inode: int | None = None

    @property
    def address(self) -> str:
        """As a client writes it: ``http://127.0.0.1:8080``, or ``unix:PATH``."""
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        host, port = self.socket.getsockname()[:2]
        scheme = "http" if self.ssl_context is None else "https"
        return f"{scheme}://{Bind(host, port)}"

    def close(self) -> None:
        """Stop listening, and remove our socket file; idempotent."""
        self.socket.close()
        if self.unix_path is not None and self._inode is not None:
            with suppress(OSError):  # removed or replaced by somebody else: then it is theirs
                if os.stat(self.unix_path).st_ino == self._inode:
                    os.unlink(self.unix_path)
            self._inode = None


async def open_listeners(
    binds: Sequence[Bind], ssl_context: ssl.SSLContext | None = None
) -> list[Listener]:
    """Listen on every address; a host name on all that it stands for. All or none.

    Raises:
      OSError: an address cannot be bound.
    """
    listeners: list[Listener] = []
    try:
        for bind in binds:
            if bind.path is not None:
                listeners.append(_open_unix(bind.path, ssl_context))
                continue
            found = await trio.open_tcp_listeners(bind.port, host=bind.host, backlog=_BACKLOG)
            listeners += [Listener(tcp.socket, ssl_context) for tcp in found]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _open_unix(path: str, ssl_context: ssl.SSLContext | None) -> Listener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        # Until `listen` nobody can connect, so the narrow mode is there before the first client.
        os.chmod(path, 0o600)
        sock.listen(_BACKLOG)
        inode = os.stat(path).st_ino
        return Listener(trio.socket.from_stdlib_socket(sock), ssl_context, path, inode)
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that is gone; leave every other kind of file alone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "exists and is no socket", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:  # its backlog is full, so it is alive
            pass
    raise OSError(errno.EADDRINUSE, "another server listens on this socket", path)


# --- accepting ------------------------------------------------------------------------------------


async def serve_listeners(
    handler: Handler,
    listeners: Sequence[Listener],
    limits: TransportLimits,
    *,
    drain: Drain | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and serve each in a task of its own, until cancelled or drained.

    Once ``drain`` has begun, this stops accepting, and returns when the last connection has ended;
    the caller bounds that. ``task_status.started`` gets the addresses that are listened on.
    Nothing that happens in one connection ends another, or this function.

    Cancelled: all connections are closed. The listeners are closed in any case.
    """
    server = _Server(handler, limits, drain or Drain())
    try:
        with server.reserve:
            async with trio.open_nursery() as connections:
                task_status.started([listener.address for listener in listeners])
                with trio.CancelScope() as accepting, server.drain.interrupting(accepting):
                    async with trio.open_nursery() as nursery:
                        for listener in listeners:
                            nursery.start_soon(server.accept_forever, listener, connections)
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
    reserve: _Reserve = attrs.field(factory=_Reserve, init=False)
    refusals: int = attrs.field(default=0, init=False)
    served: int = attrs.field(default=0, init=False)

    async def accept_forever(self, listener: Listener, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, _ = await listener.socket.accept()
            except OSError as error:
                if error.errno in _FLEETING_ERRNOS:
                    continue
                if error.errno not in _CAPACITY_ERRNOS:
                    raise
                await self._on_exhaustion(listener, error)
                continue
            if self.served < self.limits.max_connections:
                self.served += 1
                nursery.start_soon(self._serve, sock, listener)
            elif self.refusals < self.limits.max_refusals:
                self.refusals += 1
                nursery.start_soon(self._refuse, sock, listener)
            else:
                sock.close()

    async def _on_exhaustion(self, listener: Listener, error: OSError) -> None:
        """Tell those in the backlog that we are full, one by one on the reserve; then pause."""
        self.reserve.release()
        refused = 0
        with suppress(OSError), trio.move_on_after(self.limits.accept_backoff_seconds):
            while True:
                sock, _ = await listener.socket.accept()
                refused += 1
                with sock:
                    await self._tell_full(sock, listener)
        self.reserve.take()
        logger.warning("no descriptors left", error=str(error), refused=refused)
        await trio.sleep(self.limits.accept_backoff_seconds)

    async def _tell_full(self, sock: trio.socket.SocketType, listener: Listener) -> None:
        """Send a 503 and wait a moment for the request, lest its arrival reset the answer."""
        with trio.move_on_after(_REFUSAL_SECONDS):
            if listener.ssl_context is None:
                await sock.send(_refusal())
                sock.shutdown(socket.SHUT_WR)
                await sock.recv(self.limits.max_header_bytes)

    async def _refuse(self, sock: trio.socket.SocketType, listener: Listener) -> None:
        """Answer 503 to a connection over the cap; TLS would cost too much, and is just closed."""
        try:
            with sock, suppress(OSError), trio.move_on_after(self.limits.farewell_seconds):
                if listener.ssl_context is None:
                    await sock.send(_refusal())
                    sock.shutdown(socket.SHUT_WR)
                    while await sock.recv(4096):
                        pass
        finally:
            self.refusals -= 1

    async def _serve(self, sock: trio.socket.SocketType, listener: Listener) -> None:
        try:
            with self.drain.count():
                await self._contain(sock, listener)
        finally:
            self.served -= 1

    async def _contain(self, sock: trio.socket.SocketType, listener: Listener) -> None:
        peer = ""
        try:
            with sock:
                peer = _peer(sock)
                stream = trio.SocketStream(sock)
                with suppress(OSError):  # no TCP
                    stream.setsockopt(
                        socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self.limits.unsent_bytes
                    )
                await self._serve_stream(stream, listener.ssl_context, peer)
        except* Exception as group:
            logger.error("a connection failed", peer=peer, exc_info=group)

    async def _serve_stream(
        self, stream: trio.SocketStream, ssl_context: ssl.SSLContext | None, peer: str
    ) -> None:
        serve = partial(serve_connection, handler=self.handler, limits=self.limits, peer=peer)
        if ssl_context is None:
            await serve(stream, drain=self.drain)
            return
        secure = trio.SSLStream(stream, ssl_context, server_side=True, https_compatible=True)
        with trio.move_on_after(self.limits.tls_handshake_seconds) as scope:
            try:
                await secure.do_handshake()
            except (trio.BrokenResourceError, ssl.SSLError):
                return  # the peer's trouble, and it was told by an alert
        if not scope.cancelled_caught:
            await serve(secure, scheme="https", drain=self.drain)


def _peer(sock: trio.socket.SocketType) -> str:
    try:
        name = sock.getpeername()
    except OSError:  # it has gone already; the first read will tell
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


def _refusal() -> bytes:
    error = OverloadedError(
        "the server has as many connections as it can serve",
        retry_after_seconds=_RETRY_AFTER_SECONDS,
    )
    body = error_body(error, None)
    fields = [*error_fields(error), (b"content-length", b"%d" % len(body)), date_field()]
    wire = ServerConnection()
    head = wire.send_head(
        error_status(error), [*fields, (b"connection", b"close")], head_request=False
    )
    return head + wire.send_body(body) + wire.send_end()
