"""The ASGI exchange under hypercorn's own trio server over memory streams, and bare scopes."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h11
import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol import ws_stream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from structlog.testing import capture_logs
from transport_harness import (
    GET,
    LIMITS,
    HTTPPeer,
    open_websocket,
    upgrade_request,
)
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from eventmesh_trio.abc import Exchange, WebSocket
from eventmesh_trio.errors import (
    ConflictError,
    ConnectionBroken,
    LocalProtocolError,
    WebSocketClosed,
)
from eventmesh_trio.transport.asgi import Message, serve_asgi
from eventmesh_trio.transport.hosted import HostedConnection, HostedDeflate
from eventmesh_trio.transport.http import Handler
from eventmesh_trio.transport.limits import TransportLimits


class NamedSocket:
    """What hypercorn asks of a connection's socket."""

    family = socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.9", 80)

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.1", 5000)


@asynccontextmanager
async def hypercorn_peer(
    handler: Handler, limits: TransportLimits = LIMITS, *, ends: bool = True
) -> AsyncIterator[HTTPPeer]:
    """A client of hypercorn. With ``ends``, closing it must end all that is ours of it.

    (Hypercorn's own task may stay until its keep-alive time is over.)
    """
    running = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        try:
            await serve_asgi(handler, scope, receive, send, limits)
        finally:
            running -= 1

    client, server = memory_stream_pair()
    server.socket = NamedSocket()  # type: ignore[attr-defined]
    config = Config()
    config.errorlog = None
    context = WorkerContext(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(TCPServer(ASGIWrapper(app), config, context, {}, server).run)  # type: ignore[arg-type]
        yield HTTPPeer(client)
        await client.aclose()
        if ends:
            await wait_all_tasks_blocked()
            assert running == 0, "the exchange outlives its client"
        nursery.cancel_scope.cancel()


async def echo(exchange: Exchange) -> None:
    body = b""
    while piece := await exchange.receive_some():
        body += piece
    await exchange.send_response(200, [(b"x-path", exchange.request.path.encode())], body)


# --- HTTP ------------------------------------------------------------------------------------


async def test_a_body_comes_back_and_the_request_says_the_same_as_natively() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await echo(exchange)

    async with hypercorn_peer(handler) as peer:
        await peer.send(
            b"POST /a%20b?q=1 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nContent-Length: 4\r\n\r\n"
        )
        await peer.send(b"body")
        answer = await peer.answer()
        assert (answer.status, answer.body, answer.fields[b"x-path"]) == (200, b"body", b"/a b")
        assert answer.fields[b"content-length"] == b"4"
    (request,) = seen
    assert (request.method, request.path, request.query) == ("POST", "/a b", b"q=1")
    assert (request.peer, request.scheme, request.http_version) == ("192.0.2.1", "http", "1.1")
    assert request.field(b"x-one") == b"1"
    assert not request.wants_websocket


async def test_a_stream_arrives_piece_by_piece_and_ends() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [(b"content-type", b"text/plain")])
        assert exchange.first_byte_at is None
        await exchange.send_some(b"")
        assert exchange.first_byte_at is not None
        await gate.wait()
        await exchange.send_some(b"one")
        await exchange.send_some(b"two")
        await exchange.end_response()

    gate = trio.Event()
    async with hypercorn_peer(handler) as peer:
        await peer.send(GET)
        while b"\r\n\r\n" not in peer.received:
            await peer.more()
        gate.set()
        answer = await peer.answer()
        assert (answer.body, answer.complete) == (b"onetwo", True)


async def test_a_client_that_leaves_is_noticed_by_the_watcher_and_by_the_writer() -> None:
    ended = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"begun")
        await exchange.wait_disconnected()
        with pytest.raises(ConnectionBroken):
            await exchange.send_some(b"more")
        ended.append(True)

    with capture_logs() as logs:
        async with hypercorn_peer(handler) as peer:
            await peer.send(GET)
            await peer.until(b"begun")
    assert ended == [True]
    assert logs == []


async def test_an_unread_body_does_not_hide_the_departure() -> None:
    ended = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"begun")
        await exchange.wait_disconnected()
        ended.append(True)

    async with hypercorn_peer(handler) as peer:
        await peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
        await peer.until(b"begun")
        await peer.send(b"x" * 3_000_000)
    assert ended == [True]


