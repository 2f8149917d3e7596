"""Listening on real sockets: TCP, Unix, TLS; the cap, exhaustion, and the end of service."""

import errno
import fcntl
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from ipaddress import ip_network
from itertools import repeat
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme
from structlog.testing import capture_logs
from transport_harness import GET, LIMITS, HTTPPeer, open_websocket

from eventmesh_trio.abc import Exchange
from eventmesh_trio.errors import ConfigError
from eventmesh_trio.transport.addresses import Network
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.http import Handler
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.listeners import (
    Bind,
    Listener,
    open_listeners,
    parse_bind,
    serve_listeners,
)

LOCAL = Bind("127.0.0.1", 0)


async def echo(exchange: Exchange) -> None:
    body = b""
    while piece := await exchange.receive_some():
        body += piece
    request = exchange.request
    where = f"{request.scheme} {request.peer or 'unix'}".encode()
    await exchange.send_response(200, [(b"x-where", where)], body or b"empty")


@asynccontextmanager
async def serving(
    handler: Handler,
    binds: list[Bind],
    limits: TransportLimits = LIMITS,
    *,
    ssl_context: ssl.SSLContext | None = None,
    drain: Drain | None = None,
    proxies: Collection[Network] = (),
) -> AsyncIterator[list[Listener]]:
    listeners = await open_listeners(binds, ssl_context)
    async with trio.open_nursery() as nursery:
        serve = partial(serve_listeners, handler, listeners, limits, drain=drain, proxies=proxies)
        addresses = await nursery.start(serve)
        assert addresses == [listener.address for listener in listeners]
        with trio.fail_after(30):
            yield listeners
        nursery.cancel_scope.cancel()


async def connect(listener: Listener) -> HTTPPeer:
    if listener.unix_path is not None:
        return HTTPPeer(await trio.open_unix_socket(listener.unix_path))
    host, port = listener.socket.getsockname()[:2]
    return HTTPPeer(await trio.open_tcp_stream(host, port))


async def until(condition: "partial[bool]") -> None:
    """Poll for what only the kernel decides the time of; the caller's deadline bounds it."""
    with trio.fail_after(2):
        while not condition():
            await trio.sleep(0.005)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bind", "shown", "loopback"),
    [
        ("127.0.0.1:8080", Bind("127.0.0.1", 8080), "127.0.0.1:8080", True),
        ("127.9.9.9", Bind("127.9.9.9", 8080), "127.9.9.9:8080", True),
        ("[::1]:0", Bind("::1", 0), "[::1]:0", True),
        ("[::1]", Bind("::1", 8080), "[::1]:8080", True),
        ("localhost:1", Bind("localhost", 1), "localhost:1", True),
        (":90", Bind("localhost", 90), "localhost:90", True),
        ("0.0.0.0:80", Bind("0.0.0.0", 80), "0.0.0.0:80", False),
        ("[::]:80", Bind("::", 80), "[::]:80", False),
        ("10.0.0.1:80", Bind("10.0.0.1", 80), "10.0.0.1:80", False),
        ("example.org:80", Bind("example.org", 80), "example.org:80", False),
        ("unix:/run/x.sock", Bind(path="/run/x.sock"), "unix:/run/x.sock", True),
    ],
)
def test_addresses_are_read_as_people_write_them(
    text: str, bind: Bind, shown: str, loopback: bool
) -> None:
    parsed = parse_bind(text)
    assert (parsed, str(parsed), parsed.is_loopback) == (bind, shown, loopback)


@pytest.mark.parametrize("text", ["unix:", "::1:80", "a:b", "a:-1", "a:65536", "a:٣", "[::1]:x"])
def test_an_address_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_bind(text)


# --- kinds of sockets ---------------------------------------------------------------------------


async def test_tcp_on_two_addresses_with_the_peers_address_in_the_request() -> None:
    async with serving(echo, [LOCAL, Bind("::1", 0)]) as (one, two):
        for listener, address in [(one, b"127.0.0.1"), (two, b"::1")]:
            peer = await connect(listener)
            await peer.send(GET)
            answer = await peer.answer()
            assert answer.fields[b"x-where"] == b"http " + address
            await peer.stream.aclose()
        assert one.address.startswith("http://127.0.0.1:")
        assert two.address.startswith("http://[::1]:")


