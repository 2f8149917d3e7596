"""The renderer as a server has it: with a checking proxy of its own, or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.proxy import ProxyLimits, open_proxy
from eventmesh_trio.pipeline.rendering.browser_program import BrowserPlace
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.render import BrowserRenderer, open_renderer

__all__ = ["open_rendering"]


@asynccontextmanager
async def open_rendering(
    limits: RenderLimits,
    proxy_limits: ProxyLimits,
    fetcher: HTTPFetcher,
    policy: AddressPolicy,
    place: BrowserPlace | None,
) -> AsyncIterator[BrowserRenderer | None]:
    """Open a renderer whose pages dial as the fetcher does; None where there is no browser."""
    if place is None:
        yield None
        return
    async with (
        open_proxy(fetcher.backend, proxy_limits) as proxy,
        open_renderer(
            limits, policy, proxy, user_agent=fetcher.user_agent, place=place
        ) as renderer,
    ):
        yield renderer
