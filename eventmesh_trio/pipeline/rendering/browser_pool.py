"""Who owns the browsers: starts them when a page wants one, makes tabs, and ends them.

Each page has a tab in a context of its own, made and disposed of by a task of the browser's owner,
so that nobody who leaves has to wait for that. A browser is replaced after some pages, when it
holds too much, or when it fails; and it ends when nobody has used it for a while.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from eventmesh_trio.errors import RenderFailure, leaves
from eventmesh_trio.pipeline.network.proxy import CheckingProxy
from eventmesh_trio.pipeline.rendering.browser import Browser, BrowserFailed, open_browser
from eventmesh_trio.pipeline.rendering.browser_program import BrowserPlace
from eventmesh_trio.pipeline.rendering.cdp import CDPSession
from eventmesh_trio.pipeline.rendering.cdp_messages import CDPError, CommandTimeout
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.pipeline.rendering.watch import WANTED_EVENTS, PageCrashed

__all__ = ["BrowserPool", "PoolStatistics", "Tab"]

logger = logging.getLogger(__name__)


@attrs.frozen
class PoolStatistics:
    """Counts since the pool was made; the first four are of now."""

    pages: int  # in a tab, or on their way into one
    pages_waiting: int  # for a tab
    browsers: int
    held_bytes: int  # by the browsers' processes
    browser_starts: int
    browser_failures: int  # ended unasked, or did not start
    pages_killed: int  # for the memory that they held


@attrs.define(eq=False)
class Tab:
    """A tab between the page's task, which uses it, and the browser's, which owns it."""

    frame_id: str = ""
    _session: CDPSession | None = None
    _ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    _closed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _error: PageCrashed | None = attrs.field(default=None, init=False)
    _browser: Browser | None = attrs.field(default=None, init=False)

    async def wait_ready(self) -> CDPSession:
        """The tab's session, once the browser has made it. Raises `PageCrashed`."""
        await self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def give_browser_up(self, reason: str) -> None:
        """The browser is of no more use, to this page or another."""
        assert self._browser is not None
        self._browser.cdp.lose(reason)


