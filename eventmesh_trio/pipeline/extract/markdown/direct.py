"""Inline content whose marks cannot disturb each other, written without the detour over runs.

That is text, links, images and breaks, and emphasis, code and raised words that nest in nothing but
a link that they fill. Nineteen of twenty blocks are so, and the detour takes five times as long.
Where it would write something else, or might, nothing is written here.
"""

import re
from collections.abc import Sequence
from typing import Final, Protocol

from eventmesh_trio.pipeline.extract.links import anchor_of, resolved
from eventmesh_trio.pipeline.extract.markdown.escaping import (
    ANY_SPECIAL,
    escape,
    escape_destination,
)
from eventmesh_trio.pipeline.extract.page.outline import Mark
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["write_directly"]

_SIGNS: Final = {"b": ("**", "**"), "i": ("*", "*"), "code": ("`", "`"), "sup": ("<sup>", "</sup>")}
_ENDS: Final = {"/" + name: name for name in _SIGNS}
_EMPHASIS: Final = frozenset("bi")
"""Marks whose signs are none where Markdown finds the wrong neighbours."""
_BOLD: Final = ("b", "", "")
_BOLD_END: Final = ("/b", "", "")
_CONTEXTUAL: Final = re.compile(r"[*_\\<]")
"""What is escaped or not by what is beside it, which runs put in order first."""


class Page(Protocol):
    """What is the same for all blocks of a page."""

    @property
    def base(self) -> str | None: ...

    def is_note(self, anchor: str) -> bool:
        """Whether an address within the page is that of a footnote."""

    def image(self, address: str, label: str) -> str:
        """An image, or "" without an address that can be used."""


def write_directly(
    page: Page,
    parts: Sequence[str | Mark],
    hard_break: str,
    *,
    uniform: bool,
    text: str | None = None,
) -> str | None:
    """Markdown of a block's parts, or None where it takes runs.

    Args:
      hard_break: what a line break becomes.
      uniform: bold that covers everything is left out.
      text: of the parts together, white space as it may be; None if that is not at hand.
    """
    if text is None:
        text = "".join([part for part in parts if isinstance(part, str)])
    if not text.isprintable() and clean(text) is not text:
        return None
    special = ANY_SPECIAL.search(text) is not None
    if special:
        if "`" in text or "~" in text:
            return None
        # What is escaped depends on white space, too. Else it may wait until the line is whole.
        parts = [
            _spaced(part) if isinstance(part, str) and not part.isprintable() else part
            for part in parts
        ]
    if uniform and _BOLD in parts:
        inner = _without_bold(parts)
        if inner is None:
            return None
        parts = inner
    return _Line(page, hard_break, text if special else "").write(parts)


def _spaced(text: str) -> str:
    """White space as a browser shows it; `re.sub` takes three times as long."""
    words = " ".join(text.split())
    if not words:
        return " "
    before = " " if text[0].isspace() else ""
    return f"{before}{words} " if text[-1].isspace() else before + words


def _ends_open(line: str) -> bool:
    """Whether a backslash ends it that would escape what comes next."""
    return line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _without_bold(parts: Sequence[str | Mark]) -> Sequence[str | Mark] | None:
    """The parts in a pair of bold around all there is; None where bold is only in some."""
    start, end = 0, len(parts)
    while start < end and isinstance(part := parts[start], str) and not part.strip():
        start += 1
    while start < end and isinstance(part := parts[end - 1], str) and not part.strip():
        end -= 1
    if parts[start] != _BOLD or parts[end - 1] != _BOLD_END or parts.count(_BOLD) > 1:
        return None
    return parts[start + 1 : end - 1]


