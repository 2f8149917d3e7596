"""The synthetic stream as the peers make it: the same members, built and encoded for each event.

Standard library and orjson only: it runs in the peers' own environment.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

TEXT = (
    "A crawl server reads pages and sends what is worth reading as soon as it is read. "
    "Whoever listens should neither wait for the slowest page nor lose the quickest. "
)
LONG_TEXT = (TEXT * 60)[:9_400]
QUERY = "what a crawl server is for"
HASH = "sha256:" + "0" * 64
REQUEST_ID = "req-00000000-0000-0000-0000-000000000000"
EPOCH = "epoch-000000"
SMALL, MEDIUM, LARGE = 200, 1_400, 20_000
SHARED_EVENTS = 64
"""So many different events go round where building them is not what is measured."""
Maker = Callable[[int, int], dict[str, Any]]  # index, total


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def small(index: int, _: int) -> dict[str, Any]:
    """The smallest event with a text of its own."""
    return {
        "event": "search_start",
        "timestamp": now(),
        "request_id": REQUEST_ID,
        "id": f"{EPOCH}-{index + 1}",
        "query": f"{QUERY} {index}",
        "limit": index + 1,
    }


def page(index: int, total: int, text: str) -> dict[str, Any]:
    """The result of a page with that text."""
    timestamp = now()
    url = f"http://site.example/page/{index}"
    scalars = {
        "url": url,
        "status": 200,
        "from_cache": False,
        "gate_decision": "raw",
        "quality_score": 0.85,
        "processing_time_ms": 12,
    }
    document = {
        "url": url,
        "title": f"Page {index}",
        "markdown": text,
        "text": text,
        "word_count": 30,
        "reading_time": 1,
        "quality_score": 85,
        "extracted_at": timestamp,
        "content_hash": HASH,
        "author": None,
        "date": None,
        "modified": None,
        "site_name": None,
        "description": None,
        "language": None,
        "canonical_url": None,
        "image": None,
        "favicon": None,
        "page_type": None,
        "tags": (),
        "links": (),
        "images": (),
    }
    return {
        "event": "result",
        "timestamp": timestamp,
        "request_id": REQUEST_ID,
        "id": f"{EPOCH}-{index + 1}",
        "index": index,
        "result": {
            **scalars,
            "document": document,
            "error": None,
            "cache_key": "crawl:v1:site:p:0",
        },
        "progress": {"completed": index + 1, "total": total, "success_rate": 1.0},
        "pipeline_metadata": {
            "gate_decision_reason": "text ratio 0.6",
            "extraction_method": "article",
            "processing_stages": ["fetch", "decode", "parse", "extract"],
        },
        **scalars,
        "error": None,
    }


MAKERS: dict[int, Maker] = {
    SMALL: small,
    MEDIUM: lambda index, total: page(index, total, TEXT),
    LARGE: lambda index, total: page(index, total, LONG_TEXT),
}


@lru_cache
def shared_events(make: Maker, total: int) -> list[dict[str, Any]]:
    """A few events, built once for all streams of a case."""
    return [make(index, total) for index in range(min(SHARED_EVENTS, total))]


def built(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events between metadata and summary, as objects."""
    total, make = asked["n"], MAKERS[asked.get("size", MEDIUM)]
    if asked.get("shared"):
        return itertools.islice(itertools.cycle(shared_events(make, total)), total)
    return (make(index, total) for index in range(total))


def events(asked: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """(kind, id, JSON) of each event of a stream: metadata, so many events, summary.

    ``asked`` is the request: ``n`` events, of ``size`` bytes each, built one by one, or, where they
    are ``shared`` with other streams, encoded only.
    """
    head = {"timestamp": now(), "request_id": REQUEST_ID, "total_urls": asked["n"]}
    yield "metadata", f"{EPOCH}-0", orjson.dumps({"event": "metadata", **head})
    for event in built(asked):
        yield event["event"], event["id"], orjson.dumps(event)
    summary = {"event": "summary", **head, "successful": asked["n"], "status": "completed"}
    yield "summary", f"{EPOCH}-{asked['n'] + 1}", orjson.dumps(summary)
