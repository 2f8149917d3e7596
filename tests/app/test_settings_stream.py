"""Each setting under ``stream`` and what it changes, seen from outside or from a reader's place."""

import json
import zlib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import Ping, Pong

from eventmesh_trio.app.stream_config import Protocol
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.testing import FakeFetcher, make_page
from tests.helpers.settled import (
    World,
    crawl_of,
    events_of,
    open_world,
    read_all,
    read_batch,
    request_bytes,
    shows,
)
from tests.mesh.mesh_support import SmallJob


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


async def capacity(world: World, *fields: str, path: str = "/crawl/stream") -> int:
    answer = await world.crawl(1, *fields, path=path)
    return int(answer.fields[b"x-buffer-capacity"])


# --- The window --------------------------------------------------------------------------------


@shows("stream.buffer.default_size")
async def test_a_reader_that_asks_for_no_window_gets_the_default_size(autojump_clock: MockClock):
    async with open_world("stream.buffer.default_size=100") as world:
        assert await capacity(world) == 100
        assert await capacity(world, "X-Buffer-Size: 300") == 300


@shows("stream.buffer.min_size")
async def test_no_window_is_smaller_than_min_size(autojump_clock: MockClock):
    async with open_world("stream.buffer.min_size=10") as world:
        assert await capacity(world, "X-Buffer-Size: 1") == 10


@shows("stream.buffer.max_size")
async def test_no_window_is_larger_than_max_size(autojump_clock: MockClock):
    async with open_world("stream.buffer.max_size=5000") as world:
        assert await capacity(world, "X-Buffer-Size: 99999") == 5000


async def first_resize(reader: Subscriber, seconds: float = 0.0) -> int:
    before = now = reader.statistics().capacity
    while now == before:
        await wait_all_tasks_blocked()
        await read_batch(reader, seconds)
        now = reader.statistics().capacity
    return now


@shows("stream.buffer.growth_factor")
@pytest.mark.parametrize(("factor", "grown"), [("1.5", 96), ("3", 192)])
async def test_a_window_for_which_a_run_had_to_wait_grows_by_growth_factor(
    factor: str, grown: int, autojump_clock: MockClock
):
    async with open_world(f"stream.buffer.growth_factor={factor}") as world:
        spec = world.reader_spec(x_buffer_size="64")
        _, _, reader = world.start(SmallJob(total=1000), spec)
        assert await first_resize(reader) == grown


@shows("stream.buffer.shrink_factor")
@pytest.mark.parametrize(("factor", "shrunk"), [("0.75", 192), ("0.5", 128)])
async def test_the_window_of_a_slow_reader_shrinks_by_shrink_factor(
    factor: str, shrunk: int, autojump_clock: MockClock
):
    async with open_world(f"stream.buffer.shrink_factor={factor}") as world:
        _, _, reader = world.start(SmallJob(total=1000, nap=0.01))
        assert await first_resize(reader, seconds=1) == shrunk


@shows("stream.buffer.slow_send_threshold")
@pytest.mark.parametrize(("threshold", "slow"), [("100ms", True), ("300ms", False)])
async def test_a_send_is_slow_that_takes_longer_than_slow_send_threshold(
    threshold: str, slow: bool, autojump_clock: MockClock
):
    async with open_world(f"stream.buffer.slow_send_threshold={threshold}") as world:
        _, _, reader = world.start(SmallJob(total=10, nap=0.01))
        for _ in range(8):
            await read_batch(reader, seconds=0.2)
        assert reader.statistics().is_slow is slow
        answer = await world.crawl()
        assert answer.fields[b"x-slow-client-threshold"] == threshold.removesuffix("ms").encode()


@shows("stream.buffer.backpressure_window")
@pytest.mark.parametrize(("window", "slow"), [(50, False), (10, True)])
async def test_a_reader_is_judged_by_its_last_backpressure_window_sends(
    window: int, slow: bool, autojump_clock: MockClock
):
    async with open_world(f"stream.buffer.backpressure_window={window}") as world:
        _, _, reader = world.start(SmallJob(total=60, nap=0.01))
        for seconds in [0.0] * 30 + [1.0] * 6:
            await read_batch(reader, seconds)
        assert reader.statistics().is_slow is slow


