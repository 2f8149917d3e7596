"""An accepted WebSocket over a native connection: `eventmesh_trio.abc.WebSocket`."""

from collections.abc import Sequence
from contextlib import suppress

import trio

from eventmesh_trio.errors import ConnectionBroken, LocalProtocolError, WebSocketClosed
from eventmesh_trio.transport.link import Link, are_small
from eventmesh_trio.transport.turns import Turns
from eventmesh_trio.wire.deflate import Deflate
from eventmesh_trio.wire.websocket import (
    BINARY,
    Closed,
    FrameStyle,
    Received,
    ServerWebSocket,
)

__all__ = ["NativeWebSocket"]


class NativeWebSocket:
    """Messages both ways, with pings, the close handshake and one writer at a time.

    All reading is done by whoever calls `receive`: it answers pings, sends ours after
    ``ping_idle_seconds`` without traffic, and gives a silent peer ``pong_seconds``. So an
    application keeps one task in `receive`; while none is there, nothing is read and the peer
    feels backpressure. Writes of all tasks, pongs and closes included, are serialised by a lock;
    one that stalls is ended by ``write_stall_seconds``, never by a missing pong.
    """

    __slots__ = (
        "_closed",
        "_last_traffic",
        "_link",
        "_ping_sent_at",
        "_receiving",
        "_sending",
        "_wire",
        "frame_style",
        "takes_frames",
    )

    def __init__(self, link: Link, deflate: Deflate | None) -> None:
        limits = link.limits
        self.takes_frames = True
        self.frame_style = FrameStyle()
        if deflate is not None:
            self.frame_style = FrameStyle(
                deflate.window_bits, limits.min_deflate_bytes, limits.max_deflate_bytes
            )
        self._link = link
        self._wire = ServerWebSocket(limits.max_message_bytes, deflate)
        self._sending = Turns()
        self._receiving = Turns()
        self._closed: tuple[int, str] | None = None
        self._last_traffic = trio.current_time()
        self._ping_sent_at: float | None = None

    def receive_data(self, data: bytes) -> None:
        """Take bytes that arrived together with the handshake."""
        self._wire.receive_data(data)

    # --- receiving ------------------------------------------------------------------------------

    async def receive(self) -> str | bytes:
        if not self._receiving.take_nowait():
            if not self._wire.closing:
                raise LocalProtocolError("another task is receiving on this WebSocket")
            # `aclose` reads, and ends what there was to receive.
            await self._receiving.take()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while True:
                event = await self._next_event()
                if isinstance(event, Received):
                    # No cancellation from here on, or the message would be lost.
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return event.message  # decoded now: many that wait must not all be large
                if self._closed is not None:
                    raise WebSocketClosed(*self._closed)
        finally:
            self._receiving.give()

    async def _next_event(self) -> Received | None:
        """A message; None after a read, a write or the end."""
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            return None
        event = self._wire.next_event()
        if isinstance(event, Received):
            return event
        if isinstance(event, Closed):
            await self._finish(event)
        elif self._wire.owes:
            await self._pay()
        else:
            await self._read()
        return None

    async def _finish(self, event: Closed) -> None:
        self._closed = (event.close_code, event.reason)
        # A peer that failed is in the middle of something: whoever closes now must let it finish,
        # also where this task is cancelled while it waits to write.
        self._link.linger = event.failed
        if self._wire.owes:
            await self._pay()
        if not (event.failed or self._link.close_nowait()):
            await self._link.close()  # RFC 6455, 7.1.1: the server closes first

    async def _pay(self) -> None:
        """Write owed pongs or the answer to a close; a cancelled wait for the lock owes on."""
        limits = self._link.limits
        async with self._sending:
            # Shielded, for half a frame would break the socket, and `receive` may be cancelled
            # without harm. Bounded: these few bytes wait only for a peer that reads nothing.
            with trio.move_on_after(limits.close_seconds, shield=True):
                with suppress(ConnectionBroken):  # noted below
                    await self._link.write(self._wire.take_owed())
        self._note_broken()

    async def _read(self) -> None:
        limits, data = self._link.limits, b""
        if self._ping_sent_at is None:
            deadline = self._last_traffic + limits.ping_idle_seconds
        else:
            deadline = self._ping_sent_at + limits.pong_seconds
        with trio.move_on_at(deadline) as scope:
            data = await self._link.read()
        if scope.cancelled_caught:
            await self._on_silence()
        elif data:
            self._last_traffic = trio.current_time()
            self._ping_sent_at = None
            self._wire.receive_data(data)
        else:
            await self._vanish("the connection ended without a close frame")

    async def _on_silence(self) -> None:
        now = trio.current_time()
        if self._sending.taken or self._wire.closing:
            # Bytes are on their way to it, or our close frame is: they have their own deadlines.
            self._last_traffic = now
            self._ping_sent_at = None
        elif self._ping_sent_at is not None:
            await self._vanish("no pong came")
        elif now >= self._last_traffic + self._link.limits.ping_idle_seconds:
            self._ping_sent_at = now
            self._wire.owe_ping()
            await self._pay()

    async def _vanish(self, reason: str) -> None:
        self._closed = self._closed or (1006, reason)
        await self._link.abort(reset=False)

    # --- sending --------------------------------------------------------------------------------

    async def send_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._send(self.frame_style.encode(message.encode("utf-8")))
        else:
            await self._send(self.frame_style.encode(message, BINARY))

    async def send_texts(self, payloads: Sequence[bytes]) -> None:
        await self._send(b"".join([self.frame_style.encode(payload) for payload in payloads]))

    def writable_bytes(self) -> int:
        return self._link.writable_bytes()

    async def send_frames(self, *frames: bytes) -> None:
        await self._send(b"".join(frames) if are_small(frames) else frames)

    async def _send(self, data: bytes | Sequence[bytes]) -> None:
        if not self._sending.take_nowait():  # the write that follows is the checkpoint
            await self._sending.take()
        try:
            if self._closed is not None or self._wire.closing:
                raise WebSocketClosed(*(self._closed or (1006, "the close handshake has begun")))
            await self._link.write(data)
            self._last_traffic = trio.current_time()
        except ConnectionBroken as error:
            self._note_broken()
            raise WebSocketClosed(1006, error.message) from error
        except BaseException:
            self._note_broken()
            raise
        finally:
            self._sending.give()

    def _note_broken(self) -> None:
        if self._link.broken and self._closed is None:
            self._closed = (1006, "the connection broke while it was written to")

    # --- closing ----------------------------------------------------------------------------------

    async def aclose(self, close_code: int = 1000, reason: str = "") -> None:
        """Send a close frame and wait for the peer's, ``close_seconds`` for both; never raises.

        Cancelled: the connection is closed at once.
        """
        try:
            with trio.move_on_after(self._link.limits.close_seconds):
                await self._close_handshake(close_code, reason)
        finally:
            if self._closed is None:
                self._closed = (close_code, reason)
            if not (self._link.linger or self._link.close_nowait()):
                with trio.move_on_after(2 * self._link.limits.farewell_seconds, shield=True):
                    await self._link.close()

    async def _close_handshake(self, close_code: int, reason: str) -> None:
        async with self._sending:
            if self._closed is None and not self._wire.closing:
                with suppress(ConnectionBroken):
                    await self._link.write(self._wire.send_close(close_code, reason))
                self._note_broken()
            elif self._wire.owes:  # whoever was to write it was cancelled
                with suppress(ConnectionBroken):
                    await self._link.write(self._wire.take_owed())
        # A task in `receive` sees the peer's close and leaves; else it is for us to read.
        async with self._receiving:
            while self._closed is None:
                await self._next_event()
