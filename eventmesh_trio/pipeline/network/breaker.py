"""The circuit breaker: an origin that does not answer is left alone for a while.

One circuit for each origin (scheme, host, port), asked before every hop of every fetch::

    closed --failures in a row--> open --cool-down--> half-open --the probe is answered--> closed
                                   ^                      |
                                   +---the probe fails----+  (and cools down for twice as long)

**What counts.** The question is whether the origin answers, not whether a page is any good. A
failure is: no address, no connection, no TLS, no response head in time or none that is HTTP, and
the statuses by which a gateway says that there is nobody behind it (502, 503, 504). Any other
response head is a success, whatever becomes of its body: a 500, a 404 or a bomb is that page's
trouble, and half the pages of a site may have it. Envoy draws the same line (its
``consecutive_gateway_failure`` and ``consecutive_local_origin_failure``, both 5 by default);
Polly's and resilience4j's ratios count every 5xx, which is right for a service with one function
and wrong for a site with a million pages. A refusal of our own (`BlockedAddress`), trouble with an
outgoing proxy, and a cancellation count as nothing: they tell nothing about the origin.

Everything here is synchronous: it decides between two checkpoints.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Final, TypeAlias

import attrs
import structlog
import trio

from eventmesh_trio.errors import (
    CircuitOpen,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    ProxyFailure,
    TLSFailure,
)
from eventmesh_trio.wire.urls import URL

__all__ = [
    "FAILED_STATUSES",
    "BreakerLimits",
    "BreakerStatistics",
    "CircuitBreaker",
    "CircuitState",
    "Origin",
    "Permit",
    "origin_of",
]

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port (RFC 6454)."""

FAILED_STATUSES: Final = frozenset({502, 503, 504})
_FAILURES: Final = (DNSError, FetchTimeout, NetworkFailure, TLSFailure)
_PROBE_SECONDS: Final = 1.0  # when to ask again while another request is the probe

_logger: Final = structlog.get_logger(__name__)


class CircuitState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Turn(Enum):
    FAILED_ENOUGH = "failed enough"
    COOLED_DOWN = "cooled down"
    PROBE_ANSWERED = "the probe was answered"
    PROBE_FAILED = "the probe failed"


_TRANSITIONS: Final[Mapping[tuple[CircuitState, _Turn], CircuitState]] = {
    (CircuitState.CLOSED, _Turn.FAILED_ENOUGH): CircuitState.OPEN,
    (CircuitState.OPEN, _Turn.COOLED_DOWN): CircuitState.HALF_OPEN,
    (CircuitState.HALF_OPEN, _Turn.PROBE_ANSWERED): CircuitState.CLOSED,
    (CircuitState.HALF_OPEN, _Turn.PROBE_FAILED): CircuitState.OPEN,
}


@attrs.frozen(kw_only=True)
class BreakerLimits:
    """When an origin is left alone, and for how long."""

    max_failures: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    """Failures in a row at which an origin is left alone."""

    failure_memory_seconds: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    """Failures further apart than this are not in a row."""

    cool_down_seconds: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    """How long an origin is left alone at first; doubled each time that its probe fails."""

    max_cool_down_seconds: float = attrs.field(default=120.0, validator=attrs.validators.gt(0))
    """What the doubling ends at."""

    max_origins: int = attrs.field(default=1000, validator=attrs.validators.ge(1))
    """Origins whose failures are remembered; of more, the one that failed longest ago is not."""

    def cool_down_after(self, openings: int) -> float:
        """The seconds for which a circuit is open that opens for that time (from 1) in a row."""
        return min(
            self.cool_down_seconds * 2.0 ** min(openings - 1, 64), self.max_cool_down_seconds
        )


@attrs.frozen
class BreakerStatistics:
    """Of now: origins with a recent failure, by state; and since the start, what came of it."""

    closed: int
    open: int
    half_open: int
    openings: int
    refusals: int


@attrs.define(eq=False)
class _Circuit:
    """An origin that has failed. ``probe`` is the one request that may pass a half-open one."""

    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    failed_at: float = 0.0
    openings: int = 0  # since it was last closed
    open_until: float = 0.0
    probe: "Permit | None" = None
    last_failure: str = ""

    def turn(self, what: _Turn) -> None:
        self.state = _TRANSITIONS[self.state, what]


class Permit:
    """One request that was let pass. What it comes to is said once; what is said later is not
    heard.

    A request that ends without having said anything, cancelled for example, counts as nothing.
    """

    def __init__(self, breaker: "CircuitBreaker", origin: Origin) -> None:
        self._breaker = breaker
        self._origin = origin
        self._settled = False

    def answered(self, status: int) -> None:
        """The origin sent a response head."""
        if status in FAILED_STATUSES:
            self.failed(f"http_{status}")
        elif not self._settled:
            self._settled = True
            self._breaker._succeeded(self, self._origin)

    def failed(self, failure: str) -> None:
        """There is no response head. ``failure``: how, in one word."""
        if not self._settled:
            self._settled = True
            self._breaker._failed(self, self._origin, failure)

    def leave(self) -> None:
        """The request is over; if it was the probe and told nothing, the next one is."""
        self._settled = True
        self._breaker._left(self, self._origin)


