"""Each setting under ``proxy`` and what it changes, towards a browser in memory."""

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.proxied import Browser, Visit, open_world, shown
from tests.helpers.settled import settled, shows


async def seconds_until_closed(browser: Browser) -> float:
    began = trio.current_time()
    with trio.fail_after(1000):
        try:
            while await browser.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass
    return trio.current_time() - began


@shows("proxy.max_connections")
@pytest.mark.parametrize("most", [1, 3])
async def test_a_proxy_has_max_connections_and_closes_one_more(
    most: int, autojump_clock: MockClock
):
    async with open_world(limits=settled(f"proxy.max_connections={most}").proxy) as world:
        browsers = [world.connect() for _ in range(most)]
        for browser in browsers:
            assert await browser.ask("GET", "http://a.example/") == 407
        assert await seconds_until_closed(world.connect()) == 0
        await browsers[0].stream.aclose()
        await trio.sleep(0.1)
        assert await world.connect().ask("GET", "http://a.example/") == 407


@shows("proxy.max_page_connections")
@pytest.mark.parametrize("most", [1, 3])
async def test_a_page_has_max_page_connections_and_others_have_theirs(
    most: int, autojump_clock: MockClock
):
    limits = settled(f"proxy.max_page_connections={most}").proxy
    async with open_world(limits=limits) as world:
        with world.proxy.open_passage() as passage, world.proxy.open_passage() as other:
            browsers = [world.connect() for _ in range(most)]
            for browser in browsers:
                assert await browser.ask("CONNECT", "a.example:443", shown(passage)) == 200
            one_more = world.connect()
            assert await one_more.ask("CONNECT", "a.example:443", shown(passage)) == 503
            assert await one_more.is_closed()
            assert passage.statistics().refused == 1
            assert await world.connect().ask("CONNECT", "a.example:443", shown(other)) == 200
            await browsers[0].stream.aclose()
            await trio.sleep(0.1)
            assert await world.connect().ask("CONNECT", "a.example:443", shown(passage)) == 200


@shows("proxy.head_seconds")
@pytest.mark.parametrize("seconds", [2, 6])
async def test_a_head_may_take_head_seconds(seconds: int, autojump_clock: MockClock):
    async with open_world(limits=settled(f"proxy.head_seconds={seconds}").proxy) as world:
        assert await seconds_until_closed(world.connect()) == pytest.approx(seconds)


@shows("proxy.idle_seconds")
@pytest.mark.parametrize("seconds", [3, 7])
async def test_a_tunnel_may_stand_still_for_idle_seconds(seconds: int, autojump_clock: MockClock):
    async def silent(visit: Visit) -> None:
        await trio.sleep_forever()

    limits = settled(f"proxy.idle_seconds={seconds}").proxy
    async with open_world(silent, limits=limits) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            assert await browser.ask("CONNECT", "a.example:443", shown(passage)) == 200
            assert await seconds_until_closed(browser) == pytest.approx(seconds)


@shows("proxy.max_header_bytes")
@pytest.mark.parametrize(("most", "status"), [("8KB", 502), ("32KB", 200)])
async def test_a_response_head_has_no_more_than_max_header_bytes(
    most: str, status: int, autojump_clock: MockClock
):
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 16_000 + b"\r\n\r\n")

    async with open_world(script, limits=settled(f"proxy.max_header_bytes={most}").proxy) as world:
        with world.proxy.open_passage() as passage:
            assert await world.connect().ask("GET", "http://a.example/", shown(passage)) == status


@shows("proxy.max_page_bytes")
@pytest.mark.parametrize(("most", "whole"), [("10KB", False), ("100KB", True)])
async def test_a_page_receives_no_more_than_max_page_bytes(
    most: str, whole: bool, autojump_clock: MockClock
):
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(b"x" * 50_000)

    async with open_world(script, limits=settled(f"proxy.max_page_bytes={most}").proxy) as world:
        with world.proxy.open_passage() as passage:
            browser = world.connect()
            assert await browser.ask("CONNECT", "a.example:80", shown(passage)) == 200
            await browser.send(b"GET / HTTP/1.1\r\n\r\n")
            received = 0
            while data := await browser.stream.receive_some(65536):
                received += len(data)
            assert (received == 50_000) is whole
            assert passage.is_exhausted is not whole
