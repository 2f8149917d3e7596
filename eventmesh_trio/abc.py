"""The ports: what one floor asks of another, and what cancellation means for each.

Nothing is implemented here. The types that cross a port are those of `eventmesh_trio.wire` or the
frozen classes below. Every ``async`` method is cancellable at each call unless its docstring says
otherwise, and a cancelled call leaves its object usable or closed, as stated.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import attrs

from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.wire.events import Document, Event, Progress, RunStatus, SearchHit
from eventmesh_trio.wire.requests import CacheMode, CrawlOptions, ExtractMode
from eventmesh_trio.wire.urls import URL

if TYPE_CHECKING:
    # Named in annotations only: with them an extraction process would load two protocols' codecs,
    # and 6 MB of an event loop that it never runs.
    import trio

    from eventmesh_trio.wire.encoders import EncodedBatch
    from eventmesh_trio.wire.websocket import FrameStyle

__all__ = [
    "Cache",
    "CacheEntry",
    "Encoder",
    "Exchange",
    "Extraction",
    "ExtractionScores",
    "Extractor",
    "Fetcher",
    "Fields",
    "GateFeatures",
    "Job",
    "JobCounts",
    "KeysAhead",
    "Page",
    "Publisher",
    "Renderer",
    "Request",
    "SearchProvider",
    "SharedExtractor",
    "Validators",
    "WebSocket",
]

Fields = Sequence[tuple[bytes, bytes]]
"""Header fields: lower-case names and values, in order, as in h11."""


# --- transport: one request and its response -------------------------------------------------


@attrs.frozen
class Request:
    """The head of one request (RFC 9112, section 3)."""

    method: str
    path: str  # percent-decoded but for "%2F", starting with "/"; "*" for the OPTIONS of a server
    query: bytes  # raw, without the "?"
    fields: Fields
    http_version: str  # "1.0", "1.1"; "2" under other servers
    scheme: str  # "http" or "https"
    peer: str  # the client's address without its port; "" on a Unix socket
    connection_id: str  # ``conn-<hex>``; the same for all requests of one connection
    received_at: float  # `trio.current_time` when the head was parsed; for time to first byte
    wants_websocket: bool

    def field(self, name: bytes) -> bytes | None:
        """The value of the first field of that (lower-case) name."""
        for key, value in self.fields:  # no generator: twelve are asked for by each stream
            if key == name:
                return value
        return None


class WebSocket(Protocol):
    """An accepted WebSocket (RFC 6455). One task receives, one task sends.

    ``takes_frames``: `send_frames` may be used: the bytes go out as they are. False under ASGI.
    ``frame_style``: how such frames are to be made.
    """

    takes_frames: bool
    frame_style: "FrameStyle"

    async def receive(self) -> str | bytes:
        """The next message: text as ``str``, binary as ``bytes``.

        Pings are answered and pongs noted inside. Cancellation loses nothing.
        Raises:
          WebSocketClosed: the peer closed, vanished, or broke the protocol.
        """
        ...

    async def send_message(self, message: str | bytes) -> None:
        """Send one message. Raises `WebSocketClosed`. Cancelled mid-write: the socket is broken."""
        ...

    async def send_texts(self, payloads: Sequence[bytes]) -> None:
        """Send each UTF-8 payload as one text message, all in one write. Otherwise as above."""
        ...

    def writable_bytes(self) -> int:
        """What of a write would not have to be held here for want of room, about; 0: unknown."""
        ...

    async def send_frames(self, *frames: bytes) -> None:
        """Send whole, unmasked frames made by `eventmesh_trio.wire.websocket`, in one write.

        Where one piece ends and the next begins is nothing to the frames.
        """
        ...

    async def aclose(self, close_code: int = 1000, reason: str = "") -> None:
        """Send a close frame and wait, bounded, for the peer's; idempotent.

        What the peer does or fails to do is never raised.
        """
        ...


class Exchange(Protocol):
    """One request and its response, native or ASGI.

    The response is `send_response`, or `start_response` then any `send_some` then `end_response`,
    or `accept_websocket`. What the handler does not read of the body the transport deals with, and
    a handler that returns without a response gets a 500 sent for it.
    """

    request: Request

    @property
    def started(self) -> bool:
        """Whether a response has begun: from here on an error cannot be told by a status."""
        ...

    @property
    def first_byte_at(self) -> float | None:
        """`trio.current_time` when the first byte of the response was handed to the socket."""
        ...

    async def receive_some(self) -> bytes:
        """The next piece of the request body, ``b""`` at its end (sends 100-continue if awaited).

        Raises `ConnectionBroken` (the peer left), `RemoteProtocolError`, `PayloadTooLarge` (over
        the transport's own limit). Cancellation loses nothing.
        """
        ...

    def body_nowait(self) -> bytes | None:
        """All that is left of the request's body, if it has come; None: `receive_some` will tell.

        Raises `PayloadTooLarge` as that does. It takes either all or nothing.
        """
        ...

    async def send_response(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """Send a whole response with its ``Content-Length`` (no body for HEAD, 204 and 304)."""
        ...

    async def start_response(self, status: int, fields: Fields) -> None:
        """Begin a streamed response. The head may be held back until the first `send_some`."""
        ...

    def writable_bytes(self) -> int:
        """What of a write would not have to be held here for want of room, about; 0: unknown."""
        ...

    async def send_some(self, *pieces: bytes) -> None:
        """Send more of the body as one chunk, in one write. Empty pieces send a held-back head.

        Raises `ConnectionBroken` when the peer left or the write stalled past its limit.
        Cancelled mid-write: the connection is closed; no mixed bytes ever follow.
        """
        ...

    async def end_response(self) -> None:
        """End a streamed response: the terminal chunk, in one write."""
        ...

    async def wait_disconnected(self) -> None:
        """Return when the peer has gone (or sends bytes that cannot be). Safe to cancel.

        Run it beside the writer; never at the same time as `receive_some`.
        """
        ...

    def until_disconnected(self) -> "AbstractAsyncContextManager[trio.CancelScope]":
        """A block that is cancelled when `wait_disconnected` would return; gives its scope.

        For a block that writes: where the connection is ours it costs an idle stream no task. An
        exception of the block may come in a group; and the scope's ``cancelled_caught`` does not
        tell whether the block came to its end.
        """
        ...

    async def accept_websocket(self, fields: Fields = ()) -> WebSocket:
        """Answer 101 and become a WebSocket. Only where ``request.wants_websocket``."""
        ...


# --- mesh: jobs, their publisher, and how events become bytes ------------------------------


class Encoder(Hashable, Protocol):
    """Event -> bytes, ready to be joined and written. Frozen: it is the key of encoded bytes.

    ``joins``: a writer may write any number of them in one piece (bytes of a stream, whole frames),
    and `encode_batch` may be used; else each is to be written by itself (a message).
    """

    @property
    def joins(self) -> bool: ...

    def encode(self, event: Event) -> bytes:
        """One event as one whole line, block, frame or message.

        Empty for an event that this kind of reader is not told of.
        """
        ...

    def encode_batch(self, events: Sequence[Event], room: int) -> "EncodedBatch":
        """What `encode` returns for events from the first on, in one piece of ``room`` bytes.

        For a reader that shares with nobody. The first is taken however large it is.
        """
        ...

    def decode_batch(self, data: bytes) -> Sequence[Event]:
        """The events of which `encode_batch` made ``data``; only where that batch `restores`."""
        ...


class Publisher(Protocol):
    """How a job's work puts events into its session's log. Owned by the run."""

    def has_room(self) -> bool:
        """Whether an event may be published now; if not, `wait_room`.

        Also false every so often although there is room, so that who asks lets others run.
        """
        ...

    async def wait_room(self) -> None:
        """Wait until every lossless window has room.

        A checkpoint where it waits, and every so often where it does not: a loop that publishes
        cannot keep others from running, nor outrun its cancellation for long.
        """
        ...

    def publish(self, event: Event, /) -> object:
        """Append to the log; synchronous, never waits, never fails. Wakes the readers."""
        ...

    def touch(self) -> None:
        """Say that `Job.progress` has news; synchronous. Readers see it with their next batch."""
        ...


class Job(Protocol):
    """What a run does: a crawl, a search, any function that publishes events.

    The run calls `opening` once, then `work` in a scope that pause cancels (and again after each
    resume, until `done`), then `closing` once, whatever happened.
    """

    kind: Literal["crawl", "deepsearch"]

    @property
    def total(self) -> int:
        """How many URLs there are; it may change until the work tells what there is."""
        ...

    @property
    def done(self) -> bool:
        """Whether everything is settled; the only thing that ends the loop of `work`."""
        ...

    def opening(self) -> Sequence[Event]:
        """The first events (``metadata``, ``start``), appended when the run is made."""
        ...

    async def work(self, publisher: Publisher) -> None:
        """Work until `done`. Cancelled by pause, cancel and deadlines at any checkpoint.

        By the time this has exited, by return or exception, nothing may be half settled: every
        unit of work is published or will be done again by the next call.
        """
        ...

    def progress(self) -> Progress:
        """The newest state, for readers."""
        ...

    @property
    def counts(self) -> "JobCounts":
        """Settled so far; cheap, for status and session documents."""
        ...

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        """The last events: a run ``error`` where ``error`` is given, then ``summary``."""
        ...


@attrs.frozen
class JobCounts:
    completed: int
    successful: int
    failed: int


# --- pipeline: the stages ---------------------------------------------------------------------


@attrs.frozen
class Page:
    """What a fetch brought: the last response of the redirect chain, decoded from its codings."""

    url: str  # as asked
    final_url: str
    status: int
    fields: Fields
    body: bytes  # content-coding removed, charset not
    content_type: str  # media type and parameters as sent, or ""
    charset: str | None  # of the Content-Type field, as sent
    wire_bytes: int  # body bytes as received, codings not removed, all hops
    elapsed_seconds: float
    rendered: bool = False
    cut_short: bool = False
    """Rendered, and taken before it was loaded and quiet: the caller had no more time."""
    detours: tuple[Fields, ...] = ()
    """The fields of each redirect on the way that was a temporary one (302, 303, 307)."""


@attrs.frozen
class Validators:
    """What a stored response said of its version, for a conditional request (RFC 9110, 13.1)."""

    url: str  # the one that had answered, after its redirects; only that one is asked with them
    etag: str | None  # the ``ETag`` field's value as received, quotes and ``W/`` included
    last_modified: str | None  # the ``Last-Modified`` field's value as received


class Fetcher(Protocol):
    async def fetch(self, url: str, options: CrawlOptions) -> Page:
        """GET one URL, following redirects. Sets no deadline over all: the caller does.

        A response of any status is a `Page`. Cancellation closes what connections it used.
        Raises: PageError of the kind that fits.
        """
        ...


class Renderer(Protocol):
    async def render(
        self,
        url: str,
        options: CrawlOptions,
        *,
        before_hop: Callable[[URL], Awaitable[None]] | None = None,
    ) -> Page:
        """Load one URL in a browser: a `Page` with ``rendered`` set, its DOM as the body.

        ``before_hop`` is asked before the page goes on to another address, and raises a `PageError`
        to refuse it. The caller sets the deadline over all. Cancellation disposes of its page and
        context.
        Raises: PageError of the kind that fits.
        """
        ...


@attrs.frozen(kw_only=True)
class GateFeatures:
    """What the gate measured on a parsed page. Ratios are 0-1, of the page's characters."""

    page_chars: int  # the decoded source, markup included
    visible_chars: int  # what a reader would see of it
    paragraphs: int  # <p> with a sentence's length of visible text
    has_article: bool  # a visible <article> or <main>
    has_opengraph: bool
    has_article_jsonld: bool
    script_chars: int  # inline script that runs; JSON and templates are data
    spa_markers: tuple[str, ...] = ()  # names of the signs that a script builds the page

    @property
    def text_ratio(self) -> float:
        return min(self.visible_chars / self.page_chars, 1.0) if self.page_chars else 0.0

    @property
    def script_density(self) -> float:
        return min(self.script_chars / self.page_chars, 1.0) if self.page_chars else 0.0


@attrs.frozen(kw_only=True)
class ExtractionScores:
    """What a document's ``quality_score`` is made of. All are 0-1 but the count."""

    text_chars: int  # of the text found, before any cut
    length: float  # full marks at 150 characters
    prose: float  # share of the text that is sentences, and not mostly links
    continuity: float  # share that was kept of all that is between its first block and its last
    trust: float  # in the way that it was found


@attrs.frozen
class Extraction:
    """A document, how it was read (``extraction_method``), and the gate's view of the page.

    ``gate_features`` and ``scores`` are the measurements behind the two; None where an extractor
    makes none.
    """

    document: Document
    method: str
    gate_score: float
    gate_decision: Literal["raw", "probes_first", "headless"]
    gate_reason: str
    gate_features: GateFeatures | None = None
    scores: ExtractionScores | None = None


class Extractor(Protocol):
    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        """Read a page in a worker. Cancellation leaves the worker usable, or replaced.

        Raises: ParseFailure (also when the worker died or ran out of time or memory),
          UnsupportedContent.
        """
        ...


@runtime_checkable
class SharedExtractor(Extractor, Protocol):
    """An extractor that many runs use at once, and that is fair to them if it can tell them."""

    def for_run(self, run: str) -> Extractor:
        """This extractor, for the pages of the run of that name. It owns nothing."""
        ...


@attrs.frozen
class CacheEntry:
    """A document as it is kept, and what its response said of how long it may be used.

    Times are in seconds since the epoch.
    """

    extraction: Extraction
    status: int
    final_url: str
    stored_at: float  # when the response came, or was last confirmed
    fresh_until: float = inf  # until then the origin need not be asked
    validators: Validators | None = None  # with which to ask it whether the page has changed
    fields: Fields = ()  # of the response, those that tell how long it may be used


KeysAhead: TypeAlias = Callable[[], Iterable[str]]
"""The keys of a cache that will be asked for next, the next one first."""


class Cache(Protocol):
    """Extracted documents by key. Each call may block on a store; a failing store is a miss."""

    async def get(
        self, key: str, mode: CacheMode, *, ahead: KeysAhead | None = None
    ) -> CacheEntry | None:
        """The entry of that key, where the mode reads; one that is no longer fresh too.

        Args:
          ahead: which keys will be asked for next, for a store where one look for many costs little
            more than a look for one. Called only if it is of use; a hint, and no promise.
        """
        ...

    async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
        """Keep an entry, where the mode writes."""
        ...

    async def refresh(self, key: str, entry: CacheEntry, mode: CacheMode) -> None:
        """Keep that the document of an entry was confirmed by its origin; it is the same one."""
        ...

    async def discard(self, key: str, mode: CacheMode) -> None:
        """Forget an entry, where the mode writes: its origin no longer lets it be kept."""
        ...


class SearchProvider(Protocol):
    @property
    def name(self) -> str: ...

    def check(self, query: str) -> None:
        """Return if it could search for that. Raises `ValidationError`, naming ``query``."""
        ...

    async def search(
        self, query: str, limit: int, *, country: str | None, locale: str | None
    ) -> Sequence[SearchHit]:
        """At most ``limit`` hits, best first, each URL once and one that can be fetched.

        It sets its own deadline. Cancellation stops the search, and leaves no connection in use.
        Raises:
          DependencyError: it cannot serve now; ``provider`` and ``reason`` are in the context.
        """
        ...
