"""Each setting under ``render`` and what it changes, with a real browser."""

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.errors import (
    ConfigError,
    FetchTimeout,
    PageError,
    RenderFailure,
    TooLarge,
    TooManyRedirects,
)
from eventmesh_trio.pipeline.rendering.browser_program import find_browser
from eventmesh_trio.pipeline.rendering.render import BrowserRenderer
from eventmesh_trio.wire.requests import CrawlOptions
from tests.helpers.processes import command_line
from tests.helpers.render_site import Reply, open_site
from tests.helpers.rendering import (
    browser_processes,
    limits,
    main_process,
    require_browser,
    wait_until,
)
from tests.helpers.settled import settled, shows

pytestmark = pytest.mark.slow

PLAIN = CrawlOptions()
ME = os.getpid()


@asynccontextmanager
async def open_renderer(
    *assignments: str, browser: str | None = None
) -> AsyncIterator[BrowserRenderer]:
    """The renderer of a mesh with these settings."""
    config = settled(
        *(f"render.browser={browser or require_browser()}", "fetch.allow_private=127.0.0.0/8"),
        *(f"render.sandbox={str(os.geteuid() != 0).lower()}", "render.quiet_seconds=0.15"),
        *assignments,
    )
    with trio.fail_after(60):
        async with open_mesh(config) as mesh:
            renderer = mesh.ports.renderer
            assert isinstance(renderer, BrowserRenderer)
            yield renderer
    assert browser_processes(ME) == []


async def forever(query: Mapping[str, str], fields: Mapping[str, str]) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


def program(folder: Path, text: str) -> str:
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@shows("render.browser")
async def test_browser_says_what_renders_if_anything_does():
    async with open_mesh(settled()) as mesh:
        assert mesh.ports.renderer is None
    async with open_site() as site, open_renderer() as renderer:
        url = site.page("/", "<p id=p></p><script>p.append('built')</script>")
        assert b"built" in (await renderer.render(url, PLAIN)).body


def test_a_browser_that_is_not_there_is_refused_at_the_start():
    for name in ("/nowhere/browser", "ftp://127.0.0.1/", "ws://192.0.2.1:9222/"):
        with pytest.raises(ConfigError, match=r"render\.browser is "):
            find_browser(limits(browser=name, sandbox=False))


def test_auto_without_any_browser_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    wanted = limits(browser="auto", sandbox=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="chromium-headless-shell"):
        find_browser(wanted)


@shows("render.sandbox")
async def test_the_sandbox_is_left_out_only_where_sandbox_is_false(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=r"render\.sandbox"):
        async with open_mesh(settled(f"render.browser={require_browser()}")):
            pass
    monkeypatch.undo()
    async with open_site() as site, open_renderer("render.sandbox=false") as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        assert b"--no-sandbox" in command_line(main_process(ME))


@shows("render.max_pages")
async def test_max_pages_are_rendered_at_once():
    async with open_site() as site, open_renderer("render.max_pages=2") as renderer:
        site.handlers["/"] = forever
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(renderer.render, site.url("/"), PLAIN)
            await wait_until(lambda: site.requests["/"] == 2)
            await trio.sleep(0.2)
            assert renderer.statistics().pool.pages_waiting == 1
            nursery.cancel_scope.cancel()


@shows("render.page_seconds")
async def test_a_page_may_take_page_seconds():
    async with open_site() as site, open_renderer("render.page_seconds=0.8") as renderer:
        site.handlers["/"] = forever
        began = trio.current_time()
        with pytest.raises(FetchTimeout):
            await renderer.render(site.url("/"), PLAIN)
        assert 0.7 < trio.current_time() - began < 5


@shows("render.load_seconds")
async def test_a_page_that_goes_on_loading_is_taken_after_load_seconds():
    async with (
        open_site() as site,
        open_renderer("render.load_seconds=0.3", "render.settle_seconds=0.1") as renderer,
    ):
        site.handlers["/never"] = forever
        began = trio.current_time()
        await renderer.render(site.page("/", "<p>x<iframe src=/never></iframe>"), PLAIN)
        assert trio.current_time() - began < 5


@shows("render.quiet_seconds")
async def test_a_page_settles_when_it_was_quiet_for_quiet_seconds():
    late = "<script>setTimeout(() => document.body.append('late'), 700)</script>"
    async with open_site() as site:
        url = site.page("/", f"<p>x{late}")
        async with open_renderer("render.quiet_seconds=0.1") as renderer:
            assert not (await renderer.render(url, PLAIN)).body.endswith(b"late</p></body></html>")
        async with open_renderer("render.quiet_seconds=2") as renderer:
            assert b"</script></p>late" in (await renderer.render(url, PLAIN)).body


