"""HTTP/1.1 connections over memory streams: what clients rely on, and what they must not break."""

import json
import random
from itertools import pairwise

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from transport_harness import GET, LIMITS, HTTPPeer, http_peer
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from eventmesh_trio.abc import Exchange
from eventmesh_trio.errors import (
    ConnectionBroken,
    LocalProtocolError,
    NotFoundError,
    RemoteProtocolError,
)
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.http import serve_connection

JSON = b"application/json"


async def echo(exchange: Exchange) -> None:
    body = b""
    while piece := await exchange.receive_some():
        body += piece
    target = exchange.request.path.encode()
    await exchange.send_response(200, [(b"x-path", target)], body)


async def stream_forever(exchange: Exchange) -> None:
    """Numbered lines, a second apart, until the client leaves."""
    await exchange.start_response(200, [])
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await exchange.wait_disconnected()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        while True:
            await exchange.send_some(b"line\n")
            await trio.sleep(1)


def post(body: bytes, *fields: bytes, path: bytes = b"/") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*head, b"", body])


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# --- requests and responses ---------------------------------------------------------------------


async def test_one_connection_serves_many_requests() -> None:
    async with http_peer(echo) as peer:
        for number in range(3):
            await peer.send(post(b"body %d" % number, path=b"/%d" % number))
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"body %d" % number)
            assert answer.fields[b"x-path"] == b"/%d" % number
            assert answer.fields[b"date"].endswith(b" GMT")


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with http_peer(echo) as peer:
        raw = b"".join(post(b"x" * number, path=b"/%d" % number) for number in range(20))
        await peer.send(raw)
        for number in range(20):
            answer = await peer.answer()
            assert (answer.fields[b"x-path"], len(answer.body)) == (b"/%d" % number, number)


async def test_a_request_may_come_byte_by_byte() -> None:
    async with http_peer(echo) as peer:
        for byte in CHUNKED + b"3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n":
            await peer.send(bytes((byte,)))
            await wait_all_tasks_blocked()
        assert (await peer.answer()).body == b"abc"


async def test_the_request_says_where_it_came_from_and_what_it_asked() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        seen.append(exchange.request)
        await exchange.send_response(204, [])

    async with http_peer(handler) as peer:
        await peer.send(b"GET /a%20b?q=1 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n\r\n" + GET)
        await peer.answer()
        await peer.answer()
    first, second = seen
    assert (first.method, first.path, first.query) == ("GET", "/a b", b"q=1")
    assert (first.peer, first.scheme, first.http_version) == ("192.0.2.1", "http", "1.1")
    assert first.field(b"x-one") == b"1"
    assert first.connection_id == second.connection_id
    assert first.connection_id.startswith("conn-")


async def test_a_chunked_response_comes_as_one_chunk_a_piece_and_keeps_the_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [(b"content-type", b"text/plain")])
        for piece in (b"one", b"", b"two"):
            await exchange.send_some(piece)
        await exchange.end_response()

    async with http_peer(handler) as peer:
        await peer.send(GET)
        raw = await peer.until(b"0\r\n\r\n")
        assert raw.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        await peer.send(GET)
        assert (await peer.answer()).body == b"onetwo"


@pytest.mark.parametrize("size", [3, 20_000])
async def test_pieces_that_are_sent_at_once_are_one_chunk(size: int) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(*[b"%d" % number * size for number in range(3)])
        await exchange.send_some()
        await exchange.end_response()

    async with http_peer(handler) as peer:
        await peer.send(GET)
        raw = await peer.until(b"0\r\n\r\n")
    body = b"0" * size + b"1" * size + b"2" * size
    assert raw.endswith(b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (3 * size, body))


