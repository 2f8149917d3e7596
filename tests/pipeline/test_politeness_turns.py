"""Turns at a host between runs, and after it asked to be left alone; on a clock of their own."""

import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import CircuitOpen, RobotsDenied
from eventmesh_trio.pipeline.manners.host_turns import BackOffLimits
from eventmesh_trio.pipeline.manners.politeness import Politeness, PolitenessLimits
from eventmesh_trio.pipeline.manners.robots import RobotsLimits
from eventmesh_trio.testing import make_page
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url

OPTIONS = CrawlOptions()
RUDE = CrawlOptions(respect_robots=False)
A, B = "http://a.example/", "http://b.example/"


@attrs.define(eq=False)
class Source:
    """The same robots.txt for every origin; or a status."""

    answer: bytes | int = 404
    fields: Sequence[tuple[bytes, bytes]] = ()
    user_agent: str = "eventmesh/1.0"
    asked: list[str] = attrs.field(factory=list)

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.asked.append(url)
        await trio.lowlevel.checkpoint()
        if isinstance(self.answer, int):
            return answer(url, self.answer, *self.fields)
        return attrs.evolve(make_page(url, self.answer), fields=tuple(self.fields))


def polite(source: Source | None = None, **limits: Any) -> Politeness:
    return Politeness(source or Source(), PolitenessLimits(**limits))


def answer(url: str, status: int = 200, *fields: tuple[bytes, bytes]) -> Page:
    return attrs.evolve(make_page(url, b"", status=status), fields=tuple(fields))


@attrs.define(eq=False)
class Visits:
    """Visits to hosts, and when each began."""

    politeness: Politeness
    began: list[tuple[str, float]] = attrs.field(factory=list)
    refused: list[float | None] = attrs.field(factory=list)

    async def visit(
        self,
        run: str,
        url: str = A,
        *,
        seconds: float = 0.0,
        status: int = 200,
        retry_after: str | None = None,
        options: CrawlOptions = RUDE,
    ) -> None:
        fields = [] if retry_after is None else [(b"retry-after", retry_after.encode())]
        try:
            async with self.politeness.turn(url, options, run) as turn:
                self.began.append((run, trio.current_time()))
                await trio.sleep(seconds)
                turn.answered(answer(url, status, *fields))
        except CircuitOpen as error:
            self.refused.append(error.retry_after_seconds)

    @property
    def order(self) -> list[str]:
        return [run for run, _ in self.began]

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.began]


# --- Fair between runs ----------------------------------------------------------------------------


async def test_a_run_of_many_urls_on_a_host_holds_up_no_other_run(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(max_requests_per_host=2))
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(lambda: visits.visit("big", seconds=1))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            nursery.start_soon(lambda: visits.visit("small", seconds=1))
    ends = [time for run, time in visits.began if run == "small"]
    assert ends == pytest.approx([1, 2, 3, 4, 5])  # one of the two each second
    assert len(visits.order) == 1005
    assert trio.current_time() == pytest.approx(503, abs=1)


async def test_three_runs_get_the_same_number_of_turns_for_as_long_as_all_wait(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(max_requests_per_host=4))
    async with trio.open_nursery() as nursery:
        for run, count in (("a", 400), ("b", 100), ("c", 50)):
            for _ in range(count):
                nursery.start_soon(lambda run=run: visits.visit(run, seconds=1))
    first = visits.order[4:130]  # the first four took theirs unasked, maybe all of "c"
    assert max(map(first.count, "abc")) - min(map(first.count, "abc")) <= 2


async def test_with_a_crawl_delay_the_moments_alternate(autojump_clock: MockClock) -> None:
    visits = Visits(polite(Source(b"User-agent: *\nCrawl-delay: 10")))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lambda: visits.visit("big", options=OPTIONS))
        await trio.sleep(25)
        for _ in range(4):
            nursery.start_soon(lambda: visits.visit("small", options=OPTIONS))
    # The one that was called at 20 for the moment at 30 keeps it, and another had its place.
    assert visits.order[3:13] == ["big", "big", *["small", "big"] * 4]
    assert visits.times == pytest.approx([10 * number for number in range(24)])


async def test_of_two_delays_the_longer_one_lies_between_two_requests(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(Source(b"User-agent: *\nCrawl-delay: 10"), delay_seconds=1))
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: visits.visit("rude"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: visits.visit("polite", options=OPTIONS))
    assert list(zip(visits.order, visits.times, strict=True)) == [
        ("rude", pytest.approx(0)),
        ("rude", pytest.approx(1)),
        ("rude", pytest.approx(2)),
        ("polite", pytest.approx(12)),
        ("rude", pytest.approx(22)),
    ]


