"""Fetching through outgoing proxies: HTTP and SOCKS 5, good ones and bad ones."""

import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any

import attrs
import pytest
import trio
import trustme

from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    PageError,
    ProxyFailure,
)
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher, open_fetcher
from eventmesh_trio.pipeline.network.dial import connect_tcp
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.tunnel import OutgoingProxy, without_credentials
from eventmesh_trio.wire.requests import CrawlOptions

OPTIONS = CrawlOptions()
ORIGIN = "198.51.100.7"  # where the origin is said to be; only the proxy knows the way
KINDS = ("http", "socks5")
SECRET = "http://me:s3cret%20word@127.0.0.1"


@attrs.define(eq=False)
class World:
    """An origin that says how it was asked, and a proxy in front of it that says the same."""

    kind: str
    username: str = ""
    password: str = ""
    answer: bytes | None = None  # instead of what a proxy answers to the request for a connection
    port: int = 0
    origin_port: int = 0
    tunnels: list[tuple[str, int]] = attrs.field(factory=list)
    heads: list[bytes] = attrs.field(factory=list)
    asked: list[bytes] = attrs.field(factory=list)
    open: int = 0
    tls: ssl.SSLContext | None = None

    async def serve_origin(self, transport: trio.SocketStream) -> None:
        stream: trio.abc.Stream = transport
        if self.tls is not None:
            stream = trio.SSLStream(transport, self.tls, server_side=True, https_compatible=True)
        async with stream:
            while head := await stream.receive_some(65536):
                self.heads.append(bytes(head))
                target = head.split()[1]
                if target.startswith(b"/to/"):
                    await stream.send_all(
                        b"HTTP/1.1 302 F\r\nContent-Length: 0\r\nLocation: http://%b\r\n\r\n"
                        % target[4:]
                    )
                else:
                    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")

    async def serve_proxy(self, stream: trio.SocketStream) -> None:
        self.open += 1
        try:
            async with stream:
                if await (self._http(stream) if self.kind == "http" else self._socks(stream)):
                    await self._relay(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the fetcher left, as it may
        finally:
            self.open -= 1

    async def _http(self, stream: trio.SocketStream) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await stream.receive_some(1)
            if not data:
                return False
            head += data
        self.asked.append(head)
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        assert method == b"CONNECT"
        if self.answer is not None:
            await stream.send_all(self.answer)
            return False
        token = base64.b64encode(f"{self.username}:{self.password}".encode())
        if self.username and b"Proxy-Authorization: Basic " + token not in head:
            await stream.send_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return False
        host, _, port = target.decode().rpartition(":")
        self.tunnels.append((host, int(port)))
        await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        return True

    async def _socks(self, stream: trio.SocketStream) -> bool:
        async def receive(count: int) -> bytes:
            data = b""
            while len(data) < count:
                more = await stream.receive_some(count - len(data))
                if not more:
                    raise trio.BrokenResourceError
                data += more
            self.asked.append(data)
            return data

        _, methods = await receive(2)
        offered = await receive(methods)
        if self.username:
            if 2 not in offered:
                await stream.send_all(b"\x05\xff")
                return False
            await stream.send_all(b"\x05\x02")
            _, length = await receive(2)
            username = await receive(length)
            password = await receive((await receive(1))[0])
            right = (username, password) == (self.username.encode(), self.password.encode())
            await stream.send_all(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return False
        else:
            await stream.send_all(b"\x05\x00")
        _, _, _, kind = await receive(4)
        if kind == 3:
            host = (await receive((await receive(1))[0])).decode()
        else:
            host = str(ip_address(await receive(4 if kind == 1 else 16)))
        port = int.from_bytes(await receive(2), "big")
        if self.answer is not None:
            await stream.send_all(self.answer)
            return False
        self.tunnels.append((host, port))
        await stream.send_all(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        return True

    async def _relay(self, stream: trio.SocketStream) -> None:
        origin = await trio.open_tcp_stream("127.0.0.1", self.origin_port)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            try:
                async for data in source:
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # one end left: so does the other
            nursery.cancel_scope.cancel()

        async with origin, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, origin)
            nursery.start_soon(pump, origin, stream)


@attrs.define
class Names:
    table: dict[str, Sequence[str]]

    async def resolve(self, name: str) -> list[IPAddress]:
        await trio.lowlevel.checkpoint()
        if name not in self.table:
            raise DNSError("the host name has no address")
        return [ip_address(address) for address in self.table[name]]


@asynccontextmanager
async def open_world(
    kind: str,
    *,
    credentials: str = "",
    names: dict[str, Sequence[str]] | None = None,
    proxy: str = "",
    connect: Callable[[IPAddress, int], Awaitable[trio.abc.Stream]] = connect_tcp,
    ssl_context: ssl.SSLContext | None = None,
    limits: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[World, HTTPFetcher]]:
    world = World(kind, **settings)
    async with trio.open_nursery() as nursery:
        for serve, name in ((world.serve_origin, "origin_port"), (world.serve_proxy, "port")):
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            setattr(world, name, listeners[0].socket.getsockname()[1])
        where = proxy or f"{kind}://{credentials}127.0.0.1:{world.port}"
        async with open_fetcher(
            FetchLimits(proxy=where.replace("PORT", str(world.port)), **(limits or {})),
            AddressPolicy(allow_private=("198.51.100.0/24", "2001:db8::/32")),
            resolver=Names(names or {"site.example": [ORIGIN]}),
            connect=connect,
            ssl_context=ssl_context,
        ) as fetcher:
            yield world, fetcher
        with trio.fail_after(2):
            while world.open:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


async def failure(fetcher: HTTPFetcher, url: str = "http://site.example/") -> PageError:
    with trio.fail_after(5):
        try:
            page = await fetcher.fetch(url, OPTIONS)
        except PageError as error:
            assert fetcher.statistics().open_connections == 0
            return error
    raise AssertionError(f"a page came: {page.status}")


# --- The way through ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_the_proxy_is_asked_for_the_judged_address_and_the_origin_for_the_name(
    kind: str,
) -> None:
    async with open_world(kind) as (world, fetcher):
        for _ in range(2):
            page = await fetcher.fetch("http://site.example:8080/a", OPTIONS)
            assert page.body == b"page"
        assert world.tunnels == [(ORIGIN, 8080)]  # one connection, used twice
        assert b"Host: site.example:8080\r\n" in world.heads[0]
        assert b"Proxy-" not in b"".join(world.heads)


@pytest.mark.parametrize("kind", KINDS)
async def test_tls_is_spoken_to_the_origin_through_the_proxy(kind: str) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("site.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with open_world(kind, tls=server, ssl_context=client) as (world, fetcher):
        page = await fetcher.fetch("https://site.example/", OPTIONS)
        assert page.body == b"page"
        assert world.tunnels == [(ORIGIN, 443)]


@pytest.mark.parametrize("kind", KINDS)
async def test_ipv6_goes_through_as_well(kind: str) -> None:
    async with open_world(kind) as (world, fetcher):
        assert (await fetcher.fetch("http://[2001:db8::7]/", OPTIONS)).body == b"page"
        assert world.tunnels == [("[2001:db8::7]" if kind == "http" else "2001:db8::7", 80)]


@pytest.mark.parametrize("kind", KINDS)
async def test_credentials_are_shown_to_the_proxy_and_to_nobody_else(kind: str) -> None:
    async with open_world(
        kind, credentials="me:s3cret%20word@", username="me", password="s3cret word"
    ) as (world, fetcher):
        assert (await fetcher.fetch("http://site.example/", OPTIONS)).body == b"page"
        assert b"s3cret" not in b"".join(world.heads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("credentials", ["", "me:wrong@"])
async def test_a_proxy_that_wants_other_credentials_is_told_of_without_them(
    kind: str, credentials: str
) -> None:
    async with open_world(kind, credentials=credentials, username="me", password="right") as (
        world,
        fetcher,
    ):
        error = await failure(fetcher)
        assert isinstance(error, ProxyFailure)
        assert "credentials" in str(error)
        assert "wrong" not in str(error)
        assert world.tunnels == []


# --- The guard ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/",
        "http://inside.example/",
        "http://both.example/",
        "http://site.example:22/",
        "http://site.example/to/10.0.0.1/",
        "http://site.example/to/inside.example/",
    ],
)
async def test_what_may_not_be_dialled_no_proxy_is_asked_for(kind: str, url: str) -> None:
    names = {
        "site.example": [ORIGIN],
        "inside.example": ["10.0.0.1"],
        "both.example": [ORIGIN, "192.168.0.1"],
    }
    async with open_world(kind, names=names) as (world, fetcher):
        with pytest.raises(BlockedAddress):
            await fetcher.fetch(url, OPTIONS)
        assert world.tunnels == ([(ORIGIN, 80)] if "/to/" in url else [])


async def test_the_proxys_own_address_is_the_operators_choice() -> None:
    """It is on loopback here, which no fetch may reach; by its name too."""
    names = {"site.example": [ORIGIN], "proxy.internal": ["127.0.0.1"]}
    async with open_world("http", proxy="http://proxy.internal:PORT", names=names) as (
        world,
        fetcher,
    ):
        assert (await fetcher.fetch("http://site.example/", OPTIONS)).body == b"page"
        with pytest.raises(BlockedAddress):
            await fetcher.fetch(f"http://proxy.internal:{world.port}/", OPTIONS)


@pytest.mark.parametrize("kind", KINDS)
async def test_names_that_cannot_be_resolved_are_left_to_the_proxy_only_where_it_may(
    kind: str,
) -> None:
    async with open_world(kind) as (world, fetcher):
        assert isinstance(await failure(fetcher, "http://far.example/"), DNSError)
        assert world.tunnels == []
    names = {"site.example": [ORIGIN], "inside.example": ["10.0.0.1"]}
    async with open_world(kind, names=names, limits={"proxy_resolves": True}) as (world, fetcher):
        assert (await fetcher.fetch("http://far.example/", OPTIONS)).body == b"page"
        assert (await fetcher.fetch("http://site.example/", OPTIONS)).body == b"page"
        assert world.tunnels == [("far.example", 80), (ORIGIN, 80)]
        with pytest.raises(BlockedAddress):  # what can be resolved is judged
            await fetcher.fetch("http://inside.example/", OPTIONS)
        with pytest.raises(BlockedAddress):
            await fetcher.fetch("http://10.0.0.1/", OPTIONS)


# --- Proxies that are no good -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("http", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", NetworkFailure),
        ("http", b"HTTP/1.1 503 Unavailable\r\n\r\n", NetworkFailure),
        ("http", b"HTTP/1.1 504 Timeout\r\n\r\n", NetworkFailure),
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n", ProxyFailure),
        ("http", b"HTTP/1.1 200 OK\r\n\r\nunasked", ProxyFailure),
        ("http", b"220 mail.example ESMTP\r\n", ProxyFailure),
        ("http", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, ProxyFailure),
        ("http", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, ProxyFailure),
        ("http", b"", ProxyFailure),
        ("http", b"HTTP/1.1 2", ProxyFailure),
        ("socks5", b"\x05\x01\x00\x01" + bytes(6), NetworkFailure),
        ("socks5", b"\x05\x04\x00\x01" + bytes(6), NetworkFailure),
        ("socks5", b"\x05\x05\x00\x01" + bytes(6), NetworkFailure),
        ("socks5", b"\x05\x02\x00\x01" + bytes(6), ProxyFailure),
        ("socks5", b"\x05\x63\x00\x01" + bytes(6), ProxyFailure),
        ("socks5", b"\x05", ProxyFailure),
        ("socks5", b"\x05\x00\x00\x01\x7f", ProxyFailure),
        ("socks5", b"", ProxyFailure),
    ],
    ids=lambda value: repr(value)[:32],
)
async def test_each_answer_of_a_proxy_is_told_as_what_it_means(
    kind: str, answer: bytes, expected: type[PageError]
) -> None:
    async with open_world(kind, answer=answer) as (_, fetcher):
        assert type(await failure(fetcher)) is expected


