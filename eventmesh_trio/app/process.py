"""What a process that does nothing but serve sets for itself. Never done where we are embedded."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from typing import Final

__all__ = ["allow_descriptors", "collect_less_often", "keep_little_free", "settle_process"]

_MAX_DESCRIPTORS: Final = 1 << 20
_COLLECTION: Final = (2_000, 10, 30)
_MALLOC: Final = (
    (-8, 1),  # M_ARENA_MAX: threads of their own keep what others cannot use
    (-3, 256 * 1024),  # M_MMAP_THRESHOLD, bytes: larger blocks go back at once
    (-1, 4 * 1024 * 1024),  # M_TRIM_THRESHOLD, bytes: of the heap's end, no more is kept
)
"""Parameters of glibc's mallopt(3), by their numbers in <malloc.h>."""


def settle_process() -> None:
    """All of it: what ``eventmesh serve`` does before it serves, and a benchmark of it has to."""
    allow_descriptors()
    collect_less_often()
    keep_little_free()


def allow_descriptors() -> None:
    """Allow all the descriptors that this process may have.

    Shells and service managers allow 1,024 for the sake of programs that use select(2), and leave
    it to others to ask for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # then it stays as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def collect_less_often() -> None:
    """Look for cyclic garbage less often than Python does by default.

    When the tasks of hundreds of streams end at once, half of the time went into looking through
    all that is alive. Not for hypercorn, which makes cycles of its own with each connection.
    """
    gc.set_threshold(*_COLLECTION)


def keep_little_free() -> bool:
    """Have freed memory go back to the system; whether the C library can be told so.

    A crawl of long documents holds 119 MB, not 138: the store's threads had kept memory of their
    own, and large blocks had raised the bound up to which glibc keeps what is freed. That bound is
    some batches of large events: with 256 KiB each batch gave its memory back and got other, page
    by page, and to encode 20 KB took 9.1 us, not 6.4.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and min(mallopt(*parameter) for parameter in _MALLOC) == 1
