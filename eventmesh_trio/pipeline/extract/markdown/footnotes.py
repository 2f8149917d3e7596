"""Footnotes: which links are references to notes, and which elements are the notes.

A reference is a link to another place of the page whose text is a number or a sign. Its note is the
element that this address names, when it stands behind the reference among the kept blocks and
either links back or is called a note by its id, class or role.
"""

import re
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.links import anchor_of
from eventmesh_trio.pipeline.extract.page.outline import Mark, Outline

__all__ = ["Footnotes", "find_footnotes", "without_backlinks"]

_MARKER: Final = re.compile(r"[\[(]?\s*(?:(?:note|fn)\s+)?(\w{1,4}|[*†‡§¶]{1,3})\s*[\])]?\.?", re.I)
_LABEL: Final = re.compile(r"[0-9A-Za-z]{1,4}")
_NOTE_NAME: Final = re.compile(
    r"foot-?note|end-?note|cite[_-]note|^_?(?:ftn|edn|fn|en|sdfootnote|note)[-_:.]?\w*\d|references"
)
_NOTE_ROLES: Final = frozenset(("doc-footnote", "doc-endnote", "note"))
_HOLDERS: Final = frozenset(
    ("li", "p", "div", "dd", "dt", "tr", "td", "aside", "section", "blockquote")
)
# Arrows that lead back to the text, and the brackets and signs around a number.
_BACK_SIGN: Final = r"[\s\ufe0e\ufe0f\[\]().:^\u2191\u21a9\u21b5\u2934\u23ce\u21b0\u21a5]*"
_BACKLINK: Final = re.compile(
    rf"{_BACK_SIGN}(?:[a-z]{{1,2}}|\d{{1,4}}|jump (?:up|back)(?: to:?)?|back|return)?{_BACK_SIGN}",
    re.IGNORECASE,
)
_LEADING: Final = re.compile(r"\A[\s^\u2191]+")


@attrs.frozen
class Footnotes:
    """What was found on one page.

    ``labels`` by the anchor that references name; ``nodes`` are the labels of elements that are
    notes, and ``blocks`` those of single blocks, by their index.
    """

    labels: dict[str, str]
    nodes: dict[int, str]
    blocks: dict[int, str]


_NONE: Final = Footnotes({}, {}, {})


def find_footnotes(page: Outline, kept: list[int], base: str | None) -> Footnotes:
    """The notes of some blocks. Costs next to nothing on a page without references."""
    references = _references(page, kept, base)
    if not references:
        return _NONE
    holders = _holders(page, kept, references, base)
    labels: dict[str, str] = {}
    nodes: dict[int, str] = {}
    blocks: dict[int, str] = {}
    used: set[str] = set()
    for anchor, (block_index, marker) in references.items():
        holder = holders.get(anchor)
        if holder is None or anchor in labels:
            continue
        kind, index, first = holder
        if first <= block_index or index in (nodes if kind == "node" else blocks):
            continue
        label = marker if _LABEL.fullmatch(marker) and marker not in used else ""
        number = len(used) + 1
        while not label:
            label = str(number) if str(number) not in used else ""
            number += 1
        used.add(label)
        labels[anchor] = label
        (nodes if kind == "node" else blocks)[index] = label
    return Footnotes(labels, nodes, blocks) if labels else _NONE


def _references(page: Outline, kept: list[int], base: str | None) -> dict[str, tuple[int, str]]:
    """Anchors that a link with a marker for text names: the block of the first link, its marker."""
    found: dict[str, tuple[int, str]] = {}
    blocks = page.blocks
    for index in kept:
        block = blocks[index]
        if not block.links or block.tag == "pre":
            continue
        anchor = ""
        text: list[str] = []
        for part in block.parts:
            if isinstance(part, str):
                if anchor:
                    text.append(part)
            elif part[0] == "a":
                anchor = anchor_of(part[1], base) if "#" in part[1] else ""
                text = []
            elif anchor and part[0] == "/a":
                match = _MARKER.fullmatch("".join(text).strip())
                if match is not None:
                    found.setdefault(anchor, (index, match[1]))
                anchor = ""
    return found


def _holders(
    page: Outline, kept: list[int], wanted: dict[str, tuple[int, str]], base: str | None
) -> dict[str, tuple[str, int, int]]:
    """For anchors, what holds the note: kind ("node" or "block"), index, first block."""
    found: dict[str, tuple[str, int, int]] = {}
    nodes, blocks = page.nodes, page.blocks
    for number, node in enumerate(nodes):
        anchor = node.attributes.get("id") if node.attributes else None
        if not anchor or anchor not in wanted or anchor in found or node.tag not in _HOLDERS:
            continue
        if node.end_block > node.first_block and _is_note(page, number, anchor, base):
            found[anchor] = ("node", number, node.first_block)
    for index in kept:
        block = blocks[index]
        if block.tag == "pre":
            continue
        for part in block.parts[:3]:  # an anchor in front of the note's words
            if isinstance(part, str):
                continue
            anchor = part[2] if part[0] == "a" else part[1] if part[0] == "id" else ""
            if not anchor or anchor not in wanted or anchor in found:
                continue
            if _links_back(block.parts, base) or _NOTE_NAME.search(anchor.lower()):
                found[anchor] = ("block", index, index)
    return found


def _is_note(page: Outline, number: int, anchor: str, base: str | None) -> bool:
    node = page.nodes[number]
    if _NOTE_NAME.search(anchor.lower()) or node.attributes.get("role") in _NOTE_ROLES:
        return True
    parent = node.parent
    for _ in range(2):
        if parent < 0:
            break
        if _NOTE_NAME.search((page.nodes[parent].attributes.get("class") or "").lower()):
            return True
        parent = page.nodes[parent].parent
    last = page.blocks[node.end_block - 1]
    return _links_back(page.blocks[node.first_block].parts, base) or _links_back(last.parts, base)


def _links_back(parts: list[str | Mark], base: str | None) -> bool:
    return any(not isinstance(p, str) and p[0] == "a" and anchor_of(p[1], base) for p in parts)


def without_backlinks(
    parts: list[str | Mark], base: str | None, *, first: bool
) -> list[str | Mark]:
    """A note's parts without its links back to the text; ``first``: they begin the note."""
    found: list[str | Mark] = []
    position = 0
    while position < len(parts):
        part = parts[position]
        position += 1
        if not isinstance(part, str) and part[0] == "a" and anchor_of(part[1], base):
            end = position
            while end < len(parts) and parts[end] != ("/a", "", ""):
                end += 1
            text = "".join(p for p in parts[position:end] if isinstance(p, str))
            if _BACKLINK.fullmatch(text) is not None:
                position = end + 1
                continue
        found.append(part)
    if first:
        for number, part in enumerate(found):
            if isinstance(part, str):
                found[number] = words = _LEADING.sub("", part) if part[:1] in " ^\u2191\n" else part
                if words:
                    break
    return found
