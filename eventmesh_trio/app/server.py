"""`eventmesh serve`: listeners, signals, and an orderly end."""

import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial

import structlog
import trio

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import Mesh, open_mesh
from eventmesh_trio.errors import ConfigError
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners

__all__ = ["serve"]

_log = structlog.get_logger()


async def serve(
    config: Config,
    *,
    ssl_context: ssl.SSLContext | None = None,
    announce: Callable[[str], None] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain: at most ``server.drain_seconds``.

    ``announce`` gets a line for each address (on stderr where None) and
    ``task_status.started`` the addresses that are listened on (``http://127.0.0.1:8080``). A
    second signal ends at once. Cancelled: as a second signal.

    Raises:
      ConfigError: an address that other machines can reach, without ``server.insecure_bind``.
      OSError: an address that cannot be bound.
    """
    binds = [parse_bind(bind) for bind in config.server.bind]
    for bind in binds:
        if not bind.is_loopback and not config.server.insecure_bind:
            raise ConfigError(
                f"{bind} can be reached from other machines, and there is no authentication yet: "
                "anyone there could make this server fetch for them. Bind to 127.0.0.1 behind a "
                "proxy that authenticates, or say --insecure-bind"
            )
    listeners = await open_listeners(binds, ssl_context)
    async with open_mesh(config) as mesh, trio.open_nursery() as nursery:
        application = Application(mesh)
        drain = Drain()
        addresses: list[str] = await nursery.start(
            partial(
                serve_listeners,
                application.handle,
                listeners,
                config.transport,
                drain=drain,
            )
        )
        say = announce or partial(print, file=sys.stderr, flush=True)
        for address in addresses:
            say(f"listening on {address}")
        await nursery.start(_watch_signals, mesh, drain, config.server.drain_seconds, nursery)
        task_status.started(addresses)


async def _watch_signals(
    mesh: Mesh,
    drain: Drain,
    drain_seconds: float,
    nursery: trio.Nursery,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        await anext(signals)
        _log.info("draining", seconds=drain_seconds)
        async with trio.open_nursery() as ending:
            ending.start_soon(_second_signal, signals, ending.cancel_scope)
            with trio.move_on_after(drain_seconds):
                ending.start_soon(mesh.drain)
                drain.begin()
                await drain.wait_empty()
            ending.cancel_scope.cancel()
    nursery.cancel_scope.cancel()


async def _second_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()
