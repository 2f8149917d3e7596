"""A page that a script builds: the real server, the real browser, the demo's own site."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from eventmesh_trio.client.client import open_client
from eventmesh_trio.demo.site import Site, serve_site
from eventmesh_trio.wire.events import PageResult, PipelineMetadata, Result
from tests.helpers.rendering import require_browser
from tests.helpers.servers import ServerProcess, open_server

pytestmark = pytest.mark.slow

ONCE = ("decode", "parse", "gate", "extract")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {
        "EVENTMESH_RENDER__BROWSER": require_browser(),
        "EVENTMESH_RENDER__SANDBOX": str(os.geteuid() != 0).lower(),
    }
    with open_server("native", settings) as process:
        yield process


async def crawl(
    server: ServerProcess, site: str, *paths: str, **options: Any
) -> dict[str, tuple[PageResult, PipelineMetadata]]:
    found = {}
    urls = [site + path for path in paths]
    async with open_client(server.base_url) as client, client.crawl(urls, **options) as stream:
        async for event in stream:
            if isinstance(event, Result):
                assert isinstance(event.result, PageResult)
                assert event.result.error is None
                page = event.result
                found[page.url.removeprefix(site)] = (page, event.pipeline_metadata)
    return found


async def test_what_a_script_builds_is_in_the_document_and_only_that_page_is_rendered(
    server: ServerProcess,
) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            site = await nursery.start(serve_site, Site())
            found = await crawl(server, site, "/app/tide-clock", "/news/lighthouse")
            again = await crawl(server, site, "/app/tide-clock")
            static = await crawl(server, site, "/app/tide-clock", render_mode="static")
            dynamic = await crawl(server, site, "/news/lighthouse", render_mode="dynamic")
            nursery.cancel_scope.cancel()
    page, metadata = found["/app/tide-clock"]
    assert metadata.processing_stages == ("fetch", *ONCE, "render", *ONCE)
    assert (page.status, page.gate_decision) == (200, "headless")
    assert "; rendered: " in metadata.gate_decision_reason
    assert page.document is not None
    assert page.document.word_count > 20
    page, metadata = found["/news/lighthouse"]
    assert metadata.processing_stages == ("fetch", *ONCE)
    assert "render" not in metadata.gate_decision_reason
    page, _ = again["/app/tide-clock"]
    assert (page.from_cache, page.original_gate_decision) == (True, "headless")
    assert page.document is not None
    assert page.document.word_count > 20
    page, metadata = static["/app/tide-clock"]
    assert not page.from_cache
    assert metadata.gate_decision_reason.endswith("; not rendered: render_mode is static")
    assert page.document is not None
    assert page.document.word_count < 20
    page, metadata = dynamic["/news/lighthouse"]
    assert metadata.processing_stages == ("render", *ONCE)
    assert page.document is not None
    assert "168 steps" in page.document.text
