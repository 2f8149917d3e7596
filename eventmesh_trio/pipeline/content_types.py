"""Which media types are read, and whether bytes without one are text (WHATWG MIME Sniffing)."""

import re
from typing import Final

__all__ = ["is_readable", "looks_binary"]

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
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")
# What begins like this has no binary data bytes of its own early enough to be told by them.
_SIGNATURES: Final = (b"%PDF-", b"%!PS-Adobe-", b"GIF87a", b"GIF89a", b"Rar!", b"PK\x03\x04")
# "Binary data bytes": https://mimesniff.spec.whatwg.org/#binary-data-byte
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def is_readable(content_type: str) -> bool | None:
    """Whether content of that ``Content-Type`` is text that we read; None: its bytes must tell."""
    essence = content_type.partition(";")[0].strip().lower()
    if essence in _UNKNOWN or "/" not in essence:
        return None
    kind, _, subtype = essence.partition("/")
    if kind == "text" or essence in _READABLE:
        return True
    return kind in ("application", "model") and subtype.endswith(("+xml", "+json"))


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a body are not text."""
    if head.startswith(_BYTE_ORDER_MARKS):
        return False
    return head.startswith(_SIGNATURES) or _BINARY.search(head) is not None
