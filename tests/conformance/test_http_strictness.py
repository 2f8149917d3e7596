"""HTTP/1.1 as RFC 9112 and RFC 9110 have it: each row of `strictness_rows`.

It is sent to ``examples/echo_server.py`` and to ``eventmesh serve``: in memory, whole and in
pieces, and on sockets. What is asked each time: the statuses that the row says; where a request is
refused an error of ours and the end of the connection; else the answer to the probe that follows.
"""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import attrs
import h11
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.dispatch import Application
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.errors import PayloadTooLarge, RemoteProtocolError
from eventmesh_trio.transport.http import Handler, serve_connection
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.http11 import ServerConnection
from tests.conformance.strictness_rows import PROBE, PROBE_BODY, ROWS, SERVED, Row
from tests.helpers.programs import CHECKOUT
from tests.helpers.servers import ServerProcess, open_server

ECHO_SERVER = CHECKOUT / "examples" / "echo_server.py"
READ_SECONDS = 20.0
MAX_PIECES = 400

every_row = pytest.mark.parametrize("row", ROWS, ids=str)


@attrs.frozen
class Answer:
    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def error_type(self) -> str | None:
        """The type of the error that it tells, None where it is none of ours."""
        if self.fields.get(b"content-type") != b"application/json" or not self.body:
            return None
        told = msgspec.json.decode(self.body)
        return told["error"]["type"] if "error" in told else None


def read_answers(received: bytes, methods: Sequence[str]) -> list[Answer]:
    """All responses in what was received, which must hold nothing else. h11 reads them."""
    answers = []
    expected = iter(methods)
    while received:
        client = h11.Connection(h11.CLIENT)
        method = next(expected, "GET")
        client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(received)
        client.receive_data(b"")
        status, fields, body = 0, {}, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status, fields = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.InformationalResponse), (event, received)
        answers.append(Answer(status, fields, body))
        received = client.trailing_data[0]
    return answers


def judge(row: Row, received: bytes, *, echoes: bool) -> None:
    """Compare what came back, up to the end of the connection, with what the row asks for."""
    answers = read_answers(received, row.methods)
    probed = not row.closes
    assert len(answers) == len(row.statuses) + probed, answers
    for number, (answer, status) in enumerate(zip(answers, row.statuses, strict=False)):
        if status == SERVED:
            assert answer.error_type != "protocol_error", answer
            if echoes:
                assert (answer.status, answer.body) == (SERVED, row.bodies[number])
            else:
                assert answer.status < 500, answer
        else:
            assert answer.status == status, answer
            assert answer.fields[b"connection"] == b"close"
            told = (
                (None,)
                if row.methods[number:][:1] == ("HEAD",)
                else ("protocol_error", "payload_too_large")
            )
            assert answer.error_type in told
    if row.close:
        assert answers[len(row.statuses) - 1].fields[b"connection"] == b"close"
    if probed and echoes:
        assert (answers[-1].status, answers[-1].body) == (200, PROBE_BODY)
    elif probed:
        assert (answers[-1].status, answers[-1].fields[b"x-request-id"]) == (404, b"probe")


# --- In memory -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo() -> Handler:
    spec = importlib.util.spec_from_file_location("echo_server_of_the_rows", ECHO_SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler: Handler = module.handle
    return handler


async def converse(handler: Handler, raw: bytes, piece_bytes: int) -> bytes:
    """Send ``raw`` in pieces; what comes back until the connection ends."""
    client, server = memory_stream_pair()
    received = bytearray()

    async def send() -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # refused by then
            for start in range(0, len(raw), piece_bytes):
                await client.send_all(raw[start : start + piece_bytes])
                await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, server, handler, TransportLimits())
        nursery.start_soon(send)
        async for data in client:
            received += data
        await client.aclose()
    return bytes(received)


