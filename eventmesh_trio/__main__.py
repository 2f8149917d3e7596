"""``python -m eventmesh_trio``: the ``eventmesh`` command."""

from eventmesh_trio.app.cli import main

if __name__ == "__main__":
    main()