async def test_the_requests_of_all_hosts_are_limited_and_given_in_rounds(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(max_requests=4))
    async with trio.open_nursery() as nursery:
        for number in range(40):
            url = f"http://h{number}.example/"
            nursery.start_soon(lambda url=url: visits.visit("big", url, seconds=10))
        await trio.testing.wait_all_tasks_blocked()
        assert visits.politeness.statistics().active == 4
        for number in range(4):
            url = f"http://s{number}.example/"
            nursery.start_soon(lambda url=url: visits.visit("small", url, seconds=10))
    assert visits.order[4:12].count("small") == 4


async def test_who_waits_for_a_moment_keeps_no_request_from_others(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(max_requests=2, delay_seconds=100))
    async with trio.open_nursery() as nursery:
        for number in range(8):
            for _ in range(2):
                url = f"http://h{number}.example/"
                nursery.start_soon(lambda url=url: visits.visit("run", url, seconds=1))
    assert sorted(visits.times) == pytest.approx(
        [*(n // 2 for n in range(8)), *(100 + n // 2 for n in range(8))], abs=1.01
    )


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_cancelled_when_no_turn_is_lost(
    seed: int, autojump_clock: MockClock
) -> None:
    rng = random.Random(seed)
    # The even ones are hosts that refuse now and then, for less and for more than is waited.
    refuses = 0.0 if seed % 2 else 0.05
    politeness = polite(
        max_requests_per_host=3,
        max_requests=5,
        delay_seconds=0.5,
        back_off=BackOffLimits(max_seconds=30, max_wait_seconds=10),
    )
    done = refused = 0

    async def visit(run: str, url: str) -> None:
        nonlocal done, refused
        with trio.move_on_after(rng.choice([0.1, 1, 5, 20, 1000])):
            try:
                async with politeness.turn(url, RUDE, run) as turn:
                    await trio.sleep(rng.choice([0, 1, 3]))
                    if rng.random() < 0.3:
                        await turn.move(parse_url(rng.choice([A, B])))
                        await trio.sleep(rng.choice([0, 1]))
                    status = 429 if rng.random() < refuses else 200
                    asked = rng.choice([b"1", b"8", b"20"])
                    turn.answered(answer(url, status, (b"retry-after", asked)))
                    done += 1
            except CircuitOpen:
                refused += 1

    async with trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(visit, f"run{number % 4}", rng.choice([A, B]))
            if number % 10 == 0:
                await trio.sleep(rng.choice([0, 1, 5]))
    assert done > (100 if seed % 2 else 20)
    assert not (refused and seed % 2)
    await trio.sleep(60)
    now = politeness.statistics()
    assert (now.active, now.waiting) == (0, 0)
    visits = Visits(politeness)
    for _ in range(8):  # until it is well
        await visits.visit("run")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: visits.visit("run", seconds=100))
        await trio.sleep(10)
        assert politeness.statistics().active == 3


# --- Redirects ------------------------------------------------------------------------------------


async def test_a_redirects_target_has_its_turns_too(autojump_clock: MockClock) -> None:
    politeness = polite(max_requests_per_host=2)
    visits = Visits(politeness)
    arrived: list[float] = []

    async def hop(number: int) -> None:
        async with politeness.turn(f"http://short{number}.example/", RUDE, "run") as turn:
            await turn.move(parse_url(A))
            arrived.append(trio.current_time())
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(hop, number)
        await trio.testing.wait_all_tasks_blocked()
        assert politeness.statistics().active == 2  # the turns at the first hosts are back
        nursery.start_soon(lambda: visits.visit("run", "http://short5.example/"))
    assert arrived == pytest.approx([0, 0, 1, 1, 2, 2])
    assert visits.times == pytest.approx([0])


async def test_two_hosts_that_redirect_to_each_other_block_nobody(
    autojump_clock: MockClock,
) -> None:
    politeness = polite(max_requests_per_host=1, max_requests=1)
    moved = 0

    async def hop(start: str, target: str) -> None:
        nonlocal moved
        async with politeness.turn(start, RUDE, start) as turn:
            await trio.sleep(1)
            await turn.move(parse_url(target))
            moved += 1

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(hop, A, B)
                nursery.start_soon(hop, B, A)
    assert moved == 20


async def test_a_redirect_that_is_not_to_be_followed_leaves_no_turn_behind(
    autojump_clock: MockClock,
) -> None:
    politeness = polite(Source(b"User-agent: *\nDisallow: /no"))
    with pytest.raises(RobotsDenied):
        async with politeness.turn(A, OPTIONS, "run") as turn:
            await turn.move(parse_url(f"{B}no"))
    assert politeness.statistics().active == 0
    assert politeness.known_hosts == 0


# --- After a 429 or 503 ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_after_a_429_or_503_the_host_is_left_alone_by_all_runs_for_as_long_as_it_asks(
    status: int, autojump_clock: MockClock
) -> None:
    visits = Visits(polite())
    await visits.visit("a", status=status, retry_after="20")
    async with trio.open_nursery() as nursery:
        for run in ("a", "b"):
            nursery.start_soon(visits.visit, run)
        nursery.start_soon(visits.visit, "b", B)
    assert sorted(visits.times) == pytest.approx([0, 0, 20, 20])


