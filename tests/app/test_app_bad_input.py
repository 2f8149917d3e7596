"""Bad input gets its documented error, and leaves the server as it was."""

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import Connection, get_json, open_crawl, request
from tests.helpers.servers import ServerProcess, open_server

JSON = ("Content-Type", "application/json")
GOOD = "http://example.com/"
MAX_URLS = 10_000

# body -> the field that the refusal names (None: the body as a whole)
BODIES: dict[str, tuple[Any, str | None]] = {
    "empty": (b"", None),
    "bad JSON": (b'{"urls": [', None),
    "two values": (b"{}{}", None),
    "not UTF-8": (b'{"urls": ["\xff"]}', None),
    "a lone surrogate": (b'{"urls": ["http://example.com/\\ud800"]}', None),
    "a lone surrogate in a name": (b'{"\\udfff": 1}', None),
    "deep nesting": (b'{"urls": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", None),
    "deep objects": (b'{"a":' * 30_000 + b"1" + b"}" * 30_000, None),
    "a list": ([GOOD], None),
    "null": (None, None),
    "a number": (7, None),
    "no urls": ({}, "urls"),
    "urls null": ({"urls": None}, "urls"),
    "urls a string": ({"urls": GOOD}, "urls"),
    "no URL at all": ({"urls": []}, "urls"),
    "too many": ({"urls": [GOOD] * (MAX_URLS + 1)}, "urls"),
    "a URL that is a number": ({"urls": [GOOD, 5]}, "urls[1]"),
    "a URL that is null": ({"urls": [None]}, "urls[0]"),
    "an empty URL": ({"urls": [GOOD, GOOD, ""]}, "urls[2]"),
    "a relative URL": ({"urls": ["/page"]}, "urls[0]"),
    "a host alone": ({"urls": ["example.com"]}, "urls[0]"),
    "a long URL": ({"urls": [GOOD + "x" * 3000]}, "urls[0]"),
    "file:": ({"urls": ["file:///etc/passwd"]}, "urls[0]"),
    "javascript:": ({"urls": ["javascript:alert(1)"]}, "urls[0]"),
    "data:": ({"urls": ["data:text/html,x"]}, "urls[0]"),
    "ftp:": ({"urls": ["ftp://example.com/"]}, "urls[0]"),
    "no host": ({"urls": ["http://"]}, "urls[0]"),
    "a bad port": ({"urls": ["http://example.com:99999/"]}, "urls[0]"),
    "a bad address": ({"urls": ["http://[::1/"]}, "urls[0]"),
    "options a list": ({"urls": [GOOD], "options": []}, "options"),
    **{
        f"{name} = {value!r}": ({"urls": [GOOD], "options": {name: value}}, f"options.{name}")
        for name, value in (
            *(("concurrency", -1), ("concurrency", 0), ("concurrency", 65), ("concurrency", "5")),
            *(("concurrency", 1.5), ("concurrency", True), ("timeout_seconds", -3)),
            *(("timeout_seconds", 0), ("timeout_seconds", 301), ("timeout_seconds", "30")),
            *(("timeout_ms", 50), ("timeout", -1), ("run_timeout_seconds", 0.5)),
            *(("run_timeout_seconds", 86_401), ("cache_mode", "sometimes"), ("cache_mode", 3)),
            *(("extract_mode", "all"), ("render_mode", "magic"), ("scroll_steps", -1)),
            *(("scroll_steps", 101), ("max_retries", -1), ("max_retries", 11)),
            *(("respect_robots", "no"), ("user_agent", ""), ("user_agent", "a\r\nb: c")),
            *(("max_text_chars", 0), ("max_text_chars", -5), ("dynamic_wait_for", 4)),
            ("skip_extraction", "yes"),
        )
    },
    "two timeouts": (
        {"urls": [GOOD], "options": {"timeout_seconds": 5, "timeout_ms": 6000}},
        "options.timeout_seconds",
    ),
}

# Spellings of addresses that no crawl may reach, whatever resolves them.
FORBIDDEN = [
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/"),
    *("http://0x0a.1/", "http://012.0.0.1/", "http://167772161/", "http://0xa000001/"),
    *("http://10.1/", "http://１０.0.0.1/", "http://10.0.0.1./", "http:\\\\10.0.0.1/"),
    *("http://169.254.169.254/", "http://0xA9FEA9FE/"),
    *("http://2852039166/", "http://100.64.0.1/", "http://0.0.0.0/", "http://0/"),
    *("http://224.0.0.1/", "http://255.255.255.255/", "http://198.18.0.1/", "http://192.0.2.1/"),
    *("http://[::1]/", "http://[::]/", "http://[::ffff:10.0.0.1]/", "http://[::ffff:a00:1]/"),
    *("http://[fc00::1]/", "http://[fd12::1]/", "http://[fe80::1]/", "http://[ff02::1]/"),
    *("http://[64:ff9b::a00:1]/", "http://[2002:a00:1::]/", "http://[2001:db8::1]/"),
]
LOOPBACK = [
    *(
        "http://127.0.0.1:{port}/page/1",
        "http://127.1:{port}/page/1",
        "http://0x7f.1:{port}/page/1",
    ),
    *("http://2130706433:{port}/page/1", "http://localhost:{port}/page/1"),
    *("http://127.0.0.2:{port}/page/1", "http://[::ffff:127.0.0.1]:{port}/page/1"),
]


def state(server: ServerProcess) -> dict[str, Any]:
    """What must be the same after bad input: sessions, their runs, what is attached."""
    sessions = get_json(server.address, "/sessions")["sessions"]
    return {
        "sessions": {entry["session_id"]: len(entry["runs"]) for entry in sessions},
        "subscribers": sum(entry["subscribers"] for entry in sessions),
    }


@pytest.fixture
def unchanged(server: ServerProcess) -> Iterator[None]:
    before, descriptors = state(server), server.descriptors()
    yield
    wait_until(lambda: state(server) == before, 2, lambda: f"{state(server)} is not {before}")
    wait_until(
        lambda: server.descriptors() <= descriptors,
        2,
        lambda: f"{server.descriptors()} descriptors, not {descriptors}",
    )


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused_and_names_its_field(server: ServerProcess, name: str) -> None:
    body, field = BODIES[name]
    for path, headers in (
        ("/crawl/stream", []),
        ("/crawl/sse", [("X-Session-ID", "never-made")]),
    ):
        response = request(server.address, "POST", path, [JSON, *headers], encoded(body))
        assert response.status == 400, (name, response)
        assert response.error["type"] == "validation_error"
        assert response.error["message"]
        if field is not None:
            assert response.error["details"]["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": "x" * 1001}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": 51}, "limit"),
        ({"query": "x", "include_content": "yes"}, "include_content"),
        ({"query": " \t"}, "query"),
        ({"query": "x", "country": "Germany"}, "country"),
        ({"query": "x", "country": "D1"}, "country"),
        ({"query": "x", "locale": "german-please"}, "locale"),
        ({"query": "x", "locale": 7}, "locale"),
        ({"query": "x", "crawl_options": {"concurrency": -1}}, "crawl_options.concurrency"),
    ],
)
def test_a_bad_search_is_refused_and_names_its_field(
    server: ServerProcess, body: dict[str, Any], field: str
) -> None:
    response = request(server.address, "POST", "/deepsearch/stream", [JSON], encoded(body))
    assert (response.status, response.error["details"]["field"]) == (400, field)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "x"])