@attrs.define(eq=False)
class _Life:
    """One browser, from the wish for one to its end."""

    ready: trio.Event = attrs.field(factory=trio.Event)
    browser: Browser | None = None
    tabs: trio.Nursery | None = None
    failure: str | None = None
    begun: int = 0
    in_flight: int = 0
    retired: bool = False
    changed: trio.Event = attrs.field(factory=trio.Event)

    def takes_pages(self, limits: RenderLimits) -> bool:
        return (
            not self.retired
            and self.failure is None
            and self.begun < limits.pages_per_browser
            and (
                self.browser is None
                or (
                    not self.browser.cdp.is_lost
                    and self.browser.held_bytes <= limits.browser_memory_bytes
                )
            )
        )

    def touch(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()


class BrowserPool:
    """Lends tabs of at most one browser at a time, or of two while one replaces another."""

    def __init__(
        self,
        limits: RenderLimits,
        place: BrowserPlace,
        proxy: CheckingProxy,
        user_agent: str,
        nursery: trio.Nursery,
    ) -> None:
        self._limits = limits
        self._place = place
        self._proxy = proxy
        self._user_agent = user_agent
        self._nursery = nursery
        self._places = trio.CapacityLimiter(limits.max_pages)
        self._life: _Life | None = None
        self._lives: set[_Life] = set()
        self._failures_in_a_row = 0
        self._not_before = -float("inf")
        self._starts = 0
        self._failures = 0
        self._killed = 0

    @property
    def browser(self) -> Browser | None:
        """The one that takes pages now, if there is one."""
        return self._life.browser if self._life is not None else None

    def statistics(self) -> PoolStatistics:
        browsers = [life.browser for life in self._lives if life.browser is not None]
        return PoolStatistics(
            pages=int(self._places.borrowed_tokens),
            pages_waiting=self._places.statistics().tasks_waiting,
            browsers=len(browsers),
            held_bytes=sum(browser.held_bytes for browser in browsers),
            browser_starts=self._starts,
            browser_failures=self._failures,
            pages_killed=self._killed + sum(browser.killed_pages for browser in browsers),
        )

    def page_succeeded(self) -> None:
        """A browser works: should it fail, it is replaced at once."""
        self._failures_in_a_row = 0

    @asynccontextmanager
    async def open_tab(self) -> AsyncIterator[Tab]:
        """Wait for a place and a browser, and lend a tab, which may not be made yet.

        Disposing of it is not waited for; its place is free when that is done.
        Raises: RenderFailure, if there is no browser to be had.
        """
        tab = Tab()
        await self._places.acquire_on_behalf_of(tab)
        try:
            life = await self._acquire()
        except BaseException:
            self._places.release_on_behalf_of(tab)
            raise
        life.begun += 1
        life.in_flight += 1
        assert life.tabs is not None
        tab._browser = life.browser
        life.tabs.start_soon(self._keep_tab, life, tab)  # which gives the place back
        try:
            yield tab
        finally:
            tab._closed.set()

    # --- Tabs ---------------------------------------------------------------------------------

    async def _keep_tab(self, life: _Life, tab: Tab) -> None:
        """Make a tab, and dispose of it and all that it kept when its page is done with it."""
        assert life.browser is not None
        browser = life.browser
        try:
            try:
                await self._serve_tab(browser, tab)
            except CDPError as error:
                tab._error = PageCrashed(str(error))
                if isinstance(error, CommandTimeout):
                    browser.cdp.lose("the browser does not answer")
                elif not browser.cdp.is_lost:
                    logger.warning("a tab could not be made or disposed of: %s", error)
                    life.retired = True  # whatever it has kept, it goes with the browser
        finally:
            if not tab._ready.is_set():
                tab._error = tab._error or PageCrashed("the browser is gone")
                tab._ready.set()
            self._places.release_on_behalf_of(tab)
            life.in_flight -= 1
            life.touch()

    async def _serve_tab(self, browser: Browser, tab: Tab) -> None:
        execute = browser.cdp.browser.execute
        context = (
            await execute(
                "Target.createBrowserContext",
                disposeOnDetach=True,
                proxyServer=self._proxy.address,
                proxyBypassList=self._proxy.bypass_list,
            )
        )["browserContextId"]
        browser.contexts.add(context)
        try:
            if not tab._closed.is_set():
                await execute(
                    "Browser.setDownloadBehavior", behavior="deny", browserContextId=context
                )
                # All that are not granted are refused, without a prompt.
                await execute("Browser.grantPermissions", permissions=[], browserContextId=context)
                target = (
                    await execute(
                        "Target.createTarget", url="about:blank", browserContextId=context
                    )
                )["targetId"]
                attached = await execute("Target.attachToTarget", targetId=target, flatten=True)
                tab.frame_id = target
                tab._session = browser.cdp.open_session(
                    attached["sessionId"],
                    WANTED_EVENTS,
                    max_event_bytes=self._limits.max_event_bytes,
                )
                tab._ready.set()
                await tab._closed.wait()
                tab._session.close()
        finally:
            # Not shielded: who cancels this is about to end the browser, or the connection to it,
            # and the context goes with either.
            browser.contexts.discard(context)
            await execute(  # noqa: ASYNC102
                "Target.disposeBrowserContext", browserContextId=context
            )

    # --- Browsers -----------------------------------------------------------------------------

    async def _acquire(self) -> _Life:
        """A browser that takes another page; started where there is none."""
        while True:
            life = self._life
            if life is None or not life.takes_pages(self._limits):
                if life is not None:
                    life.retired = True
                    life.touch()
                if self._not_before > trio.current_time():
                    await trio.sleep_until(self._not_before)
                    continue
                life = self._life = _Life()
                self._nursery.start_soon(self._live, life)
            await life.ready.wait()
            if life.failure is not None:
                raise RenderFailure(life.failure)
            if life.takes_pages(self._limits) and life.tabs is not None:
                return life

    async def _live(self, life: _Life) -> None:
        """Run one browser until it is over. Its failure is told to the pages that wait for it."""
        self._lives.add(life)
        failed = False
        try:
            async with (
                open_browser(
                    self._place,
                    self._limits,
                    proxy_arguments=self._proxy.browser_arguments,
                    user_agent=self._user_agent,
                ) as browser,
                trio.open_nursery() as tabs,
            ):
                self._starts += 1
                life.browser, life.tabs = browser, tabs
                life.ready.set()
                tabs.start_soon(self._tell_loss, life, browser)
                try:
                    await self._until_over(life, browser)
                finally:
                    life.retired = True  # and no checkpoint from here to the end of its tabs
                failed = browser.cdp.is_lost
                tabs.cancel_scope.cancel()
        except* BrowserFailed as group:
            failed = True
            life.failure = "; ".join(map(str, leaves(group)))
            logger.error("there is no browser: %s", life.failure)
        except* Exception as group:
            # A bug of ours costs the pages of this browser, and not the server.
            failed = True
            life.failure = "the browser could not be used"
            logger.error("a browser's task failed", exc_info=group)
        finally:
            life.retired = True
            life.ready.set()
            self._lives.discard(life)
            if life.browser is not None:
                self._killed += life.browser.killed_pages
            if self._life is life:
                self._life = None
        if failed:
            self._note_failure()

    async def _tell_loss(self, life: _Life, browser: Browser) -> None:
        await browser.cdp.wait_lost()
        life.touch()

    async def _until_over(self, life: _Life, browser: Browser) -> None:
        """Return when the browser is lost, or nobody uses it and nobody is to use it."""
        while not browser.cdp.is_lost:
            if life.in_flight:
                await life.changed.wait()
            elif not life.takes_pages(self._limits):
                return
            else:
                with trio.move_on_after(self._limits.idle_seconds) as scope:
                    await life.changed.wait()
                if scope.cancelled_caught and not life.in_flight:
                    return

    def _note_failure(self) -> None:
        """A browser failed: the first is replaced at once, each further one later than the last."""
        self._failures += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row > 1:
            doubled = self._limits.restart_seconds * 2.0 ** min(self._failures_in_a_row - 2, 16)
            self._not_before = trio.current_time() + min(doubled, self._limits.max_restart_seconds)
