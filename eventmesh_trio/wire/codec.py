"""JSON: one encoder and one decoder for everything that is on the wire (RFC 8259).

Encoding never fails for what we publish: a page may bring half a surrogate pair, which UTF-8 cannot
carry, and one page must not end a stream. Decoding fails in one way only, whatever the bytes are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final

import msgspec

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.events import (
    BackpressureWarning,
    CrawlStart,
    Gap,
    Heartbeat,
    Metadata,
    Progress,
    Result,
    RunError,
    SearchResult,
    SearchResults,
    SearchStart,
    SearchSummary,
    Start,
    Summary,
    SystemStatus,
    UnknownEvent,
)
from eventmesh_trio.wire.scratch import Scratch, written

__all__ = [
    "MAX_JSON_DEPTH",
    "AnyEvent",
    "decode_event",
    "decode_json",
    "encode_json",
    "encode_json_into",
    "encode_json_lines",
    "encode_json_parts",
]

AnyEvent = (
    Metadata
    | Start
    | Progress
    | Result
    | RunError
    | Summary
    | Heartbeat
    | SystemStatus
    | BackpressureWarning
    | Gap
    | CrawlStart
    | SearchStart
    | SearchResults
    | SearchResult
    | SearchSummary
)
"""Every event that this version knows, told apart by its ``event`` member."""

_HALF_PAIR: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
MAX_JSON_DEPTH: Final = 64
"""Arrays and objects inside each other; our deepest message has 6, and Python's stack about 900."""