@every_row
async def test_a_row_is_answered_as_the_rfc_says_and_alike_however_it_is_cut(
    echo: Handler, row: Row, autojump_clock: MockClock
) -> None:
    raw = row.raw + PROBE
    for piece_bytes in (len(raw), max(1, len(raw) // MAX_PIECES), max(7, len(raw) // 50)):
        judge(row, await converse(echo, raw, piece_bytes), echoes=True)


async def test_the_application_answers_each_row_alike(autojump_clock: MockClock) -> None:
    async with open_mesh(Config()) as mesh:
        handler = Application(mesh).handle
        for row in ROWS:
            judge(row, await converse(handler, row.raw + PROBE, len(row.raw) + 100), echoes=False)


# --- Mutated ------------------------------------------------------------------------------------

SHORT = [row for row in ROWS if len(row.raw) < 1000]
edits = st.lists(
    st.tuples(
        st.integers(0, 1000),
        st.integers(0, 2),
        st.sampled_from(
            [
                *(b"", b"\r", b"\n", b"\t", b" ", b":", b",", b";", b"0", b"a", b"\0", b"\xff"),
                *(b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"Content-Length: 5\r\n"),
                *(b"\r\nTransfer-Encoding: chunked", b"Host: b\r\n", b"GET / HTTP/1.1\r\n"),
            ]
        ),
    ),
    min_size=1,
    max_size=3,
)
Reading = tuple[list[tuple[str, bytes]], bool]


def read_by_us(pieces: Iterable[bytes]) -> Reading:
    """The requests that are accepted, as methods and bodies, and whether one was refused then."""
    wire = ServerConnection()
    accepted: list[tuple[str, bytes]] = []
    head, body = None, b""
    try:
        for piece in (*pieces, b""):
            wire.receive_data(piece)
            while head is not None or (head := wire.next_head()) is not None:
                more = wire.next_body(1 << 20)
                if more is None:
                    break
                body += more
                if not more:
                    accepted.append((head.method, body))
                    head, body = None, b""
                    wire.send_head(404, [(b"content-length", b"0")], head_request=False)
                    wire.send_end()
                    if not wire.start_next_cycle():
                        return accepted, False
    except (RemoteProtocolError, PayloadTooLarge):
        return accepted, True
    return accepted, False


def read_by_h11(raw: bytes) -> list[tuple[str, bytes]]:
    """The same by h11 alone, which is more lenient."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    server.receive_data(b"")
    accepted: list[tuple[str, bytes]] = []
    method, body = "", b""
    with suppress(h11.RemoteProtocolError):
        while not isinstance(event := server.next_event(), (type, h11.ConnectionClosed)):
            if isinstance(event, h11.Request):
                method, body = event.method.decode(), b""
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                accepted.append((method, body))
                server.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                server.send(h11.EndOfMessage())
                if server.our_state is not h11.DONE:
                    break
                server.start_next_cycle()
    return accepted


@settings(max_examples=500)
@given(st.sampled_from(SHORT), edits, st.integers(1, 40))
def test_what_is_accepted_depends_on_no_cut_and_is_what_another_parser_reads(
    row: Row, changes: list[tuple[int, int, bytes]], piece_bytes: int
) -> None:
    raw = row.raw + PROBE
    for place, removed, inserted in changes:
        at = place % len(raw)
        raw = raw[:at] + inserted + raw[at + removed :]
    accepted, refused = read_by_us([raw])
    for step in (1, piece_bytes):
        pieces = (raw[at : at + step] for at in range(0, len(raw), step))
        assert read_by_us(pieces) == (accepted, refused)
    # It may refuse, or go on, where we do not; but no request may be another to it.
    for ours, its in zip(accepted, read_by_h11(raw), strict=False):
        assert ours == its


# --- On sockets ----------------------------------------------------------------------------------


@contextmanager
def open_echo_server() -> Iterator[tuple[str, int]]:
    process = subprocess.Popen(
        [sys.executable, str(ECHO_SERVER), "--bind", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield "127.0.0.1", int(line.strip().rpartition(b":")[2])
        assert process.poll() is None, "the echo server ended by itself"
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def echo_address() -> Iterator[tuple[str, int]]:
    with open_echo_server() as address:
        yield address


@pytest.fixture(scope="module")
def mesh_server() -> Iterator[ServerProcess]:
    with open_server("native") as process:
        yield process


def exchange(address: tuple[str, int], raw: bytes) -> bytes:
    """Send all, read all: an end that is a reset fails, for it can destroy an answer."""
    with socket.create_connection(address, READ_SECONDS) as plain:
        with suppress(BrokenPipeError, ConnectionResetError):
            plain.sendall(raw)
        received = b""
        while data := plain.recv(65536):
            received += data
    return received


@pytest.mark.slow
@every_row
def test_the_echo_server_answers_each_row_on_a_socket(
    echo_address: tuple[str, int], row: Row
) -> None:
    judge(row, exchange(echo_address, row.raw + PROBE), echoes=True)


@pytest.mark.slow
@every_row
def test_the_mesh_answers_each_row_on_a_socket(mesh_server: ServerProcess, row: Row) -> None:
    judge(row, exchange(mesh_server.address, row.raw + PROBE), echoes=False)
