"""Plain text: blocks joined by newlines, made of visible characters only."""

import html
import re
from typing import Final

from eventmesh_trio.pipeline.extract.outline import Outline

__all__ = ["as_markup", "clean", "count_words", "cut", "plain_text", "reading_minutes"]

WORDS_PER_MINUTE: Final = 230
IDEOGRAPHS_PER_MINUTE: Final = 500

_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Controls, soft hyphens, zero-width spaces, bidirectional controls, lone surrogates. The joiners
U+200C and U+200D stay: Persian, Indic scripts and emoji are spelled with them."""
_WORD: Final = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    r"|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+(?:['’][^\W\d_]+)?"
)
_IDEOGRAPH: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


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
    if _INVISIBLE.search(text) is not None:
        text = _INVISIBLE.sub("", text)
    return text.replace("\u2028", "\n").replace("\u2029", "\n")


def plain_text(page: Outline, kept: list[int]) -> str:
    """The blocks' text, one to a line."""
    return clean("\n".join(page.blocks[i].text for i in kept if page.blocks[i].text))


def count_words(text: str) -> int:
    """Words; in scripts written without spaces (Han, Kana) each character counts as one."""
    return sum(1 for _ in _WORD.finditer(text))


def reading_minutes(text: str, words: int) -> int:
    """Minutes to read at 230 words, or 500 Han or Kana characters, a minute; 0 for no text."""
    if not words:
        return 0
    ideographs = sum(1 for _ in _IDEOGRAPH.finditer(text))
    minutes = (words - ideographs) / WORDS_PER_MINUTE + ideographs / IDEOGRAPHS_PER_MINUTE
    return max(1, round(minutes))


def cut(text: str, limit: int | None) -> tuple[str, bool]:
    """At most ``limit`` characters, cut at the end of a line or word if near; and whether cut."""
    if limit is None or len(text) <= limit:
        return text, False
    head = text[:limit]
    for separators, reach in (("\n", limit // 5), (" \n", 40)):
        at = max(head.rfind(separator, max(0, limit - reach)) for separator in separators)
        if at > 0:
            return head[:at].rstrip(), True
    return head.rstrip(), True
