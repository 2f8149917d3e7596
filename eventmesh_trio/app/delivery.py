"""Where the wings meet: what a subscriber has is written to an exchange.

Nothing else knows both.
"""

from collections.abc import Callable

import trio

from eventmesh_trio.abc import Exchange, WebSocket
from eventmesh_trio.errors import ConnectionBroken, StreamingError
from eventmesh_trio.mesh.subscriber import Subscriber

__all__ = ["deliver", "deliver_messages"]


async def deliver(
    subscriber: Subscriber,
    exchange: Exchange,
    *,
    preamble: bytes = b"",
    first_byte: Callable[[float], None],
) -> bool:
    """Write a subscriber's batches as a streamed response until it ends or the peer leaves.

    Args:
      preamble: stands before the first event (SSE's ``retry``).
      first_byte: called once, with the seconds from the parsed request to the first byte handed
        to the socket.
    Returns:
      Whether the stream came to its end; False when the peer left before.
    Raises:
      BackpressureExceeded, BufferOverflow: the reader was evicted; the response stays unfinished,
        so that the client sees it cut, not ended.
    Cancelled: likewise unfinished. The subscriber stays open: its owner closes it.
    """
    finished = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_peer, exchange, nursery.cancel_scope)
        subscriber.cancel_when_cut_off(nursery.cancel_scope)
        try:
            await _write_batches(subscriber, exchange, preamble, first_byte)
            finished = True
        except StreamingError as error:
            # The peer left while it was written to: as if the watcher had seen it first. Or the
            # reader was evicted: raised below, outside of the nursery, which would make it a group.
            if not isinstance(error, ConnectionBroken) and error is not subscriber.failure:
                raise
        nursery.cancel_scope.cancel()
    if not finished and subscriber.failure is not None:
        raise subscriber.failure
    return finished


async def _watch_peer(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_disconnected()
    scope.cancel()


async def _write_batches(
    subscriber: Subscriber,
    exchange: Exchange,
    preamble: bytes,
    first_byte: Callable[[float], None],
) -> None:
    waiting_since: float | None = exchange.request.received_at
    while True:
        try:
            batch = await subscriber.receive_batch()
        except trio.EndOfChannel:
            break
        body = preamble + b"".join(batch.pieces)
        preamble = b""
        started = trio.current_time()
        await exchange.send_some(body)
        subscriber.sent(batch.events, len(body), trio.current_time() - started)
        if waiting_since is not None and exchange.first_byte_at is not None:
            first_byte(exchange.first_byte_at - waiting_since)
            waiting_since = None
    await exchange.end_response()


async def deliver_messages(
    subscriber: Subscriber,
    socket: WebSocket,
    *,
    requested_at: float,
    first_byte: Callable[[float], None],
) -> None:
    """Write a subscriber's batches to a WebSocket until it ends, which a session's never does.

    The only writer of data on this socket; replies travel through the subscriber's notices.
    ``first_byte`` is called once, with the seconds from ``requested_at`` to the first frame.
    Raises:
      WebSocketClosed: the peer has gone.
      BackpressureExceeded, BufferOverflow: the reader was evicted.
    """
    waiting = True
    while True:
        try:
            batch = await subscriber.receive_batch()
        except trio.EndOfChannel:
            return
        started = trio.current_time()
        if socket.takes_frames:
            await socket.send_frames(b"".join(batch.pieces))
        else:
            await socket.send_texts(batch.pieces)
        now = trio.current_time()
        subscriber.sent(batch.events, batch.nbytes, now - started)
        if waiting:
            first_byte(now - requested_at)
            waiting = False
