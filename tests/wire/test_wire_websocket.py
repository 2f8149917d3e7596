"""`eventmesh_trio.wire.websocket` and ``deflate``: against another implementation and attackers."""

import base64
import random
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from eventmesh_trio.errors import RemoteProtocolError
from eventmesh_trio.wire.deflate import Deflate, compress, negotiate_deflate
from eventmesh_trio.wire.websocket import (
    BINARY,
    TEXT,
    Closed,
    Received,
    ServerWebSocket,
    encode_close,
    encode_deflated_frame,
    encode_frame,
    encode_frames,
    negotiate,
)

LIMIT = 1000
NO_DEADLINE = settings(deadline=None)  # machines are busy at times
KEY = base64.b64encode(b"0123456789abcdef")


def client(*, deflate: bool = False) -> Connection:
    extensions = []
    if deflate:
        extension = PerMessageDeflate()
        extension.finalize(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        )
        extensions.append(extension)
    return Connection(ConnectionType.CLIENT, extensions)


def masked(first: int, payload: bytes, *, length: int | None = None) -> bytes:
    """A client's frame with a mask of zeros."""
    length = len(payload) if length is None else length
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + bytes(4) + payload


def drain(server: ServerWebSocket) -> list[Received | Closed]:
    """All events, messages in one piece; what is owed is thrown away."""
    events: list[Received | Closed] = []
    while True:
        event = server.next_event()
        if event is not None:
            if isinstance(event, Closed):
                return [*events, event]
            events.append(Received(event.message))
        elif not server.take_owed():
            return events


def received(raw: bytes, *, deflate: bool = False, limit: int = LIMIT) -> list[Received | Closed]:
    server = ServerWebSocket(limit, Deflate() if deflate else None)
    server.receive_data(raw)
    return drain(server)


def messages(events: Iterable[Event]) -> list[str | bytes]:
    """Whole messages out of wsproto's pieces."""
    whole: list[str | bytes] = []
    parts: list[str | bytes] = []
    for event in events:
        assert isinstance(event, Message)
        parts.append(event.data)
        if event.message_finished:
            whole.append("".join(parts) if isinstance(event, TextMessage) else b"".join(parts))  # type: ignore[arg-type]
            parts = []
    return whole


# --- the handshake ------------------------------------------------------------------------------


