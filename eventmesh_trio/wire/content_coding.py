"""The gzip content coding of a stream (RFC 9110, 8.4.1.3; RFC 1952), in bounded memory.

A reader must see each batch when it is written: so a batch ends with a sync flush, which completes
every byte of it at the cost of some five bytes. What gzip remembers from batch to batch is where
its gain comes from, and is memory of this one connection; `gzip_size` picks as much as fits.
"""

import zlib
from typing import Final

import attrs

__all__ = ["GzipEncoder", "GzipSize", "gzip_size"]

# Of a connection's memory; the rest is for the batch being written. Just enough that the smallest
# encoder fits the 16 KB of the profile ``memory_optimized``, which wants streams compressed.
_SHARE: Final = (11, 16)
_STATE_BYTES: Final = 8 * 1024  # zlib's structures beside its window and tables: 6,152 bytes in 1.2
_GZIP: Final = 16  # added to the window's bits: a gzip header and trailer, not zlib's
# The fastest level. With these small windows level 6 saves a tenth more, in half again the time.
_LEVEL: Final = 1


@attrs.frozen
class GzipSize:
    """How much a `GzipEncoder` remembers. Both numbers are base-2 logarithms, as in zlib."""

    window_bits: int
    memory_level: int

    @property
    def memory_bytes(self) -> int:
        """What an encoder of this size holds at most (zlib's ``zconf.h``: memory requirements)."""
        return (1 << self.window_bits + 2) + (1 << self.memory_level + 9) + _STATE_BYTES


_SIZES: Final = tuple(
    GzipSize(*numbers) for numbers in ((15, 8), (14, 7), (13, 6), (12, 5), (11, 3), (9, 1))
)


def gzip_size(max_memory_bytes: int) -> GzipSize | None:
    """The largest encoder for a connection that may hold so much; None where not even one fits.

    It takes eleven sixteenths at most: of 64 KiB, 40 KiB with a window of 4 KiB.
    """
    part, whole = _SHARE
    for size in _SIZES:
        if size.memory_bytes * whole <= max_memory_bytes * part:
            return size
    return None


class GzipEncoder:
    """One response's content, coded as it comes."""

    __slots__ = ("_deflate",)

    def __init__(self, size: GzipSize) -> None:
        self._deflate = zlib.compressobj(
            _LEVEL, zlib.DEFLATED, _GZIP + size.window_bits, size.memory_level
        )

    def compress(self, data: bytes | memoryview) -> bytes:
        """Take in a part of a batch; returns what there is of it already, which may be nothing.

        Takes about 14 us per KiB: cut large batches, and let others run in between.
        """
        return self._deflate.compress(data)

    def flush(self) -> bytes:
        """End a batch: with this, a reader can decode all of it."""
        return self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """End the content: the last block, checksum and length. A cut stream is without it."""
        return self._deflate.flush(zlib.Z_FINISH)
