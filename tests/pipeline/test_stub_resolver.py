"""Looking names up: against name servers of ours on loopback, over UDP and TCP."""

import os
import random
import socket
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from struct import pack

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import DNSError
from eventmesh_trio.pipeline.network import dns_channel, name_files
from eventmesh_trio.pipeline.network.dns_message import (
    Question,
    RecordType,
    decode_reply,
    encode_query,
)
from eventmesh_trio.pipeline.network.name_files import NameFiles, ResolverFile, parse_hosts
from eventmesh_trio.pipeline.network.stub_resolver import StubResolver, open_stub_resolver

A, AAAA, CNAME = RecordType.A, RecordType.AAAA, RecordType.CNAME
Record = tuple[str, RecordType, str]


# --- A name server ------------------------------------------------------------------------------


def name_bytes(name: str) -> bytes:
    labels = (label.encode() for label in name.split("."))
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def reply_bytes(
    query: bytes, *records: Record, code: int = 0, flags: int = 0x8180, question: bytes = b""
) -> bytes:
    """An answer to a query, with these records."""
    question = question or query[12 : len(query) - (11 if query[11] else 0)]  # before the options
    head = query[:2] + pack("!HHHHH", flags | code, 1, len(records), 0, 0)
    body = b""
    for owner, kind, value in records:
        content = name_bytes(value) if kind is CNAME else ip_address(value).packed
        body += name_bytes(owner) + pack("!HHIH", kind, 1, 60, len(content)) + content
    return head + question + body


def asked(query: bytes) -> tuple[str, RecordType]:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += length + 1
    return ".".join(labels), RecordType(int.from_bytes(query[at + 1 : at + 3], "big"))


Zone = Callable[[bytes, str, RecordType], "bytes | list[bytes] | None"]


@attrs.define(eq=False)
class Server:
    """Answers from a zone, a function of the query: answers, or None for silence."""

    zone: Zone
    port: int = 0
    queries: list[tuple[str, RecordType]] = attrs.field(factory=list)
    ports: set[int] = attrs.field(factory=set)
    streams: int = 0

    async def run_udp(self, udp: trio.socket.SocketType) -> None:
        with udp:
            while True:
                query, peer = await udp.recvfrom(4096)
                self.queries.append(asked(query))
                self.ports.add(peer[1])
                answer = self.zone(query, *asked(query))
                answers = answer if isinstance(answer, list) else [answer]
                for one in answers:
                    if one is not None:
                        await udp.sendto(one, peer)

    async def run_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.streams += 1
            query = (await stream.receive_some(4096))[2:]
            records = [(asked(query)[0], A, f"192.0.2.{n % 250}") for n in range(100)]
            answer = reply_bytes(query, *(records if asked(query)[1] is A else []))
            answer = len(answer).to_bytes(2, "big") + answer
            await stream.send_all(answer[:500])
            await trio.sleep(0.01)
            await stream.send_all(answer[500:])


def free_port(hosts: Sequence[str]) -> int:
    """One that is free on all of them, for UDP and TCP, and that no client is given."""
    for port in random.sample(range(15000, 30000), 100):
        with ExitStack() as stack:
            try:
                for host in hosts:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@asynccontextmanager
async def open_servers(*zones: Zone) -> AsyncIterator[list[Server]]:
    """Name servers at 127.0.0.1, 127.0.0.2 and so on, all at one port."""
    servers = [Server(zone) for zone in zones]
    port = free_port([f"127.0.0.{number}" for number in range(1, len(zones) + 1)])
    async with trio.open_nursery() as nursery:
        for number, server in enumerate(servers, 1):
            host = f"127.0.0.{number}"
            udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            udp.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4 * 1024 * 1024)
            await udp.bind((host, port))
            server.port = port
            nursery.start_soon(server.run_udp, udp)
            await nursery.start(partial(trio.serve_tcp, server.run_tcp, port, host=host))
        yield servers
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_world(
    tmp_path: Path,
    *zones: Zone,
    hosts: str = "",
    options: str = "",
    seconds: float = 5.0,
    max_lookups: int = 4096,
) -> AsyncIterator[tuple[StubResolver, list[Server]]]:
    (tmp_path / "hosts").write_text(hosts)
    lines = [f"nameserver 127.0.0.{number}\n" for number in range(1, max(len(zones), 1) + 1)]
    (tmp_path / "resolv.conf").write_text("".join(lines) + options)
    files = NameFiles(tmp_path / "hosts", tmp_path / "resolv.conf")
    async with (
        open_servers(*zones) as servers,
        open_stub_resolver(
            resolve_seconds=seconds,
            max_lookups=max_lookups,
            files=files,
            port=servers[0].port if servers else 9,
        ) as resolver,
    ):
        yield resolver, servers


