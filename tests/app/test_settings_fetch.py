"""Each setting under ``fetch`` and what it changes, towards origins in memory and by mock time."""

import gzip
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from eventmesh_trio.app.config_command import config
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.errors import (
    CircuitOpen,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    PageError,
    TooLarge,
    TooManyRedirects,
)
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher, open_fetcher
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.resolver import SystemResolver, open_resolver
from eventmesh_trio.pipeline.network.stub_resolver import StubResolver
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.origin import open_origin
from tests.helpers.settled import certificates, settled, shows

OPTIONS = CrawlOptions()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
URL = "http://192.0.2.1/"


@attrs.define(eq=False)
class Visit:
    """One connection, as its origin sees it."""

    stream: trio.abc.Stream

    async def request(self) -> bytes:
        """The next request head; ``b""`` at the end of the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await self.stream.receive_some(65536)
            if not data:
                return b""
            head += data
        return head

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def wait_closed(self) -> None:
        while await self.stream.receive_some(65536):
            pass


Script = Callable[[Visit], Awaitable[None]]


@attrs.define(eq=False)
class World:
    """A fetcher with these settings, and an origin behind every address that ``up`` says is."""

    fetcher: HTTPFetcher
    connections: int = 0
    open: int = 0

    async def fetch(self, url: str = URL) -> bytes:
        return (await self.fetcher.fetch(url, OPTIONS)).body


@asynccontextmanager
async def open_world(
    *assignments: str,
    script: Script,
    up: Callable[[IPAddress], bool] = lambda _: True,
    addresses: Sequence[str] = ("192.0.2.1",),
    lookup_seconds: float = 0.0,
    lockstep: bool = False,
    hanging: bool = False,
) -> AsyncIterator[World]:
    world: World

    class Resolver:
        async def resolve(self, name: str) -> Sequence[IPAddress]:
            await trio.sleep(lookup_seconds)
            return [ip_address(address) for address in addresses]

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        if not up(address):
            if hanging:
                await trio.sleep_forever()
            raise ConnectionRefusedError
        client, server = lockstep_stream_pair() if lockstep else memory_stream_pair()
        nursery.start_soon(serve, server)
        return client

    async def serve(stream: trio.abc.Stream) -> None:
        world.connections += 1
        world.open += 1
        try:
            await script(Visit(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the fetcher left, as it may
        finally:
            world.open -= 1
            await trio.aclose_forcefully(stream)

    fetch = settled("fetch.allow_private=192.0.2.0/24", *assignments).fetch
    policy = AddressPolicy(allow_private=fetch.allow_private)
    async with (
        trio.open_nursery() as nursery,
        open_fetcher(
            fetch,
            policy,
            user_agent=fetch.user_agent,
            resolver=Resolver(),
            connect=connect,
            ssl_context=certificates(),
        ) as fetcher,
    ):
        world = World(fetcher)
        yield world
        nursery.cancel_scope.cancel()


def reply(body: bytes = b"page", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    length = b"Content-Length: %d" % len(body)
    head = [b"HTTP/1.1 " + status, b"Content-Type: text/html", length, *fields, b"", b""]
    return b"\r\n".join(head) + body


def answering(response: bytes) -> Script:
    """An origin that answers every request alike, and keeps its connections."""

    async def script(visit: Visit) -> None:
        while await visit.request():
            await visit.send(response)

    return script


def silent(head: bytes = b"") -> Script:
    """An origin that says this much, and no more."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(head)
        await visit.wait_closed()

    return script


async def outcome(setting: str, script: Script, **world: Any) -> bytes | PageError:
    async with open_world(setting, script=script, **world) as opened:
        try:
            return await opened.fetch()
        except PageError as error:
            return error


async def seconds_to_fail(kind: type[PageError], setting: str, **world: Any) -> float:
    """How long a fetch takes to fail in this way."""
    async with open_world(setting, **{"script": silent(), **world}) as opened:
        began = trio.current_time()
        with pytest.raises(kind):
            await opened.fetch()
        return trio.current_time() - began


