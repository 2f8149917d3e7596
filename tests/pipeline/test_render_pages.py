"""Pages in a real Chromium: what they build, wait for, bring and are."""

from collections.abc import Mapping

import pytest
import trio

from eventmesh_trio.errors import (
    DNSError,
    FetchTimeout,
    NetworkFailure,
    RenderFailure,
    TooLarge,
    TooManyRedirects,
    UnsupportedContent,
)
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.render_site import Reply, open_site
from tests.helpers.rendering import open_rendering

pytestmark = pytest.mark.slow

PLAIN = CrawlOptions()


async def test_a_page_built_by_scripts_from_data_is_rendered_with_its_real_status_and_fields():
    async with open_site() as site, open_rendering() as renderer:
        site.page(
            "/spa",
            "<!doctype html><title>App</title><div id=root></div><script src=/app.js></script>",
            status=203,
            fields={"X-Told": "yes", "Set-Cookie": "a=b"},
        )
        site.page(
            "/app.js",
            "fetch('/data.json').then(r => r.json()).then(d =>"
            " { document.querySelector('#root').innerHTML = `<article>${d.text}</article>`; })",
            content_type="text/javascript",
        )
        site.page(
            "/data.json", '{"text": "Grüße aus \\u2603 Daten"}', content_type="application/json"
        )
        page = await renderer.render(site.url("/spa"), PLAIN)
        assert page.rendered
        assert page.status == 203
        assert page.url == page.final_url == site.url("/spa")
        assert (b"x-told", b"yes") in page.fields
        assert page.content_type == "text/html; charset=utf-8"
        assert page.charset == "utf-8"
        assert "<article>Grüße aus ☃ Daten</article>" in page.body.decode()
        assert page.body.startswith(b"<!DOCTYPE html>")
        assert page.wire_bytes > 300
        assert page.elapsed_seconds > 0
        assert site.requests == {"/spa": 1, "/app.js": 1, "/data.json": 1}


async def test_what_a_page_loads_of_a_left_out_kind_is_not_asked_for():
    body = (
        "<link rel=stylesheet href=/s.css><img src=/i.png><video src=/v.mp4></video>"
        "<style>@font-face { font-family: f; src: url(/f.woff) } p { font-family: f }</style><p>x"
    )
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", body)
        await renderer.render(url, PLAIN)
        assert set(site.requests) == {"/", "/s.css"}
    async with open_site() as site, open_rendering(left_out=()) as renderer:
        url = site.page("/", body)
        await renderer.render(url, PLAIN)
        assert {"/i.png", "/v.mp4", "/f.woff", "/s.css"} <= set(site.requests)


async def test_the_element_of_dynamic_wait_for_is_waited_for():
    script = "<p>early<script>setTimeout(() => document.body.append(make()), 1200);"
    script += (
        "function make() { const e = document.createElement('b'); e.id='late'; return e }</script>"
    )
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", script)
        assert b'id="late"' not in (await renderer.render(url, PLAIN)).body
        page = await renderer.render(url, CrawlOptions(dynamic_wait_for="body > #late"))
        assert b'<b id="late">' in page.body


async def test_an_element_that_never_appears_or_cannot_be_named_is_a_render_error():
    async with open_site() as site, open_rendering(selector_seconds=0.4) as renderer:
        url = site.page("/", "<p>early")
        began = trio.current_time()
        with pytest.raises(RenderFailure, match="did not appear"):
            await renderer.render(url, CrawlOptions(dynamic_wait_for="#never"))
        assert trio.current_time() - began < 5
        with pytest.raises(RenderFailure, match="not a CSS selector"):
            await renderer.render(url, CrawlOptions(dynamic_wait_for="a[["))


