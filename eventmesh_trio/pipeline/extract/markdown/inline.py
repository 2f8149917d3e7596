"""Inline content as Markdown: emphasis, links, images, code, formulas, notes, line breaks.

The parts of a block become `runs`, each with the marks it stands in; `signs` puts them together.
Most blocks need neither: `direct` writes them.

Source: https://spec.commonmark.org/0.31.2/#inlines
"""

from collections.abc import Mapping, Sequence
from typing import Final

from eventmesh_trio.pipeline.extract.links import absolute, anchor_of, resolved
from eventmesh_trio.pipeline.extract.markdown.direct import write_directly
from eventmesh_trio.pipeline.extract.markdown.escaping import (
    escape,
    escape_block,
    escape_destination,
)
from eventmesh_trio.pipeline.extract.markdown.runs import (
    BOLD,
    ITALIC,
    LINK,
    STRUCK,
    SUB,
    SUP,
    Run,
    normalised,
)
from eventmesh_trio.pipeline.extract.markdown.signs import signed
from eventmesh_trio.pipeline.extract.page.outline import Mark
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["BOLD", "InlineWriter"]

_HARD_BREAK: Final = "  \n"

_BLANKS: Final = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x1f\x85"), " ")
"""They separate words for `str.split`, and so in a document's text."""
_BITS: Final = {"b": BOLD, "i": ITALIC, "s": STRUCK, "sup": SUP, "sub": SUB}


class InlineWriter:
    """Writes the inline content of one page.

    Args:
      base: what relative addresses are relative to.
      notes: anchors of footnotes and their labels.
    """

    def __init__(self, base: str | None, notes: Mapping[str, str]) -> None:
        self.base = base
        self.notes = notes

    def write(
        self,
        parts: Sequence[str | Mark],
        *,
        forced: int = 0,
        uniform: bool = False,
        hard_break: str = _HARD_BREAK,
        text: str | None = None,
    ) -> str:
        """Markdown of a block's parts, in one line but for hard breaks.

        Args:
          forced: marks that hold for all of it (``BOLD`` or 0).
          uniform: bold that covers everything is left out (a heading is bold by itself).
          hard_break: what a line break becomes.
          text: that of the parts, if it is at hand.
        """
        if len(parts) == 1 and isinstance(parts[0], str) and not forced:
            return escape_block(" ".join(_seen(parts[0]).split()))
        if not forced:
            found = write_directly(self, parts, hard_break, uniform=uniform, text=text)
            if found is not None:
                return found
        reader = _Reader(self, forced)
        reader.read(parts)
        runs = normalised(reader.runs)
        if uniform and all(run.marks & BOLD or run.kind == "break" for run in runs):
            for run in runs:
                run.marks &= ~BOLD
        return signed(runs, reader.links, hard_break, paired=reader.signs > 1)

    def is_note(self, anchor: str) -> bool:
        """Whether an address within the page is that of a footnote."""
        return anchor in self.notes

    def image(self, address: str, label: str) -> str:
        """An image, or "" without an address that can be used."""
        source = absolute(address, self.base)
        if source is None:
            return ""
        alt = escape(" ".join(_seen(label).split()), label=True) if label else ""
        return f"![{alt}]({escape_destination(source)})"


def _seen(text: str) -> str:
    """What is visible of a text, with the white space that is in it."""
    return text if text.isprintable() else clean(text.translate(_BLANKS))


class _Reader:
    """Reads the parts of one block. A mark that is opened elsewhere or not closed is no harm."""

    def __init__(self, writer: InlineWriter, forced: int) -> None:
        self.writer = writer
        self.forced = forced
        self.runs: list[Run] = []
        self.links = [""]  # destinations, by number
        self.depths = dict.fromkeys(_BITS, 0)
        self.marks = forced
        self.link = 0
        self.code = 0
        self.formula = False
        self.note = False  # inside a link that became a reference to a note
        self.signs = 0  # backticks and tildes

    def read(self, parts: Sequence[str | Mark]) -> None:
        for part in parts:
            if isinstance(part, str):
                if part and not self.formula and not self.note:
                    self.text(_seen(part))
            elif part[0] == "/a":
                self.link = 0
                self.marks &= ~LINK
                self.note = False
            elif not self.note:
                self.mark(*part)

    def text(self, text: str) -> None:
        if self.code:
            self.signs = 2
            self.runs.append(Run("code", text, self.marks, self.link))
        else:
            self.signs += text.count("`") + text.count("~")
            self.runs.append(Run("text", text, self.marks, self.link))

    def mark(self, name: str, value: str, label: str) -> None:
        opened = name.lstrip("/")
        if opened in _BITS:
            self.toggle(opened, 1 if opened == name else -1)
        elif name == "a":
            self.open_link(value)
        elif opened == "code":
            self.code = max(0, self.code + (1 if opened == name else -1))
        elif name == "br":
            if self.code:
                self.runs.append(Run("code", " ", self.marks, self.link))
            else:
                self.runs.append(Run("break", "", self.marks, self.link))
        elif name == "img":
            image = "" if self.code else self.writer.image(value, label)
            if image:
                self.signs += label.count("`") + label.count("~")
                self.atom(image)
        elif opened == "math":
            self.formula = opened == name
            if self.formula:
                tex = " ".join(clean(value).split())
                self.atom(f"$${tex}$$" if label else f"${tex}$")

    def toggle(self, name: str, step: int) -> None:
        bit = _BITS[name]
        self.depths[name] = max(0, self.depths[name] + step)
        if self.depths[name]:
            self.marks |= bit
        else:
            self.marks &= ~bit | self.forced
        if bit == STRUCK:
            self.signs = 2

    def open_link(self, href: str) -> None:
        anchor = anchor_of(href, self.writer.base) if "#" in href else ""
        note = self.writer.notes.get(anchor) if anchor else None
        if note is not None:
            self.runs.append(Run("atom", f"[^{note}]", self.marks & ~(SUP | ITALIC), 0))
            self.note = True
            return
        address = resolved(href, self.writer.base)
        if address is None or (anchor and self.marks & SUP):  # a reference whose note was not kept
            return
        self.links.append(escape_destination(address))
        self.link = len(self.links) - 1
        self.marks |= LINK

    def atom(self, content: str) -> None:
        self.runs.append(Run("atom", content, self.marks, self.link))
