"""The words of a text, counted by script, and the minutes that it takes to read them."""

import math
import re
from functools import cache, lru_cache
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

_CODEC: Final = "latin-1"
"""It holds all characters of four texts of five, but for the next signs."""
_PLAINER: Final = (
    ("’", "'"), ("‘", '"'), ("“", '"'), ("”", '"'), ("–", "-"), ("—", "-"), ("…", "."), ("•", "-"),
)  # fmt: skip
_MAX_STAND_INS: Final = 32
"""Other characters beyond the codec for which a plain one of their class is set. For each the text
is gone through; with so many, and more, the expression is quicker."""


def _classes(letter: bytes, figure: bytes, apostrophe: bytes) -> bytes:
    """A table for ``bytes.translate``: the class of each character of the codec, else a space."""
    table = bytearray(b" " * 256)
    for byte in range(256):
        character = bytes([byte]).decode(_CODEC)
        if character == "'":
            table[byte] = apostrophe[0]
        elif re.match(r"[^\W\d_]", character) is not None:
            table[byte] = letter[0]
        elif re.match(r"\w", character) is not None:
            table[byte] = figure[0]
    return bytes(table)


_SPACED: Final = _classes(b"a", b"a", b" ")
"""What parts words."""
_CLASSES: Final = _classes(b"a", b"0", b"'")
"""What tells where an apostrophe joins them."""
_JOINED: Final = re.compile(rb"'(?<=[a0]')a++(?!0)'?")
"""What `_WORD` takes as one word, and the first table parts: letters after an apostrophe that end
it. The search for a pattern is quick if it begins with a plain character."""
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
    """The words of a text that is in `_CODEC` but for a few characters, else None: as `_WORD` would
    find them, in a twentieth of the time."""
    encoded = _plain(text)
    if encoded is None:
        return None
    words = (b" " + encoded.translate(_SPACED)).count(b" a")
    return words - len(_JOINED.findall(encoded.translate(_CLASSES)))


def _plain(text: str) -> bytes | None:
    """The text in `_CODEC`, with plainer characters of the same class for some that are beyond it;
    None if there are many of these, or such as are not told by themselves."""
    if not text.isascii():
        for sign, plain in _PLAINER:
            text = text.replace(sign, plain)
    for _ in range(_MAX_STAND_INS):
        try:
            return text.encode(_CODEC)
        except UnicodeEncodeError as error:
            sign = text[error.start]
        stand_in = _stand_in(sign)
        if stand_in is None or (not stand_in and _is_in_words(sign, text)):
            return None
        text = text.replace(sign, stand_in or " ")
    return None


def _is_in_words(mark: str, text: str) -> bool:
    """Whether a mark stands behind what it may go on; web editors leave joiners between words."""
    goes_on = _compiled(f"[\\w'’{_MARKS}]").match
    return any(goes_on(before[-1]) for before in text.split(mark)[:-1] if before)


@lru_cache(maxsize=1024)
def _stand_in(character: str) -> str | None:
    """A character of `_CODEC` of the same class, as far as words go; "" for a mark, None for those
    of scripts that are counted otherwise."""
    if _compiled(f"[{_OTHER}]").match(character) is not None:
        return None
    is_mark = _compiled(f"[{_MARKS}]").match(character) is not None
    if _compiled(r"\w").match(character) is None:
        return "" if is_mark else " "
    if is_mark:
        return None
    return "a" if _compiled(r"[^\d_]").match(character) is not None else "0"
