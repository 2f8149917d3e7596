"""The vocabulary of a stream: every event as a frozen msgspec struct, for server and client.

An event is one of these structs; its ``event`` member is the tag. Members that the specification
shows are always there (a null is written as ``null``); members that are ours or conditional are
``UNSET`` where they do not apply, and then not on the wire at all. ``id`` is never set by whoever
makes an event: the log stamps it when it takes the event over (`stamp`).

They hold no cycles, so the garbage collector need not look at them (``gc=False``): with it off
altogether, one reader was served 20 % faster.

One module although it is long: it is a table, and is read as one beside the specification.

Source: ``streaming-api.md`` ("Enhanced Stream Event Types"); for clients, ``docs/wire.rst``.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType, structs

__all__ = [
    "LOGGED",
    "PERSONAL",
    "BackpressureWarning",
    "BufferInfo",
    "BufferStatistics",
    "ConnectionHealth",
    "ConnectionStats",
    "CrawlProgress",
    "CrawlStart",
    "Document",
    "DocumentPreview",
    "ErrorAnalysis",
    "ErrorInfo",
    "Event",
    "Gap",
    "GlobalMetrics",
    "Heartbeat",
    "Image",
    "Link",
    "Metadata",
    "PageResult",
    "PerformanceConfig",
    "PerformanceMetrics",
    "PerformanceSummary",
    "PipelineMetadata",
    "PressureWarning",
    "Progress",
    "Result",
    "RunError",
    "SearchContent",
    "SearchCrawlResult",
    "SearchHit",
    "SearchResult",
    "SearchResults",
    "SearchStart",
    "SearchSummary",
    "ServerHealth",
    "Start",
    "StreamingHealth",
    "Summary",
    "SystemStatus",
    "UnknownEvent",
    "stamp",
]

GateDecision = Literal["raw", "probes_first", "headless", "cached"]
RunStatus = Literal["completed", "cancelled", "failed", "timed_out"]


# --- Parts ---------------------------------------------------------------------------------------


class BufferInfo(Struct, frozen=True, gc=False, kw_only=True):
    """A reader's window: ``used`` and ``capacity`` in events."""

    used: int
    capacity: int
    utilization_percentage: float
    current_size: int | UnsetType = UNSET  # metadata only: the same as ``used``
    max_memory_bytes: int | UnsetType = UNSET
    backpressure_threshold: int | UnsetType = UNSET
    adaptive_sizing_enabled: bool | UnsetType = UNSET
    pending_flushes: int | UnsetType = UNSET
    backpressure_detected: bool | UnsetType = UNSET


class PerformanceConfig(Struct, frozen=True, gc=False, kw_only=True):
    ttfb_target_ms: int
    slow_client_threshold_ms: int
    buffer_flush_interval_ms: int


class PerformanceMetrics(Struct, frozen=True, gc=False, kw_only=True):
    """Rates of a run so far. Times are of settled URLs; rates are 0.0 before the first."""

    throughput_per_second: float
    avg_processing_time_ms: float
    success_rate: float
    cache_hit_rate: float


class ConnectionHealth(Struct, frozen=True, gc=False, kw_only=True):
    avg_send_time_ms: float
    slow_sends_count: int
    is_slow_client: bool


class Link(Struct, frozen=True, gc=False):
    """One link of a page: absolute ``url``, visible ``text``."""

    url: str
    text: str


class Image(Struct, frozen=True, gc=False):
    url: str
    alt: str


class Document(Struct, frozen=True, gc=False, kw_only=True):
    """What was read out of one page.

    ``date`` and ``modified`` are ``YYYY-MM-DD`` or RFC 3339; ``language`` is a BCP 47 tag;
    ``reading_time`` is in minutes, at least 1 where there is text; ``quality_score`` is the
    confidence of the extraction, 0-100; ``content_hash`` is ``sha256:<hex>`` over ``text``, or,
    where the page itself is sent, over ``html``.
    """

    url: str
    title: str
    markdown: str
    text: str
    word_count: int
    reading_time: int
    quality_score: int
    extracted_at: str
    content_hash: str
    author: str | None = None
    date: str | None = None
    modified: str | None = None
    site_name: str | None = None
    description: str | None = None
    language: str | None = None
    canonical_url: str | None = None
    image: str | None = None
    favicon: str | None = None
    page_type: str | None = None
    tags: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    images: tuple[Image, ...] = ()
    html: str | UnsetType = UNSET  # extract_mode raw: the decoded page itself
    truncated: bool | UnsetType = UNSET


class DocumentPreview(Struct, frozen=True, gc=False, kw_only=True):
    """What the page of ``GET /crawl/sse`` shows: ``text`` is the first 500 characters."""

    url: str
    title: str
    text: str
    word_count: int
    quality_score: int


class ErrorInfo(Struct, frozen=True, gc=False, kw_only=True):
    """Why a URL, or a run, failed. ``error_type`` is ``type`` again, for clients that read that."""

    type: str
    error_type: str
    category: str
    message: str
    retryable: bool
    retry_after_seconds: float | None
    error_code: str
    context: Mapping[str, Any]
    timestamp: str


