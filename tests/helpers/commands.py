"""Our own command as a shell runs it."""

import subprocess
import sys

from tests.helpers.programs import CHECKOUT

_EVENTMESH = f"{sys.executable} -m eventmesh_trio"


def in_shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run ``eventmesh`` with these arguments and redirections, to its end."""
    return subprocess.run(
        ["bash", "-c", f"exec {_EVENTMESH} {line}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CHECKOUT,
    )
