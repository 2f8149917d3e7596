"""Who uses a store's file: a lock that processes share, and one needs alone to move it away."""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

__all__ = ["UseLock"]

_POLL_SECONDS: Final = 0.05


class UseLock:
    """``flock`` on a file of its own (``PATH.lock``); released with the process. It blocks.

    Raises:
      OSError: the lock's file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def share(self, wait_seconds: float = 0.0) -> bool:
        """Say that the file is in use; False if somebody has it alone for that long."""
        deadline = time.monotonic() + wait_seconds
        while not self._take(fcntl.LOCK_SH):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def have_alone(self) -> bool:
        """Take it alone, if nobody else uses the file; what is shared stays so if not."""
        if self._take(fcntl.LOCK_EX):
            return True
        self._take(fcntl.LOCK_SH)  # a conversion that fails has given up what was held
        return False

    def close(self) -> None:
        """Use it no more; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _take(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
