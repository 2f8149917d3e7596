"""Streams in gzip: `stream.general.enable_compression`, natively and under Hypercorn."""

import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trio

from eventmesh_trio.app.delivery import coded
from eventmesh_trio.wire.content_coding import GzipEncoder, gzip_size
from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.processes import resident_bytes
from tests.helpers.raw import (
    Connection,
    NDJSONParser,
    SSEParser,
    StreamedEvent,
    get_json,
    open_crawl,
    post_json,
)
from tests.helpers.servers import KINDS, ServerProcess, open_server

GZIP = ("Accept-Encoding", "gzip, deflate, br")
ENABLED = {"EVENTMESH_STREAM__GENERAL__ENABLE_COMPRESSION": "true"}
STREAMS = 100


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with open_server(request.param, ENABLED) as process:
        yield process


@pytest.mark.parametrize("path", ["/crawl/stream", "/crawl/sse"])
def test_every_chunk_of_a_compressed_stream_is_whole_events(
    server: ServerProcess, origin: Origin, path: str
) -> None:
    urls = origin.pages(20)
    plain = coded_bytes = 0
    events: list[StreamedEvent] = []
    reader = zlib.decompressobj(31)
    parse = SSEParser() if path.endswith("sse") else NDJSONParser()
    with open_crawl(server.address, urls, target=path, headers=[GZIP]) as stream:
        assert stream.headers["content-encoding"] == "gzip"
        assert stream.headers["content-type"].endswith("charset=utf-8")
        for chunk in stream.read_chunks():
            data = reader.decompress(chunk)
            plain, coded_bytes = plain + len(data), coded_bytes + len(chunk)
            events += parse.feed(data)
            assert not parse.rest, "a chunk ended within an event"
    assert reader.eof
    assert not reader.unused_data
    assert (events[0].kind, events[-1].kind) == ("metadata", "summary")
    assert sorted(e.data["result"]["url"] for e in events if e.kind == "result") == sorted(urls)
    assert coded_bytes * 2 < plain
    assert events[0].data["buffer_info"]["max_memory_bytes"] == 65_536


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Accept-Encoding", "")],
        [("Accept-Encoding", "br, zstd")],
        [("Accept-Encoding", "gzip;q=0, *")],
        [("Accept-Encoding", "identity, gzip;q=0.5")],
        [GZIP, ("X-Max-Memory-Per-Connection", "4096")],  # not even the smallest encoder fits
    ],
    ids=str,
)
def test_who_does_not_want_gzip_is_not_given_it(
    server: ServerProcess, origin: Origin, headers: list[tuple[str, str]]
) -> None:
    with open_crawl(server.address, origin.pages(1), headers=headers) as stream:
        assert "content-encoding" not in stream.headers
        assert "accept-encoding" in stream.headers["vary"].lower()
        assert [event.kind for event in stream.read_events()][-1] == "summary"


def test_head_tells_the_coding_of_get(server: ServerProcess, origin: Origin) -> None:
    session = f"head-{server.kind}"
    body = {"urls": origin.pages(1)}
    assert post_json(server.address, "/crawl/sse", body, [("X-Session-ID", session)]).status == 200
    for method in ("HEAD", "GET"):
        with Connection(server.address) as connection:
            connection.send(method, f"/crawl/sse/stream?session_id={session}", [GZIP])
            assert connection.read_head() == 200
            assert connection.headers["content-encoding"] == "gzip"
            assert connection.headers["vary"] == "Accept-Encoding"


def test_what_is_no_stream_is_not_compressed(server: ServerProcess) -> None:
    for path in ("/stats", "/openapi.json", "/metrics", "/crawl/stream?session_id=x y"):
        with Connection(server.address) as connection:
            connection.send("GET", path.replace(" ", "%20"), [GZIP])
            assert "content-encoding" not in connection.read_response().headers


def test_the_bytes_that_are_counted_are_those_that_were_sent(
    server: ServerProcess, origin: Origin
) -> None:
    def bytes_sent() -> int:
        protocols: Any = get_json(server.address, "/stats")
        return int(_find(protocols, "total_bytes_sent"))

    before = bytes_sent()
    with open_crawl(server.address, origin.pages(30), headers=[GZIP]) as stream:
        chunks = list(stream.read_chunks())
    sent = sum(map(len, chunks))
    wait_until(
        lambda: bytes_sent() - before == sent, 5, lambda: f"{bytes_sent()}, {before}, {sent}"
    )


def _find(document: Any, name: str) -> Any:
    """A member by its name, however deep."""
    if isinstance(document, dict):
        if name in document:
            return document[name]
        for value in document.values():
            if (found := _find(value, name)) is not None:
                return found
    return None


async def test_others_run_while_a_large_batch_is_coded() -> None:
    size = gzip_size(65_536)
    assert size is not None
    batch = json.dumps({"text": "page after page " * 100_000}).encode()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        wire = await coded(GzipEncoder(size), batch)
        nursery.cancel_scope.cancel()
    assert zlib.decompressobj(31).decompress(wire) == batch
    assert turns >= len(batch) // 65_536


@pytest.mark.slow
def test_a_compressed_stream_costs_its_encoder_and_little_more(origin: Origin) -> None:
    """Streams of stalling crawls, with and without; what the serving process grew by."""
    grown = {}
    for name, settings in (("plain", {}), ("gzip", ENABLED)):
        with open_server("native", settings) as server, ExitStack() as streams:
            open_streams(streams, server, origin, 5)  # what is made once
            before = resident_bytes(server.serving_pid)
            open_streams(streams, server, origin, STREAMS)
            grown[name] = (resident_bytes(server.serving_pid) - before) / STREAMS
    more = grown["gzip"] - grown["plain"]
    print(f"KiB a stream: {grown['plain'] / 1024:.1f}, in gzip {more / 1024:.1f} more")
    assert more < 48 * 1024


def open_streams(streams: ExitStack, server: ServerProcess, origin: Origin, count: int) -> None:
    """Streams whose page stalls, each read until its first events are there."""
    for _ in range(count):
        stream = open_crawl(server.address, origin.stalling(1), headers=[GZIP])
        streams.enter_context(stream)
        next(stream.read_chunks())