@shows("render.settle_seconds")
async def test_a_page_that_never_settles_is_taken_after_settle_seconds():
    busy = "<script>setInterval(() => fetch('/x'), 50); fetch('/never')</script>"
    async with open_site() as site, open_renderer("render.settle_seconds=0.4") as renderer:
        site.handlers["/never"] = forever
        began = trio.current_time()
        await renderer.render(site.page("/", f"<p>x{busy}"), PLAIN)
        assert 0.4 < trio.current_time() - began < 4


@shows("render.selector_seconds")
async def test_an_element_is_waited_for_for_selector_seconds():
    async with open_site() as site, open_renderer("render.selector_seconds=0.4") as renderer:
        began = trio.current_time()
        with pytest.raises(RenderFailure, match="did not appear"):
            await renderer.render(site.page("/", "<p>x"), CrawlOptions(dynamic_wait_for="#a"))
        assert 0.4 < trio.current_time() - began < 5


@shows("render.max_html_bytes")
async def test_a_document_over_max_html_bytes_is_not_taken():
    async with open_site() as site, open_renderer("render.max_html_bytes=1KB") as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        with pytest.raises(TooLarge, match="document"):
            await renderer.render(site.page("/l", "<p>" + "x" * 2000), PLAIN)


@shows("render.max_requests")
async def test_a_page_may_make_max_requests():
    async with open_site() as site, open_renderer("render.max_requests=5") as renderer:
        url = site.page("/", "<script>for (let i = 0; i < 9; i++) fetch('/' + i)</script>")
        with pytest.raises(TooLarge, match="requests"):
            await renderer.render(url, PLAIN)


@shows("render.max_navigations")
async def test_a_page_may_go_on_max_navigations_times():
    async with open_site() as site, open_renderer("render.max_navigations=2") as renderer:
        for path, target in (("/3", "/2"), ("/2", "/1"), ("/1", "/0")):
            site.page(path, f"<script>location = '{target}'</script>")
        site.page("/0", "<p>end")
        assert b"end" in (await renderer.render(site.url("/2"), PLAIN)).body
        with pytest.raises(TooManyRedirects):
            await renderer.render(site.url("/3"), PLAIN)


@shows("render.left_out")
async def test_what_is_left_out_is_not_asked_for():
    async with open_site() as site, open_renderer("render.left_out=stylesheet") as renderer:
        url = site.page("/", "<link rel=stylesheet href=/s.css><img src=/i.png>")
        await renderer.render(url, PLAIN)
        assert set(site.requests) == {"/", "/i.png"}
    with pytest.raises(ConfigError, match="known are image"):
        settled("render.left_out=pictures")


@shows("render.page_memory_bytes")
async def test_the_process_of_a_page_may_hold_page_memory_bytes():
    hog = (
        "<script>fetch('/never'); const kept = []; const grow = () => {"
        " kept.push(new Uint8Array(2e7).fill(1)); setTimeout(grow, 5) }; grow()</script>"
    )
    settings = ("render.page_memory_bytes=150MB", "render.settle_seconds=3")
    async with open_site() as site:
        site.handlers["/never"] = forever
        url = site.page("/", hog)
        async with open_renderer(*settings, "render.memory_check_seconds=0.05") as renderer:
            with pytest.raises(RenderFailure):
                await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.pages_killed == 2


@shows("render.memory_check_seconds")
async def test_memory_is_looked_at_every_memory_check_seconds():
    async with open_site() as site:
        url = site.page("/", "<p>x")
        async with open_renderer("render.memory_check_seconds=60") as renderer:
            await renderer.render(url, PLAIN)
            first = renderer.statistics().pool.held_bytes  # as it was before any page
            await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.held_bytes == first > 0
        async with open_renderer("render.memory_check_seconds=0.05") as renderer:
            await renderer.render(url, PLAIN)
            await wait_until(lambda: renderer.statistics().pool.held_bytes > first + 10_000_000)


@shows("render.browser_memory_bytes")
async def test_a_browser_over_browser_memory_bytes_is_replaced():
    async with (
        open_site() as site,
        open_renderer(
            "render.browser_memory_bytes=1MB", "render.memory_check_seconds=0.05"
        ) as renderer,
    ):
        url = site.page("/", "<p>x")
        for starts in (1, 2):
            await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.browser_starts == starts


@shows("render.pages_per_browser")
async def test_a_browser_is_replaced_after_pages_per_browser():
    async with open_site() as site, open_renderer("render.pages_per_browser=2") as renderer:
        url = site.page("/", "<p>x")
        for starts in (1, 1, 2, 2):
            await renderer.render(url, PLAIN)
            assert renderer.statistics().pool.browser_starts == starts


