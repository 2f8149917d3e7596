"""Of several addresses the first that answers is used, and nothing is left of the others."""

import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from eventmesh_trio.errors import ProxyFailure
from eventmesh_trio.pipeline.network.race import first_connected


@attrs.define(eq=False)
class Addresses:
    """What connecting to each brings, and after how many seconds."""

    begun: list[tuple[str, float]] = attrs.field(factory=list)
    streams: dict[str, trio.abc.Stream] = attrs.field(factory=dict)  # the origin's ends

    def __call__(
        self, name: str, seconds: float, failure: Exception | None = None
    ) -> Callable[[], Awaitable[trio.abc.Stream]]:
        return partial(self._connect, name, seconds, failure)

    async def _connect(
        self, name: str, seconds: float, failure: Exception | None
    ) -> trio.abc.Stream:
        self.begun.append((name, trio.current_time()))
        await trio.sleep(seconds)
        if failure is not None:
            raise failure
        ours, self.streams[name] = memory_stream_pair()
        return ours

    async def closed(self) -> list[str]:
        """Those that were connected to, and are not any more."""
        found = []
        for name, stream in self.streams.items():
            with trio.move_on_after(0.001):
                if await stream.receive_some(1) == b"":
                    found.append(name)
        return found


race = partial(first_connected, attempt_seconds=5, next_seconds=0.25)


async def test_the_best_address_is_used_where_it_answers_soon(autojump_clock: MockClock) -> None:
    addresses = Addresses()
    stream = await race([addresses("a", 0.2), addresses("b", 0)])
    assert stream is not None
    assert (list(addresses.streams), addresses.begun) == (["a"], [("a", 0)])
    assert await addresses.closed() == []


async def test_a_refusal_costs_no_wait(autojump_clock: MockClock) -> None:
    addresses, refused = Addresses(), ConnectionRefusedError(111, "refused")
    assert await race([addresses("a", 0, refused), addresses("b", 0.1, refused), addresses("c", 0)])
    assert addresses.begun == [("a", 0), ("b", 0), ("c", pytest.approx(0.1))]


async def test_an_address_that_says_nothing_holds_up_the_next_for_a_moment_only(
    autojump_clock: MockClock,
) -> None:
    addresses = Addresses()
    assert await race([addresses("a", 60), addresses("b", 60), addresses("c", 0.1)])
    assert [when for _, when in addresses.begun] == [0, 0.25, 0.5]
    assert trio.current_time() == pytest.approx(0.6)


async def test_the_first_may_still_win_beside_the_second(autojump_clock: MockClock) -> None:
    addresses = Addresses()
    assert await race([addresses("a", 0.3), addresses("b", 60)])
    assert list(addresses.streams) == ["a"]


async def test_of_two_connections_at_the_same_moment_one_is_closed(
    autojump_clock: MockClock,
) -> None:
    addresses = Addresses()
    stream = await race([addresses("a", 0.5), addresses("b", 0.25)])
    assert stream is not None
    assert len(await addresses.closed()) == len(addresses.streams) - 1
    await stream.send_all(b"x")


async def test_nobody_who_answers_is_none_after_the_last_attempts_time(
    autojump_clock: MockClock,
) -> None:
    addresses = Addresses()
    assert await race([addresses("a", 60), addresses("b", 60)]) is None
    assert trio.current_time() == pytest.approx(5.25)


async def test_the_last_failure_is_told(autojump_clock: MockClock) -> None:
    addresses = Addresses()
    with pytest.raises(OSError, match="two"):
        await race([addresses("a", 0, OSError("one")), addresses("b", 0, OSError("two"))])


async def test_a_proxy_that_fails_ends_it_for_all_addresses(autojump_clock: MockClock) -> None:
    addresses = Addresses()
    with pytest.raises(ProxyFailure):
        await race([addresses("a", 0, ProxyFailure("gone")), addresses("b", 0)])
    assert addresses.begun == [("a", 0)]


@pytest.mark.parametrize("failure", [None, OSError("gone"), ProxyFailure("gone")])
async def test_what_is_over_is_not_left_to_the_collector(
    failure: Exception | None, autojump_clock: MockClock
) -> None:
    addresses = Addresses()

    async def lose() -> None:
        attempts = [addresses(name, 1 if failure is None else 0, failure) for name in "abc"]
        with suppress(OSError, ProxyFailure), trio.move_on_after(0.6):
            await race(attempts)

    await lose()
    gc.collect()
    await lose()
    assert gc.collect() == 0


@pytest.mark.parametrize("after", [0.0, 0.1, 0.25, 0.3, 0.4, 0.5])
async def test_cancelled_no_connection_is_left(after: float, autojump_clock: MockClock) -> None:
    addresses = Addresses()
    kept: trio.abc.Stream | None = None
    with trio.move_on_after(after):
        kept = await race([addresses("a", 0.4), addresses("b", 0.15)])
    if kept is None:
        assert await addresses.closed() == list(addresses.streams)
    else:
        assert len(await addresses.closed()) == len(addresses.streams) - 1