def table(**names: Sequence[str]) -> Zone:
    """A zone with the addresses of names, their dots written as ``_``."""

    def zone(query: bytes, name: str, kind: RecordType) -> bytes:
        known = names.get(name.replace(".", "_"))
        if known is None:
            return reply_bytes(query, code=3)
        version = 4 if kind is A else 6
        found = [text for text in known if ip_address(text).version == version]
        return reply_bytes(query, *((name, kind, text) for text in found))

    return zone


def silence(_: bytes, __: str, ___: RecordType) -> None:
    return None


async def addresses(resolver: StubResolver, name: str) -> list[str]:
    with trio.fail_after(8):
        return [str(address) for address in await resolver.resolve(name)]


async def failure(resolver: StubResolver, name: str) -> str:
    with pytest.raises(DNSError) as caught:
        await addresses(resolver, name)
    return str(caught.value)


# --- Answers ------------------------------------------------------------------------------------


async def test_both_families_are_asked_for_and_come_in_turn(tmp_path: Path) -> None:
    zone = table(site_example=["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"])
    async with open_world(tmp_path, zone) as (resolver, (server,)):
        found = await addresses(resolver, "SITE.example")
        assert sorted(found) == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]
        assert found.index("2001:db8::1") in (0, 1)
        assert sorted(server.queries) == [("site.example", A), ("site.example", AAAA)]


async def test_aliases_are_followed_and_nothing_else_is_believed(tmp_path: Path) -> None:
    def zone(query: bytes, name: str, kind: RecordType) -> bytes:
        if name == "circle.example":
            return reply_bytes(query, (name, CNAME, "a.example"), ("a.example", CNAME, name))
        records: list[Record] = [
            ("other.example", A, "10.0.0.1"),
            (name, CNAME, "one.example"),
            ("two.example", A, "192.0.2.7"),
            ("one.example", CNAME, "Two.Example"),
        ]
        return reply_bytes(query, *records)

    async with open_world(tmp_path, zone) as (resolver, _):
        assert await addresses(resolver, "site.example") == ["192.0.2.7"]
        assert await failure(resolver, "circle.example") == "the host name has no address"


async def test_a_name_that_is_not_there_is_known_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path, table(empty_example=[])) as (resolver, _):
        with trio.fail_after(1):
            for name in ("gone.example", "empty.example"):
                assert await failure(resolver, name) == "the host name has no address"


@pytest.mark.parametrize(
    "name", ["a" * 64 + ".example", "a..example", "x." * 130 + "y", "ü.example"]
)
async def test_what_no_query_can_hold_has_no_address(tmp_path: Path, name: str) -> None:
    async with open_world(tmp_path, silence) as (resolver, (server,)):
        assert "cannot" in await failure(resolver, name) or "can be" in await failure(
            resolver, name
        )
        assert server.queries == []


async def test_a_truncated_answer_is_asked_for_again_over_tcp(tmp_path: Path) -> None:
    def zone(query: bytes, _: str, kind: RecordType) -> bytes:
        return reply_bytes(query, flags=0x8380 if kind is A else 0x8180)

    async with open_world(tmp_path, zone) as (resolver, (server,)):
        assert len(await addresses(resolver, "large.example")) == 100
        assert server.streams == 1


async def test_one_family_that_is_never_answered_holds_up_the_other_for_a_moment(
    tmp_path: Path,
) -> None:
    def zone(query: bytes, name: str, kind: RecordType) -> bytes | None:
        return None if kind is AAAA else reply_bytes(query, (name, A, "192.0.2.1"))

    async with open_world(tmp_path, zone) as (resolver, _):
        began = trio.current_time()
        assert await addresses(resolver, "site.example") == ["192.0.2.1"]
        assert 0.2 < trio.current_time() - began < 1


