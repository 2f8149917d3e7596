"""robots.txt as RFC 9309 says: fetched once for all who need it, parsed, kept for a while."""

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

import attrs
import trio

from eventmesh_trio.abc import Fields, Page
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
from eventmesh_trio.pipeline.manners.robots_rules import (
    RobotsFile,
    Rules,
    parse_robots,
    product_token,
)
from eventmesh_trio.wire.urls import URL

__all__ = [
    "Robots",
    "RobotsCache",
    "RobotsLimits",
    "RobotsSource",
    "RobotsVerdict",
    "product_token",
]

_INLINE_BYTES: Final = 16 * 1024  # parsing takes 0.1 ms a KiB; a larger file is read in a thread
_INLINE_WILDCARDS: Final = 1000  # so many take up to a millisecond; more are tried in a thread
_ENTRY_BYTES: Final = 1024  # what an entry weighs beside its file
_PAUSE_SECONDS: Final = 0.5  # between two attempts at one robots.txt
_DAY_SECONDS: Final = 86_400.0
_DIRECTIVE: Final = re.compile(r"([a-z-]+)(?:\s*=\s*\"?(\d{1,10})\"?)?", re.IGNORECASE)


class RobotsSource(Protocol):
    """Where robots.txt files come from: the fetcher, with its guard and its limits."""

    @property
    def user_agent(self) -> str: ...

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        """As `eventmesh_trio.pipeline.fetching.fetch.HTTPFetcher.fetch_file`. Raises: PageError."""
        ...


@attrs.frozen(kw_only=True)
class RobotsLimits:
    max_bytes: int = attrs.field(default=500 * 1024, validator=attrs.validators.gt(0))
    """How much of a robots.txt is read; what follows is ignored (RFC 9309: at least 500 KiB)."""

    fetch_seconds: float = attrs.field(default=15.0, validator=attrs.validators.gt(0))
    """How long getting one robots.txt may take, redirects and a second attempt included."""

    attempts: int = attrs.field(default=2, validator=attrs.validators.ge(1))
    """How often a robots.txt is asked for before its origin counts as unreachable."""

    keep_seconds: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))
    """How long a robots.txt is used before it is fetched again, where its response does not say
    (``Cache-Control: max-age``)."""

    min_keep_seconds: float = attrs.field(default=300.0, validator=attrs.validators.ge(0))
    """How long it is used at least, whatever its response says (``no-store`` and a short
    ``max-age``); robots.txt is not to cost more than the pages."""

    max_keep_seconds: float = attrs.field(
        default=_DAY_SECONDS,
        validator=[attrs.validators.gt(0), attrs.validators.le(_DAY_SECONDS)],
    )
    """How long it is used at most, whatever its response says; a day, or less (RFC 9309)."""

    unreachable_seconds: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    """How long an origin whose robots.txt cannot be had is not asked again, nor for its pages."""

    max_unreachable_seconds: float = attrs.field(
        default=30 * _DAY_SECONDS, validator=attrs.validators.gt(0)
    )
    """How long it must have been so before the last robots.txt that was had is used again, or,
    where there was none, all is allowed (RFC 9309, section 2.3.1.4)."""

    failure_seconds: float = attrs.field(default=0.1, validator=attrs.validators.gt(0))
    """How long a failure that may pass (no connection, no answer) is shared by all who ask; after
    that the retries of each URL decide."""

    max_entries: int = attrs.field(default=2000, validator=attrs.validators.gt(0))
    """Origins remembered; the one unused for longest goes first."""

    max_kept_bytes: int = attrs.field(default=32 * 1024 * 1024, validator=attrs.validators.gt(0))
    """What the files that are remembered may take of memory, all together."""


