"""What may be dialled, and that nothing else ever is."""

import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from itertools import count

import httpcore2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import BlockedAddress, DNSError, FetchTimeout, NetworkFailure
from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.guard import BAD_PORTS, AddressPolicy, IPAddress, parse_address
from eventmesh_trio.pipeline.network.host_rules import HostRules
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.resolver import SystemResolver
from eventmesh_trio.wire.urls import parse_url
from tests.helpers.guard_tables import ALLOWED_URLS, REFUSED_URLS


def judged(text: str, policy: AddressPolicy) -> None:
    policy.judge_url(parse_url(text))


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(set(REFUSED_URLS)) >= 200
    assert len(set(ALLOWED_URLS)) >= 60


@pytest.mark.parametrize("text", REFUSED_URLS)
def test_a_url_that_leads_inside_is_refused_in_every_spelling(text: str) -> None:
    try:
        url = parse_url(text)
    except ValueError:
        return  # not a URL at all: nothing is fetched either
    with pytest.raises(BlockedAddress) as caught:
        AddressPolicy().judge_url(url)
    assert url.host not in str(caught.value)
    assert caught.value.context == {}


def test_nearly_all_refused_spellings_are_urls_to_the_parser() -> None:
    unparsed = []
    for text in REFUSED_URLS:
        try:
            parse_url(text)
        except ValueError:
            unparsed.append(text)
    assert len(REFUSED_URLS) - len(unparsed) >= 200, unparsed


@pytest.mark.parametrize("text", ALLOWED_URLS)
def test_a_public_url_passes_and_so_do_look_alikes(text: str) -> None:
    judged(text, AddressPolicy())


def test_an_allowed_network_is_allowed_and_no_more_than_it() -> None:
    policy = AddressPolicy(allow_private=("127.0.0.0/8", ip_network("fd00::/16")))
    for text in ("http://127.0.0.1/", "http://[::ffff:127.0.0.9]/", "http://[fd00::5]/"):
        judged(text, policy)
    for text in ("http://10.0.0.1/", "http://[::1]/", "http://[fd01::]/", "http://169.254.169.254"):
        with pytest.raises(BlockedAddress):
            judged(text, policy)


def test_an_allowed_tunnel_still_has_its_inner_address_judged() -> None:
    policy = AddressPolicy(allow_private=("2002::/16", "64:ff9b:1::/48"))
    assert policy.is_allowed(ip_address("2002:808:808::1"))
    assert not policy.is_allowed(ip_address("2002:7f00:1::1"))
    assert policy.is_allowed(ip_address("64:ff9b:1::808:808"))
    assert not policy.is_allowed(ip_address("64:ff9b:1::a00:1"))


def test_an_isatap_address_is_judged_by_the_ipv4_address_inside() -> None:
    assert not AddressPolicy().is_allowed(ip_address("2001:470::5efe:10.0.0.1"))
    assert AddressPolicy().is_allowed(ip_address("2001:470::5efe:8.8.8.8"))


def test_a_denied_network_is_never_dialled_whatever_else_allows_it() -> None:
    policy = AddressPolicy(
        allow_private=("10.0.0.0/8",), deny_networks=("10.1.0.0/16", "8.8.8.8", "2606:4700::/32")
    )
    judged("http://10.2.0.1/", policy)
    judged("http://8.8.4.4/", policy)
    for text in ("10.1.2.3", "8.8.8.8", "[::ffff:8.8.8.8]", "[64:ff9b::8.8.8.8]", "[2606:4700::1]"):
        with pytest.raises(BlockedAddress):
            judged(f"http://{text}/", policy)


@pytest.mark.parametrize("text", ["localhost", "localhost.", "db", "a.internal", "x.home.arpa."])
def test_a_name_of_the_inside_is_refused_unless_something_inside_is_allowed(text: str) -> None:
    with pytest.raises(BlockedAddress) as caught:
        judged(f"http://{text}/", AddressPolicy())
    with pytest.raises(BlockedAddress) as refused_address:
        judged("http://10.0.0.1/", AddressPolicy())
    assert caught.value.message == refused_address.value.message
    judged(f"http://{text}/", AddressPolicy(allow_private=("10.0.0.0/8",)))
    judged(f"http://{text}/", AddressPolicy(allow_hosts=(text,)))
    with pytest.raises(BlockedAddress):
        judged(f"http://{text}/", AddressPolicy(allow_private=("10.0.0.0/8",), deny_hosts=(text,)))


