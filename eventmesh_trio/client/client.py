"""The client: start crawls, follow them, control them.

    async with open_client("http://127.0.0.1:8080") as client:
        async with client.crawl(["https://example.org/"], concurrency=3) as stream:
            async for event in stream:
                if isinstance(event, Result):
                    print(event.url, event.status)

Control goes over requests of its own, whatever carries the stream: an answer that had to come
through the stream would wait behind all that its reader has not taken yet.
"""

import re
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Literal

import msgspec
import trio

from eventmesh_trio.client.address import parse_base_url
from eventmesh_trio.client.connection import OpenStream, dial
from eventmesh_trio.client.endpoint import Endpoint, convert
from eventmesh_trio.client.follow import Follower, is_event_id
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.client.openers import HTTPFraming, HTTPOpener, Operation, WebSocketOpener
from eventmesh_trio.client.stream import Command, CrawlStream, control
from eventmesh_trio.errors import ConfigError, ValidationError
from eventmesh_trio.wire.headers import parse_identifier
from eventmesh_trio.wire.requests import CrawlOptions
from eventmesh_trio.wire.sessions import SessionInfo

__all__ = ["Client", "StreamProtocol", "open_client"]

_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")

StreamProtocol = Literal["sse", "ndjson", "websocket"]


@asynccontextmanager
async def open_client(
    base_url: str,
    *,
    limits: ClientLimits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    open_stream: OpenStream | None = None,
    fields: Sequence[tuple[str, str]] = (),
) -> AsyncIterator["Client"]:
    """Open a client of one server. Nothing is connected before it is used.

    Args:
      base_url: ``http(s)://host[:port][/prefix]``, ``unix:/path`` or
        ``http+unix://%2Fpath[/prefix]``.
      ssl_context: for https; by default one that trusts the system's certificates.
      open_stream: makes connections, in place of TCP, TLS and Unix sockets.
      fields: header fields of every request.
    Raises:
      ConfigError: a base URL that cannot be read, or a field that cannot be sent.
    """
    address = parse_base_url(base_url)
    for name, value in fields:
        if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
            raise ConfigError(f"the header field {name!r} cannot be sent (RFC 9110, section 5)")
    if open_stream is None:
        if ssl_context is None and address.scheme == "https":
            ssl_context = ssl.create_default_context()
        open_stream = partial(dial, ssl_context=ssl_context)
    endpoint = Endpoint(address, open_stream, limits or ClientLimits(), fields)
    try:
        yield Client(endpoint)
    finally:
        endpoint.close()


