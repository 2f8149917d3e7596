"""How deep a parser would nest a page's tags, told from the tags alone, and what to leave out.

A sketch of the tree construction of HTML (13.2.6): implied end tags, end tags that are ignored, and
formatting elements that are opened again in every later block. It follows the standard as far as
depth and growth need it, and where it does not it counts too much rather than too little.

Source: https://html.spec.whatwg.org/multipage/parsing.html#tree-construction
"""

import re
from collections import Counter
from typing import Final

__all__ = ["FORMATTING", "Nesting", "prune_tags"]

FORMATTING: Final = frozenset(
    (b"a b big code em font i nobr s small strike strong tt u").split()  # 13.2.4.3
)
_VOID: Final = frozenset(
    b"area base basefont bgsound br col embed frame hr img input keygen link meta param source"
    b" track wbr".split()
)
_SPECIAL: Final = frozenset(
    b"address applet area article aside base basefont bgsound blockquote body br button caption"
    b" center col colgroup dd details dir div dl dt embed fieldset figcaption figure footer form"
    b" frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html iframe img input keygen li link"
    b" listing main marquee menu meta nav noembed noframes noscript object ol p param plaintext pre"
    b" script search section select source style summary table tbody td template textarea tfoot th"
    b" thead title tr track ul wbr xmp".split()
)
_SCOPES: Final = frozenset(
    b"applet button caption html table td th marquee object template".split()
)
_ENDS_THROUGH: Final = frozenset(
    b"address applet article aside blockquote button caption center dd details dialog dir div dl dt"
    b" fieldset figcaption figure footer h1 h2 h3 h4 h5 h6 header hgroup li listing main marquee"
    b" menu nav object ol p pre search section select summary table tbody td template tfoot th"
    b" thead tr ul".split()
)
"""Elements that their end tag ends whatever is still open in them; others end only if no special
element is."""
_CLOSE_P: Final = frozenset(
    b"address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption"
    b" figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr li listing main menu nav ol p"
    b" plaintext pre search section summary table ul xmp".split()
)
_ITEMS: Final = {b"li": (b"li",), b"dt": (b"dt", b"dd"), b"dd": (b"dt", b"dd")}
"""What a start tag ends first, inside the nearest special element but these."""
_PASSED: Final = frozenset(b"address div p".split())
_AT_ONCE: Final = {
    b"option": (b"option",),
    b"optgroup": (b"option",),
    b"rt": (b"rt", b"rp"),
    b"rp": (b"rt", b"rp"),
}
"""What a start tag ends if nothing is open in it."""
_IN_RUBY: Final = frozenset((b"rt", b"rp"))
_CELLS: Final = {
    b"td": (b"td", b"th"),
    b"th": (b"td", b"th"),
    b"tr": (b"tr",),
    b"tbody": (b"tbody", b"thead", b"tfoot"),
    b"thead": (b"tbody", b"thead", b"tfoot"),
    b"tfoot": (b"tbody", b"thead", b"tfoot"),
}
"""Likewise inside the nearest table."""
_FOREIGN: Final = (b"svg", b"math")
_BREAKS_OUT: Final = frozenset(
    b"b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li"
    b" listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul"
    b" var".split()
)
"""Start tags that end the drawing or formula in which they stand (13.2.6.5)."""
_INTEGRATION: Final = (
    *(b"foreignobject", b"desc", b"title", b"mi", b"mo", b"mn", b"ms", b"mtext"),
    b"annotation-xml",
)
"""Parts of drawings and formulas in which HTML may stand."""
_ONCE: Final = frozenset((b"html", b"body", b"head", b"frameset"))
_MAX_ONCE: Final = 8
"""Further start tags of these add their attributes to the one there is, each compared with all."""

_BYTES_PER_COPY: Final = 64
"""Of a tag, that count as one element opened again: attributes take up to 40 times their bytes."""

