"""HTTP/2 towards an origin that speaks it well, and towards many that attack with it."""

import gzip
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hypercorn.config
import hypercorn.trio
import pytest
import trio
import trustme
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import FetchTimeout, NetworkFailure, PageError, TooLarge
from eventmesh_trio.pipeline.fetching import http2
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher, open_fetcher
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.wire.requests import CrawlOptions

OPTIONS = CrawlOptions()
HEAD = [(":status", "200"), ("content-type", "text/html")]
MIB = 1024 * 1024


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("secure.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@attrs.define(eq=False)
class Visit:
    """One connection, as its origin sees it. ``stream_id`` is of the newest request."""

    stream: trio.abc.Stream
    origin: "Origin"
    peer: h2.connection.H2Connection = attrs.field(init=False)
    stream_id: int = 0

    def __attrs_post_init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.peer = h2.connection.H2Connection(config)
        self.peer.initiate_connection()

    async def request(self) -> dict[str, str] | None:
        """The next request's fields; None when the fetcher has left."""
        await self.flush()
        while True:
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            for event in self.peer.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.stream_id = event.stream_id
                    fields = dict(event.headers)
                    self.origin.requests.append(fields)
                    await self.flush()
                    return fields
            await self.flush()

    async def answer(self, body: bytes = b"", *fields: tuple[str, str], pieces: int = 1) -> None:
        """A whole response, in that many data frames."""
        self.peer.send_headers(self.stream_id, [*HEAD, *fields])
        size = -(-len(body) // pieces) or 1
        for start in range(0, len(body), size):
            for at in range(start, min(start + size, len(body)), 16384):
                await self.send_data(body[at : min(at + 16384, start + size)])
        self.peer.end_stream(self.stream_id)
        await self.flush()

    async def send_data(self, data: bytes) -> None:
        while self.peer.local_flow_control_window(self.stream_id) < len(data):
            await self.flush()
            received = await self.stream.receive_some(65536)
            if not received:
                raise trio.BrokenResourceError
            self.peer.receive_data(received)
        self.peer.send_data(self.stream_id, data)

    async def flush(self) -> None:
        if data := self.peer.data_to_send():
            await self.stream.send_all(data)

    async def send(self, *frames: Frame) -> None:
        await self.stream.send_all(b"".join(frame.serialize() for frame in frames))

    async def wait_closed(self) -> None:
        while await self.stream.receive_some(65536):
            pass


Script = Callable[[Visit], Awaitable[None]]


@attrs.define(eq=False)
class Origin:
    port: int = 0
    connections: int = 0
    open: int = 0
    requests: list[dict[str, str]] = attrs.field(factory=list)

    def url(self, path: str = "/") -> str:
        return f"https://secure.example:{self.port}{path}"

    async def wait_no_connections(self) -> None:
        with trio.fail_after(2):
            while self.open:
                await trio.sleep(0.001)


@asynccontextmanager
async def open_origin(script: Script, *protocols: str) -> AsyncIterator[Origin]:
    origin = Origin()
    server, _ = contexts()
    server.set_alpn_protocols(protocols or ("h2", "http/1.1"))

    async def serve(transport: trio.SocketStream) -> None:
        origin.connections += 1
        origin.open += 1
        stream = trio.SSLStream(transport, server, server_side=True, https_compatible=True)
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


class ToLoopback:
    async def resolve(self, name: str) -> list[IPAddress]:
        await trio.lowlevel.checkpoint()
        return [ip_address("127.0.0.1")]


@asynccontextmanager
async def fetcher_for(
    *, ssl_context: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[HTTPFetcher]:
    async with open_fetcher(
        FetchLimits(**{"http2": True, **limits}),
        AddressPolicy(allow_private=("127.0.0.0/8",)),
        user_agent="tester/1.0",
        resolver=ToLoopback(),
        ssl_context=ssl_context or contexts()[1],
    ) as fetcher:
        yield fetcher


def pages(body: bytes, *fields: tuple[str, str]) -> Script:
    async def script(visit: Visit) -> None:
        while await visit.request():
            await visit.answer(body, *fields)

    return script


def once(attack: Script) -> Script:
    """An origin that answers its first request with an attack, then waits for the farewell."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await attack(visit)
        await visit.wait_closed()

    return script


async def fetch(script: Script, **limits: Any) -> Page:
    """One page; afterwards no connection is open, whatever came out of it."""
    outcome: Page | PageError
    async with open_origin(script) as origin:
        async with fetcher_for(**limits) as fetcher:
            with trio.fail_after(10):
                try:
                    outcome = await fetcher.fetch(origin.url(), OPTIONS)
                except PageError as error:
                    outcome = error
                    assert fetcher.statistics().open_connections == 0
        await origin.wait_no_connections()
    if isinstance(outcome, PageError):
        raise outcome
    return outcome


# --- Pages --------------------------------------------------------------------------------------


async def test_a_page_comes_over_http2_where_the_origin_speaks_it() -> None:
    async with open_origin(pages(b"<p>two</p>")) as origin, fetcher_for() as fetcher:
        page = await fetcher.fetch(origin.url("/a?b=ü"), OPTIONS)
        assert (page.status, page.body, page.content_type) == (200, b"<p>two</p>", "text/html")
        (asked,) = origin.requests
        assert asked[":authority"] == f"secure.example:{origin.port}"
        assert (asked[":method"], asked[":scheme"]) == ("GET", "https")
        assert asked[":path"] == "/a?b=%C3%BC"
        assert asked["user-agent"] == "tester/1.0"
        assert "host" not in asked


async def test_http1_is_spoken_where_the_origin_or_the_setting_does_not_offer_http2() -> None:
    async def script(visit: Visit) -> None:
        assert isinstance(visit.stream, trio.SSLStream)
        await visit.stream.do_handshake()
        protocols.append(visit.stream.selected_alpn_protocol())
        await visit.stream.receive_some(65536)
        await visit.stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    protocols: list[str | None] = []
    async with open_origin(script, "http/1.1") as origin, fetcher_for() as fetcher:
        assert (await fetcher.fetch(origin.url(), OPTIONS)).status == 204
    async with open_origin(script) as origin, fetcher_for(http2=False) as fetcher:
        assert (await fetcher.fetch(origin.url(), OPTIONS)).status == 204
    assert protocols == ["http/1.1", "http/1.1"]


async def test_a_connection_is_used_again_for_one_request_after_the_other() -> None:
    async with open_origin(pages(b"page")) as origin, fetcher_for() as fetcher:
        for _ in range(3):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
        assert origin.connections == 1
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
        assert origin.connections == 3
        assert len(origin.requests) == 6


async def test_a_connections_window_does_not_shrink_with_the_pages_that_came_through_it() -> None:
    body = bytes(12_000)  # in one read with the end of the response; 90 of them fill the window
    async with open_origin(pages(body)) as origin, fetcher_for(idle_read_seconds=2) as fetcher:
        for _ in range(200):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == body
        assert origin.connections == 1


async def test_a_connection_that_has_served_its_share_of_requests_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "_MAX_REQUESTS", 2)
    async with open_origin(pages(b"page")) as origin, fetcher_for() as fetcher:
        for _ in range(5):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
        assert origin.connections == 3
        assert fetcher.statistics().stale_retries == 0


async def test_a_large_body_in_many_frames_comes_whole_through_its_windows() -> None:
    body = bytes(range(256)) * 16 * 1024
    script = once(lambda visit: visit.answer(body, pieces=3000))
    page = await fetch(script, max_body_bytes=5 * MIB)
    assert page.body == body
    assert page.wire_bytes == len(body)


async def test_content_codings_and_interim_responses_are_as_over_http1() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        for _ in range(3):
            visit.peer.send_headers(visit.stream_id, [(":status", "103"), ("link", "</a>")])
        await visit.answer(gzip.compress(b"plain"), ("content-encoding", "gzip"))
        await visit.wait_closed()

    assert (await fetch(script)).body == b"plain"


async def test_an_origin_that_goes_away_after_its_answer_is_not_asked_there_again() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        visit.peer.send_headers(visit.stream_id, HEAD)
        visit.peer.send_data(visit.stream_id, b"last", end_stream=True)
        visit.peer.close_connection(last_stream_id=visit.stream_id)
        await visit.flush()
        await visit.wait_closed()

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        for _ in range(2):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"last"
        assert origin.connections == 2
        assert fetcher.statistics().stale_retries == 0


@pytest.mark.parametrize("farewell", ["goaway", "goaway and end", "end", "refused stream"])
async def test_a_kept_connection_that_ends_under_the_next_request_is_replaced(
    farewell: str,
) -> None:
    async def script(visit: Visit) -> None:
        first = origin.connections == 1
        while await visit.request():
            if not first or visit.stream_id == 1:
                await visit.answer(b"page")
            elif farewell == "end":
                return
            elif farewell == "refused stream":
                visit.peer.reset_stream(visit.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                await visit.flush()
            else:
                visit.peer.close_connection(last_stream_id=1)
                await visit.flush()
                if farewell == "goaway":
                    await visit.wait_closed()
                return

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        for _ in range(2):
            assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
        assert origin.connections == 2
        assert fetcher.statistics().stale_retries == 1


async def test_idle_connections_are_left_when_one_of_them_turns_out_stale() -> None:
    async def script(visit: Visit) -> None:
        old = origin.connections <= 3
        while await visit.request():
            if old and visit.stream_id > 1:
                return
            await trio.sleep(0.05)
            await visit.answer(b"page")

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetcher.fetch, origin.url(), OPTIONS)
        assert origin.connections == 3
        assert (await fetcher.fetch(origin.url(), OPTIONS)).body == b"page"
        assert fetcher.statistics().open_connections == 1


# --- Cut-offs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_its_limit_is_cut_off_with_its_connection(declared: bool) -> None:
    sent = 0

    async def endless(visit: Visit) -> None:
        nonlocal sent
        fields = [("content-length", str(10**9))] if declared else []
        visit.peer.send_headers(visit.stream_id, [*HEAD, *fields])
        while True:
            await visit.send_data(b"x" * 16384)
            await visit.flush()
            sent += 16384

    with pytest.raises(TooLarge):
        await fetch(once(endless), max_body_bytes=2 * MIB)
    assert sent < 10 * MIB


async def test_a_fetch_cancelled_in_its_body_closes_the_connection_at_once() -> None:
    async def drip(visit: Visit) -> None:
        visit.peer.send_headers(visit.stream_id, HEAD)
        while True:
            await visit.send_data(b"x")
            await visit.flush()
            await trio.sleep(0.01)

    async with open_origin(once(drip)) as origin, fetcher_for() as fetcher:
        with trio.move_on_after(0.3) as scope:
            await fetcher.fetch(origin.url(), OPTIONS)
        assert scope.cancelled_caught
        assert fetcher.statistics().open_connections == 0
        await origin.wait_no_connections()


async def test_an_origin_that_stands_still_ends_at_the_limits_of_http1() -> None:
    async def silence(_: Visit) -> None: ...

    async def half(visit: Visit) -> None:
        visit.peer.send_headers(visit.stream_id, HEAD)
        await visit.send_data(b"half")
        await visit.flush()

    with pytest.raises(FetchTimeout, match="response head"):
        await fetch(once(silence), response_head_seconds=0.2)
    with pytest.raises(FetchTimeout, match="response body"):
        await fetch(once(half), idle_read_seconds=0.2)


# --- Attacks ------------------------------------------------------------------------------------


def endlessly(*frames: Frame) -> Script:
    """Those frames without end, after a head or before it."""
    burst = b"".join(frame.serialize() for frame in frames) * 500

    async def attack(visit: Visit) -> None:
        while True:
            await visit.stream.send_all(burst)

    return attack


def after_head(attack: Script) -> Script:
    async def whole(visit: Visit) -> None:
        visit.peer.send_headers(visit.stream_id, HEAD)
        await visit.flush()
        await attack(visit)

    return whole


async def hpack_bomb(visit: Visit) -> None:
    """One field of 3,000 bytes in the dynamic table, then named 10,000 times by a byte each."""
    block = b"\x88" + b"\x40\x01a\x7f\xb9\x16" + b"x" * 3000 + b"\xbe" * 10_000
    await visit.send(HeadersFrame(visit.stream_id, block, flags=["END_HEADERS"]))


async def continuations(visit: Visit) -> None:
    await visit.send(HeadersFrame(visit.stream_id, b"\x88"))
    field = b"\x00\x04abcd\x7f\x00" + b"y" * 127
    while True:
        await visit.send(*(ContinuationFrame(visit.stream_id, field) for _ in range(100)))


async def empty_continuations(visit: Visit) -> None:
    await visit.send(HeadersFrame(visit.stream_id, b"\x88"))
    await endlessly(ContinuationFrame(visit.stream_id, b""))(visit)


async def interim_responses(visit: Visit) -> None:
    block = b"\x08\x03103"
    await endlessly(HeadersFrame(visit.stream_id, block, flags=["END_HEADERS"]))(visit)


async def many_fields(visit: Visit) -> None:
    fields = [(f"x-{number}", "1") for number in range(300)]
    visit.peer.send_headers(visit.stream_id, [*HEAD, *fields])
    await visit.flush()


async def trailers(visit: Visit) -> None:
    block = b"\x00\x04abcd\x01y"
    await visit.send(HeadersFrame(visit.stream_id, block))
    while True:
        await visit.send(*(ContinuationFrame(visit.stream_id, block * 100) for _ in range(10)))


PADDED = DataFrame(1, b"x", flags=["PADDED"])
PADDED.pad_length = 255
FLOODS = {
    "pings": PingFrame(0, b"12345678"),
    "settings": SettingsFrame(0, settings={h2.settings.SettingCodes.MAX_FRAME_SIZE: 20_000}),
    "empty settings": SettingsFrame(0),
    "empty data": DataFrame(1, b""),
    "padded data": PADDED,
    "window updates": WindowUpdateFrame(0, window_increment=1),
    "priorities": PriorityFrame(1, depends_on=3),
    "resets": RstStreamFrame(1, error_code=0),
    "resets of streams that never were": RstStreamFrame(99, error_code=0),
    "pushes": PushPromiseFrame(1, 2, b"\x82\x84\x87\x41\x01a", flags=["END_HEADERS"]),
}
ATTACKS: dict[str, Script] = {
    **{f"{name} before the head": endlessly(frame) for name, frame in FLOODS.items()},
    **{f"{name} in the body": after_head(endlessly(frame)) for name, frame in FLOODS.items()},
    "an HPACK bomb": hpack_bomb,
    "continuations": continuations,
    "empty continuations": empty_continuations,
    "interim responses": interim_responses,
    "300 fields": many_fields,
    "trailers": after_head(trailers),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_ends_in_an_error_and_costs_little(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((TooLarge, NetworkFailure)):
            await fetch(once(ATTACKS[name]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB  # of attacker and fetcher together


@pytest.mark.parametrize(
    "head",
    [
        [("content-type", "text/html")],
        [(":status", "two hundred")],
        [(":status", "20000")],
        [(":status", "0")],
        [(":status", "200"), (":status", "404")],
        [(":status", "200"), ("Upper", "case")],
        [(":status", "200"), ("connection", "close")],
        [(":status", "200"), ("x", "a\r\nb: c")],
        [(":status", "200"), ("content-length", "-1")],
        [(":status", "200"), ("content-length", "many")],
        [(":status", "200"), ("content-length", "5")],
    ],
    ids=str,
)
async def test_a_head_that_cannot_be_is_a_network_failure(head: list[tuple[str, str]]) -> None:
    async def attack(visit: Visit) -> None:
        block = b"".join(
            b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in head
        )
        await visit.send(
            HeadersFrame(visit.stream_id, block, flags=["END_HEADERS"]),
            DataFrame(visit.stream_id, b"page", flags=["END_STREAM"]),
        )

    with pytest.raises(NetworkFailure):
        await fetch(once(attack))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"",
        DataFrame(1, b"body without a head", flags=["END_STREAM"]).serialize(),
        HeadersFrame(7, b"\x88", flags=["END_HEADERS"]).serialize(),
        RstStreamFrame(1, error_code=2).serialize(),
        HeadersFrame(1, b"\xbf\xbf", flags=["END_HEADERS"]).serialize(),
        WindowUpdateFrame(0, window_increment=2**31 - 1).serialize() * 2,
        DataFrame(1, b"x" * 40_000).serialize(),
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_what_is_no_http2_is_a_network_failure(answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.stream.send_all(answer)

    with pytest.raises(NetworkFailure):
        await fetch(script)


async def test_an_attack_harms_no_other_fetch_from_the_same_origin() -> None:
    async def script(visit: Visit) -> None:
        while fields := await visit.request():
            if fields[":path"] == "/bad":
                await endlessly(PingFrame(0, b"12345678"))(visit)
            await trio.sleep(0.02)
            await visit.answer(b"good")

    outcomes: list[bytes | str] = []

    async def one(path: str) -> None:
        try:
            outcomes.append((await fetcher.fetch(origin.url(path), OPTIONS)).body)
        except PageError as error:
            outcomes.append(error.type)

    async with open_origin(script) as origin, fetcher_for() as fetcher:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(one, "/bad" if number % 3 == 0 else "/good")
        assert outcomes.count(b"good") == 8
        assert outcomes.count("too_large") == 4


# --- A server of others -------------------------------------------------------------------------


async def test_hypercorn_is_asked_by_http2_as_well(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        versions.append(scope["http_version"])
        size = int(scope["path"].lstrip("/"))
        fields = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        for start in range(0, size, 100_000):
            piece = b"z" * min(100_000, size - start)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    versions: list[str] = []
    authority = trustme.CA()
    certificate = authority.issue_cert("secure.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "chain.pem")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = str(tmp_path / "chain.pem")
    config.errorlog = None
    sizes = (0, 1, 65_535, 65_536, 3 * MIB)
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(partial(hypercorn.trio.serve, app, config))
        port = int(binds[0].rpartition(":")[2])
        async with fetcher_for(ssl_context=client) as fetcher:
            for size in sizes:
                page = await fetcher.fetch(f"https://secure.example:{port}/{size}", OPTIONS)
                assert page.body == b"z" * size
            assert fetcher.statistics().connections_made == 1
            with pytest.raises(TooLarge):
                await fetcher.fetch(f"https://secure.example:{port}/{30 * MIB}", OPTIONS)
            assert fetcher.statistics().open_connections == 0
        nursery.cancel_scope.cancel()
    assert set(versions) == {"2"}
