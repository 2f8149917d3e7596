"""`Scratch`: memory that one batch after the other is encoded in, before it is copied to its size.

A buffer of its own for each batch grew through a dozen sizes, in memory that had left the cache
since: one SSE stream cost 5.4 us an event, not 4.85; twenty 6.5, not 6.1.
"""

from threading import local
from typing import Final

__all__ = ["Scratch", "written"]

_MAX_KEPT_BYTES: Final = 4 * 2**20
"""Of address space, of which batches have touched a third; after a larger one it begins anew."""


class Scratch(local):
    """One buffer for each thread; a batch is encoded without a checkpoint, so it has it alone.

    A bytearray gives back what it holds as soon as less than half of it is in use: so what is in
    the front half stays, whatever it is, and batches are written behind it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def begin(self) -> tuple[bytearray, int]:
        """The buffer, and where the batch begins that is now to be appended to it."""
        kept = self._buffer.__alloc__()
        if kept > _MAX_KEPT_BYTES:
            self._buffer = bytearray()
        else:
            del self._buffer[kept // 2 + 1 :]
        return self._buffer, len(self._buffer)


def written(buffer: bytearray, start: int, stop: int | None = None) -> bytes:
    """A copy of what was appended from ``start`` on, or of that up to ``stop``."""
    with memoryview(buffer) as view:
        return bytes(view[start:stop])
