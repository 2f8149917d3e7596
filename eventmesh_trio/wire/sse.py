"""Server-sent events, both directions (WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6)."""

import re
from collections.abc import Iterator
from typing import Final

import attrs

from eventmesh_trio.errors import LocalProtocolError, RemoteProtocolError
from eventmesh_trio.wire.lines import LineBuffer

__all__ = ["MAX_EVENT_BYTES", "SSEDecoder", "ServerSentEvent", "encode_block", "encode_comment"]

MAX_EVENT_BYTES: Final = 16 * 2**20
"""Above the 10 MiB that a message of ours may have."""

_BOM: Final = b"\xef\xbb\xbf"
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")
_not_a_value: Final = re.compile("[\0\r\n]").search
_MAX_RETRY_DIGITS: Final = 12  # 30 years; more cannot be meant, and int() refuses 4,300


def encode_block(
    event: str, data: bytes, event_id: str | None, retry_ms: int | None = None
) -> bytes:
    """Encode one event as one whole block, with its blank line.

    ``data`` is UTF-8. A line end inside it, of any kind, reaches the reader as one LF: the format
    cannot carry more. JSON from `encode_json` has none, and takes the short way.

    Args:
      event_id: None leaves the reader's last event id as it was.
      retry_ms: how long the reader shall wait before it reconnects.
    Raises:
      LocalProtocolError: ``event`` or ``event_id`` holds CR, LF or NUL.
    """
    if _not_a_value(event) or (event_id is not None and _not_a_value(event_id)):
        raise LocalProtocolError("an event's name and id hold no CR, LF or NUL")
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE_ENDS.split(data))
    block = b"event: %s\ndata: %s\n\n" % (event.encode(), data)
    if event_id is not None:
        block = b"id: %s\n%s" % (event_id.encode(), block)
    if retry_ms is not None:
        block = b"retry: %d\n%s" % (retry_ms, block)
    return block


def encode_comment(text: str) -> bytes:
    """Encode a comment, which readers skip: it keeps proxies from closing an idle stream."""
    lines = _LINE_ENDS.split(text.encode())
    return b"".join(b": %s\n" % line for line in lines) + b"\n"


@attrs.frozen
class ServerSentEvent:
    """One dispatched event. ``last_event_id`` is that of the stream so far, "" before any."""

    event: str  # "message" where the block names none
    data: str
    last_event_id: str


class SSEDecoder:
    """Parses an event stream. Chunk boundaries never matter; a block that is cut off is discarded.

    Invalid UTF-8 becomes U+FFFD, as the standard says.

    Args:
      last_event_id: what the previous connection ended with, kept by blocks without an ``id``.
      max_event_bytes: the longest line, and the most data of one event, that are accepted.
    """

    def __init__(self, last_event_id: str = "", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._max_event_bytes = max_event_bytes
        self._lines = LineBuffer(max_event_bytes)
        self._at_start = True
        self._after_cr = False
        # The buffers of 9.2.6.
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._id = last_event_id

    def receive_data(self, data: bytes) -> None:
        """Store a chunk; all line ends become LF here."""
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):  # the second half of a CRLF
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._lines.receive_data(data)

    def events(self) -> Iterator[ServerSentEvent]:
        """Yield the events that are complete. May be left early; nothing is lost.

        `last_event_id` and `retry_ms` are as of the last event yielded, or the end of the data.

        Raises:
          RemoteProtocolError: a line or an event is over its limit; not usable after that.
        """
        for raw in self._lines.lines():
            line = raw
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            if line:
                self._take_field(line)
            elif (event := self._dispatch()) is not None:
                yield event

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")  # a comment has an empty name
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_event_bytes:
                raise RemoteProtocolError(f"an event is larger than {self._max_event_bytes} bytes")
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            digits = value.lstrip(b"0") or b"0"
            known = len(digits) <= _MAX_RETRY_DIGITS
            self.retry_ms = int(digits) if known else 10**_MAX_RETRY_DIGITS

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._data_bytes = "", [], 0
        if not data:
            return None
        text = b"\n".join(data).decode("utf-8", "replace")
        return ServerSentEvent(event or "message", text, self._id)
