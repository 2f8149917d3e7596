"""How the server is, in JSON: for ``/healthz`` and ``/stats``."""

from typing import Any

import attrs

from eventmesh_trio import __version__
from eventmesh_trio.app.observability import Metrics
from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.pipeline.caching.cache import CacheStatistics
from eventmesh_trio.pipeline.caching.store import StoreStatistics

__all__ = ["health", "stats"]


def health(hub: Hub, store: StoreStatistics, *, draining: bool) -> dict[str, Any]:
    """The whole picture."""
    census = hub.census
    status = census.system_status()
    return {
        "status": "draining" if draining else census.health,
        "version": __version__,
        "server_health": census.server_health(),
        "streaming_health": status.streaming_health,
        "global_metrics": status.global_metrics,
        "sessions": len(hub.sessions),
        "active_runs": census.active_runs,
        "cache": {
            "store": store.kind,
            "status": "ok" if store.trouble is None else "failing",
            "reason": store.trouble,
        },
    }


async def stats(hub: Hub, cache: CacheStatistics, metrics: Metrics) -> dict[str, Any]:
    """What ``/metrics`` tells. A checkpoint."""
    snapshot = hub.census.snapshot()
    return {
        "streaming": {**attrs.asdict(snapshot), "efficiency": snapshot.efficiency()},
        "sessions": len(hub.sessions),
        "metrics": await metrics.samples(),
        "cache": {**attrs.asdict(cache), "hit_rate": cache.hit_rate},
    }