def test_a_body_in_a_content_coding_is_415_and_told_what_is_taken(
    server: ServerProcess, coding: str
) -> None:
    body = gzip.compress(encoded({"urls": [GOOD]}))
    headers = [JSON, ("Content-Encoding", coding)]
    response = request(server.address, "POST", "/crawl/stream", headers, body)
    assert (response.status, response.error["type"]) == (415, "unsupported_media_type")
    assert response.headers["accept-encoding"] == "identity"
    plain = [("Content-Type", "text/xml")]
    response = request(server.address, "POST", "/crawl/stream", plain, b"<urls/>")
    assert response.status == 415
    assert "accept-encoding" not in response.headers


def test_a_body_that_says_it_is_not_coded_is_read(server: ServerProcess) -> None:
    headers = [JSON, ("Content-Encoding", "Identity")]
    response = request(server.address, "POST", "/crawl/stream", headers, b"{}")
    assert (response.status, response.error["details"]) == (400, {"field": "urls"})


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_ten_mebibytes_is_refused(server: ServerProcess, chunked: bool) -> None:
    body = b'{"urls": ["' + b"x" * (11 * 2**20) + b'"]}'
    headers = [JSON, *([("Transfer-Encoding", "chunked")] if chunked else [])]
    response = request(server.address, "POST", "/crawl/stream", headers, body)
    assert (response.status, response.error["type"]) == (413, "payload_too_large")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "bomb",
    [
        b"X-Bomb: " + b"x" * 2_000_000 + b"\r\n",
        b"".join(b"X-Bomb-%d: %s\r\n" % (n, b"y" * 50) for n in range(20_000)),
        b"X" * 2_000_000 + b": y\r\n",
    ],
    ids=["one long value", "many fields", "one long name"],
)
def test_a_header_bomb_is_refused_and_its_connection_closed(
    server: ServerProcess, bomb: bytes
) -> None:
    with Connection(server.address) as connection:
        received = b""
        # It may be closed before all was sent, and reset what it said: just that is asked for.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.socket.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + bomb + b"\r\n")
        with suppress(ConnectionResetError):
            while data := connection.socket.recv(65536):
                received += data
    assert received == b"" or received.split(b" ", 2)[1] in (b"400", b"431"), received[:200]
    assert get_json(server.address, "/livez")["status"]


