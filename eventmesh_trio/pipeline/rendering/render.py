"""Pages as a browser shows them: the `eventmesh_trio.abc.Renderer`.

A page that goes down, alone or with its browser, is tried once more. Whatever else happens to it is
an error as a fetch may have, or a `RenderFailure`.
"""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import (
    EventMeshError,
    FetchTimeout,
    PageError,
    RenderFailure,
    TooLarge,
)
from eventmesh_trio.pipeline.fetching.fetch import parse_target
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.proxy import CheckingProxy, Passage, ProxyStatistics
from eventmesh_trio.pipeline.rendering.browser_pool import BrowserPool, PoolStatistics, Tab
from eventmesh_trio.pipeline.rendering.browser_program import BrowserPlace, find_browser
from eventmesh_trio.pipeline.rendering.cdp_messages import (
    AnswerTooLarge,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    SessionClosed,
)
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.page import PageLoad, RenderedText
from eventmesh_trio.pipeline.rendering.watch import BeforeHop, PageCrashed, PageWatch
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = [
    "IDLE",
    "OUTCOMES",
    "RENDER_SECONDS_BUCKETS",
    "BrowserRenderer",
    "RenderLimits",
    "RendererStatistics",
    "open_renderer",
]

logger = logging.getLogger(__name__)

RENDER_SECONDS_BUCKETS: Final = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
OUTCOMES: Final = (
    *("ok", "cancelled"),
    *("blocked_address", "dns_error", "network_error", "render_error", "robots_denied", "timeout"),
    *("tls_error", "too_large", "too_many_redirects", "unsupported_content", "other"),
)
"""What becomes of a page; all but the first two and the last are types of errors."""
_ATTEMPTS: Final = 2


@attrs.frozen
class RendererStatistics:
    """Counts since the renderer opened."""

    pool: PoolStatistics
    retries: int
    outcomes: Mapping[str, int]  # "ok", "cancelled", or the type of the error
    seconds_sum: float
    seconds_counts: tuple[int, ...]  # of each of `RENDER_SECONDS_BUCKETS`, and of what took longer
    traffic: ProxyStatistics


IDLE: Final = RendererStatistics(
    pool=PoolStatistics(*(0,) * 7),
    retries=0,
    outcomes={},
    seconds_sum=0.0,
    seconds_counts=(0,) * (len(RENDER_SECONDS_BUCKETS) + 1),
    traffic=ProxyStatistics(*(0,) * 7),
)
"""Of a server that renders nothing."""


class _Crashed(Exception):
    """An attempt went down with its page or its browser."""


