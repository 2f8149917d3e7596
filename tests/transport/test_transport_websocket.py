"""WebSockets over memory streams: messages, pings, the close handshake, one writer at a time."""

import random
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from transport_harness import GET, LIMITS, HTTPPeer, http_peer, open_websocket, upgrade_request
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from eventmesh_trio.abc import Exchange, WebSocket
from eventmesh_trio.errors import ConflictError, LocalProtocolError, WebSocketClosed
from eventmesh_trio.transport.http import serve_connection
from eventmesh_trio.wire.websocket import encode_frames

Session = Callable[[WebSocket], Awaitable[None]]


async def echo(exchange: Exchange) -> None:
    websocket = await exchange.accept_websocket()
    while True:
        await websocket.send_message(await websocket.receive())


def session(
    run: Session, closed: list[tuple[int, str]] | None = None
) -> "partial[Awaitable[None]]":
    """A handler that accepts and runs; how the WebSocket was closed goes into ``closed``."""
    return partial(_session, run, [] if closed is None else closed)


async def _session(run: Session, closed: list[tuple[int, str]], exchange: Exchange) -> None:
    websocket = await exchange.accept_websocket()
    try:
        await run(websocket)
    except WebSocketClosed as error:
        closed.append((error.close_code, error.reason))
        raise


async def receive_forever(websocket: WebSocket) -> None:
    while True:
        await websocket.receive()


# --- the handshake ------------------------------------------------------------------------------


async def test_an_upgrade_with_messages_in_the_same_packet_loses_none_of_them() -> None:
    async with http_peer(echo) as http:
        early = Connection(ConnectionType.CLIENT)
        first = bytes(early.send(TextMessage("one"))) + bytes(early.send(TextMessage("two")))[:4]
        second = bytes(Connection(ConnectionType.CLIENT).send(TextMessage("two")))
        peer = await open_websocket(http, first=first[:-4] + second)
        assert [await peer.message(), await peer.message()] == ["one", "two"]
        assert b"sec-websocket-extensions" not in peer.head.lower()


async def test_an_upgrade_may_follow_other_requests_on_the_same_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.wants_websocket:
            await echo(exchange)
        else:
            await exchange.send_response(200, [], b"plain")

    async with http_peer(handler) as http:
        await http.send(GET)
        assert (await http.answer()).body == b"plain"
        peer = await open_websocket(http)
        await peer.send_text("hello")
        assert await peer.message() == "hello"


async def test_fields_of_the_application_are_part_of_the_101() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.accept_websocket([(b"x-session-id", b"s1")])

    async with http_peer(handler) as http:
        peer = await open_websocket(http)
        assert b"x-session-id: s1\r\n" in peer.head
        assert await peer.close_code() == 1000


@pytest.mark.parametrize(
    ("wrong", "right", "status"),
    [
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 426),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x", 400),
    ],
)
async def test_a_bad_handshake_is_an_http_response(wrong: bytes, right: bytes, status: int) -> None:
    async with http_peer(echo) as http:
        await http.send(upgrade_request().replace(wrong, right))
        answer = await http.answer()
        assert answer.status == status
        if status == 426:
            assert answer.fields[b"sec-websocket-version"] == b"13"
        await http.stream.aclose()


async def test_an_application_can_refuse_the_upgrade_with_a_response() -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.request.wants_websocket:
            raise ConflictError("not now")
        await exchange.send_response(200, [], b"plain")

    async with http_peer(handler) as http:
        await http.send(upgrade_request() + GET)
        assert (await http.answer()).status == 409
        assert (await http.answer()).body == b"plain"


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("size", [0, 5, 125, 126, 200, 70_000, 1_200_000])
async def test_text_and_binary_messages_come_back(size: int, deflate: bool) -> None:
    async with http_peer(echo) as http:
        peer = await open_websocket(http, deflate=deflate)
        text = "é€𝄞x" * (size // 4) + "x" * (size % 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, TextMessage(text))
            assert await peer.message() == text
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, BytesMessage(text.encode()))
            assert await peer.message() == text.encode()