_ATTRIBUTES: Final = rb"""(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+>?+"""
_COMMENT: Final = rb"!--(?:-?>|.*?(?:--!?>|\Z))|(?:[!?]|/(?![a-z]))[^>]*+>?+"
_TAG: Final = rb"(?P<end>/?)(?P<name>[a-z][^\s/>]*+)" + _ATTRIBUTES
_RAW: Final = (
    rb"(?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[\s/>])"
    + _ATTRIBUTES
    + rb"(?:[^<]++|<(?!/(?P=raw)[\s/>]))*+(?:</(?P=raw)[^>]*+>?+)?+"
)
_TOKEN: Final = re.compile(
    b"<(?:" + b"|".join((_COMMENT, _RAW, _TAG)) + b")", re.DOTALL | re.IGNORECASE
)
_FOREIGN_TOKEN: Final = re.compile(
    b"<(?:" + b"|".join((_COMMENT, _TAG)) + b")", re.DOTALL | re.IGNORECASE
)
"""In drawings and formulas the content of every element is markup."""


class Nesting:
    """The open elements, as a parser would have them after the tags that it was told of.

    Args:
      max_depth: levels; start tags beyond them are to be left out.
      max_reopened: formatting elements that may be opened again; beyond them they are ended.
    """

    def __init__(self, max_depth: int, max_reopened: int) -> None:
        self.max_depth = max_depth
        self.max_reopened = max_reopened
        self.stack: list[bytes] = []
        self.places: dict[bytes, list[int]] = {}  # of every open name, in the stack
        self.special: list[int] = []
        self.scopes: list[int] = []
        self.lists: list[int] = []  # special elements that keep an item open
        self.tables: list[int] = []
        self.once: Counter[bytes] = Counter()
        self.dropped: Counter[bytes] = Counter()
        self.unended: Counter[bytes] = Counter()  # formatting elements without their end tag
        self.pending: list[bytes] = []  # of these, those that the next content opens again
        self.reopened = 0
        self.costs: Counter[bytes] = Counter(dict.fromkeys(FORMATTING, 1))

    @property
    def formatting_allowed(self) -> bool:
        return self.reopened <= self.max_reopened

    def in_foreign(self) -> bool:
        return bool(self.places.get(b"svg") or self.places.get(b"math"))

    def start(self, name: bytes) -> bool:
        """A start tag; return whether it may stay."""
        if name in _VOID:
            return True
        if name in _ONCE:
            self.once[name] += 1
            return self.once[name] <= _MAX_ONCE
        if name in _CELLS and not self.tables:
            return True  # outside of a table the parser takes no notice of it
        formatting = name in FORMATTING
        if formatting and not self.formatting_allowed:
            self.dropped[name] += 1
            return False
        self._end_implied(name)
        if len(self.stack) >= self.max_depth:
            self.dropped[name] += 1
            return False
        block = name in _CLOSE_P
        if not block:
            self._reopen()
        self._push(name)
        if block:
            self._reopen()
        if formatting:
            self.unended[name] += 1
        return True

    def end(self, name: bytes) -> bool:
        """An end tag; return whether it may stay."""
        if self.dropped[name]:
            self.dropped[name] -= 1
            return False
        if name in FORMATTING:
            self._end_formatting(name)
            return True
        places = self.places.get(name)
        if not places:
            return True
        floor = places[-1]
        if name == b"form":
            self._take_out(name)
            return True
        if name in _CELLS or name == b"table":
            barrier = self.tables
        elif name == b"li":
            barrier = self.lists
        else:
            barrier = self.scopes if name in _ENDS_THROUGH else self.special
        if not (barrier and barrier[-1] > floor):
            self._pop_to(floor)
        return True

    def end_all_formatting(self) -> bytes:
        """End tags for every formatting element that would be opened again."""
        tags = b"".join(b"</%s>" % name * count for name, count in self.unended.items())
        self.unended.clear()
        self.pending.clear()
        for name in FORMATTING:
            for at in self.places.pop(name, ()):
                self.stack[at] = b""
        return tags

    def _end_implied(self, name: bytes) -> None:
        places = self.places
        if (places.get(b"svg") or places.get(b"math")) and name in _BREAKS_OUT:
            inner = max(places[part][-1] for part in _FOREIGN if places.get(part))
            if all(not open_at or open_at[-1] < inner for open_at in map(places.get, _INTEGRATION)):
                self._pop_to(inner)
        if name in _ITEMS:
            self._end_nearest(_ITEMS[name], self.lists)
        if name in _CLOSE_P and places.get(b"p"):
            self._end_nearest((b"p",), self.scopes)
        if name in _CELLS:
            self._end_nearest(_CELLS[name], self.tables)
        elif name in (b"a", b"nobr"):
            self._end_formatting(name)
        elif name == b"button":
            self._end_nearest((b"button",), self.tables)
        elif (
            self.stack
            and self.stack[-1] in _AT_ONCE.get(name, ())
            and (name not in _IN_RUBY or places.get(b"ruby"))
        ):
            self._pop_to(len(self.stack) - 1)

    def _end_nearest(self, names: tuple[bytes, ...], barrier: list[int]) -> None:
        floor = max((places[-1] for name in names if (places := self.places.get(name))), default=-1)
        if floor >= 0 and not (barrier and barrier[-1] > floor):
            self._pop_to(floor)

    def _end_formatting(self, name: bytes) -> None:
        if self.unended[name]:
            self.unended[name] -= 1
        if name in self.pending:
            self.pending.remove(name)
            return
        places = self.places.get(name)
        if not places:
            return
        floor = places[-1]
        if not (self.special and self.special[-1] > floor):
            self._pop_to(floor)
            return
        self._take_out(name)  # a block was opened in it, and stays open: the "adoption agency"

    def _take_out(self, name: bytes) -> None:
        """End an element, not what is open in it."""
        floor = self.places[name].pop()
        self.stack[floor] = b""
        for indices in (self.special, self.lists):
            if indices and indices[-1] == floor:
                indices.pop()
        if floor == len(self.stack) - 1:
            self._pop_to(floor)

    def _reopen(self) -> None:
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        self.reopened += sum([self.costs[name] for name in pending])
        for name in pending:
            if len(self.stack) < self.max_depth:
                self._push(name)

    def _push(self, name: bytes) -> None:
        at = len(self.stack)
        self.stack.append(name)
        self.places.setdefault(name, []).append(at)
        if name in _SPECIAL:
            self.special.append(at)
            if name not in _PASSED and name not in _ITEMS:
                self.lists.append(at)
        if name in _SCOPES:
            self.scopes.append(at)
        if name in (b"table", b"template"):
            self.tables.append(at)

    def _pop_to(self, floor: int) -> None:
        """Close the element at ``floor`` and all in it, and what stands ended below it."""
        stack = self.stack
        lost: list[bytes] = []
        while len(stack) > floor or (stack and not stack[-1]):
            name = stack.pop()
            if not name:
                continue
            self.places[name].pop()
            if name in FORMATTING and len(stack) != floor:
                lost.append(name)
        for indices in (self.special, self.lists, self.scopes, self.tables):
            while indices and indices[-1] >= len(stack):
                indices.pop()
        if lost:
            self.pending.extend(reversed(lost))


