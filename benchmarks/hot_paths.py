"""What is done for each event, request or page, in rounds that can be counted.

Each `HotPath` prepares its input once, and then does the same work as often as it is asked to:
what one round costs is the cost of many less that of none. Nothing here waits for a clock or a
socket, so that the same round always executes the same instructions.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any, Final, Literal

import attrs
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from benchmarks.synthetic import TEXT, page_result
from eventmesh_trio.abc import JobCounts, Publisher
from eventmesh_trio.errors import EventMeshError
from eventmesh_trio.mesh.hub import open_hub
from eventmesh_trio.mesh.subscriber import ReaderSpec, Subscriber
from eventmesh_trio.pipeline.extract import extract_document
from eventmesh_trio.pipeline.report import summary_event
from eventmesh_trio.pipeline.tally import Tally
from eventmesh_trio.wire.chunked import ChunkDecoder, encode_chunk
from eventmesh_trio.wire.codec import decode_event
from eventmesh_trio.wire.encoders import EnvelopeEncoder, HTTPEncoder
from eventmesh_trio.wire.events import (
    Event,
    Metadata,
    Progress,
    RunStatus,
)
from eventmesh_trio.wire.http11 import ServerConnection
from eventmesh_trio.wire.ndjson import NDJSONDecoder
from eventmesh_trio.wire.sse import SSEDecoder

__all__ = ["BATCH", "HOT_PATHS", "HotPath"]

Work = Callable[[int], None]

BATCH: Final = 64
"""Events in a batch: about what a reader is written at once under load."""
_TOTAL: Final = 10_000
"""What an event says of how many there are; the same in long rounds and in short ones."""
_ROOM: Final = 2**24  # bytes; more than a batch has
_PIECE: Final = 65_536  # bytes; what a client reads from a socket at once
_STAMP: Final = "2024-01-15T10:30:00.000Z"
_REQUEST_ID: Final = "req-0123456789abcdef"


@attrs.frozen
class HotPath:
    """One thing that is done again and again.

    Args:
      unit: what one round works on, in a word.
      prepare: builds the input, and gives what does a number of rounds.
      rounds: so many that what differs between two processes is lost in them.
    """

    name: str
    unit: str
    prepare: Callable[[], Work]
    rounds: int


# --- events ---------------------------------------------------------------------------------------


def _batch() -> list[Event]:
    results = [page_result(index, _TOTAL, _REQUEST_ID, TEXT, _STAMP) for index in range(BATCH)]
    return [replace(one, id=f"0123456789ab-{one.index + 1}") for one in results]


def _encoding(encoder: HTTPEncoder | EnvelopeEncoder) -> Callable[[], Work]:
    def prepare() -> Work:
        events = _batch()

        def work(rounds: int) -> None:
            for _ in range(rounds):
                assert encoder.encode_batch(events, _ROOM).taken == BATCH

        return work

    return prepare


def _pieces(data: bytes) -> list[bytes]:
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]


def _decode_ndjson() -> Work:
    pieces = _pieces(HTTPEncoder("ndjson").encode_batch(_batch(), _ROOM).data)

    def work(rounds: int) -> None:
        decoder = NDJSONDecoder()
        for _ in range(rounds):
            found = 0
            for piece in pieces:
                decoder.receive_data(piece)
                found += len([decode_event(line) for line in decoder.events()])
            assert found == BATCH

    return work


def _decode_sse() -> Work:
    pieces = _pieces(HTTPEncoder("sse").encode_batch(_batch(), _ROOM).data)

    def work(rounds: int) -> None:
        decoder = SSEDecoder()
        for _ in range(rounds):
            found = 0
            for piece in pieces:
                decoder.receive_data(piece)
                found += len([decode_event(block.data) for block in decoder.events()])
            assert found == BATCH

    return work


# --- HTTP/1.1 -------------------------------------------------------------------------------------

_REQUEST: Final = (
    b"GET /sessions/session-1/stream?format=ndjson HTTP/1.1\r\n"
    b"Host: mesh.example:8080\r\n"
    b"User-Agent: reader/1.0\r\n"
    b"Accept: application/x-ndjson\r\n"
    b"Accept-Encoding: identity\r\n"
    b"Last-Event-ID: 0123456789ab-17\r\n"
    b"Connection: keep-alive\r\n"
    b"\r\n"
)
_FIELDS: Final = (
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-session-id", b"session-1"),
    (b"x-request-id", _REQUEST_ID.encode()),
    (b"date", b"Mon, 15 Jan 2024 10:30:00 GMT"),
)


def _exchange() -> Work:
    def work(rounds: int) -> None:
        wire = ServerConnection()
        for _ in range(rounds):
            wire.receive_data(_REQUEST)
            head = wire.next_head()
            assert head is not None
            assert wire.next_body(0) == b""
            assert wire.send_head(200, _FIELDS, head_request=False)
            assert wire.send_end() == b"0\r\n\r\n"
            assert wire.start_next_cycle()

    return work


def _chunks() -> Work:
    body = b"0123456789abcdef" * (_PIECE // 16)

    def work(rounds: int) -> None:
        decoder = ChunkDecoder(
            max_extension_bytes=1024, max_trailer_bytes=1024, max_trailer_count=10
        )
        for _ in range(rounds):
            buffer = bytearray(encode_chunk(body))
            assert decoder.decode(buffer, 2 * _PIECE) == body

    return work


# --- from a publisher to its readers --------------------------------------------------------------


@attrs.define(eq=False)
class _Job:
    """``total`` results, published as soon as there is room; ``alone``: one at a time."""

    total: int
    alone: bool = False
    kind: Literal["crawl", "deepsearch"] = "crawl"
    _settled: int = attrs.field(default=0, init=False)

    @property
    def done(self) -> bool:
        return self._settled == self.total

    @property
    def counts(self) -> JobCounts:
        return JobCounts(self._settled, self._settled, 0)

    def opening(self) -> Sequence[Event]:
        names: dict[str, Any] = {"request_id": _REQUEST_ID, "session_id": "s"}
        return [Metadata(**names, timestamp=_STAMP, total_urls=self.total, stream_type="crawl")]

    async def work(self, publisher: Publisher) -> None:
        while not self.done:
            if not publisher.has_room():
                await publisher.wait_room()
            index = self._settled
            publisher.publish(page_result(index, _TOTAL, _REQUEST_ID, TEXT, _STAMP))
            self._settled += 1
            if self.alone:  # until everyone has read it and sleeps again
                await wait_all_tasks_blocked()

    def progress(self) -> Progress:
        return Progress(
            timestamp=_STAMP,
            request_id=_REQUEST_ID,
            completed=self._settled,
            total=self.total,
            current_url=None,
            url=None,
            phase="publish",
            estimated_completion=None,
            performance_metrics=Tally(self.total).performance_metrics(0.0),
        )

    def closing(
        self, status: RunStatus, reason: str | None, error: EventMeshError | None
    ) -> Sequence[Event]:
        if error is not None:
            raise error
        summary = summary_event(
            Tally(self.total),
            elapsed_seconds=0.0,
            status=status,
            reason=reason,
            session_id="s",
            request_id=_REQUEST_ID,
            timestamp=_STAMP,
        )
        return [summary]


async def _read(subscriber: Subscriber, counts: list[int]) -> None:
    """Write to nobody: what `eventmesh_trio.app.delivery` does, but for the socket."""
    events = 0
    while True:
        try:
            batch = await subscriber.receive_batch()
        except trio.EndOfChannel:
            break
        body = b"".join(batch.pieces)
        events += batch.events
        await trio.lowlevel.checkpoint()
        subscriber.sent(batch.events, len(body), 0.0)
    counts.append(events)


def _through_a_log(readers: int, *, alone: bool = False) -> Callable[[], Work]:
    encoder = HTTPEncoder("ndjson")
    spec = ReaderSpec(
        encoder_for=lambda _: encoder,
        protocol="ndjson",
        progress=False,
        system_status=False,
        heartbeat_seconds=inf,
    )

    async def run(total: int) -> None:
        counts: list[int] = []
        async with open_hub() as hub, trio.open_nursery() as nursery:
            session = hub.open_session("s")
            _, first = hub.start_run(
                session, _Job(total, alone), request_id=_REQUEST_ID, reader=spec
            )
            assert first is not None
            others = [session.subscribe(spec, after=0) for _ in range(readers - 1)]
            for subscriber in (first, *others):
                nursery.start_soon(_read, subscriber, counts)
        assert len(counts) == readers
        assert min(counts) >= total + 2  # with metadata and summary; a warning may come too

    # Time stands still: nothing comes due in one run that did not in another.
    return lambda: lambda total: trio.run(run, total, clock=MockClock())


# --- extraction -----------------------------------------------------------------------------------


def _page() -> Iterator[str]:
    """A page as a newspaper may make it: 24 KB, of which half is worth reading."""
    yield '<!DOCTYPE html><html lang="en"><head><title>The pump | The Gull</title>'
    yield '<meta name="author" content="Ada Byron"><meta property="og:site_name" content="Gull">'
    yield '<link rel="canonical" href="/2024/05/17/pump"><style>.a{color:red}</style></head><body>'
    yield "<header><nav><ul>"
    for number in range(60):
        yield f'<li class="menu-item"><a href="/section/{number}">Section {number}</a></li>'
    yield "</ul></nav></header><main><article><h1>The pump</h1>"
    yield '<time datetime="2024-05-17">17 May</time><p class="byline">By Ada Byron</p>'
    for number in range(30):
        yield f"<h2>Part {number}</h2>" if number % 6 == 0 else ""
        yield f'<p>{TEXT}<a href="/about/{number}">More of it</a>, and <em>so</em> on. {TEXT}</p>'
        yield '<figure><img src="/p.jpg" alt="A pump"></figure>' if number % 10 == 5 else ""
    yield "<ul><li>One pump</li><li>Two pumps</li></ul><table><tr><th>Pump</th><th>Year</th></tr>"
    yield "".join(f"<tr><td>No. {n}</td><td>{1900 + n}</td></tr>" for n in range(20))
    yield "</table></article></main><aside><h3>Also read</h3>"
    for number in range(60):
        yield f'<div class="teaser"><a href="/t/{number}"><img src="/t.jpg" alt=""></a>'
        yield f'<h4><a href="/t/{number}">Teaser number {number}</a></h4></div>'
    yield "</aside><footer><p>All rights reserved.</p></footer></body></html>"


def _extract() -> Work:
    page = "".join(_page()).encode()

    def work(rounds: int) -> None:
        for _ in range(rounds):
            document = extract_document(page, "http://gull.example/2024/05/17/pump")
            assert document.title == "The pump"

    return work


HOT_PATHS: Final = (
    HotPath("NDJSON lines from events", "batch", _encoding(HTTPEncoder("ndjson")), 40),
    HotPath("SSE blocks from events", "batch", _encoding(HTTPEncoder("sse")), 40),
    HotPath("WebSocket frames from events", "batch", _encoding(EnvelopeEncoder("frame")), 40),
    HotPath("events from NDJSON lines", "batch", _decode_ndjson, 40),
    HotPath("events from SSE blocks", "batch", _decode_sse, 40),
    HotPath("request and response heads", "exchange", _exchange, 200),
    HotPath("chunks, both ways", "chunk", _chunks, 400),
    HotPath("a log with one reader", "event", _through_a_log(1), 2000),
    HotPath("a log with twenty readers", "event", _through_a_log(20), 500),
    HotPath("events alone, twenty readers", "event", _through_a_log(20, alone=True), 200),
    HotPath("a page to a document", "page", _extract, 10),
)
