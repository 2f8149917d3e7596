"""What the system says about names: its hosts file, and which name servers to ask, and how."""

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import attrs
import trio

from eventmesh_trio.pipeline.network.guard import IPAddress, parse_address

__all__ = ["HOSTS_FILE", "RESOLVER_FILE", "NameFiles", "ResolverFile", "parse_hosts"]

HOSTS_FILE: Final = Path("/etc/hosts")
RESOLVER_FILE: Final = Path("/etc/resolv.conf")
_LOOK_SECONDS: Final = 5.0  # between two looks at whether a file has changed
_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_MAX_SERVERS: Final = 3  # as the C library has it
_MAX_SEARCHED: Final = 6
_MAX_DOTS: Final = 15


@attrs.frozen
class ResolverFile:
    """What a `resolv.conf(5)` says; without a server it is this machine, as in the C library."""

    servers: Sequence[str] = ("127.0.0.1",)
    search: Sequence[str] = ()
    dots: int = 1  # a name with fewer is looked up below the ``search`` domains first

    @classmethod
    def parse(cls, text: str) -> "ResolverFile":
        """What is not understood is passed over, as everywhere."""
        servers: list[str] = []
        search: list[str] = []
        dots = 1
        for line in text.splitlines():
            word, *rest = line.split() or [""]
            if word == "nameserver" and rest and parse_address(rest[0].partition("%")[0]):
                servers.append(rest[0])
            elif word in ("domain", "search"):
                search = [name.strip(".").lower() for name in rest if name.strip(".")]
            elif word == "options":
                for option in rest:
                    name, _, value = option.partition(":")
                    if name == "ndots" and value.isascii() and value.isdigit():
                        dots = min(int(value[:4]), _MAX_DOTS)
        return cls(
            tuple(servers[:_MAX_SERVERS]) or ("127.0.0.1",), tuple(search[:_MAX_SEARCHED]), dots
        )

    def candidates(self, name: str) -> Sequence[str]:
        """The names that a name may stand for, in the order in which they are looked up."""
        if name.endswith("."):
            return (name.rstrip("."),)
        below = [f"{name}.{domain}" for domain in self.search]
        return (name, *below) if name.count(".") >= self.dots else (*below, name)


def parse_hosts(text: str) -> Mapping[str, Sequence[IPAddress]]:
    """The addresses by name of a `hosts(5)` file."""
    found: dict[str, list[IPAddress]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or parse_address(words[0]) is None:
            continue
        for name in words[1:]:
            addresses = found.setdefault(name.lower(), [])
            if (address := ip_address(words[0])) not in addresses:
                addresses.append(address)
    return found


class NameFiles:
    """Both files, read again when they change. A file that cannot be read is an empty one."""

    def __init__(self, hosts: Path = HOSTS_FILE, resolver: Path = RESOLVER_FILE) -> None:
        self.hosts: Mapping[str, Sequence[IPAddress]] = {}
        self.resolver = ResolverFile()
        self._paths = (hosts, resolver)
        self._read: tuple[tuple[int, int], ...] | None = None
        self._look_at = 0.0
        self._lock = trio.Lock()

    async def refresh(self) -> None:
        """Look whether they have changed, if it is time to. Cancelled: the next call does it."""
        async with self._lock:  # the others wait for what the first one reads
            if trio.current_time() < self._look_at:
                return
            stamps = tuple(_stamp(path) for path in self._paths)
            if stamps != self._read:
                self.hosts, self.resolver = await trio.to_thread.run_sync(self._parse)
                self._read = stamps
            self._look_at = trio.current_time() + _LOOK_SECONDS

    def _parse(self) -> tuple[Mapping[str, Sequence[IPAddress]], ResolverFile]:
        hosts, resolver = (_text(path) for path in self._paths)
        return parse_hosts(hosts), ResolverFile.parse(resolver)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
