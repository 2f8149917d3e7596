"""Output that takes nothing more: a pipe whose reader left, a full disk, a closed stdout."""

import os
import sys

__all__ = ["drop_output", "unwritable"]


def drop_output() -> None:
    """Let nothing be flushed at exit to a standard output that takes nothing."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unwritable(error: OSError, name: object = None) -> str:
    """One line that says of which output that is; ``name`` is None where it is standard output."""
    return f"cannot write to {name or 'stdout'}: {error.strerror or error}"
