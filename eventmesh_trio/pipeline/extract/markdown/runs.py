"""Runs of inline content: text, code and finished pieces, each with the marks it stands in.

White space is put as a browser shows it, neighbours with equal marks are joined, and what would
keep Markdown from seeing the sign of a mark (a space, or punctuation that touches a letter) is
moved out of the mark.

Source: https://spec.commonmark.org/0.31.2/#left-flanking-delimiter-run
"""

import re
import unicodedata
from typing import Final

import msgspec

__all__ = [
    "BOLD",
    "EMPHASIS",
    "ITALIC",
    "LINK",
    "STRUCK",
    "SUB",
    "SUP",
    "Run",
    "joined_runs",
    "may_be_punctuation",
    "normalised",
    "without_edge_punctuation",
]

BOLD: Final = 1
ITALIC: Final = 2
STRUCK: Final = 4
SUP: Final = 8
SUB: Final = 16
LINK: Final = 32
EMPHASIS: Final = BOLD | ITALIC | STRUCK
_SPACE: Final = re.compile(r"\s+")
_BRACKETS: Final = frozenset(("Ps", "Pe", "Pi", "Pf"))


class Run(msgspec.Struct, eq=False, gc=False):
    """``content`` is page text for ``text``, else finished Markdown."""

    kind: str  # "text", "code", "atom" or "break"
    content: str
    marks: int
    link: int = 0  # number of the link it stands in


def normalised(runs: list[Run]) -> list[Run]:
    """White space as a browser shows it; equal neighbours joined; spaces outside of marks."""
    found: list[Run] = []
    spaced = True  # nothing, a space or a break stands before
    for run in runs:
        if run.kind == "break":
            _strip_end(found)
            if found and found[-1].kind != "break":
                found.append(run)
            spaced = True
        elif run.kind == "atom":
            found.append(run)
            spaced = False
        else:
            text = run.content
            if "  " in text or not text.isprintable():  # else it has single spaces only
                text = _SPACE.sub(" ", text)
            if spaced:
                text = text.lstrip(" ")
            if text:
                spaced = text[-1] == " "
                found.append(Run(run.kind, text, run.marks, run.link))
    _strip_end(found)
    while found and found[-1].kind == "break":
        found.pop()
        _strip_end(found)
    if any(run.marks or run.kind == "code" for run in found):
        return _loosened(joined_runs(found))
    return joined_runs(found)


def _strip_end(runs: list[Run]) -> None:
    while runs and runs[-1].kind in ("text", "code"):
        runs[-1].content = runs[-1].content.rstrip(" ")
        if runs[-1].content:
            return
        runs.pop()


def _loosened(runs: list[Run]) -> list[Run]:
    """White space at the edge of a mark, or of code, moved out of it."""
    found: list[Run] = []
    for number, run in enumerate(runs):
        if run.kind == "break":  # never the first, nor the last
            left, right = runs[number - 1], runs[number + 1]
            run.marks = left.marks & right.marks
            run.link = left.link
            if left.link != right.link:
                run.link = 0
                run.marks &= ~LINK
            found.append(run)
            continue
        content = run.content
        if run.kind == "atom" or (content[0] != " " and content[-1] != " "):
            found.append(run)
            continue
        inner = content.strip(" ")
        before = runs[number - 1] if number else None
        after = runs[number + 1] if number + 1 < len(runs) else None
        if not inner:
            space = _space(before, after)
            space.marks &= run.marks
            space.link = run.link if space.marks & LINK else 0
            found.append(space)
            continue
        if content[0] == " ":
            found.append(_space(before, run))
        found.append(Run(run.kind, inner, run.marks, run.link))
        if content[-1] == " ":
            found.append(_space(run, after))
    return joined_runs(found)


def joined_runs(runs: list[Run]) -> list[Run]:
    """Neighbours of one kind, with equal marks and in one link, made one."""
    found: list[Run] = []
    start = 0
    while start < len(runs):
        run = runs[start]
        end = start + 1
        if run.kind in ("text", "code"):
            while (
                end < len(runs)
                and runs[end].marks == run.marks
                and runs[end].link == run.link
                and runs[end].kind == run.kind
            ):
                end += 1
            if end > start + 1:
                content = "".join([part.content for part in runs[start:end]])
                run = Run(run.kind, content, run.marks, run.link)
        found.append(run)
        start = end
    return found


def _space(before: Run | None, after: Run | None) -> Run:
    """A space between two runs, in the marks that both have."""
    if before is None or after is None:
        return Run("text", " ", 0)
    marks = before.marks & after.marks
    if before.link != after.link:
        return Run("text", " ", marks & ~LINK)
    return Run("text", " ", marks, before.link)


def may_be_punctuation(character: str) -> bool:
    return character not in ("", " ", "\n") and unicodedata.category(character)[0] in "PS"


def without_edge_punctuation(runs: list[Run]) -> list[Run]:
    """Punctuation at the edge of emphasis that touches a letter outside, moved out of it.

    In ``<b>Note:</b>text`` and with quotation marks in Chinese or Japanese, the sign behind the
    punctuation would be no sign.
    """
    found: list[Run] = []
    for number, run in enumerate(runs):
        if run.kind != "text" or not run.marks & EMPHASIS:
            found.append(run)
            continue
        content = run.content
        before = runs[number - 1] if number else None
        after = runs[number + 1] if number + 1 < len(runs) else None
        start, end = 0, len(content)
        if before is not None and _touches(before, run, -1):
            while start < end and (may_be_punctuation(content[start]) or content[start] == " "):
                start += 1
        if after is not None and _touches(after, run, 0):
            while end > start and (may_be_punctuation(content[end - 1]) or content[end - 1] == " "):
                end -= 1
        # Brackets and quotation marks go in pairs.
        if end < len(content) and start == 0 and _pairs(content[0]):
            start = 1 if before is None or before.link == run.link else 0
        elif start and end == len(content) and _pairs(content[-1]):
            end -= 1 if after is None or after.link == run.link else 0
        if start == 0 and end == len(content):
            found.append(run)
            continue
        if start >= end:  # nothing but punctuation, of which emphasis says nothing
            marks = _outside(run, before) & _outside(run, after)
            found.append(Run("text", content, marks, run.link))
            continue
        if start:
            found.append(Run("text", content[:start], _outside(run, before), run.link))
        found.append(Run("text", content[start:end], run.marks, run.link))
        if end < len(content):
            found.append(Run("text", content[end:], _outside(run, after), run.link))
    return joined_runs(found)


def _touches(neighbour: Run, run: Run, edge: int) -> bool:
    """Whether emphasis ends between a run and text beside it that is a letter at that edge."""
    if not run.marks & ~neighbour.marks & EMPHASIS or neighbour.kind != "text":
        return False
    if neighbour.link != run.link:  # a bracket stands between
        return False
    character = neighbour.content[edge]
    return character != " " and not may_be_punctuation(character)


def _pairs(character: str) -> bool:
    return unicodedata.category(character) in _BRACKETS or character in "\"'"


def _outside(run: Run, neighbour: Run | None) -> int:
    """The marks of what leaves a run on the side of a neighbour."""
    return run.marks & ((neighbour.marks if neighbour is not None else 0) | ~EMPHASIS)
