"""What a robots.txt says: bytes in, rules out, as RFC 9309 has it. No clock, no network.

A file is a list of *groups*: user agents, and the rules for them. `RobotsFile.rules_for` joins the
groups of one user agent to its `Rules`. Names are matched whole, rules as octets: there is one
spelling of everything (`canonical_target`, `canonical_pattern`), so that a rule cannot be got round
by a percent sign.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

__all__ = [
    "RobotsFile",
    "Rules",
    "canonical_pattern",
    "canonical_target",
    "parse_robots",
    "product_token",
]

# Misspelt as site owners do; what they meant is plain, and to keep to it harms nobody.
_USER_AGENT: Final = frozenset({b"user-agent", b"useragent", b"user agent"})
_DISALLOW: Final = frozenset(
    {b"disallow", b"dissallow", b"dissalow", b"disalow", b"diasllow", b"disallaw"}
)
_ALLOW: Final = frozenset({b"allow"})
_CRAWL_DELAY: Final = frozenset({b"crawl-delay", b"crawl delay"})
_REQUEST_RATE: Final = frozenset({b"request-rate", b"request rate"})
_KNOWN: Final = _USER_AGENT | _DISALLOW | _ALLOW | _CRAWL_DELAY | _REQUEST_RATE

_EOL: Final = re.compile(rb"\r\n|\r|\n")
_WITHOUT_COLON: Final = re.compile(
    rb"(user[- ]?agent|[a-z-]+)[ \t]+(.*)", re.IGNORECASE | re.DOTALL
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_COMPATIBLE: Final = re.compile(r"^Mozilla/\S*\s*\(compatible;\s*([A-Za-z0-9_-]+)", re.IGNORECASE)
_RATE: Final = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9})\s*([smhd]?)(?:\s.*)?", re.IGNORECASE)
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_REMEMBERED: Final = 8  # user agents whose joined rules are kept beside the groups ...
_LARGE_BYTES: Final = 64 * 1024  # ... and one of a file that weighs more
# What one of each weighs beside its text, as measured, and rounded up.
_RULE_BYTES: Final = 200
_PART_BYTES: Final = 25
_GROUP_BYTES: Final = 600
_AGENT_BYTES: Final = 130
_DELAY_BYTES: Final = 90

# RFC 3986: what needs no encoding in any part, and what is reserved but for the structure of path
# and query ("/", "?") and for the special characters of rules ("*", "$").
_PLAIN: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:@!&'()+,;=[]"
)
_ALL_PLAIN: Final = re.compile(rb"[A-Za-z0-9._~:@!&'()+,;=\[\]/-]*")
_ASTERISKS: Final = re.compile(r"\*+")
_PERCENT: Final = 0x25
_HEX: Final = frozenset(b"0123456789ABCDEFabcdef")


def product_token(user_agent: str) -> str:
    """The name that robots.txt groups are looked up by (RFC 9309, section 2.2.1).

    It is the first product of a ``User-Agent``, or, in a browser-like one, the name that follows
    ``(compatible;``. Digits, which the RFC has not, are part of it: there are such crawlers.
    """
    found = _COMPATIBLE.match(user_agent)
    if found is not None:
        return found[1]
    token = _TOKEN.match(user_agent.strip())
    return token[0] if token else ""


def canonical_target(target: str) -> str:
    """The one spelling of a path and query that rules are compared with (section 2.2.2)."""
    return _canonical(target.encode("utf-8", "surrogatepass"), special=False)


def canonical_pattern(pattern: bytes) -> str:
    """The one spelling of a rule; its ``*``, and a ``$`` at its end, are still special."""
    end = pattern.endswith(b"$")
    return _canonical(pattern[:-1] if end else pattern, special=True) + "$" * end


def _canonical(text: bytes, *, special: bool) -> str:
    """Percent-encode what must be, decode what need not be; hexadecimal digits in upper case.

    "%2F" in a path is not the "/" that divides it, but in a query, which has no such structure,
    it is; the same holds for "?".
    """
    if _ALL_PLAIN.fullmatch(text):
        return text.decode("ascii")
    out: list[str] = []
    in_query = False
    position = 0
    while position < len(text):
        octet = text[position]
        encoded = False
        position += 1
        digits = text[position : position + 2] if octet == _PERCENT else b""
        if len(digits) == 2 and _HEX.issuperset(digits):
            octet = int(digits, 16)
            encoded = True
            position += 2
        char = chr(octet)
        if octet in _PLAIN or (char in "/?" and (in_query or not encoded)):
            out.append(char)
            in_query = in_query or char == "?"
        elif char == "*" and special and not encoded:
            out.append(char)
        else:
            out.append(f"%{octet:02X}")
    return "".join(out)


@attrs.frozen(order=False)
class _Rule:
    """One "allow" or "disallow". ``parts`` is what is between the asterisks."""

    pattern: str
    allows: bool
    parts: tuple[str, ...]
    to_end: bool

    def matches(self, target: str) -> bool:
        """Whether the rule's end is reached before a difference. Linear in the target's length."""
        first, *others = self.parts
        if not target.startswith(first):
            return False
        if not others:
            return not self.to_end or len(target) == len(first)
        position = len(first)
        last = others.pop()
        for part in others:
            found = target.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        if self.to_end:
            return len(target) - len(last) >= position and target.endswith(last)
        return target.find(last, position) >= 0


def _rule(pattern: str, *, allows: bool) -> _Rule:
    to_end = pattern.endswith("$")
    body = pattern.removesuffix("$") if to_end else pattern.rstrip("*")
    return _Rule(pattern, allows, tuple(_ASTERISKS.split(body)), to_end)


@attrs.define(eq=False)
class _Group:
    agents: dict[str, int] = attrs.field(factory=dict)  # in lower case; each with its number
    rules: list[_Rule] = attrs.field(factory=list)
    delays: list[tuple[int, float]] = attrs.field(factory=list)  # asked of the agents so far

    def delay_of(self, agent: str) -> float:
        number = self.agents[agent]
        return max((seconds for agents, seconds in self.delays if number < agents), default=0.0)


@attrs.define(eq=False)
class Rules:
    """The rules for one user agent, those that count most first; ``Rules()`` allows everything.

    ``delay_seconds``: what it is to wait between two requests, 0 where nothing is asked for.
    """

    _rules: Sequence[_Rule] = ()
    delay_seconds: float = 0.0
    # Places in the rules: of those that are but a prefix, and of those to be tried one by one.
    _plain: Mapping[str, int] = attrs.field(init=False)
    _lengths: Sequence[int] = attrs.field(init=False)
    _others: Sequence[int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        plain: dict[str, int] = {}
        others = []
        for place, rule in enumerate(self._rules):
            if len(rule.parts) == 1 and not rule.to_end:
                plain.setdefault(rule.parts[0], place)
            else:
                others.append(place)
        self._plain, self._others = plain, others
        self._lengths = sorted(set(map(len, plain)))

    @property
    def wildcards(self) -> int:
        """Rules that have to be tried one by one."""
        return len(self._others)

    def allows(self, target: str) -> bool:
        """Whether a path with its query may be fetched."""
        rule = self._decisive(target)
        return rule is None or rule.allows

    def decisive(self, target: str) -> str | None:
        """The line of the robots.txt that decides, in its one spelling; None where none does."""
        rule = self._decisive(target)
        return None if rule is None else f"{'Allow' if rule.allows else 'Disallow'}: {rule.pattern}"

    def _decisive(self, target: str) -> _Rule | None:
        if target.partition("?")[0] == "/robots.txt":
            return None
        canonical = canonical_target(target)
        first = none = len(self._rules)
        # As many looks as there are lengths: a file may have 40,000 rules, all of one.
        for length in self._lengths:
            first = min(first, self._plain.get(canonical[:length], none))
        for place in self._others:
            if place >= first:
                break
            if self._rules[place].matches(canonical):
                first = place
                break
        return self._rules[first] if first < none else None


@attrs.define(eq=False)
class RobotsFile:
    """A parsed robots.txt. ``weight`` is about the memory that it takes, in bytes."""

    _groups: Sequence[_Group] = ()
    weight: int = 0
    _remembered: dict[str, Rules] = attrs.field(factory=dict, init=False)

    def rules_for(self, user_agent: str) -> Rules:
        """The rules of all groups that name this user agent, or of those for ``*``, joined."""
        return self.remembered(user_agent) or self.remember(user_agent, self.join(user_agent))

    def remembered(self, user_agent: str) -> Rules | None:
        """The rules where they were joined already; the last few user agents are remembered."""
        return self._remembered.get(product_token(user_agent).lower())

    def remember(self, user_agent: str, rules: Rules) -> Rules:
        """Keep, and return, what `join` has made for a user agent."""
        most = _MAX_REMEMBERED if self.weight <= _LARGE_BYTES else 1
        while len(self._remembered) >= most:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[product_token(user_agent).lower()] = rules
        return rules

    def join(self, user_agent: str) -> Rules:
        """As `rules_for`, but nothing is changed: for another thread, where the file is large."""
        token = product_token(user_agent).lower()
        groups = [group for group in self._groups if token in group.agents]
        if not groups:
            token = "*"
            groups = [group for group in self._groups if token in group.agents]
        # The same rule twice counts once; the longest first, and "allow" before its equal.
        unique = {(rule.pattern, rule.allows): rule for group in groups for rule in group.rules}
        ranked = sorted(unique.values(), key=lambda rule: (-len(rule.pattern), not rule.allows))
        delay = max((group.delay_of(token) for group in groups), default=0.0)
        return Rules(ranked, delay)


def parse_robots(body: bytes) -> RobotsFile:
    """Parse a robots.txt; what cannot be read in it is as if it were not there.

    Never fails, whatever the bytes are. Takes about 1 s for each 10 MB of rules.
    """
    groups: list[_Group] = []
    group = _Group()  # of none: rules before the first user agent are nobody's
    in_agents = False
    weight = len(body)
    for field, value in _records(body.removeprefix(b"\xef\xbb\xbf")):
        if field in _USER_AGENT:
            if not in_agents:
                group = _Group()
                groups.append(group)
                weight += _GROUP_BYTES
            in_agents = True
            if agent := _agent(value):
                group.agents.setdefault(agent, len(group.agents))
                weight += _AGENT_BYTES
        elif field in _DISALLOW or field in _ALLOW:
            in_agents = False
            if value[:1] in (b"/", b"*") and group.agents:
                rule = _rule(canonical_pattern(value), allows=field in _ALLOW)
                group.rules.append(rule)
                weight += _RULE_BYTES + _PART_BYTES * len(rule.parts)
        else:
            # No record of the RFC, so it does not end the user agents of a group: those that are
            # named so far are meant.
            asked = _crawl_delay(value) if field in _CRAWL_DELAY else _request_rate(value)
            if asked and group.agents:
                group.delays.append((len(group.agents), asked))
                weight += _DELAY_BYTES
    return RobotsFile(groups, weight)


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name, in lower case, and value of each line that has one of the known names."""
    for line in _EOL.split(body):
        text = line.partition(b"#")[0].strip(b" \t\0")
        if not text:
            continue
        name, colon, value = text.partition(b":")
        field = name.strip(b" \t").lower()
        if not colon or field not in _KNOWN:
            found = _WITHOUT_COLON.fullmatch(text)
            if found is None:
                continue
            field, value = found[1].lower(), found[2]
        if field in _KNOWN:
            yield field, value.strip(b" \t")


def _agent(value: bytes) -> str:
    """The name in a "user-agent" line: ``*``, or what it begins with (``Foo/1.0`` is Foo).

    Empty where it is no name.
    """
    return "*" if value == b"*" else product_token(value.decode("latin-1")).lower()


def _crawl_delay(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if 0.0 < seconds < float("inf") else 0.0


def _request_rate(value: bytes) -> float:
    """``1/5`` is one request in 5 seconds, ``30/1m`` 30 in a minute; times of day are ignored."""
    found = _RATE.fullmatch(value.decode("latin-1"))
    if found is None or not int(found[1]):
        return 0.0
    return int(found[2]) * _UNIT_SECONDS[found[3].lower()] / int(found[1])
