"""``examples/echo_server.py``: the transport floor is usable alone, in process and as a program."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import trio
from transport_harness import GET, HTTPPeer, http_peer, open_websocket
from trio.testing import MockClock
from wsproto.events import BytesMessage

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "echo_server.py"


@pytest.fixture(scope="module")
def server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("echo_server", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def get(peer: HTTPPeer, target: str, *fields: bytes) -> tuple[int, bytes]:
    lines = [b"GET " + target.encode() + b" HTTP/1.1", b"Host: a", *fields, b"", b""]
    await peer.send(b"\r\n".join(lines))
    answer = await peer.answer()
    assert answer.complete
    return answer.status, answer.body


async def test_any_method_on_any_path_echoes_the_body(server: ModuleType) -> None:
    async with http_peer(server.handle) as peer:
        for method in (b"PUT", b"POST", b"BREW"):
            await peer.send(
                method + b" /any/path HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
                b"Content-Type: x/y\r\n\r\nbody"
            )
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"body")
            assert answer.fields[b"content-type"] == b"x/y"


async def test_websocket_messages_are_echoed(server: ModuleType) -> None:
    async with http_peer(server.handle) as http:
        peer = await open_websocket(http, deflate=True)
        await peer.send_text("text " * 100)
        assert await peer.message() == "text " * 100
        await peer.send(BytesMessage(b"\xff"))
        assert await peer.message() == b"\xff"


async def test_ndjson_streams_numbered_lines(server: ModuleType) -> None:
    async with http_peer(server.handle) as peer:
        status, body = await get(peer, "/ndjson?n=3000&pad=50")
        lines = body.splitlines(keepends=True)
        assert status == 200
        assert len(lines) == 3000
        assert lines[-1] == b'{"id":3000,"pad":"' + b"x" * 50 + b'"}\n'


async def test_a_gap_is_kept_and_a_client_that_leaves_ends_the_stream(
    server: ModuleType, autojump_clock: MockClock
) -> None:
    async with http_peer(server.handle) as peer:
        await peer.send(GET.replace(b" / ", b" /ndjson?n=100&gap=2 "))
        await peer.until(b'"id":4,')
        assert trio.current_time() == pytest.approx(6, abs=0.1)


async def test_sse_is_cut_and_resumed_by_the_last_event_id_until_204(server: ModuleType) -> None:
    ids: list[bytes] = []
    async with http_peer(server.handle) as peer:
        while True:
            last = [b"Last-Event-ID: " + ids[-1]] if ids else []
            status, body = await get(peer, "/sse?n=10&cut=4", *last)
            if status == 204:
                break
            ids += [line[4:] for line in body.splitlines() if line.startswith(b"id: ")]
    assert ids == [b"%d" % number for number in range(1, 11)]


@pytest.mark.parametrize("query", ["n=x", "n=-1", "gap=nan", "pad=1e9"])
async def test_a_bad_query_is_400(server: ModuleType, query: str) -> None:
    async with http_peer(server.handle) as peer:
        assert (await get(peer, f"/ndjson?{query}"))[0] == 400


async def test_the_program_serves_on_a_real_port_and_ends_on_sigterm() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, str(PROGRAM), "--bind", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            line = bytes(await process.stdout.receive_some())
            port = int(line.strip().rpartition(b":")[2])
            peer = HTTPPeer(await trio.open_tcp_stream("127.0.0.1", port))
            assert await get(peer, "/ndjson?n=1") == (200, b'{"id":1,"pad":""}\n')
            process.send_signal(signal.SIGTERM)
            assert await peer.rest() == b""
            assert await process.wait() == 0
            await peer.stream.aclose()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stdout.aclose()
