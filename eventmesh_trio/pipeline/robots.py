"""robots.txt as RFC 9309 says: fetched once for all who need it, parsed, kept for a while."""

import re
from collections import OrderedDict
from typing import Final, Protocol

import attrs
import trio
from protego import Protego

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import (
    BlockedAddress,
    FetchTimeout,
    PageError,
    RobotsDenied,
    TooLarge,
    TooManyRedirects,
    UnsupportedContent,
    bare,
)
from eventmesh_trio.wire.urls import URL

__all__ = ["Robots", "RobotsCache", "RobotsLimits", "RobotsSource", "product_token"]

_INLINE_BYTES: Final = 16 * 1024  # parsing takes 0.6 ms a KiB; a larger file is parsed in a thread
_MAX_TOKENS: Final = 256  # the parser remembers every user agent that it was asked about
_ENTRY_BYTES: Final = 1024  # what an entry counts beside its text
_COMPATIBLE: Final = re.compile(r"^Mozilla/\S*\s*\(compatible;\s*([A-Za-z_-]+)", re.IGNORECASE)
_PRODUCT: Final = re.compile(r"^[^\s/]+")
_PAUSE_SECONDS: Final = 0.5  # between two attempts at one robots.txt


class RobotsSource(Protocol):
    """Where robots.txt files come from: the fetcher, with its guard and its limits."""

    @property
    def user_agent(self) -> str: ...

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        """As `eventmesh_trio.pipeline.fetch.HTTPFetcher.fetch_file`. Raises: PageError."""
        ...


@attrs.frozen(kw_only=True)
class RobotsLimits:
    max_bytes: int = attrs.field(default=500 * 1024, validator=attrs.validators.gt(0))
    """How much of a robots.txt is read; what follows is ignored (RFC 9309 asks for 500 KiB)."""

    fetch_seconds: float = attrs.field(default=15.0, validator=attrs.validators.gt(0))
    """How long getting one robots.txt may take, redirects and a second attempt included."""

    attempts: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    """How often a robots.txt is asked for before its origin counts as unreachable."""

    keep_seconds: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))
    """How long a robots.txt is used before it is fetched again (RFC 9309: at most a day)."""

    unreachable_seconds: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    """How long an origin whose robots.txt cannot be had is not asked again, nor for its pages."""

    failure_seconds: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))
    """How long a failure that may pass (no connection, no answer) is shared by all who ask; after
    that the retries of each URL decide."""

    max_entries: int = attrs.field(default=2000, validator=attrs.validators.gt(0))
    """Origins remembered; the one unused for longest goes first."""

    max_kept_bytes: int = attrs.field(default=8 * 1024 * 1024, validator=attrs.validators.gt(0))
    """Of robots.txt text behind what is remembered."""


def product_token(user_agent: str) -> str:
    """The name that robots.txt groups are looked up by (RFC 9309, section 2.2.1).

    It is the first product of a ``User-Agent``, or, in a browser-like one, the name that follows
    ``(compatible;``.
    """
    found = _COMPATIBLE.match(user_agent)
    if found is not None:
        return found[1]
    product = _PRODUCT.match(user_agent.strip())
    return product[0] if product else user_agent


@attrs.define(eq=False)
class Robots:
    """What one origin asks of crawlers. Without ``rules`` and ``failure`` anything is allowed."""

    rules: Protego | None
    expires_at: float  # `trio.current_time`
    nbytes: int
    failure: PageError | None = None
    tokens: set[str] = attrs.field(factory=set)

    def check(self, url: URL, user_agent: str) -> None:
        """Raise if the URL may not be fetched.

        Raises:
          RobotsDenied: by a rule, or because there is no robots.txt to be had.
          PageError: the reason why it could not be fetched: it holds for the page as well.
        """
        failure = self.failure
        if failure is not None:
            left = max(0.0, self.expires_at - trio.current_time())
            raise type(failure)(
                failure.message,
                context=failure.context,
                # An address that is blocked is not open to us later either.
                retry_after_seconds=None if isinstance(failure, BlockedAddress) else round(left, 3),
            )
        if self.rules is not None and not self.rules.can_fetch(url.href, self._token(user_agent)):
            raise RobotsDenied("the site's robots.txt does not allow this URL")

    def crawl_delay(self, user_agent: str) -> float:
        """Seconds between two requests, 0 where nothing is asked for."""
        delay = self.rules.crawl_delay(self._token(user_agent)) if self.rules else None
        return delay if delay is not None and delay > 0 else 0.0

    def _token(self, user_agent: str) -> str:
        token = product_token(user_agent)
        self.tokens.add(token)
        return token


