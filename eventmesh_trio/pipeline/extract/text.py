"""Plain text: blocks as a browser copies them, made of visible characters only."""

import html
import re
from typing import Final

import msgspec

from eventmesh_trio.pipeline.extract.page.outline import Block, Mark, Outline

__all__ = ["as_markup", "clean", "cut", "plain_text"]

MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""What text, and what Markdown, may be as JSON, and half of what each may be in memory (Python has
four bytes for every character of a text with one emoji). The server holds a document several times
while it passes through, and encodes it in one go; and a message of more than 10 MiB would be cut
all the same."""

MAX_HTML_BYTES: Final = 2 * MAX_TEXT_BYTES
"""Likewise of a page that is asked for as it is, which has neither text nor Markdown."""

_SUP: Final = ("sup", "", "")
_BREAK: Final = "\x1f"  # stands for a line break while white space is collapsed
_REFERENCE: Final = re.compile(r"\s*\d{1,3}(?:\s*,\s*\d{1,3})*\s*")
_CELLS: Final = frozenset(("td", "th"))

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Controls, soft hyphens, zero-width spaces, bidirectional controls, lone surrogates. The joiners
U+200C and U+200D stay: Persian, Indic scripts and emoji are spelled with them."""

_TO_CLEAN: Final = re.compile(_INVISIBLE.pattern[:-1] + "\u2028\u2029]")
_VISIBLE: Final = bytes(range(0x20, 0x7F)) + b"\t\n"
"""Characters of ASCII that stay. A pattern takes three times as long to look for what is beside
them in all of a text as to look for it in what is left when these are taken out."""


def as_markup(text: str) -> str:
    """Plain text as HTML: a paragraph for what blank lines separate, its lines kept."""
    paragraphs = re.split(r"\n[ \t]*\n\s*", text.replace("\r\n", "\n"))
    return "".join(
        f"<p>{html.escape(p).replace(chr(10), '<br>')}</p>" for p in paragraphs if p.strip()
    )


def clean(text: str) -> str:
    """Take out what cannot be seen; it carries no meaning, and can hide some.

    Unicode's own line and paragraph separators become LF. A client that cuts NDJSON with
    ``str.splitlines`` would cut at them, within a line.
    """
    if text.isprintable():
        return text
    beside = text.encode("utf-8", "surrogatepass").translate(None, _VISIBLE)
    if not beside or _TO_CLEAN.search(beside.decode("utf-8", "surrogatepass")) is None:
        return text
    text = _INVISIBLE.sub("", text)
    return text.replace("\u2028", "\n").replace("\u2029", "\n")


def plain_text(page: Outline, kept: list[int]) -> str:
    """The blocks' text, with the white space that a browser copies.

    A blank line around a paragraph and between what two line breaks in a row part; a tab between
    the cells of a row; else a line each.
    Source: https://html.spec.whatwg.org/multipage/dom.html#the-innertext-idl-attribute
    """
    nodes = page.nodes
    pieces: list[str] = []
    last: Block | None = None
    last_index = -1
    for index in kept:
        block = page.blocks[index]
        text = block.text
        if block.links and _SUP in block.parts and block.tag != "pre":
            text = _without_references(block.parts)
        if not text:
            continue
        if last is not None:
            if block.tag == "p" or last.tag == "p":
                pieces.append("\n\n")
            elif block.node == last.node:
                pieces.append("\n\n" if index == last_index + 1 else "\n")
            elif (
                block.tag in _CELLS
                and last.tag in _CELLS
                and nodes[block.node].parent == nodes[last.node].parent
            ):
                pieces.append("\t")
            else:
                pieces.append("\n")
        pieces.append(text)
        last, last_index = block, index
    return clean("".join(pieces))


def _without_references(parts: list[str | Mark]) -> str:
    """A block's text without raised numbers that lead to notes: they are no part of a word.

    A number in brackets is told from the word before it, and stays.
    """
    words: list[str] = []
    raised: list[str] | None = None  # since the last ``sup`` began
    is_link = in_link = False
    for part in parts:
        if isinstance(part, str):
            (words if raised is None else raised).append(part)
            continue
        name = part[0]
        if name == "a":
            in_link = "#" in part[1]
            is_link = is_link or in_link
        elif name == "/a":
            in_link = False
        elif name == "br":
            (words if raised is None else raised).append(_BREAK)
        elif name == "sup" and raised is None:
            raised, is_link = [], in_link
        elif name == "/sup" and raised is not None:
            text = "".join(raised)
            if not is_link or _REFERENCE.fullmatch(text) is None:
                words.append(text)
            raised = None
    lines = [" ".join(line.split()) for line in "".join([*words, *(raised or ())]).split(_BREAK)]
    return "\n".join([line for line in lines if line])


def cut(text: str, limit: int | None, max_bytes: int = MAX_TEXT_BYTES) -> tuple[str, bool]:
    """At most ``limit`` characters, and ``max_bytes`` as JSON; and whether it was cut.

    It is cut at the end of a line or word if one is near.
    """
    most = _most_characters(text, max_bytes)
    limit = most if limit is None else min(limit, most)
    if len(text) <= limit:
        return text, False
    head = text[:limit]
    for separators, reach in (("\n", limit // 5), (" \n", 40)):
        at = max(head.rfind(separator, max(0, limit - reach)) for separator in separators)
        if at > 0:
            return head[:at].rstrip(), True
    return head.rstrip(), True


def _most_characters(text: str, max_bytes: int) -> int:
    """How many characters of a text are within ``max_bytes`` as JSON, and twice that in memory."""
    if len(text) <= max_bytes // 6:  # all of them written as escapes, at worst
        return len(text)
    widest = 4 if ord(max(text)) > 0xFFFF else 2
    head = text[: 2 * max_bytes // widest]
    while (size := len(msgspec.json.encode(_encodable(head)))) > max_bytes:
        # What is written as escapes may stand at the front: then more rounds are needed.
        head = head[: len(head) * max_bytes // (size + size // 64)]
    return len(head)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
