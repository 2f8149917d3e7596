"""The client over HTTP streams, against a peer that follows a script."""

import pytest
import trio
from scripted_peer import (
    LIMITS,
    NOW,
    Incoming,
    crawl_start,
    framed,
    open_peer,
    summary,
)
from trio.testing import MockClock

from eventmesh_trio.client.client import open_client
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import (
    ConfigError,
    ConflictError,
    ConnectionBroken,
    LocalProtocolError,
    NotFoundError,
    OverloadedError,
    RemoteProtocolError,
    ValidationError,
)
from eventmesh_trio.wire.events import (
    CrawlStart,
    ErrorInfo,
    Gap,
    RunError,
    Summary,
    UnknownEvent,
)
from eventmesh_trio.wire.requests import CrawlOptions


@pytest.fixture(params=["sse", "ndjson"])
def framing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


SESSION = {
    "session_id": "s",
    "epoch": "e",
    "created_at": NOW,
    "subscribers": 0,
    "last_event_id": None,
    "runs": [],
}


async def whole_crawl(incoming: Incoming, framing: str) -> None:
    request_id = incoming.request_id
    await incoming.begin(framing)
    await incoming.send(
        framed(framing, crawl_start(request_id), "e-1"), framed(framing, summary(request_id), "e-2")
    )
    await incoming.end()


async def test_a_crawl_is_posted_and_its_typed_events_end_with_the_summary(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await whole_crawl(incoming, framing)

        async with client.crawl(["http://a/"], protocol=framing, concurrency=3) as stream:
            events = [event async for event in stream]
        (posted,) = peer.requests
        assert [type(event) for event in events] == [CrawlStart, Summary]
        assert (stream.summary, stream.last_event_id) == (events[1], "e-2")
        assert (stream.gaps, stream.connections) == ((), 1)
        assert posted.method == "POST"
        assert posted.target == {"sse": "/crawl/sse", "ndjson": "/crawl/stream"}[framing]
        assert posted.json == {"urls": ["http://a/"], "options": {"concurrency": 3}}
        assert posted.fields[b"x-session-id"].decode() == stream.session_id
        assert posted.request_id == stream.request_id
        assert b"idempotency-key" in posted.fields


async def test_a_stream_that_is_cut_resumes_at_its_last_id(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing)
            await incoming.send(framed(framing, crawl_start(incoming.request_id, 1), "e-1"))
            block = framed(framing, crawl_start(incoming.request_id, 2), "e-2")
            await incoming.send(block[:-5])  # what is half there has not arrived
            await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = peer.requests[0].request_id
            assert incoming.method == "GET"
            assert incoming.fields[b"last-event-id"] == b"e-1"
            await incoming.begin(framing)
            await incoming.send(
                framed(framing, crawl_start(request_id, 1), "e-1"),  # seen before
                framed(framing, crawl_start(request_id, 2), "e-2"),
                framed(framing, summary(request_id), "e-3"),
            )

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            events = [event async for event in stream]
        assert [e.id for e in events] == ["e-1", "e-2", "e-3"]
        assert stream.connections == 2
        path = {"sse": "/crawl/sse/stream", "ndjson": "/crawl/stream"}[framing]
        assert peer.requests[1].target == f"{path}?session_id={stream.session_id}"


async def test_a_lost_answer_is_posted_again_under_the_same_key(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await whole_crawl(incoming, framing)

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            events = [event async for event in stream]
        first, second = peer.requests
        assert len(events) == 2
        assert (first.method, first.target, first.body) == (
            second.method,
            second.target,
            second.body,
        )
        for name in (b"idempotency-key", b"x-session-id", b"x-request-id"):
            assert first.fields[name] == second.fields[name]


async def test_leaving_the_block_cancels_the_run(autojump_clock: MockClock, framing: str) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing)
            await incoming.send(framed(framing, crawl_start(incoming.request_id), "e-1"))

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            await anext(stream)
        assert peer.requests[1].method == "POST"
        assert peer.requests[1].target == (
            f"/sessions/{stream.session_id}/cancel?request_id={stream.request_id}"
        )


async def test_a_cancelled_task_still_cancels_its_run_and_within_its_limit(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))

        @peer.on_request
        async def _(_: Incoming) -> None:
            await trio.sleep_forever()  # no answer

        with trio.move_on_after(7) as scope:
            async with client.crawl(["http://a/"]) as stream:
                async for _ in stream:
                    pass
        assert scope.cancelled_caught
        assert trio.current_time() - peer.dialled_at[1] == pytest.approx(LIMITS.farewell_seconds)
        assert "/cancel?" in peer.requests[1].target
        peer.stop()


