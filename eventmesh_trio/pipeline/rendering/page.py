"""One page in the browser: from its first request to the text of its document.

It waits for what the page's events tell (`eventmesh_trio.pipeline.rendering.watch`) to become as it
should be, within its limits, and takes the document as it is then.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import trio

from eventmesh_trio.abc import Fields
from eventmesh_trio.errors import (
    PageError,
    RenderFailure,
    TooLarge,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.fetching.content_types import is_text
from eventmesh_trio.pipeline.network.proxy import Passage
from eventmesh_trio.pipeline.rendering.cdp import CDPSession
from eventmesh_trio.pipeline.rendering.cdp_messages import (
    CDPError,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
)
from eventmesh_trio.pipeline.rendering.limits import RESOURCE_TYPES, RenderLimits
from eventmesh_trio.pipeline.rendering.net_errors import error_of
from eventmesh_trio.pipeline.rendering.scripts import has_selector, scroll, slice_of_text, take_text
from eventmesh_trio.pipeline.rendering.watch import PageCrashed, PageWatch, Response
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

__all__ = ["PageLoad", "RenderedText"]

_POLL_SECONDS: Final = 0.1
_SOFT_SHARE: Final = 0.8
_WORLD_ATTEMPTS: Final = 5


@attrs.frozen
class RenderedText:
    """What the page showed at the end: its address then, its text, and what that is."""

    url: str
    text: str
    media_type: str
    cut_short: bool = False
    """There was no time to wait until the page was loaded and quiet."""


@attrs.define(eq=False)
class PageLoad:
    """One attempt at one page, over the session of its tab. Used once."""

    _session: CDPSession
    _frame_id: str
    _limits: RenderLimits
    _passage: Passage
    _watch: PageWatch

    @property
    def response(self) -> Response | None:
        """Of the document that was taken."""
        return self._watch.response

    @property
    def wire_bytes(self) -> int:
        return self._watch.wire_bytes

    @property
    def detours(self) -> tuple[Fields, ...]:
        """The fields of each temporary redirect on the way."""
        return tuple(self._watch.detours)

    async def load(self, url: URL, options: CrawlOptions, *, deadline: float) -> RenderedText:
        """Load a URL and take its document, as far as it has come well before ``deadline``.

        Raises:
          PageError: of the kind that fits.
          PageCrashed, CDPError: the page or the browser failed.
        """
        outcome: RenderedText | Exception | None = None
        async with trio.open_nursery() as nursery:
            self._watch.nursery = nursery
            nursery.start_soon(self._watch.run)
            with self._watch.scope:
                try:
                    try:
                        await self._prepare(options)
                    except CommandTimeout as error:  # an empty tab: this is not the page's fault
                        raise ConnectionLost(str(error)) from None
                    outcome = await self._load(url, options, deadline)
                except (PageError, CDPError, PageCrashed) as error:
                    outcome = error
            nursery.cancel_scope.cancel()
        if isinstance(outcome, RenderedText):
            return outcome
        failure = self._watch.failure or outcome
        assert failure is not None
        raise failure

    # --- The steps ----------------------------------------------------------------------------

    async def _prepare(self, options: CrawlOptions) -> None:
        execute = self._session.execute
        await execute("Page.enable")
        await execute("Page.setLifecycleEventsEnabled", enabled=True)
        # Bodies are never asked for: the browser need not keep them.
        await execute("Network.enable", maxTotalBufferSize=0, maxResourceBufferSize=0)
        paused = ["Document", *(RESOURCE_TYPES[name] for name in self._limits.left_out)]
        await execute(
            "Fetch.enable",
            handleAuthRequests=True,
            patterns=[{"urlPattern": "*", "resourceType": name} for name in paused],
        )
        if options.user_agent is not None:
            await execute("Emulation.setUserAgentOverride", userAgent=options.user_agent)

    async def _load(self, url: URL, options: CrawlOptions, deadline: float) -> RenderedText:
        now = trio.current_time()
        soft = now + (deadline - now) * _SOFT_SHARE
        answer = await self._session.execute_within(
            max(deadline - now, 0.001), "Page.navigate", url=url.href
        )
        if error_text := answer.get("errorText"):
            return self._no_document(error_text, url)
        await self._wait(lambda: self._watch.loaded, self._limits.load_seconds, soft)
        if options.dynamic_wait_for is not None:
            await self._wait_for_selector(options.dynamic_wait_for, soft)
        else:
            await self._settle(soft)
        busy = False
        with trio.move_on_at(soft):
            try:
                await self._scroll(options.scroll_steps, soft)
            except CommandTimeout:
                busy = True  # it is ended when the document is taken
        cut_short = busy or trio.current_time() >= soft
        return attrs.evolve(await self._take(url, deadline), cut_short=cut_short)

    async def _scroll(self, steps: int, latest: float) -> None:
        for _ in range(steps):
            under_way = len(self._watch.under_way)
            if not await self._evaluate(scroll()) and not under_way and not self._watch.under_way:
                return  # at the end, and nothing is coming
            self._watch.quiet_since = trio.current_time()
            await self._settle(latest)

    def _no_document(self, error_text: str, url: URL) -> RenderedText:
        """The navigation brought no document; raises, unless there is a response to tell of."""
        response = next(iter(self._watch.answers.values()), None)
        if error_text == "net::ERR_ABORTED" and response is not None:
            if response.status < 400 and response.status not in (204, 205):
                raise _unsupported(response)
            self._watch.response = response
            return RenderedText(response.url, "", response.media_type)
        raise self._failed_navigation(error_text, url)

    async def _settle(self, latest: float) -> None:
        """Wait until nothing was under way for a while; give up waiting in time."""
        quiet = self._limits.quiet_seconds
        give_up = min(latest, trio.current_time() + self._limits.settle_seconds)
        while (now := trio.current_time()) < give_up:
            if self._watch.loaded and not self._watch.under_way:
                if now - self._watch.quiet_since >= quiet:
                    return
                until = min(give_up, self._watch.quiet_since + quiet)
            else:
                until = give_up
            changed = self._watch.changed
            with trio.move_on_at(until):
                await changed.wait()

    async def _wait(self, condition: Callable[[], bool], seconds: float, latest: float) -> bool:
        with trio.move_on_at(min(latest, trio.current_time() + seconds)):
            while not condition():
                await self._watch.changed.wait()
        await trio.lowlevel.checkpoint()
        return condition()

    async def _wait_for_selector(self, selector: str, latest: float) -> None:
        seconds = self._limits.selector_seconds
        give_up = min(latest, trio.current_time() + seconds)
        expression = has_selector(selector)
        while not await self._evaluate(expression):
            if trio.current_time() >= give_up:
                raise RenderFailure(
                    "the element of dynamic_wait_for did not appear in time",
                    context={"timeout_threshold_ms": round(seconds * 1000)},
                )
            await trio.sleep(_POLL_SECONDS)

    async def _take(self, url: URL, deadline: float) -> RenderedText:
        """The document's text; once more where the page has gone on to another meanwhile."""
        for _ in range(_WORLD_ATTEMPTS):
            try:
                world = await self._open_world(deadline)
                found = await self._evaluate(take_text(self._limits.max_html_bytes), world)
                if found["url"].startswith("chrome-error:"):
                    raise self._failed_navigation(self._watch.net_error or "net::ERR_FAILED", url)
                self._judge_type(found)
                pieces: list[str] = []
                end = 0
                while end < found["characters"]:
                    piece, end = await self._evaluate(slice_of_text(end), world)
                    pieces.append(piece)
            except CommandFailed:
                await trio.sleep(_POLL_SECONDS)  # the world was of a document that is gone
                continue
            return RenderedText(found["url"], "".join(pieces), found["type"])
        raise RenderFailure("the page goes on to another before it can be read")

    def _judge_type(self, found: Mapping[str, Any]) -> None:
        if found["bytes"] > self._limits.max_html_bytes:
            raise TooLarge(
                "the rendered document is over the limit",
                context={"limit_bytes": self._limits.max_html_bytes},
            )
        response = self.response
        if response is not None and response.status < 400 and is_text(found["type"]) is not True:
            raise _unsupported(response)

    def _failed_navigation(self, error_text: str, url: URL) -> PageError:
        """Nothing answered where the page was, or where it went on to: the proxy may know why."""
        target = self._watch.target or url
        return self._passage.failure(target.host, target.port) or error_of(error_text)

    async def _open_world(self, deadline: float) -> int:
        """A world in the page that its scripts do not share; a script without end is ended."""
        left = max(deadline - trio.current_time(), 0.001)
        try:
            return await self._create_world(left / 2)
        except CommandTimeout:
            self._session.notify("Runtime.terminateExecution")
        return await self._create_world(left / 4)

    async def _create_world(self, seconds: float) -> int:
        made = await self._session.execute_within(
            min(seconds, self._limits.command_seconds),
            "Page.createIsolatedWorld",
            frameId=self._frame_id,
            worldName="eventmesh",
        )
        return int(made["executionContextId"])

    async def _evaluate(self, expression: str, world: int | None = None) -> Any:
        """The value of an expression, in a world of its own where none is given.

        Raises: CommandFailed where there is no such world any more; as `CDPSession.execute`.
        """
        for _ in range(_WORLD_ATTEMPTS):
            try:
                context = (
                    await self._create_world(self._limits.command_seconds)
                    if world is None
                    else world
                )
                answer = await self._session.execute(
                    "Runtime.evaluate", expression=expression, contextId=context, returnByValue=True
                )
            except CommandFailed:
                if world is not None:
                    raise
                await trio.sleep(_POLL_SECONDS)  # the page was just replaced by another
                continue
            if (thrown := answer.get("exceptionDetails")) is not None:
                described = str(thrown.get("exception", {}).get("description", ""))
                if "SyntaxError" in described:
                    raise RenderFailure("dynamic_wait_for is not a CSS selector")
                raise RenderFailure("the page could not be read")
            return answer["result"].get("value")
        raise RenderFailure("the page goes on to another before it can be read")


def _unsupported(response: Response) -> UnsupportedContent:
    kind = response.media_type[:64] or "unknown"
    return UnsupportedContent(f"the content type {kind} is not one that is rendered")
