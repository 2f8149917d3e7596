"""One connection of a browser to the checking proxy: who asks, for what, and what comes of it."""

import re
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import attrs
import h11
import trio

from eventmesh_trio.errors import (
    BlockedAddress,
    FetchTimeout,
    NetworkFailure,
    PageError,
    TooLarge,
    bare,
    leaves,
)
from eventmesh_trio.pipeline.network.dial import GuardedBackend
from eventmesh_trio.pipeline.network.passage import Passage, Passages, ProxyCounts, ProxyLimits
from eventmesh_trio.pipeline.network.upstream import Fields, Upstream, end_to_end
from eventmesh_trio.wire.urls import URL, parse_url

__all__ = ["ProxyConnection"]

_READ_BYTES: Final = 64 * 1024
_HEAD_READ_BYTES: Final = 4096  # a head may be over its limit by no more than this
_MAX_DRAINED_BYTES: Final = 64 * 1024  # of the body of a request that is not let through
_MAX_UNAUTHORISED: Final = 3  # answers to a connection that has shown no passage yet
_CHALLENGE: Final = (b"proxy-authenticate", b'Basic realm="eventmesh", charset="UTF-8"')
# The "uri-host ":" port" of a CONNECT (RFC 9112, section 3.2.3).
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\\%]+):[0-9]{1,5}")


class _Over(Exception):
    """The connection is over: its peer left or took too long, or nothing more can be said."""


