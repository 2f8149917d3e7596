"""What a program that embeds the server is told of clients on real sockets, and of itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from eventmesh_trio import (
    ConnectionClosed,
    ConnectionEstablished,
    LifecycleChannel,
    LifecycleEvent,
    ProgressUpdate,
    StreamCompleted,
    StreamError,
    StreamStarted,
    load_config,
    open_mesh,
)
from eventmesh_trio.app.config import Config
from eventmesh_trio.wire.events import Result, Summary
from tests.helpers.here import serve_here
from tests.helpers.origin import Origin
from tests.helpers.raw import WebSocketClient, open_crawl

Address = tuple[str, int]


def config(**settings: Any) -> Config:
    return load_config(
        overrides={
            "fetch.allow_private": ["127.0.0.0/8"],
            "workers.workers": 1,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
    )


async def told(channel: LifecycleChannel, until: Callable[[LifecycleEvent], bool]) -> Any:
    """All events up to one; progress is left out."""
    events: list[LifecycleEvent] = []
    with trio.fail_after(20):
        while not events or not until(events[-1]):
            event = await channel.receive()
            if not isinstance(event, ProgressUpdate):
                events.append(event)
    return events


def is_closed(event: LifecycleEvent) -> bool:
    return isinstance(event, ConnectionClosed)


@pytest.mark.parametrize(("target", "protocol"), [("stream", "ndjson"), ("sse", "sse")])
async def test_a_client_of_each_protocol_is_told_with_the_bytes_that_it_read(
    origin: Origin, target: str, protocol: str
) -> None:
    def read(address: Address) -> int:
        with open_crawl(address, origin.pages(2), target=f"/crawl/{target}") as stream:
            return sum(map(len, stream.read_chunks()))

    async with serve_here(config()) as (mesh, address), mesh.open_lifecycle() as channel:
        nbytes = await trio.to_thread.run_sync(read, address)
        opened, started, completed, closed = await told(channel, is_closed)
    assert isinstance(opened, ConnectionEstablished)
    assert isinstance(started, StreamStarted)
    assert isinstance(completed, StreamCompleted)
    assert isinstance(closed, ConnectionClosed)
    assert opened.protocol == closed.protocol == protocol
    assert opened.connection_id == closed.connection_id
    assert opened.connection_id.startswith("conn-")
    assert opened.request_id == started.request_id == completed.request_id
    assert {event.session_id for event in (opened, started, completed, closed)} == {
        opened.session_id
    }
    assert (started.total_items, completed.summary.successful) == (2, 2)
    assert closed.bytes_sent == nbytes
    assert 0 < closed.duration_seconds < 20


async def test_a_socket_is_one_connection_with_many_streams(origin: Origin) -> None:
    def use(address: Address) -> None:
        with WebSocketClient(address, "/crawl/ws?session_id=mine") as socket:
            for number in range(2):
                data = {"urls": origin.pages(1), "request_id": f"r{number}"}
                socket.send({"request_type": "crawl", "data": data})
                socket.receive_until("summary")

    async with serve_here(config()) as (mesh, address), mesh.open_lifecycle() as channel:
        await trio.to_thread.run_sync(use, address)
        events = await told(channel, is_closed)
    assert [type(event) for event in events] == [
        ConnectionEstablished,
        *(StreamStarted, StreamCompleted) * 2,
        ConnectionClosed,
    ]
    assert {event.session_id for event in events} == {"mine"}
    assert events[0].protocol == "websocket"
    assert [event.request_id for event in events[1:5]] == ["r0", "r0", "r1", "r1"]


async def test_a_reader_that_is_cut_off_is_an_error_that_can_be_followed_by_another(
    origin: Origin,
) -> None:
    settings = config(mesh__stall_seconds=0.3, transport__unsent_bytes=4096)
    headers = [("X-Buffer-Size", "64"), ("X-Max-Memory-Per-Connection", "4096")]
    async with serve_here(settings) as (mesh, address), mesh.open_lifecycle() as channel:
        opened = partial(
            open_crawl,
            address,
            origin.pages(200),
            {"concurrency": 16},
            headers=headers,
            receive_buffer=4096,
        )
        stream = await trio.to_thread.run_sync(opened)
        events = await told(channel, is_closed)
        stream.close()
    (error,) = [event for event in events if isinstance(event, StreamError)]
    assert error.error_type == "backpressure_exceeded"
    assert error.connection_id == events[0].connection_id
    assert "0.3 s" in error.error


async def test_an_embedder_reads_the_figures_of_its_stream_of_its_run_and_of_the_mesh(
    origin: Origin,
) -> None:
    async with (
        open_mesh(config()) as mesh,
        mesh.open_lifecycle() as channel,
        mesh.crawl([*origin.pages(3), origin.url("/status/404")], max_retries=0) as stream,
    ):
        assert stream.run.statistics().state == "running"
        results = 0
        async for event in stream:
            if isinstance(event, Result):
                results += 1
                assert stream.run.statistics().completed >= results
            if isinstance(event, Summary):
                summary = event
        run, reader, whole = stream.run.statistics(), stream.statistics(), mesh.statistics()
        assert (await channel.receive()).protocol == "channel"  # type: ignore[union-attr]
    assert (run.state, run.total, run.completed) == ("completed", 4, 4)
    assert (run.successful, run.failed, run.phase, run.readers) == (3, 1, "done", 1)
    assert run.performance is not None
    assert run.performance.success_rate == 0.75
    assert reader.messages_sent == whole.total_messages_sent >= 8
    assert reader.bytes_sent == 0  # nothing was encoded for it
    assert reader.ttfb_ms is not None
    assert summary.performance_summary.ttfb_ms == round(reader.ttfb_ms, 3)
    assert (whole.active_connections, whole.total_runs) == (1, 1)
    assert whole.ended_runs == {"completed": 1}
    assert whole.protocols["channel"].messages_sent == reader.messages_sent
    assert whole.efficiency() == 1.0
