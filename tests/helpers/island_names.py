"""A name server for tests, which answers what a name itself says.

Labels before ``.at.example``, words joined by ``-``; addresses are written in hexadecimal:

- ``v4-0a000001``, ``v6-<32 digits>``: that address;
- ``both-<address>``: a public address and that one, in one answer;
- ``mixed-<IPv6 address>``: a public IPv4 address in one answer, that one in the other;
- ``turn-<IPv4 address>-...``: a public address at the first question, that one ever after;
- ``alias-<any of these>``: a chain of two CNAME records that ends there;
- ``slow-<any of these>``: the same, after a second.

Every other name has one public IPv4 address of its own, which `public_address` computes.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from zlib import crc32

__all__ = ["OWN_DOMAIN", "ZONE", "NameServer", "public_address"]

ZONE: Final = ".at.example"
OWN_DOMAIN: Final = "own.example"  # of the island's machine, with a search list that has it
SLOW_SECONDS: Final = 1.0
_PUBLIC_V6: Final = IPv6Address("2606:4700::1111")
_A, _CNAME, _AAAA = 1, 5, 28
Address = IPv4Address | IPv6Address


def public_address(name: str) -> str:
    """The address of a name that says nothing of its own: 93.0.0.0/16 is nobody's special use."""
    return str(IPv4Address(0x5D00_0000 + crc32(name.rstrip(".").lower().encode()) % 0x1_0000))


class NameServer:
    """Answers DNS messages (RFC 1035); ``asked`` has every name that was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._turns: Counter[str] = Counter()

    def answer(self, message: bytes) -> tuple[bytes, float]:
        """The response to a message, and after how many seconds it is sent."""
        (number,) = struct.unpack_from("!H", message)
        end = 12
        labels = []
        while length := message[end]:
            labels.append(message[end + 1 : end + 1 + length].decode("latin-1"))
            end += 1 + length
        (kind,) = struct.unpack_from("!H", message, end + 1)
        name = ".".join(labels).lower()
        self.asked.append(name)
        delay = SLOW_SECONDS if name.startswith("slow-") else 0.0
        records, addresses = self._records(name, kind)
        question = message[12 : end + 5]
        answers = [_record(owner, _CNAME, _packed(target)) for owner, target in records]
        last = records[-1][1] if records else name
        wanted = 4 if kind == _A else 6
        answers += [
            _record(last, kind, address.packed)
            for address in addresses
            if address.version == wanted
        ]
        head = struct.pack("!HHHHHH", number, 0x8580, 1, len(answers), 0, 0)
        return head + question + b"".join(answers), delay

    def _records(self, name: str, kind: int) -> tuple[list[tuple[str, str]], Sequence[Address]]:
        """The CNAME records of a name, and the addresses at their end."""
        said = name.removesuffix(ZONE)
        if said == name:
            return [], [ip_address(public_address(name))]
        said = said.removeprefix("slow-")
        if said.startswith("alias-"):
            target = said.removeprefix("alias-") + ZONE
            between = f"between-{crc32(name.encode())}.example.net"
            _, addresses = self._records(target, kind)
            return [(name, between), (between, target)], addresses
        word, _, rest = said.partition("-")
        if word not in ("v4", "v6", "both", "mixed", "turn"):
            return [], [ip_address(public_address(name))]
        address = _address(rest.partition("-")[0])
        public = ip_address(public_address(name))
        if word == "mixed" or (word == "both" and address.version == 4):
            return [], [public, address]
        if word == "both":
            return [], [_PUBLIC_V6, address]
        if word == "turn" and kind == _A:
            self._turns[name] += 1
            return [], [public if self._turns[name] == 1 else address]
        return [], [address]


def _address(digits: str) -> Address:
    raw = bytes.fromhex(digits)
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)


def _packed(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(owner: str, kind: int, data: bytes) -> bytes:
    return _packed(owner) + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