async def test_one_address_that_cannot_be_bound_leaves_none_open() -> None:
    before = open_descriptors()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            await open_listeners([LOCAL, Bind("127.0.0.1", taken.getsockname()[1])])
    assert open_descriptors() == before


async def test_a_unix_socket_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with serving(echo, [Bind(path=str(path))]) as (listener,):
        assert path.stat().st_mode & 0o777 == 0o600
        peer = await connect(listener)
        await peer.send(GET)
        answer = await peer.answer()
        assert (answer.body, answer.fields[b"x-where"]) == (b"empty", b"http unix")
        await peer.stream.aclose()
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(echo, [Bind(path=str(path))]) as (first,):
        with pytest.raises(OSError, match="another server"):
            await open_listeners([Bind(path=str(path))])
        peer = await connect(first)
        await peer.stream.aclose()
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        await open_listeners([Bind(path=str(path))])
    assert path.read_text() == "precious"


async def test_a_socket_file_that_another_server_has_taken_over_is_left_to_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "server.sock"
    async with serving(echo, [Bind(path=str(path))]):
        path.unlink()
        (theirs,) = await open_listeners([Bind(path=str(path))])
    assert path.exists()
    theirs.close()
    assert not path.exists()


async def test_a_socket_file_that_cannot_be_made_private_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", fail)
        with pytest.raises(PermissionError):
            await open_listeners([Bind(path=str(tmp_path / "server.sock"))])
    assert list(tmp_path.iterdir()) == []
    assert open_descriptors() == before


async def test_servers_that_start_together_look_for_stale_socket_files_in_turn(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "server.sock"
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))  # not listened on yet: it looks stale
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(OSError, match="another server"):
                    await open_listeners([Bind(path=str(path))])

            nursery.start_soon(start)
            await trio.sleep(0.5)
            theirs.listen()
            os.close(other)
    assert os.listdir(tmp_path) == [path.name]


