"""Each setting under ``crawl.reading`` and what it changes."""

import attrs
import pytest

from eventmesh_trio.abc import Extraction, Page
from eventmesh_trio.testing import (
    FakeExtractor,
    FakeFetcher,
    FakeRenderer,
    make_extraction,
    make_page,
)
from tests.helpers.settled import crawl_of, events_of, open_world, shows


async def is_rendered(*settings: str, text: bytes) -> bool:
    """Whether a page that the gate is not sure of, with that text, is rendered."""

    def unsure(page: Page) -> Extraction:
        return attrs.evolve(make_extraction(page), gate_decision="probes_first")

    fetcher = FakeFetcher(lambda url: make_page(url, text))
    async with open_world(*settings, fetcher=fetcher, extractor=FakeExtractor(unsure)) as world:
        world.mesh.ports = attrs.evolve(world.mesh.ports, renderer=FakeRenderer())
        answer = await world.request("POST", "/crawl/stream", body=crawl_of(1))
    (result,) = (event for event in events_of(answer.body) if event["event"] == "result")
    return "render" in result["pipeline_metadata"]["processing_stages"]


@shows("crawl.reading.poor_text_chars")
@pytest.mark.parametrize(("least", "rendered"), [(100, False), (101, True)])
async def test_a_document_with_less_text_than_poor_text_chars_is_rendered(
    least: int, rendered: bool
) -> None:
    setting = f"crawl.reading.poor_text_chars={least}"
    assert await is_rendered(setting, text=b"x" * 100) is rendered


@shows("crawl.reading.poor_quality_score")
@pytest.mark.parametrize(("least", "rendered"), [(80, False), (81, True)])
async def test_a_document_of_a_quality_below_poor_quality_score_is_rendered(
    least: int, rendered: bool
) -> None:
    setting = f"crawl.reading.poor_quality_score={least}"
    assert await is_rendered(setting, text=b"x" * 5000) is rendered  # of quality 80
