"""Whose connection it is: the address that limits count by, behind proxies too."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

__all__ = ["AddressCounts", "Network", "client_of", "group_of"]

Network = IPv4Network | IPv6Network

_UNKNOWN: Final = "unknown"
_IPV6_GROUP_BITS: Final = 64
_MAX_HOPS: Final = 32
_REMEMBERED: Final = 1024
"""Addresses: each connection and each stream asks for its own, and to read one takes 8 us."""
_MAX_REMEMBERED_CHARS: Final = 64  # of one; an IPv6 address with a port has up to 53


def client_of(
    peer: str, forwarded_for: Sequence[bytes], trusted_proxies: Collection[Network]
) -> str | None:
    """Return the address that a request counts for; None: it comes from this site itself.

    A trusted proxy names its client last in ``X-Forwarded-For``, so that field is read from its
    end for as long as the address found is that of a trusted proxy. What anybody else has written
    there is never believed. A request of a proxy that names nobody is its own, and counts for
    nobody.

    Args:
      peer: the connection's own address; "" on a Unix socket, which counts as a trusted proxy.
        What is no address is nobody's whom one could trust.
      forwarded_for: the values of all ``X-Forwarded-For`` fields, in their order.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(b",")][-_MAX_HOPS:]
    address = _parse(peer) if peer else None
    if peer and address is None:
        return _UNKNOWN
    while address is None or any(address in network for network in trusted_proxies):
        if not hops:
            return None
        address = _parse(hops.pop().decode("latin-1"))
        if address is None:
            return _UNKNOWN
    return _group(address)


def group_of(address: str) -> str:
    """The name under which an address is counted: of IPv6 its /64, which is one customer's."""
    parsed = _parse(address)
    return _UNKNOWN if parsed is None else _group(parsed)


@lru_cache(_REMEMBERED)
def _group(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _IPV6_GROUP_BITS), strict=False))


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    return _remembered(text) if len(text) <= _MAX_REMEMBERED_CHARS else _read(text)


def _read(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: perhaps with a port, in brackets, with a zone."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        parsed = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


_remembered = lru_cache(_REMEMBERED)(_read)


class AddressCounts:
    """How many of something each address has now. Holds no address that has none."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __getitem__(self, address: str) -> int:
        return self._counts.get(address, 0)

    def __len__(self) -> int:
        """How many addresses have any."""
        return len(self._counts)

    def add(self, address: str | None) -> None:
        """Count one more; None counts for nobody."""
        if address is not None:
            self._counts[address] = self[address] + 1

    def remove(self, address: str | None) -> None:
        """Count one less, of those that were added."""
        if address is None:
            return
        if self._counts[address] == 1:
            del self._counts[address]
        else:
            self._counts[address] -= 1