@pytest.mark.parametrize("status", [200, 301, 404, 408, 500, 502, 504])
async def test_no_other_status_is_a_reason_to_leave_a_host_alone(
    status: int, autojump_clock: MockClock
) -> None:
    visits = Visits(polite())
    await visits.visit("a", status=status, retry_after="20")
    await visits.visit("a")
    assert visits.times == pytest.approx([0, 0])


async def test_without_a_time_it_is_left_alone_for_twice_as_long_each_time(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(back_off=BackOffLimits(first_seconds=1, max_seconds=10)))
    for _ in range(7):
        await visits.visit("a", status=503)
    assert visits.times == pytest.approx([0, 1, 3, 7, 15, 25, 35])


async def test_each_response_that_is_none_of_these_halves_what_follows_the_next(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(back_off=BackOffLimits(first_seconds=1)))
    for status in (503, 503, 503, 503, 200, 503, 200):
        await visits.visit("a", status=status)
    # 1, 2, 4 and 8 seconds; the fourth level halved is the second, so the next is the third: 4
    assert visits.times == pytest.approx([0, 1, 3, 7, 15, 15, 19])


async def test_refusals_of_requests_under_way_together_count_once(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(back_off=BackOffLimits(first_seconds=1)))
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(
                lambda number=number: visits.visit("a", seconds=1 + number / 100, status=429)
            )
    await visits.visit("a")
    assert visits.times[-1] == pytest.approx(2.07)


async def test_a_host_in_trouble_is_asked_by_one_at_a_time_until_it_is_well(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(back_off=BackOffLimits(first_seconds=1)))
    for _ in range(2):
        await visits.visit("a", status=503)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(lambda run=f"run{number}": visits.visit(run, seconds=1))
    # At 3 one, whose answer halves 2 to 1; at 4 one, which ends it; at 5 the others.
    assert visits.times[2:] == pytest.approx([3, 4, *[5] * 6])


async def test_a_retry_after_over_the_limit_is_cut(autojump_clock: MockClock) -> None:
    visits = Visits(polite(back_off=BackOffLimits(max_seconds=50)))
    await visits.visit("a", status=429, retry_after="86400")
    await visits.visit("a")
    assert visits.times == pytest.approx([0, 50])


