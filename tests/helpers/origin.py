"""A small web site on loopback, in a thread of its own, that counts what it is asked for.

It listens on several loopback addresses (127.0.0.1 to 127.0.0.4) at one port, so that tests can
have hosts that share no politeness limits.
"""

import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random

import h11
import trio

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
_WORDS = (
    "A crawl server reads pages and sends what is worth reading as soon as it is read. "
    "Whoever listens should neither wait for the slowest page nor lose the quickest. "
)


class Origin:
    """``open_connections`` and ``in_flight`` are of now; ``requests`` counts by path.

    ``own`` has a test's own answers by path: fields and body, of status 200.
    """

    def __init__(self, addresses: Sequence[str] = ADDRESSES) -> None:
        self.addresses = addresses
        self.port = 0
        self.open_connections = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.requests: Counter[str] = Counter()
        self.own: dict[str, tuple[list[tuple[str, str]], bytes]] = {}

    def url(self, path: str, host: int = 0) -> str:
        return f"http://{self.addresses[host]}:{self.port}{path}"

    def pages(self, count: int, host: int = 0, first: int = 0) -> list[str]:
        return [self.url(f"/page/{number}", host) for number in range(first, first + count)]

    def slow_pages(self, count: int, milliseconds: int, host: int = 0) -> list[str]:
        return [self.url(f"/slow/{n}?ms={milliseconds}", host) for n in range(count)]

    def stalling(self, count: int, host: int = 0) -> list[str]:
        return [self.url(f"/stall/{number}", host) for number in range(count)]

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.open_connections += 1
        try:
            with trio.CancelScope():
                await self._serve_requests(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # the crawler left
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_requests(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            request = None
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif isinstance(event, h11.ConnectionClosed):
                    return
            assert request is not None
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            try:
                await self._answer(stream, connection, request.target.decode())
            finally:
                self.in_flight -= 1
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(
        self, stream: trio.SocketStream, connection: h11.Connection, target: str
    ) -> None:
        split = urllib.parse.urlsplit(target)
        self.requests[split.path] += 1
        query = dict(urllib.parse.parse_qsl(split.query))
        kind, _, rest = split.path.lstrip("/").partition("/")
        fields: list[tuple[str, str]] = [("Content-Type", "text/html; charset=utf-8")]
        status, body = 200, b""
        match kind:
            case _ if split.path in self.own:
                fields, body = self.own[split.path]
                fields = list(fields)
            case _ if kind.startswith("page"):  # /page/1, and /page1 of the shown clients
                body = article(rest or kind[4:], int(query.get("words", "1")))
            case "slow":
                await trio.sleep(int(query.get("ms", "100")) / 1000)
                body = article(rest)
            case "stall":
                # Until the crawler hangs up; it says nothing more, so this read ends only then.
                await stream.receive_some(1)
                raise trio.BrokenResourceError("the crawler left")
            case "status":
                status, body = (
                    int(rest),
                    b"<html><title>no</title><body><p>no such page</p></body></html>",
                )
            case "large":
                body = article(rest, 1 + int(query.get("kb", "64")) * 1024 // len(_WORDS))
            case "noise":  # text that no compression makes small
                words = Random(rest).randbytes(int(query.get("kb", "16")) * 512).hex(" ", 4)
                body = article(rest).replace(b"</article>", b"<p>%b</p></article>" % words.encode())
            case "flaky":  # as often as it says, then a page
                if self.requests[split.path] <= int(query["fails"]):
                    status, body = 503, b"<p>not now</p>"
                else:
                    body = article(rest)
            case "busy":
                status, body = 503, b"<p>not now</p>"
                fields.append(("Retry-After", query["seconds"]))
            case "sketch":  # neither an article nor nothing
                body = b"<html><title>A sketch</title><body><div class='wide'>%s</div></body>" % (
                    _WORDS.encode() + b"<!-- %s -->" % (b"as long as the text " * 16)
                )
            case "script":  # which builds what there is to read
                body = (
                    b"<html><title>An application</title><body><div id='root'></div><script>"
                    b"window.__INITIAL_STATE__ = {};</script><script src='/app.js'></script></body>"
                )
            case "redirect":
                status = 302
                fields.append(
                    ("Location", f"/redirect/{int(rest) - 1}" if int(rest) > 1 else "/page/1")
                )
            case "away":
                status = 302
                fields.append(("Location", query["to"]))
            case _:
                status, body = 404, b"not found"
                fields = [("Content-Type", "text/plain")]
        fields.append(("Content-Length", str(len(body))))
        head = connection.send(h11.Response(status_code=status, headers=fields))
        await stream.send_all(
            (head or b"")
            + (connection.send(h11.Data(data=body)) or b"")
            + (connection.send(h11.EndOfMessage()) or b"")
        )


def article(name: str, words: int = 1) -> bytes:
    """A page with a title, a heading and ``words`` times a paragraph."""
    paragraphs = f"<p>{_WORDS}</p>\n" * max(words, 1)
    return (
        f"<!DOCTYPE html><html lang='en'><head><title>Page {name}</title></head><body><article>"
        f"<h1>Page {name}</h1>\n<p>This is page {name} of the test site.</p>\n{paragraphs}"
        "</article></body></html>"
    ).encode()


@contextmanager
def open_origin(addresses: Sequence[str] = ADDRESSES) -> Iterator[Origin]:
    """Serve an `Origin` in a thread until the block ends; an error in it is raised at the end."""
    origin = Origin(addresses)
    ready = threading.Event()
    stop: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()
    failures: list[BaseException] = []

    async def main() -> None:
        first = await trio.open_tcp_listeners(0, host=addresses[0], backlog=1024)
        origin.port = first[0].socket.getsockname()[1]
        listeners = list(first)
        for address in addresses[1:]:
            listeners += await trio.open_tcp_listeners(origin.port, host=address, backlog=1024)
        stop.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(trio.serve_listeners, origin._serve, listeners))
                ready.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="origin")
    thread.start()
    ready.wait(10)
    try:
        if failures:
            raise failures[0]
        yield origin
    finally:
        if stop and not failures:
            stop[0].run_sync_soon(scope.cancel)
        thread.join(10)
    if failures:
        raise failures[0]
