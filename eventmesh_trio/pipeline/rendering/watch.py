"""What a page in the browser does, by its events: kept for who waits, answered where it must be.

Requests that are left out fail here, dialogs are dismissed, the proxy gets its credentials, and
each address that the page goes on to is judged.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import trio

from eventmesh_trio.abc import Fields
from eventmesh_trio.errors import PageError, TooLarge, TooManyRedirects
from eventmesh_trio.pipeline.fetching.fetch import TEMPORARY_REDIRECTS, parse_target
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.proxy import Passage
from eventmesh_trio.pipeline.rendering.cdp import CDPSession
from eventmesh_trio.pipeline.rendering.cdp_messages import CDPEvent, ConnectionLost, SessionClosed
from eventmesh_trio.pipeline.rendering.limits import RenderLimits
from eventmesh_trio.wire.urls import URL

__all__ = ["WANTED_EVENTS", "BeforeHop", "PageCrashed", "PageWatch", "Response"]

BeforeHop: TypeAlias = Callable[[URL], Awaitable[None]]

WANTED_EVENTS: Final = (
    "Fetch.authRequired",
    "Fetch.requestPaused",
    "Inspector.targetCrashed",
    "Network.loadingFailed",
    "Network.loadingFinished",
    "Network.requestWillBeSent",
    "Network.responseReceived",
    "Page.frameNavigated",
    "Page.javascriptDialogOpening",
    "Page.lifecycleEvent",
)
# What may be under way for as long as a page is open.
_ENDLESS: Final = frozenset({"EventSource", "WebSocket", "Media", "Ping", "Prefetch"})


class PageCrashed(Exception):
    """The page's process is gone; another attempt may fare better."""


@attrs.frozen
class Response:
    """The main document's: of the newest one that the page went on to show."""

    url: str
    status: int
    media_type: str
    fields: Fields


