"""An origin that misbehaves in every way known to us, in a process of its own.

Each way has a name, an address of its own on loopback (so that no limit by host or origin makes two
of them one), and nothing in common with the server's loop or the test's. `Bad.url` says where. What
each does is in `tests.helpers.bad_answers` and `tests.helpers.bad_pages`.
"""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import attrs
import trio
import trustme

from tests.helpers import bad_answers
from tests.helpers.bad_answers import ANSWERS, Wire, good_page, text_answer
from tests.helpers.programs import CHECKOUT

__all__ = ["NAMES", "TLS_NAMES", "Bad", "open_bad_origin"]

GOOD_HOST = "127.0.2.1"
TLS_GOOD_HOST = "127.0.2.2"
TLS_NAMES = (
    "tls certificate expired",
    "tls certificate of another name",
    "tls certificate signed by itself",
    "tls certificate of an unknown authority",
    "tls handshake stalls",
    "tls handshake reset",
    "tls handshake of garbage",
    "plain http on a tls port",
    "tls on a plain port",
)
NAMES: tuple[str, ...] = (*ANSWERS, *TLS_NAMES)
START_SECONDS = 30.0
_Handler = Callable[[trio.SocketStream], Awaitable[None]]


def host_of(name: str) -> str:
    number = NAMES.index(name)
    return f"127.0.{3 + number // 200}.{number % 200 + 1}"


@attrs.frozen
class Bad:
    """Where everything is, and the certificate file that a server must trust."""

    port: int
    authority: Path

    def url(self, name: str, path: str = "/page") -> str:
        scheme = "https" if name in TLS_NAMES and name != "tls on a plain port" else "http"
        return f"{scheme}://{host_of(name)}:{self.port}{path}"

    def good(self, count: int, first: int = 0) -> list[str]:
        """Pages of an origin that behaves; each says ``good page N``."""
        return [f"http://{GOOD_HOST}:{self.port}/good/{n}" for n in range(first, first + count)]

    def good_tls(self) -> str:
        return f"https://{TLS_GOOD_HOST}:{self.port}/good/1"


@contextmanager
def open_bad_origin(folder: Path) -> Iterator[Bad]:
    """Start it, and end it with the block; ``folder`` is for its certificates.

    The origin must end by itself when it is told to: what it raised fails the test.
    """
    authority = folder / "authority.pem"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.bad_origin", str(authority)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the bad origin did not start"
        yield Bad(json.loads(line), authority)
        process.stdin.close()
        assert process.wait(10) == 0, "the bad origin failed by itself"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


# --- The process ----------------------------------------------------------------------------------


async def _serve(handler: _Handler, stream: trio.SocketStream) -> None:
    try:
        await handler(stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the crawler hung up, which is what most of this is about
    finally:
        await trio.aclose_forcefully(stream)


async def _answer_bad(name: str, stream: trio.abc.Stream) -> None:
    wire = Wire(stream)
    while (request := await wire.read_request()) is not None:
        await ANSWERS[name](wire, request)
        if wire.ended:
            return


async def _answer_good(stream: trio.abc.Stream) -> None:
    wire = Wire(stream)
    while (request := await wire.read_request()) is not None:
        await wire.send(text_answer(good_page(request.path.rpartition("/")[2])))


async def _over_tls(
    context: ssl.SSLContext,
    handler: Callable[[trio.abc.Stream], Awaitable[None]],
    stream: trio.SocketStream,
) -> None:
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    await tls.do_handshake()
    await handler(tls)


async def _stall(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def _reset(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    Wire(stream).reset()


async def _garbage(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"\x16\x03\x03\xff\xff" + bytes(range(256)) * 64)
    await _stall(stream)


async def _plain_refusal(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def _context(authority: trustme.CA, host: str, **options: object) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, **options).configure_cert(context)  # type: ignore[arg-type]
    return context


def _own_certificate(folder: Path) -> ssl.SSLContext:
    """A certificate that vouches for itself."""
    alone = trustme.CA()
    chain = folder / "alone.pem"
    alone.private_key_pem.write_to_path(chain)
    alone.cert_pem.write_to_path(chain, append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def _handlers(folder: Path, authority: trustme.CA) -> dict[str, _Handler]:
    now = datetime.now(UTC)

    def tls(context: ssl.SSLContext) -> _Handler:
        return partial(_over_tls, context, _answer_good)

    special: dict[str, _Handler] = {
        "tls certificate expired": tls(
            _context(
                authority,
                host_of("tls certificate expired"),
                not_before=now - timedelta(days=30),
                not_after=now - timedelta(days=1),
            )
        ),
        "tls certificate of another name": tls(_context(authority, "elsewhere.example")),
        "tls certificate signed by itself": tls(_own_certificate(folder)),
        "tls certificate of an unknown authority": tls(
            _context(trustme.CA(), host_of("tls certificate of an unknown authority"))
        ),
        "tls handshake stalls": _stall,
        "tls handshake reset": _reset,
        "tls handshake of garbage": _garbage,
        "plain http on a tls port": _plain_refusal,
        "tls on a plain port": tls(_context(authority, host_of("tls on a plain port"))),
    }
    handlers = {GOOD_HOST: _answer_good, TLS_GOOD_HOST: tls(_context(authority, TLS_GOOD_HOST))}
    for name in NAMES:
        handlers[host_of(name)] = special.get(name) or partial(_answer_bad, name)
    return handlers


async def _main(authority_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(authority_path)
    port = 0
    async with trio.open_nursery() as nursery:
        for host, handler in _handlers(authority_path.parent, authority).items():
            listeners = await trio.open_tcp_listeners(port, host=host)
            port = port or listeners[0].socket.getsockname()[1]
            serve = partial(_serve, handler)
            await nursery.start(partial(trio.serve_listeners, serve, listeners))
        bad_answers.prepare()
        print(json.dumps(port), flush=True)
        stdin = trio.lowlevel.FdStream(os.dup(0))
        with suppress(trio.BrokenResourceError):
            while await stdin.receive_some():  # until the test closes its end, or is gone
                pass
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]))
