"""Search providers behind one port: what this server has crawled, or an API on the web.

`eventmesh_trio.pipeline.searching.opening` opens the one that the settings name. Which one is asked
is the operator's choice and never a request's, so the only address that a search ever connects to
is the configured endpoint's. Every failure is a `DependencyError` that says whose it is and why
(``provider`` and ``reason`` in its context), and never a key.
"""

import random
from collections.abc import Callable, Sequence
from time import time
from typing import Final, Protocol

import attrs
import structlog
import trio

from eventmesh_trio.errors import (
    BlockedAddress,
    DependencyError,
    FetchTimeout,
    PageError,
    TooLarge,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.caching.store import Unsearchable
from eventmesh_trio.pipeline.fetching.retry import (
    RETRYABLE_STATUSES,
    RetryLimits,
    asked_wait,
)
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.searching.apis import BadAnswer, SearchAPI
from eventmesh_trio.pipeline.searching.client import APIAnswer, APIClient, APIRequest
from eventmesh_trio.pipeline.searching.hits import Found, HitList
from eventmesh_trio.pipeline.searching.limits import SearchLimits
from eventmesh_trio.wire.events import SearchHit

__all__ = ["OUTCOMES", "LocalProvider", "SearchMeter", "Searchable", "WebProvider"]

_logger: Final = structlog.get_logger(__name__)
_RANDOM: Final = random.Random()

_MOST_ASKED: Final = 1000  # hits of a store, to find those among them that may be shown
_RETRY_SECONDS: Final = 5.0  # what a client is told where nobody knows better
_OPERATOR_SECONDS: Final = 3600.0  # where the operator has to mend something first

OUTCOMES: Final = (
    *("ok", "timeout", "unreachable", "rate_limited", "unauthorized", "http_error"),
    *("redirected", "too_large", "bad_answer", "blocked_address", "store_error"),
)
"""How a request to a provider may end; all but ``ok`` are the ``reason`` of an error too."""


class SearchMeter(Protocol):
    """Who counts requests to providers. Synchronous and quick; it must not fail."""

    def searched(self, provider: str, outcome: str, seconds: float) -> None:
        """A request ended: one attempt for one page of results; an outcome of `OUTCOMES`."""
        ...


class Searchable(Protocol):
    """A store that can be searched: `eventmesh_trio.pipeline.caching.cache`."""

    async def search(self, query: str, limit: int) -> Sequence[SearchHit]:
        """At most ``limit`` documents, best first. Raises `Unsearchable`."""
        ...


class _NoMeter:
    """Counts nothing."""

    def searched(self, provider: str, outcome: str, seconds: float) -> None: ...


@attrs.define
class _Failure(Exception):
    """Why one request brought nothing: a reason of `OUTCOMES`, and what to tell of it."""

    reason: str
    text: str
    can_retry: bool = False
    retry_after_seconds: float | None = None


def _unavailable(provider: str, failure: _Failure) -> DependencyError:
    return DependencyError(
        f"the search provider {provider} cannot serve: {failure.text}",
        context={"provider": provider, "reason": failure.reason},
        retry_after_seconds=_RETRY_SECONDS
        if failure.retry_after_seconds is None
        else failure.retry_after_seconds,
    )


# --- What this server has crawled ----------------------------------------------------------------


@attrs.define(eq=False)
class LocalProvider:
    """Searches the documents that this server keeps; country and locale make no difference.

    ``meter`` may be set before the first search. Documents of URLs that ``policy`` does not admit
    (any more) are not found.
    """

    _store: Searchable
    _limits: SearchLimits
    meter: SearchMeter = attrs.field(factory=_NoMeter)
    name: str = "local"
    _policy: AddressPolicy | None = None

    def check(self, query: str) -> None:
        """Any query will do: one without a word finds nothing."""

    async def search(
        self,
        query: str,
        limit: int,
        *,
        country: str | None,  # noqa: ARG002 - the port's
        locale: str | None,  # noqa: ARG002 - the port's
    ) -> Sequence[SearchHit]:
        """As `eventmesh_trio.abc.SearchProvider.search`; cancelled, the query stops."""
        began = trio.current_time()
        failure: _Failure | None = None
        found: Sequence[SearchHit] = ()
        with trio.move_on_after(self._limits.timeout_seconds) as scope:
            try:
                found = await self._search(query, limit)
            except Unsearchable:  # which the store has logged, and tells of in its statistics
                failure = _Failure("store_error", "its store could not be searched")
            except Exception:
                # A bug of the store's must not end more than this search.
                _logger.exception("the store could not be searched")
                failure = _Failure("store_error", "its store could not be searched")
        if scope.cancelled_caught:
            failure = _too_slow(self._limits)
        outcome = "ok" if failure is None else failure.reason
        self.meter.searched(self.name, outcome, trio.current_time() - began)
        if failure is not None:
            raise _unavailable(self.name, failure)
        hits = HitList(limit)
        hits.add_hits(found)
        return hits.hits

    async def _search(self, query: str, limit: int) -> Sequence[SearchHit]:
        """What may be shown; more is asked for where what may not has taken its places."""
        policy = self._policy
        asked = limit
        while True:
            found = await self._store.search(query, asked)
            shown = [hit for hit in found if policy is None or policy.admits(hit.url)]
            if len(shown) >= limit or len(found) < asked or asked >= _MOST_ASKED:
                return shown
            asked = min(4 * asked, _MOST_ASKED)


# --- An API on the web ---------------------------------------------------------------------------


@attrs.define(eq=False)
class WebProvider:
    """Asks one endpoint, as often as its pages and its failures need; made by `open_search`.

    ``now`` gives seconds since the epoch, for a ``Retry-After`` that is a date; ``meter`` may be
    set before the first search.
    """

    _api: SearchAPI
    _client: APIClient
    _limits: SearchLimits
    meter: SearchMeter = attrs.field(factory=_NoMeter)
    _rng: random.Random = _RANDOM
    _now: Callable[[], float] = time
    _turns: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._turns = trio.CapacityLimiter(self._limits.max_searches)

    @property
    def name(self) -> str:
        return self._api.name

    def check(self, query: str) -> None:
        """As `eventmesh_trio.abc.SearchProvider.check`."""
        self._api.check(query)

    async def search(
        self, query: str, limit: int, *, country: str | None, locale: str | None
    ) -> Sequence[SearchHit]:
        """As `eventmesh_trio.abc.SearchProvider.search`; cancelled, its connection is closed.

        What the first pages brought is the answer also where a later one fails.

        Raises:
          DependencyError: no first page.
        """
        hits = HitList(limit)
        failure: _Failure | None = None
        with trio.move_on_after(self._limits.timeout_seconds) as scope:
            try:
                async with self._turns:
                    await self._collect(hits, query, limit, country, locale)
            except _Failure as one:
                failure = one
        if scope.cancelled_caught:
            failure = _too_slow(self._limits)
        if failure is not None:
            if not hits.hits:
                raise _unavailable(self.name, failure)
            _logger.warning(
                "a search has fewer pages than asked for", provider=self.name, reason=failure.reason
            )
        return hits.hits

    async def _collect(
        self, hits: HitList, query: str, limit: int, country: str | None, locale: str | None
    ) -> None:
        pages = -(-limit // self._api.page_size)
        for page in range(pages):
            request = self._api.request(query, page, limit=limit, country=country, locale=locale)
            attempt = 0
            while True:
                attempt += 1
                try:
                    found = await self._ask(request)
                    break
                except _Failure as failure:
                    if attempt > self._limits.max_retries or not failure.can_retry:
                        raise
                    wait = self._wait_after(attempt, failure)
                await trio.sleep(wait)
            if not hits.add(found) or hits.full:
                return

    def _wait_after(self, attempt: int, failure: _Failure) -> float:
        """The seconds to wait before the next attempt; raises the failure where that is too long.

        Who asks for more time than there is left would only be disturbed once more.
        """
        limits = self._limits
        asked = failure.retry_after_seconds
        if asked is not None:
            if asked > limits.max_retry_after_seconds:
                raise failure
            return asked
        delays = RetryLimits(
            first_delay_seconds=limits.first_delay_seconds,
            max_delay_seconds=max(limits.first_delay_seconds, limits.timeout_seconds),
        )
        return self._rng.uniform(0, delays.delay_after(attempt))

    async def _ask(self, request: APIRequest) -> Sequence[Found]:
        """One request; counted unless it is given up before its time. Raises `_Failure`."""
        began, deadline = trio.current_time(), trio.current_effective_deadline()
        outcome: str | None = None
        try:
            found = self._read(await self._client.ask(request))
            outcome = "ok"
            return found
        except PageError as error:
            failure = _of_page_error(error)
            outcome = failure.reason
            raise failure from None
        except _Failure as failure:
            outcome = failure.reason
            raise
        finally:
            now = trio.current_time()
            if outcome is None and now >= deadline:
                outcome = "timeout"
            if outcome is not None:  # who gave it up says nothing of the provider
                self.meter.searched(self.name, outcome, now - began)

    def _read(self, answer: APIAnswer) -> Sequence[Found]:
        status = answer.status
        if status == 200:
            try:
                return self._api.read(answer.body)
            except BadAnswer as error:
                raise _Failure("bad_answer", str(error)) from None
        asked = asked_wait(answer.fields, self._now())
        if status == 429:
            raise _Failure("rate_limited", "it has had too many requests", True, asked)
        if status in (401, 402, 403):
            # The hint is the operator's: a client cannot mend it, and is not to learn of keys.
            _logger.error(
                "a search provider refuses this server",
                provider=self.name,
                status=status,
                hint=self._api.refusal_hint,
            )
            text = f"it refuses this server (HTTP status {status})"
            raise _Failure("unauthorized", text, False, _OPERATOR_SECONDS)
        if 300 <= status <= 399:
            raise _Failure("redirected", "it answers with a redirect, which is not followed")
        text = f"it answers with HTTP status {status}"
        raise _Failure("http_error", text, status in RETRYABLE_STATUSES, asked)


def _too_slow(limits: SearchLimits) -> _Failure:
    return _Failure("timeout", f"no answer within {limits.timeout_seconds:g} seconds")


def _of_page_error(error: PageError) -> _Failure:
    """What a client may know of a failed exchange: nothing about addresses inside."""
    match error:
        case FetchTimeout():
            return _Failure("timeout", "it takes too long", True)
        case TooLarge():
            return _Failure("too_large", "its answer is too large")
        case UnsupportedContent():
            return _Failure("bad_answer", "its answer is coded in a way that is not read")
        case BlockedAddress():
            return _Failure("blocked_address", "its address is not public")
        case _:
            return _Failure("unreachable", "it cannot be reached, or its answer breaks off", True)