class RobotsCache:
    """Robots.txt files by origin, each fetched by one task at a time."""

    def __init__(self, source: RobotsSource, limits: RobotsLimits) -> None:
        self._source = source
        self._limits = limits
        self._entries: OrderedDict[str, Robots] = OrderedDict()
        self._nbytes = 0
        self._flights: dict[str, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def kept_bytes(self) -> int:
        """The weight of all entries, at most ``max_kept_bytes``."""
        return self._nbytes

    async def get(self, url: URL) -> Robots:
        """The robots.txt that holds for a URL. Never fails: a failure is what it holds.

        Cancelled: another task that waits for the same file fetches it.
        """
        origin = _origin(url)
        while True:
            entry = self._entries.get(origin)
            if entry is not None:
                if entry.expires_at > trio.current_time() and len(entry.tokens) < _MAX_TOKENS:
                    self._entries.move_to_end(origin)
                    await trio.lowlevel.checkpoint()
                    return entry
                self._remove(origin)
            flight = self._flights.get(origin)
            if flight is None:
                break
            await flight.wait()
        flight = self._flights[origin] = trio.Event()
        try:
            entry = await self._load(origin)
            self._keep(origin, entry)
            return entry
        finally:
            del self._flights[origin]
            flight.set()

    async def _load(self, origin: str) -> Robots:
        limits = self._limits
        outcome: Page | PageError = FetchTimeout(
            f"robots.txt was not received within {limits.fetch_seconds:g} seconds",
            context={"timeout_threshold_ms": round(limits.fetch_seconds * 1000)},
        )
        with trio.move_on_after(limits.fetch_seconds):
            outcome = await self._ask(f"{origin}/robots.txt")
        if isinstance(outcome, (TooManyRedirects, TooLarge, UnsupportedContent)):
            return self._entry(None)  # "unavailable", RFC 9309, section 2.3.1.3
        if isinstance(outcome, PageError):
            return self._entry(None, outcome)
        if outcome.status >= 500:
            return self._entry(
                None,
                RobotsDenied(
                    "the site's robots.txt could not be read, and without it nothing is fetched: "
                    f"the origin answered with HTTP status {outcome.status}"
                ),
            )
        if not 200 <= outcome.status < 300:
            return self._entry(None)
        text = outcome.body.decode("utf-8", "replace").removeprefix("\ufeff")
        if len(outcome.body) <= _INLINE_BYTES:
            return self._entry(Protego.parse(text), nbytes=len(outcome.body))
        rules = await trio.to_thread.run_sync(Protego.parse, text)
        return self._entry(rules, nbytes=len(outcome.body))

    async def _ask(self, href: str) -> Page | PageError:
        """The file, or the failure of the last attempt."""
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= self._limits.attempts
            try:
                page = await self._source.fetch_file(href, max_bytes=self._limits.max_bytes)
            except PageError as error:
                if last or not error.can_retry:
                    await trio.lowlevel.checkpoint()
                    return bare(error)
            else:
                if last or page.status < 500:
                    return page
            await trio.sleep(_PAUSE_SECONDS)

    def _entry(
        self, rules: Protego | None, failure: PageError | None = None, nbytes: int = 0
    ) -> Robots:
        limits = self._limits
        seconds = limits.keep_seconds
        if isinstance(failure, RobotsDenied):
            seconds = limits.unreachable_seconds
        elif failure is not None:
            seconds = limits.failure_seconds if failure.can_retry else limits.unreachable_seconds
        return Robots(rules, trio.current_time() + seconds, nbytes + _ENTRY_BYTES, failure)

    def _keep(self, origin: str, entry: Robots) -> None:
        self._entries[origin] = entry
        self._nbytes += entry.nbytes
        while len(self._entries) > 1 and (
            len(self._entries) > self._limits.max_entries
            or self._nbytes > self._limits.max_kept_bytes
        ):
            self._remove(next(iter(self._entries)))

    def _remove(self, origin: str) -> None:
        self._nbytes -= self._entries.pop(origin).nbytes


def _origin(url: URL) -> str:
    return url.href.removesuffix(url.target)