def _encode_other(value: object) -> object:
    # Frozen structs may hold read-only mappings, which msgspec does not know.
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, msgspec.Raw):  # asked for by the scrubbing walk only
        return _decode_any(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


_encoder: Final = msgspec.json.Encoder(enc_hook=_encode_other)
_encode: Final = _encoder.encode
_scratch: Final = Scratch()
_decode_any: Final = msgspec.json.Decoder().decode
_decode_known: Final[Callable[[bytes | str], AnyEvent]] = msgspec.json.Decoder(AnyEvent).decode


def encode_json(value: object) -> bytes:
    """Encode structs, mappings, sequences and scalars as UTF-8 JSON without spaces.

    Lone surrogates become U+FFFD; NaN and infinities become ``null``. There is no newline in the
    result. Raises only for a bug of the caller: `TypeError` or `NotImplementedError` for what has
    no JSON form.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:  # rare: the walk below costs ten times the encoding
        return _encode(_without_surrogates(msgspec.to_builtins(value, enc_hook=_encode_other)))


def encode_json_into(buffer: bytearray, value: object) -> None:
    """Append what `encode_json` returns to ``buffer``, without making it (0.9, not 1.1 us)."""
    end = len(buffer)
    try:
        _encoder.encode_into(value, buffer, end)
    except UnicodeEncodeError:
        del buffer[end:]
        buffer += encode_json(value)


def encode_json_lines(values: Sequence[object], room: float = inf) -> tuple[bytes, int]:
    """What `encode_json` returns for each of ``values``, each with a newline behind it.

    Returns:
      those that fit into ``room`` bytes, at least one, in one piece; and how many they are.

    0.9 us an event, not 1.2, and in no more memory than it fills. msgspec's own bytes, of lines
    too, keep what they grew into, up to half as much again: a log of them held 480 MB, not 290.
    """
    buffer, start = _scratch.begin()
    encode_into = _encoder.encode_into
    try:
        for value in values:
            encode_into(value, buffer, -1)
            buffer += b"\n"
    except UnicodeEncodeError:
        lines = [encode_json(value) + b"\n" for value in values]
        buffer, start = bytearray().join(lines), 0
    return _fitting(buffer, start, b"\n", len(values), room)


def encode_json_parts(
    values: Sequence[object], heads: Sequence[bytes], tail: bytes, room: float = inf
) -> tuple[bytes, int]:
    """Each of ``values`` as `encode_json` has it, between its head and ``tail``.

    Returns: as `encode_json_lines`.

    1.0 us an event; with a call of `encode_json_into` for each 1.45.
    """
    buffer, start = _scratch.begin()
    encode_into = _encoder.encode_into
    try:
        for head, value in zip(heads, values, strict=True):
            buffer += head
            encode_into(value, buffer, -1)
            buffer += tail
    except UnicodeEncodeError:
        parts = zip(heads, values, strict=True)
        blocks = [head + encode_json(value) + tail for head, value in parts]
        buffer, start = bytearray().join(blocks), 0
    return _fitting(buffer, start, tail, len(values), room)


def _fitting(
    buffer: bytearray, start: int, end: bytes, count: int, room: float
) -> tuple[bytes, int]:
    """Of ``count`` things from ``start`` on, each with ``end`` behind it, what fits; at least one.

    Looked for before it is copied: most batches are tried with one event too many.
    """
    if len(buffer) - start <= room or count == 1:
        return written(buffer, start), count
    stop = buffer.rfind(end, start, start + int(room)) + len(end)
    if stop < start + len(end):
        stop = buffer.find(end, start) + len(end)
    # What is left out is little; counting 64 KiB takes 20-50 us.
    return written(buffer, start, stop), count - buffer.count(end, stop)


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            # UTF-16 joins what is a pair after all; what stays alone is replaced.
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {_without_surrogates(key): _without_surrogates(v) for key, v in value.items()}
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
        case _:
            return value


def decode_json(data: bytes | str, *, max_depth: int = MAX_JSON_DEPTH) -> Any:
    """Decode one JSON text into dicts, lists and scalars.

    Raises:
      ValidationError: "not valid JSON" (syntax, invalid UTF-8, lone surrogates, a number that is
        out of every range, a byte order mark), or "nested too deeply".
    """
    try:
        value = _decode_any(data)
    except RecursionError:
        raise ValidationError("nested too deeply", max_depth=max_depth) from None
    except ValueError as error:  # msgspec's errors, and those of the UTF-8 codec
        raise ValidationError("not valid JSON", reason=_reason(error, data)) from None
    if _may_exceed(data, max_depth) and _exceeds(value, max_depth):
        raise ValidationError("nested too deeply", max_depth=max_depth)
    return value


def _reason(error: ValueError, data: bytes | str) -> str:
    # The codec's own text quotes what it could not read; its position is enough.
    if isinstance(error, UnicodeError):
        return "invalid UTF-8"
    reason = str(error)
    if "truncated" in reason:  # said of an escaped first half as well: the second is missing
        text = data if isinstance(data, str) else data.decode("latin-1")
        if _HALF_PAIR.search(text):
            return "half of a surrogate pair"
    return reason


def _may_exceed(data: bytes | str, max_depth: int) -> bool:
    """Whether there are brackets enough; counting is much cheaper than looking."""
    if isinstance(data, str):
        return data.count("[") + data.count("{") > max_depth
    return data.count(b"[") + data.count(b"{") > max_depth


def _exceeds(value: Any, max_depth: int) -> bool:
    """Whether containers nest deeper than ``max_depth``; level by level, so without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return bool(level)


def decode_event(data: bytes | str) -> AnyEvent | UnknownEvent:
    """Decode one event; the tag is its ``event`` member.

    A tag that this version does not know, or a known one with other members than it expects, is an
    `UnknownEvent`: a newer server must not break an older client.

    Raises:
      ValidationError: not JSON, nested too deeply, or not an object with a string ``event``.
    """
    try:
        return _decode_known(data)
    except msgspec.ValidationError:
        pass  # valid JSON so far, of another shape
    except RecursionError:
        raise ValidationError("nested too deeply", max_depth=MAX_JSON_DEPTH) from None
    except ValueError as error:
        raise ValidationError("not valid JSON", reason=_reason(error, data)) from None
    members = decode_json(data)
    if not isinstance(members, dict) or not isinstance(tag := members.get("event"), str):
        raise ValidationError("not an event: an object with a string member 'event' is needed")
    return UnknownEvent(event=tag, members=members)