class CircuitBreaker:
    """The circuits of all origins that failed lately; those of all others are closed."""

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self._limits = limits or BreakerLimits()
        self._circuits: OrderedDict[Origin, _Circuit] = OrderedDict()  # by their last failure
        self._openings = 0
        self._refusals = 0

    @contextmanager
    def permit(self, origin: Origin) -> Iterator[Permit]:
        """Let one request pass, and learn from how the block ends.

        Raises:
          CircuitOpen: the origin is left alone; ``retry_after_seconds`` says for how long.
        """
        permit = self._enter(origin)
        try:
            yield permit
        except ProxyFailure:
            raise
        except _FAILURES as error:
            permit.failed(error.type)
            raise
        finally:
            permit.leave()

    def state_of(self, origin: Origin) -> CircuitState:
        """As a request that came now would find it."""
        circuit = self._circuits.get(origin)
        return CircuitState.CLOSED if circuit is None else self._seen(circuit)

    def statistics(self) -> BreakerStatistics:
        self._forget_old()
        seen = [self._seen(circuit) for circuit in self._circuits.values()]
        return BreakerStatistics(
            closed=seen.count(CircuitState.CLOSED),
            open=seen.count(CircuitState.OPEN),
            half_open=seen.count(CircuitState.HALF_OPEN),
            openings=self._openings,
            refusals=self._refusals,
        )

    # --- Permits --------------------------------------------------------------------------------

    def _enter(self, origin: Origin) -> Permit:
        permit = Permit(self, origin)
        circuit = self._circuits.get(origin)
        if circuit is None or circuit.state is CircuitState.CLOSED:
            return permit
        if self._seen(circuit) is CircuitState.OPEN:
            raise self._refusal(circuit, circuit.open_until - trio.current_time())
        if circuit.state is CircuitState.OPEN:
            circuit.turn(_Turn.COOLED_DOWN)
        if circuit.probe is not None:
            raise self._refusal(circuit, _PROBE_SECONDS)
        circuit.probe = permit
        return permit

    def _refusal(self, circuit: _Circuit, seconds: float) -> CircuitOpen:
        self._refusals += 1
        return CircuitOpen(
            f"the origin is left alone for now: it failed {circuit.failures} times in a row, "
            f"the last time with {circuit.last_failure}",
            context={"failures": circuit.failures, "last_failure": circuit.last_failure},
            retry_after_seconds=round(max(seconds, 0.001), 3),
        )

    def _succeeded(self, permit: Permit, origin: Origin) -> None:
        circuit = self._circuits.get(origin)
        if circuit is None:
            return
        if circuit.probe is permit:
            circuit.turn(_Turn.PROBE_ANSWERED)
            _logger.info("an origin answers again", origin=_spelled(origin))
        if circuit.state is CircuitState.CLOSED:
            del self._circuits[origin]  # a circuit without failures is like that of any origin
        # A success of a request that passed before the circuit opened tells nothing of now.

    def _failed(self, permit: Permit, origin: Origin, failure: str) -> None:
        now = trio.current_time()
        circuit = self._circuits.get(origin)
        if circuit is None:
            circuit = self._remember(origin)
        if circuit.probe is permit:
            circuit.turn(_Turn.PROBE_FAILED)
        elif circuit.state is not CircuitState.CLOSED:
            return  # it passed before the circuit opened
        elif now - circuit.failed_at > self._limits.failure_memory_seconds:
            circuit.failures = 0
        circuit.failures += 1
        circuit.failed_at = now
        circuit.last_failure = failure
        self._circuits.move_to_end(origin)
        if circuit.state is CircuitState.CLOSED:
            if circuit.failures < self._limits.max_failures:
                return
            circuit.turn(_Turn.FAILED_ENOUGH)
        circuit.openings += 1
        self._openings += 1
        seconds = self._limits.cool_down_after(circuit.openings)
        circuit.open_until = now + seconds
        _logger.info(
            "an origin is left alone",
            origin=_spelled(origin),
            seconds=seconds,
            failures=circuit.failures,
            last_failure=failure,
        )

    def _left(self, permit: Permit, origin: Origin) -> None:
        circuit = self._circuits.get(origin)
        if circuit is not None and circuit.probe is permit:
            circuit.probe = None

    # --- What is remembered ---------------------------------------------------------------------

    def _seen(self, circuit: _Circuit) -> CircuitState:
        """The state, with a cool-down that has passed: nothing turns a circuit that nobody asks."""
        if circuit.state is CircuitState.OPEN and trio.current_time() >= circuit.open_until:
            return CircuitState.HALF_OPEN
        return circuit.state

    def _remember(self, origin: Origin) -> _Circuit:
        self._forget_old()
        while len(self._circuits) >= self._limits.max_origins:
            self._circuits.popitem(last=False)
        circuit = self._circuits[origin] = _Circuit()
        return circuit

    def _forget_old(self) -> None:
        """Forget who failed so long ago that it means nothing any more."""
        now = trio.current_time()
        while self._circuits:
            origin, circuit = next(iter(self._circuits.items()))
            keep_until = circuit.failed_at + self._limits.failure_memory_seconds
            if circuit.state is not CircuitState.CLOSED:
                keep_until = circuit.open_until + self._limits.max_cool_down_seconds
            if now <= keep_until:
                return
            del self._circuits[origin]


def origin_of(url: URL) -> Origin:
    return url.scheme, url.host, url.port


def _spelled(origin: Origin) -> str:
    scheme, host, port = origin
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
