"""What a WebSocket peer may do wrong, or too much of: it costs that peer, and nobody else."""

import base64
import json
import re
import signal
import socket as sockets
import struct
import threading
import time
import zlib
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.clock import wait_until
from tests.helpers.origin import Origin
from tests.helpers.raw import WebSocketClient, get_json, request
from tests.helpers.servers import Kind, ServerProcess, open_server

MIB = 2**20
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FINAL, COMPRESSED = 0x80, 0x40
OPTIONS = {"respect_robots": False, "cache_mode": "disabled", "concurrency": 8}
IMPATIENT = {
    "EVENTMESH_STREAM__WEBSOCKET__PING_INTERVAL": "400ms",
    "EVENTMESH_STREAM__WEBSOCKET__PONG_TIMEOUT": "400ms",
}
UPGRADE = (
    b"GET /crawl/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n" % base64.b64encode(bytes(16))
)


def masked(first: int, payload: bytes) -> bytes:
    """A client's frame; masked with zeros, it is easily made and as easily read."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + bytes(4) + payload


class Peer:
    """A socket after its handshake, and the strictest reader of a server's frames."""

    def __init__(self, server: ServerProcess, *, together: bytes = b"") -> None:
        self.socket = sockets.create_connection(server.address, timeout=20)
        self.socket.sendall(UPGRADE + together)
        self.buffer = bytearray()
        while b"\r\n\r\n" not in self.buffer:
            assert self.read(), "no answer to the handshake"
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.buffer[:] = rest

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read(self) -> bool:
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload (inflated) of the next frame; None at the end of the connection."""
        while (found := self._buffered_frame()) is None:
            if not self.read():
                assert not self.buffer, f"the end came within a frame: {bytes(self.buffer[:40])!r}"
                return None
        return found

    def _buffered_frame(self) -> tuple[int, bytes] | None:
        data = self.buffer
        if len(data) < 2:
            return None
        first, length = data[0], data[1]
        assert first & 0x0F in (TEXT, CLOSE, PING, PONG), f"no frame begins with {first:#x}"
        assert first & 0xB0 == FINAL, f"no frame begins with {first:#x}"
        assert length < 128, "a server's frame is not masked"
        extra = {126: 2, 127: 8}.get(length, 0)
        size = int.from_bytes(data[2 : 2 + extra], "big") if extra else length
        end = 2 + extra + size
        if len(data) < 2 + extra or len(data) < end:
            return None
        payload = bytes(data[2 + extra : end])
        del data[:end]
        if first & COMPRESSED:
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        return first & 0x0F, payload

    def close_code(self) -> int | None:
        """The code of the server's close frame; None where the connection ends without one."""
        while (found := self.frame()) is not None:
            if found[0] == CLOSE:
                return int.from_bytes(found[1][:2], "big")
        return None


def subscribers(server: ServerProcess) -> int:
    sessions = get_json(server.address, "/sessions")["sessions"]
    return sum(int(session["subscribers"]) for session in sessions)


def crawl(urls: list[str]) -> dict[str, Any]:
    return {"action": "crawl", "request_id": "run", "data": {"urls": urls, "options": OPTIONS}}


# --- Stray bytes ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stray_byte_after_the_upgrade_ends_that_connection_and_no_other(origin: Origin) -> None:
    with (
        open_server("native", IMPATIENT) as server,
        WebSocketClient(server.address, "/crawl/ws") as bystander,
    ):
        bystander.receive()
        bystander.send(crawl(origin.slow_pages(240, 100, host=1)))
        messages: list[dict[str, Any]] = []
        reader = threading.Thread(
            target=lambda: messages.extend(bystander.receive_until("summary"))
        )
        reader.start()
        codes: Counter[int | None] = Counter()
        for together in (True, False):
            with ExitStack() as stack:
                peers = []
                for byte in range(256):
                    # A second byte makes a frame's head of it; without one only time can tell.
                    stray = bytes((byte, 0)) if byte % 2 else bytes((byte,))
                    peer = stack.enter_context(Peer(server, together=stray if together else b""))
                    if not together:
                        peer.socket.sendall(stray)
                    peers.append(peer)
                codes.update(peer.close_code() for peer in peers)
        assert request(server.address, "GET", "/livez").status == 200
        wait_until(lambda: subscribers(server) <= 1, 5, "a stray connection is still served")
        reader.join()
        summary = messages[-1]["data"]
    print(f"512 stray bytes, closed with {dict(codes)}; the crawl beside them: {summary['status']}")
    assert (summary["status"], summary["successful"]) == ("completed", 240)
    # A frame that never came whole ends as any peer does that answers no ping: without a word.
    assert set(codes) == {1002, None}
    assert codes[1002] == 256