async def test_what_is_compressed_is_neither_tiny_nor_huge() -> None:
    limits = attrs.evolve(LIMITS, min_deflate_bytes=100, max_deflate_bytes=1000)
    async with http_peer(echo, limits) as http:
        peer = await open_websocket(http, deflate=True)
        for size, compressed in [(99, False), (100, True), (1000, True), (1001, False)]:
            await peer.send_text("x" * size)
            await http.more()
            assert bool(http.received[0] & 0x40) == compressed
            assert (len(http.received) < 99) == compressed
            assert await peer.message() == "x" * size


async def test_compression_is_left_out_when_it_is_disabled() -> None:
    async with http_peer(echo, attrs.evolve(LIMITS, enable_deflate=False)) as http:
        peer = await open_websocket(http, deflate=True)
        assert b"permessage-deflate" not in peer.head
        await peer.send_text("x" * 500)
        assert await peer.message() == "x" * 500


async def test_whole_frames_and_batches_go_out_in_one_write() -> None:
    async def run(websocket: WebSocket) -> None:
        assert websocket.takes_frames
        await websocket.send_frames(encode_frames([b"a", b"b"]))
        await websocket.send_texts([b"c", b"d"])
        await receive_forever(websocket)

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        assert [await peer.message() for _ in range(4)] == ["a", "b", "c", "d"]


async def test_a_compressing_websocket_takes_frames_that_are_compressed_in_its_style() -> None:
    async def run(websocket: WebSocket) -> None:
        assert websocket.takes_frames
        frame = websocket.frame_style.encode(b"a" * 300)
        assert len(frame) < 100
        await websocket.send_frames(frame, encode_frames([b"b"]))
        await websocket.send_texts([b"c" * 300, b"d"])
        await receive_forever(websocket)

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http, deflate=True)
        messages = [await peer.message() for _ in range(4)]
        assert messages == ["a" * 300, "b", "c" * 300, "d"]


async def test_two_tasks_cannot_receive_at_once() -> None:
    async def run(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(LocalProtocolError):
                await websocket.receive()
            nursery.cancel_scope.cancel()

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        assert await peer.close_code() == 1000


async def test_a_cancelled_receive_loses_nothing() -> None:
    got = []

    async def run(websocket: WebSocket) -> None:
        while len(got) < 300:
            with trio.CancelScope() as scope:
                scope.cancel()
                got.append(await websocket.receive())
            with trio.move_on_after(choose.choice([0, 0.001, 0.01])):
                got.append(await websocket.receive())

    choose = random.Random(3)
    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        for number in range(300):
            await peer.send(Ping(b"p"))
            raw = bytes(peer.proto.send(TextMessage(str(number))))
            cut = choose.randint(0, len(raw))
            await http.send(raw[:cut])
            await trio.lowlevel.checkpoint()
            await http.send(raw[cut:])
        pongs = 0
        while (event := await peer.next_event()) is not None:
            if isinstance(event, CloseConnection):
                break
            pongs += isinstance(event, Pong)
    assert got == [str(number) for number in range(300)]
    assert pongs == 300


@pytest.mark.parametrize(
    ("raw", "code"),
    [(b"\x83\x80\0\0\0\0", 1002), (b"\x81\x82\0\0\0\0\xc3(", 1007), (b"\x81\x01x", 1002)],
)
async def test_a_violation_closes_with_its_code(raw: bytes, code: int) -> None:
    closed: list[tuple[int, str]] = []
    async with http_peer(session(receive_forever, closed)) as http:
        peer = await open_websocket(http)
        await http.send(raw)
        assert await peer.close_code() == code
        await http.stream.aclose()
    assert [entry[0] for entry in closed] == [code]


async def test_a_message_over_the_limit_closes_with_1009_and_its_rest_is_read_away(
    autojump_clock: MockClock,
) -> None:
    closed: list[tuple[int, str]] = []
    limits = attrs.evolve(LIMITS, max_message_bytes=1000)
    async with http_peer(session(receive_forever, closed), limits) as http:
        peer = await open_websocket(http)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, BytesMessage(b"x" * 500_000))
            assert await peer.close_code() == 1009
        assert await http.rest() == b""
    assert closed[0][0] == 1009


async def test_a_compression_bomb_closes_with_1009() -> None:
    async with http_peer(echo) as http:
        peer = await open_websocket(http, deflate=True)
        await peer.send(BytesMessage(bytes(30 << 20)))
        assert await peer.close_code() == 1009
        await http.stream.aclose()


# --- pings --------------------------------------------------------------------------------------