def test_the_accept_token_is_that_of_the_rfc() -> None:
    fields = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    handshake = negotiate(fields, enable_deflate=True)
    assert (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in handshake.fields
    assert handshake.deflate is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"sec-websocket-key", KEY)], 426),
        ([(b"sec-websocket-version", b"8"), (b"sec-websocket-key", KEY)], 426),
        ([(b"sec-websocket-version", b"13")], 400),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"short")], 400),
        ([(b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"\xff" * 24)], 400),
        ([(b"sec-websocket-version", b"13")] + [(b"sec-websocket-key", KEY)] * 2, 400),
    ],
)
def test_a_handshake_that_is_not_of_version_13_is_refused(
    fields: list[tuple[bytes, bytes]], status: int
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        negotiate(fields, enable_deflate=True)
    assert caught.value.status_hint == status


@pytest.mark.parametrize(
    ("offer", "bits"),
    [
        (b"permessage-deflate", 15),
        (b"permessage-deflate; client_max_window_bits", 15),
        (b"permessage-deflate; client_max_window_bits=8", 15),
        (b'permessage-deflate; client_max_window_bits="10"', 15),
        (b"permessage-deflate;server_max_window_bits=9", 9),
        (b"permessage-deflate; server_no_context_takeover; client_no_context_takeover", 15),
        (b"x-other, permessage-deflate", 15),
        (b"permessage-deflate; server_max_window_bits=8, permessage-deflate", 15),
        (b"permessage-deflate; unknown, permessage-deflate; server_max_window_bits=12", 12),
        (b"", None),
        (b"permessage-bzip2", None),
        (b"permessage-deflate; server_max_window_bits=8", None),
        (b"permessage-deflate; server_max_window_bits", None),
        (b"permessage-deflate; server_max_window_bits=16", None),
        (b"permessage-deflate; server_max_window_bits=010", None),
        (b"permessage-deflate; client_max_window_bits=abc", None),
        (b"permessage-deflate; client_max_window_bits=", None),
        (b"permessage-deflate; server_no_context_takeover=1", None),
        (b"permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        (b"permessage-deflate;", None),
        (b"permessage-deflate; \xff", None),
    ],
)
def test_the_first_offer_that_can_be_kept_is_taken(offer: bytes, bits: int | None) -> None:
    deflate = negotiate_deflate([offer])
    assert (deflate and deflate.window_bits) == bits
    if deflate:
        assert b"server_no_context_takeover; client_no_context_takeover" in deflate.answer
        asked = b"server_max_window_bits=%d" % deflate.window_bits
        assert (asked in deflate.answer) == (b"server_max_window_bits" in offer and bits != 15)


@NO_DEADLINE
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_offer_is_answered_or_declined(values: list[bytes]) -> None:
    negotiate_deflate([b"permessage-deflate;" + value for value in values])


# --- frames of ours -----------------------------------------------------------------------------


@NO_DEADLINE
@given(st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), max_size=6), st.data())
def test_our_frames_are_read_by_another_implementation_however_they_are_cut(
    sent: list[str | bytes], data: st.DataObject
) -> None:
    raw = b"".join(
        encode_frame(m.encode(), TEXT) if isinstance(m, str) else encode_frame(m, BINARY)
        for m in sent
    )
    peer = client()
    events: list[Event] = []
    while raw:
        step = data.draw(st.integers(1, len(raw)))
        peer.receive_data(raw[:step])
        raw = raw[step:]
        events += peer.events()
    assert messages(events) == sent


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
@pytest.mark.parametrize("deflate", [False, True])
def test_every_form_of_length_is_right(size: int, deflate: bool) -> None:
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    peer = client(deflate=deflate)
    encode = encode_deflated_frame if deflate else encode_frame
    peer.receive_data(encode(payload, BINARY))
    assert messages(peer.events()) == [payload]


def test_frames_joined_are_the_frames_one_by_one() -> None:
    payloads = [b"", b"a", b"b" * 200]
    assert encode_frames(payloads) == b"".join(encode_frame(payload) for payload in payloads)


@NO_DEADLINE
@given(st.lists(st.text(max_size=400), max_size=5), st.integers(9, 15))
def test_compressed_frames_need_nothing_of_those_before(texts: list[str], bits: int) -> None:
    frames = [encode_deflated_frame(text.encode(), TEXT, bits) for text in texts]
    peer = client(deflate=True)
    for frame in reversed(frames):
        peer.receive_data(frame)
    assert messages(peer.events()) == texts[::-1]


@NO_DEADLINE
@given(st.integers(3000, 4999), st.text(max_size=100))
def test_a_close_frame_carries_its_code_and_as_much_reason_as_fits(code: int, reason: str) -> None:
    peer = client()
    peer.receive_data(encode_close(code, reason))
    (event,) = peer.events()
    assert isinstance(event, CloseConnection)
    assert event.code == code
    assert reason.startswith(event.reason or "")
    assert len((event.reason or "").encode()) >= min(len(reason.encode()), 120)


# --- messages of a peer -------------------------------------------------------------------------


@NO_DEADLINE
@given(
    st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=6),
    st.booleans(),
    st.data(),
)
def test_a_peers_messages_come_whole_however_they_are_fragmented_and_cut(
    sent: list[str | bytes], deflate: bool, data: st.DataObject
) -> None:
    peer = client(deflate=deflate)
    raw = b""
    for message in sent:
        parts: list[str | bytes] = []
        rest = message
        while len(rest) > 1 and data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(rest)))
            parts.append(rest[:cut])
            rest = rest[cut:]
        parts.append(rest)
        for number, part in enumerate(parts):
            finished = number == len(parts) - 1
            event = (
                TextMessage(part, message_finished=finished)
                if isinstance(part, str)
                else BytesMessage(part, message_finished=finished)
            )
            raw += peer.send(event)
            if data.draw(st.booleans()):
                raw += peer.send(Ping(b"p"))
    server = ServerWebSocket(LIMIT, Deflate() if deflate else None)
    got: list[Received | Closed] = []
    while raw:
        step = data.draw(st.integers(1, len(raw)))
        server.receive_data(raw[:step])
        raw = raw[step:]
        got += drain(server)
    assert got == [Received(message) for message in sent]


