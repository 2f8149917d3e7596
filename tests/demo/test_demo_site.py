"""The demo's origin: every page is there, and every habit of real sites that it is to have."""

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpcore2
import pytest
import trio

from eventmesh_trio.demo import bundle
from eventmesh_trio.demo import site as site_module
from eventmesh_trio.demo.site import PATHS, Site, serve_site

PLAIN = sorted(set(PATHS) - {"/slow", "/flaky", "/moved/long-ago", "/news/no-such-story"})


class Visitor:
    def __init__(self, origin: str, site: Site) -> None:
        self.origin = origin
        self.site = site
        self._pool = httpcore2.AsyncConnectionPool()

    async def get(self, path: str, method: str = "GET", **fields: str) -> httpcore2.Response:
        headers = {"host": urlsplit(self.origin).netloc, **fields}
        with trio.fail_after(10):
            return await self._pool.request(method, self.origin + path, headers=headers)

    async def aclose(self) -> None:
        await self._pool.aclose()


@asynccontextmanager
async def open_site() -> AsyncIterator[Visitor]:
    async with trio.open_nursery() as nursery:
        site = Site()
        visitor = Visitor(await nursery.start(serve_site, site), site)
        try:
            yield visitor
        finally:
            await visitor.aclose()
            nursery.cancel_scope.cancel()


def field(response: httpcore2.Response, name: bytes) -> bytes | None:
    return next((value for key, value in response.headers if key.lower() == name), None)


def test_the_demo_crawls_about_thirty_pages_and_none_twice() -> None:
    assert 28 <= len(PATHS) <= 45
    assert len(set(PATHS)) == len(PATHS)


async def test_every_page_that_is_to_work_is_answered_with_200_and_text() -> None:
    async with open_site() as visitor:
        for path in PLAIN:
            response = await visitor.get(path)
            assert response.status == 200, path
            assert len(response.content) > 150, path
            assert b"$" not in response.content.replace(b"${", b"").replace(b"$(", b""), path


async def test_a_framed_page_stands_between_navigation_and_cookie_banner() -> None:
    async with open_site() as visitor:
        text = (await visitor.get("/news/lighthouse")).content.decode()
        assert text.index("<nav") < text.index("168 steps") < text.index("cookie-banner")
        assert f'<link rel="canonical" href="{visitor.origin}/news/lighthouse">' in text
        linked = text.split('<script type="application/ld+json">')[1].split("</script>")[0]
        assert json.loads(linked)["@type"] == "NewsArticle"


async def test_structured_data_of_every_page_is_json() -> None:
    found = 0
    async with open_site() as visitor:
        for path in PLAIN:
            parts = (await visitor.get(path)).content.split(b'<script type="application/ld+json">')
            for part in parts[1:]:
                json.loads(part.split(b"</script>")[0])
                found += 1
    assert found >= 5


async def test_a_missing_page_is_404_with_a_page() -> None:
    async with open_site() as visitor:
        response = await visitor.get("/news/no-such-story")
        assert response.status == 404
        assert b"There is no such page" in response.content


async def test_the_flaky_page_fails_every_other_time() -> None:
    async with open_site() as visitor:
        assert [(await visitor.get("/flaky")).status for _ in range(4)] == [500, 200, 500, 200]


async def test_the_old_address_leads_through_three_redirects_to_a_page() -> None:
    async with open_site() as visitor:
        path, statuses = "/moved/long-ago", []
        while (response := await visitor.get(path)).status != 200:
            statuses.append(response.status)
            path = (field(response, b"location") or b"").decode()
        assert statuses == [301, 302, 308]
        assert b"The page behind three redirects" in response.content


async def test_robots_txt_closes_the_ledger() -> None:
    async with open_site() as visitor:
        assert b"Disallow: /private/" in (await visitor.get("/robots.txt")).content
        assert any(path.startswith("/private/") for path in PATHS)


async def test_the_slow_page_comes_in_pieces_with_its_head_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(site_module, "_SLOW_PIECE_SECONDS", 0.02)
    async with open_site() as visitor, httpcore2.AsyncConnectionPool() as pool:
        with trio.fail_after(10):
            async with pool.stream("GET", f"{visitor.origin}/slow") as response:
                pieces = [piece async for piece in response.aiter_stream()]
    assert len(pieces) >= 3
    assert b"</html>" in b"".join(pieces)


async def test_the_almanac_is_large() -> None:
    async with open_site() as visitor:
        body = (await visitor.get("/almanac")).content
        assert len(body) > 200_000
        assert body.count(b"<table>") == 48


async def test_the_russian_page_is_windows_1251_and_only_its_own_text_says_so() -> None:
    async with open_site() as visitor:
        response = await visitor.get("/ru/volga")
        assert field(response, b"content-type") == b"text/html"
        assert "Паром через Волгу" in response.content.decode("windows-1251")
        with pytest.raises(UnicodeDecodeError):
            response.content.decode()


async def test_the_tide_clock_has_no_text_before_its_script_has_run() -> None:
    async with open_site() as visitor:
        shell = (await visitor.get("/app/tide-clock")).content
        clock = json.loads((await visitor.get("/app/tide-clock.json")).content)
        assert b'src="/app/tide-clock.js"' in shell
        assert all(text.encode() not in shell for text in clock["paragraphs"])
        assert (await visitor.get("/app/tide-clock.js")).status == 200


async def test_pages_are_compressed_for_those_who_accept_gzip() -> None:
    async with open_site() as visitor:
        plain = await visitor.get("/news/ferry")
        packed = await visitor.get("/news/ferry", **{"accept-encoding": "br, gzip"})
        assert field(plain, b"content-encoding") is None
        assert field(packed, b"content-encoding") == b"gzip"
        assert zlib.decompress(packed.content, wbits=31) == plain.content


async def test_the_body_of_a_crawl_request_names_every_page() -> None:
    async with open_site() as visitor:
        body = json.loads((await visitor.get("/crawl.json")).content)
        assert body == {"urls": [visitor.origin + path for path in PATHS]}


async def test_head_has_no_body_and_other_methods_are_refused() -> None:
    async with open_site() as visitor:
        assert (await visitor.get("/", method="HEAD")).content == b""
        assert (await visitor.get("/", method="DELETE")).status == 405


async def test_requests_are_counted_by_path() -> None:
    async with open_site() as visitor:
        for _ in range(3):
            await visitor.get("/about")
        assert visitor.site.asked["/about"] == 3


def test_a_title_cannot_break_out_of_its_attribute() -> None:
    framed = bundle.page("interview.html", 'http://x/"><script>').decode()
    assert '"><script>' not in framed.partition("<style>")[0]
