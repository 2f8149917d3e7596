"""The client over WebSockets, against a peer that follows a script."""

import pytest
import trio
from scripted_peer import (
    LIMITS,
    NOW,
    Incoming,
    IncomingSocket,
    crawl_start,
    envelope,
    open_peer,
    summary,
)
from trio.testing import MockClock
from wsproto import events as ws

from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import (
    NotFoundError,
    OverloadedError,
    RemoteProtocolError,
    ValidationError,
    WebSocketClosed,
)
from eventmesh_trio.wire.events import CrawlStart, Gap, Summary

SESSION = {
    "session_id": "s",
    "epoch": "e",
    "created_at": NOW,
    "subscribers": 0,
    "last_event_id": None,
    "runs": [],
}


async def begin(socket: IncomingSocket) -> str:
    """Welcome the client; returns the id of the crawl that it asks for."""
    await socket.reply("welcome", {"session_id": "s"})
    message = await socket.receive()
    assert message["request_type"] == "crawl"
    return str(message["data"]["request_id"])


async def answer_cancel(incoming: Incoming) -> None:
    assert "/cancel?" in incoming.target
    await incoming.answer(200, SESSION)


async def test_a_crawl_is_asked_for_and_its_typed_events_end_with_the_summary(
    autojump_clock: MockClock,
) -> None:
    received = []
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            assert socket.target == f"/crawl/ws?session_id={stream_id}"
            await socket.reply("welcome", {"session_id": "s"})
            message = await socket.receive()
            received.append(message)
            request_id = message["data"]["request_id"]
            await socket.publish(crawl_start(request_id), "e-1")
            await socket.publish(summary(request_id), "e-2")
            received.append(await socket.receive())

        stream_id = "mine"
        async with client.crawl(
            ["http://a/"], session_id=stream_id, protocol="websocket", concurrency=3
        ) as stream:
            events = [event async for event in stream]
        assert [type(event) for event in events] == [CrawlStart, Summary]
        assert stream.summary == events[1]
        assert received[0] == {
            "request_type": "crawl",
            "data": {
                "request_id": stream.request_id,
                "urls": ["http://a/"],
                "options": {"concurrency": 3},
            },
        }
        await trio.testing.wait_all_tasks_blocked()
        assert received[1] == 1000  # the client closed, and said so


async def test_a_socket_that_is_cut_resumes_at_its_last_id(autojump_clock: MockClock) -> None:
    request_ids = []
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_ids.append(await begin(socket))
            await socket.publish(crawl_start(request_ids[0], 1), "e-1")
            frame = socket.protocol.send(envelope(crawl_start(request_ids[0], 2), "e-2"))
            await socket.stream.send_all(frame[:-5])  # what is half there has not arrived
            await trio.aclose_forcefully(socket.stream)

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            assert socket.target.endswith("&last_event_id=e-1")
            await socket.reply("welcome", {})
            await socket.publish(crawl_start(request_ids[0], 1), "e-1")  # seen before
            await socket.publish(crawl_start(request_ids[0], 2), "e-2")
            assert (await socket.receive())["request_type"] == "status"
            await socket.reply("status", {"requests": [{"request_id": request_ids[0]}]})
            await socket.publish(summary(request_ids[0]), "e-3")

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            events = [event async for event in stream]
        assert [event.id for event in events] == ["e-1", "e-2", "e-3"]
        assert stream.connections == 2


async def test_a_request_that_got_lost_is_sent_again(autojump_clock: MockClock) -> None:
    request_ids = []
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_ids.append(await begin(socket))
            await trio.aclose_forcefully(socket.stream)

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await socket.reply("welcome", {})
            assert (await socket.receive())["request_type"] == "status"
            await socket.reply("status", {"requests": []})
            message = await socket.receive()
            assert message["request_type"] == "crawl"
            request_ids.append(message["data"]["request_id"])
            # The first one was only late after all: nothing is wrong with that.
            error = {"type": "conflict", "message": "a run with this id is live"}
            details = {"request_id": request_ids[0]}
            await socket.reply("error", {"message": "m", "error": error, "details": details})
            await socket.publish(crawl_start(request_ids[0]), "e-1")
            await socket.publish(summary(request_ids[0]), "e-2")

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            assert len([event async for event in stream]) == 2
        assert request_ids == [stream.request_id] * 2


