"""`eventmesh_trio.wire.http11`: what is refused, and that cuts in the bytes never matter."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventmesh_trio.errors import LocalProtocolError, PayloadTooLarge, RemoteProtocolError
from eventmesh_trio.wire.http11 import Head, HeadLimits, ServerConnection, encode_chunk

HOST = b"Host: example.org\r\n"
NO_DEADLINE = settings(deadline=None)  # machines are busy at times
NO_LIMIT = 1 << 30


def parse(raw: bytes, limits: HeadLimits | None = None) -> tuple[Head, bytes]:
    """The first request's head and whole body."""
    wire = ServerConnection(limits)
    wire.receive_data(raw)
    head = wire.next_head()
    assert head is not None
    return head, read_body(wire)


def read_body(wire: ServerConnection) -> bytes:
    body = b""
    while piece := wire.next_body(NO_LIMIT):
        body += piece
    assert piece == b"", "the body is not complete"
    return body


def status_of(raw: bytes, limits: HeadLimits | None = None) -> int:
    """The status that a refused request deserves."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse(raw, limits)
    return caught.value.status_hint


# --- heads that are served ----------------------------------------------------------------------


def test_a_request_is_read_into_its_parts() -> None:
    head, body = parse(
        b"POST /a%20b/c?x=%20&y HTTP/1.1\r\n" + HOST + b"X-A: 1\r\nContent-Length: 3\r\n\r\nabc"
    )
    assert (head.method, head.path, head.query) == ("POST", "/a b/c", b"x=%20&y")
    assert (head.http_version, head.content_length) == ("1.1", 3)
    assert (b"x-a", b"1") in head.fields
    assert body == b"abc"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/%C3%A9", "/é", b""),
        (b"/a%2Fb%2fc", "/a%2Fb%2fc", b""),  # an encoded slash separates nothing
        (b"/%252F?%zz", "/%2F", b"%zz"),
        (b"/?", "/", b""),
        (b"http://example.org/p?q", "/p", b"q"),
        (b"HTTP://example.org?q", "/", b"q"),
        (b"//double", "//double", b""),
    ],
)
def test_every_form_of_target_gives_a_path(target: bytes, path: str, query: bytes) -> None:
    head, _ = parse(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (head.path, head.query) == (path, query)


def test_an_asterisk_is_for_options_only() -> None:
    assert parse(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")[0].path == "*"
    assert parse(b"OPTIONS http://a HTTP/1.1\r\n" + HOST + b"\r\n")[0].path == "*"
    assert status_of(b"GET * HTTP/1.1\r\n" + HOST + b"\r\n") == 400


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"example.org",
        b"example.org:8080",
        b"[::1]:80",
        b"127.0.0.1",
        b"a_b-c.d",
        b"x:",
        b"%20",
    ],
)
def test_a_well_formed_host_is_accepted(host: bytes) -> None:
    parse(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


def test_http_1_0_needs_no_host_and_a_higher_minor_version_is_treated_as_1_1() -> None:
    assert parse(b"GET / HTTP/1.0\r\n\r\n")[0].http_version == "1.0"
    assert parse(b"GET / HTTP/1.2\r\n" + HOST + b"\r\n")[0].http_version == "1.1"


def test_one_empty_line_before_the_request_line_is_ignored() -> None:
    assert parse(b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n")[0].path == "/"
    assert status_of(b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n") == 400


def test_an_upgrade_is_recognised_only_when_all_of_it_is_there() -> None:
    def wants(method: bytes, fields: bytes, version: bytes = b"1.1") -> bool:
        raw = method + b" / HTTP/" + version + b"\r\n" + HOST + fields + b"\r\n"
        return parse(raw)[0].wants_websocket

    both = b"Upgrade: h2c, WebSocket\r\nConnection: keep-alive, UPGRADE\r\n"
    assert wants(b"GET", both)
    assert not wants(b"POST", both)
    assert not wants(b"GET", both, b"1.0")
    assert not wants(b"GET", b"Upgrade: websocket\r\n")
    assert not wants(b"GET", b"Connection: upgrade\r\n")


# --- heads that are refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.2\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n" + HOST + b"Host: other\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:port\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\nX", 0),  # a reg-name may contain a comma
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: 1\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: 1\r\n\tfolded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\rB: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA : 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA(: 1\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        (b"GET /\r\nHost: a\r\n\r\n", 400),  # HTTP/0.9
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
        (b"\x16\x03\x01\x02\x00\x01", 400),  # a TLS handshake, refused at its first byte
        (b"\n", 400),
    ],
)
def test_a_head_that_is_not_exactly_http_is_refused_with_its_status(
    raw: bytes, status: int
) -> None:
    if status:
        assert status_of(raw) == status
    else:
        parse(raw)


@pytest.mark.parametrize(
    "line", [b"GET /", b"EHLO example.org", b"SSH-2.0-client", b"*1", b"GET / HTTP/1.1 "]
)
def test_a_malformed_request_line_is_refused_when_it_has_come(line: bytes) -> None:
    wire = ServerConnection()
    wire.receive_data(line + b"\r")
    assert wire.next_head() is None
    wire.receive_data(b"\n")
    with pytest.raises(RemoteProtocolError, match="request line"):
        wire.next_head()


def test_an_absolute_target_stands_in_the_place_of_host() -> None:
    head, _ = parse(b"GET http://b:80/ HTTP/1.1\r\nX: 1\r\nHost: a\r\nY: 2\r\n\r\n")
    assert head.fields == ((b"x", b"1"), (b"y", b"2"), (b"host", b"b:80"))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Transfer-Encoding:\r\n", 400),
        (b"Transfer-Encoding:\x0bchunked\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: 0x3\r\n", 400),
        (b"Content-Length: 3 3\r\n", 400),
        (b"Content-Length: \r\n", 400),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", 400),
        (b"Content-Length: 3, 4\r\n", 400),
        (b"Content-Length: 99999999999999999999\r\n", 413),
        (b"Content-Length: 999999999999999999999\r\n", 413),
    ],
)
def test_a_body_with_a_doubtful_length_is_refused(fields: bytes, status: int) -> None:
    raw = b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    assert status_of(raw) == status


def test_a_transfer_coding_in_http_1_0_is_refused() -> None:
    raw = b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert status_of(raw) == 400


def test_each_size_of_a_head_has_its_limit_and_its_status() -> None:
    limits = HeadLimits(max_request_line_bytes=100, max_header_bytes=400, max_header_count=5)
    start = b"GET / HTTP/1.1\r\n" + HOST
    assert status_of(b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n" + HOST + b"\r\n", limits) == 414
    assert status_of(b"GET /" + b"a" * 100, limits) == 414  # before its end has come
    assert status_of(start + b"A: " + b"a" * 400, limits) == 431
    assert status_of(start + b"A: 1\r\n" * 5 + b"\r\n", limits) == 431
    assert status_of(start + b"A: 1\r\n" * 7, limits) == 431
    parse(start + b"A: 1\r\n" * 4 + b"\r\n", limits)
    parse(start + b"A: " + b"a" * 300 + b"\r\n\r\n", limits)
    exact = b"GET /" + b"a" * (100 - 14) + b" HTTP/1.1"
    assert len(exact) == 100
    parse(exact + b"\r\n" + HOST + b"\r\n", limits)


# --- bodies -------------------------------------------------------------------------------------

CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"0003\r\nabc\r\n00\r\n\r\n", b"abc"),
        (b'A;x;y=z;q="a;b\\"\xe9"\r\n0123456789\r\n0;end\r\n\r\n', b"0123456789"),
        (b"1;a = b\r\nx\r\n0\r\nTrailer: 1\r\nOther: 2\r\n\r\n", b"x"),
    ],
)
def test_a_chunked_body_is_decoded(raw: bytes, body: bytes) -> None:
    assert parse(CHUNKED + raw)[1] == body


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabcXX0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3;\r\nabc\r\n0\r\n\r\n",
        b"3;a=\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b'3;a="\x00"\r\nabc\r\n0\r\n\r\n',
        b"3\rabc\r\n0\r\n\r\n",
        b"11111111111111111\r\n",
        b"3;" + b"a" * 600 + b"\r\n",
        b"3;" + b"a" * 600,
        b"0\r\nA: 1\n\r\n",
        b"0\r\nA: 1\r\n folded\r\n\r\n",
        b"0\r\nA : 1\r\n\r\n",
        b"0\r\nA",
    ],
)
def test_a_chunked_body_that_is_not_exactly_framed_is_refused(raw: bytes) -> None:
    wire = ServerConnection()
    wire.receive_data(CHUNKED + raw)
    wire.receive_data(b"")
    assert wire.next_head()
    with pytest.raises(RemoteProtocolError):
        read_body(wire)


def test_trailers_are_bounded() -> None:
    wire = ServerConnection(HeadLimits(max_header_bytes=200))
    wire.receive_data(CHUNKED + b"0\r\nA: " + b"a" * 300)
    assert wire.next_head()
    with pytest.raises(RemoteProtocolError) as caught:
        wire.next_body(NO_LIMIT)
    assert caught.value.status_hint == 431


def test_a_body_over_the_callers_limit_is_refused_by_its_length_or_its_pieces() -> None:
    wire = ServerConnection()
    wire.receive_data(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\n")
    assert wire.next_head()
    with pytest.raises(PayloadTooLarge):
        wire.next_body(10)
    wire = ServerConnection()
    wire.receive_data(CHUNKED + b"b\r\n01234567890\r\n0\r\n\r\n")
    assert wire.next_head()
    with pytest.raises(PayloadTooLarge):
        wire.next_body(10)


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"GET / HT", "head"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", "body"),
        (CHUNKED + b"3\r\nab", "body"),
    ],
)
def test_an_end_in_the_middle_is_an_error_that_says_where(raw: bytes, where: str) -> None:
    wire = ServerConnection()
    wire.receive_data(raw)
    wire.receive_data(b"")
    with pytest.raises(RemoteProtocolError, match=where):
        read_body(wire) if wire.next_head() else None


def test_the_bytes_after_a_request_stay_for_the_next_or_for_the_upgraded_protocol() -> None:
    wire = ServerConnection()
    wire.receive_data(
        CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + b"GET /two HTTP/1.1\r\n" + HOST + b"\r\nrest"
    )
    assert wire.next_head()
    assert read_body(wire) == b"x"
    wire.send_head(204, [], head_request=False)
    wire.send_end()
    assert wire.start_next_cycle()
    second = wire.next_head()
    assert second is not None
    assert second.path == "/two"
    assert wire.take_buffered() == b"rest"
    assert wire.buffered == 0


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, str, bytes]:
    path = draw(st.text("abcXYZ019-_.~", min_size=0, max_size=20))
    body = draw(st.binary(max_size=60))
    fields = b"".join(
        b"X-%d: %s\r\n" % (n, value.encode())
        for n, value in enumerate(draw(st.lists(st.text("abc d", max_size=9), max_size=4)))
    )
    head = b"POST /" + path.encode() + b" HTTP/1.1\r\n" + HOST + fields
    if draw(st.booleans()):
        cuts = sorted(draw(st.lists(st.integers(1, max(1, len(body))), max_size=4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        chunks = b"".join(encode_chunk(piece) for piece in pieces if piece)
        return (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
            "/" + path,
            body,
        )
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, "/" + path, body


@NO_DEADLINE
@given(st.lists(requests(), min_size=1, max_size=3), st.data())
def test_requests_are_indifferent_to_how_their_bytes_are_cut(
    sent: list[tuple[bytes, str, bytes]], data: st.DataObject
) -> None:
    raw = b"".join(request[0] for request in sent)
    wire = ServerConnection()
    seen = []
    head: Head | None = None
    body = b""
    at = 0
    while len(seen) < len(sent):
        if head is None:
            head = wire.next_head()
        if head is not None:
            piece = wire.next_body(NO_LIMIT)
            if piece:
                body += piece
                continue
            if piece == b"":
                seen.append((head.path, body))
                wire.send_head(204, [], head_request=False)
                wire.send_end()
                assert wire.start_next_cycle()
                head, body = None, b""
                continue
        step = data.draw(st.integers(1, max(1, len(raw) - at)))
        assert at < len(raw), "all bytes are in, and a request is missing"
        wire.receive_data(raw[at : at + step])
        at += step
    assert seen == [(path, body) for _, path, body in sent]


@NO_DEADLINE
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.booleans())
def test_any_bytes_are_served_or_refused_with_a_documented_error(
    pieces: list[bytes], chunked: bool
) -> None:
    wire = ServerConnection()
    if chunked:
        wire.receive_data(CHUNKED)
    try:
        for piece in [*pieces, b""]:
            wire.receive_data(piece)
            if wire.request_complete or chunked or wire.next_head() is not None:
                chunked = chunked and wire.next_head() is None
                while wire.next_body(1000):
                    pass
    except (RemoteProtocolError, PayloadTooLarge):
        pass


# --- responses ----------------------------------------------------------------------------------


def answered(version: bytes = b"1.1", method: bytes = b"GET") -> ServerConnection:
    wire = ServerConnection()
    wire.receive_data(method + b" / HTTP/" + version + b"\r\n" + HOST + b"\r\n")
    assert wire.next_head()
    return wire


def read_response(raw: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """Read with h11's client, which is not what wrote the chunks."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    if event is h11.NEED_DATA:
        client.receive_data(b"")
        event = client.next_event()
    assert isinstance(event, h11.EndOfMessage)
    return response, body


