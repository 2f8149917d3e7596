"""URLs in, clean documents out, streamed over NDJSON, SSE or WebSocket.

The map of the house: ``wire`` (bytes <-> events, no I/O), ``mesh`` (logs, sessions, runs,
readers), ``transport`` (HTTP and WebSocket connections), ``pipeline`` (from a URL to a document),
``app`` (joins them, serves, commands), ``client`` (the SDK), ``errors`` and ``abc`` (shared).

What is imported from here is public; it is loaded when it is asked for, so that a worker process or
a client does not pay for the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from eventmesh_trio.app.config import Config
    from eventmesh_trio.app.lifespan import open_mesh
    from eventmesh_trio.app.loading import load_config
    from eventmesh_trio.app.mesh import Mesh
    from eventmesh_trio.client.client import open_client
    from eventmesh_trio.mesh.global_metrics import GlobalStreamingMetrics
    from eventmesh_trio.mesh.lifecycle_events import (
        ConnectionClosed,
        ConnectionEstablished,
        LifecycleEvent,
        ProgressUpdate,
        StreamCompleted,
        StreamError,
        StreamStarted,
    )
    from eventmesh_trio.mesh.observers import LifecycleChannel

__version__ = "0.1.0"
__all__ = [
    "Config",
    "ConnectionClosed",
    "ConnectionEstablished",
    "GlobalStreamingMetrics",
    "LifecycleChannel",
    "LifecycleEvent",
    "Mesh",
    "ProgressUpdate",
    "StreamCompleted",
    "StreamError",
    "StreamStarted",
    "load_config",
    "open_client",
    "open_mesh",
]

_HOMES: Final = {
    "Config": "app.config",
    "ConnectionClosed": "mesh.lifecycle_events",
    "ConnectionEstablished": "mesh.lifecycle_events",
    "GlobalStreamingMetrics": "mesh.global_metrics",
    "LifecycleChannel": "mesh.observers",
    "LifecycleEvent": "mesh.lifecycle_events",
    "Mesh": "app.mesh",
    "ProgressUpdate": "mesh.lifecycle_events",
    "StreamCompleted": "mesh.lifecycle_events",
    "StreamError": "mesh.lifecycle_events",
    "StreamStarted": "mesh.lifecycle_events",
    "load_config": "app.loading",
    "open_client": "client.client",
    "open_mesh": "app.lifespan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
