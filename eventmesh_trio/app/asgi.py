"""The ASGI application: the same handlers under hypercorn's trio worker.

Configured by the environment alone (``EVENTMESH_CONFIG`` names a file). The hub lives as long as
the lifespan scope and travels in its ``state``.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from eventmesh_trio.app import hypercorn
from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.observability import configure_logging
from eventmesh_trio.app.process import allow_descriptors
from eventmesh_trio.app.settings import ENVIRONMENT_PREFIX
from eventmesh_trio.errors import ConfigError, EventMeshError, leaves
from eventmesh_trio.transport.asgi import serve_asgi

__all__ = ["app", "make_app"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STATE_KEY: Final = "eventmesh_trio.application"


def environment_config(environ: Mapping[str, str]) -> Config:
    """The configuration that the environment describes. Raises `ConfigError`."""
    file = environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    return load_config(file=Path(file) if file else None, environ=environ)


def make_app(
    config: Config | None = None,
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An ASGI 3 application; ``config`` None: from the environment, when the server starts.

    At its start it configures structlog, unless somebody has done so before.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(config, scope, receive, send)
            return
        application: Application = scope["state"][_STATE_KEY]
        mesh = application.mesh
        with mesh.service.count():
            await serve_asgi(application.handle, scope, receive, send, mesh.config.transport)

    return app


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def _lifespan(config: Config | None, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # lifespan.startup
    if not structlog.is_configured():  # what an embedder has chosen stands
        configure_logging(as_json=not sys.stderr.isatty())
    started = False
    try:
        if "state" not in scope:
            raise EventMeshError("this server gives no lifespan state; use hypercorn 0.17 or newer")
        if not _in_trio():
            raise ConfigError(
                'this is no trio worker, and no other can run it: set worker_class = "trio" (or -k '
                "trio)"
            )
        if (workers := hypercorn.workers()) > 1:
            raise ConfigError(
                f"hypercorn runs {workers} workers, but sessions live in the memory of one: a "
                "client that resumes, pauses or cancels would reach the wrong one. Set workers = 1 "
                "(or --workers 1); for more cores, run several servers behind a proxy that sends "
                "each session to one of them"
            )
        settled = config if config is not None else environment_config(os.environ)
        async with open_mesh(settled) as mesh:
            scope["state"][_STATE_KEY] = Application(mesh)
            started = True
            await send({"type": "lifespan.startup.complete"})
            async with trio.open_nursery() as nursery:
                if hypercorn.owns_process():
                    allow_descriptors()
                    hypercorn.bound_messages(settled.transport)
                    nursery.start_soon(hypercorn.drain_when_told, mesh)
                await receive()  # lifespan.shutdown
                nursery.cancel_scope.cancel()
        answer = {"type": "lifespan.shutdown.complete"}
    except Exception as error:  # a group of such, too
        if started:
            raise
        # Raising would only be logged, and the server would go on without us.
        reasons = "; ".join(str(leaf) or type(leaf).__name__ for leaf in leaves(error))
        answer = {"type": "lifespan.startup.failed", "message": reasons}
    await send(answer)


app = make_app()