@attrs.define(eq=False)
class ProxyConnection:
    """Made for one connection, and run once."""

    stream: trio.abc.Stream
    _backend: GuardedBackend
    _limits: ProxyLimits
    _passages: Passages
    _counts: ProxyCounts
    _closed_ports: Collection[int]
    _wire: h11.Connection = attrs.field(init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _users: set[Passage] = attrs.field(factory=set, init=False)
    _strangers: int = attrs.field(default=0, init=False)
    _upstream: Upstream | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._wire = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._limits.max_header_bytes
        )

    async def run(self) -> None:
        """Serve requests until the browser leaves, a limit is reached, or its passage closes.

        The stream is closed in any case.
        """
        try:
            with self._scope, suppress(_Over):
                while True:
                    await self._serve_request()
        finally:
            for passage in self._users:
                passage.left(self._scope)
            # Shielded: we are often here because of a cancellation. A forceful close never waits.
            with trio.CancelScope(shield=True):
                await self._drop_upstream()
                await trio.aclose_forcefully(self.stream)

    async def _serve_request(self) -> None:
        request = await self._next_request()
        fields = [(bytes(name), bytes(value)) for name, value in request.headers]
        self._counts.requests += 1
        shown = next((value for name, value in fields if name == b"proxy-authorization"), None)
        passage = self._passages.find(shown)
        if passage is None:
            self._counts.unauthorised += 1
            self._strangers += 1
            await self._answer(407, [_CHALLENGE])
            if self._strangers >= _MAX_UNAUTHORISED:
                raise _Over
            return
        if not passage.enter(self._scope):
            self._counts.refused += 1
            await self._answer(503)
            raise _Over
        self._users.add(passage)
        url = _target_of(request)
        if url is None:
            await self._answer(400)
            return
        try:
            if url.port in self._closed_ports:
                raise BlockedAddress("the URL's port is not one that pages are served on")
            if passage.is_exhausted:
                raise TooLarge("the page has received all that it may")
            if request.method == b"CONNECT":
                await self._tunnel(url, passage)
            else:
                await self._forward(request, end_to_end(fields), url, passage)
        except PageError as error:
            self._counts.refused += 1
            passage.refused(url.host, url.port, bare(error))
            await self._drop_upstream()
            await self._answer(_status_of(error))

    async def _dial(self, url: URL, passage: Passage) -> Upstream:
        await self._drop_upstream()
        stream = await self._backend.dial(url.host, url.port)
        passage.reached(url.host, url.port)
        self._upstream = Upstream(stream, url, passage, self._counts, self._limits)
        return self._upstream

    async def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await trio.aclose_forcefully(upstream.stream)
        else:
            await trio.lowlevel.checkpoint()

    # --- CONNECT --------------------------------------------------------------------------------

    async def _tunnel(self, url: URL, passage: Passage) -> None:
        """Carry bytes both ways until both ends are done, or nothing has moved for too long.

        Raises:
          BlockedAddress, DNSError, FetchTimeout, NetworkFailure: there is no tunnel.
          TooLarge: the page has received what it may.
          _Over: the tunnel has ended.
        """
        upstream = await self._dial(url, passage)
        self._parsed()  # the end of the request, at which h11 stands still
        await self._send(self._wire.send(h11.Response(status_code=200, headers=[])) or b"")
        early, _ = self._wire.trailing_data

        def alive() -> None:
            nursery.cancel_scope.deadline = trio.current_time() + self._limits.idle_seconds

        async def go_up() -> None:
            data = bytes(early) or bytes(await self.stream.receive_some(_READ_BYTES))
            while data:
                await upstream.send_all(data)
                alive()
                data = bytes(await self.stream.receive_some(_READ_BYTES))
            await _send_eof(upstream.stream)

        async def go_down() -> None:
            while data := await upstream.receive_some():
                alive()
                await self.stream.send_all(data)
            await _send_eof(self.stream)

        exhausted: TooLarge | None = None
        try:
            async with trio.open_nursery() as nursery:
                alive()
                nursery.start_soon(go_up)
                nursery.start_soon(go_down)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either end may leave as it likes
        except* TooLarge as group:
            exhausted = next(error for error in leaves(group) if isinstance(error, TooLarge))
        if exhausted is not None:
            raise exhausted
        raise _Over

    # --- Other requests -------------------------------------------------------------------------

    async def _forward(
        self, request: h11.Request, fields: Fields, url: URL, passage: Passage
    ) -> None:
        """Send a request on, and its response back.

        Raises:
          PageError: there is none, or not all of it.
          _Over: the browser left, or wants no more.
        """
        has_body = _has_body(request)
        if not has_body:
            self._parsed()  # the end of the request
        upstream = self._upstream
        if upstream is None or not upstream.can_serve(url, passage):
            upstream = await self._dial(url, passage)
        try:
            await self._exchange(request, fields, url, upstream, has_body)
        except NetworkFailure:
            if has_body or not upstream.is_stale:
                raise
            upstream = await self._dial(url, passage)
            await self._exchange(request, fields, url, upstream, has_body)
        if not upstream.is_reusable():
            await self._drop_upstream()
        await self._end_exchange()

    async def _exchange(
        self, request: h11.Request, fields: Fields, url: URL, upstream: Upstream, has_body: bool
    ) -> None:
        if has_body:
            if self._wire.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._send(self._wire.send(go_on) or b"")
            fields = [(name, value) for name, value in fields if name != b"expect"]
            if not any(name == b"content-length" for name, _ in fields):
                fields.append((b"transfer-encoding", b"chunked"))
        await upstream.start(bytes(request.method), fields, url)
        if not has_body:
            await upstream.write(upstream.wire.send(h11.EndOfMessage()) or b"")
            await self._respond(upstream)
            return
        failure: PageError | _Over | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, upstream, nursery.cancel_scope)
            try:
                await self._respond(upstream)
            except (PageError, _Over) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._wire.our_state is not h11.DONE:
            raise _Over  # the browser left before it had sent all

    async def _upload(self, upstream: Upstream, exchange: trio.CancelScope) -> None:
        """Send the request's body on. Where the origin takes no more, its response says why."""
        try:
            while True:
                event = self._parsed()
                if event is h11.NEED_DATA:
                    self._wire.receive_data(await self._receive(_READ_BYTES))
                elif isinstance(event, h11.Data):
                    await upstream.write(upstream.wire.send(event) or b"")
                elif isinstance(event, h11.EndOfMessage):
                    await upstream.write(upstream.wire.send(h11.EndOfMessage()) or b"")
                    return
                else:
                    raise _Over
        except PageError:
            return
        except (_Over, h11.LocalProtocolError):
            exchange.cancel()

    async def _respond(self, upstream: Upstream) -> None:
        """Bring the whole response back."""
        while True:
            event = await upstream.next_event()
            if isinstance(event, h11.Response):
                if event.status_code == 407:
                    # To the browser this would be us, asking for credentials that it has shown.
                    raise NetworkFailure("the origin answers as if it were a proxy")
                fields = end_to_end([(bytes(n), bytes(v)) for n, v in event.headers])
                answer = h11.Response(
                    status_code=event.status_code, headers=fields, reason=event.reason
                )
                await self._send(self._wire.send(answer) or b"")
            elif isinstance(event, h11.Data):
                await self._send(self._wire.send(event) or b"")
            elif isinstance(event, h11.EndOfMessage):
                await self._send(self._wire.send(h11.EndOfMessage()) or b"")
                return
            else:
                raise NetworkFailure("the response is not valid HTTP, or incomplete")

    # --- The browser's side ---------------------------------------------------------------------

    async def _next_request(self) -> h11.Request:
        """The next request's head. Raises: _Over: there is none."""
        known = bool(self._users)
        began = bool(self._wire.trailing_data[0])
        with trio.move_on_after(
            self._limits.idle_seconds if known and not began else self._limits.head_seconds
        ) as scope:
            while (event := self._parsed()) is h11.NEED_DATA:
                data = await self._receive(_HEAD_READ_BYTES)
                if known and not began:
                    began = True
                    scope.deadline = trio.current_time() + self._limits.head_seconds
                self._wire.receive_data(data)
            if isinstance(event, h11.Request):
                await trio.lowlevel.checkpoint()
                return event
        raise _Over

    async def _answer(self, status: int, fields: Fields | None = None) -> None:
        """Answer with a status and no content, and be ready for another request.

        Raises:
          _Over: too late for that.
        """
        if self._wire.our_state is not h11.SEND_RESPONSE:
            raise _Over
        head = h11.Response(
            status_code=status, headers=[*(fields or []), (b"content-length", b"0")]
        )
        await self._send(
            (self._wire.send(head) or b"") + (self._wire.send(h11.EndOfMessage()) or b"")
        )
        await self._end_exchange()

    async def _end_exchange(self) -> None:
        """Take what is left of a request, if it is not too much, and make ready for another.

        Raises:
          _Over: it is too much, or the browser wants no other.
        """
        wire, room = self._wire, _MAX_DRAINED_BYTES
        while wire.their_state is h11.SEND_BODY and room > 0:
            if self._parsed() is h11.NEED_DATA:
                data = await self._receive(room)
                room -= len(data)
                wire.receive_data(data)
            else:
                await trio.lowlevel.checkpoint()  # one read may bring ten thousand chunks
        if wire.our_state is not h11.DONE or wire.their_state is not h11.DONE:
            raise _Over
        wire.start_next_cycle()
        await trio.lowlevel.checkpoint()

    def _parsed(self) -> object:
        try:
            return self._wire.next_event()
        except h11.RemoteProtocolError:
            raise _Over from None

    async def _receive(self, max_bytes: int) -> bytes:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(self._limits.idle_seconds):
                return bytes(await self.stream.receive_some(max_bytes))
        raise _Over

    async def _send(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(self._limits.idle_seconds):
                await self.stream.send_all(data)
                return
        raise _Over


def _target_of(request: h11.Request) -> URL | None:
    """What a request is for, or None where it is none to a proxy, or none that it carries."""
    target = bytes(request.target)
    try:
        if request.method == b"CONNECT":
            text = target.decode("ascii")
            return parse_url(f"https://{text}/") if _AUTHORITY.fullmatch(target) else None
        if not target.lower().startswith(b"http://"):
            return None
        return parse_url(target.decode("ascii"))
    except ValueError:
        return None


def _has_body(request: h11.Request) -> bool:
    lengths = {bytes(value) for name, value in request.headers if name == b"content-length"}
    return bool(lengths - {b"0"}) or any(n == b"transfer-encoding" for n, _ in request.headers)


def _status_of(error: PageError) -> int:
    if isinstance(error, (BlockedAddress, TooLarge)):
        return 403
    return 504 if isinstance(error, FetchTimeout) else 502


async def _send_eof(stream: trio.abc.Stream) -> None:
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    else:
        await stream.aclose()
