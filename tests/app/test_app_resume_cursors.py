"""A cursor that means nothing here gets a gap and then the rest; one that has everything, 204."""

import json
import uuid
from typing import Any

import pytest

from tests.helpers.cuts import Cut, Framing, Received, exchange, head, upgrade
from tests.helpers.origin import Origin
from tests.helpers.raw import StreamedEvent, WebSocketClient, post_json
from tests.helpers.servers import KINDS, Kind, ServerProcess, open_server

pytestmark = pytest.mark.slow

FRAMINGS: tuple[Framing, ...] = ("ndjson", "sse", "websocket")
PATHS = {"ndjson": "/crawl/stream", "sse": "/crawl/sse/stream"}
OPTIONS = {"respect_robots": False, "concurrency": 1}


@pytest.fixture
def session() -> str:
    return f"cursor-{uuid.uuid4().hex[:12]}"


def start(server: ServerProcess, session: str, urls: list[str]) -> None:
    body = {"urls": urls, "options": OPTIONS}
    answer = post_json(server.address, "/crawl/sse", body, [("X-Session-ID", session)])
    assert answer.status == 200, answer


async def follow(
    server: ServerProcess,
    framing: Framing,
    session: str,
    cursor: str | None = None,
    *,
    events: int | None = None,
) -> Received:
    """Attach with a cursor, and read to the end; a socket, to the summary or to so many events."""
    query = f"session_id={session}" + ("" if cursor is None else f"&last_event_id={cursor}")
    cut = None if events is None else Cut("close", events - 1, 0)
    if framing == "websocket":
        return await exchange(server.address, upgrade(query), framing, cut)
    return await exchange(server.address, head("GET", f"{PATHS[framing]}?{query}"), framing, cut)


def ids(events: list[StreamedEvent]) -> list[str]:
    return [event.event_id for event in events if event.event_id is not None]


def gaps(events: list[StreamedEvent], framing: Framing) -> list[dict[str, Any]]:
    found = [event.data for event in events if event.kind == "gap"]
    return [gap["data"] for gap in found] if framing == "websocket" else found


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_cursor_that_is_not_of_this_log_gets_a_gap_and_then_everything(
    server: ServerProcess, origin: Origin, session: str, framing: Framing
) -> None:
    other = f"{session}-other"
    for name in (session, other):
        start(server, name, origin.pages(2))
    whole = ids((await follow(server, framing, session)).events)
    epoch, _, last = whole[-1].rpartition("-")
    (foreign, *_) = ids((await follow(server, framing, other)).events)
    cursors = {
        foreign: True,  # another session's, and so another epoch's
        "someotherepoch-3": True,
        f"{epoch}-{int(last) + 1}": False,  # of the future
        f"{epoch}-99999999999999999": False,
        "yesterday": False,
        f"{epoch}-": False,
        f"{epoch}--1": False,
        f"{epoch}-1.5": False,
        f"-{last}": False,
        "%00": False,
        "%F0%9F%A6%8A-3": None,
        "9" * 300: False,
    }
    for cursor, epoch_changed in cursors.items():
        events = (await follow(server, framing, session, cursor)).events
        first = events[1] if framing == "websocket" else events[0]  # after the welcome
        assert (first.kind, first.event_id) == ("gap", None), cursor
        (gap,) = gaps(events, framing)
        assert (gap["missing_from"], gap["missing_to"]) == (None, None), cursor
        if epoch_changed is not None:
            assert gap["epoch_changed"] is epoch_changed, cursor
        assert ids(events) == whole, cursor


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cursor_older_than_the_log_is_told_exactly_what_is_missing(
    kind: Kind, origin: Origin, session: str
) -> None:
    with open_server(kind, {"EVENTMESH_MESH__REPLAY_BYTES": "20000"}) as server:
        for framing in FRAMINGS:
            name, unwrapped = f"{session}-{framing}", framing != "websocket"
            start(server, name, origin.pages(40))
            whole = ids((await follow(server, framing, name)).events)
            numbers = [int(event_id.rpartition("-")[2]) for event_id in whole]
            # An envelope has no start event.
            assert numbers == [number for number in range(1, 44) if number != 2 or unwrapped]
            epoch = whole[0].rpartition("-")[0]
            events = (await follow(server, framing, name, f"{epoch}-2")).events
            (gap,) = gaps(events, framing)
            assert gap["epoch_changed"] is False
            assert gap["missing_from"] == 3
            assert gap["missing_to"] < 43
            assert ids(events) == [f"{epoch}-{n}" for n in range(gap["missing_to"] + 1, 44)]
            # And what is still there comes without a gap.
            kept = (await follow(server, framing, name, whole[-3])).events
            assert (gaps(kept, framing), ids(kept)) == ([], whole[-2:])


