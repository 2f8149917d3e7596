"""What the benchmarks' clients send beside a request, and how they wait for what they awaited."""

import base64
import os
import socket

from benchmarks.contestants import Contestant

__all__ = ["as_message", "opened_by", "read_until", "upgrade_request"]


def upgrade_request(target: str) -> bytes:
    """The client's part of the opening handshake (RFC 6455, section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def opened_by(contestant: Contestant) -> bytes:
    """What a WebSocket's client waits for before it speaks: the welcome, where there is one."""
    return b'"welcome"' if contestant.is_ours else b"\r\n\r\n"


def as_message(contestant: Contestant, body: bytes) -> bytes:
    """A POST's body as the WebSocket message that asks for the same."""
    return b'{"request_type":"crawl","data":%s}' % body if contestant.is_ours else body


def read_until(stream: socket.socket, awaited: bytes) -> None:
    """Read until that has come. Raises `RuntimeError`: the server closed before, or refused."""
    received = b""
    while awaited not in received:
        piece = stream.recv(65536)
        received += piece
        if not piece or received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise RuntimeError(f"no stream: {received[:300]!r}")
