"""What happens when two clients want the same thing at the same moment, or one the opposite."""

import json
import time
from functools import partial
from typing import Any

import pytest
import trio

from tests.helpers.crowd import open_peer
from tests.helpers.cuts import Cut, Framing, Received, exchange, frame, head, upgrade
from tests.helpers.origin import Origin
from tests.helpers.raw import StreamedEvent, get_json
from tests.helpers.servers import ServerProcess
from tests.helpers.sessions import live_runs

pytestmark = pytest.mark.slow

FRAMINGS: tuple[Framing, ...] = ("ndjson", "sse", "websocket")
ROUTES = {"ndjson": "/crawl/stream", "sse": "/crawl/sse"}
PATHS = {"ndjson": "/crawl/stream", "sse": "/crawl/sse/stream"}
TURNS = 6

Answers = list[Received]


def new_session() -> str:
    return f"race-{time.monotonic_ns()}"


def posted(session: str, urls: list[str], *fields: str, route: str = "/crawl/stream") -> bytes:
    options = {"respect_robots": False, "concurrency": 4, "cache_mode": "disabled"}
    body = json.dumps({"urls": urls, "options": options})
    own = (f"X-Session-ID: {session}", "Content-Type: application/json")
    return head("POST", route, *own, *fields, f"Content-Length: {len(body)}") + body.encode()


def attaching(framing: Framing, session: str, cursor: str | None = None) -> bytes:
    query = f"session_id={session}" + (f"&last_event_id={cursor}" if cursor else "")
    if framing == "websocket":
        return upgrade(query)
    return head("GET", f"{PATHS[framing]}?{query}")


async def at_once(
    server: ServerProcess, *requests: tuple[Framing, bytes], into: Answers | None = None
) -> Answers:
    """Send each on a connection of its own, and read each to its end."""
    answers: dict[int, Received] = {}

    async def one(number: int, framing: Framing, request: bytes) -> None:
        answers[number] = await exchange(server.address, request, framing, None)

    async with trio.open_nursery() as nursery:
        for number, (framing, request) in enumerate(requests):
            nursery.start_soon(one, number, framing, request)
    ordered = [] if into is None else into
    ordered += [answers[number] for number in range(len(requests))]
    return ordered


def logged(received: Received) -> list[StreamedEvent]:
    return [event for event in received.events if event.event_id is not None]


def ids(received: Received) -> list[str | None]:
    return [event.event_id for event in logged(received) if event.kind != "start"]


def kinds(received: Received) -> list[str]:
    return [event.kind for event in logged(received) if event.kind != "start"]


async def test_whoever_attaches_while_the_run_is_started_has_all_of_it(
    server: ServerProcess, origin: Origin
) -> None:
    for turn in range(TURNS):
        session = new_session()
        readers: list[tuple[Framing, bytes]] = [(f, attaching(f, session)) for f in FRAMINGS]
        start = posted(session, origin.pages(3), route="/crawl/sse")
        requests = [*readers, *readers]
        requests.insert(turn % 7, ("ndjson", start))
        answers = await at_once(server, *requests)
        started = answers.pop(turn % 7)
        assert started.status == 200
        assert ids(answers[0])
        for answer in answers:
            assert kinds(answer) == ["metadata", *["result"] * 3, "summary"]
            assert ids(answer) == ids(answers[0])


async def test_of_two_crawls_at_once_in_a_session_one_is_a_conflict(
    server: ServerProcess, origin: Origin
) -> None:
    for _ in range(TURNS):
        session = new_session()
        answers = await at_once(
            server,
            ("ndjson", posted(session, origin.slow_pages(3, 60))),
            ("sse", posted(session, origin.slow_pages(4, 60), route="/crawl/sse")),
            ("ndjson", posted(session, origin.slow_pages(5, 60), route="/crawl/stream")),
        )
        assert sorted(answer.status for answer in answers) in ([200, 409, 409], [409, 409, 200])
        (document,) = (get_json(server.address, f"/sessions/{session}")["runs"],)
        assert len(document) == 1


@pytest.mark.parametrize("delay", [0, 0.1])
async def test_one_idempotency_key_at_once_is_one_run_for_all(
    server: ServerProcess, origin: Origin, delay: float
) -> None:
    for _ in range(TURNS):
        session = new_session()
        urls = origin.slow_pages(3, round(delay * 1000) + 10)
        request = posted(session, urls, "Idempotency-Key: same", "Accept: text/event-stream")
        answers = await at_once(server, *[("ndjson", request)] * 4)
        assert [answer.status for answer in answers] == [200] * 4
        assert len({answer.fields["x-request-id"] for answer in answers}) == 1
        for answer in answers:
            assert kinds(answer) == ["metadata", *["result"] * 3, "summary"]
            assert ids(answer) == ids(answers[0])


async def cut_off(server: ServerProcess, session: str, urls: list[str], events: int) -> Received:
    """Start a crawl, read so many events, and vanish; its run has no reader when this returns."""
    cut = Cut("reset", events - 1, 0)
    received = await exchange(server.address, posted(session, urls), "ndjson", cut)
    with trio.fail_after(5):
        while get_json(server.address, f"/sessions/{session}")["subscribers"]:
            await trio.sleep(0.005)
    return received