async def test_a_hidden_departure_is_bounded_by_the_maximum_age(autojump_clock: MockClock) -> None:
    limits = attrs.evolve(LIMITS, max_delivery_seconds=100)
    ended = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"begun")
        await exchange.wait_disconnected()
        ended.append(trio.current_time())
        with pytest.raises(ConnectionBroken):
            await exchange.send_some(b"more")

    async with hypercorn_peer(handler, limits) as peer:
        await peer.send(GET + GET)  # the second request hides the end of the connection
        await peer.until(b"begun")
        await peer.stream.aclose()
        await trio.sleep(300)
    assert ended[0] == pytest.approx(100, abs=0.1)


async def test_an_error_is_the_same_json_as_natively() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/bug":
            raise ZeroDivisionError("secret")
        if exchange.request.path == "/nothing":
            return
        raise ConflictError("not now")

    with capture_logs() as logs:
        for path, status in [(b"/", 409), (b"/bug", 500), (b"/nothing", 500)]:
            async with hypercorn_peer(handler) as peer:
                await peer.send(GET.replace(b" / ", b" " + path + b" "))
                answer = await peer.answer()
                assert answer.status == status
                assert answer.fields[b"content-type"] == b"application/json"
                assert json.loads(answer.body)["error"]["status"] == status
                assert b"secret" not in answer.body
    assert len(logs) == 2


@pytest.mark.parametrize("fails", [True, False])
async def test_a_handler_that_ends_in_the_middle_leaves_a_response_without_an_end(
    fails: bool,
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"some")
        if fails:
            raise ZeroDivisionError

    with capture_logs() as logs:
        async with hypercorn_peer(handler) as peer:
            await peer.send(GET)
            answer = await peer.answer()
    assert (answer.body, answer.complete) == (b"some", False)
    assert len(logs) == 1


async def test_body_limits_are_those_of_the_transport(autojump_clock: MockClock) -> None:
    limits = attrs.evolve(LIMITS, max_body_bytes=10)
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    for raw, status in [
        (b"Content-Length: 11\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n", 413),
        (b"Content-Length: 10\r\n\r\n012345678", 408),
        (b"Content-Length: 10\r\n\r\n0123456789", 200),
    ]:
        async with hypercorn_peer(echo, limits, ends=False) as peer:
            await peer.send(head + raw)
            assert (await peer.answer()).status == status


