"""Turns at hosts and robots.txt, on a clock of their own."""

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio

from eventmesh_trio.abc import Page
from eventmesh_trio.errors import (
    BlockedAddress,
    DNSError,
    NetworkFailure,
    PageError,
    RobotsDenied,
    TooManyRedirects,
)
from eventmesh_trio.pipeline.fetching.fetch import BeforeHop, open_fetcher
from eventmesh_trio.pipeline.manners.politeness import Politeness, PolitenessLimits
from eventmesh_trio.pipeline.manners.robots import RobotsCache, RobotsLimits, product_token
from eventmesh_trio.pipeline.network.guard import AddressPolicy
from eventmesh_trio.pipeline.stages import HopFetcher
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.urls import parse_url

OPTIONS = CrawlOptions()
RUDE = CrawlOptions(respect_robots=False)
DENY_ALL = b"User-agent: *\nDisallow: /"


def page(url: str, status: int = 200, body: bytes = b"") -> Page:
    return Page(
        url=url,
        final_url=url,
        status=status,
        fields=(),
        body=body,
        content_type="text/plain",
        charset=None,
        wire_bytes=len(body),
        elapsed_seconds=0.0,
    )


@attrs.define(eq=False)
class Source:
    """Robots.txt files out of a table: a body, a status, or a failure for each origin."""

    answers: dict[str, bytes | int | PageError] = attrs.field(factory=dict)
    seconds: float = 0.0
    user_agent: str = "eventmesh/1.0"
    asked: list[str] = attrs.field(factory=list)
    max_bytes: int = 0

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.asked.append(url)
        self.max_bytes = max_bytes
        await trio.sleep(self.seconds)
        answer = self.answers.get(url.removesuffix("/robots.txt"), 404)
        if isinstance(answer, PageError):
            raise answer
        return page(url, answer) if isinstance(answer, int) else page(url, body=answer)


def polite(source: Source | None = None, **limits: float) -> Politeness:
    return Politeness(source or Source(), PolitenessLimits(**limits))  # type: ignore[arg-type]


async def allowed(politeness: Politeness, url: str, options: CrawlOptions = OPTIONS) -> bool:
    try:
        async with politeness.turn(url, options, "run"):
            return True
    except RobotsDenied:
        return False


# --- turns ----------------------------------------------------------------------------------------


async def test_no_more_requests_than_allowed_go_to_a_host_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite()
    active = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0}

    async def visit(host: str, number: int) -> None:
        async with politeness.turn(f"http://{host}.example/{number}", OPTIONS, "run"):
            active[host] += 1
            most[host] = max(most[host], active[host])
            await trio.sleep(1)
            active[host] -= 1

    async with trio.open_nursery() as nursery:
        for number in range(24):
            nursery.start_soon(visit, "a", number)
            nursery.start_soon(visit, "b", number)
    assert most == {"a": 8, "b": 8}
    assert trio.current_time() == pytest.approx(3)  # hosts do not wait for each other


