"""The words of a text, counted by script, and the minutes that it takes to read them."""

import math
import re
from functools import cache
from typing import Final

__all__ = ["count_words", "words_and_minutes"]

WORDS_PER_MINUTE: Final = 230
"""Adults read 228 words of English a minute, in silence: Trauzettel-Klosinski and Dietz, 2012."""
IDEOGRAPHS_PER_MINUTE: Final = 500

_IDEOGRAPHS: Final = (
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Han, Kana and Bopomofo: scripts in which each character is counted as a word."""

_UNSPACED: Final = (
    ("\u0e00-\u0e7f", 4.7),  # Thai
    ("\u0e80-\u0eff", 4.4),  # Lao
    ("\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f", 6.0),  # Burmese
    ("\u1780-\u17d3\u17d7-\u17ff", 5.0),  # Khmer
)
"""Scripts that put spaces between phrases only, with code points a word: those of article 1 of the
Universal Declaration of Human Rights, its words parted by hand. Their digits count too."""

_MARKS: Final = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07a6-\u07b0"
    "\u08d3-\u0963\u0966-\u0dff\u0f18\u0f19\u0f35-\u0f39\u0f3e\u0f3f\u0f71-\u0f84\u0f8d-\u0fbc"
    "\u1dc0-\u1dff\u200c\u200d\u20d0-\u20f0\ufe20-\ufe2f"
)
"""Marks and joiners inside words, which ``\\w`` leaves out: vowels of Indic scripts, accents."""

_OTHER: Final = _IDEOGRAPHS + "".join(letters for letters, _ in _UNSPACED)
_WORD: Final = (
    rf"[^\W{_OTHER}][^\W{_OTHER}{_MARKS}]*(?:[{_MARKS}]+[^\W{_OTHER}{_MARKS}]*)*"
    rf"(?:['’][^\W\d_{_OTHER}]+)?"
)
_IDEOGRAPH: Final = f"[{_IDEOGRAPHS}]"
_UNSPACED_RUNS: Final = tuple((re.compile(f"[{letters}]+"), size) for letters, size in _UNSPACED)
_UNSPACED_ANY: Final = re.compile(f"[{''.join(letters for letters, _ in _UNSPACED)}]")

_CODEC: Final = "cp1252"
"""A byte for each character of western languages, and for the quotation marks and dashes of all:
262 of 325 real texts beyond ASCII are written in it, and most others but for a few signs."""


def _classes(codec: str, letter: bytes, figure: bytes, apostrophe: bytes) -> bytes:
    """A table for ``bytes.translate``: the class of each character of a codec, else a space."""
    table = bytearray(b" " * 256)
    for byte in range(256):
        character = bytes([byte]).decode(codec, "ignore")
        if character in ("'", "’"):
            table[byte] = apostrophe[0]
        elif re.match(r"[^\W\d_]", character) is not None:
            table[byte] = letter[0]
        elif re.match(r"\w", character) is not None:
            table[byte] = figure[0]
    return bytes(table)


_PLAIN_CODEC: Final = "latin-1"
"""Written in a seventh of the time of `_CODEC`; of 407 texts 329, but for the next signs."""
_PLAINER: Final = (
    ("’", "'"), ("‘", '"'), ("“", '"'), ("”", '"'), ("–", "-"), ("—", "-"), ("…", "."), ("•", "-"),
)  # fmt: skip
_TABLES: Final = {
    codec: (_classes(codec, b"a", b"a", b" "), _classes(codec, b"a", b"0", b"'"))
    for codec in (_CODEC, _PLAIN_CODEC)
}
"""For each: what parts words, and what tells where an apostrophe joins them."""
_JOINED: Final = re.compile(rb"'(?<=[a0]')a++(?!0)'?")
"""What `_WORD` takes as one word, and the first table parts: letters after an apostrophe that end
it. The search for a pattern is quick if it begins with a plain character."""
_WESTERN: Final = "".join(
    character
    for character in bytes(range(128, 256)).decode(_CODEC, "ignore")
    if re.match(r"\w", character) is not None
)
_UNWESTERN: Final = (
    rf"[^\W\x00-\x7f{_WESTERN}]",
    f"[{_MARKS}{_OTHER}]",  # not all of these are letters to ``\w``
)

# What is asked of texts beyond `_CODEC` only is compiled with the first of them: such classes take
# 12 of the 330 ms that a server needs to start, and as much of each worker.
_compiled: Final = cache(re.compile)


def count_words(text: str) -> int:
    """Words, by script.

    Each Han, Kana or Bopomofo character is one; in Thai, Lao, Burmese and Khmer, which need a
    dictionary to be parted, their number is estimated from that of the characters.
    """
    return words_and_minutes(text)[0]


def words_and_minutes(text: str) -> tuple[int, int]:
    """`count_words`, and the minutes that it takes to read them: at 230 words, or 500 ideographs or
    Kana, a minute; 0 for no text.
    """
    words = _count_western(text)
    ideographs = 0
    if words is None:
        ideographs = len(_compiled(_IDEOGRAPH).findall(text))
        words = len(_compiled(_WORD).findall(text)) + ideographs
        if _UNSPACED_ANY.search(text) is not None:
            for pattern, size in _UNSPACED_RUNS:
                words += math.ceil(sum(map(len, pattern.findall(text))) / size)
    if not words:
        return 0, 0
    minutes = (words - ideographs) / WORDS_PER_MINUTE + ideographs / IDEOGRAPHS_PER_MINUTE
    return words, max(1, round(minutes))


def _count_western(text: str) -> int | None:
    """The words of a text that loses none in `_CODEC`, else None: as `_WORD` would find them, in a
    twentieth of the time."""
    codec = _PLAIN_CODEC
    encoded = _plain(text)
    if encoded is None:
        codec = _CODEC
        encoded = _western(text)
    if encoded is None:
        return None
    spaced, classes = _TABLES[codec]
    words = (b" " + encoded.translate(spaced)).count(b" a")
    return words - len(_JOINED.findall(encoded.translate(classes)))


def _plain(text: str) -> bytes | None:
    """The text in `_PLAIN_CODEC`, with plainer signs for those of typography; None if it has others
    beyond it."""
    if not text.isascii():
        for sign, plain in _PLAINER:
            text = text.replace(sign, plain)
    try:
        return text.encode(_PLAIN_CODEC)
    except UnicodeEncodeError:
        return None


def _western(text: str) -> bytes | None:
    """The text in `_CODEC`, a "?" for each sign beyond it; None if that would lose letters."""
    try:
        return text.encode(_CODEC)
    except UnicodeEncodeError as error:
        if any(_compiled(letters).search(text, error.start) for letters in _UNWESTERN):
            return None
    return text.encode(_CODEC, "replace")
