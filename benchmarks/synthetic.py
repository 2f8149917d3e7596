"""The events that our server is measured with: real structs of the wire, with made-up content.

Every one is built anew, as a crawl would, and the peers build theirs (`peers.payload`), which have
the same members and lengths.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from eventmesh_trio.wire.events import (
    CrawlProgress,
    Document,
    Event,
    PageResult,
    PipelineMetadata,
    Result,
    SearchStart,
)
from eventmesh_trio.wire.timestamps import utc_timestamp

__all__ = ["LARGE", "MAKERS", "MEDIUM", "SIZES", "SMALL", "TEXT", "Maker", "page_result"]

SMALL: Final = 200
MEDIUM: Final = 1_400
LARGE: Final = 20_000
SIZES: Final = (SMALL, MEDIUM, LARGE)
"""Bytes of an event as JSON, roughly: a word of what goes on, a short page, and a long one."""
Maker = Callable[[int, int, str], Event]  # index, total, request id

TEXT: Final = (
    "A crawl server reads pages and sends what is worth reading as soon as it is read. "
    "Whoever listens should neither wait for the slowest page nor lose the quickest. "
)
LONG_TEXT: Final = (TEXT * 60)[:9_400]
"""Twice in an event: as text and as Markdown."""
QUERY: Final = "what a crawl server is for"
_HASH: Final = "sha256:" + "0" * 64
_STAGES: Final = ("fetch", "decode", "parse", "extract")


def small_event(index: int, _: int, request_id: str) -> Event:
    """The smallest event with a text of its own."""
    return SearchStart(
        timestamp=utc_timestamp(time.time()),
        request_id=request_id,
        query=f"{QUERY} {index}",
        limit=index + 1,
    )


def page_result(index: int, total: int, request_id: str, text: str, timestamp: str) -> Result:
    """The result of a page with that text, all its structs new."""
    url = f"http://site.example/page/{index}"
    document = Document(
        url=url,
        title=f"Page {index}",
        markdown=text,
        text=text,
        word_count=30,
        reading_time=1,
        quality_score=85,
        extracted_at=timestamp,
        content_hash=_HASH,
    )
    page = PageResult(
        url=url,
        status=200,
        from_cache=False,
        gate_decision="raw",
        quality_score=0.85,
        processing_time_ms=12,
        document=document,
        error=None,
        cache_key="crawl:v1:site:p:0",
    )
    return Result(
        timestamp=timestamp,
        request_id=request_id,
        index=index,
        result=page,
        progress=CrawlProgress(index + 1, total, 1.0),
        pipeline_metadata=PipelineMetadata(
            gate_decision_reason="text ratio 0.6",
            extraction_method="article",
            processing_stages=_STAGES,
        ),
        url=url,
        status=200,
        from_cache=False,
        gate_decision="raw",
        quality_score=0.85,
        processing_time_ms=12,
        error=None,
    )


def page_event(text: str) -> Maker:
    """Makes results of pages with that text."""

    def make(index: int, total: int, request_id: str) -> Event:
        return page_result(index, total, request_id, text, utc_timestamp(time.time()))

    return make


MAKERS: Final[Mapping[int, Maker]] = {
    SMALL: small_event,
    MEDIUM: page_event(TEXT),
    LARGE: page_event(LONG_TEXT),
}
"""How an event of each size is made."""
