"""Fetching from origins on loopback that behave, and from many that do not."""

import gzip
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any, get_type_hints

import attrs
import pytest
import trio
import trustme
import zstandard

from eventmesh_trio.abc import Page, Validators
from eventmesh_trio.errors import (
    BlockedAddress,
    FetchTimeout,
    HTTPStatusError,
    NetworkFailure,
    PageError,
    TLSFailure,
    TooLarge,
    TooManyRedirects,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher, open_fetcher
from eventmesh_trio.pipeline.fetching.retry import (
    RetryLimits,
    asked_wait,
    fetch_with_retries,
)
from eventmesh_trio.pipeline.network.dial import connect_tcp
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import MAX_HEADER_BYTES, FetchLimits
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

OPTIONS = CrawlOptions()
LOOPBACK = AddressPolicy(allow_private=("127.0.0.0/8",))
MIB = 1024 * 1024


@attrs.define(eq=False)
class Visit:
    """One connection, as its origin sees it."""

    stream: trio.abc.Stream
    origin: "Origin"

    async def request(self) -> bytes:
        """The next request head, ``b""`` when the fetcher has closed the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await self.stream.receive_some(65536)
            if not data:
                return b""
            head += data
        self.origin.requests.append(head)
        return head

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def wait_closed(self) -> None:
        while await self.stream.receive_some(65536):
            pass


Script = Callable[[Visit], Awaitable[None]]


@attrs.define(eq=False)
class Origin:
    port: int = 0
    connections: int = 0
    open: int = 0
    requests: list[bytes] = attrs.field(factory=list)

    def url(self, path: str = "/", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    @property
    def targets(self) -> list[str]:
        return [head.split()[1].decode() for head in self.requests]

    async def wait_no_connections(self) -> None:
        with trio.fail_after(2):
            while self.open:
                await trio.sleep(0.001)


@asynccontextmanager
async def open_origin(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    origin = Origin()

    async def serve(transport: trio.SocketStream) -> None:
        origin.connections += 1
        origin.open += 1
        stream: trio.abc.Stream = transport
        if tls is not None:
            stream = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
        try:
            await script(Visit(stream, origin))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the fetcher left, as it may
        finally:
            origin.open -= 1
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        origin.port = listeners[0].socket.getsockname()[1]
        yield origin
        nursery.cancel_scope.cancel()


def fetcher_for(**limits: Any) -> AbstractAsyncContextManager[HTTPFetcher]:
    return open_fetcher(FetchLimits(**limits), LOOPBACK, user_agent="tester/1.0")


def reply(
    body: bytes = b"", status: str = "200 OK", *fields: str, content_type: str = "text/html"
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def answering(response: bytes) -> Script:
    """An origin that answers every request alike, and keeps its connections."""

    async def script(visit: Visit) -> None:
        while await visit.request():
            await visit.send(response)

    return script


def once(response: bytes) -> Script:
    """An origin that answers one request with those bytes, then closes."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response)

    return script


def site(**pages: bytes) -> Script:
    async def script(visit: Visit) -> None:
        while head := await visit.request():
            name = head.split()[1].decode().strip("/") or "index"
            await visit.send(pages.get(name) or reply(b"nothing here", "404 Not Found"))

    return script


async def fetch(script: Script, **limits: Any) -> Page:
    """One page of an origin; afterwards no connection is open, whatever came out of it."""
    outcome: Page | PageError
    async with open_origin(script) as origin:
        async with fetcher_for(**limits) as fetcher:
            with trio.fail_after(5):
                try:
                    outcome = await fetcher.fetch(origin.url(), OPTIONS)
                except PageError as error:
                    outcome = error
        assert fetcher.statistics().open_connections == 0
        await origin.wait_no_connections()
    if isinstance(outcome, PageError):
        raise outcome  # out here: no nursery makes a group of it
    return outcome


# --- pages ----------------------------------------------------------------------------------------


async def test_a_page_says_what_was_received() -> None:
    body = "<p>страница</p>".encode("windows-1251")
    response = reply(body, content_type='text/html; Charset="windows-1251"; x=y')
    async with open_origin(answering(response)) as origin, fetcher_for() as fetcher:
        page = await fetcher.fetch(origin.url("/a b?q=ü#part"), OPTIONS)
        assert page.url == origin.url("/a b?q=ü#part")
        assert page.final_url == origin.url("/a%20b?q=%C3%BC")
        assert page.status == 200
        assert page.body == body
        assert page.charset == "windows-1251"
        assert page.content_type == 'text/html; Charset="windows-1251"; x=y'
        assert (b"content-length", b"%d" % len(body)) in page.fields
        assert page.wire_bytes == len(body)
        assert 0 < page.elapsed_seconds < 5
        assert not page.rendered


async def test_requests_say_who_asks_and_what_for() -> None:
    async with open_origin(answering(reply())) as origin, fetcher_for() as fetcher:
        await fetcher.fetch(origin.url(), OPTIONS)
        await fetcher.fetch(origin.url(), CrawlOptions(user_agent="other/2"))
        first, second = (head.decode() for head in origin.requests)
        assert first.startswith(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\n")
        assert "\r\nUser-Agent: tester/1.0\r\n" in first
        assert "\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" in first
        assert "\r\nAccept: text/html," in first
        assert "\r\nAccept-Language: " in first
        assert "\r\nUser-Agent: other/2\r\n" in second


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oh", "403 No", "304 Same", "999 Odd"])
async def test_a_response_of_any_status_is_a_page(status: str) -> None:
    body = b"" if status.startswith("304") else b"<h1>sorry</h1>"
    page = await fetch(once(reply(body, status)))
    assert page.status == int(status[:3])
    assert page.body == body


async def test_an_error_page_that_cannot_be_read_keeps_its_status() -> None:
    page = await fetch(once(reply(b"\x89PNG", "404 Not Found", content_type="image/png")))
    assert (page.status, page.body) == (404, b"")
    page = await fetch(once(reply(b"x" * 5000, "500 Oh")), max_body_bytes=100)
    assert (page.status, page.body) == (500, b"")


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ("gzip", gzip.compress(b"text " * 100)),
        ("zstd", zstandard.compress(b"text " * 100)),
        ("gzip, zstd", zstandard.compress(gzip.compress(b"text " * 100))),
    ],
)
async def test_content_codings_are_removed_and_the_wire_is_counted(
    codings: str, body: bytes
) -> None:
    page = await fetch(once(reply(body, "200 OK", f"Content-Encoding: {codings}")))
    assert page.body == b"text " * 100
    assert page.wire_bytes == len(body)


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/html", "text/plain", "application/xhtml+xml", "application/json", ""),
        *("APPLICATION/XML; charset=x", "application/ld+json", "application/octet-stream"),
    ],
)
async def test_text_of_these_types_is_read(content_type: str) -> None:
    page = await fetch(once(reply(b"<a>b</a>" * 200, content_type=content_type)))
    assert len(page.body) == 1600


