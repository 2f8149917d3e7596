"""NDJSON: one JSON text per line (https://github.com/ndjson/ndjson-spec).

The codec frames only; what is in a line is for `eventmesh_trio.wire.codec`.
"""

from collections.abc import Iterator
from typing import Final

from eventmesh_trio.errors import LocalProtocolError
from eventmesh_trio.wire.lines import LineBuffer

__all__ = ["MAX_LINE_BYTES", "NDJSONDecoder", "encode_line"]

MAX_LINE_BYTES: Final = 16 * 2**20
"""Above the 10 MiB that a message of ours may have."""


def encode_line(body: bytes) -> bytes:
    """Frame one encoded JSON text, which must hold no newline (`encode_json` makes none)."""
    return body + b"\n"


class NDJSONDecoder:
    """Cuts a byte stream into JSON texts.

    Empty lines are skipped, and a CR before the LF is dropped with it. Chunk boundaries never
    matter. Call `end` when the stream has ended whole: then a last line without LF counts too.

    Args:
      max_line_bytes: the longest line that is accepted, without its LF.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lines = LineBuffer(max_line_bytes)
        self._ended = False

    def receive_data(self, data: bytes) -> None:
        """Store a chunk. Raises `LocalProtocolError` after `end`."""
        if self._ended:
            raise LocalProtocolError("data after the end of the stream")
        self._lines.receive_data(data)

    def end(self) -> None:
        """Say that no more data comes. Not for a stream that was cut: half a line is no line."""
        self._ended = True

    def events(self) -> Iterator[bytes]:
        """Yield the JSON texts that are complete. May be left early; nothing is lost.

        Raises:
          RemoteProtocolError: a line is over its limit. It is raised again by each later call.
        """
        for line in self._lines.lines():
            if body := line.strip(b" \t\r"):
                yield body
        if self._ended and (body := self._lines.take_rest().strip(b" \t\r")):
            yield body
