"""Turns at one host: so many at once, a pause between them, and a longer one when it asks for it.

A *turn* is the right to one request. A host *backs off* after it has answered 429 (too many
requests) or 503 (not now): nobody starts a request there until the back-off is over, whatever run
it is for, and then one at a time until the host has shown that it is well.
"""

from math import inf
from typing import Final

import attrs
import trio

from eventmesh_trio.errors import CircuitOpen
from eventmesh_trio.pipeline.manners.rounds import Rounds, Slots

__all__ = ["BACK_OFF_STATUSES", "BackOffLimits", "Host"]

BACK_OFF_STATUSES: Final = frozenset({429, 503})
_MAX_LEVEL: Final = 64  # doublings; far beyond any limit in seconds


@attrs.frozen(kw_only=True)
class BackOffLimits:
    """What follows a 429 or 503, for all runs together."""

    first_seconds: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    """How long a host is left alone after its first 429 or 503 without a longer ``Retry-After``;
    doubled by each one that follows, halved by each response that is none."""

    max_seconds: float = attrs.field(default=300.0, validator=attrs.validators.gt(0))
    """The longest time that a host is left alone, whether by doubling or by ``Retry-After``."""

    max_wait_seconds: float = attrs.field(default=120.0, validator=attrs.validators.ge(0))
    """How long a URL waits for a host that is left alone. Where it would be longer the URL fails
    at once, with ``circuit_open`` and the time to come back."""

    def pause_after(self, level: int, asked: float | None) -> float:
        """The seconds after the 429 or 503 of that number in a row, from 1."""
        doubled = self.first_seconds * 2.0 ** (level - 1)
        return min(max(doubled, asked or 0.0), self.max_seconds)


@attrs.define(eq=False)
class _Waiter:
    called: trio.Event = attrs.field(factory=trio.Event)
    sent_away: bool = False

    def is_sent_away(self) -> bool:
        """A method, since it changes at any checkpoint."""
        return self.sent_away


