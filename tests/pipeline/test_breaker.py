"""The circuit breaker by itself, on mock time, and under a fetcher on loopback."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from eventmesh_trio.errors import (
    BlockedAddress,
    CircuitOpen,
    DNSError,
    FetchTimeout,
    NetworkFailure,
    PageError,
    ProxyFailure,
    TLSFailure,
    TooLarge,
    UnsupportedContent,
)
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher, open_fetcher
from eventmesh_trio.pipeline.fetching.retry import fetch_with_retries
from eventmesh_trio.pipeline.network.breaker import (
    BreakerLimits,
    CircuitBreaker,
    CircuitState,
    origin_of,
)
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url

HERE = ("https", "site.example", 443)
THERE = ("https", "other.example", 443)
OPTIONS = CrawlOptions()
LIMITS = BreakerLimits(
    max_failures=3, failure_memory_seconds=60, cool_down_seconds=5, max_cool_down_seconds=15
)


def fail(breaker: CircuitBreaker, *errors: PageError, origin: Any = HERE) -> None:
    for error in errors or (NetworkFailure("no connection"),):
        with pytest.raises(type(error)), breaker.permit(origin):
            raise error


def answer(breaker: CircuitBreaker, status: int = 200, origin: Any = HERE) -> None:
    with breaker.permit(origin) as permit:
        permit.answered(status)


def refused(breaker: CircuitBreaker, origin: Any = HERE) -> float:
    """For how long, in seconds; the origin must be refused."""
    with pytest.raises(CircuitOpen) as caught, breaker.permit(origin):
        raise AssertionError("it was let pass")
    assert caught.value.can_retry
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


async def open_circuit(limits: BreakerLimits = LIMITS) -> CircuitBreaker:
    """A breaker whose one circuit has just opened."""
    await trio.lowlevel.checkpoint()
    breaker = CircuitBreaker(limits)
    for _ in range(limits.max_failures):
        fail(breaker)
    assert breaker.state_of(HERE) is CircuitState.OPEN
    return breaker


# --- States -------------------------------------------------------------------------------------


async def test_failures_in_a_row_open_the_circuit_of_their_origin_only(
    autojump_clock: MockClock,
) -> None:
    breaker = CircuitBreaker(LIMITS)
    for count in range(3):
        assert breaker.state_of(HERE) is CircuitState.CLOSED, count
        fail(breaker)
    assert breaker.state_of(HERE) is CircuitState.OPEN
    assert refused(breaker) == 5
    for origin in (THERE, ("http", "site.example", 80), ("https", "site.example", 8443)):
        answer(breaker, origin=origin)


async def test_a_success_between_failures_begins_the_row_anew(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(LIMITS)
    for _ in range(10):
        fail(breaker)
        fail(breaker)
        answer(breaker, 500)
    assert breaker.state_of(HERE) is CircuitState.CLOSED


async def test_failures_far_apart_are_no_row(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(LIMITS)
    for _ in range(10):
        fail(breaker)
        await trio.sleep(61)
    assert breaker.state_of(HERE) is CircuitState.CLOSED
    fail(breaker)
    for _ in range(2):
        await trio.sleep(59)
        fail(breaker)
    assert breaker.state_of(HERE) is CircuitState.OPEN


async def test_after_its_cool_down_one_request_is_the_probe(autojump_clock: MockClock) -> None:
    breaker = await open_circuit()
    await trio.sleep(4)
    assert refused(breaker) == 1
    await trio.sleep(1)
    assert breaker.state_of(HERE) is CircuitState.HALF_OPEN
    with breaker.permit(HERE) as probe:
        assert refused(breaker) > 0  # all others, while the probe is out
        probe.answered(200)
        answer(breaker)  # and none from the moment that it is answered
    assert breaker.state_of(HERE) is CircuitState.CLOSED
    fail(breaker)
    fail(breaker)
    assert breaker.state_of(HERE) is CircuitState.CLOSED  # with nothing held against it


async def test_each_failed_probe_doubles_the_cool_down_up_to_its_limit(
    autojump_clock: MockClock,
) -> None:
    breaker = await open_circuit()
    for seconds in (5, 10, 15, 15):
        assert refused(breaker) == seconds
        await trio.sleep(seconds)
        fail(breaker)
    await trio.sleep(15)
    answer(breaker)
    for _ in range(3):
        fail(breaker)
    assert refused(breaker) == 5  # it begins anew


@pytest.mark.parametrize("ending", ["cancelled", "bug", "our refusal", "the proxy", "nothing"])
async def test_what_says_nothing_of_the_origin_frees_the_probe_and_counts_as_nothing(
    ending: str, autojump_clock: MockClock
) -> None:
    async def end(breaker: CircuitBreaker) -> None:
        errors: dict[str, Exception] = {
            "bug": RuntimeError("ours"),
            "our refusal": BlockedAddress("not public"),
            "the proxy": ProxyFailure("not there"),
        }
        with trio.CancelScope() as scope, breaker.permit(HERE):
            if ending == "cancelled":
                scope.cancel()
                await trio.sleep_forever()
            if ending in errors:
                raise errors[ending]

    async def end_it(breaker: CircuitBreaker) -> None:
        with suppress(RuntimeError, BlockedAddress, ProxyFailure):
            await end(breaker)

    breaker = CircuitBreaker(LIMITS)
    for _ in range(10):
        await end_it(breaker)
    assert breaker.statistics().closed == 0  # nothing is remembered
    fail(breaker)
    fail(breaker)
    await end_it(breaker)
    fail(breaker)
    assert breaker.state_of(HERE) is CircuitState.OPEN  # nor did it begin the row anew
    await trio.sleep(5)
    await end_it(breaker)
    assert breaker.state_of(HERE) is CircuitState.HALF_OPEN
    answer(breaker)  # the next one is the probe
    assert breaker.state_of(HERE) is CircuitState.CLOSED


async def test_who_passed_before_the_circuit_opened_tells_nothing_of_now(
    autojump_clock: MockClock,
) -> None:
    breaker = CircuitBreaker(LIMITS)
    with suppress(NetworkFailure), breaker.permit(HERE) as early:
        with suppress(NetworkFailure), breaker.permit(HERE):
            for _ in range(3):
                fail(breaker)
            assert refused(breaker) == 5
            await trio.sleep(1)
            raise NetworkFailure("late")
        assert refused(breaker) == 4
        early.answered(200)
        assert refused(breaker) == 4
        raise NetworkFailure("in its body")
    await trio.sleep(4)
    answer(breaker)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_gateway_that_says_that_nobody_is_there_counts_as_a_failure(
    status: int, autojump_clock: MockClock
) -> None:
    breaker = CircuitBreaker(LIMITS)
    for _ in range(3):
        answer(breaker, status)
    assert breaker.state_of(HERE) is CircuitState.OPEN
    with pytest.raises(CircuitOpen) as caught, breaker.permit(HERE):
        pass
    assert caught.value.context == {"failures": 3, "last_failure": f"http_{status}"}
    assert str(caught.value).endswith(f"3 times in a row, the last time with http_{status}")


@pytest.mark.parametrize(
    "error", [DNSError("x"), NetworkFailure("x"), FetchTimeout("x"), TLSFailure("x")], ids=repr
)
async def test_no_answer_of_any_kind_counts_as_a_failure(
    error: PageError, autojump_clock: MockClock
) -> None:
    breaker = CircuitBreaker(LIMITS)
    fail(breaker, error, error, error)
    assert breaker.state_of(HERE) is CircuitState.OPEN


@pytest.mark.parametrize("status", [200, 301, 304, 400, 403, 404, 410, 429, 500, 501, 599])
async def test_any_other_answer_is_a_success_whatever_becomes_of_its_body(
    status: int, autojump_clock: MockClock
) -> None:
    breaker = CircuitBreaker(LIMITS)
    failures = (TooLarge("x"), UnsupportedContent("x"), NetworkFailure("x"), FetchTimeout("x"))
    for error in failures * 2:
        with suppress(PageError), breaker.permit(HERE) as permit:
            permit.answered(status)
            raise error
    assert breaker.statistics().closed == 0


# --- What is remembered -------------------------------------------------------------------------


async def test_no_more_than_max_origins_are_remembered_those_that_failed_last(
    autojump_clock: MockClock,
) -> None:
    breaker = CircuitBreaker(attrs.evolve(LIMITS, max_origins=10))
    for number in range(25):
        for _ in range(3):
            fail(breaker, origin=("http", f"{number}.example", 80))
    assert breaker.statistics().open == 10
    answer(breaker, origin=("http", "14.example", 80))
    assert refused(breaker, ("http", "15.example", 80)) == 5


async def test_what_failed_long_ago_is_forgotten(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(LIMITS)
    fail(breaker)
    for _ in range(3):
        fail(breaker, origin=THERE)
    assert attrs.astuple(breaker.statistics()) == (1, 1, 0, 1, 0)
    await trio.sleep(6)
    assert attrs.astuple(breaker.statistics()) == (1, 0, 1, 1, 0)
    await trio.sleep(60)
    assert attrs.astuple(breaker.statistics()) == (0, 0, 0, 1, 0)


async def test_openings_are_logged_with_their_reason_and_so_is_the_end(
    autojump_clock: MockClock,
) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        breaker = await open_circuit()
        await trio.sleep(5)
        answer(breaker)
    assert [entry["event"] for entry in logs] == [
        "an origin is left alone",
        "an origin answers again",
    ]
    assert logs[0]["origin"] == "https://site.example:443"
    assert (logs[0]["seconds"], logs[0]["last_failure"]) == (5, "network_error")


@given(st.lists(st.sampled_from(["fail", "answer", "cancel", "wait", "nest"]), max_size=60))
def test_whatever_happens_a_circuit_never_lets_two_probes_pass_nor_sticks(steps: list[str]) -> None:
    async def run() -> None:
        breaker = CircuitBreaker(LIMITS)
        for step in steps:
            try:
                with breaker.permit(HERE) as permit:
                    if step == "nest":
                        half_open = breaker.state_of(HERE) is CircuitState.HALF_OPEN
                        try:
                            with breaker.permit(HERE):
                                assert not half_open
                        except CircuitOpen:
                            assert half_open
                    if step == "answer":
                        permit.answered(200)
                    if step == "fail":
                        raise NetworkFailure("no")
            except (CircuitOpen, NetworkFailure):
                pass
            if step == "wait":
                await trio.sleep(5)
        await trio.sleep(15)
        answer(breaker)  # after the longest cool-down it is open to a probe, always
        assert breaker.state_of(HERE) is CircuitState.CLOSED

    trio.run(run, clock=MockClock(autojump_threshold=0))


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin_of(parse_url("https://a.example/x?y")) == ("https", "a.example", 443)
    assert origin_of(parse_url("http://[2001:db8::1]:8080/")) == ("http", "2001:db8::1", 8080)


# --- Under the fetcher --------------------------------------------------------------------------

Script = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def fetching(script: Script, **breaker: Any) -> Any:
    """A fetcher, the URL of an origin that does this with each connection, and their count."""
    connections = [0]

    async def serve(stream: trio.SocketStream) -> None:
        connections[0] += 1
        async with stream:
            await script(stream)

    limits = FetchLimits(
        response_head_seconds=0.2,
        breaker=BreakerLimits(**{"max_failures": 3, "cool_down_seconds": 0.3, **breaker}),
    )
    policy = AddressPolicy(allow_private=("127.0.0.0/8",))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_fetcher(limits, policy) as fetcher:
            yield fetcher, f"http://127.0.0.1:{port}/", connections
        nursery.cancel_scope.cancel()


async def outcome(fetcher: HTTPFetcher, url: str) -> str:
    try:
        return str((await fetcher.fetch(url, OPTIONS)).status)
    except PageError as error:
        return error.type


async def test_an_origin_that_drops_its_connections_is_left_alone_until_it_answers() -> None:
    works = False

    async def script(stream: trio.SocketStream) -> None:
        if works:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with fetching(script) as (fetcher, url, connections):
        outcomes = [await outcome(fetcher, url) for _ in range(6)]
        assert outcomes == ["network_error"] * 3 + ["circuit_open"] * 3
        assert connections == [3]
        assert fetcher.statistics().circuits.open == 1
        works = True
        await trio.sleep(0.35)
        assert [await outcome(fetcher, url) for _ in range(3)] == ["200"] * 3
        assert fetcher.statistics().circuits.open == 0


async def test_an_origin_that_accepts_and_says_nothing_is_left_alone() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with fetching(script) as (fetcher, url, connections):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(outcome, fetcher, url)
        assert await outcome(fetcher, url) == "circuit_open"
        assert connections == [3]


async def test_a_hop_of_a_redirect_is_asked_for_as_well() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1999/\r\n\r\n"
        )

    async with fetching(script) as (fetcher, url, connections):
        outcomes = [await outcome(fetcher, url) for _ in range(5)]
        assert outcomes == ["network_error"] * 3 + ["circuit_open"] * 2
        assert connections[0] >= 1
        assert await outcome(fetcher, "http://127.0.0.1:1999/") == "circuit_open"


async def test_pages_that_are_bad_do_not_close_their_origin_to_others() -> None:
    async def script(stream: trio.SocketStream) -> None:
        head = await stream.receive_some(65536)
        if b"/good" in head:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    async with fetching(script) as (fetcher, url, _):
        assert [await outcome(fetcher, f"{url}bad") for _ in range(6)] == ["network_error"] * 6
        assert await outcome(fetcher, f"{url}good") == "200"


async def test_a_cancelled_fetch_frees_the_probe() -> None:
    stall = False

    async def script(stream: trio.SocketStream) -> None:
        if stall:
            await trio.sleep_forever()

    async with fetching(script) as (fetcher, url, _):
        for _ in range(3):
            await outcome(fetcher, url)
        stall = True
        await trio.sleep(0.35)
        with trio.move_on_after(0.05) as scope:
            await outcome(fetcher, url)
        assert scope.cancelled_caught
        circuits = fetcher.statistics().circuits
        assert (circuits.half_open, circuits.openings) == (1, 1)
        stall = False
        assert await outcome(fetcher, url) == "network_error"  # it was let pass


async def test_a_short_outage_is_waited_for_by_the_retries() -> None:
    """Eight fetches meet an origin that is restarting; none of them fails."""
    up_at = trio.current_time() + 0.4

    async def script(stream: trio.SocketStream) -> None:
        if trio.current_time() >= up_at:
            await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pages: list[int] = []

    async def one() -> None:
        pages.append((await fetch_with_retries(fetcher, url, OPTIONS)).status)

    async with fetching(script, cool_down_seconds=0.6) as (fetcher, url, connections):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        assert pages == [200] * 8
        assert connections[0] <= 8 + 8


async def test_what_failed_before_the_circuit_opened_is_told_rather_than_that_it_is_open() -> None:
    async def script(_: trio.SocketStream) -> None: ...

    async with fetching(script, max_failures=1, cool_down_seconds=60) as (fetcher, url, _):
        with pytest.raises(NetworkFailure) as caught:
            await fetch_with_retries(fetcher, url, OPTIONS)
        assert caught.value.retry_after_seconds == pytest.approx(60, abs=2)
        with pytest.raises(CircuitOpen):
            await fetch_with_retries(fetcher, url, OPTIONS)


async def test_of_a_gateways_error_page_and_an_open_circuit_the_page_is_told() -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    async with fetching(script, max_failures=1, cool_down_seconds=60) as (fetcher, url, _):
        assert (await fetch_with_retries(fetcher, url, OPTIONS)).status == 502
