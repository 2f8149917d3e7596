"""What we owe a host: its robots.txt, few requests at once, and the pause that it asks for.

One `Politeness` serves all runs of a program. It owns no task: whoever comes first fetches a
robots.txt, and who has a turn passes it on when it is over.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from eventmesh_trio.pipeline.fetch import parse_target
from eventmesh_trio.pipeline.robots import RobotsCache, RobotsLimits, RobotsSource
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

__all__ = ["Politeness", "PolitenessLimits"]


@attrs.frozen(kw_only=True)
class PolitenessLimits:
    """How one host is treated by all runs together."""

    max_requests_per_host: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    """Requests at once to one host."""

    delay_seconds: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    """The least time between the starts of two requests to one host."""

    max_crawl_delay_seconds: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))
    """The longest crawl-delay of a robots.txt that is kept; a longer one counts as this."""

    max_resting_hosts: int = attrs.field(default=10_000, validator=attrs.validators.ge(0))
    """Hosts without requests that are remembered until their delay is over."""

    robots: RobotsLimits = attrs.field(factory=RobotsLimits)


@attrs.define(eq=False)
class _Host:
    turns: trio.Semaphore
    gate: trio.Lock = attrs.field(factory=trio.Lock)
    next_start: float = 0.0
    users: int = 0

    async def wait_start(self, delay: float) -> None:
        """Wait for this request's moment. Cancelled: no moment was taken from those behind."""
        async with self.gate:
            await trio.sleep_until(self.next_start)
            self.next_start = trio.current_time() + delay


class Politeness:
    """Turns at hosts, first come, first served, whatever run they are for.

    Args:
      source: the fetcher; robots.txt files come through its guard.
    """

    def __init__(self, source: RobotsSource, limits: PolitenessLimits | None = None) -> None:
        self._limits = limits or PolitenessLimits()
        self._user_agent = source.user_agent
        self._robots = RobotsCache(source, self._limits.robots)
        self._hosts: dict[str, _Host] = {}
        self._resting: OrderedDict[str, _Host] = OrderedDict()  # without users, not due yet

    @property
    def known_hosts(self) -> int:
        """Hosts that anything is remembered about, robots.txt files not counted."""
        return len(self._hosts) + len(self._resting)

    @asynccontextmanager
    async def turn(self, url: str, options: CrawlOptions) -> AsyncIterator[None]:
        """Hold a turn at the URL's host for as long as the block lasts.

        Waits for robots.txt, for a turn, and for the delay. Cancelled while waiting: the turn
        goes to the next. The caller's deadline counts while it waits.

        Raises:
          RobotsDenied: the URL is not to be fetched (where ``options.respect_robots``).
          BlockedAddress, DNSError, NetworkFailure, TLSFailure, FetchTimeout: its robots.txt could
            not be fetched for a reason that holds for the page as well.
        """
        target = parse_target(url)
        delay = self._limits.delay_seconds
        if options.respect_robots:
            robots = await self._robots.get(target)
            agent = options.user_agent or self._user_agent
            robots.check(target, agent)
            asked = min(robots.crawl_delay(agent), self._limits.max_crawl_delay_seconds)
            delay = max(delay, asked)
        host = self._enter(target.host)
        try:
            async with host.turns:
                await host.wait_start(delay)
                yield
        finally:
            self._leave(target.host, host)

    async def check(self, url: URL, options: CrawlOptions) -> None:
        """Raise as `turn` does if robots.txt does not allow the URL; takes no turn."""
        if options.respect_robots:
            robots = await self._robots.get(url)
            robots.check(url, options.user_agent or self._user_agent)
        else:
            await trio.lowlevel.checkpoint()

    def _enter(self, name: str) -> _Host:
        host = self._hosts.get(name) or self._resting.pop(name, None)
        if host is None:
            host = _Host(trio.Semaphore(self._limits.max_requests_per_host))
        self._hosts[name] = host
        host.users += 1
        return host

    def _leave(self, name: str, host: _Host) -> None:
        host.users -= 1
        if not host.users:
            self._resting[name] = self._hosts.pop(name)
        now = trio.current_time()
        # Oldest first. One that is still due may hide others for as long as its delay lasts.
        while self._resting:
            oldest = next(iter(self._resting.values()))
            if oldest.next_start > now and len(self._resting) <= self._limits.max_resting_hosts:
                break
            self._resting.popitem(last=False)
