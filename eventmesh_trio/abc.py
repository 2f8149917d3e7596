"""The ports: what one floor asks of another, and what cancellation means for each.

Nothing is implemented here. The types that cross a port are those of `eventmesh_trio.wire` or the
frozen classes below. Every ``async`` method is cancellable at each call unless its docstring says
otherwise, and a cancelled call leaves its object usable or closed, as stated.
"""

from collections.abc import Hashable, Sequence
from typing import Literal, Protocol

import attrs

from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.wire.encoders import EncodedBatch
from eventmesh_trio.wire.events import Document, Event, Progress, RunStatus, SearchHit
from eventmesh_trio.wire.requests import CacheMode, CrawlOptions, ExtractMode
from eventmesh_trio.wire.websocket import FrameStyle

__all__ = [
    "Cache",
    "CacheEntry",
    "Encoder",
    "Exchange",
    "Extraction",
    "Extractor",
    "Fetcher",
    "Fields",
    "Job",
    "JobCounts",
    "Page",
    "Publisher",
    "Renderer",
    "Request",
    "SearchProvider",
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
        return next((value for key, value in self.fields if key == name), None)


class WebSocket(Protocol):
    """An accepted WebSocket (RFC 6455). One task receives, one task sends.

    ``takes_frames``: `send_frames` may be used: the bytes go out as they are. False under ASGI.
    ``frame_style``: how such frames are to be made.
    """

    takes_frames: bool
    frame_style: FrameStyle

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

    async def send_frames(self, frames: bytes) -> None:
        """Send whole, unmasked frames made by `eventmesh_trio.wire.websocket`; one write."""
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

    async def send_response(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """Send a whole response with its ``Content-Length`` (no body for HEAD, 204 and 304)."""
        ...

    async def start_response(self, status: int, fields: Fields) -> None:
        """Begin a streamed response. The head may be held back until the first `send_some`."""
        ...

    async def send_some(self, data: bytes) -> None:
        """Send a piece of the body as one chunk, in one write. Empty data sends a held-back head.

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

    def encode_batch(self, events: Sequence[Event], room: int) -> EncodedBatch:
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

    def publish(self, event: Event) -> None:
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
    total: int

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


class Fetcher(Protocol):
    async def fetch(self, url: str, options: CrawlOptions) -> Page:
        """GET one URL, following redirects. Sets no deadline over all: the caller does.

        A response of any status is a `Page`. Cancellation closes what connections it used.
        Raises: PageError of the kind that fits.
        """
        ...


class Renderer(Protocol):
    async def render(self, url: str, options: CrawlOptions) -> Page:
        """Load one URL in a browser. Cancellation disposes of its page and context."""
        ...


@attrs.frozen
class Extraction:
    """A document, how it was read (``extraction_method``), and the gate's view of the page."""

    document: Document
    method: str
    gate_score: float
    gate_decision: Literal["raw", "probes_first", "headless"]
    gate_reason: str


class Extractor(Protocol):
    async def extract(
        self, page: Page, mode: ExtractMode, max_text_chars: int | None
    ) -> Extraction:
        """Read a page in a worker. Cancellation leaves the worker usable, or replaced.

        Raises: ParseFailure (also when the worker died or ran out of time or memory),
          UnsupportedContent.
        """
        ...


@attrs.frozen
class CacheEntry:
    extraction: Extraction
    status: int
    final_url: str
    stored_at: float  # seconds since the epoch


class Cache(Protocol):
    """Extracted documents by key. Both calls may block on a store; a failing store is a miss."""

    async def get(self, key: str, mode: CacheMode) -> CacheEntry | None: ...

    async def put(self, key: str, entry: CacheEntry, mode: CacheMode) -> None: ...


class SearchProvider(Protocol):
    name: str

    async def search(
        self, query: str, limit: int, *, country: str | None, locale: str | None
    ) -> Sequence[SearchHit]:
        """At most ``limit`` hits, best first. Raises `DependencyError`."""
        ...
