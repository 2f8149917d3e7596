"""The metric families that are read from the running parts when somebody asks.

What a part counts anyway is not counted twice: these functions make Prometheus families of its
statistics. Names and labels are documented in ``docs/metrics.rst``.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from eventmesh_trio.mesh.global_metrics import SCORES, GlobalStreamingMetrics
from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.reader import StreamProtocol
from eventmesh_trio.pipeline.caching.cache import CacheStatistics
from eventmesh_trio.pipeline.fetching.fetch import FetcherStatistics
from eventmesh_trio.pipeline.manners.politeness import PolitenessStatistics
from eventmesh_trio.pipeline.rendering.render import OUTCOMES as RENDER_OUTCOMES
from eventmesh_trio.pipeline.rendering.render import RENDER_SECONDS_BUCKETS, RendererStatistics
from eventmesh_trio.pipeline.workers.pool import ExtractorStatistics
from eventmesh_trio.wire.events import RunStatus

__all__ = [
    "cache_families",
    "extractor_families",
    "fetcher_families",
    "mesh_families",
    "politeness_families",
    "renderer_families",
]

_PROTOCOLS: Final[tuple[StreamProtocol, ...]] = get_args(StreamProtocol)
_STATUSES: Final[tuple[RunStatus, ...]] = get_args(RunStatus)
_PROTOCOL: Final = ["protocol"]


def mesh_families(hub: Hub) -> Iterator[Metric]:
    """Connections, runs, events and health. On the event loop: the hub is not for threads."""
    now = hub.census.snapshot()
    yield from _by_protocol(now)
    yield from _gauges(
        streaming_active_runs=("Runs that are live.", now.active_runs),
        streaming_sessions=("Sessions, kept ones included.", len(hub.sessions)),
        streaming_buffer_utilization_ratio=(
            "Mean use of the readers' windows, 0-1.",
            now.buffer_utilization,
        ),
        streaming_connection_age_seconds=(
            "Mean age of all readers, those included that have left.",
            now.average_connection_duration_ms / 1000,
        ),
        streaming_error_ratio=(
            "Share of recent ends of runs and streams that were failures, 0-1.",
            now.error_rate,
        ),
        streaming_drop_ratio=(
            "Recent events that lossy readers lost, for each that was sent.",
            now.drop_ratio,
        ),
        streaming_efficiency_ratio=(
            "Mean of events sent less those lost, for each sent, and of ends without error, 0-1.",
            now.efficiency(),
        ),
        streaming_health_score=(
            "100 healthy, 75 degraded, 20 critical.",
            SCORES[now.health_status],
        ),
        streaming_log_size_bytes=("Held by the logs of all sessions.", hub.budget.used),
        streaming_log_limit_bytes=("What they may hold.", hub.budget.max_bytes),
        streaming_uptime_seconds=("Since the server started.", now.uptime_seconds),
    )
    ended = CounterMetricFamily(
        "streaming_ended_runs", "Runs that have ended, by how.", labels=["status"]
    )
    for status in _STATUSES:
        ended.add_metric([status], now.ended_runs.get(status, 0))
    yield ended
    yield from _counters(
        streaming_runs=("Runs ever started.", now.total_runs),
        streaming_dropped=("Events lossy readers lost.", now.total_messages_dropped),
        streaming_progress_coalesced=("Progress skipped.", now.total_progress_coalesced),
        streaming_warnings=("Backpressure warnings sent.", now.total_warnings),
    )


def _by_protocol(now: GlobalStreamingMetrics) -> Iterator[Metric]:
    active = GaugeMetricFamily("streaming_active_connections", "Readers now.", labels=_PROTOCOL)
    total = CounterMetricFamily("streaming_connections", "Readers ever.", labels=_PROTOCOL)
    events = CounterMetricFamily("streaming_events", "Events written to readers.", labels=_PROTOCOL)
    sent = CounterMetricFamily(
        "streaming_sent_bytes", "Bytes written to readers.", labels=_PROTOCOL
    )
    for protocol in _PROTOCOLS:
        counts = now.protocols.get(protocol)
        active.add_metric([protocol], counts.active_connections if counts else 0)
        total.add_metric([protocol], counts.total_connections if counts else 0)
        events.add_metric([protocol], counts.messages_sent if counts else 0)
        sent.add_metric([protocol], counts.bytes_sent if counts else 0)
    yield from (active, total, events, sent)


def cache_families(cache: CacheStatistics) -> Iterator[Metric]:
    """The cache of documents, and its store."""
    store = cache.store
    yield from _gauges(
        cache_size_bytes=("Held by the store, its index included.", store.bytes_used),
        cache_entries=("Documents in the store.", store.entries),
        cache_pending_bytes=("Documents that wait to be written.", store.pending_bytes),
        cache_store_up=("1 where the store keeps documents as it should.", store.trouble is None),
    )
    yield from _counters(
        cache_hits=("Lookups served.", cache.hits),
        cache_misses=("Lookups not served, expired documents included.", cache.misses),
        cache_expired=("Documents found too old.", cache.expired),
        cache_revalidated=("Documents found too old that had not changed.", cache.revalidated),
        cache_shared=("Documents that another run was just fetching.", cache.shared),
        cache_evicted=("Documents that made room for others.", store.evicted),
        cache_refused=("Documents larger than the whole store.", store.refused),
        cache_dropped=("Documents that could not be written in time.", store.dropped),
        cache_store_failures=("Operations of the store that failed.", store.failures),
        cache_store_set_aside=("Broken files that a new one replaced.", store.set_aside),
    )


def fetcher_families(fetcher: FetcherStatistics) -> Iterator[Metric]:
    """The connections to origins."""
    circuits = fetcher.circuits
    yield from _gauges(
        crawl_open_connections=(
            "Connections to origins, idle ones included.",
            fetcher.open_connections,
        )
    )
    states = GaugeMetricFamily(
        "crawl_circuits", "Origins that failed lately, by their circuit.", labels=["state"]
    )
    states.add_metric(["closed"], circuits.closed)
    states.add_metric(["open"], circuits.open)
    states.add_metric(["half_open"], circuits.half_open)
    yield states
    yield from _counters(
        crawl_circuit_openings=("Times that an origin was left alone.", circuits.openings),
        crawl_circuit_refusals=("Requests not sent to such an origin.", circuits.refusals),
        crawl_stale_connections=(
            "Kept connections that origins had closed; each was replaced.",
            fetcher.stale_retries,
        ),
        crawl_connections=("Connections ever made to origins.", fetcher.connections_made),
        crawl_requests=(
            "Requests to origins, robots.txt and those that reached none included.",
            fetcher.requests,
        ),
    )


def politeness_families(politeness: PolitenessStatistics) -> Iterator[Metric]:
    """The turns at hosts, and what is known of their robots.txt. Hosts are counted, not named."""
    yield from _gauges(
        politeness_waiting_urls=("URLs that want a turn at a host.", politeness.waiting),
        politeness_turns=("Turns that are held.", politeness.active),
        politeness_hosts=("Hosts that anything is remembered about.", politeness.hosts),
        politeness_backing_off_hosts=(
            "Hosts that are left alone after a 429 or 503.",
            politeness.backing_off_hosts,
        ),
        robots_files=("Origins whose robots.txt is remembered.", politeness.robots_files),
        robots_size_bytes=("Held by them.", politeness.robots_bytes),
    )
    yield from _counters(
        politeness_back_offs=("Answers of 429 and 503.", politeness.back_offs_total),
        robots_hits=("Questions answered by a remembered file.", politeness.robots_hits_total),
        robots_misses=("Fetches of a robots.txt.", politeness.robots_misses_total),
    )


def extractor_families(extractor: ExtractorStatistics) -> Iterator[Metric]:
    """The extraction processes."""
    yield from _gauges(
        extraction_workers=("Extraction processes.", extractor.workers_alive),
        extraction_waiting_pages=("Pages that wait for a process.", extractor.pages_waiting),
    )
    yield from _counters(
        extraction_worker_starts=("Processes ever started.", extractor.workers_started),
        extraction_worker_failures=(
            "Processes that hung, died or ran out of memory.",
            extractor.workers_failed,
        ),
    )


def renderer_families(renderer: RendererStatistics) -> Iterator[Metric]:
    """The browser, its pages, and the proxy that they load through."""
    pool, traffic = renderer.pool, renderer.traffic
    yield from _gauges(
        browser_pages=("Pages in a tab, or on their way into one.", pool.pages),
        browser_waiting_pages=("Pages that wait for a tab.", pool.pages_waiting),
        browser_running=("Browsers.", pool.browsers),
        browser_memory_bytes=("Held by the browsers' processes.", pool.held_bytes),
        browser_connections=("Connections of pages.", traffic.open_connections),
    )
    yield from _counters(
        browser_starts=("Browsers ever started or connected to.", pool.browser_starts),
        browser_failures=(
            "Browsers that ended unasked or did not start.",
            pool.browser_failures,
        ),
        browser_killed_pages=("Pages killed for the memory that they held.", pool.pages_killed),
        browser_retries=("Pages tried again after a crash.", renderer.retries),
        browser_requests=("Requests of pages.", traffic.requests - traffic.unauthorised),
        browser_refused_requests=("Requests of pages that reached no origin.", traffic.refused),
        browser_received_bytes=("What origins sent to pages.", traffic.received_bytes),
    )
    ended = CounterMetricFamily(
        "browser_renders", "Pages that were rendered, by the outcome.", labels=["outcome"]
    )
    for outcome in RENDER_OUTCOMES:
        ended.add_metric([outcome], renderer.outcomes.get(outcome, 0))
    yield ended
    below = [str(bound) for bound in RENDER_SECONDS_BUCKETS]
    cumulated = accumulate(renderer.seconds_counts)
    yield HistogramMetricFamily(
        "browser_render_duration_seconds",
        "Rendering one page, waiting for a tab and the browser included.",
        buckets=list(zip((*below, "+Inf"), map(float, cumulated), strict=True)),
        sum_value=renderer.seconds_sum,
    )


def _gauges(**families: tuple[str, float]) -> Iterator[Metric]:
    for name, (text, value) in families.items():
        yield GaugeMetricFamily(name, text, value=value)


def _counters(**families: tuple[str, float]) -> Iterator[Metric]:
    for name, (text, value) in families.items():
        yield CounterMetricFamily(name, text, value=value)