@pytest.mark.parametrize("framing", ["ndjson", "sse"])
async def test_whoever_has_everything_is_told_to_stop_and_a_newer_run_is_not_kept_from_it(
    server: ServerProcess, origin: Origin, session: str, framing: Framing
) -> None:
    start(server, session, origin.pages(2))
    whole = ids((await follow(server, framing, session)).events)
    done = await follow(server, framing, session, whole[-1])
    assert (done.status, done.events) == (204, [])
    start(server, session, origin.pages(1))
    more = ids((await follow(server, framing, session, whole[-1])).events)
    assert [int(event_id.rpartition("-")[2]) for event_id in more] == [6, 7, 8, 9]


async def test_a_post_that_is_repeated_goes_on_behind_its_cursor_or_is_told_of_a_gap(
    server: ServerProcess, origin: Origin, session: str
) -> None:
    body = json.dumps({"urls": origin.pages(3), "options": OPTIONS}).encode()
    fields = [
        f"X-Session-ID: {session}",
        "Idempotency-Key: again",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]

    async def post(cursor: str | None) -> Received:
        more = [] if cursor is None else [f"Last-Event-ID: {cursor}"]
        request = head("POST", "/crawl/stream", *fields, *more) + body
        return await exchange(server.address, request, "ndjson", None)

    whole = ids((await post(None)).events)
    assert ids((await post(None)).events) == whole
    assert ids((await post(whole[2])).events) == whole[3:]
    assert (await post(whole[-1])).status == 204
    start(server, session, origin.pages(1))  # another run behind it, which it does not follow
    assert ids((await post(whole[2])).events) == whole[3:]
    assert (await post(whole[-1])).status == 204
    events = (await post("someotherepoch-3")).events
    assert [gap["epoch_changed"] for gap in gaps(events, "ndjson")] == [True]
    assert (events[0].kind, ids(events)) == ("gap", whole)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_cursor_of_a_server_that_was_restarted_is_never_met_with_silence(
    origin: Origin, session: str, framing: Framing
) -> None:
    settings = {"EVENTMESH_MESH__ATTACH_WAIT_SECONDS": "0.3"}
    with open_server("native", settings) as server:
        start(server, session, origin.pages(1))
        (*_, old) = ids((await follow(server, framing, session)).events)
    with open_server("native", settings) as server:
        if framing == "websocket":
            received = await follow(server, framing, session, old, events=2)
            assert [event.kind for event in received.events] == ["welcome", "gap"]
            assert gaps(received.events, framing)[0]["epoch_changed"] is True
            return
        assert (await follow(server, framing, session, old)).status == 404
        # The same where the session is there again, and nothing has begun in it.
        with WebSocketClient(server.address, f"/crawl/ws?session_id={session}"):
            received = await follow(server, framing, session, old)
            nothing = await follow(server, framing, session)
        assert (received.status, [event.kind for event in received.events]) == (200, ["gap"])
        assert received.events[0].data["epoch_changed"] is True
        assert (nothing.status, nothing.events) == (204, [])