# --- Servers that are no good -------------------------------------------------------------------


async def test_an_answer_that_is_not_to_the_question_is_not_heard(tmp_path: Path) -> None:
    def zone(query: bytes, name: str, kind: RecordType) -> list[bytes]:
        other = name_bytes("other.example") + query[-15:-11]
        wrong_id = bytes((query[0] ^ 0xFF, query[1]))
        bad = reply_bytes(query, (name, kind, "10.0.0.1" if kind is A else "::1"))
        good = reply_bytes(query, *([(name, A, "192.0.2.1")] if kind is A else []))
        return [
            wrong_id + bad[2:],
            reply_bytes(query, (name, A, "10.0.0.1"), question=other),
            query,
            bad[:40],
            bad[:-1],
            b"",
            b"\0",
            good,
            bad,
        ]

    async with open_world(tmp_path, zone) as (resolver, _):
        with trio.fail_after(1):
            assert await addresses(resolver, "site.example") == ["192.0.2.1"]


@pytest.mark.parametrize("first", ["silent", "gone", "failing", "refusing"])
async def test_another_server_is_asked_where_one_does_not_answer(
    tmp_path: Path, first: str
) -> None:
    def bad(query: bytes, _: str, __: RecordType) -> bytes | None:
        codes = {"failing": 2, "refusing": 5}
        return reply_bytes(query, code=codes[first]) if first in codes else None

    good = table(site_example=["192.0.2.1"])
    async with open_world(tmp_path, bad, good) as (resolver, servers):
        if first == "gone":
            text = (tmp_path / "resolv.conf").read_text()
            (tmp_path / "resolv.conf").write_text(text.replace("127.0.0.1", "127.0.0.9"))
        assert await addresses(resolver, "site.example") == ["192.0.2.1"]
        assert len(servers[1].queries) == 2


async def test_a_server_that_does_not_know_extended_queries_is_asked_plainly(
    tmp_path: Path,
) -> None:
    good = table(site_example=["192.0.2.1"])

    def zone(query: bytes, name: str, kind: RecordType) -> bytes:
        return reply_bytes(query, code=1) if query[11] else good(query, name, kind)

    async with open_world(tmp_path, zone) as (resolver, _):
        with trio.fail_after(1):
            assert await addresses(resolver, "site.example") == ["192.0.2.1"]


@pytest.mark.parametrize("denied", [A, AAAA])
async def test_a_name_that_is_denied_for_one_family_only_has_the_addresses_of_the_other(
    tmp_path: Path, denied: RecordType
) -> None:
    other = {A: "192.0.2.1", AAAA: "2001:db8::1"}[AAAA if denied is A else A]

    def zone(query: bytes, name: str, kind: RecordType) -> bytes:
        if kind is denied:
            return reply_bytes(query, code=3)
        return reply_bytes(query, (name, kind, other))

    async with open_world(tmp_path, zone) as (resolver, _):
        assert await addresses(resolver, "odd.example") == [other]


async def test_a_server_that_has_no_address_here_leaves_nothing_open(tmp_path: Path) -> None:
    zone = table(site_example=["192.0.2.1"])
    async with open_world(tmp_path, zone) as (resolver, _):
        lines = "nameserver fe80::1%nowhere0\nnameserver 127.0.0.1\n"
        (tmp_path / "resolv.conf").write_text(lines)
        before = open_files()
        assert await addresses(resolver, "site.example") == ["192.0.2.1"]
        assert open_files() - before == 1  # to the other server


async def test_a_port_that_was_used_for_long_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_channel, "_SOCKET_SECONDS", 0.05)
    async with open_world(tmp_path, table(site_example=["192.0.2.1"])) as (resolver, (server,)):
        before = open_files()
        for _ in range(4):
            assert await addresses(resolver, "site.example") == ["192.0.2.1"]
            await trio.sleep(0.06)
        assert len(server.ports) == 4
        assert open_files() - before == 1


async def test_a_lost_packet_is_sent_again(tmp_path: Path) -> None:
    lost: set[RecordType] = set()
    good = table(site_example=["192.0.2.1"])

    def zone(query: bytes, name: str, kind: RecordType) -> bytes | None:
        if kind not in lost:
            lost.add(kind)
            return None
        return good(query, name, kind)

    async with open_world(tmp_path, zone) as (resolver, _):
        assert await addresses(resolver, "site.example") == ["192.0.2.1"]