async def test_turns_are_given_in_the_order_of_coming(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(max_requests_per_host=1)
    order: list[int] = []

    async def visit(number: int) -> None:
        await trio.sleep(number / 100)
        async with politeness.turn("http://a.example/", RUDE, "run"):
            order.append(number)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(visit, number)
    assert order == list(range(20))


async def starts(
    politeness: Politeness, count: int, options: CrawlOptions = OPTIONS
) -> list[float]:
    times: list[float] = []

    async def visit() -> None:
        async with politeness.turn("http://a.example/", options, "run"):
            times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(visit)
    return times


@pytest.mark.parametrize(("asked", "kept"), [("2", 2), ("0.5", 0.5), ("900", 30), ("nan", 0)])
async def test_the_crawl_delay_is_kept_up_to_its_limit(
    asked: str, kept: float, autojump_clock: trio.testing.MockClock
) -> None:
    robots = f"User-agent: *\nCrawl-delay: {asked}\nDisallow: /no".encode()
    politeness = polite(Source({"http://a.example": robots}))
    assert await starts(politeness, 4) == pytest.approx([0, kept, 2 * kept, 3 * kept])


async def test_a_delay_of_our_own_holds_where_robots_asks_for_less(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(delay_seconds=0.25)
    assert await starts(politeness, 3) == pytest.approx([0, 0.25, 0.5])
    assert await starts(polite(), 3) == pytest.approx([0.5, 0.5, 0.5])


async def test_a_delay_is_kept_though_nobody_visits_in_between(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(delay_seconds=5)
    for expected in (0, 5, 10):
        assert await starts(politeness, 1) == pytest.approx([expected])
    assert politeness.known_hosts == 1


async def test_who_is_cancelled_while_waiting_delays_nobody_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(delay_seconds=10)
    await starts(politeness, 1)
    with trio.move_on_after(3):
        await starts(politeness, 7)
    assert await starts(politeness, 1) == pytest.approx([10])


async def test_a_cancelled_run_gives_all_its_places_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(max_requests_per_host=2)

    async def stay() -> None:
        async with politeness.turn("http://a.example/", OPTIONS, "run"):
            await trio.sleep_forever()

    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(stay)
    assert await starts(politeness, 2) == pytest.approx([1, 1])
    assert politeness.known_hosts == 0


async def test_hosts_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    politeness = polite()
    for number in range(200):
        assert await allowed(politeness, f"http://h{number}.example/", RUDE)
    assert politeness.known_hosts == 0
    politeness = polite(delay_seconds=5, max_resting_hosts=50)
    for number in range(200):
        assert await allowed(politeness, f"http://h{number}.example/", RUDE)
    assert politeness.known_hosts == 50
    await trio.sleep(6)
    assert await allowed(politeness, "http://last.example/", RUDE)
    assert politeness.known_hosts == 1


# --- robots.txt -----------------------------------------------------------------------------------

RULES = b"""\xef\xbb\xbf
User-agent: badbot
Disallow: /

User-agent: eventmesh
Allow: /private/open
Disallow: /private
Disallow: /*.cgi$

User-agent: *
Disallow: /others
"""


@pytest.mark.parametrize(
    ("path", "agent", "verdict"),
    [
        ("/", None, True),
        ("/private/x", None, False),
        ("/private/open/x", None, True),
        ("/run.cgi", None, False),
        ("/run.cgi?x", None, True),
        ("/others", None, True),
        ("/robots.txt", "badbot", True),
        ("/", "BadBot/2.1 (+http://bad.example)", False),
        ("/", "Mozilla/5.0 (compatible; badbot/1.0; +http://bad.example)", False),
        ("/others", "curious/1.0", False),
        ("/private", "curious/1.0", True),
    ],
)
async def test_robots_rules_hold_for_the_agent_that_asks(
    path: str, agent: str | None, verdict: bool
) -> None:
    politeness = polite(Source({"http://a.example": RULES}))
    options = CrawlOptions(user_agent=agent)
    assert await allowed(politeness, f"http://a.example{path}", options) is verdict


async def test_who_need_not_respect_robots_does_not_fetch_it() -> None:
    source = Source({"http://a.example": DENY_ALL})
    politeness = polite(source)
    assert await allowed(politeness, "http://a.example/", RUDE)
    await politeness.check(parse_url("http://a.example/"), RUDE)
    assert source.asked == []


async def test_robots_is_fetched_once_for_all_who_need_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source({"http://a.example": DENY_ALL}, seconds=1)
    politeness = polite(source)
    verdicts: list[bool] = []

    async def visit(number: int) -> None:
        verdicts.append(await allowed(politeness, f"http://a.example/{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(visit, number)
    assert verdicts == [False] * 50
    assert source.asked == ["http://a.example/robots.txt"]
    assert source.max_bytes == 500 * 1024


async def test_if_who_fetches_robots_is_cancelled_another_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source(seconds=2)
    politeness = polite(source)

    async def impatient() -> None:
        with trio.move_on_after(1):
            await allowed(politeness, "http://a.example/")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(allowed, politeness, "http://a.example/")
    assert trio.current_time() == pytest.approx(3)
    assert len(source.asked) == 2


async def test_each_origin_has_its_own_robots_and_it_is_renewed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source()
    politeness = polite(source)
    urls = ("http://a.example/", "https://a.example/", "http://a.example:8080/")
    for _ in range(3):
        for url in urls:
            assert await allowed(politeness, url)
    assert source.asked == [f"{url}robots.txt" for url in urls]
    await trio.sleep(3599)
    await allowed(politeness, urls[0])
    assert len(source.asked) == 3
    await trio.sleep(2)
    await allowed(politeness, urls[0])
    assert len(source.asked) == 4


@pytest.mark.parametrize("answer", [404, 401, 403, 429, 410, 302, TooManyRedirects("too many")])
async def test_without_a_robots_file_all_is_allowed(answer: int | PageError) -> None:
    assert await allowed(polite(Source({"http://a.example": answer})), "http://a.example/")


@pytest.mark.parametrize("answer", [500, 503, 599])
async def test_an_origin_in_trouble_is_left_alone_for_a_while(
    answer: int, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source({"http://a.example": answer})
    politeness = polite(source)
    with pytest.raises(RobotsDenied, match=str(answer)) as caught:
        async with politeness.turn("http://a.example/", OPTIONS, "run"):
            raise AssertionError
    assert caught.value.retry_after_seconds == pytest.approx(60)
    assert len(source.asked) == 2  # it was given a second chance
    source.answers.clear()
    await trio.sleep(59)
    assert not await allowed(politeness, "http://a.example/")
    await trio.sleep(2)
    assert await allowed(politeness, "http://a.example/")


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [(NetworkFailure("reset"), 2), (DNSError("none"), 2), (BlockedAddress("not public"), 1)],
)
async def test_an_origin_that_cannot_be_reached_says_why(
    failure: PageError, attempts: int, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source({"http://a.example": failure})
    politeness = polite(source)
    for _ in range(3):
        with pytest.raises(type(failure), match=failure.message) as caught:
            async with politeness.turn("http://a.example/", OPTIONS, "run"):
                raise AssertionError
        assert caught.value is not failure
    assert len(source.asked) == attempts


async def test_a_network_failure_is_no_more_than_a_moment_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Source({"http://a.example": NetworkFailure("refused")})
    politeness = polite(source)
    url = parse_url("http://a.example/")
    with pytest.raises(NetworkFailure):
        await politeness.check(url, OPTIONS)
    del source.answers["http://a.example"]  # it is up again
    with pytest.raises(NetworkFailure):  # who asked at the same time is told the same
        await politeness.check(url, OPTIONS)
    await trio.sleep(PolitenessLimits().robots.failure_seconds)
    await politeness.check(url, OPTIONS)


async def test_a_robots_file_that_does_not_come_is_waited_for_no_longer_than_its_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    politeness = polite(Source(seconds=1000))
    with pytest.raises(PageError, match=r"robots\.txt was not received"):
        async with politeness.turn("http://a.example/", OPTIONS, "run"):
            raise AssertionError
    assert trio.current_time() == pytest.approx(15)


async def test_what_is_remembered_of_robots_files_is_bounded() -> None:
    body = b"User-agent: *\n" + b"Disallow: /x\n" * 100
    source = Source({f"http://h{number}.example": body for number in range(50)})
    cache = RobotsCache(source, RobotsLimits(max_entries=20))
    for number in range(50):
        await cache.get(parse_url(f"http://h{number}.example/"))
        await cache.get(parse_url("http://h0.example/"))  # in use: it stays
    assert len(cache) == 20
    assert source.asked.count("http://h0.example/robots.txt") == 1
    cache = RobotsCache(source, RobotsLimits(max_kept_bytes=100_000))
    for number in range(50):
        await cache.get(parse_url(f"http://h{number}.example/"))
    assert 50_000 < cache.kept_bytes <= 100_000


async def test_agents_without_number_do_not_make_an_entry_grow_for_ever() -> None:
    source = Source({"http://a.example": RULES})
    cache = RobotsCache(source, RobotsLimits())
    url = parse_url("http://a.example/")
    for number in range(600):
        robots = await cache.get(url)
        await robots.permit(url, f"agent{number}/1.0")
    assert len(source.asked) == 1
    remembered = [number for number in range(600) if robots.file.remembered(f"agent{number}/1")]
    assert remembered == list(range(592, 600))


async def test_a_large_robots_file_is_parsed_beside_the_loop() -> None:
    rules = b"User-agent: *\n" + b"".join(b"Disallow: /%d/\n" % n for n in range(3000))
    politeness = polite(Source({"http://a.example": rules}))
    assert not await allowed(politeness, "http://a.example/2999/x")
    assert await allowed(politeness, "http://a.example/3000/x")


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("eventmesh/1.0", "eventmesh"),
        ("MyBot", "MyBot"),
        ("MyBot/2 (like Googlebot)", "MyBot"),
        ("Mozilla/5.0 (compatible; Foo-bot/2.1; +http://foo.example)", "Foo-bot"),
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/130", "Mozilla"),
        (" odd", "odd"),
    ],
)
def test_the_product_token_is_what_names_the_crawler(user_agent: str, token: str) -> None:
    assert product_token(user_agent) == token


# --- with a fetcher -------------------------------------------------------------------------------


@attrs.define(eq=False)
class Hopping:
    """A fetcher whose every page redirects to one target first."""

    target: str

    async def fetch(
        self, url: str, options: CrawlOptions, *, before_hop: BeforeHop | None = None
    ) -> Page:
        assert before_hop is not None
        await before_hop(parse_url(self.target))
        return page(url)


async def fetch_politely(
    fetcher: HopFetcher, politeness: Politeness, url: str, options: CrawlOptions
) -> Page:
    """As a crawl does: a turn, and robots.txt asked before each redirect."""
    async with politeness.turn(url, options, "run"):
        check = partial(politeness.check, options=options)
        return await fetcher.fetch(url, options, before_hop=check)


async def test_robots_is_asked_about_redirects_too() -> None:
    politeness = polite(Source({"http://b.example": DENY_ALL}))
    hopping = Hopping("http://b.example/x")
    with pytest.raises(RobotsDenied):
        await fetch_politely(hopping, politeness, "http://a.example/", OPTIONS)
    for options, target in ((RUDE, "http://b.example/x"), (OPTIONS, "http://c.example/")):
        fetched = await fetch_politely(Hopping(target), politeness, "http://a.example/", options)
        assert fetched.status == 200
    assert politeness.known_hosts == 0


async def serve_robots(stream: trio.SocketStream, seen: list[bytes]) -> None:
    async with stream:
        while data := await stream.receive_some(65536):
            seen.append(data.split(b"\r\n")[0])
            body = DENY_ALL if b"/robots.txt" in data else b"page"
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )


async def on_loopback(visit: Callable[[str], Awaitable[None]]) -> list[bytes]:
    seen: list[bytes] = []
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, lambda s: serve_robots(s, seen), listeners)
        await visit(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
        nursery.cancel_scope.cancel()
    return seen


async def test_robots_comes_through_the_guarded_fetcher() -> None:
    async def denied(url: str) -> None:
        policy = AddressPolicy(allow_private=("127.0.0.0/8",))
        async with open_fetcher(policy=policy, user_agent="eventmesh/1.0") as fetcher:
            politeness = Politeness(fetcher)
            with pytest.raises(RobotsDenied):
                await fetch_politely(fetcher, politeness, url, OPTIONS)
            page = await fetch_politely(fetcher, politeness, url, RUDE)
            assert page.body == b"page"

    async def blocked(url: str) -> None:
        async with open_fetcher(user_agent="eventmesh/1.0") as fetcher:
            with pytest.raises(BlockedAddress):
                await fetch_politely(fetcher, Politeness(fetcher), url, OPTIONS)

    assert await on_loopback(denied) == [b"GET /robots.txt HTTP/1.1", b"GET / HTTP/1.1"]
    assert await on_loopback(blocked) == []
