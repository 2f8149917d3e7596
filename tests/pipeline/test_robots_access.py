"""RFC 9309, sections 2.3 to 2.5: getting a robots.txt, keeping it, and what to do without it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from eventmesh_trio.abc import Fields, Page
from eventmesh_trio.errors import (
    BlockedAddress,
    NetworkFailure,
    PageError,
    RobotsDenied,
    TooManyRedirects,
)
from eventmesh_trio.pipeline.fetching.fetch import open_fetcher
from eventmesh_trio.pipeline.manners.robots import RobotsCache, RobotsLimits
from eventmesh_trio.pipeline.network.guard import AddressPolicy, IPAddress
from eventmesh_trio.pipeline.network.limits import FetchLimits
from eventmesh_trio.testing import make_page
from eventmesh_trio.wire.urls import parse_url
from tests.helpers.settled import certificates

URL = parse_url("http://a.example/page")
DENY = b"User-agent: *\nDisallow: /"
DAY = 86_400.0


@attrs.define(eq=False)
class Source:
    """Answers with one page, status or failure, which a test may change."""

    answer: bytes | int | PageError = DENY
    fields: Fields = ()
    user_agent: str = "eventmesh/1.0"
    asked: int = 0

    async def fetch_file(self, url: str, *, max_bytes: int) -> Page:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if isinstance(self.answer, PageError):
            raise self.answer
        status, body = (self.answer, b"") if isinstance(self.answer, int) else (200, self.answer)
        return attrs.evolve(make_page(url, body[:max_bytes], status=status), fields=self.fields)


async def verdict(cache: RobotsCache, agent: str = "eventmesh/1.0") -> bool:
    robots = await cache.get(URL)
    try:
        await robots.permit(URL, agent)
    except RobotsDenied:
        return False
    return True


# --- 2.3.1.1 to 2.3.1.4: what an answer means ---------------------------------------------------


@pytest.mark.parametrize("status", range(400, 500, 7))
async def test_an_answer_of_the_400s_means_that_there_are_no_rules(status: int) -> None:
    assert await verdict(RobotsCache(Source(status), RobotsLimits()))


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 511, 599])
async def test_an_answer_of_the_500s_means_complete_disallow(
    status: int, autojump_clock: MockClock
) -> None:
    assert not await verdict(RobotsCache(Source(status), RobotsLimits()))


async def test_a_network_error_means_complete_disallow(autojump_clock: MockClock) -> None:
    cache = RobotsCache(Source(NetworkFailure("refused")), RobotsLimits())
    with pytest.raises(NetworkFailure):
        await verdict(cache)


@pytest.mark.parametrize("had", [True, False])
async def test_after_long_enough_what_was_had_before_counts_again_or_all_is_allowed(
    had: bool, autojump_clock: MockClock
) -> None:
    source = Source(DENY if had else 500)
    cache = RobotsCache(source, RobotsLimits(max_unreachable_seconds=5 * DAY))
    assert not await verdict(cache)
    source.answer = 500
    for _ in range(5):
        await trio.sleep(DAY - 1)
        assert not await verdict(cache)
        with pytest.raises(RobotsDenied, match="could not be read"):
            await (await cache.get(URL)).permit(URL, "x")
    await trio.sleep(DAY)
    assert await verdict(cache) is not had
    source.answer = b"User-agent: *\nAllow: /"
    await trio.sleep(61)
    assert await verdict(cache)  # it is asked for again all the same
    source.answer = 500
    await trio.sleep(DAY)
    assert not await verdict(cache)  # and a new failure is new


async def test_an_address_that_is_blocked_is_never_opened_by_time(
    autojump_clock: MockClock,
) -> None:
    cache = RobotsCache(Source(BlockedAddress("not public")), RobotsLimits())
    for _ in range(3):
        with pytest.raises(BlockedAddress):
            await verdict(cache)
        await trio.sleep(31 * DAY)


# --- 2.3.1.2: redirects, through the fetcher ----------------------------------------------------


@asynccontextmanager
async def open_cache(
    respond: Callable[[str, str], bytes], limits: FetchLimits | None = None
) -> AsyncIterator[RobotsCache]:
    """Robots.txt files by a fetcher; ``respond`` gives the response for a host and a path."""

    class Resolver:
        async def resolve(self, name: str) -> Sequence[IPAddress]:
            await trio.lowlevel.checkpoint()
            return [ip_address("192.0.2.1")]

    async def serve(stream: trio.abc.Stream) -> None:
        head = b""
        async with stream:
            while not head.endswith(b"\r\n\r\n"):
                head += await stream.receive_some(65536)
            lines = head.decode("ascii").split("\r\n")
            host = next(line[6:] for line in lines if line.startswith("Host: "))
            await stream.send_all(respond(host, lines[0].split()[1]))

    async def connect(_address: IPAddress, _port: int) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = memory_stream_pair()
        nursery.start_soon(serve, server)
        return client

    async with (
        trio.open_nursery() as nursery,
        open_fetcher(
            limits,
            AddressPolicy(allow_private=("192.0.2.0/24",)),
            resolver=Resolver(),
            connect=connect,
            ssl_context=certificates(),
        ) as fetcher,
    ):
        yield RobotsCache(fetcher, RobotsLimits())
        nursery.cancel_scope.cancel()


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


def file(body: bytes, fields: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def hopping(hops: int) -> Callable[[str, str], bytes]:
    """So many redirects, each to another authority, and then a file."""

    def respond(host: str, path: str) -> bytes:
        number = 0 if host == "a.example" else int(host.removeprefix("h").removesuffix(".example"))
        assert path == "/robots.txt" or number
        return file(DENY) if number == hops else redirect(f"http://h{number + 1}.example/r{number}")

    return respond


@pytest.mark.parametrize("most", [0, 2, 10])
async def test_five_redirects_are_followed_across_authorities_whatever_pages_are_allowed(
    most: int,
) -> None:
    async with open_cache(hopping(5), FetchLimits(max_redirects=most)) as cache:
        assert not await verdict(cache)


async def test_more_redirects_than_that_mean_that_there_are_no_rules() -> None:
    async with open_cache(hopping(6), FetchLimits(max_redirects=0)) as cache:
        assert await verdict(cache)
    async with open_cache(lambda *_: redirect("/robots.txt")) as cache:
        assert await verdict(cache)


async def test_what_a_redirect_leads_to_holds_for_the_first_authority_only() -> None:
    def respond(host: str, path: str) -> bytes:
        return (
            redirect("http://b.example/r") if host == "a.example" else file(DENY * (path == "/r"))
        )

    async with open_cache(respond) as cache:
        assert not await verdict(cache)
        other = parse_url("http://b.example/page")
        await (await cache.get(other)).permit(other, "x")


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream", "text/plain"])
async def test_the_media_type_does_not_matter(kind: str) -> None:
    async with open_cache(lambda *_: file(DENY, f"Content-Type: {kind}\r\n")) as cache:
        assert not await verdict(cache)


# --- 2.4 Caching --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (None, 3600),
        (b"public", 3600),
        (b"max-age=7200", 7200),
        (b'Max-Age = "7200"', 7200),
        (b"max-age=60", 300),
        (b"max-age=0", 300),
        (b"no-store", 300),
        (b"no-cache, max-age=7200", 300),
        (b"max-age=31536000, immutable", DAY),
        (b"max-age=9999999999", DAY),
        (b"max-age=", 3600),
        (b"max-age=-5", 3600),
        (b"s-maxage=9", 3600),
        (b"\xff=\xfe, max-age=7200", 7200),
    ],
)
async def test_it_is_kept_as_its_response_says_within_bounds(
    field: bytes | None, seconds: float, autojump_clock: MockClock
) -> None:
    source = Source(fields=() if field is None else ((b"cache-control", field),))
    cache = RobotsCache(source, RobotsLimits())
    for wait, asked in ((0, 1), (seconds - 1, 1), (2, 2)):
        await trio.sleep(wait)
        assert cache.is_fresh(URL) is (wait == seconds - 1)
        await verdict(cache)
        assert source.asked == asked


async def test_the_time_that_others_kept_it_counts(autojump_clock: MockClock) -> None:
    fields = ((b"cache-control", b"max-age=7200"), (b"age", b"3000"))
    source = Source(fields=fields)
    cache = RobotsCache(source, RobotsLimits())
    await verdict(cache)
    await trio.sleep(4199)
    assert cache.is_fresh(URL)
    await trio.sleep(2)
    assert not cache.is_fresh(URL)


def test_more_than_a_day_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="max_keep_seconds"):
        RobotsLimits(max_keep_seconds=DAY + 1)


async def test_hits_and_misses_are_counted(autojump_clock: MockClock) -> None:
    cache = RobotsCache(Source(), RobotsLimits())
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(cache.get, URL)
    assert (cache.hits, cache.misses) == (9, 1)


async def test_bytes_are_given_back_when_a_file_is_renewed(autojump_clock: MockClock) -> None:
    source = Source(b"User-agent: *\n" + b"Disallow: /x\n" * 1000)
    cache = RobotsCache(source, RobotsLimits())
    await cache.get(URL)
    before = cache.kept_bytes
    for _ in range(5):
        await trio.sleep(3601)
        await cache.get(URL)
    assert cache.kept_bytes == before
    source.answer = 404
    await trio.sleep(3601)
    await cache.get(URL)
    assert cache.kept_bytes < before / 10


# --- 2.5 Limits ---------------------------------------------------------------------------------


async def test_500_kib_are_read_and_a_line_that_is_cut_there_is_not() -> None:
    line = b"Disallow: /long/%0500d\n"
    body = b"User-agent: *\n" + b"".join(line % number for number in range(2000))
    assert len(body) > 1024 * 1000
    asked: list[int] = []

    def respond(*_: str) -> bytes:
        asked.append(1)
        return file(body)

    async with open_cache(respond) as cache:
        robots = await cache.get(URL)
        first, last = (parse_url(f"http://a.example/long/{n:0500}") for n in (0, 980))
        beyond = parse_url(f"http://a.example/long/{1500:0500}")
        with pytest.raises(RobotsDenied):
            await robots.permit(first, "x")
        with pytest.raises(RobotsDenied):
            await robots.permit(last, "x")
        await robots.permit(beyond, "x")
        await robots.permit(URL, "x")  # "/long/00" would say much more than it did
        short = parse_url("http://a.example/long/00000")
        await robots.permit(short, "x")


@pytest.mark.parametrize("body", [b"", b"\n" * 600_000, b"x" * 600_000])
async def test_a_file_without_rules_has_none_however_long(body: bytes) -> None:
    assert await verdict(RobotsCache(Source(body), RobotsLimits()))


async def test_rules_of_many_wildcards_do_not_stop_the_loop() -> None:
    body = b"User-agent: *\n" + b"".join(b"Disallow: /*a*b%d\n" % n for n in range(24_000))
    cache = RobotsCache(Source(body), RobotsLimits())
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = trio.current_time()
            await trio.sleep(0.001)
            longest = max(longest, trio.current_time() - before)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            target = parse_url("http://a.example/" + "a" * 1900)
            robots = await cache.get(target)
            for _ in range(3):
                await robots.permit(target, "x")
            nursery.cancel_scope.cancel()
    assert longest < 0.5  # inline it would be as long as the parsing, on a busy machine seconds


async def test_too_many_redirects_of_the_source_mean_that_there_are_no_rules() -> None:
    assert await verdict(RobotsCache(Source(TooManyRedirects("a loop")), RobotsLimits()))