@attrs.define(eq=False)
class Robots:
    """What one origin asks of crawlers; an empty ``file`` allows everything."""

    file: RobotsFile
    expires_at: float  # `trio.current_time`
    failure: PageError | None = None  # why nothing is allowed; ``file`` is what was had before
    unreachable_since: float | None = None
    absence: str | None = None  # why there are no rules, where that allows everything

    @property
    def nbytes(self) -> int:
        return _ENTRY_BYTES + self.file.weight

    async def permit(self, url: URL, user_agent: str) -> float:
        """Return the seconds that the origin asks for between two requests; 0 where it does not.

        Raises:
          RobotsDenied: by a rule, or because there is no robots.txt to be had.
          PageError: the reason why it could not be fetched: it holds for the page as well.
        """
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self._why(self.failure)
        rules = await self._rules_for(user_agent)
        if rules.wildcards <= _INLINE_WILDCARDS:
            allowed = rules.allows(url.target)
        else:
            allowed = await trio.to_thread.run_sync(
                rules.allows, url.target, abandon_on_cancel=True
            )
        if not allowed:
            raise RobotsDenied("the site's robots.txt does not allow this URL")
        return rules.delay_seconds

    async def explain(self, url: URL, user_agent: str) -> "RobotsVerdict":
        """What `permit` would do, and by which line. Raises nothing."""
        rules = await self._rules_for(user_agent)
        line = await trio.to_thread.run_sync(rules.decisive, url.target, abandon_on_cancel=True)
        failure: PageError | None = None
        try:
            await self.permit(url, user_agent)
        except PageError as error:
            failure = error
        return RobotsVerdict(
            allowed=failure is None,
            product=product_token(user_agent),
            line=line if self.failure is None else None,
            reason=self.absence if failure is None else failure.message,
            asked_delay_seconds=rules.delay_seconds,
        )

    async def _rules_for(self, user_agent: str) -> Rules:
        if self.file.weight <= _INLINE_BYTES:
            return self.file.rules_for(user_agent)
        rules = self.file.remembered(user_agent)
        if rules is None:
            joined = await trio.to_thread.run_sync(
                self.file.join, user_agent, abandon_on_cancel=True
            )
            rules = self.file.remember(user_agent, joined)
        return rules

    def _why(self, failure: PageError) -> PageError:
        left = max(0.0, self.expires_at - trio.current_time(), failure.retry_after_seconds or 0.0)
        return type(failure)(
            failure.message,
            context=failure.context,
            # An address that is blocked is not open to us later either.
            retry_after_seconds=None if isinstance(failure, BlockedAddress) else round(left, 3),
        )


@attrs.frozen
class RobotsVerdict:
    """What a robots.txt says of one URL, and why."""

    allowed: bool
    product: str  # the name that its groups were looked up by
    line: str | None  # the rule that decides; None where none matches, or there are no rules
    reason: str | None  # why it is not allowed, or why there are no rules
    asked_delay_seconds: float


