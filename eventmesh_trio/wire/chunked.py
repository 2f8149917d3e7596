"""The chunked transfer coding (RFC 9112, section 7.1): our chunks, and theirs, read strictly."""

import re
from typing import Final, Literal

from eventmesh_trio.errors import RemoteProtocolError

__all__ = ["ChunkDecoder", "check_field_lines", "check_lines", "encode_chunk"]

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
_MAX_CHUNK_LINE_BYTES: Final = 512
_FIELD_LINE: Final = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")


def encode_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. ``data`` must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class ChunkDecoder:
    """Takes a chunked body out of a buffer, and nothing that comes after it.

    Extensions mean nothing to us and trailers are dropped, as RFC 9112, 7.1.1 and 7.1.2 allow; but
    both must be well formed, and both are bounded.

    Args:
      max_extension_bytes: of all chunk extensions of the body together: one-byte chunks must not
        carry a body's worth of them each.
      max_trailer_bytes, max_trailer_count: of the trailer section.
    """

    def __init__(
        self, *, max_extension_bytes: int, max_trailer_bytes: int, max_trailer_count: int
    ) -> None:
        self._extension_bytes_left = max_extension_bytes
        self._max_trailer_bytes = max_trailer_bytes
        self._max_trailer_count = max_trailer_count
        self._state: Literal["line", "data", "end", "trailers", "done"] = "line"
        self.chunk_left = 0  # how many bytes of the chunk at hand are still to come

    @property
    def done(self) -> bool:
        """Whether the body was read to its end, trailers included."""
        return self._state == "done"

    def decode(self, buffer: bytearray, limit: int) -> bytes:
        """Remove about ``limit`` bytes from the buffer's front at most; return the data in them.

        Returns ``b""`` when more bytes are needed, and when the body is `done`.

        Raises:
          RemoteProtocolError: the framing is not exactly that of the RFC, or over a limit.
        """
        pieces = []
        at = 0
        while self._state != "done" and at < limit:
            if self._state == "data":
                step = min(self.chunk_left, len(buffer) - at, limit - at)
                pieces.append(bytes(buffer[at : at + step]))
                self.chunk_left -= step
                at += step
                if self.chunk_left:
                    break
                self._state = "end"
            elif self._state == "end":
                if len(buffer) - at < 2:
                    break
                if buffer[at : at + 2] != b"\r\n":
                    raise RemoteProtocolError("a chunk does not end where its size says")
                at += 2
                self._state = "line"
            else:
                take = self._take_line if self._state == "line" else self._take_trailers
                if not (step := take(buffer, at)):
                    break
                at += step
        del buffer[:at]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_line(self, buffer: bytearray, at: int) -> int:
        end = buffer.find(b"\n", at, at + _MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(buffer) - at >= _MAX_CHUNK_LINE_BYTES:
                raise RemoteProtocolError("a chunk line is too long")
            return 0
        match = _CHUNK_LINE.fullmatch(buffer, at, max(at, end - 1))
        if match is None or buffer[end - 1 : end] != b"\r":
            raise RemoteProtocolError("a chunk line is malformed")
        self._extension_bytes_left -= match.end() - match.end(1)
        if self._extension_bytes_left < 0:
            raise RemoteProtocolError("the chunk extensions are too long")
        self.chunk_left = int(match[1], 16)
        self._state = "data" if self.chunk_left else "trailers"
        return end + 1 - at

    def _take_trailers(self, buffer: bytearray, at: int) -> int:
        if buffer.startswith(b"\r\n", at):
            self._state = "done"
            return 2
        end = buffer.find(b"\r\n\r\n", at)
        known = end + 4 if end >= 0 else len(buffer)
        if known - at > self._max_trailer_bytes:
            raise RemoteProtocolError("the trailer section is too large", status_hint=431)
        check_lines(buffer, at, known)
        if buffer.count(b"\r\n", at, known) - 1 > self._max_trailer_count:
            raise RemoteProtocolError("the trailer section has too many fields", status_hint=431)
        if end < 0:
            return 0
        check_field_lines(bytes(buffer[at:end]))
        self._state = "done"
        return known - at


def check_lines(buffer: bytearray, start: int, end: int) -> None:
    """Refuse bare CR, bare LF and folded lines in ``buffer[start:end]``, which may be cut short.

    RFC 9112, 2.2 lets a recipient take a bare LF for a line's end. It is refused here: what one
    recipient takes for a line's end and the next does not is how requests are smuggled.
    """
    pairs = buffer.count(b"\r\n", start, end)
    if buffer.count(b"\n", start, end) != pairs:
        raise RemoteProtocolError("a line ends with a bare LF")
    if buffer.count(b"\r", start, end) - buffer.endswith(b"\r", start, end) > pairs:
        raise RemoteProtocolError("a line contains a bare CR")
    if buffer.find(b"\r\n ", start, end) >= 0 or buffer.find(b"\r\n\t", start, end) >= 0:
        raise RemoteProtocolError("a header line is folded")


def check_field_lines(section: bytes) -> None:
    """Refuse field lines that are not ``token ":" value`` with visible octets (RFC 9110, 5.1, 5.5).

    Args:
      section: the lines between CRLFs, without the last one.
    """
    for line in section.split(b"\r\n"):
        if not _FIELD_LINE.fullmatch(line):
            raise RemoteProtocolError("a header line is malformed")
