"""How the client connects: TCP, TLS and Unix sockets, and what bounds it."""

import ssl
from functools import partial
from pathlib import Path
from urllib.parse import quote

import h11
import pytest
import trio
import trustme
from scripted_peer import Incoming, crawl_start, framed, open_peer, summary
from trio.testing import MockClock

from eventmesh_trio.client.address import Address
from eventmesh_trio.client.client import open_client
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import ConnectionBroken, RemoteProtocolError, TLSFailure

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + b'{"status":1}\n'


async def answer(stream: trio.abc.Stream, *, data: bytes = ANSWER) -> None:
    try:
        await stream.receive_some()
        await stream.send_all(data)
        await trio.aclose_forcefully(stream)
    except trio.BrokenResourceError:
        pass  # a client that did not like our certificate


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def test_https_is_verified_against_the_given_context(authority: trustme.CA) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(trio.serve_ssl_over_tcp, answer, 0, server_context, host="127.0.0.1")
        )
        url = f"https://localhost:{listener.transport_listener.socket.getsockname()[1]}"
        async with open_client(url, ssl_context=trusting) as client:
            assert await client.health() == {"status": 1}
        async with open_client(url) as client:
            with pytest.raises(TLSFailure, match="certificate"):
                await client.health()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scheme", ["unix:", "http+unix://"])
async def test_a_unix_socket_is_dialled(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "mesh.sock"
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(str(path))
        sock.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(sock)])
            shown = quote(str(path), safe="") if "//" in scheme else str(path)
            async with open_client(scheme + shown) as client:
                assert await client.health() == {"status": 1}
            nursery.cancel_scope.cancel()


async def test_a_port_without_a_server_is_told_with_its_address() -> None:
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with open_client(url) as client:
            with pytest.raises(ConnectionBroken, match=url):
                await client.health()


async def test_a_name_that_cannot_be_one_is_a_server_that_is_not_there() -> None:
    async with open_client("http://a..b:9") as client:
        with pytest.raises(ConnectionBroken, match=r"cannot connect to http://a\.\.b:9"):
            await client.health()


async def test_dialling_is_bounded(autojump_clock: MockClock) -> None:
    async def never(_: Address) -> trio.abc.Stream:
        await trio.sleep_forever()

    async with open_client("http://h.test", open_stream=never) as client:
        with pytest.raises(ConnectionBroken, match="within 10 s"):
            await client.health()
    assert trio.current_time() == pytest.approx(10)


async def answered_with(data: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def give(_: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(answer, theirs, data=data))
        async with open_client("http://h.test", open_stream=give) as client:
            await client.health()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\nContent-", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", ConnectionBroken),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{[", RemoteProtocolError),
    ],
)
async def test_a_cut_answer_is_told_from_a_wrong_one(
    autojump_clock: MockClock, data: bytes, expected: type[Exception]
) -> None:
    with pytest.RaisesGroup(expected):
        await answered_with(data)


async def test_field_values_go_out_as_latin_1() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    asked = b""

    async def give(_: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    async def note() -> None:
        nonlocal asked
        asked = await theirs.receive_some()
        await theirs.send_all(ANSWER)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note)
        fields = [("x-name", "Andr\xe9")]
        async with open_client("http://h.test", open_stream=give, fields=fields) as client:
            assert await client.health() == {"status": 1}
    assert b"\r\nx-name: Andr\xe9\r\n" in asked


async def test_a_request_that_cannot_be_written_leaves_no_connection_behind() -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def give(_: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    fields = [("Content-Length", "many")]
    async with open_client("http://h.test", open_stream=give, fields=fields) as client:
        with pytest.raises(h11.LocalProtocolError):
            await client.health()
    with trio.fail_after(1):
        assert await theirs.receive_some() == b""


async def test_interim_responses_are_skipped(autojump_clock: MockClock) -> None:
    await answered_with(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ANSWER)


async def test_the_longest_wait_is_bounded(autojump_clock: MockClock) -> None:
    limits = ClientLimits(max_backoff_seconds=2.0, max_attempts=12)
    async with open_peer(limits) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))
            await incoming.cut()

        with pytest.raises(ConnectionBroken):  # noqa: PT012
            async with client.crawl(["http://a/"]) as stream:
                async for _ in stream:
                    pass
        waits = [b - a for a, b in zip(peer.dialled_at, peer.dialled_at[1:], strict=False)]
        assert max(waits) == pytest.approx(2.0)


async def test_a_connection_that_held_long_ends_an_outage(autojump_clock: MockClock) -> None:
    """Six cuts of an idle run, each after half a minute, while two attempts are allowed."""
    async with open_peer(ClientLimits(max_attempts=2, max_outage_seconds=60)) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))
            await incoming.cut()

        for _ in range(6):

            @peer.on_request
            async def _(incoming: Incoming) -> None:
                await incoming.begin("sse")
                await trio.sleep(25)
                await incoming.send(b": keep-alive\n\n")
                await trio.sleep(5)
                await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", summary(peer.requests[0].request_id), "e-2"))

        async with client.crawl(["http://a/"]) as stream:
            assert len([event async for event in stream]) == 2
        assert stream.connections == 8


@pytest.mark.parametrize("head", [False, True])
async def test_connections_on_which_nothing_comes_use_up_the_attempts_however_long_they_last(
    autojump_clock: MockClock, head: bool
) -> None:
    async with open_peer(ClientLimits(max_attempts=3)) as (peer, client):
        for _ in range(4):

            @peer.on_request
            async def _(incoming: Incoming) -> None:
                if head:
                    await incoming.begin("sse")
                await trio.sleep_forever()

        with pytest.raises(ConnectionBroken):
            async with client.crawl(["http://a/"]):
                pass
        assert len(peer.requests) == 4
        peer.stop()


async def test_connections_that_bring_nothing_new_use_up_the_attempts(
    autojump_clock: MockClock,
) -> None:
    async with open_peer(ClientLimits(max_attempts=3)) as (peer, client):
        for _ in range(4):

            @peer.on_request
            async def _(incoming: Incoming) -> None:
                await incoming.begin("sse")
                request_id = peer.requests[0].request_id
                await incoming.send(framed("sse", crawl_start(request_id), "e-1"))
                await incoming.cut()

        with pytest.raises(ConnectionBroken):  # noqa: PT012
            async with client.crawl(["http://a/"]) as stream:
                async for _ in stream:
                    pass
        assert len(peer.requests) == 4
        assert len(peer.dialled_at) == 5  # and the farewell


@pytest.mark.parametrize(
    "wrong", [{"idle_seconds": 0}, {"max_attempts": -1}, {"connect_seconds": -1}]
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClientLimits(**wrong)  # type: ignore[arg-type]
