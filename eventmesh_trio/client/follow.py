"""Following one log over many connections: every logged event once, in order, or a `Gap`."""

import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

import trio

from eventmesh_trio.client.connection import ConnectFailed
from eventmesh_trio.client.feeds import AnyStreamEvent, Feed, request_id_of
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import (
    ConnectionBroken,
    EventMeshError,
    RemoteProtocolError,
    WebSocketClosed,
)
from eventmesh_trio.wire.events import Gap, Summary, UnknownEvent

__all__ = ["Follower", "OpenFeed", "is_event_id", "is_transient"]

logger = logging.getLogger(__name__)

OpenFeed = Callable[[str | None], Awaitable[Feed | None]]
"""Connect, and ask for what follows a last event id, or for all. None: nothing more comes."""

_FATAL_CLOSE_CODES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Another attempt would end the same way (RFC 6455, 7.4.1)."""
_MAX_DOUBLINGS: Final = 16
_SPREAD: Final = 0.5  # clients that were cut at once do not come back at once


def is_transient(error: EventMeshError) -> bool:
    """Whether the same attempt may succeed a little later."""
    if isinstance(error, WebSocketClosed):
        return error.close_code not in _FATAL_CLOSE_CODES
    return isinstance(error, ConnectionBroken) or error.can_retry


class Follower:
    """Receives a log's events; reconnects and resumes at the last id when a connection ends.

    Events that were seen before are dropped by their ids. A log that is not the one before
    (another epoch) is reported as a `Gap`, whether the server said so or not. It starts no tasks:
    between two calls of `receive` nothing runs, and the server feels a slow reader through the
    transport.

    Args:
      open_feed: makes one connection.
      last_event_id: where to start; None: with all that the server keeps.
      request_id: follow only this run, to its ``summary``, or the one that the server says it is;
        None: all runs, until the server has no more.
      spread: a random number between 0 and 1.
    """

    def __init__(
        self,
        open_feed: OpenFeed,
        limits: ClientLimits,
        *,
        last_event_id: str | None = None,
        request_id: str | None = None,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.last_event_id = last_event_id
        self.gaps: list[Gap] = []
        self.summary: Summary | None = None
        self.connections = 0  # made so far
        self.reached_server = False  # a connection was made, whatever came of it
        self._open_feed = open_feed
        self._limits = limits
        self.request_id = request_id
        self._spread = spread
        self._feed: Feed | None = None
        self._ready: deque[AnyStreamEvent] = deque()
        self._ended = False
        self._epoch, self._seq = _parse_id(last_event_id) or ("", 0)
        self._retry_seconds: float | None = None
        # Of the connection that is open, or was the last:
        self._opened_at = inf
        self._heard_at = 0.0
        self._brought_news = False
        # Of the outage that goes on:
        self._attempts = 0
        self._failing_since: float | None = None

    async def receive(self) -> AnyStreamEvent:
        """The next event. Cancellation loses nothing: the next call goes on.

        Raises:
          trio.EndOfChannel: after the last event.
          EventMeshError: the server refused, or stayed away longer than the limits allow; the last
            reason. A connection that cannot be made at all is an error at once.
        """
        if self._ready:
            await trio.lowlevel.checkpoint()
        else:
            await self.wait_ready()
        if self._ready:
            return self._ready.popleft()
        raise trio.EndOfChannel

    async def wait_ready(self) -> None:
        """Wait until there is an event to receive, or the end. Raises what `receive` raises."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._ready and not self._ended:
            failure: EventMeshError | None = None
            try:
                await self._advance()
            except EventMeshError as error:
                failure = error
            if failure is not None:
                await self._drop_feed()
                if not self._may_retry(failure):
                    raise failure
                await self._back_off(failure)

    async def aclose(self) -> None:
        """Drop the connection at once; safe in a cancelled scope."""
        self._ended = True
        await self._drop_feed()

    async def say_goodbye(self) -> None:
        """Tell the server that this reader leaves. The caller bounds it."""
        await trio.lowlevel.checkpoint()
        if self._feed is not None:
            await self._feed.say_goodbye()

    async def _advance(self) -> None:
        """Connect, or take what has come."""
        if self._feed is None:
            await self._connect()
            return
        events = await self._feed.receive_batch()
        if self._feed.retry_seconds is not None:
            self._retry_seconds = self._feed.retry_seconds
        if events is not None:
            self._heard_at = trio.current_time()
            for event in events:
                if self._ended:
                    break
                self._take(event)
            return
        # Ended whole. A server that has no more says so with 204 to the next question.
        await self._drop_feed()
        if not self._brought_news:
            if self.request_id is not None:
                raise ConnectionBroken("the stream ended before the run's summary")
            self._ended = True

    async def _connect(self) -> None:
        self._brought_news = False
        self._opened_at = inf
        try:
            feed = await self._open_feed(self.last_event_id)
        except EventMeshError as error:
            self.reached_server |= not isinstance(error, ConnectFailed)
            raise
        self.reached_server = True
        self.connections += 1
        self._feed = feed
        self._opened_at = self._heard_at = trio.current_time()
        if feed is None:
            if self.request_id is not None:
                raise RemoteProtocolError("the server has no more, and the summary is missing")
            self._ended = True
        elif self.request_id is not None:
            self.request_id = feed.request_id or self.request_id

    async def _drop_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is None:
            await trio.lowlevel.checkpoint()
        else:
            await feed.aclose()

    def _may_retry(self, error: EventMeshError) -> bool:
        # A server that was never there is a wrong address until the caller knows better.
        return is_transient(error) and (self.reached_server or not isinstance(error, ConnectFailed))

    async def _back_off(self, error: EventMeshError) -> None:
        """Wait before the next attempt, or raise ``error`` where the limits allow none."""
        now = trio.current_time()
        # Pings are not told of. What was silent for longer than it may be was not, all the time.
        heard_at = max(self._heard_at, now - self._limits.idle_seconds)
        if heard_at - self._opened_at >= self._limits.steady_seconds:
            self._end_outage()
        if self._failing_since is None:
            self._failing_since = now
        self._attempts += 1
        first = self._limits.backoff_seconds if self._retry_seconds is None else self._retry_seconds
        doubled = first * 2 ** min(self._attempts - 1, _MAX_DOUBLINGS)
        delay = min(doubled * (1 + _SPREAD * self._spread()), self._limits.max_backoff_seconds)
        delay = max(delay, error.retry_after_seconds or 0.0)
        if (
            self._attempts > self._limits.max_attempts
            or now + delay > self._failing_since + self._limits.max_outage_seconds
        ):
            raise error
        logger.info("reconnecting in %.2f s (attempt %d): %s", delay, self._attempts, error)
        await trio.sleep(delay)

    def _end_outage(self) -> None:
        self._attempts = 0
        self._failing_since = None

    def _take(self, event: AnyStreamEvent) -> None:
        """Judge one event by its id: new, seen before, or of another log."""
        if isinstance(event, Gap):
            if event.epoch_changed:
                self._epoch, self._seq = "", 0
            self.gaps.append(event)
            self._ready.append(event)
            return
        event_id = _id_of(event)
        if event_id is not None:
            parsed = _parse_id(event_id)
            if parsed is not None:
                epoch, seq = parsed
                if epoch == self._epoch and seq <= self._seq:
                    return
                if self._epoch and epoch != self._epoch:
                    self._note_another_log(event)
                self._epoch, self._seq = epoch, seq
            self.last_event_id = event_id
            self._brought_news = True
            self._end_outage()
        if self.request_id is not None and request_id_of(event) not in (None, self.request_id):
            return
        self._ready.append(event)
        if isinstance(event, Summary):
            self.summary = event
        # A summary of a newer shape ends its run as well.
        if isinstance(event, Summary) or _tag_of_unknown(event) == "summary":
            self._ended = self.request_id is not None

    def _note_another_log(self, event: AnyStreamEvent) -> None:
        timestamp = "" if isinstance(event, UnknownEvent) else event.timestamp
        gap = Gap(timestamp=timestamp, missing_from=None, missing_to=None, epoch_changed=True)
        self.gaps.append(gap)
        self._ready.append(gap)


def _parse_id(event_id: str | None) -> tuple[str, int] | None:
    """Split ``<epoch>-<seq>``; None for what is not one of ours."""
    epoch, _, seq = (event_id or "").rpartition("-")
    if epoch and seq.isascii() and seq.isdigit() and len(seq) < 20:
        return epoch, int(seq)
    return None


def _id_of(event: AnyStreamEvent) -> str | None:
    value = event.members.get("id") if isinstance(event, UnknownEvent) else event.id
    return value if isinstance(value, str) and is_event_id(value) else None


def is_event_id(text: str) -> bool:
    """Whether a text can be sent back as ``Last-Event-ID``."""
    return bool(text) and text.isascii() and text.isprintable()


def _tag_of_unknown(event: AnyStreamEvent) -> str | None:
    return event.event if isinstance(event, UnknownEvent) else None