async def test_a_lookup_that_nobody_answers_ends_in_time_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path, silence, seconds=0.3) as (resolver, _):
        assert "did not answer" in await failure(resolver, "site.example")
        assert resolver.lookups == 0


# --- Many at once -------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "slow", ["host{}.slow.example", "www.slow{}.example"], ids=["one zone", "a thousand zones"]
)
async def test_a_thousand_silent_names_delay_no_other(tmp_path: Path, slow: str) -> None:
    def zone(query: bytes, name: str, kind: RecordType) -> bytes | None:
        if "slow" in name:
            return None
        return reply_bytes(query, *([(name, A, "192.0.2.1")] if kind is A else []))

    async def give_up(name: str) -> None:
        with trio.move_on_after(20):
            try:
                await resolver.resolve(name)
            except DNSError:
                given_up.append(name)

    given_up: list[str] = []
    seconds: list[float] = []
    async with open_world(tmp_path, zone, seconds=3) as (resolver, (server,)):
        before = open_files()
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(give_up, slow.format(number))
            await trio.sleep(0.5)
            for number in range(50):
                began = trio.current_time()
                assert await addresses(resolver, f"fast{number}.example") == ["192.0.2.1"]
                seconds.append(trio.current_time() - began)
            assert resolver.lookups == 1000
            assert open_files() - before < 100
        assert len(given_up) == 1000
        assert len(server.ports) > 10  # of the queries, which are hard to guess so
    # Behind threads they would all have waited for longer than a lookup may take.
    assert statistics.median(seconds) < 0.5
    assert max(seconds) < 5.0


async def test_callers_of_one_name_share_a_lookup_and_a_cancelled_one_disturbs_nobody(
    tmp_path: Path,
) -> None:
    found: list[list[str]] = []

    async def one() -> None:
        found.append(await addresses(resolver, "site.example"))

    zone = table(site_example=["192.0.2.1"])
    async with open_world(tmp_path, zone) as (resolver, (server,)):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(one)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert found == [["192.0.2.1"]] * 50
        assert len(server.queries) <= 4


async def test_no_more_than_max_lookups_are_under_way_and_the_others_come_after(
    tmp_path: Path,
) -> None:
    names = [f"name{number}.example" for number in range(20)]
    under_way: list[int] = []

    def zone(query: bytes, name: str, kind: RecordType) -> bytes:
        under_way.append(resolver._places.borrowed_tokens)
        return reply_bytes(query, *([(name, A, "192.0.2.1")] if kind is A else []))

    async with open_world(tmp_path, zone, max_lookups=3) as (resolver, _):
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(addresses, resolver, name)
        assert max(under_way) == 3
        assert resolver.lookups == 0


async def test_the_callers_exception_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with open_stub_resolver(resolve_seconds=1, max_lookups=1):
            raise RuntimeError("mine")


# --- Files --------------------------------------------------------------------------------------


async def test_the_hosts_file_comes_first_and_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_files, "_LOOK_SECONDS", 0.0)
    (tmp_path / "hosts").write_text("192.0.2.9 box box.lan # 192.0.2.8 no\n2001:db8::9 box\n")
    files = NameFiles(tmp_path / "hosts", tmp_path / "missing")
    async with open_stub_resolver(resolve_seconds=1, max_lookups=1, files=files) as resolver:
        assert sorted(await addresses(resolver, "BOX")) == ["192.0.2.9", "2001:db8::9"]
        assert await addresses(resolver, "box.lan.") == ["192.0.2.9"]
        (tmp_path / "hosts").write_text("192.0.2.10 box.lan\n")
        assert await addresses(resolver, "box.lan") == ["192.0.2.10"]


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.b.localhost"])
async def test_localhost_is_this_machine_and_is_not_asked_for(tmp_path: Path, name: str) -> None:
    async with open_world(tmp_path, silence) as (resolver, (server,)):
        assert sorted(await addresses(resolver, name)) == ["127.0.0.1", "::1"]
        assert server.queries == []