@attrs.define(eq=False)
class PageWatch:
    """One page's state, as its events tell it. ``nursery`` is the load's, which owns `run`."""

    _session: CDPSession
    _frame_id: str
    _limits: RenderLimits
    _policy: AddressPolicy
    _passage: Passage
    _before_hop: BeforeHop | None
    nursery: trio.Nursery = attrs.field(init=False)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Around what waits for the page; cancelled when the page has failed."""
    failure: Exception | None = attrs.field(default=None, init=False)
    wire_bytes: int = attrs.field(default=0, init=False)
    """What the page's responses had, heads included, as they were received."""
    response: Response | None = attrs.field(default=None, init=False)
    answers: dict[str, Response] = attrs.field(factory=dict, init=False)
    """Of navigations that no document has come of yet, by their loader."""
    detours: list[Fields] = attrs.field(factory=list, init=False)
    """The fields of each temporary redirect that the page was led on by."""
    under_way: dict[str, str] = attrs.field(factory=dict, init=False)
    """Requests, and the loader of each."""
    loaded: bool = attrs.field(default=False, init=False)
    net_error: str = attrs.field(default="", init=False)
    quiet_since: float = attrs.field(factory=trio.current_time, init=False)
    changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set at the next event, and replaced."""
    target: URL | None = attrs.field(default=None, init=False)
    """Where the page was led to at last; None: nowhere else."""
    _loader: str = attrs.field(default="", init=False)
    _requests: int = attrs.field(default=0, init=False)
    _navigations: int = attrs.field(default=0, init=False)
    _judging: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    """Of one navigation at a time: what comes before a hop has one turn at a host to move."""

    async def run(self) -> None:
        """Read events until the session ends, which is the page's failure, or until cancelled."""
        while True:
            try:
                event = await self._session.receive()
            except ConnectionLost as error:
                return self.fail(error)
            except SessionClosed as error:
                return self.fail(PageCrashed(str(error)))
            self._note(event)
            changed, self.changed = self.changed, trio.Event()
            changed.set()

    def fail(self, error: Exception) -> None:
        """The page is over, and this is why; the first one counts."""
        if self.failure is None:
            self.failure = error
        self.scope.cancel()

    def _note(self, event: CDPEvent) -> None:
        params = event.params
        match event.method:
            case "Network.requestWillBeSent":
                self._sent(params)
            case "Network.responseReceived":
                self._answered(params)
            case "Network.loadingFinished" | "Network.loadingFailed":
                self.wire_bytes += max(0, round(params.get("encodedDataLength", 0)))
                if self.under_way.pop(params["requestId"], None) is not None:
                    self.quiet_since = trio.current_time()
                if params.get("type") == "Document":
                    self.net_error = params.get("errorText", "")
            case "Page.lifecycleEvent":
                # Of the empty page that was there before, it is told as well.
                ours = params["frameId"] == self._frame_id and params["loaderId"] == self._loader
                if ours and params["name"] == "load":
                    self.loaded = True
                    self.quiet_since = trio.current_time()
            case "Page.frameNavigated":
                self._navigated(params["frame"])
            case "Fetch.requestPaused":
                self._paused(params)
            case "Fetch.authRequired":
                self._asked_for_credentials(params)
            case "Page.javascriptDialogOpening":
                self._session.notify("Page.handleJavaScriptDialog", accept=False)
            case "Inspector.targetCrashed":
                self.fail(PageCrashed("the page's process ended"))

    def _sent(self, params: Mapping[str, Any]) -> None:
        self._requests += "redirectResponse" not in params
        if self._requests > self._limits.max_requests:
            self.fail(
                TooLarge(
                    "the page makes too many requests",
                    context={"limit_requests": self._limits.max_requests},
                )
            )
        if (redirect := params.get("redirectResponse")) is not None:
            self._redirected(params, redirect)
        if params.get("type") not in _ENDLESS:
            self.under_way[params["requestId"]] = params.get("loaderId", "")

    def _redirected(self, params: Mapping[str, Any], redirect: Mapping[str, Any]) -> None:
        ours = params.get("type") == "Document" and params.get("frameId") == self._frame_id
        # Each is a navigation that was judged, so they stay few.
        if ours and redirect["status"] in TEMPORARY_REDIRECTS:
            self.detours.append(_fields(redirect.get("headers", {})))

    def _answered(self, params: Mapping[str, Any]) -> None:
        if params.get("type") != "Document" or params.get("frameId") != self._frame_id:
            return
        told = params["response"]
        # One for each navigation that is allowed, so that they stay few.
        self.answers[params["loaderId"]] = Response(
            url=told["url"],
            status=told["status"],
            media_type=told.get("mimeType", ""),
            fields=_fields(told.get("headers", {})),
        )

    def _navigated(self, frame: Mapping[str, Any]) -> None:
        """Another document is shown; in the page itself, it is the page's from here on."""
        if frame.get("parentId") is not None or frame["id"] != self._frame_id:
            return
        loader = self._loader = frame["loaderId"]
        self.loaded = False
        self.response = self.answers.get(loader, self.response)
        self.answers.clear()
        self.under_way = {request: of for request, of in self.under_way.items() if of == loader}

    def _paused(self, params: Mapping[str, Any]) -> None:
        request = params["requestId"]
        if params["resourceType"] != "Document":
            self._session.notify(
                "Fetch.failRequest", requestId=request, errorReason="BlockedByClient"
            )
        elif params["frameId"] != self._frame_id:
            self._session.notify("Fetch.continueRequest", requestId=request)
        else:
            self.nursery.start_soon(self._judge_hop, request, params["request"]["url"])

    async def _judge_hop(self, request: str, href: str) -> None:
        """Let the page go where it is led, by status, script or markup, as a fetch would."""
        first = self._navigations == 0
        self._navigations += 1
        try:
            if self._navigations > self._limits.max_navigations + 1:
                raise TooManyRedirects(
                    f"there are more than {self._limits.max_navigations} redirects",
                    context={"redirects": self._limits.max_navigations},
                )
            if not first:
                url = self.target = parse_target(href)
                self._policy.judge_url(url)
                if self._before_hop is not None:
                    async with self._judging:
                        await self._before_hop(url)
        except PageError as error:
            self.fail(error)
        else:
            self._session.notify("Fetch.continueRequest", requestId=request)

    def _asked_for_credentials(self, params: Mapping[str, Any]) -> None:
        """The proxy knows the page by its passage; origins get no credentials."""
        answer = {"response": "CancelAuth"}
        if params["authChallenge"].get("source") == "Proxy":
            answer = {
                "response": "ProvideCredentials",
                "username": self._passage.username,
                "password": self._passage.password,
            }
        self._session.notify(
            "Fetch.continueWithAuth", requestId=params["requestId"], authChallengeResponse=answer
        )


def _fields(headers: Mapping[str, str]) -> Fields:
    """Fields of one name come as one, with line feeds between the values."""
    return tuple(
        (name.lower().encode("latin-1", "replace"), line.encode("latin-1", "replace"))
        for name, value in headers.items()
        for line in value.split("\n")
    )