async def test_pings_are_answered_while_messages_stream() -> None:
    async def run(websocket: WebSocket) -> None:
        async def write() -> None:
            while True:
                await websocket.send_texts([b"x" * 100] * 10)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await receive_forever(websocket)

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        payloads = []
        async with trio.open_nursery() as nursery:

            async def ping() -> None:
                for number in range(50):
                    await peer.send(Ping(b"%d" % number))
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(ping)
            while (event := await peer.next_event()) is not None:
                if isinstance(event, Pong):
                    payloads.append(event.payload)
                if len(payloads) == 50:
                    break
    assert payloads == [b"%d" % number for number in range(50)]


async def test_a_quiet_peer_is_pinged_and_lives_as_long_as_it_answers(
    autojump_clock: MockClock,
) -> None:
    async with http_peer(session(receive_forever)) as http:
        peer = await open_websocket(http)
        for number in range(1, 4):
            event = await peer.event()
            assert isinstance(event, Ping)
            assert trio.current_time() == pytest.approx(number * LIMITS.ping_idle_seconds, abs=0.1)
            await peer.send(event.response())


async def test_traffic_in_either_direction_makes_a_ping_needless(autojump_clock: MockClock) -> None:
    async def run(websocket: WebSocket) -> None:
        async def write() -> None:
            while trio.current_time() < 100:
                await trio.sleep(20)
                await websocket.send_message("tick")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await receive_forever(websocket)

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        for _ in range(5):
            assert await peer.message() == "tick"
        assert isinstance(await peer.event(), Ping)
        assert trio.current_time() == pytest.approx(130, abs=0.1)


async def test_a_peer_without_a_pong_is_gone_after_its_time(autojump_clock: MockClock) -> None:
    closed: list[tuple[int, str]] = []
    async with http_peer(session(receive_forever, closed)) as http:
        peer = await open_websocket(http)
        assert isinstance(await peer.event(), Ping)
        assert await http.rest() == b""
        expected = LIMITS.ping_idle_seconds + LIMITS.pong_seconds
        assert trio.current_time() == pytest.approx(expected, abs=0.1)
    assert closed == [(1006, "no pong came")]


