"""The real server in this process, on our own transport, where a test looks into it."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from urllib.parse import urlsplit

import structlog
import trio

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.transport.listeners import Bind, open_listeners, serve_listeners

__all__ = ["serve_here"]


@asynccontextmanager
async def serve_here(config: Config) -> AsyncIterator[tuple[Mesh, tuple[str, int]]]:
    """Serve on a free loopback port; the mesh, and the address. Only errors are logged."""
    with _errors_only():
        async with _serve(config) as serving:
            yield serving


@contextmanager
def _errors_only() -> Iterator[None]:
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.reset_defaults()
        if before is not None:
            structlog.configure(**before)


@asynccontextmanager
async def _serve(config: Config) -> AsyncIterator[tuple[Mesh, tuple[str, int]]]:
    async with open_mesh(config) as mesh, trio.open_nursery() as nursery:
        listeners = await open_listeners([Bind("127.0.0.1", 0)])
        serve = partial(serve_listeners, Application(mesh).handle, listeners, config.transport)
        (base_url,) = await nursery.start(serve)
        split = urlsplit(base_url)
        assert split.hostname is not None
        assert split.port is not None
        try:
            yield mesh, (split.hostname, split.port)
        finally:
            nursery.cancel_scope.cancel()