async def test_two_clients_that_take_over_a_lingering_run_at_once_both_have_the_rest(
    server: ServerProcess, origin: Origin
) -> None:
    for turn in range(TURNS):
        session = new_session()
        urls = [*origin.pages(3), *origin.slow_pages(3, 120)]
        seen = await cut_off(server, session, urls, 3)
        cursor = logged(seen)[-1].event_id
        framing = FRAMINGS[turn % 3]
        answers = await at_once(
            server,
            (framing, attaching(framing, session, cursor)),
            ("sse", attaching("sse", session, cursor)),
        )
        for answer in answers:
            assert not [event for event in answer.events if event.kind == "gap"]
            assert kinds(answer)[-1] == "summary"
            whole = [*logged(seen), *logged(answer)]
            assert [event.kind for event in whole].count("result") == len(urls)
            numbers = [int(str(event.event_id).rpartition("-")[2]) for event in whole]
            assert numbers == list(range(1, len(numbers) + 1))
        (run,) = get_json(server.address, f"/sessions/{session}")["runs"]
        assert run["state"] == "completed"


async def test_an_equal_body_takes_a_run_without_a_reader_over_and_only_one_of_two_does(
    server: ServerProcess, origin: Origin
) -> None:
    for _ in range(TURNS):
        session = new_session()
        urls = [*origin.pages(3), *origin.slow_pages(2, 250)]
        seen = await cut_off(server, session, urls, 3)
        again = posted(session, urls)
        answers = await at_once(server, ("ndjson", again), ("ndjson", again))
        assert sorted(answer.status for answer in answers) == [200, 409]
        (taken,) = [answer for answer in answers if answer.status == 200]
        # From the run's start: what was seen comes again under the ids that it had.
        assert ids(taken)[: len(ids(seen))] == ids(seen)
        assert kinds(taken) == ["metadata", *["result"] * 5, "summary"]


async def test_readers_of_a_session_that_is_deleted_all_get_its_summary(
    server: ServerProcess, origin: Origin
) -> None:
    for _ in range(TURNS):
        session = new_session()
        urls = [*origin.pages(2), *origin.stalling(2, host=2)]
        readers = [(framing, attaching(framing, session)) for framing in FRAMINGS]
        answers: Answers = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(at_once, server, *readers, *readers, into=answers))
            start = posted(session, urls, route="/crawl/sse")
            await exchange(server.address, start, "ndjson", None)
            with trio.fail_after(5):
                while origin.in_flight < 2:
                    await trio.sleep(0.005)
            deletions = [head("DELETE", f"/sessions/{session}")] * 2
            deleted = await at_once(server, *(("ndjson", one) for one in deletions))
            assert [answer.status for answer in deleted] == [200, 200]
        for answer in answers:
            assert kinds(answer)[-1] == "summary"
            assert ids(answer) == ids(answers[0])
            last = answer.events[-1].data
            assert last.get("data", last)["status"] == "cancelled"
        assert not live_runs(server)


async def test_a_get_on_an_idle_sockets_session_waits_for_its_run_and_has_all_of_it(
    server: ServerProcess, origin: Origin
) -> None:
    session = new_session()
    data: dict[str, Any] = {"urls": origin.pages(2), "options": {"respect_robots": False}}
    answers: Answers = []

    async def attach(framing: Framing) -> None:
        request = attaching(framing, session)
        answers.append(await exchange(server.address, request, framing, None))

    async with open_peer(server.address) as peer, trio.open_nursery() as nursery:
        await peer.upgrade(f"/crawl/ws?session_id={session}")
        await peer.receive_until("welcome")
        for framing in FRAMINGS[:2]:
            nursery.start_soon(partial(attach, framing))
        await trio.sleep(0.2)
        await peer.send(action="crawl", request_id="late", data=data)
        await peer.receive_until("summary")
    for answer in answers:
        assert kinds(answer) == ["metadata", "result", "result", "summary"]


async def test_a_crawl_that_is_cancelled_at_once_has_its_summary_and_nothing_more(
    server: ServerProcess, origin: Origin
) -> None:
    for turn in range(TURNS):
        session = new_session()
        async with open_peer(server.address) as peer:
            await peer.upgrade(f"/crawl/ws?session_id={session}")
            data = {"urls": origin.stalling(2, host=2), "options": {"respect_robots": False}}
            commands = [
                {"action": "crawl", "request_id": "a", "data": data},
                *[{"action": "pause", "request_id": "a", "data": {}}] * (turn % 2),
                {"action": "cancel", "request_id": "a", "data": {}},
                {"action": "cancel", "request_id": "a", "data": {}},
                {"action": "resume", "request_id": "a", "data": {}},
            ]
            await peer.stream.send_all(b"".join(map(frame, commands)))
            summary = (await peer.receive_until("summary"))["data"]
            assert (summary["status"], summary["cancelled"]) == ("cancelled", 2)
            await peer.send(action="ping", request_id="last")
            after = [await peer.receive()]
            while after[-1].get("message_type") != "pong":
                after.append(await peer.receive())
            assert not {"result", "summary", "progress"} & {m["message_type"] for m in after}