@shows("stream.buffer.memory_limit_per_connection")
@pytest.mark.parametrize("limit", [4096, 65_536])
async def test_a_batch_holds_no_more_than_memory_limit_per_connection(
    limit: int, autojump_clock: MockClock
):
    async with open_world(f"stream.buffer.memory_limit_per_connection={limit}") as world:
        _, _, reader = world.start(SmallJob(total=150, text="x" * 200))
        await wait_all_tasks_blocked()
        sizes: list[int] = []
        while sum(sizes) < 66_000:
            batch = await reader.receive_batch()
            sizes.append(batch.nbytes)
            reader.sent(batch.events, batch.nbytes, 0.0)
        assert 0.5 * limit < max(sizes) <= limit
        answer = await world.crawl()
        assert answer.fields[b"x-max-memory-per-connection"] == b"%d" % limit


@shows("stream.buffer.global_memory_limit")
@pytest.mark.parametrize(("limit", "holds"), [("1GB", 2_300_000), ("200KB", 200 * 1024)])
async def test_all_logs_together_hold_no_more_than_global_memory_limit(
    limit: str, holds: int, autojump_clock: MockClock
):
    settings = (f"stream.buffer.global_memory_limit={limit}", "mesh.window_bytes=100MB")
    async with open_world(*settings) as world:
        readers = []
        for number in range(3):  # that read nothing: their runs fill their windows, and wait
            job = SmallJob(total=1000, text="x" * 1000, request_id=f"req-{number}")
            readers.append(world.start(job, session_id=f"s{number}")[2])
        await wait_all_tasks_blocked()
        held = sum(session.log.kept_bytes for session in world.mesh.hub.sessions.values())
        assert 0.5 * holds < held < 1.5 * holds
        async with trio.open_nursery() as nursery:  # and nobody waits for ever
            for reader in readers:
                nursery.start_soon(read_all, reader)
        assert not any(session.live_runs for session in world.mesh.hub.sessions.values())


# --- What all protocols have -------------------------------------------------------------------


async def count_progress(protocol: Protocol, interval: str) -> int:
    async with open_world(f"stream.{protocol}.flush_interval={interval}") as world:
        _, _, reader = world.start(SmallJob(total=100, nap=0.01), world.reader_spec(protocol))
        with trio.move_on_after(2):
            return kinds(await read_all(reader)).count("progress")
        raise AssertionError("the reader never ended")


@shows("stream.ndjson.flush_interval")
async def test_ndjson_has_a_progress_event_every_flush_interval(autojump_clock: MockClock):
    assert 15 < await count_progress("ndjson", "50ms") < 25
    assert 2 <= await count_progress("ndjson", "0.5s") < 6


@shows("stream.sse.flush_interval")
async def test_sse_has_a_progress_event_every_flush_interval(autojump_clock: MockClock):
    assert 15 < await count_progress("sse", "50ms") < 25
    assert 2 <= await count_progress("sse", "0.5s") < 6


@shows("stream.websocket.flush_interval")
async def test_a_websocket_has_a_progress_event_every_flush_interval(autojump_clock: MockClock):
    for interval, least, most in (("50ms", 15, 25), ("0.5s", 2, 6)):
        async with open_world(f"stream.websocket.flush_interval={interval}") as world:
            world.fetcher.delay = lambda url: int(url.rpartition("/")[2]) / 60
            socket = await world.open_socket()
            await socket.send_text(json.dumps({"action": "crawl", **crawl_of(60, concurrency=60)}))
            seen = []
            while "summary" not in seen:
                seen.append(json.loads(await socket.message()).get("event"))
            assert least <= seen.count("progress") <= most


async def heartbeat_after(path: str, setting: str) -> float:
    async with open_world(f"{setting}=7s", fetcher=FakeFetcher(delay=lambda _: 100)) as world:
        peer = world.connect()
        await peer.send(request_bytes("POST", path, body=crawl_of(1, timeout_seconds=200)))
        await peer.until(b'"start"')
        began = trio.current_time()
        await peer.until(b'"heartbeat"')
        return trio.current_time() - began


@shows("stream.ndjson.keep_alive_interval")
async def test_a_silent_ndjson_stream_has_a_heartbeat_every_keep_alive_interval(
    autojump_clock: MockClock,
):
    setting = "stream.ndjson.keep_alive_interval"
    assert await heartbeat_after("/crawl/stream", setting) == pytest.approx(7, abs=0.1)
    assert await heartbeat_after("/crawl/sse", setting) == pytest.approx(30, abs=0.1)