async def test_a_head_is_held_back_for_its_first_piece_or_flushed_by_an_empty_one() -> None:
    writes = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        assert exchange.started
        assert exchange.first_byte_at is None
        if exchange.request.path == "/flush":
            await exchange.send_some(b"")
            assert exchange.first_byte_at is not None
            writes.append("flushed")
            await gate.wait()
        await exchange.send_some(b"body")
        assert exchange.first_byte_at is not None
        await exchange.end_response()

    gate = trio.Event()
    async with http_peer(handler) as peer:
        await peer.send(b"GET /flush HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        await wait_all_tasks_blocked()
        assert writes == ["flushed"]
        gate.set()
        await peer.until(b"0\r\n\r\n")
        await peer.send(GET)
        await peer.more()  # one write
        assert b"\r\n\r\n4\r\nbody\r\n" in peer.received


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        await exchange.send_some(b"one")
        await exchange.send_some(b"two")
        await exchange.end_response()

    async with http_peer(handler) as peer:
        await peer.send(b"GET / HTTP/1.0\r\n\r\n")
        raw = await peer.rest()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert body == b"onetwo"
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()


async def test_head_gets_the_fields_of_get_and_no_body() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/stream":
            await exchange.start_response(200, [])
            await exchange.send_some(b"never seen")
            await exchange.end_response()
        else:
            await exchange.send_response(200, [], b"never seen")

    async with http_peer(handler) as peer:
        for path in (b"/", b"/stream", b"/"):
            await peer.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await peer.answer("HEAD")
            assert (answer.status, answer.body) == (200, b"")
            if path == b"/":
                assert answer.fields[b"content-length"] == b"10"
            else:
                assert answer.fields[b"transfer-encoding"] == b"chunked"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_no_length_either(status: int) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_response(status, [])

    async with http_peer(handler) as peer:
        await peer.send(GET)
        answer = await peer.answer()
        assert answer.status == status
        assert b"content-length" not in answer.fields
        await peer.send(GET)
        assert (await peer.answer()).status == status


async def test_connection_close_is_obeyed() -> None:
    async with http_peer(echo) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await peer.answer()
        assert answer.fields[b"connection"] == b"close"
        assert await peer.more() == b""


async def test_a_connection_ends_after_its_last_allowed_request() -> None:
    limits = attrs.evolve(LIMITS, max_requests_per_connection=2)
    async with http_peer(echo, limits) as peer:
        await peer.send(GET * 3)
        assert b"connection" not in (await peer.answer()).fields
        assert (await peer.answer()).fields[b"connection"] == b"close"
        assert await peer.rest() == b""


@pytest.mark.parametrize("kind", ["full", "draining"])
async def test_an_answer_arrives_whole_though_the_peer_sent_on(kind: str) -> None:
    # Closed with something unread, a socket is reset, and the rest of the answer lost with it.
    asked, sent, drain = trio.Event(), trio.Event(), Drain()

    async def handler(exchange: Exchange) -> None:
        asked.set()
        await sent.wait()
        if kind == "draining":
            drain.begin()
        await exchange.send_response(200, [], bytes(60_000))

    limits = attrs.evolve(LIMITS, max_requests_per_connection=1 if kind == "full" else 100)

    async def serve(stream: trio.SocketStream) -> None:
        await serve_connection(stream, handler, limits, drain=drain)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = trio.socket.socket()
        # So little that most of the answer stays with the server, whose kernel took it at once.
        client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await client.connect(address)
        async with trio.SocketStream(client) as stream:
            await stream.send_all(GET)
            await asked.wait()
            await stream.send_all(GET)
            sent.set()
            await wait_all_tasks_blocked()
            assert (await HTTPPeer(stream).answer()).body == bytes(60_000)
        nursery.cancel_scope.cancel()


async def test_requests_that_come_at_once_do_not_keep_others_from_their_turn() -> None:
    answered = 0
    seen: list[int] = []

    async def handler(exchange: Exchange) -> None:
        nonlocal answered
        await exchange.send_response(200, [], b"")
        answered += 1

    async def watch() -> None:
        while answered < 100:
            seen.append(answered)
            await trio.lowlevel.checkpoint()

    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, handler, LIMITS)
        await ours.send_all(GET * 100)
        nursery.start_soon(watch)
        while answered < 100:
            await trio.sleep(0)
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in pairwise([0, *seen])) <= 3


async def test_a_misused_exchange_says_so() -> None:
    async def handler(exchange: Exchange) -> None:
        with pytest.raises(LocalProtocolError):
            await exchange.send_some(b"too early")
        with pytest.raises(LocalProtocolError):
            await exchange.accept_websocket()
        await exchange.send_response(200, [], b"fine")
        with pytest.raises(LocalProtocolError):
            await exchange.send_some(b"too late")
        with pytest.raises(LocalProtocolError):
            await exchange.send_response(200, [], b"again")

    async with http_peer(handler) as peer:
        await peer.send(GET)
        assert (await peer.answer()).body == b"fine"


