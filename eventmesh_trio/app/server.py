"""`eventmesh serve`: listeners, signals, and an orderly end."""

import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.errors import ConfigError
from eventmesh_trio.transport.listeners import open_listeners, parse_bind, serve_listeners

__all__ = ["CUT", "serve"]

CUT: Final = 1
"""The exit code of a service whose end cut what it served."""


async def serve(
    config: Config,
    *,
    ssl_context: ssl.SSLContext | None = None,
    announce: Callable[[str], None] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Serve until SIGTERM or SIGINT, then end in order (`Mesh.end_service`); the exit code.

    That is 0 when all that was served came to its own end, 1 when ``server.drain_seconds`` was not
    enough for that, and 128 and the signal's number when a second signal ended it at once.

    ``announce`` gets a line for each address (on stderr where None) and
    ``task_status.started`` the addresses that are listened on (``http://127.0.0.1:8080``).
    Cancelled: as by a second signal.

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
    async with AsyncExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)  # also where the mesh cannot be opened
        mesh = await stack.enter_async_context(open_mesh(config))
        nursery = await stack.enter_async_context(trio.open_nursery())
        addresses: list[str] = await nursery.start(
            partial(
                serve_listeners,
                Application(mesh).handle,
                listeners,
                config.transport,
                drain=mesh.service,
                proxies=config.server.trusted_proxies,
            )
        )
        say = announce or partial(print, file=sys.stderr, flush=True)
        for address in addresses:
            say(f"listening on {address}")
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started(addresses)
            await anext(signals)
            code = await _end(mesh, signals)
        nursery.cancel_scope.cancel()
    return code


async def _end(mesh: Mesh, signals: AsyncIterator[int]) -> int:
    code = CUT

    async def watch_second_signal() -> None:
        nonlocal code
        code = 128 + await anext(signals)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_second_signal)
        code = 0 if await mesh.end_service() else CUT
        nursery.cancel_scope.cancel()
    return code