@pytest.mark.parametrize("content_type", ["application/zip", "image/png", "video/mp4"])
async def test_binary_content_is_refused_before_its_body_is_read(content_type: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: 999999\r\n\r\n"

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(head.encode())
        await visit.wait_closed()  # the body never comes; the fetcher has to leave by itself

    with pytest.raises(UnsupportedContent, match=content_type):
        await fetch(script)


@pytest.mark.parametrize("content_type", ["application/pdf", "application/x-pdf", "", "text/html"])
async def test_a_pdf_is_read_by_its_type_or_by_its_bytes(content_type: str) -> None:
    page = await fetch(once(reply(b"%PDF-1.7\n\xe2\xe3\0\1", content_type=content_type)))
    assert page.body == b"%PDF-1.7\n\xe2\xe3\0\1"


@pytest.mark.parametrize("body", [b"PK\x03\x04 ...", b"\x89PNG\r\n\x1a\n\0\0", b"\x7fELF\2\1\1\0"])
async def test_binary_content_without_a_type_is_told_by_its_bytes(body: bytes) -> None:
    for content_type in ("", "application/octet-stream"):
        with pytest.raises(UnsupportedContent):
            await fetch(once(reply(body * 100, content_type=content_type)))


# --- connections ----------------------------------------------------------------------------------


async def test_a_connection_is_used_again() -> None:
    async with open_origin(answering(reply(b"page"))) as origin, fetcher_for() as fetcher:
        for _ in range(5):
            await fetcher.fetch(origin.url(), OPTIONS)
        assert origin.connections == 1
        assert fetcher.statistics().requests == 5
        assert fetcher.statistics().open_connections == 1


@pytest.mark.parametrize(
    ("response", "connections"),
    [
        (reply(b"page"), 1),
        (reply(b"page", "200 OK", "Connection: keep-alive"), 1),
        (reply(b"page", "404 Not Found"), 1),
        (reply(b"page", "200 OK", "Content-Length: 4"), 1),  # twice, and the same
        (reply(), 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npage\r\n0\r\n\r\n", 1),
        (reply(b"page", "200 OK", "Connection: close"), 3),
        (reply(b"page", "200 OK", "Connection: Keep-Alive, Close"), 3),
        (reply(b"page", "200 OK", "Connection: x", "Connection: close"), 3),
        (reply(b"page").replace(b"HTTP/1.1", b"HTTP/1.0"), 3),
        # What stands behind a body answers nothing that was asked.
        (reply(b"page") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", 3),
    ],
)
async def test_a_connection_is_used_again_where_its_origin_goes_on(
    response: bytes, connections: int
) -> None:
    async with open_origin(answering(response)) as origin, fetcher_for() as fetcher:
        for _ in range(3):
            page = await fetcher.fetch(origin.url(), OPTIONS)
            assert page.body == (b"" if response == reply() else b"page")
        assert origin.connections == connections
        assert fetcher.statistics().stale_retries == 0


@pytest.mark.parametrize("size", [1, 4_000, 100_000, 1_500_000])
@pytest.mark.parametrize("piece", [700, 65_536])
async def test_a_body_of_a_known_length_comes_whole_however_it_is_cut(
    size: int, piece: int
) -> None:
    body = b"<p>" + random.Random(size).randbytes(size).hex().encode()[:size]

    async def script(visit: Visit) -> None:
        whole = reply(body)
        while await visit.request():
            for start in range(0, len(whole), piece):
                await visit.send(whole[start : start + piece])

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        for _ in range(2):
            page = await fetcher.fetch(origin.url(), OPTIONS)
            assert page.body == body
            assert page.wire_bytes == len(body)
        assert origin.connections == 1


async def test_no_idle_connections_are_kept_where_none_are_wanted() -> None:
    async with open_origin(answering(reply(b"page"))) as origin:
        async with fetcher_for(max_idle_connections=0) as fetcher:
            for _ in range(3):
                await fetcher.fetch(origin.url(), OPTIONS)
                await origin.wait_no_connections()
        assert origin.connections == 3


async def test_a_kept_connection_that_breaks_under_the_next_request_is_replaced() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(reply(b"page"))
        # Looks alive until it is used: the second request is read, then the connection ends.
        if visit.origin.connections == 1:
            await visit.request()

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        await fetcher.fetch(origin.url("/one"), OPTIONS)
        page = await fetcher.fetch(origin.url("/two"), OPTIONS)
        assert page.body == b"page"
        assert origin.targets == ["/one", "/two", "/two"]
        assert fetcher.statistics().stale_retries == 1


async def test_a_new_connection_that_breaks_is_not_tried_again_here() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        with pytest.raises(NetworkFailure, match="without a response"):
            await fetcher.fetch(origin.url(), OPTIONS)
        assert len(origin.requests) == 1


async def test_more_fetches_than_connections_wait_for_their_turn() -> None:
    most = 0

    async def script(visit: Visit) -> None:
        nonlocal most
        while await visit.request():
            most = max(most, visit.origin.open)
            await trio.sleep(0.002)
            await visit.send(reply(b"page"))

    async with open_origin(script) as origin, fetcher_for(max_connections=3) as fetcher:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
    assert most == 3


async def test_names_that_are_slow_take_no_connection_from_those_that_are_not() -> None:
    class Slow:
        async def resolve(self, name: str) -> list[IPAddress]:
            if name.startswith("slow"):
                await trio.sleep_forever()
            return [ip_address("127.0.0.1")]

    outcomes: list[str] = []

    async def slowly(number: int) -> None:
        try:
            await fetcher.fetch(f"http://slow{number}.example/", OPTIONS)
        except PageError as error:
            outcomes.append(error.type)

    limits = FetchLimits(max_connections=2, resolve_seconds=1.5)
    async with (
        open_origin(answering(reply(b"fast"))) as origin,
        open_fetcher(limits, LOOPBACK, resolver=Slow()) as fetcher,
        trio.open_nursery() as nursery,
    ):
        for number in range(100):
            nursery.start_soon(slowly, number)
        await trio.sleep(0.1)
        with trio.fail_after(1):
            for number in range(10):
                url = f"http://fast{number}.example:{origin.port}/"
                assert (await fetcher.fetch(url, OPTIONS)).body == b"fast"
        assert outcomes == []
    assert outcomes == ["dns_error"] * 100


async def test_cancelled_at_any_moment_a_fetch_leaves_nothing_behind() -> None:
    rng = random.Random(4)

    async def script(visit: Visit) -> None:
        while await visit.request():
            response = reply(b"x" * 20_000)
            for start in range(0, len(response), 5000):
                await visit.send(response[start : start + 5000])
                await trio.sleep(rng.uniform(0, 0.0005))

    async with open_origin(script) as origin, fetcher_for(max_connections=4) as fetcher:

        async def cancelled_fetch() -> None:
            # By checkpoints, not by time: every await of the way is hit sooner or later.
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
                    for _ in range(rng.randrange(40)):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

        for _ in range(60):
            async with trio.open_nursery() as nursery:
                for _ in range(rng.randint(1, 8)):
                    nursery.start_soon(cancelled_fetch)
        # All four places of the pool are free, and each works.
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
        assert fetcher.statistics().open_connections <= 4
        with trio.fail_after(2):
            while origin.open > fetcher.statistics().open_connections:
                await trio.sleep(0.001)


async def test_cancelled_as_its_connection_is_made_a_fetch_closes_it() -> None:
    # httpcore2 alone would keep this connection as new, and its place in the pool taken.
    doomed = trio.CancelScope()

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        stream = await connect_tcp(address, port)
        doomed.cancel()
        return stream

    async with (
        open_origin(answering(reply(b"page"))) as origin,
        open_fetcher(
            FetchLimits(max_connections=1), LOOPBACK, user_agent="t", connect=connect
        ) as fetcher,
    ):
        with doomed:
            await fetcher.fetch(origin.url(), OPTIONS)
        assert doomed.cancelled_caught
        assert fetcher.statistics().open_connections == 0
        await origin.wait_no_connections()
        with trio.fail_after(2):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"


async def test_a_fetch_cancelled_in_its_body_closes_the_connection_at_once() -> None:
    begun = trio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        begun.set()
        await visit.wait_closed()

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
            await begun.wait()
            nursery.cancel_scope.cancel()
        await origin.wait_no_connections()
        assert fetcher.statistics().open_connections == 0


# --- redirects ------------------------------------------------------------------------------------


def redirect(to: str, status: str = "302 Found", body: bytes = b"moved") -> bytes:
    return reply(body, status, f"Location: {to}")


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirects_are_followed_and_their_bytes_counted(status: str) -> None:
    pages = site(
        index=redirect("a?x=1#y", status), **{"a?x=1": redirect("../end")}, end=reply(b"!")
    )
    async with open_origin(pages) as origin, fetcher_for() as fetcher:
        page = await fetcher.fetch(origin.url(), OPTIONS)
        assert (page.url, page.final_url) == (origin.url(), origin.url("/end"))
        assert page.wire_bytes == 11
        assert origin.connections == 1  # a short redirect body costs no connection


async def test_what_temporary_redirects_said_comes_with_the_page() -> None:
    pages = site(
        index=redirect("/b", "301 M"),
        b=reply(b"moved", "302 F", "Location: /c", "Cache-Control: max-age=7"),
        c=redirect("/end", "307 T"),
        end=reply(b"!"),
    )
    async with open_origin(pages) as origin, fetcher_for() as fetcher:
        page = await fetcher.fetch(origin.url(), OPTIONS)
        first, second = (dict(fields) for fields in page.detours)
        assert (first[b"location"], first[b"cache-control"]) == (b"/c", b"max-age=7")
        assert second[b"location"] == b"/end"


async def test_a_redirect_without_a_target_is_a_page() -> None:
    page = await fetch(once(reply(b"where?", "302 Found")))
    assert (page.status, page.body) == (302, b"where?")


async def test_a_redirect_loop_is_seen_at_once() -> None:
    async with open_origin(site(index=redirect("/b"), b=redirect("/"))) as origin:
        async with fetcher_for() as fetcher:
            with pytest.raises(TooManyRedirects, match="circle"):
                await fetcher.fetch(origin.url(), OPTIONS)
        assert origin.targets == ["/", "/b"]


async def test_redirects_without_end_are_left_at_the_limit() -> None:
    async def script(visit: Visit) -> None:
        number = 0
        while await visit.request():
            number += 1
            await visit.send(redirect(f"/{number}"))

    async with open_origin(script) as origin, fetcher_for(max_redirects=4) as fetcher:
        with pytest.raises(TooManyRedirects, match="more than 4"):
            await fetcher.fetch(origin.url(), OPTIONS)
        assert len(origin.requests) == 5


@pytest.mark.parametrize(
    "target",
    [
        *("http://169.254.169.254/latest/", "http://[::1]/", "http://0x0a.1/", "//10.0.0.1/"),
        *("file:///etc/passwd", "gopher://127.0.0.1:70/", "javascript:alert(1)"),
        *("http:\\\\192.168.0.1", "http://127.0.0.1:22/"),
    ],
)
async def test_a_redirect_to_where_nothing_is_fetched_is_refused(target: str) -> None:
    with pytest.raises(BlockedAddress):
        await fetch(once(redirect(target)))


async def test_each_hop_is_resolved_and_judged_anew() -> None:
    class Names:
        async def resolve(self, name: str) -> list[IPAddress]:
            await trio.lowlevel.checkpoint()
            return [ip_address("8.8.8.8" if name == "good.example" else "10.0.0.1")]

    dialled: list[str] = []

    async def connect(address: IPAddress, port: int) -> trio.abc.Stream:
        dialled.append(f"{address}:{port}")
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(redirect("http://evil.example/"))
        return ours

    async with open_fetcher(
        policy=AddressPolicy(), user_agent="t", resolver=Names(), connect=connect
    ) as fetcher:
        with pytest.raises(BlockedAddress) as caught:
            await fetcher.fetch("http://good.example/", OPTIONS)
    assert dialled == ["8.8.8.8:80"]
    assert "10.0" not in str(caught.value)


async def test_before_a_hop_its_caller_is_asked() -> None:
    async def refuse(url: URL) -> None:
        await trio.lowlevel.checkpoint()
        raise HTTPStatusError(451)

    async with open_origin(site(index=redirect("/b"))) as origin, fetcher_for() as fetcher:
        with pytest.raises(HTTPStatusError):
            await fetcher.fetch(origin.url(), OPTIONS, before_hop=refuse)
        assert origin.targets == ["/"]


async def test_a_redirect_whose_body_never_ends_is_followed_all_the_same() -> None:
    async def script(visit: Visit) -> None:
        if b"GET /end" in await visit.request():
            await visit.send(reply(b"end"))
        else:
            await visit.send(b"HTTP/1.1 302 F\r\nLocation: /end\r\nContent-Length: 1000000\r\n\r\n")
            await visit.wait_closed()

    assert (await fetch(script, discard_seconds=0.05)).body == b"end"


# --- origins that misbehave -----------------------------------------------------------------------


def dripping(head: bytes, piece: bytes, pause: float = 0.01) -> Script:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(head)
        while True:
            await visit.send(piece)
            await trio.sleep(pause)

    return script


def silent(head: bytes) -> Script:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(head)
        await visit.wait_closed()

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"


async def test_a_head_that_drips_ends_at_its_limit() -> None:
    with pytest.raises(FetchTimeout, match="head") as caught:
        await fetch(dripping(OK, b"X-Drip: 1\r\n"), response_head_seconds=0.2)
    assert caught.value.context == {"timeout_threshold_ms": 200}


async def test_an_origin_that_says_nothing_ends_at_its_limit() -> None:
    with pytest.raises(FetchTimeout, match="head"):
        await fetch(silent(b""), response_head_seconds=0.1)


async def test_a_body_that_stands_still_ends_at_its_limit() -> None:
    with pytest.raises(FetchTimeout, match="body") as caught:
        await fetch(silent(OK + b"Content-Length: 9\r\n\r\nabc"), idle_read_seconds=0.1)
    assert caught.value.context == {"timeout_threshold_ms": 100}


async def test_a_body_that_drips_ends_at_the_callers_deadline() -> None:
    async with open_origin(dripping(OK + b"Content-Length: 10000\r\n\r\n", b"x")) as origin:
        async with fetcher_for() as fetcher:
            with trio.move_on_after(0.2) as scope:
                await fetcher.fetch(origin.url(), OPTIONS)
            assert scope.cancelled_caught
            await origin.wait_no_connections()


async def test_interim_responses_without_end_are_too_large_a_head() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with pytest.raises(TooLarge, match="head"):
        await fetch(dripping(interim, interim * 100, pause=0))


async def test_a_few_interim_responses_are_fine() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert (await fetch(once(interim + reply(b"page")))).body == b"page"


async def test_a_head_without_end_and_a_head_of_too_many_fields_are_too_large() -> None:
    with pytest.raises(TooLarge, match="head"):
        await fetch(
            dripping(OK, b"X-Long: " + b"x" * 8000, pause=0), max_header_bytes=MAX_HEADER_BYTES
        )
    many = b"".join(b"a%d: 1\r\n" % number for number in range(300))
    with pytest.raises(TooLarge, match="too many fields"):
        await fetch(once(OK + many + b"Content-Length: 0\r\n\r\n"))
    page = await fetch(once(OK + many + b"Content-Length: 0\r\n\r\n"), max_header_count=400)
    assert len(page.fields) == 302


async def test_a_body_over_its_limit_is_refused_by_its_declared_length() -> None:
    with pytest.raises(TooLarge, match="larger than 100 bytes"):
        await fetch(silent(OK + b"Content-Length: 101\r\n\r\n"), max_body_bytes=100)


async def test_a_body_without_end_is_refused_when_it_reaches_its_limit() -> None:
    for framing, piece in (
        (b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"),
        (b"\r\n", b"x" * 1024),
    ):
        with pytest.raises(TooLarge):
            await fetch(dripping(OK + framing, piece * 64, pause=0), max_body_bytes=MIB)


async def test_the_framing_of_a_body_counts_as_the_body() -> None:
    framing = b"Transfer-Encoding: chunked\r\n\r\n"
    piece = b"1;" + b"x" * 4000 + b"\r\na\r\n"
    with pytest.raises(TooLarge, match="larger than 100000 bytes"):
        await fetch(dripping(OK + framing, piece * 16, pause=0), max_body_bytes=100_000)

    async def flooding(visit: Visit) -> None:
        if b"/end" in await visit.request():
            await visit.send(reply(b"page"))
        else:
            await visit.send(b"HTTP/1.1 302 Found\r\nLocation: /end\r\n" + framing)
            while True:
                await visit.send(piece)

    page = await fetch(flooding, max_body_bytes=100_000, discard_seconds=60.0)
    assert page.body == b"page"


async def test_while_a_redirects_body_of_tiny_chunks_is_passed_over_other_tasks_run() -> None:
    async def script(visit: Visit) -> None:
        if b"/end" in await visit.request():
            await visit.send(reply(b"page"))
        else:
            head = b"HTTP/1.1 302 Found\r\nLocation: /end\r\nTransfer-Encoding: chunked\r\n\r\n"
            await visit.send(head + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n")

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    turns = 0
    async with open_origin(script) as origin, fetcher_for(discard_seconds=60.0) as fetcher:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
            nursery.cancel_scope.cancel()
    assert turns > 50  # 360 KB come in some ten reads; each takes a tenth of a second to pass over


async def test_a_bomb_is_refused_by_what_it_becomes() -> None:
    bomb = zstandard.compress(bytes(50 * MIB))
    with pytest.raises(TooLarge, match="coding"):
        await fetch(once(reply(bomb, "200 OK", "Content-Encoding: zstd")))


async def test_while_a_large_body_is_decoded_other_tasks_run() -> None:
    async def rounds(body: bytes) -> int:
        """How often another task has its turn while a body is fetched."""
        response = reply(gzip.compress(body, 1), "200 OK", "Content-Encoding: gzip")
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with open_origin(once(response)) as origin, fetcher_for(**limits) as fetcher:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_turns)
                page = await fetcher.fetch(origin.url(), OPTIONS)
                nursery.cancel_scope.cancel()
        assert len(page.body) == len(body)
        return turns

    limits = {"max_decoded_bytes": 100 * MIB}
    # Inflating 80 MiB takes 40 ms and more, all of it out of less than 400 KB on the wire.
    assert await rounds(bytes(80 * MIB)) >= await rounds(b"small") + 6


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", "without a response"),
        (b"HTTP/1.1 200", "without a response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nbad field\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "not valid HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "switched protocols|not valid"),
        (OK + b"Content-Length: 10\r\n\r\nshort", "broken or incomplete"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "broken or incomplete"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "broken or incomplete"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab", "broken or incomplete"),
    ],
)
async def test_a_response_that_is_no_http_or_not_whole_is_a_network_failure(
    response: bytes, message: str
) -> None:
    with pytest.raises(NetworkFailure, match=message) as caught:
        await fetch(once(response))
    assert caught.value.can_retry


async def test_a_body_longer_than_declared_is_cut_and_its_connection_not_used_again() -> None:
    response = OK + b"Content-Length: 4\r\n\r\npage and what was smuggled after it"
    async with open_origin(answering(response)) as origin, fetcher_for() as fetcher:
        for _ in range(3):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
        assert origin.connections == 3


async def test_a_body_that_ends_within_its_coding_is_a_network_failure() -> None:
    body = gzip.compress(b"text" * 1000)[:-9]
    with pytest.raises(NetworkFailure, match="gzip"):
        await fetch(once(reply(body, "200 OK", "Content-Encoding: gzip")))


async def test_a_coding_that_is_a_lie_is_unsupported_content() -> None:
    with pytest.raises(UnsupportedContent, match="not valid br"):
        await fetch(once(reply(b"<html>" * 99, "200 OK", "Content-Encoding: br")))
    with pytest.raises(UnsupportedContent, match="'rot13'"):
        await fetch(once(reply(b"uryyb", "200 OK", "Content-Encoding: rot13")))


@pytest.mark.parametrize("sent", [b"", OK + b"Content-Length: 100\r\n\r\nhalf"])
async def test_a_reset_connection_is_a_network_failure(sent: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(sent)
        stream = visit.stream
        assert isinstance(stream, trio.SocketStream)
        await trio.sleep(0.02)
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with pytest.raises(NetworkFailure, match="lost"):
        await fetch(script)


async def test_a_refused_connection_is_a_network_failure() -> None:
    async with open_origin(answering(b"")) as origin:
        pass
    async with fetcher_for() as fetcher:
        with pytest.raises(NetworkFailure, match="refused"):
            await fetcher.fetch(origin.url(), OPTIONS)


async def test_a_url_that_is_none_is_refused() -> None:
    async with fetcher_for() as fetcher:
        for text in ("file:///etc/passwd", "nonsense", "http://"):
            with pytest.raises(BlockedAddress):
                await fetcher.fetch(text, OPTIONS)


# --- TLS ------------------------------------------------------------------------------------------


def tls_contexts(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class ToLoopback:
    async def resolve(self, name: str) -> list[IPAddress]:
        await trio.lowlevel.checkpoint()
        return [ip_address("127.0.0.1")]


async def test_tls_is_spoken_to_the_name_though_an_address_is_dialled() -> None:
    server, client = tls_contexts("secure.example")
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with (
        open_origin(answering(reply(b"safe")), server) as origin,
        open_fetcher(
            policy=LOOPBACK, user_agent="t", resolver=ToLoopback(), ssl_context=client
        ) as fetcher,
    ):
        for host in ("secure.example", "secure.example."):
            for _ in range(2):
                page = await fetcher.fetch(f"https://{host}:{origin.port}/", OPTIONS)
                assert page.body == b"safe"
        assert asked == ["secure.example", "secure.example"]
        assert origin.connections == 2
        assert b"Host: secure.example:%d\r\n" % origin.port in origin.requests[0]


@pytest.mark.parametrize("apart", [False, True])
async def test_what_comes_over_tls_behind_an_answer_is_not_taken_for_the_next(apart: bool) -> None:
    server, client = tls_contexts("secure.example")
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    body = b"a" * 6000
    if apart:  # in a record of its own, behind the end of a chunked body
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = [head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), evil]
    else:
        pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body) + evil]

    async def script(visit: Visit) -> None:
        assert isinstance(visit.stream, trio.SSLStream)
        cork = visit.stream.transport_stream.setsockopt  # all records go in one packet
        while await visit.request():
            cork(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            for piece in pieces:
                await visit.send(piece)
            cork(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    async with (
        open_origin(script, server) as origin,
        open_fetcher(
            policy=LOOPBACK, user_agent="t", resolver=ToLoopback(), ssl_context=client
        ) as fetcher,
    ):
        for number in range(3):
            page = await fetcher.fetch(f"https://secure.example:{origin.port}/{number}", OPTIONS)
            assert page.body == body


@pytest.mark.parametrize("case", ["unknown authority", "other name", "plain text", "silence"])
async def test_tls_that_is_not_right_is_told(case: str) -> None:
    server, client = tls_contexts("secure.example" if case != "other name" else "other.example")
    if case == "unknown authority":
        client = ssl.create_default_context()

    async def plain(visit: Visit) -> None:
        await visit.stream.receive_some(1000)
        if case == "silence":
            await visit.wait_closed()
        await visit.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    own = case in ("plain text", "silence")
    script = plain if own else answering(reply(b"never"))
    expected = FetchTimeout if case == "silence" else TLSFailure
    async with (
        open_origin(script, None if own else server) as origin,
        open_fetcher(
            FetchLimits(connect_seconds=0.3),
            LOOPBACK,
            user_agent="t",
            resolver=ToLoopback(),
            ssl_context=client,
        ) as fetcher,
    ):
        with pytest.raises(expected) as caught:
            await fetcher.fetch(f"https://secure.example:{origin.port}/", OPTIONS)
        assert origin.requests == []
        assert fetcher.statistics().open_connections == 0
        await origin.wait_no_connections()
    if case in ("unknown authority", "other name"):
        assert "certificate" in str(caught.value)


# --- conditional requests -------------------------------------------------------------------------

NOT_MODIFIED = (
    b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nCache-Control: max-age=9\r\n'
    b"Content-Type: image/png\r\nContent-Length: 99999999\r\nContent-Encoding: gzip\r\n\r\n"
)
DATE = "Sat, 21 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("etag", "date", "sent"),
    [
        ('"v1"', DATE, [b'If-None-Match: "v1"', b"If-Modified-Since: " + DATE.encode()]),
        ('W/"v\xe9 1"', None, [b'If-None-Match: W/"v\xe9 1"']),
        (None, DATE, [b"If-Modified-Since: " + DATE.encode()]),
        ("unquoted", None, [b"If-None-Match: unquoted"]),
        (None, None, []),
        ('"a"\r\nX-Evil: 1', "now\x00", []),
        (f'"{"x" * 5000}"', " \t", []),
    ],
)
async def test_with_validators_the_request_is_conditional(
    etag: str | None, date: str | None, sent: list[bytes]
) -> None:
    async with open_origin(answering(NOT_MODIFIED)) as origin, fetcher_for() as fetcher:
        known = Validators(origin.url("/a%20b"), etag, date)
        page = await fetcher.fetch(origin.url("/a b#part"), OPTIONS, validators=known)
        assert (page.status, page.body, page.wire_bytes) == (304, b"", 0)
        assert (b"etag", b'"v1"') in page.fields
        assert page.final_url == known.url
        lines = origin.requests[0].split(b"\r\n")
        assert [line for line in lines if line.startswith((b"If-", b"X-"))] == sent
        await fetcher.fetch(origin.url("/a b"), OPTIONS)  # on the same connection
        assert b"If-" not in origin.requests[1]
        assert origin.connections == 1


async def test_only_the_hop_that_the_validators_are_of_is_asked_with_them() -> None:
    async def script(visit: Visit) -> None:
        while head := await visit.request():
            if b"GET /new" not in head:
                await visit.send(reply(b"", "302 Found", "Location: /new"))
            elif b'If-None-Match: "v1"' in head:
                await visit.send(NOT_MODIFIED)
            else:
                await visit.send(reply(b"page"))

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        for path, status in (("/new", 304), ("/old", 200), ("/elsewhere", 200)):
            known = Validators(origin.url(path), '"v1"', None)
            page = await fetcher.fetch(origin.url("/old"), OPTIONS, validators=known)
            assert page.status == status
            assert page.final_url == origin.url("/new")
        asked = [b"If-None-Match" in head for head in origin.requests]
        assert asked == [False, True, True, False, False, False]


async def test_a_page_that_has_changed_comes_whole() -> None:
    async with open_origin(answering(reply(b"new"))) as origin, fetcher_for() as fetcher:
        known = Validators(origin.url(), '"v1"', None)
        page = await fetcher.fetch(origin.url(), OPTIONS, validators=known)
        assert (page.status, page.body) == (200, b"new")


# --- files ----------------------------------------------------------------------------------------


async def test_a_file_is_cut_at_its_limit_whatever_its_type() -> None:
    body = b"0123456789" * 100
    for coded, field in ((body, "X-Plain: 1"), (gzip.compress(body), "Content-Encoding: gzip")):
        response = reply(coded, "200 OK", field, content_type="image/png")
        async with open_origin(answering(response)) as origin, fetcher_for() as fetcher:
            page = await fetcher.fetch_file(origin.url(), max_bytes=105)
            assert page.body == body[:105] or (page.body == b"" and len(coded) > 105)
            assert (await fetcher.fetch_file(origin.url(), max_bytes=5000)).body == body


# --- retries --------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Flaky:
    """Answers with each outcome in turn, the last for ever."""

    outcomes: list[Page | PageError]
    calls: int = 0
    times: list[float] = attrs.field(factory=list)

    async def fetch(self, url: str, options: CrawlOptions) -> Page:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, PageError):
            raise outcome
        return outcome


def page(status: int, *fields: tuple[bytes, bytes]) -> Page:
    return Page(
        url="http://a.example/",
        final_url="http://a.example/",
        status=status,
        fields=fields,
        body=b"",
        content_type="",
        charset=None,
        wire_bytes=0,
        elapsed_seconds=0.0,
    )


async def test_what_may_pass_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky([NetworkFailure("no"), page(503), page(200)])
    attempts: list[int] = []
    result = await fetch_with_retries(flaky, "http://a/", OPTIONS, on_attempt=attempts.append)
    assert result.status == 200
    assert attempts == [1, 2, 3]


async def test_retries_end_and_the_error_says_how_many(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flaky = Flaky([NetworkFailure("no")])
    with pytest.raises(NetworkFailure) as caught:
        await fetch_with_retries(flaky, "http://a/", CrawlOptions(max_retries=2))
    assert caught.value.context == {"attempt_number": 3, "max_retries": 2}
    flaky = Flaky([page(500)])
    assert (await fetch_with_retries(flaky, "http://a/", CrawlOptions(max_retries=0))).status == 500
    assert flaky.calls == 1


@pytest.mark.parametrize("outcome", [page(404), page(200), BlockedAddress("no"), TooLarge("no")])
async def test_what_will_not_pass_is_not_tried_again(outcome: Page | PageError) -> None:
    flaky = Flaky([outcome])
    if isinstance(outcome, PageError):
        with pytest.raises(type(outcome)):
            await fetch_with_retries(flaky, "http://a/", OPTIONS)
    else:
        assert await fetch_with_retries(flaky, "http://a/", OPTIONS) is outcome
    assert flaky.calls == 1


async def test_waits_grow_with_full_jitter_up_to_their_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    flaky = Flaky([NetworkFailure("no")])
    limits = RetryLimits(first_delay_seconds=1, max_delay_seconds=3)
    with pytest.raises(NetworkFailure):
        await fetch_with_retries(
            flaky, "http://a/", CrawlOptions(max_retries=4), limits=limits, rng=Longest()
        )
    waits = [later - earlier for earlier, later in zip(flaky.times, flaky.times[1:], strict=False)]
    assert waits == pytest.approx([1, 2, 3, 3])


async def test_retry_after_is_kept_or_ends_it(autojump_clock: trio.testing.MockClock) -> None:
    flaky = Flaky([page(429, (b"retry-after", b"7")), page(200)])
    await fetch_with_retries(flaky, "http://a/", OPTIONS)
    assert trio.current_time() == pytest.approx(7)
    flaky = Flaky([page(503, (b"retry-after", b"3600")), page(200)])
    assert (await fetch_with_retries(flaky, "http://a/", OPTIONS)).status == 503
    assert flaky.calls == 1
    flaky = Flaky([NetworkFailure("no", retry_after_seconds=5), page(200)])
    await fetch_with_retries(flaky, "http://a/", OPTIONS)
    assert trio.current_time() == pytest.approx(12)


async def test_no_wait_goes_beyond_the_deadline_of_the_url(
    autojump_clock: trio.testing.MockClock,
) -> None:
    flaky = Flaky([page(429, (b"retry-after", b"20"))])
    with trio.fail_after(30):
        assert (await fetch_with_retries(flaky, "http://a/", OPTIONS)).status == 429
    assert flaky.calls == 2
    assert trio.current_time() == pytest.approx(20)
    flaky = Flaky([NetworkFailure("no", retry_after_seconds=15)])
    with trio.fail_after(10), pytest.raises(NetworkFailure):
        await fetch_with_retries(flaky, "http://a/", OPTIONS)
    assert flaky.calls == 1


def test_the_wait_that_a_response_asks_for_is_that_of_its_first_field():
    fields = [(b"date", b"x"), (b"retry-after", b"7"), (b"retry-after", b"9")]
    assert asked_wait(fields, 0.0) == 7
    assert asked_wait(fields[:1], 0.0) is None


# --- limits ---------------------------------------------------------------------------------------


NUMBERS = [name for name, kind in get_type_hints(FetchLimits).items() if kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_that_make_no_sense_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        FetchLimits(**{name: -1})
    with pytest.raises(ValueError, match="max_header_bytes"):
        FetchLimits(max_header_bytes=MAX_HEADER_BYTES + 1)
