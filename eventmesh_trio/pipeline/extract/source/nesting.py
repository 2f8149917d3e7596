"""`Nesting`: how deep a parser would nest a page's tags, told from the tags alone.

It is the tree construction of HTML without the tree: each tag opens and ends the elements that it
does there. What is left out are the modes before and after the body, and where elements go that a
table does not take ("foster parenting"), which changes neither what is open nor how many are.

It has to be exact: an element that is thought to be open still is one whose end tag is thought to
close all that was opened after it, and a page that repeats that is thought to be flat.

Source: https://html.spec.whatwg.org/multipage/parsing.html#tree-construction
"""

import re
from collections import Counter
from typing import Final

from eventmesh_trio.pipeline.extract.source.elements import (
    ANNOTATION,
    BREAKS_OUT,
    CLOSE_P,
    ENDS_THROUGH,
    FORMATTING,
    HEADINGS,
    HOLDS_HTML,
    HTML_WITHIN,
    IMPLIED_ENDS,
    IN_TABLES,
    MARKERS,
    MATHML,
    NO_TEXT_WITHIN,
    OUTSIDE_FORMATTING,
    SVG,
    TEXT_WITHIN,
    VOID,
)
from eventmesh_trio.pipeline.extract.source.formatting import Formatting
from eventmesh_trio.pipeline.extract.source.open_elements import OpenElements
from eventmesh_trio.pipeline.extract.source.tables import Tables

__all__ = ["Nesting"]

_ONCE: Final = frozenset((b"html", b"body", b"head", b"frameset"))
_MAX_ONCE: Final = 8
"""Further start tags of these add their attributes to the one there is, each compared with all."""
_IN_TABLE: Final = frozenset((b"table", b"tbody", b"thead", b"tfoot", b"tr"))
"""Parts in which a form is closed at once, and white space means nothing."""
_ATTRIBUTE: Final = re.compile(rb"""([^\s/>=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"'][^\s>]*))?""")
_FONT: Final = frozenset((b"color", b"face", b"size"))
"""Attributes with which ``font`` is no part of a drawing."""
_HTML: Final = frozenset((b"text/html", b"application/xhtml+xml"))


