"""Search engines of ours on loopback, in a thread: they speak as SearXNG, Serper and Brave do.

The first word of a query says how the answer misbehaves; any other query is answered well. What is
found are pages of an `Origin`, as many as ``found`` says, in pages of the provider's size.
"""

import gzip
import json
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import h11
import trio

KEY = "k3y-of-the-operator"
"""What Serper's and Brave's stand-ins want to be sent."""

_JSON = ("Content-Type", "application/json")
_HTML = ("Content-Type", "text/html")
_METADATA = "http://169.254.169.254/latest/meta-data/"
_SILENT = {"query": "engines", "results": [], "unresponsive_engines": [["x", "timeout"]]}
# By the first word of the query: status, body, fields.
_FIXED: dict[str, tuple[Any, ...]] = {
    "html": (200, b"<html><body>Welcome</body></html>", _HTML),
    "badjson": (200, b'{"results": [', _JSON),
    "shape": (200, b'{"results": "many", "organic": 3, "web": []}', _JSON),
    "deep": (200, b"[" * 100_000, _JSON),
    "huge": (200, b" " * 3_000_000, _JSON),
    "bomb": (200, gzip.compress(b" " * 50_000_000), _JSON, ("Content-Encoding", "gzip")),
    "redirect": (302, b"", ("Location", _METADATA)),
    "down": (503, b"not now"),
    "forbidden": (403, b"<h1>Forbidden</h1>", _HTML),
    "teapot": (418, b"short and stout"),
    "engines": (200, json.dumps(_SILENT).encode(), _JSON),
}
_SIZES = {"searxng": 10, "serper": 10, "brave": 20}


@attrs.frozen
class Asked:
    """One request as it came."""

    provider: str
    method: str
    path: str
    query: dict[str, str]
    fields: dict[str, str]
    body: Any

    @property
    def text(self) -> str:
        return str(self.query["q"] if self.body is None else self.body["q"])


