"""What the bad origin does with a request, by name: bytes that no honest server would send."""

import gzip
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Final, Literal

import attrs
import brotli
import trio
import zstandard

from tests.helpers import bad_pages

__all__ = ["ANSWERS", "Wire", "good_page", "prepare", "text_answer"]

Ending = Literal["close", "reset", "hold", "keep"]
HTML: Final = b"Content-Type: text/html; charset=utf-8\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\n" + HTML
DRIP_SECONDS: Final = 0.02
_MIB: Final = 2**20


def good_page(number: str) -> bytes:
    words = "An honest page says what it has to say in whole sentences, and then it ends. " * 4
    return (
        f"<!DOCTYPE html><html lang='en'><head><title>Good {number}</title></head><body><article>"
        f"<h1>Good {number}</h1><p>This is good page {number} of an honest origin.</p>"
        f"<p>{words}</p><p>{words}</p></article></body></html>"
    ).encode()


def text_answer(body: bytes, fields: bytes = HTML, status: bytes = b"200 OK") -> bytes:
    """A response with the right length."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


@attrs.frozen
class Request:
    method: str
    path: str
    head: bytes


class Wire:
    """One connection of a crawler, from the origin's end. ``ended``: no other request is read."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.ended = False
        self.requests = 0
        self._data = b""

    async def read_request(self) -> Request | None:
        while b"\r\n\r\n" not in self._data:
            more = await self.stream.receive_some()
            if not more:
                return None
            self._data += more
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ", 2)
        self.requests += 1
        return Request(method, path, head)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def drip(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            await self.stream.send_all(piece)
            await trio.sleep(DRIP_SECONDS)

    async def flood(self, piece: bytes, most_bytes: int) -> None:
        """Send the same for as long as it is taken, and in the end no more than ``most_bytes``."""
        for _ in range(most_bytes // len(piece)):
            await self.stream.send_all(piece)

    async def hold(self) -> None:
        """Say nothing more, until the crawler hangs up."""
        self.ended = True
        while await self.stream.receive_some():
            pass

    def reset(self) -> None:
        """An RST instead of an end."""
        self.ended = True
        if isinstance(self.stream, trio.SocketStream):
            end = trio.socket
            self.stream.setsockopt(end.SOL_SOCKET, end.SO_LINGER, struct.pack("ii", 1, 0))

    async def end(self, how: Ending) -> None:
        if how == "hold":
            await self.hold()
        elif how == "reset":
            # What was sent before is to arrive: an RST may overtake it.
            await trio.sleep(0.05)
            self.reset()
        elif how == "close":
            self.ended = True


Answer = Callable[[Wire, Request], Awaitable[None]]
ANSWERS: dict[str, Answer] = {}


def answers(name: str) -> Callable[[Answer], Answer]:
    def note(answer: Answer) -> Answer:
        assert name not in ANSWERS, name
        ANSWERS[name] = answer
        return answer

    return note


def fixed(name: str, make: bytes | Callable[[], bytes], ending: Ending = "keep") -> None:
    """Name an answer that is the same bytes each time."""

    @answers(name)
    async def _(wire: Wire, _: Request) -> None:
        await wire.send(make if isinstance(make, bytes) else make())
        await wire.end(ending)


# --- Content codings ------------------------------------------------------------------------------


def coded(coding: str, body: bytes) -> bytes:
    return text_answer(body, HTML + b"Content-Encoding: %b\r\n" % coding.encode())


def zeros(mebibytes: int, wbits: int) -> bytes:
    """Zeros, deflated: one piece of them is the same as the next."""
    deflate = zlib.compressobj(9, wbits=wbits)
    first = deflate.compress(bytes(_MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    again = deflate.compress(bytes(_MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return first + again * (mebibytes - 2)


@cache
def gzip_bomb() -> bytes:
    return zeros(1024, zlib.MAX_WBITS | 16)


@cache
def brotli_bomb() -> bytes:
    deflate = brotli.Compressor(quality=5)
    return b"".join(deflate.process(bytes(_MIB)) for _ in range(256)) + deflate.finish()


@cache
def zstd_bomb(window: int = 0x68, head: int = 0x00) -> bytes:
    """A GiB in blocks of one repeated byte (RFC 8878, 3.1.1.2), window of 8 MiB."""
    block = (1 << 1 | 128 * 1024 << 3).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd" + bytes([head, window]) + block * 8192


def nest(body: bytes, times: int) -> bytes:
    for _ in range(times):
        body = gzip.compress(body, 9)
    return body


PAGE: Final = good_page("of a bad origin")

fixed("gzip bomb", lambda: coded("gzip", gzip_bomb()))
fixed("deflate bomb", lambda: coded("deflate", zeros(1024, zlib.MAX_WBITS)))
fixed("raw deflate bomb", lambda: coded("deflate", zeros(1024, -zlib.MAX_WBITS)))
fixed("brotli bomb", lambda: coded("br", brotli_bomb()))
fixed("zstd bomb", lambda: coded("zstd", zstd_bomb()))
fixed("zstd window of 2 TiB", lambda: coded("zstd", zstd_bomb(window=0xF8)))
fixed(
    "zstd claims 2^60 bytes",
    lambda: coded("zstd", b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\x03\0\0\0"),
)
fixed("gzip in gzip, five times", lambda: coded("gzip, gzip, gzip, gzip, gzip", nest(PAGE, 5)))
fixed("gzip bomb in three gzips", lambda: coded("gzip, gzip, gzip, gzip", nest(gzip_bomb(), 3)))
fixed(
    "brotli bomb in zstd",
    lambda: coded("br, zstd", zstandard.ZstdCompressor().compress(brotli_bomb())),
)
fixed("a hundred thousand gzip members", lambda: coded("gzip", gzip.compress(b"") * 100_000))
fixed("gzip cut short", lambda: coded("gzip", gzip.compress(PAGE)[:-20]), "close")
fixed("gzip that is not", coded("gzip", PAGE))
fixed("a coding nobody knows", coded("x-evil", PAGE))
fixed("two thousand codings", coded(", ".join(["gzip"] * 2000), PAGE))

# --- Heads ----------------------------------------------------------------------------------------


@answers("drip of head bytes")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    await wire.drip(b"x" for _ in range(3000))


@answers("drip of header fields")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    await wire.drip(b"X-Drip-%d: x\r\n" % number for number in range(3000))


@answers("1xx without end")
async def _(wire: Wire, _: Request) -> None:
    await wire.flood(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 64, 64 * _MIB)
    await wire.hold()


@answers("drip of 1xx")
async def _(wire: Wire, _: Request) -> None:
    await wire.drip(b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(3000))


@answers("a header line of 10 MB")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    await wire.flood(b"x" * 65536, 10 * _MIB)
    await wire.send(b"\r\n\r\n")


@answers("a hundred thousand headers")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    for start in range(0, 100_000, 1000):
        await wire.send(b"".join(b"X-%d: x\r\n" % n for n in range(start, start + 1000)))
    await wire.send(b"Content-Length: 0\r\n\r\n")


_MANY: Final = b"".join(b"X-%d: x\r\n" % number for number in range(300))
fixed("three hundred small headers", text_answer(PAGE, HTML + _MANY))
_COOKIE: Final = b"Set-Cookie: c%d=" + b"x" * 200 + b"; Path=/; Max-Age=99999999\r\n"
fixed("cookies flood", text_answer(PAGE, HTML + b"".join(_COOKIE % n for n in range(200))))
fixed("a reason of 200 KB", b"HTTP/1.1 200 " + b"OK" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n")
fixed(
    "a content type of 60 KB",
    text_answer(PAGE, b"Content-Type: text/html; a=" + b"x" * 60_000 + b"\r\n"),
)
fixed("nul in a header", OK + b"X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n")
fixed("space before a colon", OK + b"X-Space : x\r\nContent-Length: 0\r\n\r\n")
fixed("folded header", text_answer(PAGE, HTML + b"X-Fold: a\r\n b\r\n"))
fixed("lines that end in lf", text_answer(PAGE).replace(b"\r\n", b"\n"))
fixed("http 0.9", PAGE, "close")
fixed("version 3.7", b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n")
fixed("status 1000", b"HTTP/1.1 1000 Much\r\nContent-Length: 0\r\n\r\n")
fixed("status -1", b"HTTP/1.1 -1 Little\r\nContent-Length: 0\r\n\r\n")
fixed("status 999", text_answer(PAGE, status=b"999 Denied"))
fixed("binary garbage", bytes(range(256)) * 256, "close")
fixed("http 2 unasked", b"\0\0\x12\x04\0\0\0\0\0" + bytes(18), "hold")
fixed(
    "switches protocols", b"HTTP/1.1 101 Done\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "hold"
)
fixed("empty reply", b"", "close")
fixed("reset before the head", b"", "reset")
fixed("reset within the head", b"HTTP/1.1 200 OK\r\nX-A", "reset")
fixed("end within the head", b"HTTP/1.1 200 OK\r\nX-A", "close")
fixed("stall before the head", b"", "hold")
fixed("stall within the head", b"HTTP/1.1 200 OK\r\nX-A", "hold")

# --- Bodies ---------------------------------------------------------------------------------------

CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
fixed("stall after the head", OK + b"Content-Length: 1000\r\n\r\n", "hold")
fixed("stall within the body", OK + b"Content-Length: 9000\r\n\r\n" + PAGE, "hold")
fixed("reset after the head", OK + b"Content-Length: 1000\r\n\r\n", "reset")
fixed("reset within the body", OK + b"Content-Length: 9000\r\n\r\n" + PAGE, "reset")
fixed("length too long", OK + b"Content-Length: 9000\r\n\r\n" + PAGE, "close")
fixed("length too short", OK + b"Content-Length: 400\r\n\r\n" + PAGE)
fixed("two lengths", OK + b"Content-Length: 4\r\nContent-Length: 900\r\n\r\n" + PAGE)
fixed("length negative", OK + b"Content-Length: -5\r\n\r\n" + PAGE)
fixed("length of thirty digits", OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + PAGE)
fixed("length in words", OK + b"Content-Length: many\r\n\r\n" + PAGE)
fixed(
    "length and chunks",
    OK
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(PAGE), PAGE),
)
fixed("transfer coding gzip", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
fixed("chunks cut short", CHUNKED + b"fff\r\n" + PAGE, "close")
fixed("chunks without their end", CHUNKED + b"%x\r\n%b\r\n" % (len(PAGE), PAGE), "close")
fixed("chunk size of no number", CHUNKED + b"zz\r\n" + PAGE)
fixed("chunk size negative", CHUNKED + b"-5\r\n" + PAGE)
fixed("chunk size of 25 digits", CHUNKED + b"F" * 25 + b"\r\n" + PAGE)
fixed("chunk longer than it says", CHUNKED + b"5\r\n" + PAGE)


@answers("drip of body bytes")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(OK + b"Content-Length: 3000\r\n\r\n")
    await wire.drip(b"x" for _ in range(3000))


@answers("body without end")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(OK + b"\r\n")
    await wire.flood(b"<p>more and more</p>" * 4096, 256 * _MIB)


@answers("chunks of one byte without end")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(CHUNKED)
    await wire.flood(b"1\r\nx\r\n" * 10_000, 256 * _MIB)


@answers("chunk extensions flood")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(CHUNKED)
    await wire.flood((b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 64, 256 * _MIB)


@answers("chunk extension without end")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(CHUNKED + b"1;")
    await wire.flood(b"e" * 65536, 64 * _MIB)


@answers("trailers flood")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(PAGE), PAGE))
    await wire.flood(b"X-Trailer: more\r\n" * 4096, 64 * _MIB)


@answers("drip of trailers")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(PAGE), PAGE))
    await wire.drip(b"X-Trailer: more\r\n" for _ in range(3000))


fixed(
    "http 1.0 that keeps alive without a length",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + HTML + b"\r\n" + PAGE,
    "hold",
)


@answers("keeps alive and hangs up")
async def _(wire: Wire, _: Request) -> None:
    await wire.send(text_answer(PAGE, HTML + b"Connection: keep-alive\r\n"))
    wire.ended = True


SMUGGLED: Final = text_answer(good_page("that was smuggled"))
fixed("a second response unasked", text_answer(PAGE) + SMUGGLED)
fixed("204 with a body", b"HTTP/1.1 204 No Content\r\n\r\n" + SMUGGLED)
fixed("205 unasked", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
fixed("304 unasked", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n' + SMUGGLED)
fixed("200 with an empty body", text_answer(b""))
fixed("waits for 31 years", text_answer(b"", HTML + b"Retry-After: 999999999\r\n", b"503 Later"))
fixed(
    "retry-after of garbage", text_answer(b"", HTML + b"Retry-After: \xff, soon\r\n", b"503 Later")
)

# --- Redirects ------------------------------------------------------------------------------------


def redirect(name: str, location: bytes) -> None:
    fixed(name, text_answer(b"", b"Location: " + location + b"\r\n", b"302 Found"))


redirect("redirect to itself", b"/page")
redirect("redirect into the inside", b"http://169.254.169.254/latest/meta-data/")
redirect("redirect to a file", b"file:///etc/passwd")
redirect("redirect to the port of a mail server", b"http://127.0.2.1:25/")
redirect("redirect to nowhere", b"http://[")
redirect("redirect to a control character", b"http://127.0.2.1/\x0b\x7f\xff")
redirect("redirect of 60 KB", b"/" + b"x" * 60_000)
fixed("redirect without a location", text_answer(PAGE, status=b"302 Found"))
fixed(
    "redirect with a body without end",
    b"HTTP/1.1 302 Found\r\nLocation: /page\r\n\r\n" + b"x" * 300_000,
    "hold",
)


@answers("redirect around a cycle")
async def _(wire: Wire, request: Request) -> None:
    other = b"/page" if request.path == "/other" else b"/other"
    await wire.send(text_answer(b"", b"Location: " + other + b"\r\n", b"302 Found"))


@answers("redirects to ever new places")
async def _(wire: Wire, request: Request) -> None:
    number = int(request.path.rpartition("/")[2]) + 1 if request.path != "/page" else 0
    await wire.send(text_answer(b"", b"Location: /new/%d\r\n" % number, b"302 Found"))


@answers("location that splits the response")
async def _(wire: Wire, _: Request) -> None:
    location = b"/page2\r\nSet-Cookie: evil=1\r\n\r\n" + SMUGGLED
    await wire.send(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location)


# --- Types, charsets, and pages that are hard to read ---------------------------------------------

fixed("image that says html", text_answer(bad_pages.PNG))
fixed("html that says image", text_answer(PAGE, b"Content-Type: image/png\r\n"))
fixed("binary without a type", text_answer(bad_pages.PNG, b""))
fixed(
    "charset that nobody knows", text_answer(PAGE, b"Content-Type: text/html; charset=x-evil\r\n")
)
fixed("charset that lies", text_answer(PAGE, b"Content-Type: text/html; charset=utf-16\r\n"))
fixed(
    "charset that runs code elsewhere",
    text_answer(PAGE, b"Content-Type: text/html; charset=rot13\r\n"),
)
for _name, _make in bad_pages.PAGES.items():
    fixed(_name, lambda make=_make: text_answer(make()))


def _robots(name: str, answer: Answer) -> None:
    """The page is honest; what is bad is the robots.txt that is asked for first."""

    @answers(name)
    async def _(wire: Wire, request: Request) -> None:
        if request.path == "/robots.txt":
            await answer(wire, request)
        else:
            await wire.send(text_answer(PAGE))


_robots("robots.txt without end", ANSWERS["body without end"])
_robots("robots.txt is a bomb", ANSWERS["gzip bomb"])
_robots("robots.txt drips", ANSWERS["drip of body bytes"])
_robots("robots.txt leads in a circle", ANSWERS["redirect to itself"])
_robots("robots.txt is garbage", ANSWERS["binary garbage"])


def prepare() -> None:
    """Make now what takes a while to make."""
    gzip_bomb()
    brotli_bomb()
    zstd_bomb()
    bad_pages.prepare()
