"""What a fetch notes of itself for who asks."""

import pytest
import trio
import trio.testing

from eventmesh_trio.errors import FetchTimeout
from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.pipeline.network.trace import begin_hop, current_hop, phase, tracing
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.origin import open_origin

POLICY = AddressPolicy(allow_private=("127.0.0.0/8",))


def test_who_does_not_ask_has_no_trace() -> None:
    begin_hop("http://e.org/", "page")
    assert current_hop() is None
    with phase("dns"):
        pass


async def test_a_phase_is_added_up_however_it_ends(autojump_clock: object) -> None:
    with tracing() as trace:
        begin_hop("http://e.org/", "page")
        for seconds in (1.0, 2.0):
            with trio.move_on_after(seconds), phase("connect"):
                await trio.sleep_forever()
    assert trace.hops[0].seconds == {"connect": 3.0}
    assert current_hop() is None


async def test_two_tasks_that_trace_do_not_see_each_other() -> None:
    found = []

    async def fetch(url: str) -> None:
        with tracing() as trace:
            begin_hop(url, "page")
            await trio.testing.wait_all_tasks_blocked()
            with phase("body"):
                await trio.lowlevel.checkpoint()
            found.append([hop.url for hop in trace.hops])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, "a")
        nursery.start_soon(fetch, "b")
    assert sorted(found) == [["a"], ["b"]]


async def test_tasks_that_were_started_in_the_block_are_traced() -> None:
    with tracing() as trace:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            nursery.start_soon(_begin)
    assert [hop.url for hop in trace.hops] == ["inside"]


async def _begin() -> None:
    begin_hop("inside", "page")
    await trio.lowlevel.checkpoint()


async def test_each_hop_of_a_fetch_is_noted_with_its_phases_and_sizes() -> None:
    with open_origin() as origin:
        async with open_fetcher(FetchLimits(), POLICY) as fetcher:
            with tracing() as trace:
                page = await fetcher.fetch(origin.url("/redirect/1"), CrawlOptions())
            await fetcher.fetch(origin.url("/page/2"), CrawlOptions())  # told to nobody
    first, second = trace.hops
    assert (first.url, first.status, first.values(b"location")) == (
        origin.url("/redirect/1"),
        302,
        ["/page/1"],
    )
    assert first.addresses == ("127.0.0.1",)
    assert set(first.seconds) == {"connect", "first_byte"}
    assert (second.url, second.status, second.purpose) == (origin.url("/page/1"), 200, "page")
    assert set(second.seconds) == {"first_byte", "body"}  # over the same connection
    assert second.wire_bytes == second.decoded_bytes == len(page.body)
    assert second.http_version == "HTTP/1.1"


async def test_a_hop_without_a_response_keeps_what_it_came_to() -> None:
    limits = FetchLimits(response_head_seconds=0.1)
    with open_origin() as origin, tracing() as trace:
        async with open_fetcher(limits, POLICY) as fetcher:
            with pytest.raises(FetchTimeout):
                await fetcher.fetch(origin.url("/stall/1"), CrawlOptions())
    (hop,) = trace.hops
    assert (hop.status, hop.addresses, set(hop.seconds)) == (0, ("127.0.0.1",), {"connect"})