class Client:
    """Made by `open_client`. Any number of tasks may use it at once; it starts none."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @asynccontextmanager
    async def crawl(
        self,
        urls: Sequence[str],
        *,
        options: CrawlOptions | Mapping[str, object] | None = None,
        session_id: str | None = None,
        protocol: StreamProtocol = "sse",
        **more_options: object,
    ) -> AsyncIterator[CrawlStream]:
        """Start a crawl and stream its events: it runs inside the block, and not after it.

        Entering waits for the first event. The stream reconnects and resumes by itself. Leaving,
        however that comes, cancels a crawl that has not ended, within ``limits.farewell_seconds``;
        a server that cannot be reached then cancels by itself what nobody reads (after 30 s).

        Args:
          options: `CrawlOptions`, or members of the request's ``options`` as they are;
            ``more_options`` stand over them and are members of `CrawlOptions`.
          session_id: by default a new one.
        Raises:
          EventMeshError: refused (`ValidationError`, `ConflictError`, `OverloadedError`...), or
            not reachable (`ConnectionBroken`).
          TypeError: an option that does not exist.
        """
        body = {"urls": list(urls), "options": _merge(options, more_options)}
        async with self._run("crawl", body, session_id, protocol) as stream:
            yield stream

    @asynccontextmanager
    async def deepsearch(
        self,
        query: str,
        *,
        limit: int = 10,
        include_content: bool = True,
        country: str | None = None,
        locale: str | None = None,
        crawl_options: CrawlOptions | Mapping[str, object] | None = None,
        session_id: str | None = None,
        protocol: StreamProtocol = "sse",
    ) -> AsyncIterator[CrawlStream]:
        """Start a deep search and stream its events; otherwise as `crawl`.

        Entering waits for the first event, and so for the answer of the server's search provider.

        Args:
          limit: how many URLs at most, 1 to 50.
          include_content: false: only search, crawl nothing.
          country: of ISO 3166-1 (``DE``); locale: of BCP 47 (``de``). For providers that know them.
          crawl_options: how what is found is crawled, as the ``options`` of `crawl`.
        Raises:
          DependencyError: the server's search provider could not serve, for as long as the limits
            allow trying again. Over a WebSocket this is an event ``error`` of the run instead.
          EventMeshError: as `crawl`.
        """
        body = {
            "query": query,
            "limit": limit,
            "include_content": include_content,
            "country": country,
            "locale": locale,
            "crawl_options": _merge(crawl_options, {}),
        }
        async with self._run("deepsearch", body, session_id, protocol) as stream:
            yield stream

    @asynccontextmanager
    async def _run(
        self,
        operation: Operation,
        body: Mapping[str, Any],
        session_id: str | None,
        protocol: StreamProtocol,
    ) -> AsyncIterator[CrawlStream]:
        session = parse_identifier(session_id or f"client-{uuid.uuid4()}", "session_id")
        request_id = f"req-{uuid.uuid4()}"
        opener: HTTPOpener | WebSocketOpener
        if protocol == "websocket":
            opener = WebSocketOpener(self._endpoint, session, request_id, body, operation)
        else:
            opener = HTTPOpener(self._endpoint, protocol, session, request_id, body, operation)
        follower = Follower(opener, self._endpoint.limits, request_id=request_id)
        stream = CrawlStream(self._endpoint, follower, session)
        try:
            await follower.wait_ready()
            yield stream
        finally:
            # Shielded: we are often here because we were cancelled. Bounded: the server may be
            # gone.
            try:
                if opener.sent:
                    with trio.move_on_after(self._endpoint.limits.farewell_seconds, shield=True):
                        await stream.leave()
            finally:
                await follower.aclose()

    @asynccontextmanager
    async def attach(
        self,
        session_id: str,
        last_event_id: str | None = None,
        *,
        protocol: HTTPFraming = "sse",
    ) -> AsyncIterator[CrawlStream]:
        """Follow all runs of a session: after a cursor, or from the start of its oldest live run.

        Connects when the first event is asked for, and ends when no run is live. Leaving the block
        cancels nothing.

        Raises:
          ValidationError: ids that cannot be.
        """
        parse_identifier(session_id, "session_id")
        if last_event_id is not None and not is_event_id(last_event_id):
            raise ValidationError("last_event_id must be printable ASCII", field="last_event_id")
        follower = Follower(
            HTTPOpener(self._endpoint, protocol, session_id),
            self._endpoint.limits,
            last_event_id=last_event_id,
        )
        try:
            yield CrawlStream(self._endpoint, follower, session_id)
        finally:
            await follower.aclose()

    async def sessions(self) -> tuple[SessionInfo, ...]:
        """All sessions that the server keeps."""
        document = await self._endpoint.call("GET", self._endpoint.address.target("sessions"))
        return convert(document.get("sessions"), tuple[SessionInfo, ...])

    async def session(self, session_id: str) -> SessionInfo:
        """One session. Raises `NotFoundError`."""
        target = self._endpoint.address.target("sessions", session_id)
        return convert(await self._endpoint.call("GET", target), SessionInfo)

    async def control(
        self, command: Command, session_id: str, request_id: str | None = None
    ) -> SessionInfo:
        """Pause, resume or cancel one run, or all live ones; repeating it changes nothing.

        Raises:
          NotFoundError: no such session or run.
          ConnectionBroken: not reached, or no answer: whether it was obeyed is unknown.
        """
        return await control(self._endpoint, command, session_id, request_id)

    async def health(self) -> Mapping[str, Any]:
        """The server's whole picture of itself."""
        return await self._endpoint.call("GET", self._endpoint.address.target("health"))


def _merge(
    options: CrawlOptions | Mapping[str, object] | None, more: Mapping[str, object]
) -> dict[str, object]:
    """The request's ``options``. What is not said is left to the server."""
    # The server ignores members that it does not know; a misspelt keyword must not be one of them.
    for name in more:
        if name not in CrawlOptions.__struct_fields__:
            raise TypeError(f"crawl() got an unexpected option {name!r}")
    given = msgspec.structs.asdict(options) if isinstance(options, CrawlOptions) else options or {}
    return {**given, **more}
