"""The HTML page of the specification in a real browser: Chromium's fetch and EventSource."""

import json

import pytest
import trio

from tests.helpers.browser import open_page
from tests.helpers.origin import Origin
from tests.helpers.servers import ServerProcess
from tests.helpers.specification import page_script

pytestmark = pytest.mark.slow


async def test_the_page_of_the_specification_shows_every_result_and_stops_by_itself(
    server: ServerProcess, origin: Origin
) -> None:
    urls = [*origin.pages(3), origin.url("/status/404")]
    # Its own example starts as the script runs, with addresses that this machine cannot reach:
    # ours starts when that has ended.
    script = page_script("startSSECrawl")
    with trio.fail_after(90):
        async with open_page(f"{server.base_url}/livez") as page:
            await page.evaluate(
                "document.body.innerHTML ="
                """ '<div id="status"></div><div id="progress"></div><div id="results"></div>'"""
            )
            await page.evaluate(script)
            status = "document.getElementById('status').textContent"
            while not (await page.evaluate(status)).startswith(("Completed", "Connection failed")):
                await trio.sleep(0.1)
            await page.evaluate("document.getElementById('results').innerHTML = ''")
            await page.evaluate(
                f"startSSECrawl({json.dumps(urls)}, {{concurrency: 2}})"
                ".then((source) => { window.ours = source; })"
            )
            while await page.evaluate("window.ours.readyState") != 2:  # CLOSED
                await trio.sleep(0.1)
            assert (await page.evaluate(status)).startswith("Completed: 3/4 successful")
            shown = await page.evaluate("document.getElementById('results').innerText")
            bar = await page.evaluate("document.getElementById('progress').innerText")
    assert all(url in shown for url in urls)
    assert shown.count("Preview:") == 3
    assert "undefined" not in shown
    assert "NaN" not in shown
    assert "4/4 (100.0%)" in bar