async def test_a_run_that_the_server_lost_is_an_error(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await socket.publish(crawl_start(await begin(socket)), "old-1")
            await trio.aclose_forcefully(socket.stream)

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            gap = Gap(timestamp=NOW, missing_from=None, missing_to=None, epoch_changed=True)
            await socket.reply("welcome", {})
            await socket.publish(gap, None)
            assert (await socket.receive())["request_type"] == "status"
            await socket.reply("status", {"requests": []})

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            await incoming.answer(404, {"error": {"type": "not_found", "message": "no session"}})

        events = []
        with pytest.raises(NotFoundError, match="no longer has this run"):  # noqa: PT012
            async with client.crawl(["http://a/"], protocol="websocket") as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401
        assert [type(event) for event in events] == [CrawlStart, Gap]
        assert len(stream.gaps) == 1


async def test_a_refused_crawl_is_a_typed_exception(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_id = await begin(socket)
            error = {
                "type": "validation_error",
                "message": "urls[0] is not a URL",
                "context": {"field": "urls[0]"},
            }
            await socket.reply("error", {"request_id": request_id, "message": "m", "error": error})

        peer.on_request(answer_cancel)
        with pytest.raises(ValidationError, match="is not a URL") as caught:
            async with client.crawl(["x"], protocol="websocket"):
                pytest.fail("entered")
        assert caught.value.field == "urls[0]"


async def test_a_refused_handshake_is_a_typed_exception(autojump_clock: MockClock) -> None:
    async with open_peer(ClientLimits(max_attempts=0)) as (peer, client):

        @peer.on_request
        async def _(incoming: Incoming) -> None:
            error = {"type": "overloaded", "message": "draining"}
            await incoming.answer(503, {"error": error}, Retry_After="5")

        peer.on_request(answer_cancel)
        with pytest.raises(OverloadedError, match="draining") as caught:
            async with client.crawl(["http://a/"], protocol="websocket"):
                pytest.fail("entered")
        assert caught.value.retry_after_seconds == 5


async def test_pings_are_answered_while_events_are_awaited(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):
        sockets = []

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            sockets.append(socket)
            request_id = await begin(socket)
            await socket.publish(crawl_start(request_id), "e-1")
            await socket.send(ws.Ping(payload=b"there?"), envelope(crawl_start(request_id), "e-2"))
            await trio.sleep(1)
            await socket.publish(summary(request_id), "e-3")
            assert await socket.receive() == 1000

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            assert len([event async for event in stream]) == 3
        await trio.testing.wait_all_tasks_blocked()
        assert sockets[0].pongs == [b"there?"]


async def test_events_before_a_close_in_the_same_packet_are_delivered(
    autojump_clock: MockClock,
) -> None:
    async with open_peer() as (peer, client):
        request_ids = []

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_ids.append(await begin(socket))
            await socket.send(
                ws.Ping(),
                envelope(crawl_start(request_ids[0]), "e-1"),
                ws.CloseConnection(code=1001, reason="going away"),
            )

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            assert socket.target.endswith("last_event_id=e-1")
            await socket.publish(summary(request_ids[0]), "e-2")

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            assert [event.id async for event in stream] == ["e-1", "e-2"]


@pytest.mark.parametrize("code", [1002, 1008, 1009])
async def test_a_close_that_would_come_again_is_an_error(
    autojump_clock: MockClock, code: int
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await begin(socket)
            await socket.send(ws.CloseConnection(code=code, reason="no"))

        peer.on_request(answer_cancel)
        with pytest.raises(WebSocketClosed) as caught:
            async with client.crawl(["http://a/"], protocol="websocket"):
                pytest.fail("entered")
        assert caught.value.close_code == code


async def test_a_message_over_its_limit_is_refused(autojump_clock: MockClock) -> None:
    async with open_peer(ClientLimits(max_event_bytes=1000)) as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await begin(socket)
            await socket.send(ws.TextMessage(data="x" * 1001, message_finished=False))

        peer.on_request(answer_cancel)
        with pytest.raises(RemoteProtocolError, match="over 1000 bytes"):
            async with client.crawl(["http://a/"], protocol="websocket"):
                pytest.fail("entered")


async def test_fragments_are_joined(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            message = envelope(summary(await begin(socket)), "e-1").data
            for at in range(0, len(message), 50):
                last = at + 50 >= len(message)
                await socket.send(ws.TextMessage(data=message[at : at + 50], message_finished=last))

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            assert [type(event) async for event in stream] == [Summary]


@pytest.mark.parametrize("message", ["nonsense", "[]", '{"message_type":"result","data":{}}'])
async def test_what_is_no_message_of_ours_is_the_servers_error(
    autojump_clock: MockClock, message: str
) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await begin(socket)
            await socket.send(ws.TextMessage(data=message))

        peer.on_request(answer_cancel)
        with pytest.raises(RemoteProtocolError):
            async with client.crawl(["http://a/"], protocol="websocket"):
                pytest.fail("entered")


async def test_a_cancelled_wait_loses_nothing(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_id = await begin(socket)
            await socket.publish(crawl_start(request_id), "e-1")
            frame = socket.protocol.send(envelope(crawl_start(request_id), "e-2"))
            await socket.stream.send_all(frame[:9])
            await trio.sleep(10)
            await socket.stream.send_all(frame[9:])
            await socket.publish(summary(request_id), "e-3")

        events = []
        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            while stream.summary is None or len(events) < 3:
                with trio.move_on_after(0.7):
                    events.append(await anext(stream))
        assert [event.id for event in events] == ["e-1", "e-2", "e-3"]
        assert stream.connections == 1


async def test_a_silent_socket_is_given_up_and_resumed(autojump_clock: MockClock) -> None:
    async with open_peer() as (peer, client):
        request_ids = []

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            request_ids.append(await begin(socket))
            await socket.publish(crawl_start(request_ids[0]), "e-1")

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await socket.publish(summary(request_ids[0]), "e-2")

        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            assert len([event async for event in stream]) == 2
        assert peer.dialled_at[1] - peer.dialled_at[0] == pytest.approx(LIMITS.idle_seconds, abs=1)


async def test_leaving_the_block_cancels_the_run_and_closes_the_socket(
    autojump_clock: MockClock,
) -> None:
    codes = []
    async with open_peer() as (peer, client):

        @peer.on_socket
        async def _(socket: IncomingSocket) -> None:
            await socket.publish(crawl_start(await begin(socket)), "e-1")
            codes.append(await socket.receive())

        peer.on_request(answer_cancel)
        async with client.crawl(["http://a/"], protocol="websocket") as stream:
            await anext(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [1000]
        assert len(peer.requests) == 1
