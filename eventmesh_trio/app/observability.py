"""What the program tells of itself: Prometheus metrics, the same as JSON, health, and its log.

Names and labels are documented in ``docs/metrics.rst``. No label carries a URL, host or session.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import attrs
import structlog
import trio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from eventmesh_trio.app.families import (
    cache_families,
    extractor_families,
    fetcher_families,
    mesh_families,
    politeness_families,
    renderer_families,
)
from eventmesh_trio.errors import (
    BackpressureExceeded,
    BufferOverflow,
    EventMeshError,
    InternalError,
    PageError,
    SubscriberLagged,
)
from eventmesh_trio.mesh.hub import Hub
from eventmesh_trio.mesh.reader import StreamProtocol
from eventmesh_trio.pipeline.caching.cache import DocumentCache
from eventmesh_trio.pipeline.fetching.fetch import HTTPFetcher
from eventmesh_trio.pipeline.gate import GateDecision
from eventmesh_trio.pipeline.manners.politeness import Politeness
from eventmesh_trio.pipeline.reading import RenderOutcome
from eventmesh_trio.pipeline.rendering.render import IDLE, BrowserRenderer
from eventmesh_trio.pipeline.searching.limits import PROVIDERS
from eventmesh_trio.pipeline.searching.search import OUTCOMES as SEARCH_OUTCOMES
from eventmesh_trio.pipeline.workers.pool import WorkerPool

__all__ = ["CONTENT_TYPE", "Metrics", "configure_logging"]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_FIRST_BYTE_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
_FETCH_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SEARCH_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_EXTRACTION_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0)


def _types(root: type[EventMeshError]) -> Iterator[str]:
    """The types of all errors below one."""
    for error in root.__subclasses__():
        yield error.type
        yield from _types(error)


# The values that labels may have; what an embedder's own parts may say beyond them is `_OTHER`.
_OTHER: Final = "other"
OUTCOMES: Final = ("ok", "cached", InternalError.type, *_types(PageError), _OTHER)
EVICTIONS: Final = (BackpressureExceeded.type, BufferOverflow.type, SubscriberLagged.type, _OTHER)
WRITTEN: Final[tuple[StreamProtocol, ...]] = ("ndjson", "sse", "websocket")
REFUSALS: Final = (
    *("draining", "streams", "address"),  # `Admission.on_refusal`
    *("sessions", "session_runs", "runs", "memory", _OTHER),  # `Hub.on_refusal`
)


class Metrics:
    """A registry of its own, so that two programs in one process do not meet.

    It is told what happens, as `eventmesh_trio.pipeline.stages.Meter` also by the pipeline, and
    reads what the other parts count themselves. Each label has a fixed set of values.
    """

    def __init__(
        self,
        hub: Hub,
        cache: DocumentCache,
        fetcher: HTTPFetcher,
        extractor: WorkerPool,
        politeness: Politeness,
        renderer: BrowserRenderer | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        registry: Final = self.registry
        self._first_byte = _labelled_histograms(
            Histogram(
                "streaming_ttfb_duration_seconds",
                "From the parsed request to the first byte handed to the socket.",
                ["protocol"],
                buckets=_FIRST_BYTE_BUCKETS,
                registry=registry,
            ),
            WRITTEN,
        )
        self._evictions = _labelled_counters(
            "streaming_evictions",
            "Readers that were cut off, by the reason.",
            "reason",
            EVICTIONS,
            registry,
        )
        self._refusals = _labelled_counters(
            "streaming_refusals",
            "Streams, sessions and runs that were refused, by the reason.",
            "reason",
            REFUSALS,
            registry,
        )
        self._pages = _labelled_counters(
            "crawl_pages",
            "URLs that were done with, by the outcome.",
            "outcome",
            OUTCOMES,
            registry,
        )
        self._decisions = _labelled_counters(
            "crawl_gate_decisions",
            "Fetched pages that were judged, by how they are to be read.",
            "decision",
            (*get_args(GateDecision), _OTHER),
            registry,
        )
        self._renders = _labelled_counters(
            "crawl_renders",
            "Attempts at rendering a page, by what came of it.",
            "outcome",
            (*get_args(RenderOutcome), _OTHER),
            registry,
        )
        self._fetches = Histogram(
            "crawl_fetch_duration_seconds",
            "One attempt that brought a response, redirects included.",
            buckets=_FETCH_BUCKETS,
            registry=registry,
        )
        self._extractions = Histogram(
            "crawl_extraction_duration_seconds",
            "Reading one page, waiting for a worker included.",
            buckets=_EXTRACTION_BUCKETS,
            registry=registry,
        )
        searches = Counter(
            "search_requests",
            "Requests to search providers, by who was asked and what came of it.",
            ["outcome", "provider"],
            registry=registry,
        )
        # All of them there from the start, at 0.
        self._searches = {
            (outcome, provider): searches.labels(outcome, provider)
            for provider in (*PROVIDERS, _OTHER)
            for outcome in (*SEARCH_OUTCOMES, _OTHER)
        }
        self._search_times = _labelled_histograms(
            Histogram(
                "search_request_duration_seconds",
                "One request to a search provider, however it ended.",
                ["provider"],
                buckets=_SEARCH_BUCKETS,
                registry=registry,
            ),
            (*PROVIDERS, _OTHER),
        )
        self._fetched_bytes = Counter(
            "crawl_fetched_bytes", "Bodies as origins sent them.", registry=registry
        )
        self._retries = Counter(
            "crawl_retries", "Attempts at a URL after its first.", registry=registry
        )
        self._parts = _Parts(hub, cache, fetcher, extractor, politeness, renderer)
        registry.register(self._parts)
        ProcessCollector(registry=registry)

    # --- What the rest of the program tells ---------------------------------------------------

    def first_byte(self, protocol: str, seconds: float) -> None:
        self._first_byte[protocol].observe(seconds)

    def eviction(self, reason: str) -> None:
        self._evictions.get(reason, self._evictions[_OTHER]).inc()

    def refusal(self, reason: str) -> None:
        self._refusals.get(reason, self._refusals[_OTHER]).inc()

    def retried(self) -> None:
        self._retries.inc()

    def fetched(self, seconds: float, wire_bytes: int) -> None:
        self._fetches.observe(seconds)
        self._fetched_bytes.inc(wire_bytes)

    def extracted(self, seconds: float) -> None:
        self._extractions.observe(seconds)

    def gated(self, decision: str) -> None:
        self._decisions.get(decision, self._decisions[_OTHER]).inc()

    def rendered(self, outcome: str) -> None:
        self._renders.get(outcome, self._renders[_OTHER]).inc()

    def searched(self, provider: str, outcome: str, seconds: float) -> None:
        provider = provider if provider in PROVIDERS else _OTHER
        outcome = outcome if outcome in SEARCH_OUTCOMES else _OTHER
        self._searches[outcome, provider].inc()
        self._search_times[provider].observe(seconds)

    def settled(self, outcome: str, urls: int = 1) -> None:
        self._pages.get(outcome, self._pages[_OTHER]).inc(urls)

    # --- What others read -----------------------------------------------------------------------

    async def samples(self) -> dict[str, float | dict[str, float]]:
        """Every sample but the buckets, by name; one with labels by their values.

        A checkpoint; cancelled, nothing is lost.
        """
        self._parts.refresh()
        return await trio.to_thread.run_sync(self._samples)

    def _samples(self) -> dict[str, float | dict[str, float]]:
        found: dict[str, Any] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_created")):
                    continue
                if sample.labels:
                    labels = ",".join(sample.labels.values())
                    found.setdefault(sample.name, {})[labels] = sample.value
                else:
                    found[sample.name] = sample.value
        return found

    async def render(self) -> bytes:
        """The Prometheus text format.

        What the event loop owns is read on it, at once; the text is made in a thread, for it takes
        a millisecond or two. A checkpoint; cancelled, nothing is lost.
        """
        self._parts.refresh()
        return await trio.to_thread.run_sync(generate_latest, self.registry)


def _labelled_counters(
    name: str, text: str, label: str, values: Iterable[str], registry: CollectorRegistry
) -> Mapping[str, Counter]:
    """One counter for each value of the label, all of them there from the start, at 0."""
    family = Counter(name, text, [label], registry=registry)
    return {value: family.labels(value) for value in values}


def _labelled_histograms(family: Histogram, values: Iterable[str]) -> Mapping[str, Histogram]:
    return {value: family.labels(value) for value in values}


@attrs.define(eq=False)
class _Parts(Collector):
    """Families of what counts by itself, as they were when `refresh` was called last.

    They are read on the event loop, which changes them, and rendered in another thread.
    """

    _hub: Hub
    _cache: DocumentCache
    _fetcher: HTTPFetcher
    _extractor: WorkerPool
    _politeness: Politeness
    _renderer: BrowserRenderer | None
    _families: Sequence[Metric] = attrs.field(default=(), init=False)

    def refresh(self) -> None:
        self._families = (
            *mesh_families(self._hub),
            *cache_families(self._cache.statistics()),
            *fetcher_families(self._fetcher.statistics()),
            *extractor_families(self._extractor.statistics()),
            *politeness_families(self._politeness.statistics()),
            *renderer_families(self._renderer.statistics() if self._renderer else IDLE),
        )

    def collect(self) -> Iterable[Metric]:
        return self._families


def configure_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Log to stderr: lines for people on a terminal, JSON objects elsewhere.

    Tracebacks are plain ones in both. structlog's own choice on a terminal shows local variables,
    and those of ours hold page bodies and what clients sent.
    """
    exceptions: list[structlog.typing.Processor]
    if as_json:
        exceptions = [structlog.processors.format_exc_info]
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        exceptions = []
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        # Not cached: it would keep a program that embeds us, and a test, from another choice later.
        cache_logger_on_first_use=False,
    )
