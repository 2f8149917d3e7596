"""What may be dialled, and that nothing else ever is."""

import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from itertools import count

import httpcore2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import BlockedAddress, DNSError, FetchTimeout, NetworkFailure
from eventmesh_trio.pipeline.dial import GuardedBackend
from eventmesh_trio.pipeline.fetch_limits import FetchLimits
from eventmesh_trio.pipeline.guard import BAD_PORTS, AddressPolicy, IPAddress, parse_address
from eventmesh_trio.pipeline.resolver import SystemResolver
from eventmesh_trio.wire.urls import parse_url


def _words(text: str) -> list[str]:
    return text.split()


REFUSED_URLS = _words("""
http://127.0.0.1/ http://127.1/ http://127.0.1/ http://127.255.255.254/ http://127.0.0.1./
http://2130706433/ http://017700000001/ http://0x7f000001/ http://0x7f.1/ http://0x7f.0.0.1/
http://0x7F.0x0.0x0.0x1/ http://0177.0.0.1/ http://0177.0.0.01/ http://0177.1/ http://0x7f.0.1/
http://127.0.0.0x1/ http://127.0.00.1/ http://00000177.0.0.1/ http://1%327.0.0.1/
http://%31%32%37.0.0.1/ http://127%2e0%2e0%2e1/ http://%30x7f.1/ http://127。0。0。1/
http://１２７.0.0.1/ http://①②⑦.0.0.1/ http://①②⑦。⓪。⓪。①/ http://0／ http://0/ http://0.0.0.0/
http://00/ http://0x0/ http://0.0/ http://0.0.0.1/ http://0.255.255.255/ http:\\\\127.0.0.1\\
http:/127.0.0.1/ http:127.0.0.1 http:///127.0.0.1/ http://user@127.0.0.1/
http://example.org@127.0.0.1/ http://example.org:80@127.0.0.1/ http://127.0.0.1:8080/
http://127.0.0.1#@example.org/ http://127.0.0.1?@example.org/ http://127.0.0.1\\@example.org/
http://[::1]/ http://[0:0:0:0:0:0:0:1]/ http://[::0001]/ http://[::]/ http://[0::0]/
http://[::127.0.0.1]/ http://[::7f00:1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/
http://[0:0:0:0:0:ffff:127.0.0.1]/ http://[::FFFF:0:0]/ http://[::ffff:a00:1]/
http://[::ffff:169.254.169.254]/ http://[::ffff:a9fe:a9fe]/ http://[::ffff:192.168.1.1]/
http://[::ffff:100.64.0.1]/ http://[::ffff:0:127.0.0.1]/ http://[::8.8.8.8]/ http://10.0.0.1/
http://10.255.255.255/ http://10.1/ http://167772161/ http://0xa000001/ http://012.0.0.1/
http://0xa.0.0.1/ http://172.16.0.1/ http://172.31.255.255/ http://172.16.1/ http://2886729729/
http://0xac100001/ http://192.168.0.1/ http://192.168.255.255/ http://192.168.1/
http://192.11010049/ http://3232235521/ http://0xc0a80001/ http://0300.0250.0.1/
http://169.254.169.254/ http://169.254.43518/ http://169.16689662/ http://2852039166/
http://0xa9fea9fe/ http://0xa9.0xfe.0xa9.0xfe/ http://0251.0376.0251.0376/ http://169.254.0.1/
http://169.254.169.254.:80/ http://169.254.170.2/ http://169.254.255.255/ http://168.63.129.16/
http://100.64.0.1/ http://100.100.100.200/ http://100.127.255.255/ http://192.0.0.1/
http://192.0.0.8/ http://192.0.0.170/ http://192.0.0.192/ http://192.0.2.1/ http://192.0.2.255/
http://192.88.99.1/ http://198.18.0.1/ http://198.19.255.255/ http://198.51.100.1/
http://203.0.113.1/ http://203.0.113.255/ http://224.0.0.1/ http://224.0.0.251/
http://239.255.255.250/ http://239.255.255.255/ http://240.0.0.1/ http://250.1.2.3/
http://255.255.255.254/ http://255.255.255.255/ http://4294967295/ http://0xffffffff/
http://037777777777/ http://[fe80::1]/ http://[fe80::a9fe:a9fe]/ http://[febf::1]/
http://[fec0::1]/ http://[feff::1]/ http://[fc00::1]/ http://[fd00::1]/ http://[fd00:ec2::254]/
http://[fdff:ffff::1]/ http://[ff00::1]/ http://[ff02::1]/ http://[ff02::fb]/ http://[ff0e::1]/
http://[100::1]/ http://[100:0:0:1::1]/ http://[2001::1]/
http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ http://[2001:0:7f00:1::]/
http://[2001:0:808:808::f7f7:f7f7]/ http://[2001:2::1]/ http://[2001:10::1]/ http://[2001:20::1]/
http://[2001:30::1]/ http://[2001:1ff:ffff::1]/ http://[2001:db8::1]/
http://[2001:0db8:85a3::8a2e:370:7334]/ http://[2001:db8:ffff::]/ http://[2002:7f00:1::]/
http://[2002:7f00:1::1]/ http://[2002:a00:1::]/ http://[2002:a9fe:a9fe::]/
http://[2002:c0a8:101::]/ http://[2002:808:808::]/ http://[3ffe::1]/ http://[3fff::1]/
http://[3fff:fff::1]/ http://[64:ff9b::127.0.0.1]/ http://[64:ff9b::7f00:1]/
http://[64:ff9b::a00:1]/ http://[64:ff9b::169.254.169.254]/ http://[64:ff9b::c0a8:101]/
http://[64:ff9b::]/ http://[64:ff9b::ffff:ffff]/ http://[64:ff9b::e000:1]/ http://[64:ff9b:1::1]/
http://[64:ff9b:1::808:808]/ http://[64:ff9b:1:ffff::7f00:1]/ http://[64:ff9b:2::1]/
http://[1::1]/ http://[200::1]/ http://[400::1]/ http://[4000::1]/ http://[5f00::1]/
http://[8000::1]/ http://[e000::1]/ http://[::2]/ http://[::ffff:0:8.8.8.8]/ http://8.8.8.8:22/
http://8.8.8.8:25/ http://example.org:6379@8.8.8.8:6667/ https://8.8.8.8:53/ http://8.8.8.8:0/
http://example.org:23/ http://example.org:10080/
""")

