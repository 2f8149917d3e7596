"""Settings under ``politeness``: many hosts, back-off, and how long a robots.txt is kept."""

import attrs
import pytest
import trio
from trio.testing import MockClock

from eventmesh_trio.abc import Page
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.errors import CircuitOpen
from eventmesh_trio.pipeline.manners.politeness import Politeness
from eventmesh_trio.testing import make_page
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url
from tests.helpers.settled import settled, shows

RUDE = CrawlOptions(respect_robots=False)
URL = "http://a.example/"
DAY = 86_400


@attrs.define(eq=False)
class Source:
    """Robots.txt files that say how long they may be kept."""

    status: int = 404
    cache_control: bytes = b""
    user_agent: str = "eventmesh/1.0"
    asked: int = 0

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        body = b"User-agent: *\nDisallow: /no"[:max_bytes] if self.status == 200 else b""
        fields = ((b"cache-control", self.cache_control),)
        return attrs.evolve(make_page(url, body, status=self.status), fields=fields)


def polite(*settings: str, source: Source | None = None) -> Politeness:
    return Politeness(source or Source(), settled(*settings).politeness)


async def starts(politeness: Politeness, *statuses: int, retry_after: bytes = b"") -> list[float]:
    """When each request began, of a host that answers so."""
    times: list[float] = []
    for status in statuses:
        async with politeness.turn(URL, RUDE, "run") as turn:
            times.append(trio.current_time())
            fields = ((b"retry-after", retry_after),) if retry_after else ()
            turn.answered(attrs.evolve(make_page(URL, status=status), fields=fields))
    return times


@shows("politeness.max_requests")
@pytest.mark.parametrize(("most", "seconds"), [(4, 5), (20, 1)])
async def test_all_hosts_together_have_no_more_than_max_requests_at_once(
    most: int, seconds: int, autojump_clock: MockClock
):
    politeness = polite(f"politeness.max_requests={most}")

    async def visit(number: int) -> None:
        async with politeness.turn(f"http://h{number}.example/", RUDE, "run"):
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(visit, number)
    assert trio.current_time() == pytest.approx(seconds)


async def test_with_fewer_connections_than_max_requests_runs_take_turns_for_those(
    autojump_clock: MockClock,
):
    active = most = 0
    async with open_mesh(settled("fetch.max_connections=3")) as mesh:

        async def visit(number: int) -> None:
            nonlocal active, most
            url = f"http://h{number}.example/"
            async with mesh.ports.politeness.turn(url, RUDE, "run"):
                active += 1
                most = max(most, active)
                await trio.sleep(1)
                active -= 1

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(visit, number)
    assert most == 3


@shows("politeness.back_off.first_seconds")
async def test_a_host_is_left_alone_for_first_seconds_and_then_for_twice_as_long(
    autojump_clock: MockClock,
):
    politeness = polite("politeness.back_off.first_seconds=3")
    assert await starts(politeness, 503, 503, 200) == pytest.approx([0, 3, 9])


@shows("politeness.back_off.max_seconds")
@pytest.mark.parametrize("retry_after", [b"", b"90"])
async def test_a_host_is_left_alone_for_max_seconds_at_most(
    retry_after: bytes, autojump_clock: MockClock
):
    settings = ("politeness.back_off.first_seconds=40", "politeness.back_off.max_seconds=50")
    times = await starts(polite(*settings), 503, 503, 503, 200, retry_after=retry_after)
    assert times[2:] == pytest.approx([times[1] + 50, times[1] + 100])


@shows("politeness.back_off.max_wait_seconds")
async def test_a_url_waits_for_a_host_that_is_left_alone_for_max_wait_seconds(
    autojump_clock: MockClock,
):
    asked = {"retry_after": b"60"}
    patient = polite("politeness.back_off.max_wait_seconds=60")
    assert await starts(patient, 429, 200, **asked) == pytest.approx([0, 60])
    with pytest.raises(CircuitOpen) as caught:
        await starts(polite("politeness.back_off.max_wait_seconds=59"), 429, 200, **asked)
    assert caught.value.retry_after_seconds == pytest.approx(60)


async def is_kept_for(seconds: float, *settings: str, cache_control: bytes) -> bool:
    """Whether a robots.txt with that field is fetched again after so long, and not before."""
    source = Source(200, cache_control)
    politeness = polite(*settings, source=source)
    for wait in (0, seconds - 1):
        await trio.sleep(wait)
        await politeness.check(parse_url(URL), CrawlOptions())
    if source.asked != 1:
        return False
    await trio.sleep(2)
    await politeness.check(parse_url(URL), CrawlOptions())
    return source.asked == 2


@shows("politeness.robots.min_keep_seconds")
async def test_a_robots_txt_is_kept_for_min_keep_seconds_whatever_it_says(
    autojump_clock: MockClock,
):
    assert await is_kept_for(300, cache_control=b"max-age=10")
    setting = "politeness.robots.min_keep_seconds=20"
    assert await is_kept_for(20, setting, cache_control=b"max-age=10")


@shows("politeness.robots.max_keep_seconds")
async def test_a_robots_txt_is_kept_for_max_keep_seconds_whatever_it_says(
    autojump_clock: MockClock,
):
    assert await is_kept_for(DAY, cache_control=b"max-age=999999")
    setting = "politeness.robots.max_keep_seconds=2h"
    assert await is_kept_for(7200, setting, cache_control=b"max-age=999999")


@shows("politeness.robots.max_unreachable_seconds")
async def test_an_origin_that_was_unreachable_for_max_unreachable_seconds_has_no_rules(
    autojump_clock: MockClock,
):
    source = Source(500)
    politeness = polite("politeness.robots.max_unreachable_seconds=2h", source=source)
    url = parse_url(URL)
    for wait, allowed in ((0, False), (7000, False), (300, True)):
        await trio.sleep(wait)
        verdict = await politeness.explain_robots(url, CrawlOptions())
        assert verdict.allowed is allowed