@NO_DEADLINE
@given(st.lists(st.binary(min_size=1, max_size=100), max_size=6), st.booleans())
@example([masked(0xC1, compress(b"\xff\xfe"))], True)
def test_any_bytes_become_messages_or_a_close(pieces: list[bytes], deflate: bool) -> None:
    server = ServerWebSocket(LIMIT, Deflate() if deflate else None)
    for piece in pieces:
        server.receive_data(piece)
        for event in drain(server):
            if isinstance(event, Closed):
                return


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (encode_frame(b"not masked"), 1002),
        (masked(0x91, b""), 1002),  # RSV3
        (masked(0xC1, b"x"), 1002),  # RSV1 without an extension
        (masked(0x83, b""), 1002),  # a reserved opcode
        (masked(0x80, b"x"), 1002),  # a continuation of nothing
        (masked(0x01, b"a") + masked(0x81, b"b"), 1002),
        (masked(0x09, b""), 1002),  # a fragmented ping
        (masked(0x89, b"x" * 126), 1002),
        (masked(0x88, b"\x03"), 1002),
        (masked(0x88, (1005).to_bytes(2, "big")), 1002),
        (masked(0x88, (999).to_bytes(2, "big")), 1002),
        (masked(0x81, b"\xc3("), 1007),
        (masked(0x81, b"\xed\xa0\x80"), 1007),  # a surrogate
        (masked(0x01, b"\xf4\x90\x80"), 1007),  # before the message is complete
        (masked(0x81, b"\xe2\x82"), 1007),
        (masked(0x88, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        (masked(0x82, b"", length=LIMIT + 1), 1009),  # by its header alone
        (masked(0x02, b"x" * 600) + masked(0x80, b"", length=401), 1009),
    ],
)
def test_a_violation_is_answered_with_its_close_code(raw: bytes, code: int) -> None:
    server = ServerWebSocket(LIMIT, None)
    server.receive_data(raw)
    event = server.next_event()
    assert isinstance(event, Closed)
    assert (event.close_code, event.failed) == (code, True)
    peer = client()
    peer.receive_data(server.take_owed())
    (close,) = peer.events()
    assert isinstance(close, CloseConnection)
    assert close.code == code
    assert server.closing


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (masked(0xC0, b"x"), 1002),  # a compressed continuation
        (masked(0xC9, b"x"), 1002),  # a compressed ping
        (masked(0x41, b"x") + masked(0xC0, b"x"), 1002),
        (masked(0xC1, b"\xff\xff\xff"), 1007),  # no deflate stream
        (masked(0xC1, compress(b"\xff")), 1007),
        (masked(0xC2, compress(b"x" * (LIMIT + 1))), 1009),
    ],
)
def test_a_violation_of_the_extension_is_answered_with_its_close_code(
    raw: bytes, code: int
) -> None:
    event = received(raw, deflate=True)[-1]
    assert isinstance(event, Closed)
    assert (event.close_code, event.failed) == (code, True)


def test_a_message_of_just_the_limit_is_taken_compressed_or_not() -> None:
    payload = b"x" * LIMIT
    assert received(masked(0x82, payload)) == [Received(payload)]
    assert received(masked(0xC2, compress(payload)), deflate=True) == [Received(payload)]
    half = masked(0x02, payload[:500]) + masked(0x89, b"") + masked(0x80, payload[500:])
    assert received(half + half) == [Received(payload)] * 2


def test_the_limit_is_for_each_message_and_not_for_their_sum() -> None:
    frame = masked(0xC2, compress(b"x" * LIMIT))
    assert len(received(frame * 5, deflate=True)) == 5