class BrowserRenderer:
    """Renders pages in a browser; any number of tasks may call it. Made by `open_renderer`."""

    def __init__(
        self,
        limits: RenderLimits,
        policy: AddressPolicy,
        proxy: CheckingProxy,
        pool: BrowserPool,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._proxy = proxy
        self.pool = pool
        self._retries = 0
        self._outcomes: Counter[str] = Counter()
        self._seconds_sum = 0.0
        self._seconds_counts = [0] * (len(RENDER_SECONDS_BUCKETS) + 1)

    def statistics(self) -> RendererStatistics:
        return RendererStatistics(
            pool=self.pool.statistics(),
            retries=self._retries,
            outcomes=dict(self._outcomes),
            seconds_sum=self._seconds_sum,
            seconds_counts=tuple(self._seconds_counts),
            traffic=self._proxy.statistics(),
        )

    async def render(
        self, url: str, options: CrawlOptions, *, before_hop: BeforeHop | None = None
    ) -> Page:
        """Load one URL in a browser: a `Page` with ``rendered`` set, its DOM as the body, in UTF-8.

        The page is taken as far as it has come when four fifths of its time are over: the limits'
        ``page_seconds``, or what the caller's cancel scope leaves. Cancelled: its connections are
        closed at once, and its tab and context soon after.

        Args:
          before_hop: asked before the page goes on to another address, by a redirect, a script or
            its markup; raises a `PageError` to refuse it.
        Raises:
          BlockedAddress: the URL, or where the page leads, is not fetched.
          FetchTimeout: there was no document in time.
          RenderFailure: no browser, an element that never appeared, two crashes.
          DNSError, NetworkFailure, TLSFailure, TooLarge, TooManyRedirects, UnsupportedContent:
            as of a fetch.
        """
        began = trio.current_time()
        outcome = "cancelled"
        try:
            page = await self._render(url, options, before_hop)
            outcome = "ok"
            return page
        except EventMeshError as error:
            outcome = error.type
            raise
        finally:
            seconds = trio.current_time() - began
            self._outcomes[outcome if outcome in OUTCOMES else "other"] += 1
            self._seconds_sum += seconds
            self._seconds_counts[bisect_left(RENDER_SECONDS_BUCKETS, seconds)] += 1

    async def _render(
        self, asked: str, options: CrawlOptions, before_hop: BeforeHop | None
    ) -> Page:
        began = trio.current_time()
        url = parse_target(asked)
        self._policy.judge_url(url)
        attempt = 1
        while True:
            try:
                page = await self._attempt(url, options, before_hop)
                break
            except _Crashed as crash:
                logger.warning("rendering %s: %s (attempt %d)", url.href, crash, attempt)
                if attempt == _ATTEMPTS:
                    raise RenderFailure(
                        f"the browser failed with the page: {crash}", context={"attempts": attempt}
                    ) from None
            attempt += 1
            self._retries += 1
        return attrs.evolve(page, url=asked, elapsed_seconds=trio.current_time() - began)

    # --- One attempt ---------------------------------------------------------------------------

    async def _attempt(self, url: URL, options: CrawlOptions, before_hop: BeforeHop | None) -> Page:
        async with self.pool.open_tab() as tab:
            try:
                with (
                    self._proxy.open_passage() as passage,
                    trio.move_on_after(self._limits.page_seconds),
                ):
                    return await self._load(tab, passage, url, options, before_hop)
            except ConnectionLost as error:
                tab.give_browser_up(str(error))
                raise _Crashed(str(error)) from None
            except (SessionClosed, PageCrashed) as error:
                raise _Crashed(str(error)) from None
            except CommandTimeout:
                raise FetchTimeout("the page is too busy to be read") from None
            except AnswerTooLarge:
                raise TooLarge("the rendered document is too large to be taken over") from None
            except CommandFailed as error:
                raise RenderFailure(
                    "the browser could not render the page",
                    context={"browser_error": str(error)[:200]},
                ) from None
        raise FetchTimeout(
            f"the browser had no document within {self._limits.page_seconds:g} seconds",
            context={"timeout_threshold_ms": round(self._limits.page_seconds * 1000)},
        )

    async def _load(
        self,
        tab: Tab,
        passage: Passage,
        url: URL,
        options: CrawlOptions,
        before_hop: BeforeHop | None,
    ) -> Page:
        session = await tab.wait_ready()
        watch = PageWatch(
            session=session,
            frame_id=tab.frame_id,
            limits=self._limits,
            policy=self._policy,
            passage=passage,
            before_hop=before_hop,
        )
        load = PageLoad(session, tab.frame_id, self._limits, passage, watch)
        try:
            text = await load.load(url, options, deadline=trio.current_effective_deadline())
        except PageError:
            self._judge_size(passage)
            raise
        self._judge_size(passage)
        self.pool.page_succeeded()
        return self._page(load, text, passage)

    def _judge_size(self, passage: Passage) -> None:
        """What was cut off by its size is no failure of the network, and no whole page."""
        if passage.is_exhausted:
            raise TooLarge(
                "the page loads more than it may",
                context={"limit_bytes": passage.max_received_bytes},
            )

    def _page(self, load: PageLoad, text: RenderedText, passage: Passage) -> Page:
        response = load.response
        if response is None:
            raise RenderFailure("the page shows something that no origin answered")
        loaded = parse_target(response.url)
        if response.status >= 400 and (refused := passage.failure(loaded.host, loaded.port)):
            raise refused
        try:
            final_url = parse_url(text.url).href  # which a script may have changed
        except ValueError:
            final_url = loaded.href
        return Page(
            url="",
            final_url=final_url,
            status=response.status,
            fields=response.fields,
            body=text.text.encode("utf-8", "replace"),
            content_type=f"{text.media_type}; charset=utf-8",
            charset="utf-8",
            wire_bytes=load.wire_bytes,
            elapsed_seconds=0.0,
            rendered=True,
            cut_short=text.cut_short,
            detours=load.detours,
        )


@asynccontextmanager
async def open_renderer(
    limits: RenderLimits,
    policy: AddressPolicy,
    proxy: CheckingProxy,
    *,
    user_agent: str,
    place: BrowserPlace | None = None,
) -> AsyncIterator[BrowserRenderer]:
    """Open a renderer. No process, folder or connection of it outlives the block.

    No browser is started before the first page.

    Args:
      policy: judges URLs; addresses are judged by the proxy, which all pages pass.
      user_agent: what origins are told, where the options of a page name none.
      place: as `find_browser` has found it for these limits; None to find it now.
    Raises:
      ConfigError: ``limits.browser`` names none that can be used.
    """
    place = place or find_browser(limits)
    if place.port is not None:
        proxy.close_port(place.port)  # whoever could reach it could drive the browser
    async with trio.open_nursery() as nursery:
        pool = BrowserPool(limits, place, proxy, user_agent, nursery)
        yield BrowserRenderer(limits, policy, proxy, pool)
        nursery.cancel_scope.cancel()
