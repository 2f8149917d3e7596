"""Inline content whose marks cannot disturb each other, written without the detour over runs.

That is text, links, images and breaks, and emphasis and code that nest in nothing but a link that
they fill. Nine of ten blocks are so, and the detour takes five times as long. Where it would write
something else, or might, nothing is written here.
"""

import re
from collections.abc import Sequence
from typing import Final, Protocol

from eventmesh_trio.pipeline.extract.links import absolute, anchor_of
from eventmesh_trio.pipeline.extract.markdown.escaping import escape, escape_destination
from eventmesh_trio.pipeline.extract.page.outline import Mark
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["write_directly"]

_SPACES: Final = re.compile(r" {2,}")
_OPENING: Final = {"b": "**", "i": "*", "code": "`"}
_CLOSING: Final = {"/" + name: sign for name, sign in _OPENING.items()}
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
    page: Page, parts: Sequence[str | Mark], hard_break: str, *, uniform: bool
) -> str | None:
    """Markdown of a block's parts, or None where it takes runs.

    Args:
      hard_break: what a line break becomes.
      uniform: bold that covers everything is left out.
    """
    text = "".join([part for part in parts if isinstance(part, str)])
    if not text.isprintable():
        if clean(text) is not text:
            return None
        parts = [
            _spaced(part) if isinstance(part, str) and not part.isprintable() else part
            for part in parts
        ]
    if "`" in text or "~" in text:
        return None
    if uniform and _BOLD in parts:
        inner = _without_bold(parts)
        if inner is None:
            return None
        parts = inner
    return _Line(page, hard_break, text).write(parts)


def _spaced(text: str) -> str:
    """White space as a browser shows it; `re.sub` takes three times as long."""
    words = " ".join(text.split())
    if not words:
        return " "
    before = " " if text[0].isspace() else ""
    return f"{before}{words} " if text[-1].isspace() else before + words


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
    """One line of Markdown, and those before it."""

    def __init__(self, page: Page, hard_break: str, text: str) -> None:
        self.page = page
        self.hard_break = hard_break
        self.text = text  # all of the block
        self._simple: bool | None = None
        self.lines: list[str] = []
        self.pieces: list[str] = []
        self.words: list[str] = []
        self.address: str | None = None
        self.label: list[str] = []  # of the open link: what is finished
        self.sign = ""  # of the mark that is open
        self.inside = False  # a link is all that the mark holds, or the mark all that the link does
        self.sealed = False  # no words may come before the link ends, or the mark
        self.touching = False  # nothing but space since a mark ended
        self.waiting = False  # what comes next must be a space

    @property
    def simple(self) -> bool:
        """Whether nothing in the text is escaped, or not, by the white space beside it."""
        simple = self._simple
        if simple is None:
            simple = self._simple = _CONTEXTUAL.search(self.text) is None
        return simple

    def write(self, parts: Sequence[str | Mark]) -> str | None:
        words = self.words
        for part in parts:
            if isinstance(part, str):
                if not part:
                    continue
                if self.waiting:
                    if part[0] != " ":
                        return None
                    self.waiting = False
                if not part.isspace():
                    if self.sealed:
                        return None
                    self.touching = False
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
            elif name in _OPENING:
                if not self.open_mark(_OPENING[name]):
                    return None
            elif name in _CLOSING:
                if self.sign != _CLOSING[name] or not self.close_mark():
                    return None
            elif name == "br":
                if self.address is not None or self.sign or not self.simple:
                    return None
                self.put_words()
                self.lines.append(self.line())
                self.pieces.clear()
                self.waiting = False
            elif name != "id":
                return None
        if self.sign and not self.close_mark():
            return None
        if self.address is not None and not self.close_link():
            return None
        self.put_words()
        if not self.lines:
            return self.line()
        self.lines.append(self.line())
        return self.hard_break.join([line for line in self.lines if line])

    def line(self) -> str:
        content = "".join(self.pieces).strip(" ")
        return _SPACES.sub(" ", content) if "  " in content else content

    def last(self) -> str:
        """The character that stands last in the line."""
        return next((piece[-1] for piece in reversed(self.pieces) if piece), "")

    def taken(self) -> str:
        """The words since the last mark."""
        words = self.words
        if not words:
            return ""
        text = words[0] if len(words) == 1 else "".join(words)
        words.clear()
        return text

    def put_words(self) -> None:
        if self.words:
            self.pieces.append(escape(self.taken()))

    def open_link(self, href: str) -> bool:
        page = self.page
        if "#" in href and page.is_note(anchor_of(href, page.base)):
            return False
        if self.waiting or self.address is not None:
            return False
        address = absolute(href, page.base, clickable=True)
        if self.sign:
            if address is None:
                return True
            if self.words:
                return False
            self.inside = True
        elif address is not None:
            self.put_words()
        self.address = address
        return True

    def close_link(self) -> bool:
        if self.inside and self.sign:  # the mark around the link ends next
            self.sealed = True
            return True
        if self.sign:
            return False
        address = self.address or ""
        text = self.taken()
        if self.label:
            self.label.append(escape(text, label=True))
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
        words = label.strip(" ")
        if not words:
            pieces.append(" ")
            return
        if label[0] == " ":
            pieces.append(" ")
        elif pieces and pieces[-1][-1:] == "!":
            pieces[-1] = pieces[-1][:-1] + "\\!"  # or the link would be an image
        if page_text:
            words = escape(words, label=True)
        pieces.append(f"[{words}]({escape_destination(address)})")
        if label[-1] == " ":
            pieces.append(" ")

    def add_image(self, address: str, label: str) -> bool:
        if self.sign or self.sealed or self.waiting or "`" in label or "~" in label:
            return False
        image = self.page.image(address, label)
        if not image:
            return True
        if self.address is None:
            self.pieces += (escape(self.taken()), image)
        elif not self.simple:
            return False
        else:
            self.label += (escape(self.taken(), label=True), image)
        return True

    def open_mark(self, sign: str) -> bool:
        if self.sign or self.touching or self.sealed or self.waiting or not self.simple:
            return False
        if self.address is None:
            self.put_words()
        elif self.label or "".join(self.words).strip():
            return False
        else:
            self.inside = True
        self.sign = sign
        return True

    def close_mark(self) -> bool:
        """Put words in a pair of signs. False where Markdown might not see these, or has none."""
        sign = self.sign
        text = self.taken()
        words = text.strip(" ")
        if not words:
            if text or self.inside:
                return False
            self.sign = ""  # a mark around nothing, as icons are drawn
            return self.last() != "]"
        self.sign = ""
        self.touching = True
        content = f"{sign}{words if sign == '`' else escape(words, label=self.inside)}{sign}"
        before = " " if text[0] == " " else ""
        after = " " if text[-1] == " " else ""
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
        if sign != "`":
            if not (words[0].isalnum() or before or self.last() in ("", " ")):
                return False
            self.waiting = not words[-1].isalnum() and not after
        self.pieces.append(f"{before}{content}{after}")
        return True
