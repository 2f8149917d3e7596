"""What all runs of a server share: the ports of a crawl, and what a run asks of each."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import attrs

from eventmesh_trio.abc import Cache, Extractor, Page, Renderer, SharedExtractor, Validators
from eventmesh_trio.pipeline.caching.flights import Flights
from eventmesh_trio.pipeline.caching.limits import CacheLimits
from eventmesh_trio.pipeline.gate import GateDecision
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.reading import RenderOutcome
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import URL

__all__ = ["BeforeHop", "CrawlPorts", "HopFetcher", "Meter", "Turn", "Turns"]

BeforeHop: TypeAlias = Callable[[URL], Awaitable[None]]


class HopFetcher(Protocol):
    """A `eventmesh_trio.abc.Fetcher` that asks before it follows a redirect."""

    async def fetch(
        self,
        url: str,
        options: CrawlOptions,
        *,
        before_hop: BeforeHop | None = None,
        validators: Validators | None = None,
    ) -> Page:
        """As `eventmesh_trio.abc.Fetcher.fetch`; a `PageError` of ``before_hop`` ends it.

        With ``validators`` the request is conditional: an origin whose page has not changed
        answers with a `Page` of status 304 and an empty body.
        """
        ...


class Turns(Protocol):
    """What a crawl asks of `eventmesh_trio.pipeline.manners.politeness.Politeness`."""

    async def check(self, url: URL, options: CrawlOptions) -> None:
        """Return if the URL may be fetched; gets the host's robots.txt first where it must.

        Raises: PageError of the kind that fits: `RobotsDenied`, `CircuitOpen`.
        """
        ...

    def turn(
        self, url: str, options: CrawlOptions, run: str
    ) -> AbstractAsyncContextManager["Turn"]:
        """Wait for this URL's turn at its host, and hold it for the length of the block.

        Args:
          run: the name of the run; runs that want the same host are served in rounds.
        Raises: as `check` does.
        """
        ...


class Turn(Protocol):
    """A turn at a host, as `Turns.turn` gives it."""

    async def move(self, url: URL) -> None:
        """Exchange it for a turn at a redirect's target; waits, and raises, as `Turns.turn`."""
        ...

    def answered(self, page: Page) -> None:
        """Note what the host answered: after a 429 or 503 it is left alone for a while."""
        ...


class Meter(Protocol):
    """Who counts what the stages of all runs do. Synchronous and quick; it must not fail."""

    def retried(self) -> None:
        """A URL is tried again."""
        ...

    def fetched(self, seconds: float, wire_bytes: int) -> None:
        """An attempt brought a whole response, of any status."""
        ...

    def extracted(self, seconds: float) -> None:
        """A page was read, or could not be; waiting for a worker included."""
        ...

    def gated(self, decision: GateDecision) -> None:
        """A page that was fetched has been judged: ``raw``, ``probes_first`` or ``headless``."""
        ...

    def rendered(self, outcome: RenderOutcome) -> None:
        """A page was to be rendered, and this came of it."""
        ...

    def settled(self, outcome: str, urls: int = 1) -> None:
        """URLs are done with: ``ok``, ``cached``, or the type of their error."""
        ...


class _NoMeter:
    """Counts nothing."""

    def retried(self) -> None: ...

    def fetched(self, seconds: float, wire_bytes: int) -> None: ...

    def extracted(self, seconds: float) -> None: ...

    def gated(self, decision: GateDecision) -> None: ...

    def rendered(self, outcome: RenderOutcome) -> None: ...

    def settled(self, outcome: str, urls: int = 1) -> None: ...


@attrs.frozen
class CrawlPorts:
    """What all runs of a server share."""

    fetcher: HopFetcher
    extractor: Extractor
    cache: Cache
    politeness: Turns
    meter: Meter = attrs.field(factory=_NoMeter)
    renderer: Renderer | None = None  # None where no browser is configured
    cache_limits: CacheLimits = attrs.field(factory=CacheLimits)
    flights: Flights = attrs.field(factory=Flights)
    policy: AddressPolicy | None = None  # of which URLs the kept documents may be shown; None: all
    user_agent: str | None = None  # what origins are told, where it is not what they usually are

    def for_run(self, run: str) -> "CrawlPorts":
        """The same ports, those told whose work it is that serve runs in rounds."""
        if not isinstance(self.extractor, SharedExtractor):
            return self
        return attrs.evolve(self, extractor=self.extractor.for_run(run))