def prune_tags(markup: bytes, max_depth: int, max_reopened: int) -> bytes:
    """Return UTF-8 ``markup`` without the tags that nest deeper, or grow the tree, beyond limits.

    No text is lost. Time is linear in the markup.
    """
    nesting = Nesting(max_depth, max_reopened)
    kept: list[bytes] = []
    copied = position = 0
    allowed = True
    foreign = False  # whether there was a drawing or formula at all
    pattern = _TOKEN
    while (match := pattern.search(markup, position)) is not None:
        start, position = match.span()
        end, name = match.group("end", "name")
        if name is None:
            continue  # a comment, or text that only looks like tags
        name = name.lower()
        if position - start > _BYTES_PER_COPY and name in FORMATTING:
            # With an element its attributes are copied.
            cost = 1 + (position - start) // _BYTES_PER_COPY
            nesting.costs[name] = max(nesting.costs[name], cost)
        stay = nesting.end(name) if end else nesting.start(name)
        if foreign or name in _FOREIGN:
            foreign = True
            pattern = _FOREIGN_TOKEN if nesting.in_foreign() else _TOKEN
        if not stay:
            kept.append(markup[copied:start])
            copied = position
        if allowed and not nesting.formatting_allowed:
            allowed = False
            kept.append(markup[copied:position])
            kept.append(nesting.end_all_formatting())
            copied = position
    if not kept:
        return markup
    kept.append(markup[copied:])
    return b"".join(kept)