async def test_leaving_before_the_first_answer_cancels_what_was_asked_for(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(_: Incoming) -> None:
            await trio.sleep_forever()  # as one that waits for its search provider

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        with trio.move_on_after(3) as scope:
            async with client.deepsearch("q"):
                pass
        assert scope.cancelled_caught
        asked = peer.requests[0].request_id
        assert peer.requests[1].target.endswith(f"/cancel?request_id={asked}")
        peer.stop()


async def test_an_equal_run_that_was_left_behind_is_followed_and_controlled_by_its_own_name(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing, X_Request_ID="req-old")
            await incoming.send(framed(framing, crawl_start("req-old"), "e-1"))
            await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing, X_Request_ID="req-of-the-get")
            await incoming.send(framed(framing, crawl_start("req-old"), "e-2"))

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        async with client.crawl(["http://a/"], protocol=framing, session_id="nightly") as stream:
            assert len([await anext(stream), await anext(stream)]) == 2
            assert stream.request_id == "req-old"
        assert peer.requests[2].target == "/sessions/nightly/cancel?request_id=req-old"


async def test_an_end_without_the_summary_is_an_error(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))
            await incoming.end()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.no_content()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        with pytest.raises(RemoteProtocolError, match="summary"):  # noqa: PT012
            async with client.crawl(["http://a/"]) as stream:
                async for _ in stream:
                    pass


@pytest.mark.parametrize("field", [("Authorization", "secret\n"), ("a b", "c"), ("X-Y", " z")])
async def test_a_field_that_cannot_be_sent_is_refused_by_its_name(field: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=field[0]) as caught:
        async with open_client("http://mesh.test", fields=[field]):
            pass
    assert "secret" not in str(caught.value)


async def test_a_finished_crawl_is_not_cancelled(autojump_clock: MockClock, framing: str) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await whole_crawl(incoming, framing)

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            async for _ in stream:
                pass
        assert len(peer.requests) == 1


