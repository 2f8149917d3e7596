"""Outside programs that tests want: skipped where missing, required in CI."""

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def require_program(name: str, install_line: str) -> str:
    """The path of a program; where it is missing the test skips, and with ``CI=true`` fails."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed; install it with: {install_line}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return found


def shared_folder() -> Path:
    """Where the specification is: beside the checkout, or ``EVENTMESH_SHARED``; else skip."""
    folder = Path(os.environ.get("EVENTMESH_SHARED") or CHECKOUT.parent / "shared")
    if not (folder / "spec" / "streaming-api.md").is_file():
        pytest.skip("the specification is not here: no ../shared/spec (set EVENTMESH_SHARED)")
    return folder
