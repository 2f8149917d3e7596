"""Signs between runs: where marks begin and end, written so that Markdown reads them.

Signs nest; of marks that begin together the longer is the outer one. A sign that Markdown could not
see where it stands (its neighbours decide, see "left-flanking") is written as an HTML tag.

Source: https://spec.commonmark.org/0.31.2/#emphasis-and-strong-emphasis
"""

import re
import unicodedata
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.markdown.escaping import escape
from eventmesh_trio.pipeline.extract.markdown.runs import (
    BOLD,
    EMPHASIS,
    ITALIC,
    LINK,
    STRUCK,
    SUB,
    SUP,
    Run,
    may_be_punctuation,
    without_edge_punctuation,
)

__all__ = ["code_span", "signed"]

_SIGNS: Final = {BOLD: "**", ITALIC: "*", STRUCK: "~~"}
_TAGS: Final = {BOLD: "strong", ITALIC: "em", STRUCK: "del", SUP: "sup", SUB: "sub"}
# Of marks that begin and end together, the first here is the outermost.
_ORDER: Final = (LINK, SUP, SUB, STRUCK, BOLD, ITALIC)
_TICKS: Final = re.compile(r"`+")
_ROUNDS: Final = 3
"""A sign written as a tag can hide its neighbour's; after this many rounds all become tags."""


def signed(runs: list[Run], links: list[str], hard_break: str, *, paired: bool) -> str:
    """Runs as Markdown.

    Args:
      links: the destination of each link that runs stand in, by its number.
      hard_break: what a line break becomes.
      paired: backticks and tildes may have partners, and are escaped.
    """
    return _Assembly(runs, links, hard_break, paired=paired).text()