@shows("stream.sse.keep_alive_interval")
async def test_a_silent_sse_stream_has_a_heartbeat_every_keep_alive_interval(
    autojump_clock: MockClock,
):
    setting = "stream.sse.keep_alive_interval"
    assert await heartbeat_after("/crawl/sse", setting) == pytest.approx(7, abs=0.1)
    assert await heartbeat_after("/crawl/stream", setting) == pytest.approx(30, abs=0.1)


async def slow_replay(world: World, path: str) -> bool:
    """Whether a slow reader of a finished session is let come to the end of it, in 20 seconds."""
    _, _, reader = world.start(SmallJob(total=300, text="x" * 2000))
    await read_all(reader)
    peer = world.connect(lockstep=True)
    await peer.send(request_bytes("GET", f"{path}?session_id=s", "X-Buffer-Size: 64"))
    for _ in range(10):
        await peer.more()
        await trio.sleep(2)
    return (await peer.answer()).complete


async def slow_run(world: World, path: str) -> bool:
    """Whether a stream of 20 seconds is let come to its end while its run is live."""
    world.fetcher.delay = lambda url: 20.0
    return (await world.crawl(1, path=path)).complete


@shows("stream.ndjson.max_connection_time")
async def test_an_ndjson_stream_is_cut_after_max_connection_time_without_a_live_run(
    autojump_clock: MockClock,
):
    async with open_world() as world:
        assert await slow_replay(world, "/crawl/stream")
    async with open_world("stream.ndjson.max_connection_time=10s") as world:
        assert not await slow_replay(world, "/crawl/stream")
        assert await slow_run(world, "/crawl/stream")


@shows("stream.sse.max_connection_time")
async def test_an_sse_stream_is_cut_after_max_connection_time_without_a_live_run(
    autojump_clock: MockClock,
):
    async with open_world() as world:
        assert await slow_replay(world, "/crawl/sse")
    async with open_world("stream.sse.max_connection_time=10s") as world:
        assert not await slow_replay(world, "/crawl/sse")
        assert await slow_run(world, "/crawl/sse")


# --- NDJSON ------------------------------------------------------------------------------------


@shows("stream.ndjson.max_line_length")
async def test_a_document_is_cut_that_would_make_a_line_longer_than_max_line_length(
    autojump_clock: MockClock,
):
    page = FakeFetcher(answer=lambda url: make_page(url, b"word " * 10_000))
    for path, limit in (("/crawl/stream", 16_384), ("/crawl/sse", 10**9)):
        async with open_world("stream.ndjson.max_line_length=16KB", fetcher=page) as world:
            answer = await world.crawl(2, path=path)
        results = [event for event in events_of(answer.body) if event["event"] == "result"]
        assert len(results) == 2
        for result in results:
            document = result["result"]["document"]
            assert document.get("truncated", False) is (limit < 10**9)
            assert document["word_count"] == 10_000
            assert 1000 < len(document["text"]) <= limit
        assert max(map(len, answer.body.splitlines())) <= limit


# --- Server-sent events ------------------------------------------------------------------------


@shows("stream.sse.retry_interval")
async def test_sse_clients_are_told_to_wait_for_retry_interval(autojump_clock: MockClock):
    async with open_world("stream.sse.retry_interval=7.5s") as world:
        assert (await world.crawl(path="/crawl/sse")).body.startswith(b"retry: 7500\n")


@shows("stream.sse.max_buffered_events")
async def test_no_write_of_sse_holds_more_than_max_buffered_events(autojump_clock: MockClock):
    async with open_world("stream.sse.max_buffered_events=20") as world:
        assert await capacity(world, "X-Buffer-Size: 1024", path="/crawl/sse") == 1024
        largest: dict[Protocol, int] = {}
        for protocol in get_args(Protocol):
            spec = world.reader_spec(protocol)
            _, _, reader = world.start(SmallJob(total=200), spec, session_id=protocol)
            await wait_all_tasks_blocked()
            async with reader:
                batches = [await reader.receive_batch() for _ in range(3)]
            largest[protocol] = max(batch.events for batch in batches)
        assert largest["sse"] == 20 < min(largest["ndjson"], largest["websocket"])