async def test_controls_go_to_the_run_on_requests_of_their_own(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))

        for _ in range(4):

            @peer.on_request
            async def _(incoming: Incoming) -> None:
                await incoming.answer(200, SESSION)

        async with client.crawl(["http://a/"]) as stream:
            await stream.pause()
            await stream.resume()
            await stream.cancel()
        names = [r.target.partition("?")[0].rpartition("/")[2] for r in peer.requests[1:]]
        assert names == ["pause", "resume", "cancel", "cancel"]


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "validation_error", ValidationError),
        (409, "conflict", ConflictError),
        (404, "not_found", NotFoundError),
    ],
)
async def test_a_refusal_is_a_typed_exception(
    autojump_clock: MockClock, status: int, kind: str, expected: type[Exception], framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            details = {"field": "urls[0]"}
            error = {"type": kind, "message": "no", "details": details, "retryable": False}
            await incoming.answer(status, {"error": error})

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(404, {"error": {"type": "not_found", "message": "no session"}})

        with pytest.raises(expected, match="no") as caught:
            async with client.crawl(["x"], protocol=framing):
                pytest.fail("entered")
        if isinstance(caught.value, ValidationError):
            assert caught.value.field == "urls[0]"


async def test_an_overloaded_server_is_asked_again_when_it_said(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            error = {"type": "overloaded", "message": "full", "retryable": True}
            await incoming.answer(503, {"error": error}, Retry_After="40")

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await whole_crawl(incoming, framing)

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            assert len([event async for event in stream]) == 2
        assert peer.dialled_at[1] - peer.dialled_at[0] == pytest.approx(40)


async def test_a_wait_beyond_the_limit_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            error = {"type": "overloaded", "message": "full"}
            await incoming.answer(503, {"error": error}, Retry_After="3600")

        with pytest.raises(OverloadedError) as caught:
            async with client.crawl(["http://a/"]):
                pytest.fail("entered")
        assert caught.value.retry_after_seconds == 3600
        assert trio.current_time() - peer.dialled_at[0] < 1


async def test_a_server_that_is_not_there_is_an_error_at_once(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):
        before = trio.current_time()
        with pytest.raises(ConnectionBroken, match="cannot connect"):
            async with client.crawl(["http://a/"]):
                pytest.fail("entered")
        assert trio.current_time() == before
        assert len(peer.dialled_at) == 1


async def test_a_server_that_stays_away_is_an_error_after_the_attempts_allowed(
    autojump_clock: MockClock,
) -> None:
    limits = ClientLimits(max_attempts=4, backoff_seconds=1.0, max_backoff_seconds=100)
    async with open_peer(limits) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("ndjson")
            await incoming.send(framed("ndjson", crawl_start(incoming.request_id), "e-1"))
            await incoming.cut()

        with pytest.raises(ConnectionBroken):  # noqa: PT012
            async with client.crawl(["http://a/"], protocol="ndjson") as stream:
                async for _ in stream:
                    pass
        waits = [b - a for a, b in zip(peer.dialled_at, peer.dialled_at[1:6], strict=False)]
        assert len(waits) == 5  # four reconnects, and the farewell
        for wait, least in zip(waits, (1, 2, 4, 8), strict=False):
            assert least <= wait <= least * 1.5


async def test_an_outage_ends_at_its_limit(autojump_clock: MockClock) -> None:
    limits = ClientLimits(max_attempts=1000, max_outage_seconds=30)
    async with open_peer(limits) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", crawl_start(incoming.request_id), "e-1"))
            await incoming.cut()

        with pytest.raises(ConnectionBroken):  # noqa: PT012
            async with client.crawl(["http://a/"]) as stream:
                async for _ in stream:
                    pass
        assert 10 < peer.dialled_at[-1] - peer.dialled_at[0] <= 31


async def test_the_servers_retry_is_the_first_wait(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(
                b"retry: 3000\n", framed("sse", crawl_start(incoming.request_id), "e-1")
            )
            await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(framed("sse", summary(peer.requests[0].request_id), "e-2"))

        async with client.crawl(["http://a/"]) as stream:
            async for _ in stream:
                pass
        assert 3 <= peer.dialled_at[1] - peer.dialled_at[0] <= 4.5


async def test_a_silent_connection_is_given_up_and_resumed(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing)
            await incoming.send(framed(framing, crawl_start(incoming.request_id), "e-1"))
            await trio.sleep_forever()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing)
            await incoming.send(framed(framing, summary(peer.requests[0].request_id), "e-2"))

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            assert len([event async for event in stream]) == 2
        assert peer.dialled_at[1] - peer.dialled_at[0] == pytest.approx(LIMITS.idle_seconds, abs=1)
        peer.stop()


async def test_a_gap_is_an_event_and_is_remembered(autojump_clock: MockClock, framing: str) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = incoming.request_id
            gap = Gap(timestamp=NOW, missing_from=2, missing_to=7, epoch_changed=False)
            await incoming.begin(framing)
            await incoming.send(
                framed(framing, crawl_start(request_id), "e-1"),
                framed(framing, gap, None),
                framed(framing, summary(request_id), "e-8"),
            )

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            kinds = [type(event) async for event in stream]
        assert kinds == [CrawlStart, Gap, Summary]
        assert [(gap.missing_from, gap.missing_to) for gap in stream.gaps] == [(2, 7)]


async def test_another_epoch_without_a_word_is_a_gap_too(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = incoming.request_id
            await incoming.begin(framing)
            await incoming.send(
                framed(framing, crawl_start(request_id), "old-5"),
                framed(framing, crawl_start(request_id), "new-1"),
                framed(framing, summary(request_id), "new-2"),
            )

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            kinds = [type(event) async for event in stream]
        assert kinds == [CrawlStart, Gap, CrawlStart, Summary]
        assert [gap.epoch_changed for gap in stream.gaps] == [True]


async def test_an_announced_change_of_epoch_is_one_gap(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = incoming.request_id
            gap = Gap(timestamp=NOW, missing_from=None, missing_to=None, epoch_changed=True)
            await incoming.begin("sse")
            await incoming.send(
                framed("sse", crawl_start(request_id), "old-5"),
                framed("sse", gap, None),
                framed("sse", summary(request_id), "new-2"),
            )

        async with client.crawl(["http://a/"]) as stream:
            kinds = [type(event) async for event in stream]
        assert kinds == [CrawlStart, Gap, Summary]
        assert len(stream.gaps) == 1


async def test_events_of_other_runs_and_echoes_of_failures_are_left_out(
    autojump_clock: MockClock,
) -> None:
    info = ErrorInfo(
        type="timeout",
        error_type="timeout",
        category="network",
        message="m",
        retryable=True,
        retry_after_seconds=None,
        error_code="NET_TIMEOUT",
        context={},
        timestamp=NOW,
    )
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = incoming.request_id
            echo = RunError(
                timestamp=NOW, error=info, recovery_suggestions=(), url="http://a/", index=0
            )
            own = RunError(
                timestamp=NOW, request_id=request_id, error=info, recovery_suggestions=()
            )
            await incoming.begin("ndjson")
            await incoming.send(
                framed("ndjson", summary("another-run"), "e-1"),
                framed("ndjson", echo, None),
                framed("ndjson", own, "e-2"),
                framed("ndjson", summary(request_id), "e-3"),
            )

        async with client.crawl(["http://a/"], protocol="ndjson") as stream:
            events = [event async for event in stream]
        assert [type(event) for event in events] == [RunError, Summary]


async def test_an_unknown_event_is_delivered_once_too(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            body = b'{"event":"comet","id":"e-1","tail":1}'
            block = (
                body + b"\n" if framing == "ndjson" else b"event: comet\ndata: " + body + b"\n\n"
            )
            await incoming.begin(framing)
            await incoming.send(block, block)
            await incoming.send(framed(framing, summary(incoming.request_id), "e-2"))

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            events = [event async for event in stream]
        assert isinstance(events[0], UnknownEvent)
        assert events[0].members["tail"] == 1
        assert len(events) == 2


async def test_a_cancelled_wait_loses_nothing(autojump_clock: MockClock, framing: str) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            request_id = incoming.request_id
            await incoming.begin(framing)
            await incoming.send(framed(framing, crawl_start(request_id), "e-1"))
            block = framed(framing, crawl_start(request_id, 2), "e-2")
            await incoming.send(block[:9])
            await trio.sleep(10)
            await incoming.send(block[9:], framed(framing, summary(request_id), "e-3"))

        events = []
        async with client.crawl(["http://a/"], protocol=framing) as stream:
            while stream.summary is None or len(events) < 3:
                with trio.move_on_after(0.7):
                    events.append(await anext(stream))
        assert [event.id for event in events] == ["e-1", "e-2", "e-3"]
        assert stream.connections == 1


async def test_a_session_is_followed_from_a_cursor_until_204(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            assert incoming.fields[b"last-event-id"] == b"e-7"
            await incoming.begin(framing)
            await incoming.send(
                framed(framing, summary("a"), "e-8"), framed(framing, summary("b"), "e-9")
            )
            await incoming.end()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            assert incoming.fields[b"last-event-id"] == b"e-9"
            await incoming.no_content()

        async with client.attach("mine", "e-7", protocol=framing) as stream:
            assert [event.id async for event in stream] == ["e-8", "e-9"]
        assert [request.method for request in peer.requests] == ["GET", "GET"]  # no cancel
        assert peer.dialled_at[0] == peer.dialled_at[1]


async def test_an_attached_stream_of_an_unknown_session_says_so(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(404, {"error": {"type": "not_found", "message": "no session"}})

        async with client.attach("gone") as stream:
            with pytest.raises(NotFoundError):
                await anext(stream)


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"data: {}\n\n"])
async def test_what_is_no_event_is_the_servers_error(
    autojump_clock: MockClock, data: bytes
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("sse")
            await incoming.send(data)

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        with pytest.raises(RemoteProtocolError, match="no event"):
            async with client.crawl(["http://a/"]):
                pytest.fail("entered")


async def test_another_media_type_is_refused(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, {"session_id": "s", "status": "started"})

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        with pytest.raises(RemoteProtocolError, match="application/json"):
            async with client.crawl(["http://a/"]):
                pytest.fail("entered")


async def test_an_event_over_its_limit_is_refused(autojump_clock: MockClock, framing: str) -> None:
    async with open_peer(ClientLimits(max_event_bytes=200)) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin(framing)
            await incoming.send(b"data: " + b"x" * 300)

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        with pytest.raises(RemoteProtocolError, match="longer than 200 bytes"):
            async with client.crawl(["http://a/"], protocol=framing):
                pytest.fail("entered")


async def test_options_are_sent_as_given_and_keywords_stand_over_them(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):
        for options in (CrawlOptions(concurrency=7), {"concurrency": 7, "later_option": 1}, None):

            @peer.on_request
            async def _(incoming: Incoming) -> None:
                await whole_crawl(incoming, "sse")

            async with client.crawl(["http://a/"], options=options, max_retries=1) as stream:
                async for _ in stream:
                    pass
        sent = [request.json["options"] for request in peer.requests]
        assert sent[0]["concurrency"] == 7
        assert sent[0]["max_retries"] == 1
        assert sent[1:] == [
            {"concurrency": 7, "later_option": 1, "max_retries": 1},
            {"max_retries": 1},
        ]


async def test_a_misspelt_option_is_refused_before_anything_is_sent(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):
        with pytest.raises(TypeError, match="concurency"):
            async with client.crawl(["http://a/"], concurency=3):
                pytest.fail("entered")
        assert peer.dialled_at == []


async def test_documents_are_read(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):
        for document in ({"sessions": [SESSION]}, SESSION, {"status": "healthy"}):

            @peer.on_request
            async def _(incoming: Incoming, document: object = document) -> None:
                await incoming.answer(200, document)

        (listed,) = await client.sessions()
        assert listed == await client.session("a b/c")
        assert listed.session_id == "s"
        assert await client.health() == {"status": "healthy"}
        assert [r.target for r in peer.requests] == ["/sessions", "/sessions/a%20b%2Fc", "/health"]


async def test_a_document_of_another_shape_is_the_servers_error(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, {"sessions": [{"session_id": 1}]})

        with pytest.raises(RemoteProtocolError, match="another shape"):
            await client.sessions()


async def test_a_control_request_without_answer_ends_within_its_limit(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(_: Incoming) -> None:
            await trio.sleep_forever()

        before = trio.current_time()
        with pytest.raises(ConnectionBroken, match="no answer within 30 s"):
            await client.health()
        assert trio.current_time() - before == pytest.approx(30)
        peer.stop()


async def test_a_response_over_its_limit_is_refused(autojump_clock: MockClock) -> None:
    async with open_peer(ClientLimits(max_response_bytes=10)) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, {"status": "x" * 100})

        with pytest.raises(RemoteProtocolError, match="larger than 10 bytes"):
            await client.health()


async def test_a_closed_client_refuses(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):
        client._endpoint.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            await client.health()
        assert peer.dialled_at == []


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "x\r\nY: 1", "ü", "a" * 129])
async def test_ids_that_cannot_be_are_refused_before_anything_is_sent(
    autojump_clock: MockClock, bad: str
) -> None:
    async with open_peer() as (peer, client):
        with pytest.raises(ValidationError, match="session_id"):
            async with client.attach(bad):
                pytest.fail("entered")
        if bad:
            with pytest.raises(ValidationError, match="session_id"):
                async with client.crawl(["http://a/"], session_id=bad):
                    pytest.fail("entered")
        with pytest.raises(ValidationError, match="last_event_id"):
            async with client.attach("s", "e-1\r\nX: 1"):
                pytest.fail("entered")
        assert peer.dialled_at == []


async def test_an_id_that_cannot_be_sent_back_is_not_a_cursor(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.begin("ndjson")
            await incoming.send(
                framed("ndjson", crawl_start(incoming.request_id), "e-1"),
                framed("ndjson", crawl_start(incoming.request_id), "e-2\r\nX: 1"),
            )
            await incoming.cut()

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            assert incoming.fields[b"last-event-id"] == b"e-1"
            await incoming.begin("ndjson")
            await incoming.send(framed("ndjson", summary(peer.requests[0].request_id), "e-3"))

        async with client.crawl(["http://a/"], protocol="ndjson") as stream:
            assert len([event async for event in stream]) == 3


async def test_a_summary_of_a_newer_shape_ends_the_crawl(
    autojump_clock: MockClock, framing: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            body = (
                b'{"event":"summary","id":"e-1","request_id":"%b"}' % incoming.request_id.encode()
            )
            block = body + b"\n" if framing == "ndjson" else b"data: " + body + b"\n\n"
            await incoming.begin(framing)
            await incoming.send(block)

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(200, SESSION)

        async with client.crawl(["http://a/"], protocol=framing) as stream:
            assert [type(event) async for event in stream] == [UnknownEvent]
        assert stream.summary is None