def code_span(code: str) -> str:
    """Code in backticks, with as many as it takes."""
    longest = max(map(len, _TICKS.findall(code)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if code[0] == "`" or code[-1] == "`" else ""
    return f"{ticks}{pad}{code}{pad}{ticks}"


@attrs.define(eq=False)
class _Sign:
    """One end of a mark among the pieces of the output."""

    bit: int
    opening: bool
    partner: int = -1  # index of the other end
    tag: bool = False

    def text(self) -> str:
        if self.tag or self.bit not in _SIGNS:
            return f"<{_TAGS[self.bit]}>" if self.opening else f"</{_TAGS[self.bit]}>"
        return _SIGNS[self.bit]


class _Assembly:
    """Runs put together, with signs between them."""

    def __init__(self, runs: list[Run], links: list[str], hard_break: str, *, paired: bool) -> None:
        self.present = 0  # all marks of all runs
        for run in runs:
            self.present |= run.marks
        self.runs = without_edge_punctuation(runs) if self.present & EMPHASIS else runs
        self.links = links
        self.hard_break = hard_break
        self.paired = paired
        self.pieces: list[str | _Sign] = []

    def text(self) -> str:
        if not self.present:
            return "".join([self._content(run) for run in self.runs])
        self._assemble()
        if self.present & EMPHASIS:
            self._make_visible()
        return "".join([p if isinstance(p, str) else p.text() for p in self.pieces])

    def _assemble(self) -> None:
        pieces = self.pieces
        several = self.present & (self.present - 1)
        ends = self._ends(self.present) if several else {}
        stack: list[tuple[int, int, int]] = []  # bit, link, index of the piece that opens it
        last_marks = last_link = 0
        for number, run in enumerate(self.runs):
            if run.marks != last_marks or run.link != last_link:
                keep = 0
                for bit, link, _ in stack:
                    if not run.marks & bit or (bit == LINK and link != run.link):
                        break
                    keep += 1
                while len(stack) > keep:
                    self._close(*stack.pop())
                fresh = []
                if run.marks:
                    held = {bit for bit, _, _ in stack}
                    fresh = [bit for bit in _ORDER if run.marks & bit and bit not in held]
                if len(fresh) > 1:
                    fresh.sort(key=lambda bit: -ends[bit][number])
                for bit in fresh:
                    stack.append((bit, run.link, len(pieces)))
                    self._open(bit)
                last_marks, last_link = run.marks, run.link
            pieces.append(self._content(run))
        while stack:
            self._close(*stack.pop())

    def _ends(self, present: int) -> dict[int, list[int]]:
        """For each bit that is present, and each run, where its stretch with the bit ends."""
        ends: dict[int, list[int]] = {}
        runs = self.runs
        size = len(runs)
        for bit in _ORDER:
            if not present & bit:
                continue
            row = [0] * size
            end = size
            for number in range(size - 1, -1, -1):
                if not runs[number].marks & bit:
                    end = number
                elif (
                    bit == LINK and number + 1 < size and runs[number + 1].link != runs[number].link
                ):
                    end = number + 1
                row[number] = end
            ends[bit] = row
        return ends

    def _open(self, bit: int) -> None:
        pieces = self.pieces
        if bit != LINK:
            pieces.append(_Sign(bit, opening=True))
            return
        if pieces and isinstance(pieces[-1], str) and pieces[-1].endswith("!"):
            pieces[-1] = pieces[-1][:-1] + "\\!"  # or the link would be an image
        pieces.append("[")

    def _close(self, bit: int, link: int, opening: int) -> None:
        if bit == LINK:
            self.pieces.append(f"]({self.links[link]})")
            return
        opener = self.pieces[opening]
        if isinstance(opener, _Sign):
            opener.partner = len(self.pieces)
        self.pieces.append(_Sign(bit, opening=False, partner=opening))

    def _content(self, run: Run) -> str:
        if run.kind == "text":
            return escape(run.content, paired=self.paired, label=bool(run.link))
        if run.kind == "code":
            return code_span(run.content)
        return self.hard_break if run.kind == "break" else run.content

    def _make_visible(self) -> None:
        """Write signs that Markdown would not see where they stand as tags."""
        pieces = self.pieces
        signs = [i for i, piece in enumerate(pieces) if isinstance(piece, _Sign)]
        for round_number in range(_ROUNDS + 1):
            hidden = [i for i in signs if self._is_hidden(i)]
            if not hidden:
                return
            for i in signs if round_number == _ROUNDS else hidden:
                sign = pieces[i]
                if isinstance(sign, _Sign):
                    sign.tag = True
                    partner = pieces[sign.partner]
                    if isinstance(partner, _Sign):
                        partner.tag = True

    def _is_hidden(self, index: int) -> bool:
        sign = self.pieces[index]
        if not isinstance(sign, _Sign) or sign.tag or sign.bit not in _SIGNS:
            return False
        character = sign.text()[0]
        previous = self.pieces[index - 1] if index else None
        if (
            sign.opening
            and isinstance(previous, _Sign)
            and not previous.opening
            and previous.text()[0] == character
        ):
            return True  # one run that closes and opens can be read in two ways
        before = self._neighbour(index, -1, character)
        after = self._neighbour(index, 1, character)
        inner, outer = (after, before) if sign.opening else (before, after)
        if inner in ("", " ", "\n"):
            return True
        return may_be_punctuation(inner) and not (
            outer in ("", " ", "\n") or _is_punctuation(outer)
        )

    def _neighbour(self, index: int, step: int, character: str) -> str:
        """The character next to a delimiter run; signs of the same character are one run."""
        index += step
        while 0 <= index < len(self.pieces):
            piece = self.pieces[index]
            text = piece if isinstance(piece, str) else piece.text()
            if text and (isinstance(piece, str) or text[0] != character):
                return text[0] if step > 0 else text[-1]
            index += step
        return ""


def _is_punctuation(character: str) -> bool:
    # Symbols count as punctuation since CommonMark 0.31; older readers only know ASCII's.
    return unicodedata.category(character)[0] == "P" or (
        character.isascii() and unicodedata.category(character)[0] == "S"
    )
