"""A link over a real socket: pieces that are not joined, and what the kernel would take."""

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

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