@NO_DEADLINE
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_a_streamed_response_reaches_a_client_of_either_version(pieces: list[bytes]) -> None:
    for version in (b"1.1", b"1.0"):
        wire = answered(version)
        raw = wire.send_head(200, [], head_request=False)
        raw += b"".join(wire.send_body(piece) for piece in pieces) + wire.send_end()
        assert wire.ends_by_close == (version == b"1.0")
        assert wire.keeps_alive == (version == b"1.1")
        response, body = read_response(raw)
        assert response.status_code == 200
        assert body == b"".join(pieces)


def test_each_piece_of_a_streamed_body_is_one_chunk() -> None:
    wire = answered()
    wire.send_head(200, [], head_request=False)
    assert wire.send_body(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert wire.send_body(b"") == b""
    assert wire.send_end() == b"0\r\n\r\n"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_some_responses_never_have_a_body(method: bytes, status: int) -> None:
    wire = answered(method=method)
    wire.send_head(status, [], head_request=method == b"HEAD")
    assert wire.send_body(b"body") == b""
    assert wire.send_end() == b""
    assert wire.start_next_cycle()


def test_a_body_that_contradicts_its_length_is_our_bug() -> None:
    wire = answered()
    wire.send_head(200, [(b"content-length", b"3")], head_request=False)
    with pytest.raises(LocalProtocolError):
        wire.send_body(b"four")


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\x00"])
def test_a_response_field_cannot_smuggle_another(value: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        answered().send_head(200, [(b"x", value)], head_request=False)


def test_a_second_response_is_our_bug() -> None:
    wire = answered()
    wire.send_head(204, [], head_request=False)
    with pytest.raises(LocalProtocolError):
        wire.send_head(204, [], head_request=False)


def test_a_client_that_waits_for_100_is_known_until_it_is_told() -> None:
    wire = ServerConnection()
    wire.receive_data(
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    )
    assert wire.next_head()
    assert wire.awaits_continue
    assert wire.send_continue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not wire.awaits_continue
