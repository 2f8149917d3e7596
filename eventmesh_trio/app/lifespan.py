"""Everything that lives as long as the program: opened in one place, closed in reverse order.

`open_mesh` is also the door for embedding: no sockets are needed to crawl and to follow a run.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.embedded import EmbeddedStream
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.observability import Metrics
from eventmesh_trio.mesh.hub import open_hub
from eventmesh_trio.pipeline.caching.cache import DocumentCache
from eventmesh_trio.pipeline.caching.opening import open_store
from eventmesh_trio.pipeline.crawl import CrawlPorts
from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
from eventmesh_trio.pipeline.manners.politeness import Politeness
from eventmesh_trio.pipeline.rendering.browser_program import find_browser
from eventmesh_trio.pipeline.rendering.limits import OFF
from eventmesh_trio.pipeline.rendering.service import open_rendering
from eventmesh_trio.pipeline.searching.opening import open_search
from eventmesh_trio.pipeline.workers.pool import open_extractor

__all__ = ["EmbeddedStream", "Mesh", "open_mesh"]


@asynccontextmanager
async def open_mesh(config: Config | None = None) -> AsyncIterator[Mesh]:
    """Open the hub and the pipeline's ports.

    Leaving the block cancels every run and waits for its tasks, connections and worker processes,
    each wait bounded, and ends the browser. Under trio, in any task; no signals are touched.

    Args:
      config: all defaults where None; `load_config` reads one from a file and the environment.
    Raises:
      ConfigError: the browser is not there, or must not be used like this.
    """
    config = config or Config()
    policy = config.fetch.policy()
    # Before there is a nursery, which would make a group of its error.
    browser = None if config.render.browser == OFF else find_browser(config.render)
    async with (
        open_fetcher(config.fetch, policy, user_agent=config.fetch.user_agent) as fetcher,
        open_rendering(config.render, config.proxy, fetcher, policy, browser) as renderer,
        open_extractor(config.workers) as extractor,
        open_store(config.cache) as store,
    ):
        cache = DocumentCache(store, config.cache)
        async with (
            open_search(
                config.search,
                cache,
                fetch=config.fetch,
                policy=policy,
                user_agent=config.fetch.user_agent,
            ) as search,
            open_hub(config.mesh) as hub,
        ):
            politeness = Politeness(
                fetcher, config.politeness, max_connections=config.fetch.max_connections
            )
            metrics = Metrics(hub, cache, fetcher, extractor, politeness, renderer)
            agent = config.fetch.user_agent
            is_usual = agent == Config().fetch.user_agent  # which names the version
            ports = CrawlPorts(
                fetcher=fetcher,
                extractor=extractor,
                cache=cache,
                politeness=politeness,
                meter=metrics,
                cache_limits=config.cache,
                flights=cache.flights,
                policy=policy,
                renderer=renderer,
                user_agent=None if is_usual else agent,
            )
            search.meter = metrics
            mesh = Mesh(config, hub, ports, cache, metrics, search)
            yield mesh
            await mesh.drain()
