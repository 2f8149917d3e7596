"""Hosts by name: what an operator's lists say of them, and which names are never public.

All of it is judged before a name server is asked.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Final

import attrs

from eventmesh_trio.wire.urls import parse_url

__all__ = ["HostRule", "HostRules", "is_local_name"]

# Names under these are somebody's own network: RFC 6761 (localhost), RFC 6762 (local, and those of
# its appendix G), RFC 8375 (home.arpa), and ICANN's reservation of "internal" (2024).
_LOCAL_SUFFIXES: Final = (
    *("localhost", "local", "internal", "home.arpa", "intranet", "private", "corp", "home", "lan"),
    "localdomain",  # what older systems call their own
)


@attrs.frozen
class HostRule:
    """One entry of a list of hosts; made by `HostRule.parse`, printed as it was written."""

    text: str
    name: str
    itself: bool
    below: bool

    @classmethod
    def parse(cls, text: str) -> "HostRule":
        """Read an entry.

        ``example.org`` is that host alone, ``*.example.org`` every name below it, ``.example.org``
        both, ``*`` every host. A name may be written as in a URL: any case, not ASCII, with a dot
        at its end. An address, IPv6 with or without brackets, stands for itself.

        Raises:
          ValueError: none of these; the message says what is wrong.
        """
        if text == "*":
            return cls(text, "", itself=True, below=True)
        below = text.startswith(("*.", "."))
        name = text[text.index(".") + 1 :] if below else text
        if _is_network(name) and "/" in name:
            raise ValueError(f"{text!r} is a network, not a host")
        bracketed = f"[{name}]" if ":" in name and not name.startswith("[") else name
        try:
            url = parse_url(f"http://{bracketed}/")
        except ValueError:
            raise ValueError(f"{text!r} is no host such as example.org or *.example.org") from None
        if any(character in name for character in "/\\?#@*% \t\r\n") or url.port != 80:
            raise ValueError(f"{text!r} is more than a host: {url.host!r} would be one")
        rule = cls(text, _bare(url.host), itself=not text.startswith("*."), below=below)
        if below and rule.is_address:
            raise ValueError(f"{text!r}: there are no names below an address")
        return rule

    @property
    def is_address(self) -> bool:
        return _is_network(self.name)

    def __str__(self) -> str:
        return self.text


class HostRules:
    """A list of rules, in any number: looking a host up takes a step for each of its labels.

    Raises:
      ValueError: an entry is no rule; the message names it.
    """

    def __init__(self, entries: Iterable[HostRule | str] = ()) -> None:
        self.rules: Final = tuple(
            HostRule.parse(entry.strip()) if isinstance(entry, str) else entry for entry in entries
        )
        self._hosts: Final = frozenset(rule.name for rule in self.rules if rule.itself)
        self._domains: Final = frozenset(rule.name for rule in self.rules if rule.below)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def __iter__(self) -> Iterator[HostRule]:
        return iter(self.rules)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[rule.text for rule in self.rules]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostRules) and self.rules == other.rules

    def __hash__(self) -> int:
        return hash(self.rules)

    def match(self, host: str) -> bool:
        """Whether any of them speaks of a parsed URL's host."""
        name = _bare(host)
        if name in self._hosts:
            return True
        if not self._domains:
            return False
        if "" in self._domains:
            return True
        while name:
            _, _, name = name.partition(".")
            if name in self._domains:
                return True
        return False


def is_local_name(host: str) -> bool:
    """Whether a name, which is no address, cannot be one of the public name space.

    It has one label only, so that a resolver completes it by the machine's own domains, or is under
    a domain that is kept for private use.
    """
    host = _bare(host)
    return "." not in host or any(host.endswith(f".{suffix}") for suffix in _LOCAL_SUFFIXES)


def _bare(host: str) -> str:
    return host.rstrip(".")


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
