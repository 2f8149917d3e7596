"""What a process that does nothing but serve sets for itself. Never done where we are embedded."""

import gc
import resource
from contextlib import suppress
from typing import Final

__all__ = ["allow_descriptors", "collect_less_often"]

_MAX_DESCRIPTORS: Final = 1 << 20
_COLLECTION: Final = (2_000, 10, 30)


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