@shows("stream.sse.enable_cors")
@pytest.mark.parametrize("enabled", [True, False])
async def test_pages_of_other_origins_read_sse_only_with_enable_cors(
    enabled: bool, autojump_clock: MockClock
):
    allowed = b"access-control-allow-origin"
    async with open_world(f"stream.sse.enable_cors={enabled}") as world:
        page = "Origin: http://page.example"
        assert (allowed in (await world.crawl(1, page, path="/crawl/sse")).fields) is enabled
        assert allowed in (await world.crawl(1, page)).fields
        named = await world.crawl(1, page, "X-Session-ID: s", path="/crawl/sse")
        assert (allowed in named.fields) is enabled
        attached = await world.request("GET", "/crawl/sse?session_id=s", page)
        assert (allowed in attached.fields) is enabled


@shows("stream.sse.custom_headers")
async def test_sse_responses_have_the_custom_headers(autojump_clock: MockClock):
    setting = 'stream.sse.custom_headers={"X-Powered-By": "trio", "X-Empty": ""}'
    async with open_world(setting) as world:
        fields = (await world.crawl(path="/crawl/sse")).fields
        assert (fields[b"x-powered-by"], fields[b"x-empty"]) == (b"trio", b"")
        assert b"x-powered-by" not in (await world.crawl()).fields


# --- WebSockets --------------------------------------------------------------------------------


@shows("stream.websocket.max_message_size")
async def test_a_message_over_max_message_size_closes_with_1009(autojump_clock: MockClock):
    async with open_world("stream.websocket.max_message_size=1000") as world:
        socket = await world.open_socket()
        await socket.message()  # the welcome
        await socket.send_text(json.dumps({"action": "ping", "more": "x" * 800}))
        assert json.loads(await socket.message())["event"] == "pong"
        await socket.send_text(json.dumps({"action": "ping", "more": "x" * 1000}))
        assert await socket.close_code() == 1009


async def some_frame_is_compressed(*settings: str) -> bool:
    """Whether the events of a crawl come compressed to a client that offers it."""
    async with open_world(*settings) as world:
        socket = await world.open_socket(deflate=True)
        assert b"permessage-deflate" in socket.head
        await socket.send_text(json.dumps({"action": "crawl", **crawl_of(3)}))
        with trio.move_on_after(5):
            while await socket.http.more():
                pass
        return any(first & 0x40 for first in first_bytes(bytes(socket.http.received)))


def first_bytes(data: bytes) -> Iterator[int]:
    """The first byte of each of a server's frames; 0x40 is RSV1: compressed (RFC 7692)."""
    while data:
        length, at = data[1], 2
        if length >= 126:
            at = 4 if length == 126 else 10
            length = int.from_bytes(data[2:at], "big")
        yield data[0]
        data = data[at + length :]


@shows("stream.websocket.enable_compression")
async def test_compression_is_negotiated_only_with_enable_compression(autojump_clock: MockClock):
    for enabled in (True, False):
        async with open_world(f"stream.websocket.enable_compression={enabled}") as world:
            socket = await world.open_socket(deflate=True)
            assert (b"permessage-deflate" in socket.head) is enabled


@shows("stream.websocket.min_compression_size")
async def test_a_message_below_min_compression_size_is_not_compressed(autojump_clock: MockClock):
    assert await some_frame_is_compressed()
    assert not await some_frame_is_compressed("stream.websocket.min_compression_size=10KB")


@shows("stream.websocket.max_compression_size")
async def test_a_message_above_max_compression_size_is_not_compressed(autojump_clock: MockClock):
    assert not await some_frame_is_compressed("stream.websocket.max_compression_size=200")


@shows("stream.websocket.ping_interval")
async def test_an_idle_socket_is_pinged_every_ping_interval(autojump_clock: MockClock):
    async with open_world("stream.websocket.ping_interval=7s") as world:
        socket = await world.open_socket()
        await socket.message()
        began = trio.current_time()
        for number in (1, 2):
            event = await socket.event()
            assert isinstance(event, Ping)
            assert trio.current_time() - began == pytest.approx(7 * number, abs=0.1)
            await socket.send(Pong(event.payload))