async def test_whoever_would_wait_too_long_is_told_when_to_come_back(
    autojump_clock: MockClock,
) -> None:
    limits = BackOffLimits(max_seconds=300, max_wait_seconds=100)
    visits = Visits(polite(Source(), back_off=limits, max_requests_per_host=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: visits.visit("a", seconds=5, status=429, retry_after="200"))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(50):  # these wait already
            nursery.start_soon(visits.visit, "b")
    assert visits.refused == pytest.approx([200] * 50)
    with pytest.raises(CircuitOpen, match="429") as caught:
        await visits.politeness.check(parse_url(A), OPTIONS)
    assert caught.value.retry_after_seconds == pytest.approx(200)
    assert caught.value.context == {"http_status": 429}
    await trio.sleep(101)
    await visits.visit("c")
    assert visits.times == pytest.approx([0, 205])


async def test_who_waits_is_told_though_others_still_hold_their_turns(
    autojump_clock: MockClock,
) -> None:
    limits = BackOffLimits(max_seconds=300, max_wait_seconds=100)
    visits = Visits(polite(back_off=limits, max_requests_per_host=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: visits.visit("a", seconds=50))
        nursery.start_soon(lambda: visits.visit("a", seconds=5, status=429, retry_after="200"))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            nursery.start_soon(visits.visit, "b")
        await trio.sleep(6)
        assert visits.refused == pytest.approx([200] * 10)
    assert visits.politeness.statistics().waiting == 0


async def test_the_called_one_is_told_as_well(autojump_clock: MockClock) -> None:
    limits = BackOffLimits(max_seconds=300, max_wait_seconds=100)
    visits = Visits(polite(back_off=limits, delay_seconds=50))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: visits.visit("a", seconds=5, status=429, retry_after="200"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(visits.visit, "b")
        nursery.start_soon(visits.visit, "c")
    assert trio.current_time() == pytest.approx(5)
    assert visits.refused == pytest.approx([200, 200])
    assert visits.politeness.statistics().waiting == 0


async def test_a_host_that_is_to_be_left_alone_is_not_even_asked_for_its_robots(
    autojump_clock: MockClock,
) -> None:
    source = Source()
    limits = RobotsLimits(keep_seconds=10)
    visits = Visits(polite(source, robots=limits))
    await visits.visit("a", status=429, retry_after="200", options=OPTIONS)
    await trio.sleep(50)
    await visits.visit("a", options=OPTIONS)
    assert len(source.asked) == 1
    assert len(visits.refused) == 1


@pytest.mark.parametrize(("status", "allowed"), [(429, True), (503, False)])
async def test_what_robots_txt_is_answered_with_counts_as_well(
    status: int, allowed: bool, autojump_clock: MockClock
) -> None:
    source = Source(status, [(b"retry-after", b"30")])
    visits = Visits(polite(source))
    if allowed:
        await visits.visit("a", options=OPTIONS)
        assert visits.times == pytest.approx([30])
    else:
        with pytest.raises(RobotsDenied):
            await visits.visit("a", options=OPTIONS)
        await visits.visit("a", options=RUDE)
        assert visits.times == pytest.approx([30.5])


async def test_the_host_that_a_redirect_led_to_is_the_one_that_answered(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite())
    async with visits.politeness.turn(A, RUDE, "run") as turn:
        await turn.move(parse_url(B))
        turn.answered(answer(B, 429, (b"retry-after", b"20")))
    await visits.visit("run", A)
    await visits.visit("run", B)
    assert visits.times == pytest.approx([0, 20])


async def test_a_host_that_only_redirects_recovers_as_one_that_answers(
    autojump_clock: MockClock,
) -> None:
    visits = Visits(polite(back_off=BackOffLimits(first_seconds=10)))
    await visits.visit("a", A, status=503)
    async with visits.politeness.turn(A, RUDE, "run") as turn:
        await turn.move(parse_url(B))
        turn.answered(answer(B))
    async with trio.open_nursery() as nursery:  # no longer one at a time
        for _ in range(2):
            nursery.start_soon(lambda: visits.visit("a", A, seconds=5))
    assert visits.times[-2] == visits.times[-1]


async def test_a_back_off_is_remembered_beyond_its_end_and_then_forgotten(
    autojump_clock: MockClock,
) -> None:
    politeness = polite(back_off=BackOffLimits(first_seconds=10))
    visits = Visits(politeness)
    await visits.visit("a", status=503)
    assert (politeness.known_hosts, politeness.statistics().backing_off_hosts) == (1, 1)
    await trio.sleep(15)
    await visits.visit("a", B)
    # The one that was used last hides behind none that is still remembered.
    assert (politeness.known_hosts, politeness.statistics().backing_off_hosts) == (1, 0)
    await trio.sleep(10)
    await visits.visit("a", B)
    assert politeness.known_hosts == 0
    assert politeness.statistics().back_offs_total == 1


async def test_the_same_host_with_a_dot_at_its_end_is_the_same(autojump_clock: MockClock) -> None:
    visits = Visits(polite(delay_seconds=5))
    await visits.visit("a", A)
    await visits.visit("a", "http://a.example./")
    await visits.visit("a", "https://A.example:8443/")
    assert visits.times == pytest.approx([0, 5, 10])


async def test_how_long_a_url_would_wait_is_known_beforehand(autojump_clock: MockClock) -> None:
    politeness = polite(Source(b"User-agent: *\nCrawl-delay: 10"))
    assert await politeness.delay(parse_url(A), OPTIONS) == 0
    visits = Visits(politeness)
    await visits.visit("a", options=OPTIONS)
    await trio.sleep(4)
    assert await politeness.delay(parse_url(A), OPTIONS) == pytest.approx(6)
    await visits.visit("a", B, status=503, retry_after="20")
    assert await politeness.delay(parse_url(B), RUDE) == pytest.approx(20)
