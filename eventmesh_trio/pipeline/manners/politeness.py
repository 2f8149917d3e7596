"""What we owe a host: its robots.txt, few requests at once, and the pause that it asks for.

One `Politeness` serves all runs of a program, each run in its turn. It owns no task: whoever comes
first fetches a robots.txt, and who has a turn passes it on when it is over.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import Page
from eventmesh_trio.pipeline.fetching.fetch import parse_target
from eventmesh_trio.pipeline.fetching.retry import asked_wait
from eventmesh_trio.pipeline.manners.host_turns import BACK_OFF_STATUSES, BackOffLimits, Host
from eventmesh_trio.pipeline.manners.robots import (
    RobotsCache,
    RobotsLimits,
    RobotsSource,
    RobotsVerdict,
)
from eventmesh_trio.pipeline.manners.rounds import Slots
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

__all__ = ["Politeness", "PolitenessLimits", "PolitenessStatistics", "Turn"]

_NO_RUN: Final = ""  # robots.txt files are nobody's


_DUE_HOSTS_PASSED: Final = 8
"""Hosts with a delay or back-off to remember that are passed, each time, to find some without."""


@attrs.frozen(kw_only=True)
class PolitenessLimits:
    """How one host is treated by all runs together."""

    max_requests_per_host: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    """Requests at once to one host."""

    max_requests: int = attrs.field(default=192, validator=attrs.validators.ge(1))
    """Pages asked for at once, of all hosts; ``fetch.max_connections`` where that is less. Beyond
    it runs take turns, and their URLs' time stands still. The connections that are left over are
    for ``robots.txt`` files."""

    delay_seconds: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    """The least time between the starts of two requests to one host."""

    max_crawl_delay_seconds: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))
    """The longest crawl-delay of a robots.txt that is kept; a longer one counts as this."""

    max_resting_hosts: int = attrs.field(default=10_000, validator=attrs.validators.ge(0))
    """Hosts without requests that are remembered until their delay or back-off is over."""

    back_off: BackOffLimits = attrs.field(factory=BackOffLimits)

    robots: RobotsLimits = attrs.field(factory=RobotsLimits)


@attrs.frozen(kw_only=True)
class PolitenessStatistics:
    """Of now, but for what says ``total``. Hosts are counted, never named."""

    waiting: int  # URLs that want a turn and have none
    active: int  # turns that are held
    hosts: int  # remembered, those in use included
    backing_off_hosts: int
    back_offs_total: int  # answers of 429 and 503
    robots_files: int
    robots_bytes: int
    robots_hits_total: int
    robots_misses_total: int


@attrs.define(eq=False)
class Turn:
    """A right to one request, and after `move` to the next one of a chain of redirects."""

    _politeness: "Politeness"
    _options: CrawlOptions
    _run: str
    _name: str = ""
    _host: Host | None = None
    _began: float = 0.0

    async def move(self, url: URL) -> None:
        """Give this turn back, and wait for one for a redirect's target, as for any URL.

        Nothing is held meanwhile, so that two hosts which redirect to each other block nobody.
        Cancelled, or refused: nothing is held any more.

        Raises: as `Politeness.turn`.
        """
        if self._host is not None:
            self._host.answered(302, None, self._began)  # a redirect, of whatever kind
        self.end()
        politeness = self._politeness
        delay = await politeness._ask_robots(url, self._options)
        name = _host_name(url)
        host = politeness._enter(name)
        try:
            await host.take_turn(self._run, delay, politeness._slots)
        except BaseException:
            politeness._leave(name, host)
            raise
        # No checkpoint since the turn was taken.
        self._name, self._host, self._began = name, host, trio.current_time()

    def answered(self, page: Page) -> None:
        """Note the response, for whoever is next at this host."""
        if self._host is not None:
            self._politeness._note(self._host, page, self._began)

    def end(self) -> None:
        """Give the turn back, if there is one."""
        host, self._host = self._host, None
        if host is not None:
            self._politeness._slots.release()
            host.release()
            self._politeness._leave(self._name, host)


class Politeness:
    """Turns at hosts: round by round over the runs, within a run first come, first served.

    Args:
      source: the fetcher; robots.txt files come through its guard.
      max_connections: how many the fetcher has; who waited for one there would wait in its order,
        and in the URL's own time.
    """

    def __init__(
        self,
        source: RobotsSource,
        limits: PolitenessLimits | None = None,
        *,
        max_connections: int | None = None,
    ) -> None:
        self._limits = limits or PolitenessLimits()
        self._user_agent = source.user_agent
        self._robots = RobotsCache(source, self._limits.robots, self._note_robots)
        most = self._limits.max_requests
        self._slots = Slots(most if max_connections is None else min(most, max_connections))
        self._hosts: dict[str, Host] = {}
        self._resting: OrderedDict[str, Host] = OrderedDict()  # without users, still of use
        self._back_offs = 0

    @property
    def known_hosts(self) -> int:
        """Hosts that anything is remembered about, robots.txt files not counted."""
        return len(self._hosts) + len(self._resting)

    @asynccontextmanager
    async def turn(self, url: str, options: CrawlOptions, run: str) -> AsyncIterator[Turn]:
        """Hold a turn at the URL's host for as long as the block lasts.

        Waits for robots.txt, for a turn, and for the delay. Cancelled while waiting: the turn
        goes to the next. The caller's deadline counts while it waits. There is no other limit to
        waiting than that, but for a host that answered 429 or 503: see `BackOffLimits`.

        Args:
          run: the name of the run that the URL belongs to. Runs that want the same are served in
            rounds, one URL of each.
        Raises:
          RobotsDenied: the URL is not to be fetched (where ``options.respect_robots``).
          CircuitOpen: the host is to be left alone for longer than a URL waits.
          BlockedAddress, DNSError, NetworkFailure, TLSFailure, FetchTimeout: its robots.txt could
            not be fetched for a reason that holds for the page as well.
        """
        turn = Turn(self, options, run)
        await turn.move(parse_target(url))
        try:
            yield turn
        finally:
            turn.end()

    async def check(self, url: URL, options: CrawlOptions) -> None:
        """Raise as `turn` does if the URL is not to be fetched now; takes no turn.

        A checkpoint only where robots.txt is to be heeded.
        """
        await self._ask_robots(url, options)

    async def delay(self, url: URL, options: CrawlOptions) -> float:
        """Check as `check` does, and return the seconds until a request could start at once.

        What others ahead will take is not known, and not in it.
        """
        delay = await self._ask_robots(url, options)
        name = _host_name(url)
        host = self._hosts.get(name) or self._resting.get(name)
        return 0.0 if host is None else host.seconds_until(delay)

    async def explain_robots(self, url: URL, options: CrawlOptions) -> RobotsVerdict:
        """What robots.txt says of a URL, fetched where it must be, heeded or not. Never raises."""
        robots = await self._robots.get(url)
        return await robots.explain(url, options.user_agent or self._user_agent)

    def statistics(self) -> PolitenessStatistics:
        """Linear in the number of known hosts."""
        now = trio.current_time()
        hosts = (*self._hosts.values(), *self._resting.values())
        return PolitenessStatistics(
            waiting=sum(host.waiting for host in self._hosts.values()),
            active=sum(host.active for host in self._hosts.values()),
            hosts=len(hosts),
            backing_off_hosts=sum(host.open_at > now for host in hosts),
            back_offs_total=self._back_offs,
            robots_files=len(self._robots),
            robots_bytes=self._robots.kept_bytes,
            robots_hits_total=self._robots.hits,
            robots_misses_total=self._robots.misses,
        )

    async def _ask_robots(  # noqa: ASYNC910  # a turn, and a request, are checkpoints
        self, url: URL, options: CrawlOptions
    ) -> float:
        """The seconds between two starts at this URL's host; raises as `turn` does."""
        name = _host_name(url)
        host = self._hosts.get(name) or self._resting.get(name)
        if host is not None:
            host.require_open()  # not even robots.txt is asked for
        delay = self._limits.delay_seconds
        if not options.respect_robots:
            return delay
        robots = await self._robots.get(url)
        asked = await robots.permit(url, options.user_agent or self._user_agent)
        return max(delay, min(asked, self._limits.max_crawl_delay_seconds))

    def _note_robots(self, page: Page, began: float) -> None:
        """A robots.txt was answered: by another host, where there was a redirect."""
        if page.status in BACK_OFF_STATUSES:
            name = _host_name(parse_target(page.final_url))
            host = self._enter(name)
            self._note(host, page, began)
            self._leave(name, host)

    def _note(self, host: Host, page: Page, began: float) -> None:
        asked = None
        if page.status in BACK_OFF_STATUSES:
            self._back_offs += 1
            asked = asked_wait(page.fields, time())
        host.answered(page.status, asked, began)

    def _enter(self, name: str) -> Host:
        host = self._hosts.get(name) or self._resting.pop(name, None)
        if host is None:
            host = Host(self._limits.max_requests_per_host, self._limits.back_off)
        self._hosts[name] = host
        host.users += 1
        return host

    def _leave(self, name: str, host: Host) -> None:
        host.users -= 1
        if not host.users:
            self._resting[name] = self._hosts.pop(name)
        now = trio.current_time()
        # Oldest first; those that are still due go to the end, that they do not hide the others.
        due = 0
        while self._resting and due < _DUE_HOSTS_PASSED:
            name, oldest = next(iter(self._resting.items()))
            if oldest.forget_at <= now or len(self._resting) > self._limits.max_resting_hosts:
                del self._resting[name]
            else:
                self._resting.move_to_end(name)
                due += 1


def _host_name(url: URL) -> str:
    return url.host.rstrip(".")  # a fully qualified name is the same host