async def test_a_target_that_the_proxy_cannot_reach_is_tried_at_its_other_addresses() -> None:
    names = {"site.example": ["198.51.100.1", "198.51.100.2"]}
    async with open_world("http", names=names, answer=b"HTTP/1.1 502 No\r\n\r\n") as (
        world,
        fetcher,
    ):
        assert "failed" in str(await failure(fetcher))
        targets = [head.split()[1] for head in world.asked]
        assert targets == [b"198.51.100.1:80", b"198.51.100.2:80"]


async def test_a_proxy_that_is_not_there_is_no_fault_of_the_origins() -> None:
    async def nobody(_: IPAddress, __: int) -> trio.abc.Stream:
        raise ConnectionRefusedError

    async with open_world("http", connect=nobody) as (_, fetcher):
        for _ in range(8):
            assert isinstance(await failure(fetcher), ProxyFailure)
        circuits = fetcher.statistics().circuits
        assert (circuits.open, circuits.closed) == (0, 0)
    async with open_world("http", proxy="http://gone.internal:3128") as (_, fetcher):
        assert "name" in str(await failure(fetcher))


async def test_a_proxy_that_does_not_accept_is_told_from_a_target_that_does_not() -> None:
    async def silence(_: IPAddress, __: int) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError("it sleeps for ever")

    async with open_world("http", connect=silence, limits={"connect_seconds": 0.2}) as (_, fetcher):
        assert isinstance(await failure(fetcher), ProxyFailure)

    async def deaf(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, deaf, 0, host="127.0.0.1"))
        proxy = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        limits = {"connect_seconds": 0.2}
        async with open_world("http", proxy=proxy, limits=limits) as (_, fetcher):
            assert isinstance(await failure(fetcher), FetchTimeout)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_at_any_moment_nothing_is_left_open(kind: str) -> None:
    async with open_world(kind) as (world, fetcher):
        for number in range(20):
            with trio.move_on_after(number / 4000):
                await fetcher.fetch("http://site.example/", OPTIONS)
        assert fetcher.statistics().open_connections <= 1
        assert world.open >= 0  # and `open_world` waits until it is 0


