"""Bytes to text: which character encoding a page is in, by the rules browsers follow.

Source: https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding
"""

import codecs
import re
from typing import Final

import attrs
import cchardet

from eventmesh_trio.pipeline.extract.source.labels import codec_of, is_single_byte
from eventmesh_trio.pipeline.fetching.content_types import PDF_SIGNATURE

__all__ = ["Source", "decode", "is_pdf", "sniff_binary"]

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNMARKED_UTF_16: Final = (
    (re.compile(rb"(?:[\t\n\r ]\x00)*<\x00[!?a-zA-Z]\x00"), "utf-16-le"),
    (re.compile(rb"(?:\x00[\t\n\r ])*\x00<\x00[!?a-zA-Z]"), "utf-16-be"),
)
_COMMENT: Final = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META: Final = re.compile(
    rb"""<meta\s[^>]{0,1024}?charset\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE
)
_XML: Final = re.compile(
    rb"""\s*<\?xml\s[^>]{0,256}?encoding\s*=\s*["']([\w.:-]{2,40})""", re.IGNORECASE
)
_PRESCAN_BYTES: Final = 64 * 1024
"""Where a ``<meta charset>`` is looked for. The standard asks for 1,024 bytes; pages exceed it."""
_DETECT_BYTES: Final = 128 * 1024
"""What detection looks at: frequencies do not get surer with more (and it takes 1 ms)."""
_DETECT_CONFIDENCE: Final = 0.5
"""Of the detector, 0-1; below it windows-1252 is the better guess, as browsers have it."""
_DETECTED: Final = {"uhc": "cp949", "maccyrillic": "mac-cyrillic", "ibm855": "cp855"}
"""The detector's names that are no labels of the standard."""
_JAPANESE: Final = ("cp932", "euc_jp")
_KANA: Final = re.compile("[\u3041-\u30fc]")
_KANA_SHARE: Final = 0.2
"""Of the characters beyond ASCII; Japanese prose has half. No other text decodes to so many."""
_SHIFTS: Final = (b"\x1b$B", b"\x1b$@")
"""How ISO-2022-JP, which is all ASCII, begins its Japanese."""
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_CONTROL_BYTES: Final = bytes({*range(9), 11, *range(14, 32), 127})
_NEITHER_CONTROL_NOR_TAG: Final = bytes(sorted({*range(256)} - {*_CONTROL_BYTES, ord("<")}))
_UNWANTED: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_C1_IN_UTF_8: Final = re.compile(rb"\xc2[\x80-\x9f]")
_FEW_C2: Final = 200
_WIDEST: Final = 4
"""Bytes of a character in UTF-8, at most."""
_PIECE_BYTES: Final = 4096
"""What is decoded at a time to tell whether a page is UTF-8. Pieces of ASCII need not be, and none
makes a text of two or four bytes a character of the whole: half the time, none of the memory."""
_MAGIC: Final = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x7fELF",
    b"OggS",
    b"ID3",
    b"wOFF",
    b"wOF2",
    b"\x00\x00\x01\x00",
    b"\x00asm",
    b"%!PS-Adobe-",
)
_SNIFF_BYTES: Final = 2048


@attrs.frozen
class Source:
    """A decoded page as UTF-8, how many characters that is, and the codec it was decoded with."""

    utf8: bytes
    chars: int
    encoding: str
    tags: int | None = None  # how often there is a "<", where that was counted on the way

    @property
    def text(self) -> str:
        """All of it; decoded each time, as of most pages only the two ends are looked at."""
        return self.utf8.decode()

    def head(self, chars: int) -> str:
        """So many of its first characters."""
        return self.utf8[: _WIDEST * chars].decode("utf-8", "ignore")[:chars]

    def end(self, chars: int) -> str:
        """So many of its last characters, at least one."""
        return self.utf8[-_WIDEST * chars :].decode("utf-8", "ignore")[-chars:]


def is_pdf(body: bytes) -> bool:
    """Whether these bytes are a PDF file, whatever their Content-Type says."""
    return body.startswith(PDF_SIGNATURE)


def sniff_binary(body: bytes) -> bool:
    """Whether these bytes are no text at all, whatever their Content-Type says; a PDF is not asked
    for here.

    Judged by the signatures of common formats, and by the share of control bytes.
    Source: https://mimesniff.spec.whatwg.org/ ("binary data bytes").
    """
    if body.startswith(_MAGIC) or (
        body[:4] == b"RIFF" and body[8:12] in (b"WEBP", b"WAVE", b"AVI ")
    ):
        return True
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    head = body[:_SNIFF_BYTES]
    # ESC is not counted: ISO-2022-JP is written with it.
    control = len(head) - len(head.translate(None, _CONTROL_BYTES)) - head.count(b"\x1b")
    # A page with a few stray NULs is still a page; UTF-16 without a BOM is half NULs and has tags.
    return control > len(head) // 10 and b"<\x00" not in head and b"\x00<" not in head


