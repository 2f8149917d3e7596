"""The ``eventmesh`` command, also as ``python -m eventmesh_trio``."""

import sys
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main() -> NoReturn:
    """Run the command. Ctrl-C while it is still being loaded ends it as quietly as later."""
    try:
        from eventmesh_trio.app.cli import main as command  # noqa: PLC0415 - loading takes a while

        sys.exit(command())
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