class PageResult(Struct, frozen=True, gc=False, kw_only=True):
    """The outcome of one URL. ``status`` is the HTTP status, 0 where there was no response.

    ``quality_score`` is the gate's score, 0-1. ``final_url`` stands where redirects led elsewhere.
    """

    url: str
    status: int
    from_cache: bool
    gate_decision: GateDecision
    quality_score: float
    processing_time_ms: int
    document: Document | None
    error: ErrorInfo | None
    cache_key: str
    final_url: str | UnsetType = UNSET
    original_gate_decision: GateDecision | UnsetType = UNSET
    duplicate_of: int | UnsetType = UNSET


class CrawlProgress(Struct, frozen=True, gc=False):
    completed: int
    total: int
    success_rate: float


class PipelineMetadata(Struct, frozen=True, gc=False, kw_only=True):
    gate_decision_reason: str
    extraction_method: str | None
    processing_stages: tuple[str, ...]


class PerformanceSummary(Struct, frozen=True, gc=False, kw_only=True):
    avg_processing_time_ms: float
    fastest_processing_ms: int
    slowest_processing_ms: int
    throughput_per_second: float
    total_bytes_transferred: int  # taken from origins, as received on the wire
    ttfb_ms: float | UnsetType = UNSET  # differs by reader: put in at delivery


class BufferStatistics(Struct, frozen=True, gc=False, kw_only=True):
    """How one reader's window fared; utilizations are 0-1."""

    peak_utilization: float
    avg_utilization: float
    total_flushes: int
    messages_dropped: int
    backpressure_events: int
    buffer_resizes: int
    progress_coalesced: int


class ErrorAnalysis(Struct, frozen=True, gc=False, kw_only=True):
    error_types: Mapping[str, int]
    retryable_errors: int
    permanent_failures: int


class ServerHealth(Struct, frozen=True, gc=False, kw_only=True):
    status: str
    active_connections: int
    system_load: float
    memory_usage_mb: int
    uptime_seconds: int


class ConnectionStats(Struct, frozen=True, gc=False, kw_only=True):
    bytes_sent: int
    messages_sent: int
    avg_send_time_ms: float
    connection_duration_seconds: float


class PressureWarning(Struct, frozen=True, gc=False, kw_only=True):
    type: str
    message: str
    buffer_utilization: float
    avg_send_time_ms: float
    suggested_actions: tuple[str, ...]


class CurrentMetrics(Struct, frozen=True, gc=False, kw_only=True):
    buffer_used: int
    buffer_capacity: int
    pending_messages: int
    slow_sends_count: int


class StreamingHealth(Struct, frozen=True, gc=False, kw_only=True):
    status: str
    score: int
    issues: tuple[str, ...]


class GlobalMetrics(Struct, frozen=True, gc=False, kw_only=True):
    active_streams: int
    total_throughput_events_per_sec: float
    global_error_rate: float
    avg_connection_duration_seconds: float


class SearchHit(Struct, frozen=True, gc=False, kw_only=True):
    url: str
    rank: int
    search_title: str
    search_snippet: str


class SearchContent(Struct, frozen=True, gc=False, kw_only=True):
    """What was read out of one hit; ``truncated`` where not all of it is here."""

    title: str
    markdown: str
    word_count: int
    truncated: bool | UnsetType = UNSET


class SearchCrawlResult(Struct, frozen=True, gc=False, kw_only=True):
    """How the crawl of one hit went; as in `PageResult`, ``quality_score`` is the gate's, 0-1."""

    status: int
    processing_time_ms: int
    quality_score: float
    from_cache: bool | UnsetType = UNSET
    final_url: str | UnsetType = UNSET


# --- Events --------------------------------------------------------------------------------------


class Event(Struct, frozen=True, gc=False, kw_only=True, tag_field="event"):
    """What all events have. ``id`` is ``<epoch>-<seq>`` on logged events; see the module's text."""

    timestamp: str
    request_id: str | UnsetType = UNSET
    id: str | UnsetType = UNSET


class Metadata(Event, frozen=True, gc=False, kw_only=True, tag="metadata"):
    total_urls: int
    session_id: str
    stream_type: Literal["crawl", "deepsearch"]
    buffer_info: BufferInfo | UnsetType = UNSET  # differs by reader: put in at delivery
    performance_config: PerformanceConfig | UnsetType = UNSET  # likewise


class Start(Event, frozen=True, gc=False, kw_only=True, tag="start"):
    total_urls: int
    session_id: str
    options: Mapping[str, Any]


class Progress(Event, frozen=True, gc=False, kw_only=True, tag="progress"):
    """``phase`` is ``crawl``'s busiest stage: ``fetch``, ``extraction``, ``publish``, ``done``."""

    completed: int
    total: int
    current_url: str | None
    url: str | None
    phase: str
    estimated_completion: str | None
    performance_metrics: PerformanceMetrics
    buffer_info: BufferInfo | UnsetType = UNSET  # differs by reader: put in at delivery
    connection_health: ConnectionHealth | UnsetType = UNSET  # likewise