# --- Times -------------------------------------------------------------------------------------


@shows("fetch.resolve_seconds")
async def test_a_name_may_take_resolve_seconds(autojump_clock: MockClock):
    async with open_world("fetch.resolve_seconds=2", script=silent(), lookup_seconds=60) as world:
        began = trio.current_time()
        with pytest.raises(DNSError):
            await world.fetch("http://name.example/")
        assert trio.current_time() - began == pytest.approx(2, abs=0.01)


@shows("fetch.connect_seconds")
async def test_a_tls_handshake_may_take_connect_seconds(autojump_clock: MockClock):
    async with open_world("fetch.connect_seconds=2", script=silent()) as world:
        began = trio.current_time()
        with pytest.raises(FetchTimeout):
            await world.fetch("https://192.0.2.1/")
        assert trio.current_time() - began == pytest.approx(2, abs=0.01)


@shows("fetch.response_head_seconds")
async def test_a_response_head_may_take_response_head_seconds(autojump_clock: MockClock):
    seconds = await seconds_to_fail(FetchTimeout, "fetch.response_head_seconds=2")
    assert seconds == pytest.approx(2, abs=0.01)


@shows("fetch.idle_read_seconds")
async def test_a_body_may_stand_still_for_idle_read_seconds(autojump_clock: MockClock):
    script = silent(OK + b"Content-Length: 100\r\n\r\nx")
    seconds = await seconds_to_fail(FetchTimeout, "fetch.idle_read_seconds=2", script=script)
    assert seconds == pytest.approx(2, abs=0.01)


@shows("fetch.write_seconds")
async def test_sending_a_request_may_take_write_seconds(autojump_clock: MockClock):
    async def deaf(visit: Visit) -> None:
        await trio.sleep_forever()

    seconds = await seconds_to_fail(
        FetchTimeout, "fetch.write_seconds=2", script=deaf, lockstep=True
    )
    assert seconds == pytest.approx(2, abs=0.01)


# --- Sizes -------------------------------------------------------------------------------------


@shows("fetch.max_header_bytes")
async def test_a_response_head_has_no_more_than_max_header_bytes(autojump_clock: MockClock):
    script = answering(reply(b"page", b"X-Long: " + b"x" * 3000))
    assert await outcome("fetch.max_header_bytes=8KB", script) == b"page"
    assert isinstance(await outcome("fetch.max_header_bytes=2KB", script), TooLarge)


@shows("fetch.max_header_count")
async def test_a_response_head_has_no_more_than_max_header_count_fields(autojump_clock: MockClock):
    script = answering(reply(b"page", *(b"X-%d: 1" % n for n in range(20))))
    assert await outcome("fetch.max_header_count=22", script) == b"page"
    assert isinstance(await outcome("fetch.max_header_count=21", script), TooLarge)


@shows("fetch.max_body_bytes")
async def test_a_body_has_no_more_than_max_body_bytes(autojump_clock: MockClock):
    script = answering(reply(b"x" * 1000))
    assert await outcome("fetch.max_body_bytes=1000", script) == b"x" * 1000
    assert isinstance(await outcome("fetch.max_body_bytes=999", script), TooLarge)


@shows("fetch.max_decoded_bytes")
async def test_a_coding_expands_to_no_more_than_max_decoded_bytes(autojump_clock: MockClock):
    script = answering(reply(gzip.compress(b"x" * 9000), b"Content-Encoding: gzip"))
    assert await outcome("fetch.max_decoded_bytes=9000", script) == b"x" * 9000
    assert isinstance(await outcome("fetch.max_decoded_bytes=8999", script), TooLarge)


# --- Redirects ---------------------------------------------------------------------------------