def test_bytes_after_a_peers_close_frame_harm_nobody(server: ServerProcess) -> None:
    close = masked(FINAL | CLOSE, (1000).to_bytes(2, "big"))
    for tail in (b"\0", b"GET / HTTP/1.1\r\n\r\n", masked(FINAL | TEXT, b"{}"), close):
        with Peer(server) as peer:
            peer.socket.sendall(close + tail)
            assert peer.close_code() == 1000
    assert request(server.address, "GET", "/livez").status == 200


# --- Pings and data -------------------------------------------------------------------------------


def test_pings_and_data_at_the_same_moment_never_mix_their_frames(
    native_server: ServerProcess, origin: Origin
) -> None:
    urls = [origin.url(f"/large/{number}?kb=16", host=number % 4) for number in range(200)]
    sent = {"pings": 0, "commands": 0}
    ended = threading.Event()
    with Peer(native_server) as peer:
        peer.socket.sendall(masked(FINAL | TEXT, json.dumps(crawl(urls)).encode()))

        def send_pings() -> None:
            while not ended.wait(0.0005):
                for _ in range(5):
                    peer.socket.sendall(masked(FINAL | PING, b"%d" % sent["pings"]))
                    sent["pings"] += 1
                peer.socket.sendall(masked(FINAL | TEXT, b'{"request_type":"ping"}'))
                sent["commands"] += 1

        thread = threading.Thread(target=send_pings)
        thread.start()
        pongs = results = replies = 0
        between = 0  # pongs that came between two results
        while not ended.is_set() or (pongs, replies) != (sent["pings"], sent["commands"]):
            found = peer.frame()
            assert found is not None
            opcode, payload = found
            if opcode == PONG:
                assert payload == b"%d" % pongs
                pongs += 1
                between += 0 < results < len(urls)
                continue
            tag = json.loads(payload).get("message_type")
            results += tag == "result"
            replies += tag == "pong"
            if tag == "summary":
                ended.set()
                thread.join()
    print(f"{pongs} pongs ({between} between results), {replies} replies, {results} results")
    assert results == len(urls)
    assert between > 100


# --- Bombs ----------------------------------------------------------------------------------------


