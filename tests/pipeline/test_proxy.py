"""The checking proxy: what passes, what never does, and what a page may take of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    TooLarge,
)
from eventmesh_trio.pipeline.network.dial import GuardedBackend, connect_tcp
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.proxy import Passage, ProxyLimits, open_proxy
from eventmesh_trio.wire.urls import parse_url
from tests.helpers.guard_tables import ALLOWED_URLS, REFUSED_URLS
from tests.helpers.proxied import CRLF, PUBLIC, Browser, Visit, open_world, reply, shown

ROOMY = ProxyLimits(max_connections=5000, max_page_connections=5000)


# --- Who may pass ---------------------------------------------------------------------------------


async def test_without_a_passage_nothing_is_asked_for_and_a_challenge_is_the_answer() -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage, world.proxy.open_passage() as other:
            wrong = [
                [],
                [shown(passage, "")],
                [shown(passage, other.password)],
                [("Proxy-Authorization", "Basic !!!")],
                [("Proxy-Authorization", f"Bearer {passage.password}")],
                [("Authorization", shown(passage)[1])],
            ]
            for method, target in (("GET", "http://a.example/"), ("CONNECT", "a.example:443")):
                for fields in wrong:
                    browser = world.connect()
                    assert await browser.ask(method, target, *fields) == 407
                    assert browser.fields["proxy-authenticate"].startswith("Basic realm=")
            assert passage.statistics().requests == 0
        assert world.proxy.statistics().unauthorised == 12
    assert world.asked == world.dialled == []


async def test_after_the_challenge_the_same_connection_may_show_its_passage() -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage:
            for method, target in (("GET", "http://a.example/"), ("CONNECT", "a.example:443")):
                browser = world.connect()
                assert await browser.ask(method, target) == 407
                assert await browser.read() == b""
                assert await browser.ask(method, target, shown(passage)) == 200
            browser = world.connect()
            assert await browser.ask("POST", "http://a.example/", body=b"x" * 50_000) == 407
            await browser.read()
            assert await browser.ask("GET", "http://a.example/", shown(passage)) == 200


async def test_who_shows_no_passage_three_times_is_cut_off(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        browser = world.connect()
        for _ in range(3):
            assert await browser.ask("GET", "http://a.example/") == 407
            assert await browser.read() == b""
        assert await browser.is_closed()


async def test_a_passage_ends_with_its_block_and_takes_its_connections_with_it() -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage:
            tunnel, kept = world.connect(), world.connect()
            assert await tunnel.ask("CONNECT", "a.example:443", shown(passage)) == 200
            assert await kept.ask("GET", "http://a.example/", shown(passage)) == 200
            await kept.read()
            assert passage.statistics().open_connections == 2
            assert world.proxy.statistics().passages == 1
        with trio.fail_after(5):
            assert await tunnel.is_closed()
            assert await kept.is_closed()
            assert await world.connect().ask("GET", "http://a.example/", shown(passage)) == 407
            while world.open or world.proxy.statistics().open_connections > 1:
                await trio.sleep(0)
        assert world.proxy.statistics().passages == 0


# --- What passes ----------------------------------------------------------------------------------


async def test_a_request_is_sent_on_as_its_origin_expects_it() -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            status = await browser.ask(
                "GET",
                "http://A.example:8080/a%20b?c=d",
                shown(passage),
                ("Proxy-Connection", "keep-alive"),
                ("Connection", "keep-alive, X-Hop"),
                ("X-Hop", "1"),
                ("Upgrade", "websocket"),
                ("TE", "trailers"),
                ("Accept", "text/html"),
            )
            assert (status, await browser.read()) == (200, b"page")
            assert passage.failure("a.example", 8080) is None
    assert world.dialled == [(PUBLIC, 8080)]
    (head,) = world.heads
    lines = head.strip().split(b"\r\n")
    assert lines[0] == b"GET /a%20b?c=d HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:]) == [
        b"accept: text/html",
        b"host: a.example:8080",
    ]


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_pass_both_ways(chunked: bool) -> None:
    async def script(visit: Visit) -> None:
        head = await visit.request()
        if chunked:
            assert b"transfer-encoding: chunked" in head.lower()
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                body += await visit.stream.receive_some(65536)
        else:
            body = await visit.body(200_000)
        assert body.count(b"x") == 200_000
        await visit.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n"
            b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\npage\r\n0\r\n\r\n"
        )

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            fields = [shown(passage), ("Expect", "100-continue")]
            if chunked:
                fields.append(("Transfer-Encoding", "chunked"))
                request = h11.Request(
                    method="POST", target="http://a.example/", headers=[("Host", "a"), *fields]
                )
                await browser.send(browser.wire.send(request) or b"")
                event = await browser.event()
                assert isinstance(event, h11.InformationalResponse)
                await browser.send(browser.wire.send(h11.Data(data=b"x" * 200_000)) or b"")
                await browser.send(browser.wire.send(h11.EndOfMessage()) or b"")
                assert await browser.status() == 200
            else:
                assert (
                    await browser.ask("POST", "http://a.example/", fields[0], body=b"x" * 200_000)
                    == 200
                )
            assert await browser.read() == b"page"
            counts = passage.statistics()
    assert counts.requests == 1
    assert counts.sent_bytes > 200_000
    assert 100 < counts.received_bytes < 300


@pytest.mark.parametrize(
    ("method", "response", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.0 404 Not Found\r\n\r\nto the end", b"to the end"),
    ],
)
async def test_responses_of_every_framing_pass(method: str, response: bytes, body: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response)

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            status = await browser.ask(method, "http://a.example/", shown(passage))
            assert status == int(response.split()[1])
            assert await browser.read() == body


async def test_a_tunnel_carries_bytes_both_ways_and_each_end_by_itself() -> None:
    async def script(visit: Visit) -> None:
        received = b""
        while data := await visit.stream.receive_some(65536):
            received += data
            await visit.send(data.upper())
        await visit.send(b"%d" % len(received))

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            name, value = shown(passage)
            request = f"CONNECT a.example:443 HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n"
            await browser.send(request.encode() + b"early")  # which belongs to the tunnel
            head = b""
            while not head.endswith(CRLF):
                head += await browser.stream.receive_some(1)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length" not in head.lower()
            assert b"transfer-encoding" not in head.lower()
            received = b""
            while len(received) < 5:
                received += await browser.stream.receive_some(100)
            await browser.send(b" and late")
            await browser.stream.send_eof()
            while data := await browser.stream.receive_some(100):
                received += data
            assert received == b"EARLY AND LATE14"
            assert passage.statistics().sent_bytes == 14
            assert passage.statistics().received_bytes == 16
    assert world.dialled == [(PUBLIC, 443)]


async def test_a_connection_to_an_origin_serves_again_and_one_that_has_ended_is_replaced() -> None:
    async def script(visit: Visit) -> None:
        for _ in range(2):  # and then it closes, without a word
            await visit.request()
            await visit.send(reply())

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            for _ in range(5):
                assert await browser.ask("GET", "http://a.example/", shown(passage)) == 200
                assert await browser.read() == b"page"
            assert len(world.dialled) == 3
            # Another origin, another connection; and never another page's.
            assert await browser.ask("GET", "http://b.example/", shown(passage)) == 200
            await browser.read()
            with world.proxy.open_passage() as other:
                assert await browser.ask("GET", "http://b.example/", shown(other)) == 200
                await browser.read()
            assert len(world.dialled) == 5


# --- What never passes ----------------------------------------------------------------------------


async def test_no_url_that_leads_inside_is_dialled_in_any_spelling() -> None:
    asked = 0
    async with open_world(limits=ROOMY) as world:
        with world.proxy.open_passage() as passage:
            for text in REFUSED_URLS:
                name, value = shown(passage)
                authority = (
                    text.replace("\\", "/").split("/")[2] if text.count("/") > 1 else text[5:]
                )
                for head in (f"GET {text}", f"CONNECT {authority}:80", f"CONNECT {authority}"):
                    browser = world.connect()
                    line = f"{head} HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n"
                    await browser.send(line.encode())
                    answer = await browser.stream.receive_some(65536)
                    # What is no request at all is not answered.
                    assert answer.split(b" ")[1:2] in ([b"403"], [b"400"], []), (head, answer)
                    asked += answer.startswith(b"HTTP/1.1 403")
                    assert b"127" not in answer
    assert world.dialled == []
    assert asked >= 300


async def test_all_that_only_looks_so_is_dialled() -> None:
    async with open_world(limits=ROOMY) as world:
        with world.proxy.open_passage() as passage:
            for text in ALLOWED_URLS:
                url = parse_url(text)
                host = f"[{url.host}]" if ":" in url.host else url.host
                target = f"{host}:{url.port}"
                assert await world.connect().ask("CONNECT", target, shown(passage)) == 200, target
                if url.scheme == "http":
                    browser = world.connect()
                    assert await browser.ask("GET", url.href, shown(passage)) == 200, url
    assert len(world.dialled) == sum(1 + text.startswith("http:") for text in ALLOWED_URLS)


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
async def test_a_name_that_turns_inwards_is_dialled_as_it_was_judged_or_not_at_all(
    method: str,
) -> None:
    async with open_world(evil_example=[[PUBLIC], ["127.0.0.1"]]) as world:
        target = "evil.example:80" if method == "CONNECT" else "http://evil.example/"
        with world.proxy.open_passage() as passage:
            assert await world.connect().ask(method, target, shown(passage)) == 200
            assert world.dialled == [(PUBLIC, 80)]
            assert world.asked == ["evil.example"]
            assert await world.connect().ask(method, target, shown(passage)) == 403
            assert world.dialled == [(PUBLIC, 80)]
            failure = passage.failure("evil.example", 80)
            assert isinstance(failure, BlockedAddress)
            assert passage.statistics().refused == 1


@pytest.mark.parametrize("inside", ["10.0.0.1", "::1", "64:ff9b::7f00:1", "fd00::1"])
async def test_one_address_inside_among_public_ones_refuses_the_name(inside: str) -> None:
    async with open_world(a_example=[[PUBLIC, inside]]) as world:
        with world.proxy.open_passage() as passage:
            assert await world.connect().ask("CONNECT", "a.example:443", shown(passage)) == 403
    assert world.dialled == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "https://a.example/"),
        ("GET", "ftp://a.example/"),
        ("GET", "file:///etc/passwd"),
        ("OPTIONS", "*"),
        ("GET", "a.example:80"),
        ("CONNECT", "a.example"),
        ("CONNECT", "a.example:"),
        ("CONNECT", "a.example:x"),
        ("CONNECT", "a.example:99999"),
        ("CONNECT", "http://a.example:80/"),
        ("CONNECT", "a.example:80/"),
        ("CONNECT", "user@a.example:80"),
        ("CONNECT", "a%2eexample:80"),
        ("CONNECT", "[::1%25lo]:80"),
        ("CONNECT", "[::1:80"),
        ("CONNECT", ":80"),
        ("CONNECT", "/run/docker.sock:80"),
    ],
)
async def test_what_is_no_request_to_a_proxy_is_refused(method: str, target: str) -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            assert await browser.ask(method, target, shown(passage)) == 400
            assert await browser.read() == b""
            assert await browser.ask("GET", "http://a.example/", shown(passage)) == 200
    assert world.dialled == [(PUBLIC, 80)]


async def test_closed_ports_are_out_of_reach_and_the_proxys_own_is_one() -> None:
    everything = AddressPolicy(allow_private=("0.0.0.0/0", "::/0"), deny_ports=())
    async with open_world(policy=everything) as world:
        world.proxy.close_port(9222)
        with world.proxy.open_passage() as passage:
            for port in (world.proxy.port, 9222):
                target = f"127.0.0.1:{port}"
                assert await world.connect().ask("CONNECT", target, shown(passage)) == 403
                assert await world.connect().ask("GET", f"http://{target}/", shown(passage)) == 403
            assert await world.connect().ask("CONNECT", "127.0.0.1:9223", shown(passage)) == 200
    assert world.dialled == [("127.0.0.1", 9223)]


async def test_each_failure_is_told_by_its_kind() -> None:
    async with open_world(none_example=[[]]) as world:
        with world.proxy.open_passage() as passage:
            for target, status, kind in (
                ("none.example:443", 502, DNSError),
                ("a.example:9999", 502, NetworkFailure),
                ("a.example:25", 403, BlockedAddress),
                ("localhost:80", 403, BlockedAddress),
            ):
                browser = world.connect()
                assert await browser.ask("CONNECT", target, shown(passage)) == status
                assert await browser.read() == b""
                host, _, port = target.partition(":")
                assert type(passage.failure(host, int(port))) is kind
            assert passage.failure("a.example", 443) is None
            assert passage.statistics().refused == world.proxy.statistics().refused == 4


async def test_failures_are_remembered_up_to_a_number() -> None:
    async with open_world() as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            for number in range(300):
                target = f"http://10.0.{number // 256}.{number % 256}/"
                assert await browser.ask("GET", target, shown(passage)) == 403
                await browser.read()
            assert len(passage._failures) == 256
            assert passage.failure("10.0.0.0", 80) is None
            assert passage.failure("10.0.1.43", 80) is not None


# --- Origins that misbehave -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (b"", 502),
        (b"SSH-2.0-OpenSSH\r\n", 502),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502),
        (reply(b"", b"Proxy-Authenticate: Basic", status=b"407 Who"), 502),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 502),
    ],
)
async def test_a_response_that_is_none_is_a_bad_gateway(response: bytes, status: int) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response)

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            assert await browser.ask("GET", "http://a.example/", shown(passage)) == status
            assert isinstance(passage.failure("a.example", 80), NetworkFailure)
            assert "proxy-authenticate" not in browser.fields


async def test_a_response_that_breaks_off_is_cut_off_and_never_completed() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npage\r\n")

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            assert await browser.ask("GET", "http://a.example/", shown(passage)) == 200
            with pytest.raises(h11.RemoteProtocolError):
                await browser.read()
            assert isinstance(passage.failure("a.example", 80), NetworkFailure)


async def test_a_refusal_while_the_body_is_still_sent_reaches_the_browser() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(reply(b"too large", b"Connection: close", status=b"413 No"))

    async with open_world(script) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            request = h11.Request(
                method="POST",
                target="http://a.example/",
                headers=[("Host", "a"), shown(passage), ("Content-Length", "10000000")],
            )
            await browser.send(browser.wire.send(request) or b"")
            assert await browser.status() == 413
            assert await browser.read() == b"too large"


# --- Limits ---------------------------------------------------------------------------------------


async def test_a_page_that_loads_too_much_is_cut_and_gets_nothing_more(
    autojump_clock: MockClock,
) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        while True:
            await visit.send(b"x" * 1000)

    async with open_world(script) as world:
        with world.proxy.open_passage(max_received_bytes=10_000) as passage:
            tunnel = world.connect()
            assert await tunnel.ask("CONNECT", "a.example:443", shown(passage)) == 200
            await tunnel.send(b"GET / HTTP/1.1" + CRLF)
            received = 0
            while data := await tunnel.stream.receive_some(65536):
                received += len(data)
            assert received <= 10_000
            assert passage.is_exhausted
            assert isinstance(passage.failure("a.example", 443), TooLarge)
            assert passage.statistics().received_bytes <= 10_000 + 65536
            assert await world.connect().ask("GET", "http://b.example/", shown(passage)) == 403
        with world.proxy.open_passage() as other:
            assert await world.connect().ask("CONNECT", "a.example:443", shown(other)) == 200
    assert len(world.dialled) == 2


async def seconds_until_closed(browser: Browser) -> float:
    began = trio.current_time()
    with trio.fail_after(1000):
        try:
            while await browser.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
    return trio.current_time() - began


async def test_heads_and_silence_have_their_limits(autojump_clock: MockClock) -> None:
    limits = ProxyLimits(head_seconds=5, idle_seconds=20, max_header_bytes=8000)
    async with open_world(limits=limits) as world:
        assert await seconds_until_closed(world.connect()) == pytest.approx(5)
        # A head that drips is not waited for beyond its time.
        dripping = world.connect()
        with world.proxy.open_passage() as passage:

            async def drip() -> None:
                with trio.move_on_after(60):
                    try:
                        for byte in b"GET http://a.example/ HTTP/1.1\r\nA: " + b"b" * 100:
                            await dripping.send(bytes([byte]))
                            await trio.sleep(1)
                    except trio.BrokenResourceError:
                        pass

            world.nursery.start_soon(drip)
            assert await seconds_until_closed(dripping) == pytest.approx(5)
            kept = world.connect()
            assert await kept.ask("GET", "http://a.example/", shown(passage)) == 200
            await kept.read()
            assert await seconds_until_closed(kept) == pytest.approx(20)
            tunnel = world.connect()
            assert await tunnel.ask("CONNECT", "a.example:443", shown(passage)) == 200
            await trio.sleep(15)
            await tunnel.send(b"GET / HTTP/1.1" + CRLF)
            assert await seconds_until_closed(tunnel) == pytest.approx(20)
            large = world.connect()
            await large.send(b"GET http://a.example/ HTTP/1.1\r\nX: " + b"x" * 20_000)
            assert await seconds_until_closed(large) == 0


async def test_an_origin_that_says_nothing_is_waited_for_as_long_as_it_may_be(
    autojump_clock: MockClock,
) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await trio.sleep_forever()

    async with open_world(script, limits=ProxyLimits(idle_seconds=7)) as world:
        with world.proxy.open_passage() as passage:
            began = trio.current_time()
            assert await world.connect().ask("GET", "http://a.example/", shown(passage)) == 504
            assert trio.current_time() - began == pytest.approx(7)
            assert isinstance(passage.failure("a.example", 80), FetchTimeout)


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5), st.booleans())
def test_no_bytes_make_it_dial_without_a_passage_nor_fail(pieces: list[bytes], start: bool) -> None:
    async def main() -> None:
        async with open_world() as world:
            browser = world.connect()
            with trio.move_on_after(1):
                try:
                    if start:
                        await browser.send(b"CONNECT a.example:443 HTTP/1.1\r\n")
                    for piece in pieces:
                        await browser.send(piece)
                    await browser.stream.send_eof()
                    while await browser.stream.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass
            assert world.dialled == world.asked == []

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- On real sockets ------------------------------------------------------------------------------


@asynccontextmanager
async def open_echo() -> AsyncIterator[int]:
    """A server on loopback that says everything again; its port."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