async def counting_down(visit: Visit) -> None:
    """``/2`` leads to ``/1`` leads to ``/0``, a page."""
    while head := await visit.request():
        number = int(head.split()[1][1:])
        target = b"Location: /%d" % (number - 1)
        await visit.send(reply(b"", target, status=b"302 Found") if number else reply())


@shows("fetch.max_redirects")
async def test_max_redirects_are_followed_for_one_url(autojump_clock: MockClock):
    async with open_world("fetch.max_redirects=2", script=counting_down) as world:
        assert await world.fetch(f"{URL}2") == b"page"
        with pytest.raises(TooManyRedirects):
            await world.fetch(f"{URL}3")


@shows("fetch.max_discard_bytes")
@pytest.mark.parametrize(("most", "connections"), [("64KB", 1), ("100", 2)])
async def test_a_redirects_body_over_max_discard_bytes_costs_its_connection(
    most: str, connections: int, autojump_clock: MockClock
):
    async def script(visit: Visit) -> None:
        while head := await visit.request():
            away = reply(b"x" * 1000, b"Location: /end", status=b"302 Found")
            await visit.send(reply() if b"/end" in head else away)

    async with open_world(f"fetch.max_discard_bytes={most}", script=script) as world:
        assert await world.fetch() == b"page"
        assert world.connections == connections


@shows("fetch.discard_seconds")
async def test_a_redirects_body_is_read_for_discard_seconds(autojump_clock: MockClock):
    async def script(visit: Visit) -> None:
        if b"/end" in await visit.request():
            await visit.send(reply())
        else:
            await visit.send(b"HTTP/1.1 302 F\r\nLocation: /end\r\nContent-Length: 99\r\n\r\n")
            await visit.wait_closed()

    async with open_world("fetch.discard_seconds=3", script=script) as world:
        began = trio.current_time()
        assert await world.fetch() == b"page"
        assert trio.current_time() - began == pytest.approx(3, abs=0.01)


# --- Connections -------------------------------------------------------------------------------


@shows("fetch.max_addresses")
async def test_max_addresses_of_a_name_are_tried(autojump_clock: MockClock):
    addresses = [f"192.0.2.{n}" for n in range(1, 6)]
    for most, works in ((4, False), (5, True)):
        async with open_world(
            f"fetch.max_addresses={most}",
            script=answering(reply()),
            addresses=addresses,
            up=lambda address: str(address) == "192.0.2.5",
        ) as world:
            if works:
                assert await world.fetch("http://name.example/") == b"page"
            else:
                with pytest.raises(NetworkFailure):
                    await world.fetch("http://name.example/")


@shows("fetch.next_address_seconds")
@pytest.mark.parametrize("seconds", [0.5, 2])
async def test_the_next_address_of_a_name_is_tried_after_next_address_seconds(
    seconds: float, autojump_clock: MockClock
):
    async with open_world(
        f"fetch.next_address_seconds={seconds}",
        script=answering(reply()),
        addresses=["192.0.2.1", "192.0.2.2"],
        up=lambda address: str(address) == "192.0.2.2",
        hanging=True,
    ) as world:
        began = trio.current_time()
        assert await world.fetch("http://name.example/") == b"page"
        assert trio.current_time() - began == pytest.approx(seconds)


@shows("fetch.max_connections")
@pytest.mark.parametrize("most", [2, 5])
async def test_no_more_than_max_connections_are_open_at_once(most: int, autojump_clock: MockClock):
    highest = 0

    async def script(visit: Visit) -> None:
        nonlocal highest
        while await visit.request():
            highest = max(highest, world.open)
            await trio.sleep(1)
            await visit.send(reply())

    async with open_world(f"fetch.max_connections={most}", script=script) as world:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(world.fetch)
        assert highest == most


@shows("fetch.max_idle_connections")
@pytest.mark.parametrize("most", [0, 3])
async def test_max_idle_connections_are_kept(most: int, autojump_clock: MockClock):
    async with open_world(f"fetch.max_idle_connections={most}", script=answering(reply())) as world:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(world.fetch)
        await trio.sleep(0.1)
        assert world.fetcher.statistics().open_connections == most