@attrs.define(eq=False)
class SearchSite:
    """``searxng``, ``serper`` and ``brave`` are its URLs; ``asked`` is what came, in order."""

    found: Sequence[str] = ()
    port: int = 0
    asked: list[Asked] = attrs.field(factory=list)
    connections: int = 0
    open_connections: int = 0
    in_flight: int = 0
    most_at_once: int = 0
    _counts: Counter[str] = attrs.field(factory=Counter)

    @property
    def searxng(self) -> str:
        return f"http://127.0.0.1:{self.port}/searxng"

    @property
    def serper(self) -> str:
        return f"http://127.0.0.1:{self.port}/serper/search"

    @property
    def brave(self) -> str:
        return f"http://127.0.0.1:{self.port}/brave/res/v1/web/search"

    def settings(self, provider: str = "searxng") -> dict[str, str]:
        """The environment of a server that asks this site."""
        settings = {
            "EVENTMESH_SEARCH__PROVIDER": provider,
            f"EVENTMESH_SEARCH__{provider.upper()}_URL": getattr(self, provider),
        }
        if provider != "searxng":
            settings[f"EVENTMESH_SEARCH__{provider.upper()}_KEY"] = KEY
        return settings

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            await self._serve_requests(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # the asker left
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_requests(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            request: h11.Request | None = None
            body = b""
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                elif isinstance(event, h11.ConnectionClosed):
                    return
            assert request is not None
            asked = _asked(request, body)
            self.asked.append(asked)
            self.in_flight += 1
            self.most_at_once = max(self.most_at_once, self.in_flight)
            try:
                goes_on = await self._answer(stream, connection, asked)
            finally:
                self.in_flight -= 1
            if not goes_on:
                return
            connection.start_next_cycle()

    async def _answer(
        self, stream: trio.SocketStream, connection: h11.Connection, asked: Asked
    ) -> bool:
        """Answer one request; False when the connection is to be closed."""

        async def send(
            status: int, body: bytes, *fields: tuple[str, str], length: int | None = None
        ) -> None:
            size = len(body) if length is None else length
            head = h11.Response(
                status_code=status,
                headers=[*fields, ("Content-Length", str(size))],
            )
            data = connection.send(head) or b""
            if length is None:
                data += connection.send(h11.Data(data=body)) or b""
                data += connection.send(h11.EndOfMessage()) or b""
                await stream.send_all(data)
            else:
                await stream.send_all(data + body)

        word = asked.text.partition(" ")[0]
        self._counts[asked.text] += 1
        first = self._counts[asked.text] == 1
        if word in _FIXED:
            await send(*_FIXED[word])
            return True
        match word:
            case "stall":
                await stream.receive_some(1)
                return False
            case "slow":
                await trio.sleep(0.4)
            case "drip":
                await send(200, b"", _JSON, length=10_000)
                while True:
                    await stream.send_all(b" ")
                    await trio.sleep(0.05)
            case "cut":
                await send(200, b'{"results": []', _JSON, length=1000)
                return False
            case "reset":
                return False
            case "busy" if first:  # busy SECONDS: once, and then well
                await send(429, b"", ("Retry-After", asked.text.split()[1]))
                return True
            case "flaky" if first:
                await send(*_FIXED["down"])
                return True
            case "second" if _page_of(asked) > 0:
                await send(400, b"no second page")
                return True
        if asked.provider != "searxng" and KEY not in asked.fields.values():
            await send(401, b'{"message":"Unauthorized."}', _JSON)
            return True
        found = [] if word == "nothing" else self.found
        await send(200, json.dumps(_shaped(asked, found)).encode(), _JSON)
        return True


def _asked(request: h11.Request, body: bytes) -> Asked:
    split = urllib.parse.urlsplit(request.target.decode())
    return Asked(
        provider=split.path.split("/")[1],
        method=request.method.decode(),
        path=split.path,
        query=dict(urllib.parse.parse_qsl(split.query)),
        fields={name.decode(): value.decode() for name, value in request.headers},
        body=json.loads(body) if body else None,
    )


def _page_of(asked: Asked) -> int:
    match asked.provider:
        case "searxng":
            return int(asked.query["pageno"]) - 1
        case "serper":
            return int(asked.body["page"]) - 1
        case _:
            return int(asked.query["offset"])


def _shaped(asked: Asked, found: Sequence[str]) -> dict[str, Any]:
    """An answer in the shape of its provider, with members that nobody reads too."""
    size = _SIZES[asked.provider]
    if asked.provider == "brave":
        size = int(asked.query["count"])
    first = _page_of(asked) * size
    page = list(enumerate(found[first : first + size], first + 1))
    match asked.provider:
        case "searxng":
            return {
                "query": asked.text,
                "number_of_results": 0,
                "results": [
                    {
                        "url": url,
                        "title": f"Title {number}",
                        "content": f"Snippet {number} of &quot;{asked.text}&quot;",
                        "engine": "mojeek",
                        "engines": ["mojeek"],
                        "positions": [number],
                        "score": 1.0 / number,
                        "category": "general",
                        "publishedDate": None,
                    }
                    for number, url in page
                ],
                "answers": [],
                "corrections": [],
                "infoboxes": [],
                "suggestions": [],
                "unresponsive_engines": [["qwant", "access denied"]] if page else [],
            }
        case "serper":
            return {
                "searchParameters": {"q": asked.text, "type": "search", "engine": "google"},
                "organic": [
                    {
                        "title": f"Title {number}",
                        "link": url,
                        "snippet": f"Snippet {number} ...",
                        "position": number,
                    }
                    for number, url in page
                ],
                "credits": 1,
            }
        case _:
            return {
                "type": "search",
                "query": {"original": asked.text, "more_results_available": True},
                "web": {
                    "type": "search",
                    "results": [
                        {
                            "title": f"Title {number}",
                            "url": url,
                            "description": f"<strong>Snippet</strong> {number}",
                            "language": "en",
                        }
                        for number, url in page
                    ],
                },
            }


@contextmanager
def open_search_site(found: Sequence[str] = ()) -> Iterator[SearchSite]:
    """Serve a `SearchSite` until the block ends; an error in it is raised at the end."""
    site = SearchSite(found)
    ready = threading.Event()
    tokens: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()
    failures: list[BaseException] = []

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        site.port = listeners[0].socket.getsockname()[1]
        tokens.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(trio.serve_listeners, site._serve, listeners))
                ready.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="search site")
    thread.start()
    ready.wait(10)
    try:
        if failures:
            raise failures[0]
        yield site
    finally:
        if tokens and not failures:
            tokens[0].run_sync_soon(scope.cancel)
        thread.join(10)
    if failures:
        raise failures[0]