# --- The operator's lists -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "matching", "others"),
    [
        (
            "example.org",
            ["example.org", "example.org."],
            ["a.example.org", "badexample.org", "org"],
        ),
        ("*.example.org", ["a.example.org", "a.b.example.org."], ["example.org", "xexample.org"]),
        (
            ".example.org",
            ["example.org", "a.example.org"],
            ["xexample.org", "example.org.evil.example"],
        ),
        ("EXAMPLE.org.", ["example.org"], ["example.com"]),
        ("*.Bücher.example", ["a.xn--bcher-kva.example"], ["a.bucher.example"]),
        ("*", ["example.org", "8.8.8.8", "2606:4700::1"], []),
        ("8.8.8.8", ["8.8.8.8"], ["8.8.8.80", "a.8.8.8.8.example"]),
        ("0x08080808", ["8.8.8.8"], ["8.8.4.4"]),
        ("[2606:4700::1]", ["2606:4700::1"], ["2606:4700::2"]),
        ("2606:4700:0::1", ["2606:4700::1"], ["2606:4700::2"]),
    ],
)
def test_a_rule_speaks_of_what_it_says(entry: str, matching: list[str], others: list[str]) -> None:
    for rules in (HostRules([entry]), HostRules(["z.example", entry, "*.y.example"])):
        assert entry in map(str, rules)
        assert [host for host in matching if not rules.match(host)] == []
        assert [host for host in others if rules.match(host)] == []