async def test_scrolling_loads_what_comes_into_view_step_by_step():
    body = """<div id=list></div><div id=end>end</div><script>
    let n = 0;
    const more = async () => { const t = await (await fetch('/item?n=' + ++n)).text();
      for (let i = 0; i < 3; i++) { const e = document.createElement('p');
        e.style.height = '600px'; e.textContent = t; list.append(e) } };
    new IntersectionObserver(es => { if (es[0].isIntersecting) more() }).observe(end);
    </script>"""
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", body)

        async def item(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            return Reply(f"item-{query['n']}-", "text/plain")

        site.handlers["/item"] = item
        still = (await renderer.render(url, PLAIN)).body
        scrolled = (await renderer.render(url, CrawlOptions(scroll_steps=12))).body
        assert b"item-1-" in still
        assert b"item-3-" not in still
        assert b"item-4-" in scrolled


async def test_scrolling_a_page_that_has_an_end_ends_there():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", "<p style='height: 1500px'>tall")
        began = trio.current_time()
        await renderer.render(url, CrawlOptions(scroll_steps=100))
        assert trio.current_time() - began < 5


async def test_a_page_whose_loading_never_ends_is_taken_as_far_as_it_has_come():
    async with (
        open_site() as site,
        open_rendering(load_seconds=0.5, settle_seconds=0.5) as renderer,
    ):

        async def never(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            await trio.sleep_forever()
            raise AssertionError

        site.handlers["/never"] = never
        url = site.page(
            "/", "<p>here</p><iframe src=/never></iframe><script>fetch('/never')</script>"
        )
        began = trio.current_time()
        page = await renderer.render(url, PLAIN)
        assert b"<p>here</p>" in page.body
        assert trio.current_time() - began < 5


async def test_an_origin_that_never_answers_costs_page_seconds():
    async with open_site() as site, open_rendering(page_seconds=1.5) as renderer:

        async def never(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            await trio.sleep_forever()
            raise AssertionError

        site.handlers["/never"] = never
        began = trio.current_time()
        with pytest.raises(FetchTimeout, match=r"1\.5 seconds"):
            await renderer.render(site.url("/never"), PLAIN)
        assert 1.4 < trio.current_time() - began < 6
        assert (await renderer.render(site.page("/", "<p>next"), PLAIN)).status == 200


async def test_a_script_without_end_is_ended_and_the_page_taken():
    async with (
        open_site() as site,
        open_rendering(load_seconds=0.5, page_seconds=6, command_seconds=3) as renderer,
    ):
        url = site.page("/", "<p>before</p><script>for (;;) {}</script><p>after</p>")
        page = await renderer.render(url, PLAIN)
        assert b"<p>before</p>" in page.body


async def test_scripts_that_never_let_go_cost_the_page_and_nothing_else():
    async with (
        open_site() as site,
        open_rendering(load_seconds=0.5, page_seconds=4, command_seconds=3) as renderer,
    ):
        url = site.page("/", "<p>x</p><script>setInterval(() => { for (;;) {} }, 0)</script>")
        with pytest.raises(FetchTimeout):
            await renderer.render(url, PLAIN)
        assert b"next" in (await renderer.render(site.page("/n", "<p>next"), PLAIN)).body
        assert renderer.statistics().pool.browser_starts == 1


async def test_dialogs_are_dismissed_and_popups_closed():
    async with open_site() as site, open_rendering() as renderer:
        site.page("/popup", "<p>popup</p>")
        url = site.page(
            "/",
            "<p id=p>start</p><script>alert('a'); const c = confirm('b'); const q = prompt('c');"
            " open('/popup'); open('/popup', '_blank', 'noopener');"
            " p.textContent = `confirmed ${c}, answered ${q}`; onbeforeunload = () => 'stay';"
            " print();</script>",
        )
        page = await renderer.render(url, PLAIN)
        assert b"confirmed false, answered null" in page.body
        assert b"next" in (await renderer.render(site.page("/n", "<p>next"), PLAIN)).body


async def test_pages_share_no_cookies_storage_or_cache():
    async with open_site() as site, open_rendering() as renderer:

        async def handle(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            cookie = fields.get("cookie", "none")
            return Reply(
                f"<p>sent {cookie}</p><script>document.body.append('kept ' +"
                " localStorage.getItem('k')); localStorage.setItem('k', 'v')</script>"
                "<script src=/s.js></script>",
                fields={"Set-Cookie": "who=me; Max-Age=1000"},
            )

        site.handlers["/"] = handle
        site.page(
            "/s.js", "1", content_type="text/javascript", fields={"Cache-Control": "max-age=99"}
        )
        for _ in range(2):
            page = await renderer.render(site.url("/"), PLAIN)
            assert b"sent none" in page.body
            assert b"kept null" in page.body
        assert site.requests["/s.js"] == 2


async def test_permissions_are_denied_without_a_prompt():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page(
            "/",
            "<p id=p></p><script>navigator.geolocation.getCurrentPosition(() => p.append('given'),"
            " e => p.append('geolocation ' + e.code));"
            "navigator.permissions.query({name: 'notifications'}).then(r => p.append(' asked: ' +"
            " r.state))</script>",
        )
        page = await renderer.render(url, PLAIN)
        assert b"geolocation 1" in page.body
        assert b"asked: denied" in page.body


async def test_a_document_over_max_html_bytes_is_too_large():
    filler = "<p hidden id=p></p><script>p.append('ä'.repeat({}))</script>"
    async with open_site() as site, open_rendering(max_html_bytes=200_000) as renderer:
        fits = site.page("/fits", filler.format(90_000))
        over = site.page("/over", filler.format(110_000))
        assert len((await renderer.render(fits, PLAIN)).body) > 180_000
        with pytest.raises(TooLarge):
            await renderer.render(over, PLAIN)


async def test_a_large_document_comes_whole_and_with_every_character():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page(
            "/",
            "<p hidden id=p></p><script>"
            "p.textContent = 'x' + '\\u{1F600}é\\ud800 <'.repeat(300_000)</script>",
        )
        body = (await renderer.render(url, PLAIN)).body.decode()
        assert body.count("\U0001f600é\ufffd &lt;") == 300_000


async def test_elements_named_like_properties_of_the_document_do_not_hide_them():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page(
            "/",
            "<form name=URL></form><img name=documentElement><form name=contentType></form>"
            "<form name=querySelector></form><p id=real>real</p>"
            "<script>String.prototype.slice = () => 'forged'; TextEncoder = null;"
            "Object.getOwnPropertyDescriptor = null</script>",
        )
        page = await renderer.render(url, CrawlOptions(dynamic_wait_for="#real"))
        assert b"real</p>" in page.body
        assert page.final_url == url


async def test_text_and_json_come_as_they_are_and_other_files_are_unsupported():
    async with open_site() as site, open_rendering() as renderer:
        data = '{"a": [1, "<b>&amp;"]}'
        page = await renderer.render(site.page("/j", data, content_type="application/json"), PLAIN)
        assert page.body.decode() == data
        assert page.content_type == "application/json; charset=utf-8"
        page = await renderer.render(site.page("/t", "a <b>\nc", content_type="text/plain"), PLAIN)
        assert page.body == b"a <b>\nc"
        xml = "<feed><entry a='1'>x</entry></feed>"
        page = await renderer.render(site.page("/x", xml, content_type="application/xml"), PLAIN)
        assert b'<entry a="1">x</entry>' in page.body
        for path, content_type, fields in (
            ("/pdf", "application/pdf", {}),
            ("/zip", "application/zip", {}),
            ("/png", "image/png", {}),
            ("/attached", "text/html", {"Content-Disposition": "attachment; filename=a.html"}),
        ):
            url = site.page(path, b"%PDF-1.7 \x00", content_type=content_type, fields=fields)
            with pytest.raises(UnsupportedContent):
                await renderer.render(url, PLAIN)


async def test_an_answer_without_a_document_has_its_status_and_no_body():
    async with open_site() as site, open_rendering() as renderer:
        page = await renderer.render(site.page("/", b"", status=204), PLAIN)
        assert (page.status, page.body) == (204, b"")
        page = await renderer.render(site.page("/gone", "<p>gone", status=410), PLAIN)
        assert page.status == 410
        assert b"gone" in page.body
        page = await renderer.render(site.page("/none", b"", status=500), PLAIN)
        assert page.status == 500


async def test_redirects_by_status_script_and_markup_are_followed_to_the_final_url():
    async with open_site() as site, open_rendering() as renderer:
        site.page("/a", "", status=302, fields={"Location": "/b", "Cache-Control": "max-age=7"})
        site.page("/b", "<script>location.replace('/c')</script>")
        site.page("/c", "<meta http-equiv=refresh content='0; url=/d'>")
        site.page("/d", "<p>end<script>history.pushState(0, '', '/shown?x=1')</script>")
        hops: list[str] = []

        async def note(url: object) -> None:
            hops.append(url.target)  # type: ignore[attr-defined]

        page = await renderer.render(site.url("/a"), PLAIN, before_hop=note)
        assert b"<p>end" in page.body
        assert page.url == site.url("/a")
        assert page.final_url == site.url("/shown?x=1")
        assert hops == ["/b", "/c", "/d"]
        (detour,) = page.detours  # what a script or markup leads to is no redirect of HTTP
        assert dict(detour)[b"cache-control"] == b"max-age=7"


@pytest.mark.parametrize(
    "page",
    [
        {"body": "", "status": 302, "fields": {"Location": "/"}},
        {"body": "<script>location.href = '/?' + Math.random()</script>"},
        {"body": "<meta http-equiv=refresh content=0>"},
    ],
)
async def test_redirects_without_end_are_too_many(page: dict[str, object]):
    async with open_site() as site, open_rendering(max_navigations=5) as renderer:
        url = site.page("/", **page)  # type: ignore[arg-type]
        with pytest.raises(TooManyRedirects):
            await renderer.render(url, PLAIN)
        assert site.requests["/"] <= 7


async def test_a_page_that_leads_to_where_nothing_answers_is_that_failure():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", "<script>location = 'http://127.0.0.1:1111/'</script>")
        with pytest.raises(NetworkFailure):
            await renderer.render(url, PLAIN)
        with pytest.raises(NetworkFailure):
            await renderer.render("http://127.0.0.1:1111/", PLAIN)


async def test_a_page_that_makes_too_many_requests_is_given_up():
    async with open_site() as site, open_rendering(max_requests=50) as renderer:
        site.page("/x", "x")
        url = site.page("/", "<script>for (let i = 0; i < 100; i++) fetch('/x?' + i)</script>")
        with pytest.raises(TooLarge, match="requests"):
            await renderer.render(url, PLAIN)


async def test_hundreds_of_images_asked_for_at_once_cost_nothing_else():
    async with open_site() as site, open_rendering() as renderer:
        images = "for (let i = 0; i < 900; i++) new Image().src = '/i?' + i"
        url = site.page("/", f"<p>here</p><script>{images}</script>")
        assert b"<p>here</p>" in (await renderer.render(url, PLAIN)).body
        assert renderer.statistics().pool.browser_starts == 1
        assert set(site.requests) == {"/"}


async def test_a_page_is_waited_for_until_it_has_loaded():
    async with open_site() as site, open_rendering(settle_seconds=0.3) as renderer:

        async def slow(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
            await trio.sleep(1.5)
            return Reply(b"document.body.append('built')", content_type="text/javascript")

        site.handlers["/slow.js"] = slow
        url = site.page("/", "<p>here</p><script src=/slow.js></script>")
        page = await renderer.render(url, PLAIN)
        assert b"built" in page.body
        assert not page.cut_short


async def test_a_script_without_end_costs_no_document_where_the_page_is_scrolled():
    async with (
        open_site() as site,
        open_rendering(load_seconds=0.5, page_seconds=8, command_seconds=3) as renderer,
    ):
        url = site.page("/", "<p>before</p><script>for (;;) {}</script><p>after</p>")
        page = await renderer.render(url, CrawlOptions(scroll_steps=1))
        assert b"<p>before</p>" in page.body
        assert page.cut_short


async def test_a_page_that_leads_to_a_name_that_is_not_there_says_so():
    async with open_site() as site, open_rendering() as renderer:
        url = site.page("/", "<script>location = 'https://nowhere.invalid/'</script>")
        with pytest.raises(DNSError):
            await renderer.render(url, PLAIN)