def block(text: str) -> bytes:
    """A mebibyte of it, deflated; any number of them in a row is one valid stream."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = text.encode()
    return deflater.compress(data * (MIB // len(data))) + deflater.flush(zlib.Z_FULL_FLUSH)


def bombs() -> dict[str, bytes]:
    zeros, wide = block("\0"), block("x" * 1020 + "\U0001d11e")
    return {
        "1 GiB of zeros as text": masked(FINAL | COMPRESSED | TEXT, zeros * 1024),
        "1 GiB of zeros as bytes": masked(FINAL | COMPRESSED | BINARY, zeros * 1024),
        "1 GiB of wide text": masked(FINAL | COMPRESSED | TEXT, wide * 1024),
        "in a thousand fragments": masked(COMPRESSED | TEXT, wide) + masked(0, wide) * 1023,
        "in many tiny fragments": masked(COMPRESSED | TEXT, b"")
        + b"".join(masked(0, piece) for piece in pieces(wide * 64, 16)),
    }


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def peak_bytes(pid: int, *, reset: bool = False) -> int:
    """The most memory that a process has had since its peak was last reset."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize(
    ("kind", "code", "most_mebibytes"),
    [("native", 1009, 16), ("hypercorn", 1009, 16)],
)
def test_a_compression_bomb_is_cut_at_the_limit_and_costs_little_memory(
    kind: Kind, code: int | None, most_mebibytes: int
) -> None:
    grown: dict[str, float] = {}
    # A process of its own, which has not been larger before.
    with open_server(kind) as server:
        with Peer(server) as peer:
            peer.socket.sendall(masked(FINAL | TEXT, b'{"request_type":"ping"}'))
            peer.frame()
        for name, bomb in bombs().items():
            before = peak_bytes(server.serving_pid, reset=True)
            with Peer(server) as peer:
                sender = threading.Thread(target=send_quietly, args=(peer.socket, bomb))
                sender.start()
                seen = None
                with suppress(ConnectionResetError):  # hypercorn leaves the rest unread
                    seen = peer.close_code()
                assert seen == code
                sender.join()
            grown[name] = round((peak_bytes(server.serving_pid) - before) / MIB, 1)
        assert request(server.address, "GET", "/livez").status == 200
    print(f"{kind}: grown by, MiB: {grown}")
    assert max(grown.values()) < most_mebibytes


def send_quietly(socket: sockets.socket, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it is refused before it is read
        socket.sendall(data)


# --- Floods ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_peer_that_commands_without_end_and_never_reads_is_cut_off(origin: Origin) -> None:
    settings = {"EVENTMESH_MESH__STALL_SECONDS": "0.5"}
    with open_server("native", settings) as server:
        with Peer(server) as peer:
            peer.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
            urls = [origin.url(f"/large/{number}?kb=64", host=number % 4) for number in range(100)]
            peer.socket.sendall(masked(FINAL | TEXT, json.dumps(crawl(urls)).encode()))
            command = masked(FINAL | TEXT, b'{"request_type":"status"}') * 100
            started = time.monotonic()
            commands = 0
            with suppress(BrokenPipeError, ConnectionResetError):
                while commands < 10_000_000:
                    peer.socket.sendall(command)
                    commands += 100
            took = time.monotonic() - started
        wait_until(lambda: subscribers(server) == 0, 5, "it is still attached")
    print(f"cut off after {took:.1f} s; it had sent {commands} commands that nobody read")
    assert 0.5 < took < 10


# --- Going away -----------------------------------------------------------------------------------


def test_a_server_that_is_told_to_end_closes_its_sockets_with_1001_after_their_summaries(
    origin: Origin,
) -> None:
    with open_server("native") as server:
        idle = WebSocketClient(server.address, "/crawl/ws")
        busy = WebSocketClient(server.address, "/crawl/ws")
        with idle, busy:
            idle.receive()
            busy.receive()
            busy.send(crawl([*origin.pages(2), *origin.stalling(2, host=2)]))
            for _ in range(2):
                busy.receive_until("result")
            server.process.send_signal(signal.SIGTERM)
            summary = busy.receive_until("summary")[-1]["data"]
            for client in (idle, busy):
                with pytest.raises(EOFError):
                    client.receive()
                client.socket.sendall(masked(FINAL | CLOSE, (1001).to_bytes(2, "big")))
        assert (summary["status"], summary["reason"]) == ("cancelled", "shutdown")
        assert (idle.close_code, busy.close_code) == (1001, 1001)
        started = time.monotonic()
        assert server.process.wait(5) == 0
        assert time.monotonic() - started < 2


def test_a_peer_that_stands_still_in_the_middle_of_a_message_is_given_up() -> None:
    with open_server("native", IMPATIENT) as server, Peer(server) as peer:
        peer.socket.sendall(masked(TEXT, b'{"request_type":'))
        started = time.monotonic()
        found = []
        while (frame := peer.frame()) is not None:
            found.append(frame[0])
        took = time.monotonic() - started
        assert found == [TEXT, PING]  # the welcome, and a question
        assert 0.7 < took < 3
