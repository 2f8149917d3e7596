"""Trying a fetch again: what is worth it, how long to wait, and when to stop."""

import random
import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from eventmesh_trio.abc import Fetcher, Fields, Page
from eventmesh_trio.errors import CircuitOpen, PageError, bare
from eventmesh_trio.wire.http_dates import parse_retry_after
from eventmesh_trio.wire.requests import CrawlOptions

__all__ = ["RETRYABLE_STATUSES", "RetryLimits", "asked_wait", "fetch_with_retries"]

RETRYABLE_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANDOM: Final = random.Random()


@attrs.frozen(kw_only=True)
class RetryLimits:
    """How long the waits between attempts are. How many attempts: ``options.max_retries``."""

    first_delay_seconds: float = attrs.field(default=0.5, validator=attrs.validators.ge(0))
    """The longest wait before the second attempt; doubled for each one after."""

    max_delay_seconds: float = attrs.field(default=8.0, validator=attrs.validators.ge(0))
    """What the doubling ends at."""

    max_retry_after_seconds: float = attrs.field(default=20.0, validator=attrs.validators.ge(0))
    """The longest ``Retry-After`` that is waited for. Who asks for more is not asked again."""

    def delay_after(self, attempt: int) -> float:
        """The longest wait, in seconds, after the attempt of that number (from 1) has failed."""
        # 1,000 doublings end at the maximum too, and not in an overflow.
        return min(self.first_delay_seconds * 2.0 ** min(attempt - 1, 64), self.max_delay_seconds)


async def fetch_with_retries(
    fetcher: Fetcher,
    url: str,
    options: CrawlOptions,
    *,
    limits: RetryLimits | None = None,
    rng: random.Random = _RANDOM,
    on_attempt: Callable[[int], None] | None = None,
    now: Callable[[], float] = time.time,
) -> Page:
    """Fetch, and again after a failure that may pass, at most ``options.max_retries`` times.

    The deadline over all attempts is the caller's, who asks `on_attempt` how far it came::

        with trio.move_on_after(options.timeout_seconds) as scope:
            page = await fetch_with_retries(fetcher, url, options, on_attempt=note)
        if scope.cancelled_caught:
            raise FetchTimeout(...)

    An open circuit is waited for like any wait that was asked for, within the same limit. Where
    that ends it, what an attempt before had come to is told, for that says more.

    Where the caller's deadline ends before a wait does, the attempt was the last as well.

    The wait is exponential with full jitter: anything between 0 and the current delay. A wait that
    an origin asked for by ``Retry-After`` is kept in full, or the attempt was the last.

    Args:
      on_attempt: called with the number of each attempt, from 1, as it begins.
      rng: for the jitter.
      now: seconds since the epoch, for ``Retry-After`` as a date.
    Returns:
      The page of the last attempt, whatever its status.
    Raises:
      PageError: of the last attempt, with ``attempt_number`` and ``max_retries`` in its context.
    """
    limits = limits or RetryLimits()
    attempt = 0
    earlier: Page | PageError | None = None
    while True:
        attempt += 1
        if on_attempt is not None:
            on_attempt(attempt)
        last = attempt > options.max_retries
        asked: float | None
        try:
            page = await fetcher.fetch(url, options)
        except PageError as error:
            error.context.update(attempt_number=attempt, max_retries=options.max_retries)
            asked = error.retry_after_seconds
            if last or not error.can_retry or (asked or 0) > limits.max_retry_after_seconds:
                if earlier is None or not isinstance(error, CircuitOpen):
                    raise
                if isinstance(earlier, Page):
                    return earlier
                earlier.retry_after_seconds = asked
                raise earlier from None
            if not isinstance(error, CircuitOpen):
                earlier = bare(error)
            came_to = earlier or bare(error)
        else:
            if last or page.status not in RETRYABLE_STATUSES:
                return page
            earlier = came_to = page
            asked = asked_wait(page.fields, now())
            if (asked or 0) > limits.max_retry_after_seconds:
                return page
        wait = rng.uniform(0, limits.delay_after(attempt)) if asked is None else asked
        if trio.current_time() + wait >= trio.current_effective_deadline():
            # The URL's time ends before: what it came to says more than that.
            if isinstance(came_to, Page):
                return came_to
            raise came_to
        await trio.sleep(wait)


def asked_wait(fields: Fields, now: float) -> float | None:
    """The seconds that a response asks to wait, as `parse_retry_after` reads its field."""
    value = next((value for name, value in fields if name == b"retry-after"), None)
    return parse_retry_after(value, now)
