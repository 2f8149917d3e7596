"""What a response's head says, and what is left of a connection while its body streams."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import LocalProtocolError
from eventmesh_trio.wire.http11 import ServerConnection

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
names = (
    st.text("abcxyz019!#$%&'*+-.^_`|~", min_size=1, max_size=9)
    .map(str.encode)
    .map(lambda name: b"x-" + name)
)
inner = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
values = st.text(inner, max_size=20).map(lambda text: text.encode("latin-1").strip())


def asked(request: bytes = GET) -> ServerConnection:
    wire = ServerConnection()
    wire.receive_data(request)
    assert wire.next_head() is not None
    return wire


@given(st.lists(st.tuples(names, values), max_size=12))
def test_all_fields_reach_the_client_in_their_order(fields: list[tuple[bytes, bytes]]) -> None:
    raw = asked().send_head(200, fields, head_request=False)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.receive_data(raw)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert [field for field in response.headers if field[0].startswith(b"x-")] == fields
    assert dict(response.headers)[b"transfer-encoding"] == b"chunked"


@pytest.mark.parametrize(
    "field",
    [
        (b"", b"x"),
        (b"a b", b"x"),
        (b"a:", b"x"),
        (b"a\r\nb", b"x"),
        (b"a", b"x\ry"),
        (b"a", b"x\ny"),
        (b"a", b"\r\n"),
        (b"a", b" x"),
        (b"a", b"x\t"),
        (b"a", b"\x7f"),
        (b"a", b"\x00"),
        (b"connection", b"a\r\nb: c"),
    ],
)
def test_a_malformed_field_is_our_bug_and_leaves_room_for_an_answer(
    field: tuple[bytes, bytes],
) -> None:
    wire = asked()
    with pytest.raises(LocalProtocolError):
        wire.send_head(200, [field], head_request=False)
    assert wire.can_answer
    assert wire.send_head(500, [(b"content-length", b"0")], head_request=False)


def test_a_connection_serves_again_after_a_streamed_response() -> None:
    wire = asked(GET + GET)
    for _ in range(2):
        wire.send_head(200, [], head_request=False)
        assert (wire.can_answer, wire.keeps_alive) == (False, False)
        assert (wire.request_complete, wire.awaits_continue) == (True, False)
        assert wire.send_end() == b"0\r\n\r\n"
        assert (wire.can_answer, wire.keeps_alive) == (False, True)
        assert wire.start_next_cycle()
        assert (wire.can_answer, wire.keeps_alive) == (True, False)
        wire.next_head()


@pytest.mark.parametrize("who", ["client", "server"])
def test_it_does_not_where_either_side_closes(who: str) -> None:
    wire = asked(CLOSE if who == "client" else GET)
    fields = [(b"Connection", b"close")] if who == "server" else []
    head = wire.send_head(200, fields, head_request=False)
    assert b"connection: close" in head.lower()
    wire.send_end()
    assert not wire.keeps_alive
    assert not wire.start_next_cycle()


def test_within_a_stream_nothing_but_its_end_may_be_sent_and_that_once() -> None:
    wire = asked()
    wire.send_head(200, [], head_request=False)
    with pytest.raises(LocalProtocolError):
        wire.send_head(200, [], head_request=False)
    with pytest.raises(LocalProtocolError):
        wire.send_continue()
    wire.send_end()
    with pytest.raises(LocalProtocolError):
        wire.send_end()


def test_a_stream_before_its_request_was_read_goes_on_reading_it() -> None:
    wire = asked(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
    wire.send_head(200, [], head_request=False)
    assert wire.next_body(9) == b"ab"
    assert not wire.request_complete
    wire.receive_data(b"cd" + GET)
    assert wire.next_body(9) == b"cd"
    assert wire.next_body(9) == b""
    assert wire.send_end() == b"0\r\n\r\n"
    assert wire.start_next_cycle()
    assert wire.next_head() is not None


def test_after_an_upgrade_there_is_no_answer_and_no_next_request() -> None:
    wire = asked(UPGRADE)
    assert wire.send_upgrade([(b"upgrade", b"websocket")]).startswith(b"HTTP/1.1 101 ")
    assert not wire.can_answer
    assert not wire.keeps_alive
    assert wire.request_complete
    assert not wire.start_next_cycle()
    for send in (wire.send_end, lambda: wire.send_head(200, [], head_request=False)):
        with pytest.raises(LocalProtocolError):
            send()
