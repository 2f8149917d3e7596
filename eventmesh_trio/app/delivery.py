"""Where the wings meet: what a subscriber has is written to an exchange.

Nothing else knows both.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from eventmesh_trio.abc import Exchange, WebSocket
from eventmesh_trio.errors import ConnectionBroken, StreamingError
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.content_coding import GzipEncoder

__all__ = ["coded", "deliver", "deliver_messages"]

_CODING_BYTES: Final = 64 * 1024  # coded at once: about a millisecond


async def deliver(
    subscriber: Subscriber,
    exchange: Exchange,
    *,
    preamble: bytes = b"",
    coder: GzipEncoder | None = None,
    first_byte: Callable[[float], None],
    before_end: Callable[[], None],
) -> bool:
    """Write a subscriber's batches as a streamed response until it ends or the peer leaves.

    Args:
      preamble: stands before the first event (SSE's ``retry``).
      coder: of the content, where it is coded; what is counted as sent is what it makes.
      first_byte: called once, with the seconds from the parsed request to the first byte handed
        to the socket.
      before_end: called when all events were written, before the end of the response is.
    Returns:
      Whether the stream came to its end; False when the peer left before.
    Raises:
      BackpressureExceeded, BufferOverflow: the reader was evicted; the response stays unfinished,
        so that the client sees it cut, not ended.
    Cancelled: likewise unfinished. The subscriber stays open: its owner closes it.
    """
    finished = False
    async with exchange.until_disconnected() as scope:
        subscriber.cancel_when_cut_off(scope)
        try:
            await _write_batches(subscriber, exchange, preamble, coder, first_byte)
            before_end()
            if coder is not None:
                tail, started = coder.end(), trio.current_time()
                await exchange.send_some(tail)
                subscriber.sent(0, len(tail), trio.current_time() - started)
            await exchange.end_response()
            finished = True
        except StreamingError as error:
            # The peer left while it was written to: as if that had been noticed first. Or the
            # reader was evicted: raised below, outside of the block, which may make it a group.
            if not isinstance(error, ConnectionBroken) and error is not subscriber.failure:
                raise
    if not finished and subscriber.failure is not None:
        raise subscriber.failure
    return finished


async def _write_batches(
    subscriber: Subscriber,
    exchange: Exchange,
    preamble: bytes,
    coder: GzipEncoder | None,
    first_byte: Callable[[float], None],
) -> None:
    waiting_since: float | None = exchange.request.received_at
    # What a coder makes of a batch is held with it.
    receive = subscriber.receive_batch
    if coder is None:
        receive = partial(receive, exchange.writable_bytes)
    while True:
        try:
            batch = await receive()
        except trio.EndOfChannel:
            break
        pieces: Sequence[bytes] = [preamble, *batch.pieces] if preamble else batch.pieces
        preamble = b""
        if coder is not None:
            pieces = [await coded(coder, b"".join(pieces))]
        started = trio.current_time()
        await exchange.send_some(*pieces)
        subscriber.sent(batch.events, sum(map(len, pieces)), trio.current_time() - started)
        del batch, pieces  # an idle stream would hold them until its next event
        if waiting_since is not None and exchange.first_byte_at is not None:
            first_byte(exchange.first_byte_at - waiting_since)
            waiting_since = None


async def coded(coder: GzipEncoder, body: bytes) -> bytes:
    """Code one batch, whole; a large one in slices, so that others run in between.

    Cancelled: the content is broken, and must not go on.
    """
    if len(body) <= _CODING_BYTES:
        return coder.compress(body) + coder.flush()
    pieces = []
    with memoryview(body) as view:
        for start in range(0, len(view), _CODING_BYTES):
            pieces.append(coder.compress(view[start : start + _CODING_BYTES]))
            await trio.lowlevel.checkpoint()
    return b"".join([*pieces, coder.flush()])


async def deliver_messages(
    subscriber: Subscriber,
    socket: WebSocket,
    *,
    requested_at: float,
    first_byte: Callable[[float], None],
) -> None:
    """Write a subscriber's batches to a WebSocket until it ends, which a session's never does.

    The only writer of data on this socket; replies travel through the subscriber's notices.

    Args:
      first_byte: called for each run that was asked for here, with the seconds from the command to
        the run's first frame. The reader's own, for runs that were not, counts from
        ``requested_at``.
    Raises:
      WebSocketClosed: the peer has gone.
      BackpressureExceeded, BufferOverflow: the reader was evicted.
    """
    waiting = True
    while True:
        try:
            batch = await subscriber.receive_batch(socket.writable_bytes)
        except trio.EndOfChannel:
            return
        started = trio.current_time()
        if socket.takes_frames:
            await socket.send_frames(*batch.pieces)
        else:
            await socket.send_texts(batch.pieces)
        now = trio.current_time()
        subscriber.sent(batch.events, batch.nbytes, now - started)
        if waiting:
            subscriber.first_byte((started - requested_at) * 1000)
            waiting = False
        for seconds in batch.first_bytes:
            first_byte(seconds)
        del batch  # as above