def decode(body: bytes, charset: str | None = None) -> Source:
    """Decode a page. Never raises.

    The order is: byte order mark, the Content-Type field's ``charset``, ``<meta>`` or the XML
    declaration, valid UTF-8, detection by frequencies, windows-1252. A declaration that the bytes
    contradict is a lie and is passed over: one under which many do not decode, and one of a
    single-byte encoding for what is UTF-8 beyond doubt. Bytes that do not decode become U+FFFD;
    control characters that HTML does not allow (NUL, ESC, C1) are taken out.
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return _decoded(body[len(mark) :], name, None)
    chars = _utf8_chars(body)
    return _decoded(body, _choose(body, charset, chars is not None), chars)


def _decoded(body: bytes, name: str, chars: int | None) -> Source:
    if name != "utf-8":
        text = _UNWANTED.sub("", body.decode(name, "replace")).removeprefix("\ufeff")
        return Source(text.encode(), len(text), name)
    # Two passes in one: to go through all bytes takes as long as to count those of one kind.
    signs = body.translate(None, _NEITHER_CONTROL_NOR_TAG)
    tags = signs.count(b"<")
    if chars is None or tags != len(signs):
        text = body.translate(None, _CONTROL_BYTES).decode("utf-8", "replace")
        chars = len(text)
        body = text.encode()
    if _has_c1(body):
        body, removed = _C1_IN_UTF_8.subn(b"", body)  # a fifth of the time that `_UNWANTED` takes
        chars -= removed
    return Source(body, chars, name, tags)


def _has_c1(utf8: bytes) -> bool:
    """Whether there are control characters from U+0080 on."""
    # All of them, and the no-break space, begin with C2. To jump from one to the next takes 10 us a
    # page, a search for the pattern 50; but not where every second character is a no-break space.
    at = -1
    for _ in range(_FEW_C2):
        at = utf8.find(b"\xc2", at + 1)
        if at < 0:
            return False
        if utf8[at + 1] < 0xA0:
            return True
    return _C1_IN_UTF_8.search(utf8, at) is not None


def _utf8_chars(body: bytes) -> int | None:
    """How many characters of UTF-8 these bytes are; None if they are something else."""
    chars = position = 0
    size = len(body)
    try:
        while position < size:
            piece = body[position : position + _PIECE_BYTES]
            if piece.isascii():
                chars += len(piece)
                position += len(piece)
            else:
                # A character that a piece ends within is left to the next.
                is_last = position + len(piece) == size
                text, read = codecs.utf_8_decode(piece, "strict", is_last)
                chars += len(text)
                position += read
    except UnicodeDecodeError:
        return None
    return chars


def _choose(body: bytes, charset: str | None, is_utf8: bool) -> str:
    for label in (charset, _declared(body)):
        declared = codec_of(label)
        if declared is None or not _fits(body, declared, is_utf8):
            continue
        if is_utf8 and is_single_byte(declared):
            # In no language do its accented letters and signs, side by side, happen to be UTF-8.
            return "utf-8"
        return declared
    for pattern, name in _UNMARKED_UTF_16:
        if pattern.match(body) is not None:
            return name
    if is_utf8 or _mostly_utf8(body):
        head = body[:_DETECT_BYTES] if b"\x1b" in body else b""
        shifted = any(shift in head for shift in _SHIFTS)
        return "iso2022_jp_ext" if shifted else "utf-8"
    return _detect(body)


def _detect(body: bytes) -> str:
    first = _BEYOND_ASCII.search(body)
    start = max(0, first.start() - _SNIFF_BYTES) if first is not None else 0
    sample = body[start : start + _DETECT_BYTES]
    found = cchardet.detect(sample)
    name = found.get("encoding") or ""
    guess = _DETECTED.get(name.lower()) or codec_of(name)
    confident = (found.get("confidence") or 0.0) >= _DETECT_CONFIDENCE
    if guess is not None and confident and _fits(sample, guess, False):
        return guess
    for candidate in _JAPANESE:
        text = sample.decode(candidate, "replace")
        beyond = len(text) - len(text.encode("ascii", "ignore"))
        if "\ufffd" not in text[:-1] and len(_KANA.findall(text)) > _KANA_SHARE * beyond:
            return candidate
    return "cp1252"


def _declared(body: bytes) -> str | None:
    head = body[:_PRESCAN_BYTES]
    match = _META.search(head)
    if match is not None and _is_commented_out(head, match.start()):
        head = _COMMENT.sub(b"", head)
        match = _META.search(head)
    if match is None:
        match = _XML.match(head)
    if match is None:
        return None
    label = match[1].decode("ascii", "ignore").lower()
    # Whoever wrote it could be read as ASCII, so it cannot be UTF-16 (HTML, 13.2.3.2).
    return "utf-8" if label.startswith("utf-16") else label


def _is_commented_out(head: bytes, place: int) -> bool:
    # To take out all comments takes 0.1 ms, and nearly every page has some before its first tags.
    start = head.rfind(b"<!--", 0, place)
    return start >= 0 and head.find(b"-->", start + 4, place) < 0


def _fits(body: bytes, name: str, is_utf8: bool) -> bool:
    """Whether a declared encoding can be meant: its errors are few beside what it explains."""
    if name == "utf-8":
        return is_utf8 or _mostly_utf8(body)
    sample = body[:_DETECT_BYTES]
    return sample.decode(name, "replace").count("\ufffd") <= len(sample) // 50


def _mostly_utf8(body: bytes) -> bool:
    """Whether the bytes beyond ASCII, some of which are not UTF-8, are but for a few."""
    bad = body.decode("utf-8", "replace").count("\ufffd")
    beyond_ascii = len(body) - len(body.decode("ascii", "ignore"))
    # A page in another encoding has nearly no valid sequences; a cut or pasted one has nearly only
    # such. One stray byte on a page of ASCII is settled by detection.
    return beyond_ascii > 5 * bad
