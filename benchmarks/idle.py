"""Memory of an idle SSE stream: ours and theirs.

``python -m benchmarks.idle [--quick] [--streams 1000]``

Opens so many SSE streams that fall silent after their first events, and divides the growth of the
server's resident memory by their number. A first hundred is opened before, so that what a server
loads once is not counted. Ours is measured twice: every stream with a run of its own (its session,
log and task included), and all of them attached to one session. What the kernel keeps for a socket
is in nobody's figure.
"""

import argparse
import resource
import socket
import time
import uuid
from collections.abc import Callable

from benchmarks.contestants import OURS, Contestant, prepare, serving
from benchmarks.readers import http_request

WARM = 100
DESCRIPTORS = 8192
SETTLE_SECONDS = 1.5
Address = tuple[str, int]


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def open_stream(address: Address, request: bytes, awaited: bytes) -> socket.socket:
    """Ask, and read until the stream's first event is there."""
    stream = socket.create_connection(address, 30)
    stream.sendall(request)
    received = b""
    while awaited not in received:
        piece = stream.recv(65536)
        if not piece:
            raise RuntimeError(f"no stream: {received[:300]!r}")
        received += piece
    return stream


def measure(
    contestant: Contestant, streams: int, opener: Callable[[Address], Callable[[], socket.socket]]
) -> float:
    """Bytes of resident memory a stream."""
    with serving(contestant, None) as (address, pid):
        open_one = opener(address)
        held = [open_one() for _ in range(WARM)]
        time.sleep(SETTLE_SECONDS)
        before = resident_bytes(pid)
        held += [open_one() for _ in range(streams)]
        time.sleep(SETTLE_SECONDS)
        growth = resident_bytes(pid) - before
        for stream in held:
            stream.close()
    return growth / streams


def own_streams(contestant: Contestant) -> Callable[[Address], Callable[[], socket.socket]]:
    request = http_request(contestant.target("sse"), contestant.body(0, idle=True))
    return lambda address: lambda: open_stream(address, request, b'"event":"metadata"')


def attached_streams(address: Address) -> Callable[[], socket.socket]:
    """One run in one session, and readers that attach to it."""
    session = f"idle-{uuid.uuid4().hex[:8]}"
    body = OURS.body(0, idle=True)
    start = (
        f"POST /crawl/sse HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"X-Session-ID: {session}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    open_stream(address, start.encode() + body, b'"started"').close()
    attach = f"GET /crawl/sse/stream?session_id={session} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    return lambda: open_stream(address, attach, b'"event":"metadata"')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--streams", type=int, default=None)
    arguments = parser.parse_args()
    streams = arguments.streams or (100 if arguments.quick else 1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    able, missing = prepare()
    print(f"{streams} idle SSE streams")
    print(f"  {'eventmesh_trio, attached to one session':44} "
          f"{measure(OURS, streams, attached_streams) / 1024:8.1f} KiB a stream")  # fmt: skip
    for contestant in able:
        if "sse" in contestant.framings:
            name = f"{contestant.name}, a run each" if contestant.is_ours else contestant.name
            figure = measure(contestant, streams, own_streams(contestant)) / 1024
            print(f"  {name:44} {figure:8.1f} KiB a stream", flush=True)
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")


if __name__ == "__main__":
    main()