class Blocked(trio.abc.Stream):
    """A stream whose writes stop while ``open`` is unset."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.open = trio.Event()
        self.open.set()
        self.writes: list[bytes] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.open.wait()
        self.writes.append(bytes(data))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_stalled_write_is_judged_by_its_own_time_and_not_by_the_ping(
    autojump_clock: MockClock,
) -> None:
    limits = attrs.evolve(LIMITS, write_stall_seconds=100)
    closed: list[tuple[int, str]] = []

    async def run(websocket: WebSocket) -> None:
        async def write() -> None:
            await trio.sleep(LIMITS.ping_idle_seconds + 1)  # a ping was sent, and has no pong yet
            stream.open = trio.Event()
            await websocket.send_message("never taken")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await receive_forever(websocket)

    client, server = memory_stream_pair()
    stream = Blocked(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, stream, session(run), limits)
        await open_websocket(HTTPPeer(client))
        await trio.sleep(130)
        assert len(nursery.child_tasks) == 1
        await trio.sleep(2)
        assert not nursery.child_tasks
    assert closed == []


# --- closing ------------------------------------------------------------------------------------


async def test_a_peers_close_is_echoed_and_told_to_the_reader() -> None:
    closed: list[tuple[int, str]] = []
    async with http_peer(session(receive_forever, closed)) as http:
        peer = await open_websocket(http)
        await peer.send(CloseConnection(4001, "enough"))
        assert await peer.close_code() == 4001
        assert await http.rest() == b""
    assert closed == [(4001, "enough")]


async def test_a_peer_that_vanishes_is_1006() -> None:
    closed: list[tuple[int, str]] = []
    async with http_peer(session(receive_forever, closed)) as http:
        await open_websocket(http)
    assert [code for code, _ in closed] == [1006]


@pytest.mark.parametrize("reading", [True, False])
async def test_our_close_waits_for_the_peers_whoever_reads(
    reading: bool, autojump_clock: MockClock
) -> None:
    ended = []

    async def run(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            if reading:

                async def read() -> None:
                    with pytest.raises(WebSocketClosed):
                        await receive_forever(websocket)

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
            await websocket.aclose(1001, "resume elsewhere")
            ended.append(trio.current_time())
            with pytest.raises(WebSocketClosed):
                await websocket.send_message("too late")
            with pytest.raises(WebSocketClosed):
                await websocket.receive()
            await websocket.aclose()

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        event = await peer.event()
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (1001, "resume elsewhere")
        await peer.http.send(bytes(Connection(ConnectionType.CLIENT).send(TextMessage("late"))))
        await trio.sleep(1)
        await peer.send(event.response())
        assert await http.rest() == b""
    assert ended == [pytest.approx(1, abs=0.1)]


async def test_a_peer_that_never_closes_is_cut_after_the_handshakes_time(
    autojump_clock: MockClock,
) -> None:
    async def run(websocket: WebSocket) -> None:
        await websocket.aclose(1000)

    async with http_peer(session(run)) as http:
        peer = await open_websocket(http)
        assert await peer.close_code() == 1000
        assert await http.rest() == b""
        assert trio.current_time() == pytest.approx(LIMITS.close_seconds, abs=0.1)


async def test_no_ping_is_sent_into_a_close_handshake(autojump_clock: MockClock) -> None:
    async def run(websocket: WebSocket) -> None:
        await trio.sleep(LIMITS.ping_idle_seconds - 1)
        await websocket.aclose(1000)

    with capture_logs() as logs:
        async with http_peer(session(run)) as http:
            peer = await open_websocket(http)
            event = await peer.event()
            assert isinstance(event, CloseConnection)
            await trio.sleep(2)
            await peer.send(event.response())
            assert await http.rest() == b""
    assert logs == []


async def test_a_handler_that_returns_closes_with_1000_and_one_that_fails_with_1011() -> None:
    for fails, code in [(False, 1000), (True, 1011)]:

        async def run(websocket: WebSocket, fails: bool = fails) -> None:
            await websocket.send_message("hello")
            if fails:
                raise ZeroDivisionError

        with capture_logs() as logs:
            async with http_peer(session(run)) as http:
                peer = await open_websocket(http)
                assert await peer.message() == "hello"
                assert await peer.close_code() == code
        assert len(logs) == fails


async def test_closing_while_a_write_is_stalled_is_bounded(autojump_clock: MockClock) -> None:
    async def run(websocket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                stream.open = trio.Event()
                with pytest.raises(WebSocketClosed):
                    await websocket.send_message("never taken")

            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            await websocket.aclose(1001)
            assert trio.current_time() - began <= LIMITS.close_seconds + 0.1

    client, server = memory_stream_pair()
    stream = Blocked(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, stream, session(run), LIMITS)
        await open_websocket(HTTPPeer(client))
        await trio.sleep(LIMITS.close_seconds + LIMITS.write_stall_seconds)
        assert not nursery.child_tasks


# --- one writer ---------------------------------------------------------------------------------


async def test_many_tasks_that_write_and_are_cancelled_never_mix_their_bytes(
    autojump_clock: MockClock,
) -> None:
    """Whatever reaches the peer is whole frames in order, up to a cut."""

    class Torn(Blocked):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            at = 0
            while at < len(data):
                step = choose.randint(1, len(data) - at)
                await self._stream.send_all(data[at : at + step])
                at += step
                await trio.sleep(choose.choice([0, 0.01, 0.1]))

    async def run(websocket: WebSocket) -> None:
        async def write(name: str) -> None:
            for number in range(5):
                with trio.move_on_after(choose.choice([0.05, 0.5, 1000])):
                    await websocket.send_texts([f"{name}{number}".encode() * 50] * 2)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(write, name)
            with trio.move_on_after(choose.choice([0.5, 2, 10])):
                await receive_forever(websocket)

    torn = 0
    for seed in range(200):
        choose = random.Random(seed)
        client, server = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, Torn(server), session(run), LIMITS)
            peer = await open_websocket(HTTPPeer(client))
            with trio.move_on_after(20):
                await peer.send(Ping(b"p"))
            ended = False
            while (event := await peer.next_event()) is not None:
                if isinstance(event, Message):
                    continue
                assert isinstance(event, (Pong, CloseConnection)), event
                if isinstance(event, CloseConnection):
                    assert event.code in (1000, 1011), event
                    ended = True
                    await client.aclose()
                    break
            torn += not ended
            await client.aclose()
    assert 10 < torn < 200, "the test must see both ends"
