"""The crawl that every client of a stream is given, and what it must have seen of it.

Some pages are there at once and one stalls: a client that gets its events only when the stream ends
cannot have seen the quick ones early. For cuts the pages come one after the other.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import attrs

from tests.helpers.origin import Origin
from tests.helpers.raw import post_json
from tests.helpers.servers import ServerProcess

QUICK_PAGES = 6
STALL_MILLISECONDS = 2000
EARLY_SECONDS = 1.0  # how much before the stalled page the quick ones are there, on a busy machine


@attrs.frozen
class Seen:
    """One event as a client saw it; ``seconds`` from any moment that is the same for all."""

    kind: str
    data: dict[str, Any]
    event_id: str | None
    seconds: float


def crawl_body(origin: Origin) -> dict[str, Any]:
    """The request; the stalled page is another host's, so that politeness holds back no other."""
    urls = [*origin.pages(QUICK_PAGES), *origin.slow_pages(1, STALL_MILLISECONDS, host=1)]
    return {"urls": urls, "options": {"respect_robots": False, "cache_mode": "disabled"}}


def trickling_body(origin: Origin) -> dict[str, Any]:
    """A crawl for cuts: page after page, so that what came before a cut was read before it."""
    options = {"respect_robots": False, "cache_mode": "disabled", "concurrency": 1}
    return {"urls": origin.slow_pages(10, 100), "options": options}


def new_session() -> str:
    return f"conformance-{uuid.uuid4().hex}"


def start_session(server: ServerProcess, body: dict[str, Any]) -> str:
    """Start the crawl without a stream; returns the session to attach to."""
    session = new_session()
    answer = post_json(server.address, "/crawl/sse", body, [("X-Session-ID", session)])
    assert (answer.status, answer.json()["status"]) == (200, "started")
    return session


def judge_whole(seen: Sequence[Seen], urls: Sequence[str]) -> None:
    """From metadata to summary, every URL once, every id once and rising."""
    assert (seen[0].kind, seen[-1].kind) == ("metadata", "summary")
    results = [event for event in seen if event.kind == "result"]
    assert sorted(event.data["result"]["url"] for event in results) == sorted(urls)
    assert all(event.data["result"]["document"]["text"] for event in results)
    logged = [event.data["id"] for event in seen if "id" in event.data]
    numbers = [int(event_id.rpartition("-")[2]) for event_id in logged]
    assert numbers == sorted(set(numbers))
    assert "gap" not in {event.kind for event in seen}
    assert seen[-1].data["successful"] == len(urls)


def judge_ids(seen: Sequence[Seen]) -> None:
    """The id of the framing is that of the event (server-sent events alone have it)."""
    for event in seen:
        if "id" in event.data:
            assert event.event_id == event.data["id"]


def judge_timely(seen: Sequence[Seen]) -> float:
    """The quick pages were there long before the stalled one; returns by how many seconds."""
    results = [event for event in seen if event.kind == "result"]
    stalled = [event for event in results if "/slow/" in event.data["result"]["url"]]
    quick = [event for event in results if event not in stalled]
    lead = stalled[0].seconds - max(event.seconds for event in quick)
    assert lead >= EARLY_SECONDS, f"the quick pages came {lead:.3f} s before the stalled one"
    return lead