class _Line:
    """One line of Markdown, and those before it.

    Args:
      special: the text of the block if there is anything in it that may have to be escaped, or "".
    """

    def __init__(self, page: Page, hard_break: str, special: str) -> None:
        self.page = page
        self.hard_break = hard_break
        self.special = special
        # Nothing in the text is escaped, or not, by the white space beside it.
        self.simple = not special or _CONTEXTUAL.search(special) is None
        self.lines: list[str] = []
        self.pieces: list[str] = []
        self.words: list[str] = []
        self.address: str | None = None
        self.label: list[str] = []  # of the open link: what is finished
        self.mark = ""  # the one that is open
        self.inside = False  # a link is all that the mark holds, or the mark all that the link does
        self.strict = False  # one of these, and what comes next must be looked at:
        self.sealed = False  # no words may come before the link ends, or the mark
        self.touching = False  # nothing but space since a mark ended
        self.waiting = False  # what comes next must be a space
        self.padded = False  # the mark that ended had a space at its end, which goes behind it

    def write(self, parts: Sequence[str | Mark]) -> str | None:
        words = self.words
        for part in parts:
            if isinstance(part, str):
                if self.strict and part and not self.may_follow(part):
                    return None
                words.append(part)
                continue
            name, value, label = part
            if name == "a":
                if not self.open_link(value):
                    return None
            elif name == "/a":
                if self.address is not None and not self.close_link():
                    return None
            elif name == "img":
                if not self.add_image(value, label):
                    return None
            elif name in _SIGNS:
                if not self.open_mark(name):
                    return None
            elif name in _ENDS:
                if self.mark != _ENDS[name] or not self.close_mark():
                    return None
            elif name == "br":
                if self.address is not None or self.mark or not self.simple:
                    return None
                self.end_line()
            elif name != "id":
                return None
        if self.mark and not self.close_mark():
            return None
        if self.address is not None and not self.close_link():
            return None
        self.end_line()
        if self.special and _ends_open(self.lines[-1]):
            return None  # a blank stood behind the backslash when it was escaped
        if len(self.lines) == 1:
            return self.lines[0]
        return self.hard_break.join([line for line in self.lines if line])

    def may_follow(self, text: str) -> bool:
        """Whether words may stand where they do, behind a mark."""
        if self.waiting:
            if not text[0].isspace():
                return False
            self.waiting = False
        if not text.isspace():
            if self.sealed:
                return False
            self.strict = self.touching = False
        elif not (self.sealed or self.padded or self.address is not None):
            self.strict = self.touching = False
        return True

    def end_line(self) -> None:
        pieces = self.pieces
        if self.words:
            self.put_words()
        content = pieces[0] if len(pieces) == 1 else "".join(pieces)
        if "  " in content or not content.isprintable():
            content = " ".join(content.split())
        self.lines.append(content.strip(" "))
        pieces.clear()
        self.waiting = False

    def last(self) -> str:
        """The character that stands last in the line; for any white space a blank."""
        last = next((piece[-1] for piece in reversed(self.pieces) if piece), "")
        return " " if last.isspace() else last

    def taken(self) -> str:
        """The words since the last mark."""
        words = self.words
        if not words:
            return ""
        text = words[0] if len(words) == 1 else "".join(words)
        words.clear()
        return text

    def escaped(self, text: str, *, label: bool) -> str:
        return escape(text, label=label) if self.special else text

    def put_words(self) -> None:
        text = self.taken()
        self.pieces.append(escape(text) if self.special else text)

    def open_link(self, href: str) -> bool:
        page = self.page
        if "#" in href:
            anchor = anchor_of(href, page.base)
            if page.is_note(anchor):
                return False
            if anchor and self.mark == "sup":  # a reference whose note was not kept
                return self.address is None
        if self.waiting or self.address is not None:
            return False
        address = resolved(href, page.base)
        if self.mark:
            if address is None:
                return True
            if self.words:
                return False
            self.inside = True
        elif address is not None and self.words:
            self.put_words()
        self.address = address
        return True

    def close_link(self) -> bool:
        if self.mark:
            if not self.inside:
                return False
            self.strict = self.sealed = True  # the mark around the link ends next
            return True
        address = self.address or ""
        text = self.taken()
        if self.label:
            self.label.append(self.escaped(text, label=True))
            self.put_link("".join(self.label), address)
            self.label.clear()
        elif text:
            self.put_link(text, address, page_text=True)
        elif not self.simple or self.last() == "]":
            return False  # the words on both sides are neighbours
        self.address = None
        self.inside = self.sealed = False
        return True

    def put_link(self, label: str, address: str, *, page_text: bool = False) -> None:
        pieces = self.pieces
        words = label.strip()
        if not words:
            pieces.append(" ")
            return
        before = after = ""
        if words is not label:  # there is nothing to strip from most
            before = " " if label[0].isspace() else ""
            after = " " if label[-1].isspace() else ""
        if not before and pieces and pieces[-1][-1:] == "!":
            pieces[-1] = pieces[-1][:-1] + "\\!"  # or the link would be an image
        if page_text and self.special:
            words = escape(words, label=True)
        pieces.append(f"{before}[{words}]({escape_destination(address)}){after}")

    def add_image(self, address: str, label: str) -> bool:
        if self.mark or self.sealed or self.waiting or "`" in label or "~" in label:
            return False
        image = self.page.image(address, label)
        if not image:
            return True
        if self.address is None:
            if self.words:
                self.put_words()
            self.pieces.append(image)
        elif not self.simple:
            return False
        else:
            self.label += (self.escaped(self.taken(), label=True), image)
        return True

    def open_mark(self, name: str) -> bool:
        if self.mark or self.touching or self.sealed or self.waiting or not self.simple:
            return False
        if self.address is None:
            if self.words:
                self.put_words()
        elif self.label or "".join(self.words).strip():
            return False
        else:
            self.inside = True
        self.mark = name
        return True

    def close_mark(self) -> bool:
        """Put words in a pair of signs. False where Markdown might not see these, or has none."""
        mark = self.mark
        text = self.taken()
        words = text.strip()
        if not words:
            if text or self.inside:
                return False
            self.mark = ""  # a mark around nothing, as icons are drawn
            return self.last() != "]"
        self.mark = ""
        self.strict = self.touching = True
        sign, end = _SIGNS[mark]
        before = " " if text[0].isspace() else ""
        after = " " if text[-1].isspace() else ""
        self.padded = bool(after)
        content = words if mark == "code" else self.escaped(words, label=self.inside)
        content = f"{sign}{content}{end}"
        if self.inside:
            content = f"{before}{content}{after}"
            if self.sealed:  # the link was in the mark
                self.put_link(content, self.address or "")
                self.address = None
                self.inside = self.sealed = False
            else:
                self.label.append(content)
                self.sealed = True
            return True
        if mark in _EMPHASIS:
            if not (words[0].isalnum() or before or self.last() in ("", " ")):
                return False
            self.waiting = not words[-1].isalnum() and not after
        self.pieces.append(f"{before}{content}{after}")
        return True