class Result(Event, frozen=True, gc=False, kw_only=True, tag="result"):
    """One URL's outcome: the nested ``result``, and flat copies of its scalars beside it.

    ``document`` is set only in the ``flat`` shape, which carries it at the top. (The ``preview``
    shape of one HTML page puts a `DocumentPreview` there; it decodes as `UnknownEvent`, because a
    union of two structs that differ by no tag cannot be told apart.)
    """

    index: int
    result: PageResult | UnsetType
    progress: CrawlProgress
    pipeline_metadata: PipelineMetadata
    url: str | UnsetType = UNSET
    status: int | UnsetType = UNSET
    from_cache: bool | UnsetType = UNSET
    gate_decision: GateDecision | UnsetType = UNSET
    quality_score: float | UnsetType = UNSET
    processing_time_ms: int | UnsetType = UNSET
    error: ErrorInfo | UnsetType | None = UNSET
    document: Document | UnsetType | None = UNSET


class RunError(Event, frozen=True, gc=False, kw_only=True, tag="error"):
    """With ``url``: that URL failed (NDJSON only). Without: the run failed; a summary follows."""

    error: ErrorInfo
    recovery_suggestions: tuple[str, ...]
    url: str | UnsetType = UNSET
    index: int | UnsetType = UNSET


class Summary(Event, frozen=True, gc=False, kw_only=True, tag="summary"):
    """The last event of every run: ``successful + failed + cancelled == total_urls``."""

    total_urls: int
    successful: int
    failed: int
    cancelled: int
    from_cache: int
    status: RunStatus
    session_id: str
    total_processing_time_ms: int
    total_time_ms: int
    avg_processing_time_ms: float
    average_processing_time_ms: float
    cache_hit_rate: float
    performance_summary: PerformanceSummary
    gate_decisions: Mapping[str, int]
    error_analysis: ErrorAnalysis
    reason: str | UnsetType = UNSET
    buffer_statistics: BufferStatistics | UnsetType = UNSET  # differs by reader


class Heartbeat(Event, frozen=True, gc=False, kw_only=True, tag="heartbeat"):
    session_id: str
    server_health: ServerHealth
    connection_stats: ConnectionStats


class SystemStatus(Event, frozen=True, gc=False, kw_only=True, tag="system_status"):
    streaming_health: StreamingHealth
    global_metrics: GlobalMetrics


class BackpressureWarning(Event, frozen=True, gc=False, kw_only=True, tag="backpressure_warning"):
    connection_id: str
    warning: PressureWarning
    current_metrics: CurrentMetrics


class Gap(Event, frozen=True, gc=False, kw_only=True, tag="gap"):
    """Events between two sequence numbers (inclusive) are lost to this reader; null: unknown."""

    missing_from: int | None
    missing_to: int | None
    epoch_changed: bool


class SearchStart(Event, frozen=True, gc=False, kw_only=True, tag="search_start"):
    """``provider`` is the name of who is asked: the server's choice, never the request's."""

    query: str
    limit: int
    provider: str | UnsetType = UNSET


class SearchResults(Event, frozen=True, gc=False, kw_only=True, tag="search_results"):
    query: str
    urls_found: int
    results: tuple[SearchHit, ...]


class CrawlStart(Event, frozen=True, gc=False, kw_only=True, tag="crawl_start"):
    total_urls: int


class SearchResult(Event, frozen=True, gc=False, kw_only=True, tag="search_result"):
    """One hit, crawled. Where that failed ``content`` is null, and ``error`` says why."""

    url: str
    rank: int
    search_title: str
    search_snippet: str
    content: SearchContent | None
    crawl_result: SearchCrawlResult | None
    error: ErrorInfo | UnsetType = UNSET


class SearchSummary(Event, frozen=True, gc=False, kw_only=True, tag="search_summary"):
    """The search as a whole: ``successful + failed == urls_crawled``; ``summary`` follows."""

    query: str
    urls_found: int
    urls_crawled: int
    successful: int
    failed: int
    total_processing_time_ms: int
    status: RunStatus


class UnknownEvent(Struct, frozen=True, gc=False, kw_only=True):
    """An event of a newer server: its tag and its members as they came."""

    event: str
    members: Mapping[str, Any]


def stamp(event: Event, event_id: str) -> Event:
    """Give an event its id, and give it back; for the log that takes it over.

    In place, because it is the log's from here on, and a copy costs as much as encoding it; an
    event that stands in a log already is copied.
    """
    if event.id is not UNSET:
        return structs.replace(event, id=event_id)
    structs.force_setattr(event, "id", event_id)
    return event


PERSONAL: Final = (Metadata, Summary)
"""Logged events with members that differ by reader; they are encoded for each one."""

LOGGED: Final = (
    Metadata,
    Start,
    Result,
    RunError,
    CrawlStart,
    SearchStart,
    SearchResults,
    SearchResult,
    SearchSummary,
    Summary,
)
"""What a log keeps, with an id. All else is rendered at delivery and has none."""