async def test_a_directory_that_somebody_keeps_locked_delays_a_start_and_no_more(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    (listener,) = await open_listeners([Bind(path=str(tmp_path / "server.sock"))])
    listener.close()
    assert trio.current_time() < 2
    os.close(other)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def connect_tls(
    listener: Listener, authority: trustme.CA, *, strict: bool = False
) -> HTTPPeer:
    """A ``strict`` client takes an end without close_notify for what it may be: a cut."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    plain = (await connect(listener)).stream
    secure = trio.SSLStream(
        plain, context, server_hostname="localhost", https_compatible=not strict
    )
    await secure.do_handshake()
    return HTTPPeer(secure)


async def test_https_and_wss_work_over_tls(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    async def handler(exchange: Exchange) -> None:
        if not exchange.request.wants_websocket:
            await echo(exchange)
            return
        websocket = await exchange.accept_websocket()
        while True:
            await websocket.send_message(await websocket.receive())

    async with serving(handler, [LOCAL], ssl_context=server_context) as (listener,):
        assert listener.address.startswith("https://")
        peer = await connect_tls(listener, authority)
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        await peer.send(b"x" * 200_000)
        answer = await peer.answer()
        assert (len(answer.body), answer.fields[b"x-where"]) == (200_000, b"https 127.0.0.1")
        websocket = await open_websocket(peer, deflate=True)
        await websocket.send_text("hello" * 1000)
        assert await websocket.message() == "hello" * 1000
        await peer.stream.aclose()


async def read_strictly(peer: HTTPPeer) -> bytes:
    """All that comes. Raises `trio.BrokenResourceError` where the end is not told."""
    data = b""
    while piece := await peer.stream.receive_some():
        data += piece
    return data


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_over_tls_a_whole_response_that_the_end_delimits_is_told_from_one_that_was_cut(
    version: ssl.TLSVersion, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"some")
        if exchange.request.path == "/cut":
            await gate.wait()
            raise ZeroDivisionError
        await exchange.end_response()

    gate = trio.Event()
    server_context.maximum_version = version
    with capture_logs():
        async with serving(handler, [LOCAL], ssl_context=server_context) as (listener,):
            whole = await connect_tls(listener, authority, strict=True)
            await whole.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await read_strictly(whole)).endswith(b"\r\n\r\nsome")
            cut = await connect_tls(listener, authority, strict=True)
            await cut.send(b"GET /cut HTTP/1.0\r\n\r\n")
            await cut.until(b"some")
            gate.set()
            with pytest.raises(trio.BrokenResourceError) as caught:
                await read_strictly(cut)
            assert isinstance(caught.value.__cause__, ConnectionResetError)
            for each in (whole, cut):
                await trio.aclose_forcefully(each.stream)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_server_that_is_cancelled_cuts_its_streams_so_that_they_do_not_look_whole(
    tls: bool, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"some")
        await trio.sleep_forever()

    context = server_context if tls else None
    async with serving(handler, [LOCAL], ssl_context=context) as (listener,):
        if tls:
            peer = await connect_tls(listener, authority, strict=True)
        else:
            peer = await connect(listener)
        await peer.send(b"GET / HTTP/1.0\r\n\r\n")
        await peer.until(b"some")
    with pytest.raises(trio.BrokenResourceError):
        await read_strictly(peer)
    await trio.aclose_forcefully(peer.stream)


async def test_a_tls_connection_that_rests_is_ended_with_a_close_notify(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    limits = attrs.evolve(LIMITS, keep_alive_seconds=0.2)
    drain = Drain()
    async with serving(echo, [LOCAL], limits, ssl_context=server_context, drain=drain) as (
        listener,
    ):
        peers = [await connect_tls(listener, authority, strict=True) for _ in range(3)]
        for peer in peers[1:]:
            await peer.send(GET)
            assert (await peer.answer()).body == b"empty"
            assert await read_strictly(peer) == b""
        # No answer to it is waited for.
        await until(partial(lambda: drain.connections == 1))
        await peers[0].stream.aclose()  # a client's own is answered
        await until(partial(lambda: drain.connections == 0))
        for peer in peers:
            await trio.aclose_forcefully(peer.stream)


async def test_a_tls_handshake_that_fails_or_stands_still_harms_nobody(
    authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    limits = attrs.evolve(LIMITS, tls_handshake_seconds=0.2)
    with capture_logs() as logs:
        async with serving(echo, [LOCAL], limits, ssl_context=server_context) as (listener,):
            silent = await connect(listener)
            plain = await connect(listener)
            await plain.send(GET)
            await plain.rest()
            assert await silent.rest() == b""
            peer = await connect_tls(listener, authority)
            await peer.send(GET)
            assert (await peer.answer()).status == 200
            for each in (silent, plain, peer):
                await trio.aclose_forcefully(each.stream)
    assert logs == []


async def test_accepted_sockets_hold_little_unsent_data_back() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        stream = exchange._link.stream  # type: ignore[attr-defined]
        seen.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))
        seen.append(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await exchange.send_response(204, [])

    async with serving(handler, [LOCAL]) as (listener,):
        peer = await connect(listener)
        await peer.send(GET)
        await peer.answer()
        await peer.stream.aclose()
    assert seen == [LIMITS.unsent_bytes, 1]


# --- isolation and leaks ------------------------------------------------------------------------


async def test_a_connection_that_fails_ends_alone() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/bug":
            raise ZeroDivisionError
        await echo(exchange)

    with capture_logs() as logs:
        async with serving(handler, [LOCAL]) as (listener,):
            good, bad = await connect(listener), await connect(listener)
            await bad.send(b"GET /bug HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await bad.answer()).status == 500
            await good.send(GET)
            assert (await good.answer()).status == 200
            for each in (good, bad):
                await each.stream.aclose()
    assert len(logs) == 1


async def test_a_hundred_vanished_clients_leave_no_task_and_no_descriptor() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"x")
        await exchange.wait_disconnected()

    drain = Drain()
    async with serving(handler, [LOCAL], drain=drain) as (listener,):
        descriptors = open_descriptors()
        tasks = trio.lowlevel.current_statistics().tasks_living
        peers = [await connect(listener) for _ in range(100)]
        for number, peer in enumerate(peers):
            if number % 2:
                await peer.send(GET)
                await peer.until(b"x\r\n")
        await until(partial(lambda: drain.connections == 100))
        for number, peer in enumerate(peers):
            if number % 3 == 0:  # a reset instead of an end
                linger = b"\x01\0\0\0\0\0\0\0"
                peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # type: ignore[attr-defined]
            await peer.stream.aclose()
        await until(partial(lambda: drain.connections == 0))
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_descriptors() == descriptors


async def test_a_response_that_only_the_end_delimits_is_aborted_with_a_reset() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"some")
        await gate.wait()
        raise ZeroDivisionError

    gate = trio.Event()
    with capture_logs():
        async with serving(handler, [LOCAL]) as (listener,):
            peer = await connect(listener)
            await peer.send(b"GET / HTTP/1.0\r\n\r\n")
            await peer.until(b"some")
            gate.set()
            with pytest.raises(trio.BrokenResourceError):
                await peer.stream.receive_some()
            await peer.stream.aclose()


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    limits = attrs.evolve(LIMITS, max_body_bytes=1000)
    async with serving(echo, [LOCAL], limits) as (listener,):
        peer = await connect(listener)
        async with trio.open_nursery() as nursery:

            async def upload() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await peer.send(
                        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n"
                    )
                    await peer.send(b"x" * 9_000_000)

            nursery.start_soon(upload)
            await trio.sleep(0.1)
            assert (await peer.answer()).status == 413
            await peer.stream.aclose()


# --- too many connections -----------------------------------------------------------------------


async def test_a_connection_over_the_cap_is_told_503_and_one_that_ends_makes_room() -> None:
    limits = attrs.evolve(LIMITS, max_connections=2, max_refusals=1, farewell_seconds=0.3)
    drain = Drain()
    async with serving(echo, [LOCAL], limits, drain=drain) as (listener,):
        peers = [await connect(listener) for _ in range(2)]
        await until(partial(lambda: drain.connections == 2))
        refused = await connect(listener)
        await refused.send(GET)
        answer = await refused.answer()
        assert (answer.status, answer.fields[b"retry-after"]) == (503, b"1")
        assert b'"overloaded"' in answer.body
        closed = await connect(listener)  # beyond `max_refusals`, while the other is being told
        assert await closed.rest() == b""
        await peers.pop().stream.aclose()
        await until(partial(lambda: drain.connections == 1))
        peer = await connect(listener)
        await peer.send(GET)
        assert (await peer.answer()).status == 200
        for each in [*peers, peer, refused, closed]:
            await each.stream.aclose()


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Let this process open only ``spare`` more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_clients_are_told_503_and_service_comes_back() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    with capture_logs() as logs:
        async with serving(echo, [LOCAL]) as (listener,):
            address = listener.socket.getsockname()
            # Clients are made beforehand: their descriptors are of this process too.
            clients = [trio.socket.socket() for _ in range(6)]
            hogs = []
            with few_descriptors(0):
                with suppress(OSError):
                    while True:
                        hogs.append(os.open(os.devnull, os.O_RDONLY))
                for client in clients[:3]:
                    await client.connect(address)
                    await client.send(GET)
                    answer = await HTTPPeer(trio.SocketStream(client)).answer()
                    assert (answer.status, answer.fields[b"retry-after"]) == (503, b"1")
                for hog in hogs:
                    os.close(hog)
                began = trio.current_time()
                for client in clients[3:]:
                    await client.connect(address)
                    await client.send(GET)
                    answer = await HTTPPeer(trio.SocketStream(client)).answer()
                    if answer.status == 200:
                        break
                    await trio.sleep(0.2)
                assert answer.status == 200
                assert trio.current_time() - began < 1
            for client in clients:
                client.close()
    assert logs
    assert all(entry["log_level"] == "warning" for entry in logs)
    assert trio.lowlevel.current_statistics().tasks_living == before


class Unlucky:
    """A listening socket of which some connections die before they are accepted."""

    def __init__(self, socket: trio.socket.SocketType, errors: Iterator[int]) -> None:
        self._socket = socket
        self._errors = errors
        self.failed = 0

    async def accept(self) -> object:
        for number in self._errors:
            self.failed += 1
            await trio.lowlevel.checkpoint()
            raise OSError(number, os.strerror(number))
        return await self._socket.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._socket, name)


async def test_connections_that_die_before_they_are_accepted_harm_nobody() -> None:
    errors = "ENETDOWN EPROTO ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH"
    numbers = [getattr(errno, name) for name in f"{errors} ETIMEDOUT ECONNABORTED".split()]
    listeners = await open_listeners([LOCAL])
    real = listeners[0].socket
    listeners[0].socket = Unlucky(real, iter(numbers))  # type: ignore[assignment]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_listeners, echo, listeners, LIMITS))
            peer = await connect(listeners[0])
            await peer.send(GET)
            assert (await peer.answer()).status == 200
            await peer.stream.aclose()
            nursery.cancel_scope.cancel()


async def test_an_accept_that_never_ceases_to_fail_does_not_keep_the_server_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listeners = await open_listeners([LOCAL])
    unlucky = Unlucky(listeners[0].socket, repeat(errno.ENETDOWN))
    listeners[0].socket = unlucky  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_listeners, echo, listeners, LIMITS))
        await trio.sleep(10 * LIMITS.accept_backoff_seconds)
        assert unlucky.failed <= 1200
        nursery.cancel_scope.cancel()


async def test_a_broken_listener_is_an_error_of_the_server() -> None:
    listeners = await open_listeners([LOCAL])
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_listeners, echo, listeners, LIMITS))
            listeners[0].socket.shutdown(socket.SHUT_RDWR)  # accept answers EINVAL
            await trio.sleep_forever()


# --- the end of service -------------------------------------------------------------------------


async def test_a_drained_server_stops_accepting_lets_streams_end_and_returns(
    tmp_path: Path,
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"begun")
        await drain.wait_begun()
        await exchange.send_some(b"ended")
        await exchange.end_response()

    path = tmp_path / "server.sock"
    drain = Drain()
    limits = attrs.evolve(LIMITS, farewell_seconds=0.2)
    listeners = await open_listeners([LOCAL, Bind(path=str(path))])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_listeners, handler, listeners, limits, drain=drain)
            await nursery.start(serve)
            idle = await connect(listeners[0])
            busy = [await connect(listeners[number % 2]) for number in range(20)]
            for peer in busy:
                await peer.send(GET)
                await peer.until(b"begun\r\n")
            address = listeners[0].socket.getsockname()
            drain.begin()
            for peer in busy:
                assert b"5\r\nended\r\n0\r\n\r\n" in await peer.rest()
            assert await idle.rest() == b""
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream(*address)
            for peer in [*busy, idle]:
                await peer.stream.aclose()
        # The nursery ended by itself: nothing was left to serve.
    assert not path.exists()
    await drain.wait_empty()


async def test_a_drain_that_still_accepts_answers_once_and_then_closes_the_listeners() -> None:
    drain = Drain()
    listeners = await open_listeners([LOCAL])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_listeners, echo, listeners, LIMITS, drain=drain))
            drain.begin(accepting=True)
            late = await connect(listeners[0])
            await trio.sleep(0.05)  # it was not closed for having said nothing yet
            await late.send(GET)
            answer = await late.answer()
            assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
            assert await late.rest() == b""
            address = listeners[0].socket.getsockname()
            drain.begin()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream(*address)
            await late.stream.aclose()
        # The nursery ended by itself: nothing was left to serve.


async def test_more_connections_of_an_address_are_refused_but_not_those_of_a_proxy() -> None:
    limits = attrs.evolve(LIMITS, max_connections_per_address=1, farewell_seconds=0.3)
    for proxies, status in [((), 429), ((ip_network("127.0.0.0/8"),), 200)]:
        async with serving(echo, [LOCAL], limits, proxies=proxies) as (listener,):
            first = await connect(listener)
            await first.send(GET)
            assert (await first.answer()).status == 200
            second = await connect(listener)
            await second.send(GET)
            answer = await second.answer()
            assert answer.status == status
            assert status == 200 or answer.fields[b"retry-after"] == b"1"
            for each in (first, second):
                await each.stream.aclose()


def test_every_limit_must_be_positive() -> None:
    for field in attrs.fields(TransportLimits):
        if field.type is bool:
            continue
        with pytest.raises(ValueError, match=field.name):
            TransportLimits(**{field.name: 0})
