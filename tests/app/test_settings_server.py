"""Each setting under ``server`` and what it changes."""

import pytest
import trio
from trio.testing import MockClock

from eventmesh_trio.testing import FakeFetcher
from tests.helpers.settled import (
    crawl_of,
    events_of,
    open_service,
    open_world,
    request_bytes,
    shows,
)

PAGE = "Origin: http://page.example"
ALLOWED = b"access-control-allow-origin"


@shows("server.bind")
async def test_the_server_listens_where_bind_says():
    async with open_service("server.bind=127.0.0.3:0") as service:
        assert service.address.startswith("http://127.0.0.3:")


@shows("server.insecure_bind")
async def test_an_address_that_others_can_reach_needs_insecure_bind():
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="insecure-bind")):
        async with open_service("server.bind=0.0.0.0:0"):
            raise AssertionError("unreachable")
    async with open_service("server.bind=0.0.0.0:0", "server.insecure_bind=true") as service:
        assert service.address.startswith("http://0.0.0.0:")


@shows("server.max_urls")
async def test_a_crawl_has_no_more_than_max_urls(autojump_clock: MockClock):
    async with open_world("server.max_urls=2") as world:
        assert (await world.crawl(2)).status == 200
        refused = await world.crawl(3)
        assert (refused.status, b"allowed are 1 to 2" in refused.body) == (400, True)


@shows("server.finish_seconds")
@pytest.mark.parametrize(("seconds", "status"), [(7, "cancelled"), (25, "completed")])
async def test_live_runs_may_go_on_for_finish_seconds_after_the_signal(
    seconds: int, status: str, autojump_clock: MockClock
):
    slow = FakeFetcher(delay=lambda _: 20)
    async with open_world(f"server.finish_seconds={seconds}", fetcher=slow) as world:
        peer = world.connect()
        await peer.send(request_bytes("POST", "/crawl/stream", body=crawl_of(1)))
        await peer.until(b'"start"')
        began = trio.current_time()
        assert await world.mesh.end_service()
        assert trio.current_time() - began == pytest.approx(min(seconds, 20), abs=0.1)
        (summary,) = events_of(await peer.rest())[-1:]
        assert summary["status"] == status


@shows("server.drain_seconds")
async def test_what_is_still_served_after_drain_seconds_is_cut(autojump_clock: MockClock):
    async with open_world("server.drain_seconds=7") as world:
        with world.mesh.service.count():  # a connection that does not end
            began = trio.current_time()
            assert not await world.mesh.end_service()
            assert trio.current_time() - began == pytest.approx(7, abs=0.1)


@shows("server.trusted_proxies")
@pytest.mark.parametrize(("trusted", "status"), [("192.0.2.0/24", 200), ("", 429)])
async def test_only_trusted_proxies_are_believed_about_their_clients(
    trusted: str, status: int, autojump_clock: MockClock
):
    settings = (f"server.trusted_proxies={trusted}", "stream.general.max_streams_per_address=1")
    async with open_world(*settings, fetcher=FakeFetcher(delay=lambda _: 20)) as world:
        for client, expected in (("198.51.100.1", 200), ("198.51.100.2", status)):
            peer = world.connect(peer="192.0.2.1")
            forwarded = f"X-Forwarded-For: {client}"
            await peer.send(request_bytes("POST", "/crawl/stream", forwarded, body=crawl_of(1)))
            assert (await peer.until(b"\r\n")).startswith(b"HTTP/1.1 %d " % expected)


@shows("server.enable_cors")
@pytest.mark.parametrize("enabled", [True, False])
async def test_pages_of_other_origins_are_answered_only_with_enable_cors(
    enabled: bool, autojump_clock: MockClock
):
    async with open_world(f"server.enable_cors={enabled}") as world:
        for method, target in (("GET", "/livez"), ("OPTIONS", "/crawl/stream")):
            answer = await world.request(method, target, PAGE)
            assert (ALLOWED in answer.fields) is enabled


@shows("server.cors_origins")
async def test_the_pages_of_cors_origins_are_answered_and_no_others(autojump_clock: MockClock):
    async with open_world("server.cors_origins=http://page.example") as world:
        answer = await world.request("GET", "/livez", PAGE)
        assert answer.fields[ALLOWED] == b"http://page.example"
        answer = await world.request("GET", "/livez", "Origin: http://other.example")
        assert ALLOWED not in answer.fields


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://page.example", 200),
        ("http://other.example", 403),
        ("null", 403),
        ("http://a", 200),  # the server's own, by `Host`
        ("http://A", 200),
        ("http://a:81", 403),
    ],
)
async def test_what_a_page_asks_is_done_for_cors_origins_and_our_own_alone(
    origin: str, status: int, autojump_clock: MockClock
):
    async with open_world("server.cors_origins=http://page.example") as world:
        answer = await world.request("POST", "/crawl/stream", f"Origin: {origin}", body=crawl_of(1))
        assert answer.status == status
        assert len(world.mesh.hub.sessions) == (status == 200)


async def test_without_cors_only_our_own_pages_have_something_done(autojump_clock: MockClock):
    async with open_world("server.enable_cors=false") as world:
        assert (await world.request("DELETE", "/sessions/a", PAGE)).status == 403
        assert (await world.request("DELETE", "/sessions/a", "Origin: http://a")).status == 404
        assert (await world.request("DELETE", "/sessions/a")).status == 404
        assert (await world.request("GET", "/livez", PAGE)).status == 200
