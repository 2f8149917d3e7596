"""Which media types are read, and whether bytes without one are text (WHATWG MIME Sniffing)."""

import re
from typing import Final

__all__ = ["PDF_SIGNATURE", "essence_of", "is_html", "is_readable", "is_text", "looks_binary"]

PDF_SIGNATURE: Final = b"%PDF-"

_UNKNOWN: Final = frozenset(
    {
        "",
        "*/*",
        "application/octet-stream",
        "application/unknown",
        "binary/octet-stream",
        "unknown/unknown",
    }
)
_READABLE: Final = frozenset(
    {
        "application/ecmascript",
        "application/javascript",
        "application/json",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xhtml",
        "application/xml",
        "application/yaml",
    }
)
_PDF: Final = frozenset({"application/pdf", "application/x-pdf"})
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")
# What begins like this has no binary data bytes of its own early enough to be told by them.
_SIGNATURES: Final = (b"%!PS-Adobe-", b"GIF87a", b"GIF89a", b"Rar!", b"PK\x03\x04")
# "Binary data bytes": https://mimesniff.spec.whatwg.org/#binary-data-byte
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")

_HTML: Final = frozenset({"text/html", "application/xhtml+xml", "application/xhtml"})
# "Identifying a resource with an unknown MIME type": https://mimesniff.spec.whatwg.org/
_HEAD_BYTES: Final = 1445  # the "resource header" of that standard
_HTML_BEGINS: Final = re.compile(
    rb"[\t\n\f\r ]*<(?:(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b"
    rb"|body|br|p|main|article|meta|link)[ \t\n\f\r/>]|!--)",
    re.IGNORECASE,
)


def essence_of(content_type: str) -> str:
    """The media type without its parameters, in lower case; "" where there is none."""
    return content_type.partition(";")[0].strip().lower()


def is_html(content_type: str, body: bytes) -> bool:
    """Whether a browser would take it for an HTML page; without a type its first bytes tell."""
    if body.startswith(PDF_SIGNATURE):
        return False  # whatever it is called
    essence = essence_of(content_type)
    if essence in _HTML:
        return True
    if essence not in _UNKNOWN and "/" in essence:
        return False
    head = body[:_HEAD_BYTES].removeprefix(_BYTE_ORDER_MARKS[0])
    return _HTML_BEGINS.match(head) is not None


def is_readable(content_type: str) -> bool | None:
    """Whether content of that ``Content-Type`` is read, text or PDF; None: its bytes must tell."""
    return True if essence_of(content_type) in _PDF else is_text(content_type)


def is_text(content_type: str) -> bool | None:
    """Whether content of that ``Content-Type`` is text that we read; None: its bytes must tell."""
    essence = essence_of(content_type)
    if essence in _UNKNOWN or "/" not in essence:
        return None
    kind, _, subtype = essence.partition("/")
    if kind == "text" or essence in _READABLE:
        return True
    return kind in ("application", "model") and subtype.endswith(("+xml", "+json"))


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a body are neither text nor a PDF."""
    if head.startswith((*_BYTE_ORDER_MARKS, PDF_SIGNATURE)):
        return False
    return head.startswith(_SIGNATURES) or _BINARY.search(head) is not None
