"""The chunked transfer coding (RFC 9112, section 7.1): our chunks, and a strict look at theirs."""

import re
from typing import Final, Literal

from eventmesh_trio.errors import RemoteProtocolError

__all__ = ["ChunkScanner", "check_lines", "encode_chunk"]

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
_MAX_CHUNK_LINE_BYTES: Final = 512


def encode_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. ``data`` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkScanner:
    """Says how many buffered bytes belong to a chunked body for certain (RFC 9112, section 7.1)."""

    def __init__(self, max_trailer_bytes: int) -> None:
        self._max_trailer_bytes = max_trailer_bytes
        self._data_left = 0
        self._state: Literal["line", "data", "end", "trailers", "done"] = "line"
        self.done = False

    def scan(self, buffer: bytearray, limit: int) -> int:
        """The length of the prefix that may be parsed now; about ``limit`` bytes at most.

        Raises:
          RemoteProtocolError: the framing is not exactly that of the RFC.
        """
        at = 0
        while self._state != "done" and at < limit:
            if self._state == "data":
                step = min(self._data_left, len(buffer) - at, limit - at)
                self._data_left -= step
                at += step
                if self._data_left:
                    break
                self._state = "end"
            elif self._state == "end":
                if len(buffer) - at < 2:
                    break
                if buffer[at : at + 2] != b"\r\n":
                    raise RemoteProtocolError("a chunk does not end where its size says")
                at += 2
                self._state = "line"
            elif self._state == "line":
                end = buffer.find(b"\n", at, at + _MAX_CHUNK_LINE_BYTES)
                if end < 0:
                    if len(buffer) - at >= _MAX_CHUNK_LINE_BYTES:
                        raise RemoteProtocolError("a chunk line is too long")
                    break
                match = _CHUNK_LINE.fullmatch(buffer, at, max(at, end - 1))
                if match is None or buffer[end - 1 : end] != b"\r":
                    raise RemoteProtocolError("a chunk line is malformed")
                self._data_left = int(match[1], 16)
                self._state = "data" if self._data_left else "trailers"
                at = end + 1
            else:
                length = self._trailers(buffer, at)
                if length is None:
                    break
                at += length
                self._state = "done"
                self.done = True
        return at

    def _trailers(self, buffer: bytearray, at: int) -> int | None:
        if buffer.startswith(b"\r\n", at):
            return 2
        end = buffer.find(b"\r\n\r\n", at)
        known = end + 4 if end >= 0 else len(buffer)
        if known - at > self._max_trailer_bytes:
            raise RemoteProtocolError("the trailer section is too large", status_hint=431)
        check_lines(buffer, at, known)
        return None if end < 0 else known - at


def check_lines(buffer: bytearray, start: int, end: int) -> None:
    """Refuse bare CR, bare LF and folded lines in ``buffer[start:end]``, which may be cut short."""
    pairs = buffer.count(b"\r\n", start, end)
    if buffer.count(b"\n", start, end) != pairs:
        raise RemoteProtocolError("a line ends with a bare LF")
    if buffer.count(b"\r", start, end) - buffer.endswith(b"\r", start, end) > pairs:
        raise RemoteProtocolError("a line contains a bare CR")
    if buffer.find(b"\r\n ", start, end) >= 0 or buffer.find(b"\r\n\t", start, end) >= 0:
        raise RemoteProtocolError("a header line is folded")