# --- The setting --------------------------------------------------------------------------------


def test_a_proxys_url_is_read_in_its_parts() -> None:
    proxy = OutgoingProxy.parse("socks5://me:a%3Ab%40c@[2001:db8::1]:1080")
    assert attrs.astuple(proxy) == ("socks5", "2001:db8::1", 1080, "me", "a:b@c")
    assert OutgoingProxy.parse("http://proxy.internal:3128/").username == ""


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "ftp://s3cret@proxy:21",
        "https://me:s3cret@proxy:443",
        "http://me:s3cret@proxy",
        "http://me:s3cret@:3128",
        "http://me:s3cret@proxy:99999",
        "http://me:s3cret@proxy:3128/path",
        "http://me:s3cret@[::1:3128",
        f"http://me:s3cret{'x' * 256}@proxy:3128",
        "http://m%3Ae:s3cret@proxy:3128",
    ],
)
def test_what_is_no_proxy_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="proxy") as caught:
        FetchLimits(proxy=text)
    assert "s3cret" not in str(caught.value)


def test_credentials_are_in_no_repr() -> None:
    url = f"{SECRET}:3128"
    assert without_credentials(url) == "http://***@127.0.0.1:3128"
    assert without_credentials("socks5://proxy:1080") == "socks5://proxy:1080"
    assert without_credentials("") == ""
    for shown in (repr(FetchLimits(proxy=url)), repr(OutgoingProxy.parse(url))):
        assert "s3cret" not in shown
        assert "127.0.0.1" in shown
