"""DNS messages (RFC 1035), as much as it takes to ask for a name's addresses. Synchronous.

A message comes from the network: whatever is wrong with it is a `ValueError`, nothing in it makes
reading take longer than its length, and nothing is believed that was not asked for.
"""

from collections.abc import Sequence
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import Final

import attrs

__all__ = ["Question", "RecordType", "Reply", "decode_reply", "encode_query"]

_HEAD: Final = Struct("!HHHHHH")
_RECORD: Final = Struct("!HHIH")
_CLASS_IN: Final = 1
_OPT: Final = 41
_RESPONSE: Final = 0x8000
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_UDP_BYTES: Final = 1232  # what passes everywhere unfragmented (DNS flag day 2020)
_MAX_ALIASES: Final = 16
_MAX_JUMPS: Final = 64
_MAX_RECORDS: Final = 256
_MAX_NAME_BYTES: Final = 253


class RecordType(IntEnum):
    A = 1
    CNAME = 5
    AAAA = 28


@attrs.frozen
class Question:
    name: str  # lower case, without its last dot
    kind: RecordType


@attrs.frozen
class Reply:
    """``code`` is the response code: 0 no error, 3 there is no such name (RFC 1035, 4.1.1)."""

    query_id: int
    code: int
    truncated: bool
    addresses: Sequence[IPv4Address | IPv6Address]


def encode_query(query_id: int, question: Question, extended: bool = True) -> bytes:
    """A query, recursion desired; ``extended`` by what answers of more than 512 bytes need.

    Raises:
      ValueError: the name is not one that a query can hold.
    """
    head = _HEAD.pack(query_id, _RECURSION_DESIRED, 1, 0, 0, int(extended))
    asked = _encode_name(question.name) + question.kind.to_bytes(2, "big") + b"\0\x01"
    options = b"\0" + _RECORD.pack(_OPT, _UDP_BYTES, 0, 0)  # RFC 6891
    return head + asked + (options if extended else b"")


def decode_reply(data: bytes, question: Question) -> Reply:
    """The answer to a question; its addresses are those that its chain of aliases leads to.

    Raises:
      ValueError: malformed, or the answer to another question.
    """
    if len(data) < _HEAD.size:
        raise ValueError("a message is shorter than its head")
    query_id, flags, questions, answers, _, _ = _HEAD.unpack_from(data)
    if not flags & _RESPONSE or flags & _OPCODE:
        raise ValueError("a message is no answer to a query")
    code = flags & 0x000F
    at = _HEAD.size
    if questions != 1:
        raise ValueError("an answer repeats no question, or several")
    name, at = _decode_name(data, at)
    if name != question.name or data[at : at + 4] != question.kind.to_bytes(2, "big") + b"\0\x01":
        raise ValueError("an answer is to another question")
    truncated = bool(flags & _TRUNCATED)
    if truncated:
        return Reply(query_id, code, True, ())
    aliases: dict[str, str] = {}
    found: dict[str, list[IPv4Address | IPv6Address]] = {}
    at += 4
    for _ in range(min(answers, _MAX_RECORDS)):
        owner, at = _decode_name(data, at)
        if at + _RECORD.size > len(data):
            raise ValueError("a record is cut off")
        kind, scope, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        content = data[at : at + length]
        if len(content) < length:
            raise ValueError("a record is cut off")
        if scope == _CLASS_IN and kind == question.kind:
            if length != (4 if kind == RecordType.A else 16):
                raise ValueError("an address has another length")
            found.setdefault(owner, []).append(ip_address(content))
        elif scope == _CLASS_IN and kind == RecordType.CNAME:
            aliases.setdefault(owner, _decode_name(data, at)[0])
        at += length
    for _ in range(_MAX_ALIASES):
        if name in found or name not in aliases:
            break
        name = aliases[name]
    return Reply(query_id, code, False, tuple(found.get(name, ())))


def _encode_name(name: str) -> bytes:
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= _MAX_NAME_BYTES:
        raise ValueError("a name is empty or too long")
    labels = encoded.split(b".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError("a label is empty or too long")
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _decode_name(data: bytes, at: int) -> tuple[str, int]:
    """The name at an offset, and where what follows it begins."""
    labels: list[bytes] = []
    end: int | None = None
    jumps = nbytes = 0
    while True:
        if at >= len(data):
            raise ValueError("a name is cut off")
        length = data[at]
        if length >= 0xC0:  # a pointer to another name (4.1.4)
            if at + 1 >= len(data):
                raise ValueError("a pointer is cut off")
            end = at + 2 if end is None else end
            at = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if jumps > _MAX_JUMPS:
                raise ValueError("a name leads in a circle")
            continue
        if length >= 0x40:
            raise ValueError("a label is of no known kind")
        at += 1
        if length == 0:
            break
        labels.append(data[at : at + length])
        nbytes += length + 1
        if nbytes > _MAX_NAME_BYTES + 2:
            raise ValueError("a name is too long")
        at += length
    return b".".join(labels).decode("latin-1").lower(), at if end is None else end
