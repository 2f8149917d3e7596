"""The time to first byte, request by request, and what a server may have to do beside them."""

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.asking import read_until
from benchmarks.contestants import Contestant
from benchmarks.pace import AT_ONCE, Pace
from benchmarks.readers import http_request

__all__ = ["first_byte_seconds", "first_bytes", "full_load"]

STARVED_SECONDS = 3.0
"""A request that has no answer within so long is counted with it."""
LOAD_SECONDS = 0.3
"""How long a stream at full speed has to come up to it."""
BUFFER_BYTES = 1 << 20
Address = tuple[str, int]


def first_byte_seconds(contestant: Contestant, address: Address) -> float:
    """From the request to the first byte of the first event, on a connection that is open."""
    request = http_request(contestant.target("ndjson"), AT_ONCE.body(is_ours=contestant.is_ours))
    with socket.create_connection(address, STARVED_SECONDS) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        stream.sendall(request)
        read_until(stream, b'{"event"')
        return time.perf_counter() - began


def first_bytes(contestant: Contestant, address: Address, requests: int) -> list[float]:
    """One request after the other; who starves one is charged that long, and asked no more."""
    found: list[float] = []
    for _ in range(requests):
        try:
            found.append(first_byte_seconds(contestant, address))
        except TimeoutError:
            return [*found, STARVED_SECONDS]
    return found


def drain(address: Address, request: bytes) -> None:
    """Read a stream as fast as it comes; in a process of its own, until that is ended."""
    buffer = bytearray(BUFFER_BYTES)
    with socket.create_connection(address, 30) as stream:
        stream.sendall(request)
        while stream.recv_into(buffer):
            pass


@contextmanager
def full_load(contestant: Contestant, address: Address) -> Iterator[None]:
    """A stream at full speed, for as long as the block runs."""
    body = Pace(1_000_000_000).body(is_ours=contestant.is_ours)
    request = http_request(contestant.target("ndjson"), body)
    process = multiprocessing.get_context("spawn").Process(
        target=drain, args=(address, request), daemon=True
    )
    process.start()
    try:
        time.sleep(LOAD_SECONDS)
        yield
    finally:
        process.terminate()
        process.join()