@shows("stream.websocket.pong_timeout")
async def test_a_peer_that_answers_no_ping_for_pong_timeout_is_gone(autojump_clock: MockClock):
    async with open_world("stream.websocket.pong_timeout=4s") as world:
        socket = await world.open_socket()
        await socket.message()
        began = trio.current_time()
        while await socket.http.more():
            pass
        assert trio.current_time() - began == pytest.approx(30 + 4, abs=0.1)


@shows("stream.websocket.close_timeout")
async def test_the_close_handshake_waits_for_close_timeout(autojump_clock: MockClock):
    async with open_world("stream.websocket.close_timeout=3s") as world:
        socket = await world.open_socket()
        await socket.message()
        await world.mesh.drain()
        assert await socket.close_code() == 1001
        began = trio.current_time()
        while await socket.http.more():
            pass  # it waits for the peer's close frame
        assert trio.current_time() - began == pytest.approx(3, abs=0.1)


@shows("stream.websocket.backpressure_threshold")
@pytest.mark.parametrize(("threshold", "warned"), [(0, False), (10, True)])
async def test_a_websocket_reader_is_warned_that_lags_backpressure_threshold(
    threshold: int, warned: bool, autojump_clock: MockClock
):
    async with open_world(f"stream.websocket.backpressure_threshold={threshold}") as world:
        for protocol in ("websocket", "ndjson"):
            begin = trio.Event()
            job = SmallJob(total=20, holds=begin)
            spec = world.reader_spec(protocol, x_max_memory_per_connection="4096")
            _, run, reader = world.start(job, spec, session_id=protocol)
            await read_batch(reader)
            begin.set()
            await run.wait_ended()
            seen = kinds(await read_all(reader))
            assert ("backpressure_warning" in seen) is (warned and protocol == "websocket")


# --- All streams together ----------------------------------------------------------------------


@shows("stream.general.max_concurrent_streams")
async def test_a_stream_beyond_max_concurrent_streams_is_told_503(autojump_clock: MockClock):
    setting = "stream.general.max_concurrent_streams=2"
    async with open_world(setting, fetcher=FakeFetcher(delay=lambda _: 20)) as world:
        first = [world.connect() for _ in range(2)]
        for peer in first:
            await peer.send(request_bytes("POST", "/crawl/stream", body=crawl_of(1)))
            await peer.until(b'"start"')
        refused = await world.crawl()
        assert (refused.status, b"retry-after" in refused.fields) == (503, True)
        await first[0].until(b'"summary"')
        await wait_all_tasks_blocked()
        assert (await world.crawl()).status == 200


@shows("stream.general.max_streams_per_address")
async def test_a_stream_beyond_max_streams_per_address_is_told_429(autojump_clock: MockClock):
    setting = "stream.general.max_streams_per_address=1"
    async with open_world(setting, fetcher=FakeFetcher(delay=lambda _: 20)) as world:
        for address, status in (("192.0.2.1", 200), ("192.0.2.1", 429), ("192.0.2.2", 200)):
            peer = world.connect(peer=address)
            await peer.send(request_bytes("POST", "/crawl/stream", body=crawl_of(1)))
            head = await peer.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)


@shows("stream.general.enable_compression")
@pytest.mark.parametrize("path", ["/crawl/stream", "/crawl/sse"])
async def test_streams_are_compressed_only_with_enable_compression(
    path: str, autojump_clock: MockClock
):
    for enabled in (False, True):
        async with open_world(f"stream.general.enable_compression={enabled}") as world:
            answer = await world.crawl(3, "Accept-Encoding: gzip", path=path)
            assert answer.fields.get(b"content-encoding") == (b"gzip" if enabled else None)
            body = zlib.decompress(answer.body, 31) if enabled else answer.body
            assert "summary" in kinds(events_of(body))


async def test_the_profile_memory_optimized_compresses_in_the_memory_that_it_allows(
    autojump_clock: MockClock,
):
    async with open_world("profile=memory_optimized") as world:
        answer = await world.crawl(20, "Accept-Encoding: gzip")
        assert answer.fields[b"content-encoding"] == b"gzip"
        assert answer.fields[b"x-max-memory-per-connection"] == b"16384"
        body = zlib.decompress(answer.body, 31)
        assert kinds(events_of(body)).count("result") == 20
        assert len(answer.body) * 1.3 < len(body)
