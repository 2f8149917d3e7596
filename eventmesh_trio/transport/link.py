"""One socket's bytes: reads and writes with their deadlines, and how it ends."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import attrs
import trio

from eventmesh_trio.errors import ConnectionBroken
from eventmesh_trio.transport.departures import Departures
from eventmesh_trio.transport.limits import TransportLimits

__all__ = ["Link", "are_small"]

_READ_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 128 * 1024
_MOST_PIECES: Final = 1024
"""``IOV_MAX``: the kernel refuses more in one call."""
_COPIED_BYTES: Final = 16 * 1024
"""Of a piece. Smaller ones are joined; to hand larger ones to the kernel as they are costs less."""
_SO_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_SO_MEMINFO: Final = 55  # Linux's; `socket` has no name for it
_MEMINFO: Final = struct.Struct("9I")
_SNDBUF, _QUEUED = 3, 5  # where these stand in it: SK_MEMINFO_SNDBUF, SK_MEMINFO_WMEM_QUEUED


def are_small(pieces: Sequence[bytes]) -> bool:
    """Whether pieces of one write are better copied into one."""
    return sum(map(len, pieces)) < _COPIED_BYTES * len(pieces)


def _parts(pieces: Sequence[bytes], skipped: int) -> Iterator[bytes | memoryview]:
    """What is to be written one after the other of ``pieces``, but for their first bytes.

    Long ones are not copied: 8 MB of new memory took up to 25 ms, for everybody.
    """
    short: list[bytes | memoryview] = []
    for piece in pieces:
        rest = memoryview(piece)[skipped:]
        skipped = max(0, skipped - len(piece))
        if len(rest) <= _PIECE_BYTES:
            short.append(rest)
            continue
        yield b"".join(short)
        short.clear()
        yield rest
    yield b"".join(short)


def _read_nowait(sock: trio.socket.SocketType) -> bytes | None:
    """What has come, ``b""`` at the end of it or of the connection; None: nothing has yet."""
    try:
        return os.read(sock.fileno(), _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:  # reset, or closed here
        return b""


@attrs.define(eq=False)
class Link:
    """A stream with one reader and one writer at a time.

    ``departures``: who can wait for what comes, so that no task need do it.
    ``peer_left``: a read found the end of the stream, or a reset.
    ``linger``: the peer may still be sending; see `close`.
    ``broken``: a write failed, stalled or was cancelled; the stream is closed, nothing may follow.
    """

    stream: trio.abc.Stream
    limits: TransportLimits
    departures: Departures | None = None
    peer_left: bool = attrs.field(default=False, init=False)
    linger: bool = attrs.field(default=False, init=False)
    broken: bool = attrs.field(default=False, init=False)
    _unyielded_bytes: int = attrs.field(default=0, init=False)  # written since a full checkpoint

    @property
    def usable(self) -> bool:
        return not (self.peer_left or self.broken)

    @property
    def descriptor(self) -> int | None:
        """The socket's own; None where the bytes are not the socket's, or it is closed."""
        if not isinstance(self.stream, trio.SocketStream):
            return None
        descriptor = self.stream.socket.fileno()
        return None if descriptor < 0 else descriptor

    def read_nowait(self) -> bytes | None:
        """As `read`, of a stream with a descriptor; None: nothing has come. Never waits."""
        assert isinstance(self.stream, trio.SocketStream)
        data = b"" if self.peer_left else _read_nowait(self.stream.socket)
        if data == b"":
            self.peer_left = True
        return data

    async def read(self) -> bytes:
        """Some bytes, ``b""`` when the peer has gone. Cancellation loses nothing."""
        if self.peer_left:
            await trio.lowlevel.checkpoint()
            return b""
        data: bytes | bytearray | None
        try:
            if isinstance(self.stream, trio.SocketStream):
                # `receive_some` without its three coroutines and their context manager, of which
                # each idle connection would hold 1.3 KiB.
                sock = self.stream.socket
                await trio.lowlevel.checkpoint_if_cancelled()
                data = _read_nowait(sock)
                if data is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                while data is None:
                    await trio.lowlevel.wait_readable(sock)
                    data = _read_nowait(sock)
            else:
                data = await self.stream.receive_some(_READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self.peer_left = True
        return bytes(data)

    def writable_bytes(self) -> int:
        """What the kernel would take of a write for sure, at once; 0 where that is not known.

        Linux stops up to a quarter before ``unsent_bytes``, and half of the buffer is taken for its
        own, whose accounts hold more than the bytes. What is queued counts twice, so that nothing
        is left well before a peer that does not read fills either.
        """
        if isinstance(self.stream, trio.SocketStream):
            with suppress(OSError):  # no Linux, no TCP, or closed
                raw = self.stream.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
                if len(raw) == _MEMINFO.size:
                    found = _MEMINFO.unpack(raw)
                    most = min(self.limits.unsent_bytes * 3 // 4, int(found[_SNDBUF]) // 2)
                    return max(0, most - 2 * int(found[_QUEUED]))
        return 0

    async def write(self, data: bytes | Sequence[bytes]) -> None:
        """Write all of ``data``, or of pieces of it in their order.

        In one call up to 128 KiB, or 256 in pieces, which are then joined by the kernel alone. A
        checkpoint where it waits, and at least every so often where the kernel takes all at once:
        who writes without end cannot keep others from their turn for long.

        Raises:
          ConnectionBroken: the peer has gone, or took too little for ``write_stall_seconds``.
        Cancelled: how much was written is unknown, so the stream is closed.
        """
        if self.broken:
            await trio.lowlevel.checkpoint()
            raise ConnectionBroken("the connection is closed")
        try:
            if not isinstance(data, bytes):
                await self._send_pieces(data)
            elif len(data) <= _PIECE_BYTES:
                await self._send(data)
            else:
                await self._send_long(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.broken = True
            raise ConnectionBroken("the client closed the connection") from error
        except BaseException:
            self.broken = True
            raise
        finally:
            if self.broken:
                # `aclose_forcefully` does not wait, whatever the stream; the scope only says so.
                with trio.move_on_after(self.limits.farewell_seconds, shield=True):
                    await trio.aclose_forcefully(self.stream)

    async def _send_long(self, data: bytes | memoryview) -> None:
        with memoryview(data) as view:
            for start in range(0, len(view), _PIECE_BYTES):
                with view[start : start + _PIECE_BYTES] as piece:
                    await self._send(piece)

    async def _send_pieces(self, pieces: Sequence[bytes]) -> None:
        # Joining 64 KiB first takes as long as sending them does.
        nbytes = sum(map(len, pieces))
        at_once = len(pieces) <= _MOST_PIECES and nbytes <= 2 * _PIECE_BYTES
        sent = self._send_nowait(pieces) if at_once else 0
        if sent == nbytes:
            await self._let_others_run(sent)
            return
        for part in _parts(pieces, sent):
            await self._send_long(part)

    async def _send(self, data: bytes | memoryview) -> None:
        sent = self._send_nowait((data,))
        if sent == len(data):
            await self._let_others_run(sent)
            return
        if sent:
            data = memoryview(data)[sent:]
        stall_seconds = self.limits.write_stall_seconds
        with trio.move_on_after(stall_seconds) as scope:
            await self.stream.send_all(data)
        if scope.cancelled_caught:
            raise ConnectionBroken(f"the client took no data for {stall_seconds:g} seconds")

    async def _let_others_run(self, sent: int) -> None:
        # Two writes of 64 KiB a turn, and not one: a turn is 10 us for its task, and as much
        # for those that it waits for. One fast reader is served a tenth quicker.
        self._unyielded_bytes += sent
        if self._unyielded_bytes < _PIECE_BYTES:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unyielded_bytes = 0
            await trio.lowlevel.checkpoint()

    def _send_nowait(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Hand the kernel what it takes at once; how much that was.

        Nearly always all of it, and then neither a deadline nor `send_all` is needed: 15 us a write
        less, which is a tenth of the time to one fast reader.
        """
        if not isinstance(self.stream, trio.SocketStream):
            return 0
        try:
            return os.writev(self.stream.socket.fileno(), pieces)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def close(self) -> None:
        """Close the stream; shielded, as it is often cancelled, and bounded.

        The bound is ``farewell_seconds`` for what the peer still sends, and as much for TLS's end.

        With ``linger`` our side ends first, and what the peer still sends is read away. Without
        that it would be answered with a reset, which can destroy our last response on its way
        (RFC 9112, section 9.6).
        """
        seconds = self.limits.farewell_seconds
        if self.linger and self.usable:
            with trio.move_on_after(seconds, shield=True):
                await self._read_away()
        with trio.move_on_after(seconds, shield=True):
            await self._aclose()
        await trio.aclose_forcefully(self.stream)

    def close_nowait(self) -> bool:
        """Close a socket of our own that nothing is left to be waited for at; whether it was one.

        What was written is sent all the same, if the peer has sent nothing that was not read: else
        it is answered with a reset (RFC 9112, section 9.6; ``linger`` is for that). The scopes and
        checkpoints of `close` take 25 us.
        """
        if not isinstance(self.stream, trio.SocketStream) or (self.linger and self.usable):
            return False
        self.stream.socket.close()
        return True

    async def _read_away(self) -> None:
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.peer_left = True
        while await self.read():
            pass

    async def _aclose(self) -> None:
        try:
            await self.stream.aclose()  # TLS: sends close_notify, and waits for no answer
        except (trio.BrokenResourceError, trio.BusyResourceError):
            self.broken = True

    async def abort(self, *, reset: bool) -> None:
        """Close the stream so that the peer sees that something is missing.

        Args:
          reset: by a TCP reset, for a body that only the end of the connection delimits. Else by
            a plain close: what was written is sent, as `close_nowait` says. Over TLS no
            close_notify is sent either way.
        """
        self.broken = True
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        if reset and isinstance(stream, trio.SocketStream):
            with suppress(OSError):  # the peer was first
                stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _SO_LINGER_RESET)
        if self.close_nowait():
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await trio.aclose_forcefully(self.stream)  # cancelled, so it writes nothing
