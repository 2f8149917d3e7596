"""A link over a real socket: pieces that are not joined, and what the kernel would take."""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.link import Link

KIB = 1024


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, trio.SocketStream]]:
    """A link over TCP, and its peer."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        accepted: list[trio.SocketStream] = []

        async def accept() -> None:
            accepted.append(await listener.accept())

        nursery.start_soon(accept)
        peer = await trio.open_tcp_stream(*listener.socket.getsockname())
        while not accepted:
            await trio.testing.wait_all_tasks_blocked()
        async with accepted[0], peer:
            yield Link(accepted[0], TransportLimits()), peer


@pytest.mark.parametrize(
    "sizes",
    [(3, 0, 5), (6, 64 * KIB, 2), (6, 190 * KIB, 2), (6, 9000 * KIB, 2), (1,) * 2000],
    ids=str,
)
async def test_pieces_arrive_in_order_and_whole(sizes: Sequence[int]) -> None:
    pieces = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    received = bytearray()
    async with linked() as (link, peer):

        async def read() -> None:
            async for data in peer:
                received.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await link.write(pieces)
            await link.close()
    assert received == b"".join(pieces)


async def test_pieces_are_written_to_a_stream_that_is_no_socket() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await Link(ours, TransportLimits()).write([b"one", b" ", b"two"])
    assert await theirs.receive_some() == b"one two"


async def test_what_is_said_to_be_writable_is_taken_without_waiting() -> None:
    async with linked() as (link, peer):
        nbytes = link.writable_bytes()
        assert 0 < nbytes <= link.limits.unsent_bytes
        assert link.descriptor is not None
        assert os.write(link.descriptor, bytes(nbytes)) == nbytes
        assert await peer.receive_some(1)


async def test_nothing_is_said_to_be_writable_while_a_peer_reads_nothing() -> None:
    async with linked() as (link, _):
        assert isinstance(link.stream, trio.SocketStream)
        link.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
        with trio.move_on_after(0.2):
            await link.stream.send_all(bytes(64 * 1024 * KIB))
        assert link.writable_bytes() == 0


async def test_a_socket_is_closed_at_once_and_what_was_written_arrives() -> None:
    async with linked() as (link, peer):
        await link.write(b"last words")
        assert link.close_nowait()
        assert link.descriptor is None
        assert b"".join([bytes(data) async for data in peer]) == b"last words"


async def test_a_socket_whose_peer_may_still_send_is_not_closed_at_once() -> None:
    async with linked() as (link, peer):
        link.linger = True
        assert not link.close_nowait()
        await peer.aclose()
        assert await link.read() == b""  # it has gone: there is nothing to read away
        assert link.close_nowait()


def test_a_stream_that_is_no_socket_is_not_closed_at_once() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    assert not Link(ours, TransportLimits()).close_nowait()


def test_of_a_stream_that_is_no_socket_nothing_is_known() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    assert Link(ours, TransportLimits()).writable_bytes() == 0


# --- the end of TLS -----------------------------------------------------------------------------


@asynccontextmanager
async def linked_by_tls(
    streams: tuple[trio.abc.Stream, trio.abc.Stream],
) -> AsyncIterator[tuple[Link, trio.SSLStream[trio.abc.Stream]]]:
    """A link over TLS, and its peer, which takes an end without close_notify for a cut."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    server = trio.SSLStream(streams[0], server_context, server_side=True)
    client = trio.SSLStream(streams[1], client_context, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        await client.do_handshake()
        # The tickets of TLS 1.3 travel with the first bytes.
        nursery.start_soon(server.send_all, b"hello")
        assert await client.receive_some() == b"hello"
    yield Link(server, TransportLimits()), client
    await trio.aclose_forcefully(client)


async def test_tls_is_ended_with_a_close_notify_that_needs_no_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with linked_by_tls(trio.testing.memory_stream_pair()) as (link, peer):
        await link.close()
        assert trio.current_time() == 0
        assert await peer.receive_some() == b""


async def test_a_tls_peer_that_reads_nothing_does_not_keep_us_from_closing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with linked_by_tls(trio.testing.lockstep_stream_pair()) as (link, _):
        await link.close()
        assert trio.current_time() == pytest.approx(link.limits.farewell_seconds)


async def test_tls_is_ended_though_the_peer_did_not_stop_to_send(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with linked_by_tls(trio.testing.memory_stream_pair()) as (link, peer):
        link.linger = True
        await peer.send_all(b"more")
        await link.close()
        assert trio.current_time() == pytest.approx(link.limits.farewell_seconds)
        assert await peer.receive_some() == b""


@pytest.mark.parametrize("reset", [True, False])
async def test_an_aborted_tls_connection_sends_no_close_notify(reset: bool) -> None:
    async with linked_by_tls(trio.testing.memory_stream_pair()) as (link, peer):
        await link.abort(reset=reset)
        with pytest.raises(trio.BrokenResourceError):
            await peer.receive_some()


async def test_an_end_without_a_close_notify_is_the_end_of_what_a_tls_peer_sends() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with linked_by_tls((ours, theirs)) as (link, _):
        await theirs.aclose()
        assert await link.read() == b""
        assert link.peer_left
        await link.close()