class Loopback:
    """Every name is a public address, and every public address is this machine's loopback."""

    async def resolve(self, name: str) -> Sequence[IPAddress]:
        await trio.lowlevel.checkpoint()
        return [ip_address(PUBLIC)]

    async def connect(self, address: IPAddress, port: int) -> trio.abc.Stream:
        assert str(address) == PUBLIC
        return await connect_tcp(ip_address("127.0.0.1"), port)


def loopback_backend() -> GuardedBackend:
    here = Loopback()
    return GuardedBackend(FetchLimits(), AddressPolicy(), here, here.connect)


async def test_over_real_sockets_a_hundred_tunnels_carry_their_bytes_and_nothing_is_left() -> None:
    limits = ProxyLimits(max_page_connections=100)
    async with open_echo() as port, open_proxy(loopback_backend(), limits) as proxy:
        assert proxy.address == f"http://127.0.0.1:{proxy.port}"

        async def visit(number: int, passage: Passage) -> None:
            stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
            async with stream:
                browser = Browser(stream)
                assert await browser.ask("CONNECT", f"a.example:{port}", shown(passage)) == 200
                sent = b"%d " % number * 20_000
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, sent)
                    received = b""
                    while len(received) < len(sent):
                        received += await stream.receive_some(65536)
                assert received == sent

        with trio.fail_after(30), proxy.open_passage() as passage:
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(visit, number, passage)
            counts = passage.statistics()
            assert counts.sent_bytes == counts.received_bytes
            assert counts.requests == 100
            while passage.statistics().open_connections:
                await trio.sleep(0.01)
        assert proxy.statistics().open_connections == 0
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def test_the_end_of_the_proxy_is_the_end_of_its_connections_at_once() -> None:
    async with open_echo() as port:
        async with open_proxy(loopback_backend()) as proxy:
            with proxy.open_passage() as passage:
                stream = await trio.open_tcp_stream("127.0.0.1", proxy.port)
                browser = Browser(stream)
                assert await browser.ask("CONNECT", f"a.example:{port}", shown(passage)) == 200
        with trio.fail_after(1):
            assert await browser.is_closed()
        await stream.aclose()