async def test_the_search_list_is_followed_as_the_c_library_does(tmp_path: Path) -> None:
    zone = table(box_lan_example=["192.0.2.1"], site_example=["192.0.2.2"], box_two=["192.0.2.3"])
    options = "search lan.example two\noptions ndots:1 timeout:1\n"
    async with open_world(tmp_path, zone, options=options) as (resolver, (server,)):
        assert await addresses(resolver, "box") == ["192.0.2.1"]
        assert await addresses(resolver, "site.example") == ["192.0.2.2"]
        assert "box" not in {name for name, _ in server.queries}
        assert await failure(resolver, "box.") == "the host name has no address"


async def test_a_name_too_long_for_the_search_list_is_looked_up_as_it_is(tmp_path: Path) -> None:
    name = ".".join(["x" * 61] * 4)
    zone = table(**{name.replace(".", "_"): ["192.0.2.1"]})
    options = "search lan.example\noptions ndots:5\n"
    async with open_world(tmp_path, zone, options=options) as (resolver, _):
        assert await addresses(resolver, name) == ["192.0.2.1"]


def test_what_the_files_say_is_read_as_the_c_library_reads_it() -> None:
    read = ResolverFile.parse(
        "# a comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nonsense\n"
        "nameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\ndomain old.example\n"
        "search A.example. b.example\noptions rotate ndots:2 ndots:x edns0\n"
    )
    assert read.servers == ("192.0.2.1", "fe80::1%eth0", "192.0.2.3")
    assert read.search == ("a.example", "b.example")
    assert read.candidates("x.y") == ("x.y.a.example", "x.y.b.example", "x.y")
    assert read.candidates("x.y.z") == ("x.y.z", "x.y.z.a.example", "x.y.z.b.example")
    assert read.candidates("x.") == ("x",)
    assert ResolverFile.parse("") == ResolverFile()
    hosts = parse_hosts("127.0.0.1\tlocalhost\nnot-an-address name\n\n::1 LOCALHOST localhost\n")
    assert {name: list(map(str, found)) for name, found in hosts.items()} == {
        "localhost": ["127.0.0.1", "::1"]
    }


# --- Messages -----------------------------------------------------------------------------------

QUESTION = Question("site.example", A)


@given(st.binary(max_size=600))
def test_any_bytes_are_an_answer_or_a_value_error(data: bytes) -> None:
    query = encode_query(7, QUESTION)
    for text in (data, query[:2] + b"\x81\x80\0\1\0\5\0\0\0\0" + query[12:-11] + data):
        try:
            reply = decode_reply(text, QUESTION)
        except ValueError:
            continue
        assert len(reply.addresses) <= 256


def test_pointers_that_lead_in_circles_are_not_followed_for_ever() -> None:
    query = encode_query(7, QUESTION)
    head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:-11]
    at = len(head)
    circle = pack("!H", 0xC000 | at)
    for name in (circle, b"\x01a" + circle, b"\x3f" + b"a" * 63 + circle):
        with pytest.raises(ValueError, match="name"):
            decode_reply(head + name + bytes(20), QUESTION)


@given(st.integers(0, 0xFFFF), st.sampled_from([A, AAAA]))
def test_a_query_is_answered_by_its_own_number(query_id: int, kind: RecordType) -> None:
    question = Question("a.b.example", kind)
    query = encode_query(query_id, question)
    assert asked(query) == ("a.b.example", kind)
    text = "192.0.2.1" if kind is A else "2001:db8::1"
    reply = decode_reply(reply_bytes(query, ("A.b.Example", kind, text)), question)
    assert (reply.query_id, reply.code) == (query_id, 0)
    assert list(map(str, reply.addresses)) == [text]


async def test_what_goes_wrong_with_one_name_is_told_of_that_name_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look_up(self: StubResolver, name: str) -> Sequence[object]:
        await trio.lowlevel.checkpoint()
        if name == "bad.example":
            raise RuntimeError("can't start new thread")
        return (ip_address("192.0.2.1"),)

    monkeypatch.setattr(StubResolver, "_look_up", look_up)
    async with open_stub_resolver(resolve_seconds=5, max_lookups=8) as resolver:
        with pytest.raises(DNSError):
            await resolver.resolve("bad.example")
        assert list(await resolver.resolve("good.example")) == [ip_address("192.0.2.1")]
