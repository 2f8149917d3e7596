"""What may be dialled: public addresses, and what the operator allows, less what they deny.

A host is judged by the operator's lists and by its name before it is looked up, a name by all of
its addresses, an address by the networks below, and what an IPv6 address carries inside (a mapped,
translated or tunnelled IPv4 address) as well. The tables are our own: `ipaddress.is_global` changes
between Python releases.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

import attrs

from eventmesh_trio.errors import BlockedAddress
from eventmesh_trio.pipeline.network.host_rules import HostRule, HostRules, is_local_name
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = ["BAD_PORTS", "AddressPolicy", "IPAddress", "IPNetwork", "parse_address", "unmapped"]

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network

# IANA IPv4 Special-Purpose Address Registry, but for what answers on the public network
# (AS112 and AMT relays), and one address of a cloud that only its own machines can reach.
_FORBIDDEN_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # Azure's host agent
        "169.254.0.0/16",  # link-local, with the metadata services of clouds (RFC 3927)
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, with the broadcast address (RFC 1112)
    )
)
# IPv6 is the other way round: only what has been delegated as global unicast can be public, so
# loopback, unspecified, ULA, link-local, site-local, multicast and the rest need no entry.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_FORBIDDEN_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID, drone ids
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4: leads through a relay to the IPv4 address inside (RFC 7526)
        "3ffe::/16",  # 6bone, returned (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: as public as the IPv4 address inside
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")  # RFC 8215: local use

# The Fetch standard's "bad ports": services that a request could be made to speak to.
# https://fetch.spec.whatwg.org/#port-blocking
BAD_PORTS: Final = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95),
        *(101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179),
        *(389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601),
        *(636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000),
        *(6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    }
)
_REMEMBERED: Final = 512
"""Hosts and addresses: each is judged three times on its way through a crawl, and pages of one host
come in numbers. At most a megabyte."""

# ISATAP interface identifiers (RFC 5214, section 6.1): the IPv4 address is in the last 32 bits.
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})

# One sentence for whatever is inside, so that it tells nothing of what is there.
_NOT_PUBLIC: Final = "the URL leads to an address that is not public"
_NOT_A_PORT: Final = "the URL's port is not one that pages are served on"
_NOT_A_HOST: Final = "the URL's host is not one that this server fetches from"


@lru_cache(_REMEMBERED)
def parse_address(host: str) -> IPAddress | None:
    """The address that a parsed URL's host is, or None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _networks(values: Iterable[IPNetwork | str]) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(value) if isinstance(value, str) else value for value in values)


def _rules(values: Iterable[HostRule | str]) -> HostRules:
    return values if isinstance(values, HostRules) else HostRules(values)


def _ports(values: Iterable[int]) -> frozenset[int]:
    ports = frozenset(values)
    for port in ports:
        if not 0 <= port <= 65_535:
            raise ValueError(f"{port} is no port")
    return ports


@attrs.frozen(kw_only=True)
class AddressPolicy:
    """What may be dialled.

    Hosts and ports have two lists each: one that is denied, which wins, and one that, unless it is
    empty, is all that is allowed. The hosts' lists say nothing of addresses: an allowed host's
    have to be public as well. ``allow_private`` networks are dialled though they are not public, an
    address that carries another only if both may be; ``deny_networks`` never, under any name.

    Raises:
      ValueError: a network that is not one (``10.0.0.1/8`` has host bits set), a host rule that is
        not one, a port that is not one.
    """

    allow_private: tuple[IPNetwork, ...] = attrs.field(default=(), converter=_networks)
    deny_networks: tuple[IPNetwork, ...] = attrs.field(default=(), converter=_networks)
    allow_hosts: HostRules = attrs.field(factory=HostRules, converter=_rules)
    deny_hosts: HostRules = attrs.field(factory=HostRules, converter=_rules)
    allow_ports: frozenset[int] = attrs.field(default=frozenset(), converter=_ports)
    deny_ports: frozenset[int] = attrs.field(default=BAD_PORTS, converter=_ports)

    @deny_hosts.validator
    def _no_addresses(self, _: object, rules: HostRules) -> None:
        for rule in rules:
            if rule.is_address:
                raise ValueError(
                    f"{rule} is an address: deny_networks denies it, whatever name leads there"
                )

    def is_allowed(self, address: IPAddress) -> bool:
        """Whether this very address may be dialled."""
        address = unmapped(address)  # the kernel dials IPv4: nothing of IPv6 is left to judge
        return all(self._is_open(one) for one in (address, *_carried(address)))

    def judge_url(self, url: URL) -> None:
        """Judge what of a URL needs no lookup, as `judge_target`.

        Raises:
          BlockedAddress: refused; the message tells nothing about what is there.
        """
        self.judge_target(url.host, url.port)

    def admits(self, href: str) -> bool:
        """Whether a URL is one that `judge_url` lets pass.

        What was fetched from it before may then be shown; kept documents outlive a policy.
        """
        try:
            self.judge_url(parse_url(href))
        except (BlockedAddress, ValueError):
            return False
        return True

    def judge_target(self, host: str, port: int) -> None:
        """Judge a port and a host (of a parsed URL), its address too if it is one.

        Raises:
          BlockedAddress: as `judge_url`.
        """
        if port in self.deny_ports or (self.allow_ports and port not in self.allow_ports):
            raise BlockedAddress(_NOT_A_PORT)
        if self.deny_hosts.match(host):
            raise BlockedAddress(_NOT_A_HOST)
        listed = self.allow_hosts.match(host)
        if self.allow_hosts and not listed:
            raise BlockedAddress(_NOT_A_HOST)
        address = parse_address(host)
        if address is not None:
            self.judge_addresses((address,))
        elif is_local_name(host) and not (listed or self.allow_private):
            # Whether such a name is known here tells of the inside, so nobody is asked.
            raise BlockedAddress(_NOT_PUBLIC)

    def judge_addresses(self, addresses: Sequence[IPAddress]) -> None:
        """Judge all addresses of one name. One that is refused refuses the name.

        Raises:
          BlockedAddress: as `judge_url`.
        """
        if not all(self.is_allowed(address) for address in addresses):
            raise BlockedAddress(_NOT_PUBLIC)

    def _is_open(self, address: IPAddress) -> bool:
        if any(address in network for network in self.deny_networks):
            return False
        return _is_public(address) or any(address in network for network in self.allow_private)


def unmapped(address: IPAddress) -> IPAddress:
    """A mapped IPv4 address (RFC 4291, section 2.5.5.2) as IPv4, any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache(_REMEMBERED)
def _is_public(address: IPAddress) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    if address in _NAT64:
        return True
    return address in _GLOBAL_V6 and not any(address in network for network in _FORBIDDEN_V6)


def _carried(address: IPAddress) -> Iterator[IPv4Address]:
    """The IPv4 addresses that packets to an IPv6 address may end up at."""
    if isinstance(address, IPv4Address):
        return
    if (relayed := address.sixtofour) is not None:
        yield relayed
    if (tunnelled := address.teredo) is not None:
        yield from tunnelled  # the server and the client
    if address in _NAT64 or address in _NAT64_LOCAL:
        yield _last_32_bits(address)
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield _last_32_bits(address)


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFF_FFFF)
