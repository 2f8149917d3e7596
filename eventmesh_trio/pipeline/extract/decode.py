"""Bytes to text: which character encoding a page is in, by the rules browsers follow.

Source: https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding
and https://encoding.spec.whatwg.org/ (labels, and which encoding a label really means).
"""

import codecs
import re
from typing import Final

import cchardet
from w3lib.encoding import resolve_encoding

__all__ = ["decode", "sniff_binary"]

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
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
_UNWANTED: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_MAGIC: Final = (
    b"%PDF-",
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


def sniff_binary(body: bytes) -> bool:
    """Whether these bytes are no text at all, whatever their Content-Type says.

    Judged by the signatures of common formats, and by the share of control bytes.
    Source: https://mimesniff.spec.whatwg.org/ ("binary data bytes").
    """
    if body.startswith(_MAGIC) or (
        body[:4] == b"RIFF" and body[8:12] in (b"WEBP", b"WAVE", b"AVI ")
    ):
        return True
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False
    head = body[:2048]
    control = sum(byte < 32 and byte not in b"\t\n\x0c\r\x1b" for byte in head)
    # A page with a few stray NULs is still a page; UTF-16 without a BOM is half NULs and has tags.
    return control > len(head) // 10 and b"<\x00" not in head and b"\x00<" not in head


def decode(body: bytes, charset: str | None = None) -> tuple[str, str]:
    """Decode a page; return its text and the name of the encoding that was used. Never raises.

    The order is: byte order mark, the Content-Type field's ``charset``, ``<meta>``, valid UTF-8,
    detection by frequencies, windows-1252. A declaration that most of the bytes contradict is a
    lie and is passed over. Bytes that do not decode become U+FFFD; control characters that HTML
    does not allow (NUL, ESC, C1) are taken out.
    """
    name = _choose(body, charset)
    text = body.decode(name, "replace")
    return _UNWANTED.sub("", text.removeprefix("\ufeff")), name


def _choose(body: bytes, charset: str | None) -> str:
    for mark, name in _BOMS:
        if body.startswith(mark):
            return name
    for label in (charset, _declared(body)):
        declared = _resolve(label)
        if declared is not None and _fits(body, declared):
            return declared
    if _mostly_utf8(body):
        return "utf-8"
    if body[:4] in (b"<\x00!\x00", b"<\x00h\x00", b"<\x00H\x00"):
        return "utf-16-le"
    found = cchardet.detect(body[:_DETECT_BYTES])
    guess = _resolve(found.get("encoding"))
    if guess is not None and (found.get("confidence") or 0.0) >= 0.5 and _fits(body, guess):
        return guess
    return "cp1252"


def _declared(body: bytes) -> str | None:
    head = _COMMENT.sub(b"", body[:_PRESCAN_BYTES])
    match = _META.search(head) or _XML.match(head)
    if match is None:
        return None
    label = match[1].decode("ascii", "ignore").lower()
    # Whoever wrote it could be read as ASCII, so it cannot be UTF-16 (HTML, 13.2.3.2).
    return "utf-8" if label.startswith("utf-16") else label


def _resolve(label: str | None) -> str | None:
    if not label:
        return None
    name = resolve_encoding(label.strip().strip("\"'"))
    if name is None or name.startswith(("utf-7", "utf_7", "utf-32", "utf_32")):
        return None  # UTF-7 is how markup is smuggled past filters; no browser reads either
    try:
        return name if codecs.lookup(name)._is_text_encoding else None
    except LookupError:
        return None


def _fits(body: bytes, name: str) -> bool:
    """Whether a declared encoding can be meant: its errors are few beside what it explains."""
    if codecs.lookup(name).name == "utf-8":
        return _mostly_utf8(body)
    sample = body[:_DETECT_BYTES]
    return sample.decode(name, "replace").count("\ufffd") <= len(sample) // 50


def _mostly_utf8(body: bytes) -> bool:
    """Whether the bytes beyond ASCII are UTF-8, but for a few."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        bad = body.decode("utf-8", "replace").count("\ufffd")
        beyond_ascii = len(body) - len(body.decode("ascii", "ignore"))
        # A page in another encoding has nearly no valid sequences; a cut or pasted one has nearly
        # only such. One stray byte on a page of ASCII is settled by detection.
        return beyond_ascii > 5 * bad
    return True