class RobotsCache:
    """Robots.txt files by origin, each fetched by one task at a time.

    ``hits`` counts those who were served without a fetch of their own, ``misses`` the fetches.

    Args:
      answered: told each response that was had, and the `trio.current_time` of its request.
    """

    def __init__(
        self,
        source: RobotsSource,
        limits: RobotsLimits,
        answered: Callable[[Page, float], None] | None = None,
    ) -> None:
        self._source = source
        self._limits = limits
        self._answered = answered
        self._entries: OrderedDict[str, Robots] = OrderedDict()
        self._nbytes = 0
        self._flights: dict[str, trio.Event] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def kept_bytes(self) -> int:
        """The weight of all entries, at most ``max_kept_bytes`` where there are several."""
        return self._nbytes

    def is_fresh(self, url: URL) -> bool:
        """Whether `get` would need no fetch."""
        entry = self._entries.get(_origin(url))
        return entry is not None and entry.expires_at > trio.current_time()

    async def get(self, url: URL) -> Robots:
        """The robots.txt that holds for a URL. Never fails: a failure is what it holds.

        Cancelled: another task that waits for the same file fetches it.
        """
        origin = _origin(url)
        while True:
            entry = self._entries.get(origin)
            if entry is not None and entry.expires_at > trio.current_time():
                self._entries.move_to_end(origin)
                self.hits += 1
                await trio.lowlevel.checkpoint()
                return entry
            flight = self._flights.get(origin)
            if flight is None:
                break
            await flight.wait()
        flight = self._flights[origin] = trio.Event()
        self.misses += 1
        try:
            entry = await self._load(origin, entry)
            self._keep(origin, entry)
            return entry
        finally:
            del self._flights[origin]
            flight.set()

    async def _load(self, origin: str, old: Robots | None) -> Robots:
        """Fetch and parse; ``old`` is what was known before."""
        limits = self._limits
        outcome: Page | PageError = FetchTimeout(
            f"robots.txt was not received within {limits.fetch_seconds:g} seconds",
            context={"timeout_threshold_ms": round(limits.fetch_seconds * 1000)},
        )
        with trio.move_on_after(limits.fetch_seconds):
            outcome = await self._ask(f"{origin}/robots.txt")
        if isinstance(outcome, (TooManyRedirects, TooLarge, UnsupportedContent)):
            # "Unavailable", RFC 9309, section 2.3.1.3.
            return attrs.evolve(self._entry(RobotsFile()), absence=outcome.message)
        if isinstance(outcome, PageError):
            return self._unreachable(outcome, old)
        if outcome.status >= 500:
            return self._unreachable(
                RobotsDenied(
                    "the site's robots.txt could not be read, and without it nothing is fetched: "
                    f"the origin answered with HTTP status {outcome.status}"
                ),
                old,
            )
        if not 200 <= outcome.status < 300:
            absence = f"there is none (HTTP status {outcome.status})"
            return attrs.evolve(self._entry(RobotsFile()), absence=absence)
        body = outcome.body
        if len(body) >= limits.max_bytes:
            # Cut within a line, which would say something else than it did.
            body = body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]
        if len(body) <= _INLINE_BYTES:
            return self._entry(parse_robots(body), outcome.fields)
        file = await trio.to_thread.run_sync(parse_robots, body, abandon_on_cancel=True)
        return self._entry(file, outcome.fields)

    async def _ask(self, href: str) -> Page | PageError:
        """The file, or the failure of the last attempt."""
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= self._limits.attempts
            began = trio.current_time()
            try:
                page = await self._source.fetch_file(href, max_bytes=self._limits.max_bytes)
            except PageError as error:
                if last or not error.can_retry:
                    await trio.lowlevel.checkpoint()
                    return bare(error)
            else:
                if self._answered is not None:
                    self._answered(page, began)
                if last or page.status < 500:
                    return page
            await trio.sleep(_PAUSE_SECONDS)

    def _entry(self, file: RobotsFile, fields: Fields = ()) -> Robots:
        limits = self._limits
        told = _max_age(fields)
        seconds = limits.keep_seconds if told is None else max(told, limits.min_keep_seconds)
        return Robots(file, trio.current_time() + min(seconds, limits.max_keep_seconds))

    def _unreachable(self, failure: PageError, old: Robots | None) -> Robots:
        limits, now = self._limits, trio.current_time()
        file = old.file if old is not None else RobotsFile()
        if isinstance(failure, BlockedAddress):  # by us, and no trouble of the origin's
            return Robots(file, now + limits.unreachable_seconds, failure)
        since = old.unreachable_since if old is not None else None
        since = now if since is None else since
        passes = failure.can_retry and not isinstance(failure, RobotsDenied)
        seconds = limits.failure_seconds if passes else limits.unreachable_seconds
        if now - since >= limits.max_unreachable_seconds:
            return Robots(file, now + limits.unreachable_seconds, None, since)
        return Robots(file, now + seconds, failure, since)

    def _keep(self, origin: str, entry: Robots) -> None:
        self._remove(origin)
        self._entries[origin] = entry
        self._nbytes += entry.nbytes
        while len(self._entries) > 1 and (
            len(self._entries) > self._limits.max_entries
            or self._nbytes > self._limits.max_kept_bytes
        ):
            self._remove(next(iter(self._entries)))

    def _remove(self, origin: str) -> None:
        entry = self._entries.pop(origin, None)
        if entry is not None:
            self._nbytes -= entry.nbytes


def _origin(url: URL) -> str:
    return url.href.removesuffix(url.target)


def _max_age(fields: Fields) -> float | None:
    """How long a response may be used by its ``Cache-Control``, or None where it does not say.

    Source: RFC 9111, sections 5.2.2 and 5.1 (``Age``: how long others have kept it already).
    """
    text = b",".join(value for name, value in fields if name == b"cache-control").decode("latin-1")
    directives = {found[1].lower(): found[2] for found in _DIRECTIVE.finditer(text)}
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    seconds = directives.get("max-age")
    if not seconds:
        return None
    age = next((value for name, value in fields if name == b"age"), b"").strip()
    return float(seconds) - (float(age[:10]) if age.isdigit() else 0.0)