@shows("fetch.keep_alive_seconds")
@pytest.mark.parametrize(("seconds", "connections"), [(5, 2), (15, 1)])
async def test_an_idle_connection_is_used_again_within_keep_alive_seconds(
    seconds: int,
    connections: int,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
):
    # httpcore2 looks at the system's clock for this.
    monkeypatch.setattr("time.monotonic", trio.current_time)
    async with open_world(
        f"fetch.keep_alive_seconds={seconds}", script=answering(reply())
    ) as world:
        await world.fetch()
        await trio.sleep(10)
        await world.fetch()
        assert world.connections == connections


async def test_an_idle_connection_is_closed_after_keep_alive_seconds_though_nobody_asks(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
):
    monkeypatch.setattr("time.monotonic", trio.current_time)
    async with open_world("fetch.keep_alive_seconds=5", script=answering(reply())) as world:
        await world.fetch()
        await trio.sleep(4.9)
        assert world.fetcher.statistics().open_connections == 1
        await trio.sleep(5.2)  # looked for each five seconds
        assert world.fetcher.statistics().open_connections == 0
        await world.fetch()  # and again, after a time without any
        await trio.sleep(10.1)
        assert world.fetcher.statistics().open_connections == 0


async def test_a_connection_that_cannot_be_closed_ends_no_fetcher(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("time.monotonic", trio.current_time)
    async with open_world("fetch.keep_alive_seconds=5", script=answering(reply())) as world:
        await world.fetch()
        with monkeypatch.context() as patch:
            patch.setattr("eventmesh_trio.pipeline.fetching.connection.Connection.aclose", fail)
            await trio.sleep(10.1)
        assert "a connection could not be closed" in caplog.text
        assert await world.fetch() == b"page"


async def fail(connection: object) -> None:
    raise ValueError("a bug")


# --- Lookups -----------------------------------------------------------------------------------


async def most_lookups(
    monkeypatch: pytest.MonkeyPatch, names: Sequence[str], *settings: str
) -> int:
    """How many lookups run at once of these that take a while."""
    lock, release = threading.Lock(), threading.Event()
    now = most = 0

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        release.wait(5)
        with lock:
            now -= 1
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(settled(*settings).fetch)
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(resolver.resolve, name)
        with trio.move_on_after(0.2):
            await trio.sleep_forever()
        release.set()
    return most


@shows("fetch.resolver_threads")
async def test_resolver_threads_names_are_looked_up_at_once(monkeypatch: pytest.MonkeyPatch):
    names = [f"a.site{n}.example" for n in range(8)]
    assert await most_lookups(monkeypatch, names, "fetch.resolver_threads=3") == 3


@shows("fetch.resolver_threads_per_domain")
async def test_resolver_threads_per_domain_names_of_one_domain_are_looked_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
):
    names = [f"a{n}.site.example" for n in range(8)]
    assert await most_lookups(monkeypatch, names, "fetch.resolver_threads_per_domain=2") == 2