@pytest.mark.parametrize("limit", [100_000, 4_000_000])
@pytest.mark.parametrize(
    ("first", "text"), [(0xC2, "\0" * 8), (0xC1, "x" * 8), (0xC1, "\U0001d11e" + "x" * 4)]
)
def test_a_bomb_is_cut_at_the_limit_and_never_inflated_further(
    first: int, text: str, limit: int
) -> None:
    """Whatever it consists of: as `str`, one character of four bytes makes all take as many."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = text.encode() * (1 << 17)
    data = b"".join(bomb.compress(piece) for _ in range(64)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    frame = masked(first, data[:-4])
    tracemalloc.start()
    event = received(frame, deflate=True, limit=limit)[-1]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert event == Closed(1009, "the message is too large", failed=True)
    assert most < limit * 1.25 + 2_000_000


def test_a_final_deflate_block_ends_one_message_and_not_the_stream() -> None:
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = final.compress(b"Hello") + final.flush(zlib.Z_FINISH) + b"\x00"
    frame = masked(0xC1, payload)
    assert received(frame * 2, deflate=True) == [Received("Hello")] * 2


def test_a_peers_close_is_echoed_and_what_follows_is_ignored() -> None:
    peer = client()
    raw = peer.send(CloseConnection(4000, "bye"))
    server = ServerWebSocket(LIMIT, None)
    server.receive_data(bytes(raw) + b"\x00garbage")
    assert server.next_event() == Closed(4000, "bye", failed=False)
    server.receive_data(b"more")
    peer.receive_data(server.take_owed())
    (echo,) = peer.events()
    assert isinstance(echo, CloseConnection)
    assert echo.code == 4000


def test_a_close_without_a_code_is_1005() -> None:
    assert received(masked(0x88, b"")) == [Closed(1005, "", failed=False)]


def test_pongs_are_owed_before_the_message_that_followed_their_pings() -> None:
    server = ServerWebSocket(LIMIT, None)
    server.receive_data(masked(0x89, b"1") + masked(0x89, b"2") + masked(0x81, b"text"))
    assert server.next_event() is None
    peer = client()
    peer.receive_data(server.take_owed())
    assert [event.payload for event in peer.events() if isinstance(event, Pong)] == [b"1", b"2"]
    assert server.next_event() == Received("text")


def test_a_flood_of_pings_makes_us_owe_a_bounded_number_of_pongs() -> None:
    server = ServerWebSocket(LIMIT, None)
    server.receive_data(masked(0x89, b"x" * 100) * 1000)
    most = 0
    while server.next_event() is None and server.owes:
        most = max(most, len(server.take_owed()))
    assert most < 8192


def test_after_our_close_only_the_peers_close_counts() -> None:
    server = ServerWebSocket(LIMIT, None)
    peer = client()
    peer.receive_data(server.send_close(1001, "going away"))
    assert server.send_close(1000, "") == b""
    (close,) = peer.events()
    assert isinstance(close, CloseConnection)
    server.receive_data(masked(0x89, b"ping") + bytes(peer.send(close.response())))
    assert server.next_event() == Closed(1001, "going away", failed=False)
    assert not server.owes


def test_no_pong_follows_our_close_frame() -> None:
    server = ServerWebSocket(LIMIT, None)
    server.receive_data(masked(0x89, b"ping"))
    assert server.next_event() is None
    assert server.owes
    server.send_close(1000, "")
    assert not server.owes


@pytest.mark.parametrize("text", ["a", "\U0001d11e", "a\u20ac"])
def test_a_compressed_message_is_whole_after_it_was_read_in_slices(text: str) -> None:
    noise = random.Random(1).randbytes(5000).hex()
    message = noise + text * 5000
    frame = masked(0xC1, compress(message.encode())) + masked(0x89, b"p")
    server = ServerWebSocket(100_000, Deflate())
    server.receive_data(frame * 3)
    events = drain(server)
    assert events == [Received(message)] * 3


def test_a_message_in_very_many_pieces_costs_memory_by_its_size() -> None:
    raw = masked(0x01, b"a") + masked(0x00, b"a") * 5000 + masked(0x80, b"a")
    assert received(raw, limit=6000) == [Received("a" * 5002)]
