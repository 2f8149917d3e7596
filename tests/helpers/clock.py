"""Waiting for something that another process does."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], seconds: float, what: str | Callable[[], str]) -> float:
    """Poll until a condition holds.

    Returns the seconds it took, and fails, saying ``what``, after ``seconds``.
    """
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(
                f"not within {seconds} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(0.005)
    return time.monotonic() - started
