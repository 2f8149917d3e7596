"""What hypercorn's command knows and ASGI does not tell: its workers, and that it is to end.

Hypercorn tells an application of its end only after the streams were cut. The application can know
before: a worker process was given the event by which its parent ends it, and trio lets several
tasks receive one signal. None of this is done where another program embeds the application: its
signals are its own.
"""

import multiprocessing
import signal
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, Final

import trio
from hypercorn.protocol import ws_stream

from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.transport.hosted import HostedConnection, HostedDeflate
from eventmesh_trio.transport.limits import TransportLimits

__all__ = ["bound_messages", "drain_when_told", "owns_process", "workers"]

_MAIN: Final = "hypercorn.trio.run.worker_serve"
_POLL_SECONDS: Final = 0.1
_TOLD_SECONDS: Final = 1.0


def workers() -> int:
    """How many workers serve beside this one, itself included; 1 where that cannot be known.

    Hypercorn starts each worker as a `multiprocessing.Process` that is given the server's
    configuration; a process that is none such is alone, for all we know.
    """
    count = getattr(_process_arguments().get("config"), "workers", 1)
    return count if isinstance(count, int) else 1


def owns_process() -> bool:
    """Whether hypercorn's command runs this process, and not a program that calls hypercorn.

    Called in the task of the application's lifespan.
    """
    task = trio.lowlevel.current_task()
    root = trio.lowlevel.current_root_task()
    while task.parent_nursery is not None and task.parent_nursery.parent_task is not root:
        task = task.parent_nursery.parent_task
    return task.name == _MAIN and threading.current_thread() is threading.main_thread()


def bound_messages(limits: TransportLimits) -> None:
    """Have hypercorn read and write WebSocket messages as we do, within our limits.

    By itself it inflates whatever comes: a message of 1 MiB took 1.2 GiB, and one at its limit four
    times its size. It has no setting for that; it makes an extension and a connection for each
    handshake by their names in one of its modules, and this is the only door there is.
    """
    names = vars(ws_stream)
    names["PerMessageDeflate"] = partial(HostedDeflate, limits)
    names["Connection"] = partial(HostedConnection, limits)


async def drain_when_told(mesh: Mesh) -> None:
    """Wait until hypercorn is told to end, and then end what is served, in order.

    It is told by its parent process, or by SIGTERM or SIGINT of this one. A second signal, or a
    drain that takes too long, ends the process at once: hypercorn itself would wait for ever for a
    write that stalls.
    """
    told = _process_arguments().get("shutdown_event")
    ended = False

    async def wait_told() -> None:
        # Polled, as hypercorn does: no trio task can wait for what another process sets.
        while not (isinstance(told, Event) and told.is_set()):  # noqa: ASYNC110
            await trio.sleep(_POLL_SECONDS)

    async def end() -> None:
        nonlocal ended
        ended = await mesh.end_service()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await _first_of(wait_told, signals.__anext__)
        await _first_of(end, signals.__anext__)
        if ended:
            with trio.move_on_after(_TOLD_SECONDS):
                await wait_told()
                return  # hypercorn knows, and ends by itself
    _end_process(in_order=ended)


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait for whichever comes first, and cancel the others."""
    async with trio.open_nursery() as nursery:

        async def race(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(race, wait)


@trio.lowlevel.enable_ki_protection
def _end_process(*, in_order: bool) -> None:
    """Have hypercorn end: it was told by nobody but us, or can be told no more.

    An interrupt, which hypercorn knows, where this process takes it; else what SIGTERM does by
    itself. Protected, so that the interrupt arises in hypercorn's own task and not in this one.
    """
    interruptible = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None)
    signal.raise_signal(signal.SIGINT if in_order and interruptible else signal.SIGTERM)


def _process_arguments() -> dict[str, Any]:
    """What hypercorn's parent process gave to this one; nothing where it is no worker of its."""
    process = multiprocessing.current_process()
    target = getattr(process, "_target", None)
    if not str(getattr(target, "__module__", "")).startswith("hypercorn."):
        return {}
    arguments: dict[str, Any] = getattr(process, "_kwargs", {})
    return arguments
