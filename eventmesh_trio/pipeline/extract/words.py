"""The words of a text, counted by script, and the minutes that it takes to read them."""

import math
import re
from functools import cache
from typing import Final

__all__ = ["count_words", "reading_minutes"]

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


def _classes(letter: bytes, figure: bytes, apostrophe: bytes) -> bytes:
    """A table for ``bytes.translate``: the class of each character of `_CODEC`, else a space."""
    table = bytearray(b" " * 256)
    for byte in range(256):
        character = bytes([byte]).decode(_CODEC, "ignore")
        if character in ("'", "’"):
            table[byte] = apostrophe[0]
        elif re.match(r"[^\W\d_]", character) is not None:
            table[byte] = letter[0]
        elif re.match(r"\w", character) is not None:
            table[byte] = figure[0]
    return bytes(table)


_SPACED: Final = _classes(b"a", b"a", b" ")
_CLASSES: Final = _classes(b"a", b"0", b"'")
_JOINED: Final = re.compile(rb"'(?<=[a0]')a++(?!0)'?")
"""What `_WORD` takes as one word, and `_SPACED` parts: letters after an apostrophe that end it. The
search for a pattern is quick if it begins with a plain character."""
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
    encoded = _western(text)
    if encoded is not None:
        # As `_WORD` would find them, in a tenth of the time.
        words = (b" " + encoded.translate(_SPACED)).count(b" a")
        return words - len(_JOINED.findall(encoded.translate(_CLASSES)))
    words = len(_compiled(_WORD).findall(text)) + len(_compiled(_IDEOGRAPH).findall(text))
    if _UNSPACED_ANY.search(text) is not None:
        for pattern, size in _UNSPACED_RUNS:
            words += math.ceil(sum(map(len, pattern.findall(text))) / size)
    return words


def reading_minutes(text: str, words: int) -> int:
    """Minutes to read at 230 words, or 500 ideographs or Kana, a minute; 0 for no text."""
    if not words:
        return 0
    ideographs = 0 if _western(text) is not None else len(_compiled(_IDEOGRAPH).findall(text))
    minutes = (words - ideographs) / WORDS_PER_MINUTE + ideographs / IDEOGRAPHS_PER_MINUTE
    return max(1, round(minutes))


def _western(text: str) -> bytes | None:
    """The text in `_CODEC`, a "?" for each sign beyond it; None if that would lose letters."""
    try:
        return text.encode(_CODEC)
    except UnicodeEncodeError as error:
        if any(_compiled(letters).search(text, error.start) for letters in _UNWESTERN):
            return None
    return text.encode(_CODEC, "replace")
