"""Readers that stand still: they hold back their own runs and no others, and lose nothing."""

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import h11
import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import (
    Connection,
    StreamedEvent,
    WebSocketClient,
    get_json,
    open_crawl,
    tag_of,
)
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.sessions import live_runs, subscribers

GONE_SECONDS = 2.0
STUCK = 50
STUCK_URLS = 40
FRAMINGS = ("ndjson", "sse", "websocket")
TARGETS = {"ndjson": "/crawl/stream", "sse": "/crawl/sse"}


class Reader:
    """One client of one run, which reads when it is told to."""

    def __init__(
        self,
        server: ServerProcess,
        framing: str,
        urls: list[str],
        options: dict[str, Any],
        session: str,
        receive_buffer: int | None = None,
    ) -> None:
        self.framing = framing
        self.urls = urls
        if framing == "websocket":
            self.socket = WebSocketClient(
                server.address, f"/crawl/ws?session_id={session}", receive_buffer=receive_buffer
            )
            data = {"urls": urls, "options": {"respect_robots": False, **options}}
            self.socket.send({"action": "crawl", "request_id": "run", "data": data})
            self.connection = self.socket.connection
        else:
            self.connection = open_crawl(
                server.address,
                urls,
                options,
                target=TARGETS[framing],
                headers=[("X-Session-ID", session), ("Accept", "text/event-stream")],
                receive_buffer=receive_buffer,
            )

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def results(self) -> Iterator[dict[str, Any]]:
        """Its results, to the end of its run, which must be whole."""
        indexes = []
        for kind, data in self._events():
            if kind == "result":
                indexes.append(data["index"])
                yield data
        assert sorted(indexes) == list(range(len(self.urls)))

    def _events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.framing != "websocket":
            for event in self.connection.read_events():
                yield event.kind, event.data
            return
        kind = ""
        while kind != "summary":
            message = self.socket.receive()
            kind = tag_of(message)
            yield kind, message["data"]


def holds_open(stream: Connection) -> bool:
    """Whether the server still holds its end of a connection (proc(5), /proc/net/tcp)."""
    ends = [f":{end[1]:04X}" for end in (stream.socket.getpeername(), stream.socket.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if local.endswith(ends[0]) and remote.endswith(ends[1]):
            return state in ("01", "08")  # ESTABLISHED, CLOSE_WAIT
    return False


def test_a_reader_that_stands_still_too_long_is_cut_off_and_can_resume(origin: Origin) -> None:
    pages = [origin.url(f"/large/{number}?kb=128", host=3) for number in range(20)]
    session = f"stalled-{uuid.uuid4().hex[:8]}"
    with open_server("native", {"EVENTMESH_MESH__STALL_SECONDS": "0.5"}) as server:
        with open_crawl(
            server.address, pages, headers=[("X-Session-ID", session)], receive_buffer=4096
        ) as stream:
            wait_until(lambda: subscribers(server) == 0, 10, "a stalled reader is still attached")
            wait_until(
                lambda: not holds_open(stream),
                GONE_SECONDS,
                "the connection of a reader that was cut off is still open",
            )
            seen: list[StreamedEvent] = []
            with suppress(h11.RemoteProtocolError, ConnectionResetError):
                seen.extend(stream.read_events())
                pytest.fail("what was cut off looks like an end")
        assert live_runs(server), "its run did not wait for it"
        kept = [event for event in seen if event.event_id is not None]
        cursor = f"&last_event_id={kept[-1].event_id}" if kept else ""
        with Connection(server.address) as stream:
            stream.send("GET", f"/crawl/stream?session_id={session}{cursor}")
            assert stream.read_head() == 200
            kept += [event for event in stream.read_events() if event.event_id is not None]
    assert [event.kind for event in kept] == ["metadata", "start", *["result"] * 20, "summary"]
    assert sorted(e.data["index"] for e in kept if e.kind == "result") == list(range(20))


def worst_gap(server: ServerProcess, origin: Origin, framing: str) -> float:
    """The longest time between two results of a steady run, in seconds."""
    urls = origin.slow_pages(120, 20, host=1)
    options = {"concurrency": 4, "cache_mode": "disabled"}
    with Reader(server, framing, urls, options, f"fast-{uuid.uuid4().hex}") as reader:
        times = [time.monotonic() for _ in reader.results()]
    return max(later - earlier for earlier, later in pairwise(times))


@pytest.mark.slow
@pytest.mark.parametrize("framing", FRAMINGS)
def test_readers_that_stand_still_hold_their_own_runs_back_and_no_other(
    server: ServerProcess, origin: Origin, framing: str
) -> None:
    worst_gap(server, origin, framing)  # warm: workers, pools, imports
    # The better of two, here and below: a machine's own hiccup is not what is measured.
    alone = min(worst_gap(server, origin, framing) for _ in range(2))
    pages = [origin.url(f"/large/{number}?kb=128", host=3) for number in range(STUCK_URLS)]
    # Into the cache: it is readers that stand still here, not a queue of pages to be extracted.
    with open_crawl(server.address, pages) as stream:
        list(stream.read_events())
    prefix = f"stuck-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                Reader(
                    server,
                    framing,
                    pages,
                    {"concurrency": 2},
                    f"{prefix}-{number}",
                    receive_buffer=4096,
                )
            )
            for number in range(STUCK)
        ]

        def progress() -> list[int]:
            sessions = get_json(server.address, "/sessions")["sessions"]
            mine = [s for s in sessions if s["session_id"].startswith(prefix)]
            return [run["completed"] for s in mine for run in s["runs"]]

        # Until nothing moves any more: every one of them has filled what it may fill.
        deadline = time.monotonic() + 25
        seen: list[int] = []
        while (now := progress()) != seen or len(now) < STUCK or 0 in now:
            assert time.monotonic() < deadline, "the stuck runs never stood still"
            seen = now
            time.sleep(0.4)
        assert max(seen) < STUCK_URLS, "a run was not held back by its reader"
        beside = min(worst_gap(server, origin, framing) for _ in range(2))
        print(
            f"{server.kind} {framing}: worst gap {alone * 1000:.1f} ms, beside {STUCK}: "
            f"{beside * 1000:.1f}; each held at {min(seen)}-{max(seen)} of {STUCK_URLS}"
        )
        assert beside <= 3 * alone + 0.05
        # Reading again, held runs go on to their ends and have lost nothing.
        for reader in readers[:3]:
            assert len(list(reader.results())) == STUCK_URLS
    wait_until(lambda: subscribers(server) == 0, 5, "a stuck reader is still attached")