@shows("fetch.resolver")
@pytest.mark.parametrize(("resolver", "asks_system"), [("dns", False), ("system", True)])
async def test_names_are_looked_up_by_resolver(
    resolver: str, asks_system: bool, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def getaddrinfo(name: object, *_: object, **__: object) -> list[Any]:
        asked.append(name)
        return []

    async with open_resolver(settled(f"fetch.resolver={resolver}").fetch) as opened:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", getaddrinfo)
            found = await opened.resolve("a.localhost")
    assert (asked == [b"a.localhost"]) is asks_system
    assert (ip_address("127.0.0.1") in found) is not asks_system


@shows("fetch.max_lookups")
@pytest.mark.parametrize("most", [3, 20])
async def test_max_lookups_names_are_looked_up_at_once(most: int, monkeypatch: pytest.MonkeyPatch):
    now = highest = 0

    async def slowly(_: StubResolver, __: str) -> list[IPAddress]:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await trio.sleep(0.01)
        now -= 1
        return [ip_address("192.0.2.1")]

    monkeypatch.setattr(StubResolver, "_look_up", slowly)
    async with (
        open_resolver(settled(f"fetch.max_lookups={most}").fetch) as resolver,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(resolver.resolve, f"name{number}.example")
    assert highest == most


# --- Origins that do not answer -----------------------------------------------------------------


async def hanging_up(visit: Visit) -> None:
    await visit.request()


async def failures(world: World, url: str = URL) -> list[str]:
    """The types of errors until the circuit is open, that one included."""
    types = [""]
    while types[-1] != "circuit_open":
        with pytest.raises(PageError) as caught:
            await world.fetch(url)
        types.append(caught.value.type)
    return types[1:]


async def left_alone(world: World, url: str = URL) -> float | None:
    """For how many seconds from now its circuit is open."""
    with pytest.raises(CircuitOpen) as caught:
        await world.fetch(url)
    return caught.value.retry_after_seconds


@shows("fetch.breaker.max_failures")
@pytest.mark.parametrize("most", [1, 4])
async def test_an_origin_is_left_alone_after_max_failures(most: int, autojump_clock: MockClock):
    async with open_world(f"fetch.breaker.max_failures={most}", script=hanging_up) as world:
        assert await failures(world) == ["network_error"] * most + ["circuit_open"]
        assert world.connections == most


@shows("fetch.breaker.failure_memory_seconds")
@pytest.mark.parametrize(("seconds", "is_open"), [(5, False), (15, True)])
async def test_failures_are_in_a_row_within_failure_memory_seconds(
    seconds: int, is_open: bool, autojump_clock: MockClock
):
    settings = ("fetch.breaker.max_failures=2", f"fetch.breaker.failure_memory_seconds={seconds}")
    async with open_world(*settings, script=hanging_up) as world:
        for _ in range(2):
            with pytest.raises(NetworkFailure):
                await world.fetch()
            await trio.sleep(10 if world.connections == 1 else 0)
        assert world.fetcher.statistics().circuits.open == is_open


async def cool_downs(setting: str, count: int) -> list[float | None]:
    """For how long an origin is left alone that fails again and again."""
    found = []
    async with open_world(setting, script=hanging_up) as world:
        await failures(world)
        for _ in range(count):
            found.append(await left_alone(world))
            await trio.sleep(found[-1] or 0)
            with pytest.raises(NetworkFailure):
                await world.fetch()
    return found


@shows("fetch.breaker.cool_down_seconds")
async def test_an_origin_is_left_alone_for_cool_down_seconds_at_first(autojump_clock: MockClock):
    assert await cool_downs("fetch.breaker.cool_down_seconds=3", 3) == [3, 6, 12]


@shows("fetch.breaker.max_cool_down_seconds")
async def test_no_origin_is_left_alone_for_longer_than_max_cool_down_seconds(
    autojump_clock: MockClock,
):
    assert await cool_downs("fetch.breaker.max_cool_down_seconds=12", 4) == [5, 10, 12, 12]


@shows("fetch.breaker.max_origins")
@pytest.mark.parametrize("most", [1, 3])
async def test_the_failures_of_max_origins_are_remembered(most: int, autojump_clock: MockClock):
    async with open_world(f"fetch.breaker.max_origins={most}", script=hanging_up) as world:
        for number in range(4):
            await failures(world, f"http://192.0.2.{number}/")
        assert world.fetcher.statistics().circuits.open == most


# --- The way there ------------------------------------------------------------------------------


@shows("fetch.http2")
@pytest.mark.parametrize(("setting", "offered"), [("false", False), ("true", True)])
async def test_http2_is_offered_where_http2_says_so(
    setting: str, offered: bool, autojump_clock: MockClock
):
    hellos = []

    async def script(visit: Visit) -> None:
        hellos.append(await visit.stream.receive_some(65536))

    async with open_world(f"fetch.http2={setting}", script=script) as world:
        with pytest.raises(NetworkFailure):
            await world.fetch("https://192.0.2.1/")
    assert b"\x08http/1.1" in hellos[0]
    assert (b"\x02h2" in hellos[0]) is offered


async def proxying(visit: Visit) -> None:
    """A proxy and the origin behind it; the page is the target of the connection."""
    target = (await visit.request()).split()[1]
    await visit.send(b"HTTP/1.1 200 Connected\r\n\r\n")
    while await visit.request():
        await visit.send(reply(target))


@shows("fetch.proxy")
async def test_all_is_fetched_through_proxy(autojump_clock: MockClock):
    dialled = []

    def up(address: IPAddress) -> bool:
        dialled.append(str(address))
        return True

    proxy = "fetch.proxy=http://me:secret@10.0.0.1:3128"
    async with open_world(proxy, script=proxying, up=up) as world:
        assert await world.fetch("http://name.example:81/") == b"192.0.2.1:81"
    assert dialled == ["10.0.0.1"]


@shows("fetch.proxy_resolves")
async def test_names_are_left_to_the_proxy_where_proxy_resolves_says_so(autojump_clock: MockClock):
    proxy = "fetch.proxy=http://10.0.0.1:3128"
    for resolves in (False, True):
        setting = f"fetch.proxy_resolves={str(resolves).lower()}"
        async with open_world(proxy, setting, script=proxying, addresses=()) as world:
            if resolves:
                assert await world.fetch("http://far.example/") == b"far.example:80"
            else:
                with pytest.raises(DNSError):
                    await world.fetch("http://far.example/")


@pytest.mark.parametrize("style", ["toml", "json", "text"])
def test_a_proxys_credentials_are_shown_by_no_command(style: str, tmp_path: Path):
    file = tmp_path / "eventmesh.toml"
    file.write_text('[fetch]\nproxy = "http://me:s3cret@proxy.internal:3128"\n')
    command = ["docs"] if style == "text" else ["show", "--format", style, "--config", str(file)]
    result = CliRunner().invoke(config, command)
    assert result.exit_code == 0
    assert "s3cret" not in result.output
    assert ("http://***@proxy.internal:3128" in result.output) is (style != "text")
    file.write_text('[fetch]\nproxy = "ftp://me:s3cret@proxy.internal:3128"\n')
    result = CliRunner().invoke(config, ["check", "--config", str(file)])
    assert result.exit_code == 2
    assert "fetch.proxy" in result.output
    assert "s3cret" not in result.output


# --- Whom, and as whom -------------------------------------------------------------------------


@shows("fetch.allow_private")
@pytest.mark.parametrize(("allowed", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8", 0)])
async def test_private_networks_are_fetched_that_allow_private_names(allowed: str, status: int):
    with open_origin() as origin:
        async with open_mesh(settled(f"fetch.allow_private={allowed}")) as mesh:
            try:
                page = await mesh.ports.fetcher.fetch(origin.url("/page/1"), OPTIONS)
                assert page.status == status
            except PageError as error:
                assert (error.type, status) == ("blocked_address", 0)


@shows("fetch.user_agent")
async def test_origins_are_told_user_agent(autojump_clock: MockClock):
    heads = []

    async def script(visit: Visit) -> None:
        while head := await visit.request():
            heads.append(head.lower())
            await visit.send(reply())

    async with open_world("fetch.user_agent=reader/2 (+http://me.example)", script=script) as world:
        await world.fetch()
        own = CrawlOptions(user_agent="other/1")
        await world.fetcher.fetch(URL, own)
    assert b"user-agent: reader/2 (+http://me.example)\r\n" in heads[0]
    assert b"user-agent: other/1\r\n" in heads[1]
