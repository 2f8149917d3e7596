"""Whose connection it is: what is believed of proxies, and what is counted."""

from ipaddress import ip_network

import pytest

from eventmesh_trio.transport.addresses import AddressCounts, client_of, group_of

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
INSIDE = (*LOOPBACK, ip_network("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        # Nobody but a trusted proxy is believed.
        ("198.51.100.7", [b"203.0.113.1"], "198.51.100.7"),
        ("127.0.0.1", [b"203.0.113.1"], "203.0.113.1"),
        ("::1", [b"203.0.113.1"], "203.0.113.1"),
        ("", [b"203.0.113.1"], "203.0.113.1"),  # a Unix socket
        # What the client wrote itself stands first, and is not believed.
        ("127.0.0.1", [b"192.0.2.99, 203.0.113.1"], "203.0.113.1"),
        ("127.0.0.1", [b"192.0.2.99", b"203.0.113.1"], "203.0.113.1"),
        # A chain of proxies, each of which is trusted.
        ("127.0.0.1", [b"203.0.113.1, 10.0.0.3", b"10.0.0.4"], "203.0.113.1"),
        # This site itself.
        ("127.0.0.1", [], None),
        ("", [], None),
        ("127.0.0.1", [b"10.0.0.3"], None),
        # As some proxies write it.
        ("127.0.0.1", [b"203.0.113.1:4711"], "203.0.113.1"),
        ("127.0.0.1", [b"[2001:db8::1]:4711"], "2001:db8::/64"),
        ("127.0.0.1", [b"::ffff:203.0.113.1"], "203.0.113.1"),
        ("::ffff:203.0.113.1", [], "203.0.113.1"),
        # What is no address counts as one client.
        ("127.0.0.1", [b"unknown"], "unknown"),
        ("127.0.0.1", [b""], "unknown"),
        ("127.0.0.1", [b"\xff\xfe"], "unknown"),
        ("127.0.0.1", [b"203.0.113.1, _hidden"], "unknown"),
    ],
)
def test_a_client_is_known_by_the_last_address_that_a_trusted_proxy_names(
    peer: str, forwarded: list[bytes], client: str | None
) -> None:
    assert client_of(peer, forwarded, INSIDE) == client


def test_without_trusted_proxies_only_the_connection_itself_counts() -> None:
    assert client_of("127.0.0.1", [b"203.0.113.1"], ()) == "127.0.0.1"


@pytest.mark.parametrize("peer", ["testclient", "x" * 100, "198.51.100", "@"])
def test_a_peer_whose_address_cannot_be_read_is_not_believed(peer: str) -> None:
    assert client_of(peer, [b"203.0.113.1"], INSIDE) == "unknown"
    assert client_of(peer, [], INSIDE) == "unknown"


def test_an_endless_list_of_hops_is_not_read_to_its_end() -> None:
    assert (
        client_of("127.0.0.1", [b"203.0.113.1," + b"10.0.0.1," * 5000 + b"10.0.0.1"], INSIDE)
        is None
    )


def test_addresses_of_one_ipv6_network_are_one_client() -> None:
    assert group_of("2001:db8:1:2::1") == group_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert group_of("2001:db8:1:3::1") != group_of("2001:db8:1:2::1")


def test_no_address_is_kept_that_has_nothing() -> None:
    counts = AddressCounts()
    for address in ("a", "a", "b", None):
        counts.add(address)
    assert (counts["a"], counts["b"], counts["c"], len(counts)) == (2, 1, 0, 2)
    for address in ("a", "a", "b", None):
        counts.remove(address)
    assert len(counts) == 0


def test_what_is_too_long_to_be_remembered_is_read_all_the_same() -> None:
    spaces = b" " * 100
    for _ in range(2):
        assert client_of("127.0.0.1", [b"203.0.113.1 ," + spaces], LOOPBACK) == "unknown"
        assert client_of("127.0.0.1", [b"x" * 100], LOOPBACK) == "unknown"
        assert client_of("127.0.0.1", [b"fe80::1%" + b"z" * 100], LOOPBACK) == "fe80::/64"