class Nesting:
    """The open elements, as a parser would have them after the tags that it was told of.

    Args:
      max_depth: levels; start tags beyond them are to be left out.
      max_reopened: formatting elements that may be opened again; beyond them they are ended.
      quirks: whether a table may stand in a paragraph, as in pages without a modern ``doctype``.
    """

    def __init__(self, max_depth: int, max_reopened: int, *, quirks: bool) -> None:
        self.quirks = quirks
        self.max_depth = max_depth
        self.max_reopened = max_reopened
        self.elements = OpenElements()
        self.formatting = Formatting(self.elements)
        self.tables = Tables(self.elements, self.formatting)
        self.once: Counter[bytes] = Counter()
        self.dropped: Counter[bytes] = Counter()

    @property
    def formatting_allowed(self) -> bool:
        return self.formatting.reopened <= self.max_reopened

    def holds_html(self) -> bool:
        """Whether the innermost element holds HTML, and not a drawing's or formula's parts."""
        elements = self.elements
        return not elements.in_foreign() or elements.top in HOLDS_HTML

    # --- Start tags ---------------------------------------------------------------------------

    def start(self, name: bytes, tag: bytes) -> bool:
        """A start tag: its name in lower case, and all of it. Returns whether it may stay."""
        elements = self.elements
        if elements.in_foreign() and self._is_foreign(name):
            if name in BREAKS_OUT or (name == b"font" and not _FONT.isdisjoint(_attributes(tag))):
                elements.leave_drawing()
            else:
                return self._start_foreign(name, tag)
        if name in _ONCE:
            self.once[name] += 1
            return self.once[name] <= _MAX_ONCE
        before = len(elements.stack)
        if name in FORMATTING and (before >= self.max_depth or not self.formatting_allowed):
            return self._drop(name)
        if elements.structure and not self.tables.start(name):
            return True
        if name in VOID:
            self._start_void(name)
            return True
        if name in IN_TABLES or not self._end_implied(name):
            return True  # nobody takes notice of it
        if len(elements.stack) >= max(self.max_depth, before):  # what has ended others must stay
            return self._drop(name)
        self._open(name, tag)
        return True

    def _drop(self, name: bytes) -> bool:
        self.dropped[name] += 1
        return False

    def raw(self, name: bytes) -> None:
        """An element whose content is text, from its start tag to its end tag."""
        if name == b"xmp":
            self._end_p()
            self.formatting.reopen()

    def _is_foreign(self, name: bytes) -> bool:
        """Whether a start tag within an element that is no HTML is none either."""
        top = self.elements.top
        if top in TEXT_WITHIN:
            return name in NO_TEXT_WITHIN
        annotates = top == b"M:annotation-xml" and name == b"svg"
        return top not in HTML_WITHIN and not annotates

    def _start_foreign(self, name: bytes, tag: bytes) -> bool:
        elements = self.elements
        if _ends_itself(tag):
            return True
        if len(elements.stack) >= self.max_depth:
            return self._drop(name)
        kind = SVG if elements.top.startswith(SVG) else MATHML
        if kind == MATHML and name == b"annotation-xml":
            encoding = _attributes(tag).get(b"encoding", b"").lower()
            kind = ANNOTATION if encoding in _HTML else MATHML
        elements.push_foreign(kind + name)
        return True

    def _start_void(self, name: bytes) -> None:
        elements = self.elements
        if name == b"hr":
            self._end_p()
            if self._in_scope(b"select"):
                self._end_implied_ends()
        elif name == b"input" and self._in_scope(b"select"):
            elements.pop_to(elements.last(b"select"))
        if name not in OUTSIDE_FORMATTING:
            self.formatting.reopen()

    def _end_implied(self, name: bytes) -> bool:
        """End what a start tag of the body ends; whether it opens something."""
        elements = self.elements
        if name == b"form" and not self.tables.templates:
            if self.elements.form is not None:
                return False
            if self.tables.innermost in _IN_TABLE:
                self.elements.form = -1
                return False
        if name in CLOSE_P or (name == b"table" and not self.quirks):
            if name == b"li":
                self._end_item(elements.last(b"li"))
            elif name in (b"dd", b"dt"):
                self._end_item(elements.last_of((b"dd", b"dt")))
            self._end_p()
            if name in HEADINGS and elements.top in HEADINGS:
                elements.pop()
        elif name == b"a":
            entry = self.formatting.last(name)
            if entry is not None:
                self.formatting.end(name)
                self.formatting.forget(entry)
        elif name == b"nobr":
            self.formatting.reopen()
            if self._in_scope(name):
                self._end_formatting(name)
        elif name == b"button":
            if self._in_scope(name):
                elements.pop_to(elements.last(name))
        elif name == b"select":
            if self._in_scope(name):
                elements.pop_to(elements.last(name))
                return False
        elif name in (b"option", b"optgroup"):
            if self._in_scope(b"select"):
                self._end_implied_ends(b"optgroup" if name == b"option" else b"")
            elif elements.top == b"option":
                elements.pop()
        elif name in (b"rb", b"rp", b"rt", b"rtc") and self._in_scope(b"ruby"):
            self._end_implied_ends(b"rtc" if name in (b"rp", b"rt") else b"")
        return True

    def _in_scope(self, name: bytes) -> bool:
        at = self.elements.last(name)
        return at >= 0 and self.elements.in_scope(at)

    def _end_item(self, at: int) -> None:
        if at >= 0 and self.elements.items[-1] == at:
            self.elements.pop_to(at)

    def _end_p(self) -> None:
        elements = self.elements
        at = elements.last(b"p")
        if at >= 0 and elements.in_scope(at) and at > elements.last(b"button"):
            elements.pop_to(at)

    def _end_implied_ends(self, but: bytes = b"") -> None:
        elements = self.elements
        while elements.top in IMPLIED_ENDS and elements.top != but:
            elements.pop()

    def _open(self, name: bytes, tag: bytes) -> None:
        elements = self.elements
        if name not in CLOSE_P and name not in OUTSIDE_FORMATTING:
            self.formatting.reopen()
        if name in FORMATTING:
            self.formatting.start(name, tag)
            return
        if name in (b"svg", b"math"):
            if not _ends_itself(tag):
                elements.push_foreign((SVG if name == b"svg" else MATHML) + name)
            return
        at = elements.push(name)
        if name in MARKERS:
            self.formatting.mark()
        if name == b"template":
            self.tables.templates.append(name)
        elif name == b"form" and not self.tables.templates:
            self.elements.form = at

    # --- End tags -----------------------------------------------------------------------------

    def end(self, name: bytes) -> bool:
        """An end tag; return whether it may stay."""
        if self.dropped[name]:
            self.dropped[name] -= 1
            return False
        elements = self.elements
        if elements.in_foreign():
            if name in (b"br", b"p"):
                elements.leave_drawing()
            else:
                at = elements.last_of((SVG + name, MATHML + name, ANNOTATION + name))
                if at >= elements.drawings[-1]:
                    elements.pop_to(at)
                    return True
        self._end_html(name)
        return True

    def _end_html(self, name: bytes) -> None:
        elements = self.elements
        if elements.top == b"colgroup" and name not in (b"col", b"template"):
            elements.pop()
        if name in FORMATTING:
            self._end_formatting(name)
            return
        if name in IN_TABLES or name == b"table":
            self.tables.end(name)
            return
        if name == b"br":
            self.formatting.reopen()
            return
        if name == b"form" and not self.tables.templates:
            self._end_form()
            return
        at = elements.last_of(HEADINGS) if name in HEADINGS else elements.last(name)
        if at < 0:
            return
        if name == b"p":
            self._end_p()
        elif name == b"template":
            self.tables.templates.pop()
            self.formatting.end_marked(at)
        elif name == b"li":
            if elements.in_scope(at) and at > elements.last_of((b"ol", b"ul")):
                elements.pop_to(at)
        elif name in ENDS_THROUGH:
            if elements.in_scope(at):
                self.formatting.end_marked(at) if name in MARKERS else elements.pop_to(at)
        else:
            self._end_other(at)

    def _end_formatting(self, name: bytes) -> None:
        if not self.formatting.end(name):
            self._end_other(self.elements.last(name))

    def _end_other(self, at: int) -> None:
        special = self.elements.special
        if at >= 0 and not (special and special[-1] > at):
            self.elements.pop_to(at)

    def _end_form(self) -> None:
        elements = self.elements
        at, self.elements.form = self.elements.form, None
        if at is None or not 0 <= at < len(elements.stack) or elements.stack[at] != b"form":
            return
        if elements.in_scope(at):
            self._end_implied_ends()
            elements.take_out(at)

    def text(self, *, blank: bool) -> None:
        """Words between tags, or only white space: they open again what blocks have ended."""
        elements = self.elements
        if not self.holds_html():
            return
        if elements.top == b"colgroup" and not blank:
            elements.pop()
        if blank and self.tables.innermost in _IN_TABLE:
            return  # it stands where it is
        self.formatting.reopen()


def _attributes(tag: bytes) -> dict[bytes, bytes]:
    """Of a start tag, names in lower case."""
    return {
        name.lower(): value.strip(b"\"'")
        for name, value in _ATTRIBUTE.findall(tag[1:].rstrip(b">"))[1:]
    }


def _ends_itself(tag: bytes) -> bool:
    """Whether "/>" ends a tag; it may be a part of its last attribute's value."""
    if not tag.endswith(b"/>"):
        return False
    return b"=" not in tag or not _ATTRIBUTE.findall(tag[1:-1])[-1][1].endswith(b"/")
