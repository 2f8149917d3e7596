"""What would happen to one URL and why: each step asked of the very part that a crawl uses.

The URL goes the whole way of a crawl in an open mesh, through ports that note what passes, with the
cache only looked at. Nothing is decided here; `eventmesh_trio.app.explain_text` writes it down.
"""

import uuid
from math import isfinite
from time import time

import msgspec
import trio
from msgspec import UnsetType

from eventmesh_trio.app.explain_notes import Notes, ReadNote, RenderNote, noting
from eventmesh_trio.app.explanation import (
    Cached,
    Explanation,
    Failure,
    Found,
    Guarded,
    Judged,
    Outcome,
    Polite,
    Read,
    Rendered,
    Request,
    Robots,
)
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.errors import BlockedAddress, EventMeshError
from eventmesh_trio.pipeline.caching.shelf import store_key
from eventmesh_trio.pipeline.crawl import CrawlJob
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher
from eventmesh_trio.pipeline.gate import terms
from eventmesh_trio.pipeline.manners.politeness import Politeness
from eventmesh_trio.pipeline.network.trace import Hop, tracing
from eventmesh_trio.wire.events import Document, Event, Result
from eventmesh_trio.wire.requests import CrawlOptions, CrawlRequest
from eventmesh_trio.wire.timestamps import utc_timestamp
from eventmesh_trio.wire.urls import URL, cache_key, parse_url

__all__ = ["explain"]


async def explain(mesh: Mesh, url: str, options: CrawlOptions) -> Explanation:
    """Take one URL the whole way, and say how it went.

    Origins are asked as by a crawl: robots.txt, then the page, redirects and retries included.
    Nothing is kept. Cancelled: all that it had open is closed.

    Raises:
      ValueError: not a URL that is crawled; the message says why.
    """
    target = parse_url(url)
    began = trio.current_time()
    fetcher, politeness = _parts(mesh)
    guard = await _ask_guard(fetcher, target)
    robots: Robots | None = None
    polite: Polite | None = None
    if guard.allowed:
        robots = await _ask_robots(politeness, target, options)
        polite = await _ask_politeness(politeness, target, options)
    cached = await _ask_cache(mesh, target, options)
    notes = Notes()
    with tracing() as trace:
        result = await _crawl(mesh, url, options, notes)
    return Explanation(
        url=url,
        href=target.href,
        guard=guard,
        robots=robots,
        politeness=polite,
        cache=cached,
        requests=[_request(hop) for hop in trace.hops if hop.purpose == "page"],
        gate=next(map(_judged, (note for note in notes.reads if note.found)), None),
        rendering=notes.rendering,
        renders=[_render(note) for note in notes.renders],
        reads=[_read(note) for note in notes.reads],
        outcome=_outcome(result, notes.fetches),
        waited_seconds=notes.waited_seconds,
        total_seconds=trio.current_time() - began,
    )


# --- Asking the parts -----------------------------------------------------------------------------


def _parts(mesh: Mesh) -> tuple[HTTPFetcher, Politeness]:
    fetcher, politeness = mesh.ports.fetcher, mesh.ports.politeness
    assert isinstance(fetcher, HTTPFetcher), "an open mesh fetches over the network"
    assert isinstance(politeness, Politeness), "an open mesh is polite"
    return fetcher, politeness


async def _ask_guard(fetcher: HTTPFetcher, target: URL) -> Guarded:
    try:
        found = await fetcher.backend.survey(target.host, target.port)
    except EventMeshError as error:
        await trio.lowlevel.checkpoint()  # it may have failed before its first one
        # A name without an address here may be one that an outgoing proxy resolves: let it be seen.
        return Guarded(not isinstance(error, BlockedAddress), refusal=_failure(error))
    allowed = all(may for _, may in found)
    return Guarded(allowed, [(str(address), may) for address, may in found])


async def _ask_robots(politeness: Politeness, target: URL, options: CrawlOptions) -> Robots:
    with tracing() as trace:
        verdict = await politeness.explain_robots(target, options)
    return Robots(
        heeded=options.respect_robots,
        allowed=verdict.allowed,
        user_agent=verdict.product,
        line=verdict.line,
        reason=verdict.reason,
        crawl_delay_seconds=verdict.asked_delay_seconds,
        requests=[_request(hop) for hop in trace.hops],
    )


async def _ask_politeness(politeness: Politeness, target: URL, options: CrawlOptions) -> Polite:
    try:
        return Polite(await politeness.delay(target, options))
    except EventMeshError as error:
        await trio.lowlevel.checkpoint()
        return Polite(0.0, _failure(error))