ALLOWED_URLS = _words("""
http://8.8.8.8/ http://1.1.1.1/ https://9.9.9.9/ http://0x08080808/ http://134744072/
http://8.8.2056/ http://9.255.255.255/ http://11.0.0.0/ http://100.63.255.255/ http://100.128.0.0/
http://126.255.255.255/ http://128.0.0.1/ http://169.253.255.255/ http://169.255.0.1/
http://172.15.255.255/ http://172.32.0.1/ http://191.255.255.255/ http://192.0.1.1/
http://192.0.3.1/ http://192.167.255.255/ http://192.169.0.1/ http://198.17.255.255/
http://198.20.0.1/ http://198.51.101.1/ http://203.0.112.255/ http://203.0.114.1/
http://223.255.255.255/ http://[::ffff:8.8.8.8]/ http://[64:ff9b::8.8.8.8]/
http://[2001:4860:4860::8888]/ http://[2606:4700:4700::1111]/ http://[2001:200::1]/
http://[2001:db7::1]/ http://[2001:db9::1]/ http://[2003::1]/ http://[2a00:1450::1]/
http://[3ffd::1]/ http://[2620:fe::fe]/ http://8.8.8.8:8080/ http://8.8.8.8:8443/
http://10.example.org/ http://127.example.org/ http://192.168.example.org/
http://example.org/v10.2/ http://example.org/2010.html http://example.org/127.0.0.1/
http://example.org/?url=http://127.0.0.1/ http://localhost.example.org/
http://169-254-169-254.example.org/ http://example.org/#127.0.0.1 http://127.0.0.1.example.org/
http://xn--bcher-kva.example/
""")


def judged(text: str, policy: AddressPolicy) -> None:
    policy.judge_url(parse_url(text))


def test_the_tables_are_as_long_as_they_should_be() -> None:
    assert len(set(REFUSED_URLS)) >= 150
    assert len(set(ALLOWED_URLS)) >= 30


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
    assert len(REFUSED_URLS) - len(unparsed) >= 150, unparsed


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


def test_the_ports_are_a_setting() -> None:
    judged("http://8.8.8.8:22/", AddressPolicy(blocked_ports=frozenset({80})))
    with pytest.raises(BlockedAddress):
        judged("http://8.8.8.8/", AddressPolicy(blocked_ports=frozenset({80})))
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


async def test_a_mapped_address_is_dialled_as_the_ipv4_address_it_is() -> None:
    wire = Wire()
    await backend(Names(), wire).connect_tcp("::ffff:8.8.8.8", 80)
    assert wire.dialled == [("8.8.8.8", 80)]


async def test_addresses_are_tried_in_order_up_to_the_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names(a_example=[["8.8.8.1", "8.8.8.2", "8.8.8.3"]])
    wire = Wire("8.8.8.1", hanging=["8.8.8.2"])
    await backend(names, wire, connect_seconds=3).connect_tcp("a.example", 80)
    assert [address for address, _ in wire.dialled] == ["8.8.8.1", "8.8.8.2", "8.8.8.3"]
    assert trio.current_time() == pytest.approx(3)
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
