"""What an explanation says, in the order in which it happens; made by `explain`.

As JSON it is what ``eventmesh explain --json`` writes: members by these names, times in seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from eventmesh_trio.abc import ExtractionScores, GateFeatures
from eventmesh_trio.pipeline.gate import GateDecision, Term
from eventmesh_trio.pipeline.network.trace import Phase
from eventmesh_trio.pipeline.reading import RenderOutcome

__all__ = [
    "Cached",
    "Explanation",
    "Failure",
    "Found",
    "Guarded",
    "Judged",
    "Outcome",
    "Polite",
    "Read",
    "Rendered",
    "Rendering",
    "Request",
    "Robots",
]


Rendering = Literal["not wanted"] | RenderOutcome
"""Whether a browser was to render the page, and what came of it."""


@attrs.frozen
class Failure:
    """An error as a client would be told it; ``type`` as in ``docs/wire.rst``, "Errors"."""

    type: str
    code: str
    message: str
    retryable: bool


@attrs.frozen
class Guarded:
    """The guard's view: each address of the host, and whether it may be dialled."""

    allowed: bool
    addresses: Sequence[tuple[str, bool]] = ()
    refusal: Failure | None = None


@attrs.frozen
class Robots:
    heeded: bool
    allowed: bool
    user_agent: str  # the name that groups are looked up by
    line: str | None = None  # the rule that decides
    reason: str | None = None  # why it is not allowed, or why there are no rules
    crawl_delay_seconds: float = 0.0  # as asked for
    requests: Sequence["Request"] = ()


@attrs.frozen
class Polite:
    """``wait_seconds``: until a request could start, robots.txt's and our own delay in it."""

    wait_seconds: float
    refusal: Failure | None = None


@attrs.frozen
class Cached:
    """What the cache has of the URL, and what a crawl would do about it."""

    store: str
    key: str
    state: Literal["none", "fresh", "stale"]
    stored_at: str | None = None
    fresh_until: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    gate_decision: GateDecision | None = None
    trouble: str | None = None  # why the store is not what was configured


@attrs.frozen
class Request:
    """One request and its response; times in seconds by phase."""

    url: str
    addresses: Sequence[str]
    status: int  # 0: no response
    http_version: str
    content_type: str
    content_encoding: str
    location: str | None
    wire_bytes: int
    decoded_bytes: int
    seconds: Mapping[Phase, float]


@attrs.frozen
class Judged:
    """The gate's view; ``terms`` add up to the score before it is clamped to 0-1.

    ``rendered``: of what a browser had made of the page, which nothing depended on any more.
    """

    features: GateFeatures
    terms: Sequence[Term]
    score: float
    decision: GateDecision
    reason: str
    rendered: bool = False


@attrs.frozen
class Rendered:
    """One visit of a browser; ``bytes`` is the size of the document that it gave."""

    url: str
    seconds: float
    status: int | None = None
    final_url: str | None = None
    bytes: int | None = None
    failure: Failure | None = None


@attrs.frozen
class Read:
    """One extraction; ``rendered``: of what a browser had made of the page."""

    rendered: bool
    seconds: float
    method: str | None = None
    scores: ExtractionScores | None = None
    quality_score: int | None = None
    failure: Failure | None = None


@attrs.frozen
class Found:
    """The document, in figures."""

    title: str
    characters: int
    words: int
    reading_minutes: int
    quality_score: int
    links: int
    images: int
    language: str | None
    date: str | None
    truncated: bool


@attrs.frozen
class Outcome:
    """What a client would be told."""

    status: int
    final_url: str | None
    gate_decision: str
    reason: str
    method: str | None
    stages: Sequence[str]
    fetches: int  # attempts at the page, without redirects
    document: Found | None
    error: Failure | None


@attrs.frozen
class Explanation:
    """Everything, in the order in which it happens. None: it did not come to that."""

    url: str  # as it was given
    href: str  # as it is fetched
    guard: Guarded
    robots: Robots | None
    politeness: Polite | None
    cache: Cached
    requests: Sequence[Request]
    gate: Judged | None
    rendering: Rendering
    renders: Sequence[Rendered]
    reads: Sequence[Read]
    outcome: Outcome
    waited_seconds: float  # for turns at hosts
    total_seconds: float