async def _ask_cache(mesh: Mesh, target: URL, options: CrawlOptions) -> Cached:
    store = mesh.cache.statistics().store
    key = cache_key(target, options.extraction_key)
    policy = mesh.ports.policy
    entry = await mesh.ports.cache.get(store_key(target.href, options, mesh.ports), "read_only")
    # Kept documents outlive a policy: a crawl shows none of a URL that is not fetched any more.
    if entry is None or (
        policy is not None and not (policy.admits(target.href) and policy.admits(entry.final_url))
    ):
        return Cached(store.kind, key, "none", trouble=store.trouble)
    validators = entry.validators
    return Cached(
        store.kind,
        key,
        "fresh" if entry.fresh_until > time() else "stale",
        stored_at=utc_timestamp(entry.stored_at),
        fresh_until=utc_timestamp(entry.fresh_until) if isfinite(entry.fresh_until) else None,
        etag=validators.etag if validators else None,
        last_modified=validators.last_modified if validators else None,
        gate_decision=entry.extraction.gate_decision,
        trouble=store.trouble,
    )


async def _crawl(mesh: Mesh, url: str, options: CrawlOptions, notes: Notes) -> Result:
    """Crawl the one URL as a run of its own, past the cache."""
    job = CrawlJob(
        CrawlRequest(urls=(url,), options=msgspec.structs.replace(options, cache_mode="disabled")),
        session_id=f"explain-{uuid.uuid4()}",
        request_id=f"req-{uuid.uuid4()}",
        ports=noting(mesh.ports, notes),
        limits=mesh.config.crawl,
    )
    sink = _Sink()
    await job.work(sink)
    (result,) = (event for event in sink.events if isinstance(event, Result))
    return result


class _Sink:
    """A `eventmesh_trio.abc.Publisher` with room for the few events of one URL."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def has_room(self) -> bool:
        return True

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def touch(self) -> None:
        pass


# --- What was noted ------------------------------------------------------------------------------


def _failure(error: EventMeshError) -> Failure:
    return Failure(error.type, error.code, error.message, error.can_retry)


def _request(hop: Hop) -> Request:
    return Request(
        url=hop.url,
        addresses=hop.addresses,
        status=hop.status,
        http_version=hop.http_version,
        content_type=next(iter(hop.values(b"content-type")), ""),
        content_encoding=", ".join(hop.values(b"content-encoding")),
        location=next(iter(hop.values(b"location")), None),
        wire_bytes=hop.wire_bytes,
        decoded_bytes=hop.decoded_bytes,
        seconds=hop.seconds,
    )


def _render(note: RenderNote) -> Rendered:
    page, failure = note.page, note.failure
    if page is None:
        told = Failure("timeout", "NET_TIMEOUT", "the URL's time was up", retryable=True)
        return Rendered(note.url, note.seconds, failure=_failure(failure) if failure else told)
    return Rendered(note.url, note.seconds, page.status, page.final_url, len(page.body))


def _judged(note: ReadNote) -> Judged | None:
    found = note.found
    if found is None or found.gate_features is None:
        return None
    return Judged(
        found.gate_features,
        terms(found.gate_features),
        found.gate_score,
        found.gate_decision,
        found.gate_reason,
        rendered=note.page.rendered,
    )


def _read(note: ReadNote) -> Read:
    found = note.found
    return Read(
        rendered=note.page.rendered,
        seconds=note.seconds,
        method=found.method if found else None,
        scores=found.scores if found else None,
        quality_score=found.document.quality_score if found else None,
        failure=_failure(note.failure) if note.failure else None,
    )


def _outcome(event: Result, fetches: int) -> Outcome:
    page, metadata = event.result, event.pipeline_metadata
    assert not isinstance(page, UnsetType), "a result of a crawl has its page"
    error = page.error
    return Outcome(
        status=page.status,
        final_url=page.final_url or None,
        gate_decision=page.gate_decision,
        reason=metadata.gate_decision_reason,
        method=metadata.extraction_method,
        stages=metadata.processing_stages,
        fetches=fetches,
        document=None if page.document is None else _found(page.document),
        error=None
        if error is None
        else Failure(error.type, error.error_code, error.message, error.retryable),
    )


def _found(document: Document) -> Found:
    return Found(
        title=document.title,
        characters=len(document.text),
        words=document.word_count,
        reading_minutes=document.reading_time,
        quality_score=document.quality_score,
        links=len(document.links),
        images=len(document.images),
        language=document.language,
        date=document.date,
        truncated=document.truncated is True,
    )
