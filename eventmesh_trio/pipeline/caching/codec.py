"""A cache entry as bytes: a small head that a confirmation changes, and the document itself."""

from typing import Final

import msgspec
import zstandard

from eventmesh_trio.abc import CacheEntry, Extraction, Validators

__all__ = ["VERSION", "EntryCodec", "UnreadableEntry"]

VERSION: Final = 1
"""Of the bytes: to be raised when a change of the types makes old ones mean something else."""
_LEVEL: Final = 3  # of zstd: 300 MB a second, and a third of the size
_FIELDS: Final = tuple[tuple[bytes, bytes], ...]


class UnreadableEntry(Exception):
    """The bytes are not of an entry, or of one that this version does not know."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    status: int
    final_url: str
    stored_at: float
    fresh_until: float
    validators: Validators | None
    fields: _FIELDS  # type: ignore[valid-type]


class EntryCodec:
    """Encodes and decodes; one for each thread that does, for zstd's objects are not shared."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._heads = msgspec.msgpack.Decoder(_Head)
        self._extractions = msgspec.msgpack.Decoder(Extraction)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode_head(self, entry: CacheEntry) -> bytes:
        """All of an entry but its document."""
        return self._encoder.encode(
            _Head(
                entry.status,
                entry.final_url,
                entry.stored_at,
                entry.fresh_until,
                entry.validators,
                tuple((bytes(name), bytes(value)) for name, value in entry.fields),
            )
        )

    def encode_body(self, entry: CacheEntry) -> bytes:
        return self._compressor.compress(self._encoder.encode(entry.extraction))

    def final_url(self, head: bytes) -> str:
        """Of an entry's head alone. Raises: UnreadableEntry."""
        try:
            return self._heads.decode(head).final_url
        except msgspec.DecodeError as error:
            raise UnreadableEntry(str(error)) from None

    def decode(self, head: bytes, body: bytes) -> CacheEntry:
        """The entry of which both parts are.

        Raises:
          UnreadableEntry: the bytes are broken, or of another version of the types.
        """
        try:
            found = self._heads.decode(head)
            extraction = self._extractions.decode(self._decompressor.decompress(body))
        except (msgspec.DecodeError, zstandard.ZstdError, ValueError) as error:
            raise UnreadableEntry(str(error)) from None
        return CacheEntry(
            extraction=extraction,
            status=found.status,
            final_url=found.final_url,
            stored_at=found.stored_at,
            fresh_until=found.fresh_until,
            validators=found.validators,
            fields=found.fields,
        )
