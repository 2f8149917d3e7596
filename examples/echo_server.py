"""The transport floor alone: an echo server over HTTP and WebSocket, and numbered streams.

    python examples/echo_server.py --bind 127.0.0.1:9001

- any method on any path: the request's body comes back;
- ``/ws``: every WebSocket message comes back (text, binary, compressed);
- ``/ndjson?n=&gap=&pad=``, ``/sse?n=&gap=&pad=&cut=``: ``n`` numbered events, ``gap`` seconds
  apart, each with ``pad`` bytes of padding. ``cut`` ends the SSE response after so many; the client
  comes back with ``Last-Event-ID`` and gets the rest, then 204.

Nothing but ``transport`` and ``wire`` is used, so conformance suites can be pointed at it.
"""

import argparse
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from urllib.parse import parse_qs

import attrs
import trio

from eventmesh_trio.abc import Exchange, Request
from eventmesh_trio.errors import ValidationError, WebSocketClosed
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners

BATCH_BYTES = 64 * 1024
DRAIN_SECONDS = 5.0


@attrs.frozen
class StreamQuery:
    """What the query asks for; ``gap`` in seconds, ``pad`` in bytes."""

    n: int = 10
    gap: float = 0.0
    pad: int = 0
    cut: int = 0  # 0: not at all


def parse_query(request: Request) -> StreamQuery:
    members = parse_qs(request.query.decode("ascii"))

    def number(name: str, default: float, most: float) -> float:
        text = members.get(name, [str(default)])[0]
        try:
            value = float(text)
        except ValueError:
            raise ValidationError(f"{name} must be a number", field=name) from None
        if not 0 <= value <= most:
            raise ValidationError(f"{name} must be from 0 to {most:g}", field=name)
        return value

    return StreamQuery(
        n=int(number("n", 10, 10_000_000)),
        gap=number("gap", 0, 3600),
        pad=int(number("pad", 0, 1_000_000)),
        cut=int(number("cut", 0, 10_000_000)),
    )


async def handle(exchange: Exchange) -> None:
    """Serve one exchange by its path."""
    request = exchange.request
    if request.wants_websocket and request.path == "/ws":
        await echo_messages(exchange)
    elif request.path == "/ndjson":
        await stream(exchange, b"application/x-ndjson; charset=utf-8", ndjson_line, first=1)
    elif request.path == "/sse":
        last = request.field(b"last-event-id") or b"0"
        if not last.isdigit():
            raise ValidationError("Last-Event-ID is none of ours", field="Last-Event-ID")
        await stream(exchange, b"text/event-stream; charset=utf-8", sse_block, first=int(last) + 1)
    else:
        await echo_body(exchange)


async def echo_body(exchange: Exchange) -> None:
    body = bytearray()
    while piece := await exchange.receive_some():
        body += piece
    content_type = exchange.request.field(b"content-type") or b"application/octet-stream"
    await exchange.send_response(200, [(b"content-type", content_type)], bytes(body))


async def echo_messages(exchange: Exchange) -> None:
    websocket = await exchange.accept_websocket()
    with suppress(WebSocketClosed):
        while True:
            await websocket.send_message(await websocket.receive())


def ndjson_line(number: int, padding: str) -> bytes:
    return b'{"id":%d,"pad":"%b"}\n' % (number, padding.encode())


def sse_block(number: int, padding: str) -> bytes:
    return b'id: %d\ndata: {"id":%d,"pad":"%b"}\n\n' % (number, number, padding.encode())


async def stream(
    exchange: Exchange, content_type: bytes, encode: Callable[[int, str], bytes], *, first: int
) -> None:
    """Send the events from ``first`` on until the client leaves."""
    query = parse_query(exchange.request)
    if first > query.n:
        await exchange.send_response(204, [])
        return
    last = min(query.n, first + query.cut - 1) if query.cut else query.n
    await exchange.start_response(
        200, [(b"content-type", content_type), (b"cache-control", b"no-cache")]
    )
    padding = "x" * query.pad
    events = (encode(number, padding) for number in range(first, last + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_disconnected, exchange, nursery.cancel_scope)
        await send_events(exchange, events, query.gap)
        await exchange.end_response()
        nursery.cancel_scope.cancel()


async def cancel_when_disconnected(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_disconnected()
    scope.cancel()


async def send_events(exchange: Exchange, events: Iterable[bytes], gap: float) -> None:
    """Send each event after a gap, or without one as many at once as fill `BATCH_BYTES`."""
    batch: list[bytes] = []
    size = 0
    for event in events:
        batch.append(event)
        size += len(event)
        if gap or size >= BATCH_BYTES:
            await exchange.send_some(b"".join(batch))
            batch.clear()
            size = 0
            if gap:
                await trio.sleep(gap)
    if batch:
        await exchange.send_some(b"".join(batch))


async def serve(binds: list[str], limits: TransportLimits) -> None:
    """Serve until SIGTERM or SIGINT, then let the responses at hand end."""
    drain = Drain()
    listeners = await open_listeners([parse_bind(bind) for bind in binds])
    async with trio.open_nursery() as nursery:
        start = partial(serve_listeners, handle, listeners, limits, drain=drain)
        for address in await nursery.start(start):
            print(f"listening on {address}", flush=True)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
        drain.begin()
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bind", action="append", metavar="HOST:PORT", help="also unix:PATH")
    parser.add_argument(
        "--max-message-bytes",
        type=int,
        default=TransportLimits().max_message_bytes,
        help="the largest WebSocket message that is echoed (default: %(default)s)",
    )
    arguments = parser.parse_args()
    limits = TransportLimits(max_message_bytes=arguments.max_message_bytes)
    trio.run(serve, arguments.bind or ["127.0.0.1:9001"], limits)


if __name__ == "__main__":
    main()