# --- 100-continue and unread bodies -------------------------------------------------------------


async def test_100_continue_is_sent_when_the_body_is_asked_for() -> None:
    async with http_peer(echo) as peer:
        await peer.send(post(b"", b"Expect: 100-continue").replace(b": 0", b": 4"))
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await peer.send(b"body")
        assert (await peer.answer()).body == b"body"


async def test_no_100_is_sent_to_a_client_that_sent_its_body_already() -> None:
    async with http_peer(echo) as peer:
        await peer.send(post(b"body", b"Expect: 100-continue"))
        assert (await peer.until(b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_response_instead_of_100_closes_for_the_body_may_or_may_not_follow() -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.send_response(413, [], b"no")

    async with http_peer(refuse) as peer:
        await peer.send(post(b"", b"Expect: 100-continue").replace(b": 0", b": 4"))
        answer = await peer.answer()
        assert (answer.status, answer.fields[b"connection"]) == (413, b"close")
        await peer.rest()


async def ignore_body(exchange: Exchange) -> None:
    await exchange.send_response(200, [], b"ok")


async def test_a_small_unread_body_is_read_away_and_the_connection_kept() -> None:
    async with http_peer(ignore_body) as peer:
        await peer.send(post(b"x" * 5000) + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + GET)
        for _ in range(3):
            answer = await peer.answer()
            assert (answer.body, b"connection" in answer.fields) == (b"ok", False)


async def test_a_large_unread_body_ends_the_connection_after_the_response(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = attrs.evolve(LIMITS, max_drained_bytes=1000)
    async with http_peer(ignore_body, limits) as peer:
        await peer.send(post(b"x" * 2000)[:-900])
        answer = await peer.answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"ok", b"close")
        await peer.send(b"x" * 900)  # read away, so that no reset destroys the response
        assert await peer.rest() == b""
    async with http_peer(ignore_body, limits) as peer:
        await peer.send(CHUNKED + b"7d0\r\n" + b"x" * 2000)
        assert (await peer.answer()).body == b"ok"
        assert await peer.rest() == b""


async def test_an_unread_body_that_never_comes_ends_the_connection_in_bounded_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(ignore_body) as peer:
        await peer.send(post(b"x" * 100)[:-50])
        assert (await peer.answer()).body == b"ok"
        began = trio.current_time()
        assert await peer.rest() == b""
        assert trio.current_time() - began <= 2 * LIMITS.farewell_seconds + 0.1


async def test_a_body_over_the_limit_is_413_by_its_length_and_by_its_pieces() -> None:
    limits = attrs.evolve(LIMITS, max_body_bytes=1000)
    for raw in (post(b"x" * 1001), CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"):
        async with http_peer(echo, limits) as peer:
            await peer.send(raw)
            answer = await peer.answer()
            assert answer.status == 413
            assert json.loads(answer.body)["error"]["type"] == "payload_too_large"
    async with http_peer(echo, limits) as peer:
        await peer.send(post(b"x" * 1000))
        assert (await peer.answer()).status == 200


async def test_a_body_that_came_with_its_head_is_taken_without_waiting() -> None:
    taken: list[bytes | None] = []

    async def handler(exchange: Exchange) -> None:
        taken.append(exchange.body_nowait())
        taken.append(exchange.body_nowait())
        taken.append(await exchange.receive_some())
        await exchange.send_response(204, [])

    body = bytes(range(256)) * 200
    async with http_peer(handler) as peer:
        await peer.send(post(body) + post(b"next"))
        assert (await peer.answer()).status == 204
        assert (await peer.answer()).status == 204
    assert taken == [body, b"", b"", b"next", b"", b""]


async def test_of_a_body_that_is_still_to_come_nothing_is_taken_but_by_waiting() -> None:
    taken: list[bytes | None] = []

    async def handler(exchange: Exchange) -> None:
        taken.append(exchange.body_nowait())
        body = b""
        while piece := await exchange.receive_some():
            body += piece
        await exchange.send_response(200, [], body)

    async with http_peer(handler) as peer:
        await peer.send(post(b"half of it")[:-5])
        await wait_all_tasks_blocked()
        await peer.send(b"of it")
        assert (await peer.answer()).body == b"half of it"
        await peer.send(CHUNKED + b"1\r\nx\r\n0\r\n\r\n")  # whether it ends here is not known yet
        assert (await peer.answer()).body == b"x"
    assert taken == [None, None]


async def test_a_body_over_the_limit_is_not_taken_though_it_is_there() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.body_nowait()

    async with http_peer(handler, attrs.evolve(LIMITS, max_body_bytes=10)) as peer:
        await peer.send(post(b"x" * 11))
        assert (await peer.answer()).status == 413


# --- bytes that are no request ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: 1\r\n" * 120 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (GET + b"\x00\x01", 400),
    ],
)
async def test_what_is_no_request_is_answered_in_json_and_closed(raw: bytes, status: int) -> None:
    async with http_peer(echo) as peer:
        await peer.send(raw)
        if raw.startswith(GET):
            assert (await peer.answer()).status == 200
        answer = await peer.answer()
        assert (answer.status, answer.fields[b"content-type"]) == (status, JSON)
        assert answer.fields[b"connection"] == b"close"
        error = json.loads(answer.body)["error"]
        assert (error["status"], error["retryable"]) == (status, False)
        await peer.stream.aclose()


@pytest.mark.parametrize("before", [b"", GET], ids=["new", "kept"])
async def test_a_head_request_that_is_refused_gets_no_body(before: bytes) -> None:
    async with http_peer(echo) as peer:
        if before:
            await peer.send(before)
            assert (await peer.answer()).status == 200
        await peer.send(b"HEAD / HTTP/1.1\r\nno field\r\n\r\n")
        await peer.stream.send_eof()  # type: ignore[attr-defined]
        head, end, rest = (await peer.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"transfer-encoding" not in head.lower()
        assert (end, rest) == (b"\r\n\r\n", b"")


async def test_a_malformed_body_is_400_or_the_end() -> None:
    async with http_peer(echo) as peer:
        await peer.send(CHUNKED + b"zz\r\n")
        answer = await peer.answer()
        assert (answer.status, answer.fields[b"connection"]) == (400, b"close")
        await peer.stream.aclose()


# --- deadlines ----------------------------------------------------------------------------------


async def test_a_silent_new_connection_is_closed_without_a_word(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(echo) as peer:
        assert await peer.rest() == b""
        assert trio.current_time() == pytest.approx(LIMITS.header_seconds, abs=0.1)


@pytest.mark.parametrize("raw", [b"\r\n", b"\r", GET + b"\r\n"])
async def test_a_peer_that_leaves_after_an_empty_line_is_not_waited_for(
    raw: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    # A connection that looks again and again at its end would never let this clock jump.
    client, server = memory_stream_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, server, echo, LIMITS)
            await client.send_all(raw)
            await client.send_eof()
            while await client.receive_some():
                pass
    assert trio.current_time() < LIMITS.farewell_seconds


async def test_half_a_head_is_408_at_its_deadline_however_it_drips(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(echo) as peer:
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in GET[:-2]:
                    await peer.send(bytes((byte,)))
                    await trio.sleep(0.5)

            nursery.start_soon(drip)
            answer = await peer.answer()
            nursery.cancel_scope.cancel()
        assert answer.status == 408
        assert trio.current_time() == pytest.approx(LIMITS.header_seconds, abs=0.6)


async def test_the_first_head_has_its_time_from_the_accept_and_later_ones_from_their_first_byte(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(echo) as peer:
        await trio.sleep(LIMITS.header_seconds - 1)
        await peer.send(GET[:-1])
        assert (await peer.answer()).status == 408
        assert trio.current_time() == pytest.approx(LIMITS.header_seconds, abs=0.1)
    async with http_peer(echo) as peer:
        await peer.send(GET)
        assert (await peer.answer()).status == 200
        await trio.sleep(LIMITS.header_seconds + 1)
        began = trio.current_time()
        await peer.send(GET[:-1])
        assert (await peer.answer()).status == 408
        assert trio.current_time() - began == pytest.approx(LIMITS.header_seconds, abs=0.1)


async def test_an_idle_connection_is_closed_after_its_keep_alive_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(echo) as peer:
        await peer.send(GET)
        await peer.answer()
        began = trio.current_time()
        assert await peer.rest() == b""
        assert trio.current_time() - began == pytest.approx(LIMITS.keep_alive_seconds, abs=0.1)


async def test_a_body_that_does_not_come_is_408(autojump_clock: trio.testing.MockClock) -> None:
    async with http_peer(echo) as peer:
        await peer.send(post(b"xx")[:-1])
        answer = await peer.answer()
        assert (answer.status, answer.fields[b"connection"]) == (408, b"close")
        assert trio.current_time() == pytest.approx(LIMITS.body_seconds, abs=0.1)
        await peer.stream.aclose()


async def test_a_dripping_body_shares_one_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with http_peer(echo) as peer:
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                await peer.send(post(b"x" * 1000)[:-1000])
                while True:
                    await peer.send(b"x")
                    await trio.sleep(5)

            nursery.start_soon(drip)
            assert (await peer.answer()).status == 408
            assert trio.current_time() == pytest.approx(LIMITS.body_seconds, abs=0.1)
            nursery.cancel_scope.cancel()
        await peer.stream.aclose()


async def test_a_body_whose_time_is_over_is_408_also_when_it_is_asked_for_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(echo) as peer:
        await peer.send(post(b"xxx")[:-3])
        await wait_all_tasks_blocked()
        await peer.send(b"x")  # it is read, but the loop was busy for longer than is left
        mock_clock.jump(LIMITS.body_seconds + 1)
        assert (await peer.answer()).status == 408
        await peer.stream.aclose()


async def test_a_slow_handler_does_not_use_up_the_bodys_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(exchange: Exchange) -> None:
        await trio.sleep(10 * LIMITS.body_seconds)
        await echo(exchange)

    async with http_peer(handler) as peer:
        await peer.send(post(b"body"))
        assert (await peer.answer()).body == b"body"


class Stalling(trio.abc.Stream):
    """A stream whose peer stops reading after ``room`` bytes."""

    def __init__(self, stream: trio.abc.Stream, room: int) -> None:
        self._stream = stream
        self.room = room
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        taken, rest = data[: self.room], data[self.room :]
        self.room -= len(taken)
        await self._stream.send_all(bytes(taken))
        if rest:
            await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._stream.aclose()


@pytest.mark.parametrize("size", [100, 200_000])
async def test_a_write_that_stalls_breaks_the_connection_after_its_time(
    size: int, autojump_clock: trio.testing.MockClock
) -> None:
    caught = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        try:
            while True:
                await exchange.send_some(b"x" * size)
        except ConnectionBroken as error:
            caught.append(error)
            with pytest.raises(ConnectionBroken):
                await exchange.send_some(b"more")
            raise

    client, server = memory_stream_pair()
    stalling = Stalling(server, 100_000)
    await client.send_all(GET)
    await serve_connection(stalling, handler, LIMITS)
    assert len(caught) == 1
    assert stalling.closed
    assert trio.current_time() == pytest.approx(LIMITS.write_stall_seconds, abs=0.1)


async def test_a_large_write_has_no_deadline_as_long_as_it_moves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Stalling):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.sleep(20)
            await self._stream.send_all(bytes(data))

    async def handler(exchange: Exchange) -> None:
        await exchange.send_response(200, [], b"x" * 1_000_000)

    client, server = memory_stream_pair()
    await client.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await serve_connection(Slow(server, 0), handler, LIMITS)
    assert trio.current_time() > 7 * 20  # of at most 128 KiB each
    assert len((await HTTPPeer(client).answer()).body) == 1_000_000


# --- clients that leave -------------------------------------------------------------------------


async def test_a_client_that_leaves_ends_its_stream_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with capture_logs() as logs:
        async with http_peer(stream_forever) as peer:
            await peer.send(GET)
            await peer.until(b"line\n")
    assert logs == []


async def test_a_pipelined_request_does_not_hide_the_departure_of_its_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with http_peer(stream_forever) as peer:
        await peer.send(GET + GET * 3)
        await peer.until(b"line\n")


async def test_what_a_streaming_clients_pipelines_is_bounded_and_then_left_in_the_socket(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = attrs.evolve(LIMITS, max_pipelined_bytes=1000)
    read = []

    class Counting(Stalling):
        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            data = await self._stream.receive_some(100)
            read.append(len(data))
            return data

    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, Counting(server, 1 << 30), stream_forever, limits)
        await client.send_all(GET + b"x" * 100_000)
        await trio.sleep(10)
        assert 1000 <= sum(read) <= 1300
        nursery.cancel_scope.cancel()


async def test_pipelined_requests_are_served_after_a_watched_stream() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path != "/stream":
            await echo(exchange)
            return
        await exchange.start_response(200, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.wait_disconnected)
            await exchange.send_some(b"streamed")
            await gate.wait()
            nursery.cancel_scope.cancel()
        await exchange.end_response()

    gate = trio.Event()
    async with http_peer(handler) as peer:
        await peer.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + post(b"body")[:20])
        await wait_all_tasks_blocked()
        await peer.send(post(b"body")[20:])
        await wait_all_tasks_blocked()
        gate.set()
        assert (await peer.answer()).body == b"streamed"
        assert (await peer.answer()).body == b"body"


@pytest.mark.parametrize("swallows", [True, False])
async def test_a_client_that_leaves_in_its_body_is_a_broken_connection_and_no_bug(
    swallows: bool,
) -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        try:
            await echo(exchange)
        except (ConnectionBroken, RemoteProtocolError) as error:
            seen.append(type(error))
            if not swallows:
                raise

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(post(b"body")[:-1])
    assert seen == [ConnectionBroken]
    assert logs == []


async def test_cancelled_waits_for_body_and_departure_lose_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handler(exchange: Exchange) -> None:
        for _ in range(3):
            with trio.move_on_after(1):
                await exchange.receive_some()
        for _ in range(3):
            with trio.move_on_after(1):
                await exchange.wait_disconnected()
        await echo(exchange)

    async with http_peer(handler) as peer:
        await peer.send(post(b"body")[:-4])
        await trio.sleep(4.5)
        await peer.send(b"body")
        assert (await peer.answer()).body == b"body"


# --- handlers that fail -------------------------------------------------------------------------


async def test_a_bug_before_the_response_is_a_500_that_tells_nothing_and_is_logged() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.path == "/bug":
            raise ZeroDivisionError("secret")
        await echo(exchange)

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(post(b"unread", path=b"/bug") + post(b"next"))
            answer = await peer.answer()
            assert answer.status == 500
            assert b"secret" not in answer.body
            assert json.loads(answer.body)["error"]["type"] == "internal_error"
            assert (await peer.answer()).body == b"next"
    (entry,) = logs
    assert entry["path"] == "/bug"
    assert isinstance(entry["exc_info"], ExceptionGroup)


async def test_a_bug_in_a_nursery_of_the_handler_is_contained_the_same_way() -> None:
    async def handler(exchange: Exchange) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(GET)
            assert (await peer.answer()).status == 500
    assert len(logs) == 1


async def test_an_error_with_a_status_becomes_that_response_and_no_log_entry() -> None:
    async def handler(exchange: Exchange) -> None:
        raise NotFoundError("no such thing")

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(GET)
            answer = await peer.answer()
    assert (answer.status, answer.fields[b"content-type"]) == (404, JSON)
    assert json.loads(answer.body)["error"]["message"] == "no such thing"
    assert logs == []


async def test_a_handler_that_sends_nothing_is_a_500() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.receive_some()

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(GET)
            assert (await peer.answer()).status == 500
    assert [entry["log_level"] for entry in logs] == ["error"]


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
        async with http_peer(handler) as peer:
            await peer.send(GET)
            answer = await peer.answer()
    assert (answer.status, answer.body, answer.complete) == (200, b"some", False)
    assert len(logs) == 1


async def test_a_malformed_response_field_is_our_bug_and_a_500() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_response(200, [(b"x", b"a\r\nb: c")], b"")

    with capture_logs() as logs:
        async with http_peer(handler) as peer:
            await peer.send(GET)
            assert (await peer.answer()).status == 500
    assert len(logs) == 1


# --- draining -----------------------------------------------------------------------------------


async def test_a_drain_closes_used_connections_at_once_and_new_ones_after_a_moment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    drain = Drain()
    async with http_peer(echo, drain=drain) as fresh, http_peer(echo, drain=drain) as used:
        await used.send(GET)
        await used.answer()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        drain.begin()
        assert await used.rest() == b""
        assert trio.current_time() == began
        assert await fresh.rest() == b""
        assert trio.current_time() - began == pytest.approx(LIMITS.farewell_seconds, abs=0.1)


async def test_a_first_request_that_was_on_its_way_when_a_drain_began_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    drain = Drain()
    async with http_peer(echo, drain=drain) as peer:
        await wait_all_tasks_blocked()
        drain.begin(accepting=True)
        await trio.sleep(LIMITS.farewell_seconds / 2)
        await peer.send(GET)
        answer = await peer.answer()
        assert (answer.status, answer.fields[b"connection"]) == (200, b"close")
        assert await peer.rest() == b""


async def test_a_drain_lets_the_response_at_hand_end_and_then_closes() -> None:
    async def handler(exchange: Exchange) -> None:
        await drain.wait_begun()
        await exchange.send_response(200, [], b"last")

    drain = Drain()
    async with http_peer(handler, drain=drain) as peer:
        await peer.send(GET)
        await wait_all_tasks_blocked()
        drain.begin()
        answer = await peer.answer()
        assert (answer.body, answer.fields[b"connection"]) == (b"last", b"close")
        assert await peer.rest() == b""


async def test_a_drain_cuts_half_a_head_short(autojump_clock: trio.testing.MockClock) -> None:
    drain = Drain()
    async with http_peer(echo, drain=drain) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHo")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        drain.begin()
        assert (await peer.answer()).status == 408
        assert trio.current_time() - began <= LIMITS.farewell_seconds < LIMITS.header_seconds
        drain.begin()  # again: nothing happens


async def test_a_drain_waits_for_the_last_counted_connection() -> None:
    drain = Drain()
    await drain.wait_empty()
    with drain.count():
        with drain.count():
            assert drain.connections == 2
        with trio.move_on_after(0) as scope:
            await drain.wait_empty()
        assert scope.cancelled_caught
    await drain.wait_empty()


# --- cancellation -------------------------------------------------------------------------------


class Torn(trio.abc.Stream):
    """Writes a random part, waits, then writes on: so that a cancellation tears a write apart."""

    def __init__(self, stream: trio.abc.Stream, choose: random.Random) -> None:
        self._stream = stream
        self._choose = choose
        self.written = bytearray()
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        at = 0
        while at < len(data):
            step = self._choose.randint(1, len(data) - at)
            self.written += bytes(data[at : at + step])
            at += step
            await trio.sleep(self._choose.choice([0, 0.01, 1]))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._stream.aclose()


async def test_a_thousand_cancelled_writes_never_leave_mixed_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    choose = random.Random(7)
    cut = 0

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        for number in range(5):
            with trio.move_on_after(choose.choice([0.005, 0.5, 2, 100])):
                await exchange.send_some(b"<%d>" % number * 20)
        await exchange.end_response()

    for _ in range(1000):
        client, server = memory_stream_pair()
        torn = Torn(server, choose)
        await client.send_all(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.send_eof()
        with trio.move_on_after(choose.choice([1, 3, 100])):
            await serve_connection(torn, handler, LIMITS)
        assert torn.closed
        if not torn.written:
            continue
        reader, writer = memory_stream_pair()
        await writer.send_all(bytes(torn.written))
        await writer.aclose()
        answer = await HTTPPeer(reader).answer()
        whole = b"".join(b"<%d>" % number * 20 for number in range(5))
        assert whole.startswith(answer.body)
        assert answer.complete == (answer.body == whole and torn.written.endswith(b"0\r\n\r\n"))
        cut += not answer.complete
    assert 100 < cut < 1000, "the test must see both ends"


async def test_a_cancelled_write_closes_the_stream_at_once_and_nothing_follows() -> None:
    ended = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_response(200, [])
        with trio.move_on_after(0.01):
            await exchange.send_some(b"x" * 200)
        assert stalling.closed
        with pytest.raises(ConnectionBroken):
            await exchange.send_some(b"more")
        ended.append(True)

    client, server = memory_stream_pair()
    stalling = Stalling(server, 100)
    await client.send_all(GET)
    await serve_connection(stalling, handler, LIMITS)
    assert ended == [True]


async def test_a_cancelled_connection_closes_its_stream_at_once() -> None:
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server, stream_forever, LIMITS)
        await client.send_all(GET)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    peer = HTTPPeer(client)
    answer = await peer.answer()
    assert not answer.complete
