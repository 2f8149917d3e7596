"""The synthetic stream as the peers make it: the same members, built and encoded for each event.

Standard library and orjson only: it runs in the peers' own environment.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

TEXT = (
    "A crawl server reads pages and sends what is worth reading as soon as it is read. "
    "Whoever listens should neither wait for the slowest page nor lose the quickest. "
)
HASH = "sha256:" + "0" * 64


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def result(index: int, total: int, request_id: str) -> dict[str, Any]:
    """One result, some 1.4 KB as JSON."""
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
        "markdown": TEXT,
        "text": TEXT,
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
    completed = index + 1
    return {
        "event": "result",
        "timestamp": timestamp,
        "request_id": request_id,
        "index": index,
        "result": {
            **scalars,
            "document": document,
            "error": None,
            "cache_key": "crawl:v1:site:p:0",
        },
        "progress": {"completed": completed, "total": total, "success_rate": 1.0},
        "pipeline_metadata": {
            "gate_decision_reason": "text ratio 0.6",
            "extraction_method": "article",
            "processing_stages": ["fetch", "decode", "parse", "extract"],
        },
        **scalars,
        "error": None,
        "id": f"epoch-{completed}",
    }


def events(total: int, request_id: str) -> Iterator[tuple[str, str, bytes]]:
    """(kind, id, JSON) of each event of a stream: metadata, the results, summary."""
    head = {"timestamp": now(), "request_id": request_id, "total_urls": total}
    yield "metadata", "epoch-0", orjson.dumps({"event": "metadata", **head})
    for index in range(total):
        yield "result", f"epoch-{index + 1}", orjson.dumps(result(index, total, request_id))
    summary = {"event": "summary", **head, "successful": total, "status": "completed"}
    yield "summary", f"epoch-{total + 1}", orjson.dumps(summary)