@shows("render.idle_seconds")
async def test_a_browser_that_nobody_uses_ends_after_idle_seconds():
    async with open_site() as site, open_renderer("render.idle_seconds=0.3") as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        began = trio.current_time()
        await wait_until(lambda: not browser_processes(ME))
        assert 0.2 < trio.current_time() - began < 5


@shows("render.start_seconds")
async def test_a_browser_may_take_start_seconds_to_answer(tmp_path: Path):
    silent = program(tmp_path, "exec sleep 1000")
    async with open_renderer("render.start_seconds=0.3", browser=silent) as renderer:
        began = trio.current_time()
        with pytest.raises(RenderFailure):
            await renderer.render("http://127.0.0.1:8099/", PLAIN)
        assert 0.3 < trio.current_time() - began < 5


async def seconds_of_failures(folder: Path, *assignments: str) -> float:
    """What the third and fourth start take of a browser that never starts."""
    broken = program(folder, "exit 1")
    async with open_renderer(*assignments, browser=broken) as renderer:
        for number in range(4):
            if number == 2:
                began = trio.current_time()
            with pytest.raises(RenderFailure):
                await renderer.render("http://127.0.0.1:8099/", PLAIN)
        return trio.current_time() - began


@shows("render.restart_seconds")
async def test_a_browser_that_fails_again_and_again_is_started_ever_later(tmp_path: Path):
    assert await seconds_of_failures(tmp_path, "render.restart_seconds=0.01") < 5
    assert await seconds_of_failures(tmp_path, "render.restart_seconds=2") > 6  # 2 and 4


@shows("render.max_restart_seconds")
async def test_a_browser_that_fails_is_started_after_max_restart_seconds(tmp_path: Path):
    settings = ("render.restart_seconds=20", "render.max_restart_seconds=0.3")
    assert 0.6 < await seconds_of_failures(tmp_path, *settings) < 10


@shows("render.command_seconds")
async def test_a_browser_may_take_command_seconds_for_an_answer():
    async with open_site() as site, open_renderer("render.command_seconds=0.7") as renderer:
        url = site.page("/", "<p>x")
        await renderer.render(url, PLAIN)
        os.kill(main_process(ME), signal.SIGSTOP)
        began = trio.current_time()
        await renderer.render(url, PLAIN)  # by another
        assert 0.6 < trio.current_time() - began < 8


@shows("render.max_message_bytes")
async def test_a_message_of_the_browser_may_have_max_message_bytes():
    async with open_site() as site, open_renderer("render.max_message_bytes=20KB") as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        with pytest.raises(TooLarge, match="taken over"):
            await renderer.render(site.page("/l", "<p hidden>" + "x" * 50_000), PLAIN)
        await renderer.render(site.page("/", "<p>x"), PLAIN)


@shows("render.max_event_bytes")
async def test_events_of_a_page_may_hold_max_event_bytes():
    async with open_site() as site, open_renderer("render.max_event_bytes=100B") as renderer:
        with pytest.raises(RenderFailure, match="events"):
            await renderer.render(site.page("/", "<p>x"), PLAIN)


@shows("render.farewell_seconds")
async def test_the_end_of_a_browser_is_waited_for_for_farewell_seconds():
    async with open_site() as site, open_renderer("render.farewell_seconds=0.6") as renderer:
        await renderer.render(site.page("/", "<p>x"), PLAIN)
        (keeper,) = (pid for pid in browser_processes(ME) if b"browser_keeper" in command_line(pid))
        os.kill(keeper, signal.SIGSTOP)
        began = trio.current_time()
    assert 0.6 < trio.current_time() - began < 5


async def test_every_outcome_is_counted_in_the_metrics():
    config = settled(
        *(f"render.browser={require_browser()}", "fetch.allow_private=127.0.0.0/8"),
        *(f"render.sandbox={str(os.geteuid() != 0).lower()}", "render.quiet_seconds=0.1"),
    )
    with trio.fail_after(60):
        async with open_site() as site, open_mesh(config) as mesh:
            renderer = mesh.ports.renderer
            assert renderer is not None
            await renderer.render(site.page("/", "<p>x<img src=/i>"), PLAIN)
            with pytest.raises(PageError):
                await renderer.render("http://10.0.0.1/", PLAIN)
            samples = await mesh.metrics.samples()
            renders = samples["browser_renders_total"]
            assert isinstance(renders, dict)
            assert renders["ok"] == renders["blocked_address"] == 1
            assert sum(renders.values()) == 2
            assert samples["browser_render_duration_seconds_count"] == 2
            assert samples["browser_starts_total"] == samples["browser_running"] == 1
            assert samples["browser_requests_total"] == 1
            assert float(str(samples["browser_received_bytes_total"])) > 0
