"""The door for ASGI servers: ``hypercorn -k trio eventmesh_trio.asgi:app``."""

from eventmesh_trio.app.asgi import app, make_app

__all__ = ["app", "make_app"]