@attrs.define(eq=False)
class Host:
    """One host, as all runs see it. ``users`` counts those who hold or want a turn.

    At most one waiter is *called* at any time: the one that starts next, as soon as it may.
    """

    _most: int
    _limits: BackOffLimits
    users: int = attrs.field(default=0, init=False)
    _active: int = attrs.field(default=0, init=False)
    _waiting: Rounds[_Waiter] = attrs.field(factory=Rounds, init=False)
    _is_calling: bool = attrs.field(default=False, init=False)
    _last_start: float = attrs.field(default=-inf, init=False)
    _last_delay: float = attrs.field(default=0.0, init=False)
    # How often in a row it has answered 429 or 503, the last status, when, and until when it rests.
    _level: int = attrs.field(default=0, init=False)
    _status: int = attrs.field(default=0, init=False)
    _backed_off_at: float = attrs.field(default=-inf, init=False)
    _open_at: float = attrs.field(default=-inf, init=False)
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def waiting(self) -> int:
        """Tasks that want a turn and have none, the called one included."""
        return len(self._waiting) + self._is_calling

    @property
    def active(self) -> int:
        """Turns that are held."""
        return self._active

    @property
    def open_at(self) -> float:
        """When its back-off ends (`trio.current_time`); in the past where there is none."""
        return self._open_at

    @property
    def forget_at(self) -> float:
        """From when on nothing is lost with this object if nobody uses it.

        A back-off is remembered for its own length beyond its end, so that a host that is still in
        trouble then is not met as a new one.
        """
        memory = self._open_at - self._backed_off_at if self._level else 0.0
        return max(self._last_start + self._last_delay, self._open_at + memory)

    def seconds_until(self, delay: float) -> float:
        """How long until a request with that delay of its own may start; 0 where it may now.

        Of two requests that follow each other the longer delay holds.
        """
        paced = self._last_start + max(self._last_delay, delay)
        return max(0.0, max(paced, self._open_at) - trio.current_time())

    def require_open(self) -> None:
        """Raise `CircuitOpen` where the back-off is longer than a URL waits."""
        if self._is_shut():
            raise self._refusal()

    async def take_turn(self, run: str, delay: float, slots: Slots) -> None:
        """Wait for a turn, for the moment, and for one of ``slots``; `release` ends the first.

        A checkpoint only where it waits.

        Cancelled, or refused: nothing is held, and the next is called.

        Args:
          delay: the least seconds since the last start.
          slots: what all hosts share; released by the caller.
        Raises:
          CircuitOpen: the host is to be left alone for longer than a URL waits.
        """
        at_once = not self._waiting and self._has_place() and not self.seconds_until(delay)
        if at_once and slots.try_acquire():
            # Nobody waits. No checkpoint either: two for each page were a fortieth of its cost,
            # and the request that follows is one.
            self._begin(delay)
            return  # noqa: ASYNC910
        waiter = _Waiter()
        self._waiting.add(run, waiter)
        self._call_next()
        try:
            await waiter.called.wait()
            if waiter.is_sent_away():
                raise self._refusal()
            while True:
                await self._wait_moment(delay)
                # Only now: who waits for a moment must not keep a slot from others.
                await slots.acquire(run)
                if not self.seconds_until(delay):
                    break
                slots.release()  # its moment has moved meanwhile
        except BaseException:
            if not self._waiting.discard(run, waiter) and not waiter.is_sent_away():
                self._is_calling = False
            self._call_next()
            raise
        # No checkpoint from here on: the turn is taken, and the next one called.
        self._is_calling = False
        self._begin(delay)
        self._call_next()

    def _begin(self, delay: float) -> None:
        self._active += 1
        self._last_start = trio.current_time()
        self._last_delay = delay

    def release(self) -> None:
        """End a turn."""
        self._active -= 1
        self._call_next()

    def answered(self, status: int, retry_after: float | None, began: float) -> None:
        """Note how the host answered a request that began at that `trio.current_time`.

        Requests that began before the last back-off say nothing new of the host: eight refusals of
        eight requests under way are one.
        """
        is_news = began >= self._backed_off_at
        if status in BACK_OFF_STATUSES:
            if is_news:
                self._level = min(self._level + 1, _MAX_LEVEL)
            now = trio.current_time()
            self._status = status
            self._backed_off_at = now
            pause = self._limits.pause_after(self._level, retry_after)
            self._open_at = max(self._open_at, now + pause)
            self._tell()
        elif status < 500 and is_news and self._level:
            self._level //= 2
            self._call_next()  # there may be room for more at once

    def _has_place(self) -> bool:
        """Whether one more may have a turn, and nobody is called to take it."""
        # A host in trouble is asked by one at a time.
        most = 1 if self._level else self._most
        return not self._is_calling and self._active < most

    def _call_next(self) -> None:
        if self._waiting and self._has_place():
            self._is_calling = True
            self._waiting.take().called.set()

    async def _wait_moment(self, delay: float) -> None:  # noqa: ASYNC910  # unless there is none
        while True:
            self.require_open()
            left = self.seconds_until(delay)
            if not left:
                return
            with trio.move_on_after(left):
                await self._news.wait()

    def _tell(self) -> None:
        """Wake the called one, whose moment has moved; send the rest away if it moved too far."""
        self._news.set()
        self._news = trio.Event()
        if self._is_shut():
            while self._waiting:
                waiter = self._waiting.take()
                waiter.sent_away = True
                waiter.called.set()

    def _is_shut(self) -> bool:
        return self._open_at - trio.current_time() > self._limits.max_wait_seconds

    def _refusal(self) -> CircuitOpen:
        left = max(0.0, self._open_at - trio.current_time())
        return CircuitOpen(
            f"the host answered with HTTP status {self._status} and is left alone for a while",
            context={"http_status": self._status},
            retry_after_seconds=round(left, 3),
        )