@pytest.mark.parametrize(
    "entry",
    [
        *("", " ", ".", "*.", "**", "a b", "http://example.org/", "example.org/path", "user@host"),
        *("example.org:8080", "ex*mple.org", "10.0.0.0/8", "*.8.8.8.8", "*.*.org", "[::1", "a?b"),
        "a..b..%00",
    ],
)
def test_what_is_no_rule_is_refused_with_its_text(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no host|is more than|is a network|below an address"):
        HostRules([entry])


def test_a_list_of_a_hundred_thousand_hosts_costs_no_more_than_a_short_one() -> None:
    rules = HostRules(f"*.a{number}.example" for number in range(100_000))
    began = time.perf_counter()
    for _ in range(1000):
        assert rules.match("x.y.a99999.example")
        assert not rules.match("x.y.b99999.example")
    assert time.perf_counter() - began < 0.5  # as a walk over the list it would be minutes


def test_denied_hosts_are_refused_and_win_over_allowed_ones() -> None:
    policy = AddressPolicy(
        allow_hosts=(".example.org", "8.8.8.8"),
        deny_hosts=("private.example.org", "*.bad.example.org"),
    )
    for host in ("example.org", "www.example.org", "bad.example.org", "8.8.8.8", "0x08.8.8.8"):
        judged(f"http://{host}/", policy)
    for host in ("private.example.org", "a.bad.example.org", "example.com", "8.8.4.4", "[2606::1]"):
        with pytest.raises(BlockedAddress) as caught:
            judged(f"http://{host}/", policy)
        assert host not in caught.value.message


def test_an_allowed_host_has_to_be_public_all_the_same() -> None:
    policy = AddressPolicy(allow_hosts=("10.0.0.1", "example.org"))
    with pytest.raises(BlockedAddress):
        judged("http://10.0.0.1/", policy)
    with pytest.raises(BlockedAddress):
        policy.judge_addresses([ip_address("10.0.0.1")])


def test_an_address_cannot_be_denied_as_a_host_where_a_name_would_lead_there() -> None:
    with pytest.raises(ValueError, match="deny_networks denies it"):
        AddressPolicy(deny_hosts=("8.8.8.8",))


def test_the_ports_are_a_setting() -> None:
    judged("http://8.8.8.8:22/", AddressPolicy(deny_ports={80}))
    with pytest.raises(BlockedAddress):
        judged("http://8.8.8.8/", AddressPolicy(deny_ports={80}))
    only_web = AddressPolicy(allow_ports={80, 443, 22})
    judged("https://8.8.8.8/", only_web)
    for port in (8080, 22):  # 22 is denied as well, and that wins
        with pytest.raises(BlockedAddress):
            judged(f"http://8.8.8.8:{port}/", only_web)
    with pytest.raises(ValueError, match="70000 is no port"):
        AddressPolicy(deny_ports={70000})
    assert 22 in BAD_PORTS
    assert not {80, 443, 8080, 8443} & BAD_PORTS


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_allowed(address: IPAddress) -> None:
    if AddressPolicy().is_allowed(address):
        inner = getattr(address, "ipv4_mapped", None) or address
        assert not (inner.is_private or inner.is_multicast or inner.is_reserved) or (
            inner in ip_network("64:ff9b::/96")
        )
        assert not inner.is_loopback
        assert not inner.is_link_local


@given(
    st.lists(
        st.one_of(
            st.integers(0, 2**33).map(str),
            st.integers(0, 2**33).map(hex),
            st.integers(0, 2**33).map(lambda number: f"0{number:o}"),
            st.sampled_from(
                ["", "0x", "08", "a", "1e3", "-1", "+1", "１", "①", "%31", "0X7F", " 1"]
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([".", "。", "．", "%2e"]),  # dots to IDNA
)
def test_no_name_of_a_url_is_an_address_to_the_system(labels: list[str], dot: str) -> None:
    try:
        url = parse_url(f"http://{dot.join(labels)}/")
    except ValueError:
        return
    if parse_address(url.host) is None:
        for text in (url.host, url.host.rstrip(".")):
            with pytest.raises(OSError, match="illegal IP address"):
                socket.inet_aton(text)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_however_ipv6_carries_it(address: IPAddress) -> None:
    policy = AddressPolicy()
    verdict = policy.is_allowed(address)
    assert policy.is_allowed(ip_address(f"::ffff:{address}")) is verdict
    assert policy.is_allowed(ip_address(f"64:ff9b::{address}")) is verdict


# --- dialling -------------------------------------------------------------------------------------


class Names:
    """A resolver of our own: each name has the answers of successive lookups."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(value) for name, value in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, name: str) -> Sequence[IPAddress]:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        answers = self.answers[name]
        texts = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(text) for text in texts]


class Wire:
    """Where connections end up; nothing is dialled."""

    def __init__(self, *refusing: str, hanging: Sequence[str] = ()) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.refusing = refusing
        self.hanging = hanging
        self.peers: list[trio.abc.Stream] = []

    async def connect(self, address: IPAddress, port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled.append((str(address), port))
        if str(address) in self.hanging:
            await trio.sleep_forever()
        if str(address) in self.refusing:
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self.peers.append(theirs)
        return ours


def backend(names: Names, wire: Wire, **limits: float) -> GuardedBackend:
    return GuardedBackend(
        FetchLimits(**limits),  # type: ignore[arg-type]
        AddressPolicy(),
        names,
        wire.connect,
    )


async def test_the_address_dialled_is_the_one_that_was_judged() -> None:
    # The name server changes its mind after the first answer: a rebinding attack.
    names, wire = Names(evil_example=[["93.184.216.34"], ["127.0.0.1"]]), Wire()
    network = backend(names, wire)
    await network.connect_tcp("evil.example", 80)
    assert wire.dialled == [("93.184.216.34", 80)]
    assert names.asked == ["evil.example"]
    with pytest.raises(BlockedAddress):
        await network.connect_tcp("evil.example", 80)
    assert wire.dialled == [("93.184.216.34", 80)]


@pytest.mark.parametrize("inside", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1"])
async def test_one_private_address_among_public_ones_refuses_the_name(inside: str) -> None:
    wire = Wire()
    with pytest.raises(BlockedAddress):
        await backend(Names(a_example=[["8.8.8.8", inside]]), wire).connect_tcp("a.example", 80)
    assert wire.dialled == []


async def test_a_private_literal_and_a_bad_port_are_refused_here_too() -> None:
    wire = Wire()
    network = backend(Names(), wire)
    for host, port in (("127.0.0.1", 80), ("::1", 80), ("8.8.8.8", 25)):
        with pytest.raises(BlockedAddress):
            await network.connect_tcp(host, port)
    with pytest.raises(BlockedAddress):
        await network.connect_unix_socket("/run/docker.sock")
    assert wire.dialled == []


async def test_a_denied_host_is_not_even_looked_up() -> None:
    names, wire = Names(a_example=[["8.8.8.8"]]), Wire()
    network = GuardedBackend(
        FetchLimits(), AddressPolicy(deny_hosts=("*.example",)), names, wire.connect
    )
    for host in ("a.example", "a.example.", "localhost", "db", "metadata.google.internal"):
        with pytest.raises(BlockedAddress):
            await network.connect_tcp(host, 80)
    assert names.asked == wire.dialled == []


async def test_a_mapped_address_is_dialled_as_the_ipv4_address_it_is() -> None:
    wire = Wire()
    await backend(Names(), wire).connect_tcp("::ffff:8.8.8.8", 80)
    assert wire.dialled == [("8.8.8.8", 80)]


async def test_addresses_are_tried_in_order_up_to_the_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names(a_example=[["8.8.8.1", "8.8.8.2", "8.8.8.3"]])
    wire = Wire("8.8.8.1", hanging=["8.8.8.2"])
    await backend(names, wire, next_address_seconds=3).connect_tcp("a.example", 80)
    assert [address for address, _ in wire.dialled] == ["8.8.8.1", "8.8.8.2", "8.8.8.3"]
    assert trio.current_time() == pytest.approx(3)  # the first was refused at once
    wire.dialled.clear()
    with pytest.raises(NetworkFailure, match="refused"):
        await backend(names, wire, max_addresses=1).connect_tcp("a.example", 80)
    assert wire.dialled == [("8.8.8.1", 80)]


async def test_a_connection_that_takes_too_long_says_how_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wire = Wire(hanging=["8.8.8.8"])
    with pytest.raises(FetchTimeout) as caught:
        await backend(Names(), wire, connect_seconds=2).connect_tcp("8.8.8.8", 80)
    assert caught.value.context == {"timeout_threshold_ms": 2000}


async def test_a_name_without_addresses_is_a_dns_error() -> None:
    with pytest.raises(DNSError):
        await backend(Names(a_example=[[]]), Wire()).connect_tcp("a.example", 80)


async def test_a_lookup_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    class Silent:
        async def resolve(self, name: str) -> Sequence[IPAddress]:
            await trio.sleep_forever()
            raise AssertionError

    network = GuardedBackend(FetchLimits(resolve_seconds=3), AddressPolicy(), Silent())
    with pytest.raises(DNSError) as caught:
        await network.connect_tcp("a.example", 80)
    assert trio.current_time() == pytest.approx(3)
    assert caught.value.context == {"timeout_threshold_ms": 3000}


async def test_a_closed_stream_is_closed_once_and_counted_once() -> None:
    wire = Wire()
    network = backend(Names(), wire)
    stream = await network.connect_tcp("8.8.8.8", 80)
    assert network.open_connections == 1
    await stream.aclose()
    await stream.aclose()
    assert network.open_connections == 0
    with pytest.raises(httpcore2.ReadError):
        await stream.read(10)


# --- the system's resolver ------------------------------------------------------------------------


async def test_the_system_resolver_knows_localhost() -> None:
    addresses = await SystemResolver().resolve("localhost")
    assert ip_address("127.0.0.1") in addresses or ip_address("::1") in addresses


async def test_names_that_cannot_be_are_dns_errors() -> None:
    resolver = SystemResolver()
    for name in ("a" * 64 + ".invalid", "x" * 300):
        with pytest.raises(DNSError):
            await resolver.resolve(name)


async def test_slow_names_hold_only_their_own_share_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release, running, order = threading.Event(), threading.Semaphore(0), count()

    def getaddrinfo(name: bytes, *_: object, **__: object) -> object:
        if name.endswith(b"slow.example"):
            running.release()
            release.wait(10)
        next(order)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(FetchLimits(resolver_threads=8, resolver_threads_per_domain=3))
    try:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(resolver.resolve, f"host{number}.slow.example")
            for _ in range(3):
                await trio.to_thread.run_sync(running.acquire)
            assert resolver.busy_threads == 3
            with trio.fail_after(5):
                for number in range(10):
                    assert await resolver.resolve(f"www.fast{number}.example") == [
                        ip_address("8.8.8.8")
                    ]
            # Their callers leave; the threads are busy all the same, and still counted.
            nursery.cancel_scope.cancel()
        assert resolver.busy_threads == 3
    finally:
        release.set()
    with trio.fail_after(5):
        while resolver.busy_threads:
            await trio.sleep(0.001)
    assert not resolver._domains
    assert not resolver._users


def test_an_address_is_told_from_a_name() -> None:
    assert parse_address("8.8.8.8") == ip_address("8.8.8.8")
    assert parse_address("8.8.8.8.example") is None