def test_a_query_bomb_is_refused(server: ServerProcess) -> None:
    query = "&".join(f"a{number}=1" for number in range(5000))
    response = request(server.address, "GET", f"/crawl/stream?{query}")
    assert response.status in (400, 414, 431)


def test_ten_thousand_urls_are_taken(server: ServerProcess, origin: Origin) -> None:
    with open_crawl(server.address, [origin.url("/page/1")] * MAX_URLS) as stream:
        assert stream.status == 200
        first = next(stream.read_events())
        assert first.data["total_urls"] == MAX_URLS
        stream.reset()
    wait_until(lambda: live_runs(server) == 0, 2, "the run of a vanished client is still live")


def live_runs(server: ServerProcess) -> int:
    live = ("running", "paused", "cancelling")
    sessions = get_json(server.address, "/sessions")["sessions"]
    return sum(run["state"] in live for entry in sessions for run in entry["runs"])


def test_unknown_fields_are_ignored(server: ServerProcess, origin: Origin) -> None:
    body = {"urls": origin.pages(1), "colour": "blue", "options": {"speed": 11, "onProgress": None}}
    response = request(server.address, "POST", "/crawl/stream", [JSON], encoded(body))
    assert response.status == 200


def blocked(server: ServerProcess, urls: list[str]) -> dict[str, str]:
    """url -> the type of its error, for a crawl of all."""
    with open_crawl(server.address, urls, {"max_retries": 0, "timeout_seconds": 3}) as stream:
        assert stream.status == 200
        events = list(stream.read_events())
    return {
        urls[event.data["index"]]: (event.data["error"] or {"type": "fetched"})["type"]
        for event in events
        if event.kind == "result"
    }


def test_private_addresses_in_all_spellings_are_blocked(server: ServerProcess) -> None:
    assert blocked(server, FORBIDDEN) == dict.fromkeys(FORBIDDEN, "blocked_address")


def test_loopback_in_all_spellings_is_blocked_unless_the_operator_allows_it(origin: Origin) -> None:
    urls = [url.format(port=origin.port) for url in LOOPBACK]
    before = origin.requests.total()
    with open_server("native", {"EVENTMESH_FETCH__ALLOW_PRIVATE": "[]"}) as strict:
        assert blocked(strict, urls) == dict.fromkeys(urls, "blocked_address")
    assert origin.requests.total() == before


def test_a_redirect_into_a_private_network_is_blocked(
    server: ServerProcess, origin: Origin
) -> None:
    urls = [
        origin.url(f"/away?to={target}") for target in ("http://10.0.0.1/", "http://0xA9FEA9FE/")
    ]
    assert blocked(server, urls) == dict.fromkeys(urls, "blocked_address")


def test_garbage_on_the_socket_harms_nobody_else(server: ServerProcess) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        bytes(range(256)) * 50,
    ):
        with socket.create_connection(server.address, 5) as plain:
            plain.sendall(garbage)
            plain.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while plain.recv(65536):
                    pass
    assert get_json(server.address, "/livez")["status"]
