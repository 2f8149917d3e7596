"""Bytes in, lines out: what the NDJSON and SSE decoders have in common."""

from collections.abc import Iterator

from eventmesh_trio.errors import RemoteProtocolError

__all__ = ["LineBuffer"]


class LineBuffer:
    """Collects chunks and cuts them at LF; a line is kept until its LF has come.

    Args:
      max_line_bytes: a longer line, complete or not, is the peer's error. The buffer holds no more
        than this and one chunk.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._buffer = bytearray()
        self._scanned = 0  # no LF before this

    def __len__(self) -> int:
        return len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Store a chunk; any size, any boundary."""
        self._buffer += data

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines, without their LF. May be left early; nothing is lost.

        Raises:
          RemoteProtocolError: a line is over its limit; what follows it cannot be told apart, so
            the error stays.
        """
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._scanned)) >= 0:
            self._scanned = end  # where the error, if there is one, is found again
            self._check(end)
            line = bytes(buffer[:end])
            del buffer[: end + 1]  # moves no bytes: a bytearray can drop its front
            self._scanned = 0
            yield line
        self._scanned = len(buffer)
        self._check(len(buffer))

    def take_rest(self) -> bytes:
        """Remove and return the line that has no LF."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._scanned = 0
        return rest

    def _check(self, length: int) -> None:
        if length > self._max_line_bytes:
            raise RemoteProtocolError(f"a line is longer than {self._max_line_bytes} bytes")