async def test_a_body_whose_time_is_over_is_408_also_when_it_is_asked_for_again(
    mock_clock: MockClock,
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await wait_all_tasks_blocked()
        mock_clock.jump(LIMITS.body_seconds + 1)  # the loop was busy for longer than is left
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    await serve_asgi(echo, scope, receive, send, LIMITS)
    assert sent[0]["status"] == 408


async def test_a_misused_exchange_says_so() -> None:
    async def handler(exchange: Exchange) -> None:
        with pytest.raises(LocalProtocolError):
            await exchange.send_some(b"too early")
        with pytest.raises(LocalProtocolError):
            await exchange.accept_websocket()
        await exchange.send_response(200, [], b"fine")
        with pytest.raises(LocalProtocolError):
            await exchange.send_response(200, [], b"again")

    async with hypercorn_peer(handler) as peer:
        await peer.send(GET)
        assert (await peer.answer()).body == b"fine"


async def test_head_and_statuses_without_a_body() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.method == "HEAD":
            await exchange.send_response(200, [], b"never seen")
        else:
            await exchange.send_response(204, [])

    async with hypercorn_peer(handler) as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await peer.answer("HEAD")
        assert (answer.fields[b"content-length"], answer.body) == (b"10", b"")
        await peer.send(GET)
        answer = await peer.answer()
        assert (answer.status, b"content-length" in answer.fields) == (204, False)


# --- WebSocket ------------------------------------------------------------------------------


async def echo_messages(exchange: Exchange) -> None:
    websocket = await exchange.accept_websocket([(b"x-session-id", b"s1")])
    assert not websocket.takes_frames
    while True:
        await websocket.send_message(await websocket.receive())


@pytest.mark.parametrize("deflate", [False, True])
async def test_messages_come_back(deflate: bool) -> None:
    async with hypercorn_peer(echo_messages) as http:
        peer = await open_websocket(http, deflate=deflate)
        assert b"x-session-id: s1" in peer.head
        await peer.send_text("é" * 1000)
        assert await peer.message() == "é" * 1000
        await peer.send(BytesMessage(b"\x00\xff"))
        assert await peer.message() == b"\x00\xff"
        await peer.send(CloseConnection(4000))
        assert await peer.close_code() == 4000


def host(monkeypatch: pytest.MonkeyPatch, *, enable_deflate: bool = True) -> None:
    """Give hypercorn our reading of messages in place of its own, with small limits."""
    limits = attrs.evolve(
        LIMITS,
        max_message_bytes=5000,
        min_deflate_bytes=100,
        max_deflate_bytes=1000,
        enable_deflate=enable_deflate,
    )
    monkeypatch.setattr(ws_stream, "PerMessageDeflate", partial(HostedDeflate, limits))
    monkeypatch.setattr(ws_stream, "Connection", partial(HostedConnection, limits))


async def test_with_our_reading_hypercorn_compresses_what_we_do_and_inflates_no_bomb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host(monkeypatch)
    async with hypercorn_peer(echo_messages, ends=False) as http:
        peer = await open_websocket(http, deflate=True)
        assert b"permessage-deflate; server_no_context_takeover; client_no" in peer.head
        for size, compressed in [(99, False), (100, True), (1000, True), (1001, False)]:
            await peer.send_text("x" * size)
            await http.more()
            assert bool(http.received[0] & 0x40) == compressed
            assert await peer.message() == "x" * size
        await peer.send(BytesMessage(b"x" * 5000))
        assert await peer.message() == b"x" * 5000
        await peer.send(BytesMessage(b"x" * 5001))
        assert await peer.close_code() == 1009


@pytest.mark.parametrize(("enable", "offers"), [(True, False), (False, True)])
async def test_where_no_compression_is_agreed_on_messages_pass_and_have_their_limit_too(
    monkeypatch: pytest.MonkeyPatch, enable: bool, offers: bool
) -> None:
    host(monkeypatch, enable_deflate=enable)
    async with hypercorn_peer(echo_messages, ends=False) as http:
        peer = await open_websocket(http, deflate=offers)
        assert b"permessage-deflate" not in peer.head
        await peer.send_text("x" * 5000)
        assert await peer.message() == "x" * 5000
        await peer.send_text("x" * 5001)
        assert await peer.close_code() == 1009


@pytest.mark.parametrize("raw", [b"\xc1\x80\0\0\0\0", b"\x83\x80\0\0\0\0", b"\x81\x01x"])
async def test_a_frame_that_cannot_be_closes_with_1002(
    monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    """Compressed without agreement, of an unknown kind, and unmasked."""
    host(monkeypatch)
    async with hypercorn_peer(echo_messages, ends=False) as http:
        peer = await open_websocket(http)
        await http.send(raw)
        assert await peer.close_code() == 1002


@pytest.mark.parametrize("deflate", [False, True])
async def test_with_our_reading_messages_pings_and_the_close_go_both_ways(
    monkeypatch: pytest.MonkeyPatch, deflate: bool
) -> None:
    host(monkeypatch)
    async with hypercorn_peer(echo_messages) as http:
        peer = await open_websocket(http, deflate=deflate)
        for piece, finished in [("é" * 500, False), ("", False), ("ü", True)]:
            await peer.send(TextMessage(piece, message_finished=finished))
        assert await peer.message() == "é" * 500 + "ü"
        await peer.send(Ping(b"are you there"))
        assert await peer.next_event() == Pong(b"are you there")
        await peer.send(BytesMessage(b"\x00\xff"))
        assert await peer.message() == b"\x00\xff"
        await peer.send(CloseConnection(4000))
        assert await peer.close_code() == 4000


async def test_batches_are_messages_and_frames_are_refused() -> None:
    async def handler(exchange: Exchange) -> None:
        websocket = await exchange.accept_websocket()
        await websocket.send_texts([b"one", b"two"])
        with pytest.raises(LocalProtocolError):
            await websocket.send_frames(b"\x81\x00")

    async with hypercorn_peer(handler, ends=False) as http:
        peer = await open_websocket(http)
        assert [await peer.message(), await peer.message()] == ["one", "two"]
        assert await peer.close_code() == 1000


async def test_a_vanished_peer_is_told_to_reader_and_writer() -> None:
    codes = []

    async def handler(exchange: Exchange) -> None:
        websocket = await exchange.accept_websocket()
        for call in (websocket.receive, websocket.receive, partial(websocket.send_message, "x")):
            try:
                await call()
            except WebSocketClosed as error:
                codes.append(error.close_code)

    async with hypercorn_peer(handler) as http:
        await open_websocket(http)
    assert codes == [1006, 1006, 1006]


async def test_our_close_carries_its_code_and_waits_for_the_peers(
    autojump_clock: MockClock,
) -> None:
    async def handler(exchange: Exchange) -> None:
        websocket = await exchange.accept_websocket()
        await websocket.aclose(1001, "resume elsewhere")
        with pytest.raises(WebSocketClosed):
            await websocket.send_message("too late")
        with pytest.raises(WebSocketClosed):
            await websocket.receive()
        await websocket.aclose()

    async with hypercorn_peer(handler) as http:
        peer = await open_websocket(http)
        event = await peer.event()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1001, "resume elsewhere")
        await peer.send(event.response())
        assert await http.rest() == b""
        assert trio.current_time() < LIMITS.close_seconds


async def test_a_message_over_our_limit_closes_with_1009(autojump_clock: MockClock) -> None:
    limits = attrs.evolve(LIMITS, max_message_bytes=1000)
    async with hypercorn_peer(echo_messages, limits, ends=False) as http:
        peer = await open_websocket(http)
        await peer.send_text("x" * 1000)
        assert await peer.message() == "x" * 1000
        await peer.send_text("x" * 1001)
        assert await peer.close_code() == 1009


async def test_a_refused_handshake_is_a_response() -> None:
    async def handler(exchange: Exchange) -> None:
        assert exchange.request.wants_websocket
        raise ConflictError("not now")

    async with hypercorn_peer(handler, ends=False) as peer:
        await peer.send(upgrade_request(target=b"/crawl/ws"))
        answer = await peer.answer()
        assert answer.status == 409
        assert json.loads(answer.body)["error"]["type"] == "conflict"


@pytest.mark.parametrize(("status", "code"), [(403, 1008), (404, 1008), (429, 1013), (503, 1013)])
async def test_where_denial_responses_are_unknown_the_handshake_is_closed_with_a_code(
    status: int, code: int
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_response(status, [])

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await serve_asgi(handler, bare_scope("websocket"), never, send, LIMITS)
    assert sent == [{"type": "websocket.close", "code": code, "reason": ""}]


async def test_a_bug_after_the_handshake_closes_with_1011() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.accept_websocket()
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with hypercorn_peer(handler, ends=False) as http:
            peer = await open_websocket(http)
            assert await peer.close_code() == 1011
    assert len(logs) == 1


# --- bare scopes ---------------------------------------------------------------------------------


def bare_scope(kind: str, **members: Any) -> dict[str, Any]:
    base = {"type": kind, "method": "GET", "path": "/p", "headers": [], "query_string": b""}
    return {**base, **members}


async def never() -> Message:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_scope_with_a_root_path_and_no_client_is_understood() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.send_response(204, [])

    async def send(message: Message) -> None:
        del message

    scope = bare_scope("http", path="/mount/p", root_path="/mount", client=None, scheme="https")
    await serve_asgi(handler, scope, never, send, LIMITS)
    assert (seen[0].path, seen[0].peer, seen[0].scheme) == ("/p", "", "https")


async def test_messages_wait_in_a_bounded_channel() -> None:
    received = []

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        received.append(1)
        return {"type": "websocket.receive", "text": "x"}

    async def handler(exchange: Exchange) -> None:
        await wait_all_tasks_blocked()
        assert len(received) == LIMITS.max_receive_messages + 1
        await exchange.send_response(403, [])

    async def send(message: Message) -> None:
        del message

    await serve_asgi(handler, bare_scope("websocket"), receive, send, LIMITS)


@pytest.mark.parametrize("raised", [BrokenPipeError, trio.BusyResourceError])
async def test_a_server_that_raises_on_send_says_that_the_client_left(
    raised: type[Exception],
) -> None:
    codes: list[object] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.send_response(200, [])
        except ConnectionBroken as error:
            codes.append(type(error))
            raise

    async def handler_ws(exchange: Exchange) -> None:
        websocket: WebSocket = await exchange.accept_websocket()
        try:
            await websocket.send_message("x")
        except WebSocketClosed as error:
            codes.append(error.close_code)

    async def send(message: Message) -> None:
        if message["type"] != "websocket.accept":
            raise raised

    async def connect() -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    with capture_logs() as logs:
        await serve_asgi(handler, bare_scope("http"), never, send, LIMITS)
        await serve_asgi(handler_ws, bare_scope("websocket"), connect, send, LIMITS)
    assert codes == [ConnectionBroken, 1006]
    assert logs == []


async def test_a_handshake_that_the_server_cannot_answer_is_no_bug_of_ours() -> None:
    """Hypercorn raises so where more bytes came in the packet of the handshake."""

    async def handler(exchange: Exchange) -> None:
        await exchange.accept_websocket()
        raise AssertionError("it was accepted")

    async def send(message: Message) -> None:
        assert message["type"] == "websocket.accept"
        raise h11.LocalProtocolError("no switch of protocols was proposed")

    async def connect() -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    with capture_logs() as logs:
        await serve_asgi(handler, bare_scope("websocket"), connect, send, LIMITS)
    assert logs == []
