"""Where to listen: addresses as people write them, and the sockets that are opened for them."""

import errno
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import attrs
import trio

from eventmesh_trio.errors import ConfigError

__all__ = ["Bind", "Listener", "open_listeners", "parse_bind"]

# As many as Linux allows as a rule. Who finds it full is silently put off, for seconds and minutes.
_BACKLOG: Final = 4096
_DEFAULT_PORT: Final = 8080
_LOOK_AGAIN_SECONDS: Final = 0.01
_MOST_LOOKS: Final = 100


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
      OSError: an address cannot be bound; ``strerror`` names it.
    """
    listeners: list[Listener] = []
    try:
        for bind in binds:
            try:
                listeners += await _listen(bind, ssl_context)
            except OSError as error:
                reason = f"cannot listen on {bind}: {error.strerror or error}"
                raise OSError(error.errno, reason) from error
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _listen(bind: Bind, ssl_context: ssl.SSLContext | None) -> list[Listener]:
    if bind.path is not None:
        async with _turn_in(Path(bind.path).parent):
            return [_open_unix(bind.path, ssl_context)]
    found = await trio.open_tcp_listeners(bind.port, host=bind.host, backlog=_BACKLOG)
    return [Listener(tcp.socket, ssl_context) for tcp in found]


@asynccontextmanager
async def _turn_in(directory: Path) -> AsyncIterator[None]:
    """Have servers that start together look for stale socket files there one after the other.

    Between a server's `bind` and its `listen` its file looks stale, and another would remove it.
    The directory itself is locked, so that no lock file is left behind. It is a courtesy: where the
    directory cannot be read, or somebody keeps it locked for something else, we go on without.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        await trio.lowlevel.checkpoint()
        yield
        return
    try:
        for _ in range(_MOST_LOOKS):
            if _lock_nowait(descriptor):
                break
            await trio.sleep(_LOOK_AGAIN_SECONDS)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _lock_nowait(descriptor: int) -> bool:
    """Whether the wait for the lock is over; it is, too, where the file system knows none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _open_unix(path: str, ssl_context: ssl.SSLContext | None) -> Listener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        sock.bind(path)
        bound = True
        # Until `listen` nobody can connect, so the narrow mode is there before the first client.
        os.chmod(path, 0o600)
        sock.listen(_BACKLOG)
        inode = os.stat(path).st_ino
        return Listener(trio.socket.from_stdlib_socket(sock), ssl_context, path, inode)
    except BaseException:
        sock.close()
        if bound:
            Path(path).unlink(missing_ok=True)
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
