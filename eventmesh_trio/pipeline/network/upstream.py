"""The checking proxy's side towards origins: one connection, dialled for one page."""

from typing import Final

import attrs
import h11
import trio

from eventmesh_trio.errors import FetchTimeout, NetworkFailure
from eventmesh_trio.pipeline.network.passage import Passage, ProxyCounts, ProxyLimits
from eventmesh_trio.wire.urls import URL

__all__ = ["Fields", "Upstream", "end_to_end"]

Fields = list[tuple[bytes, bytes]]

_READ_BYTES: Final = 64 * 1024
_HEAD_READ_BYTES: Final = 4096  # a head may be over its limit by no more than this
# RFC 9110, section 7.6.1, and what is said to or by a proxy alone. Framing is h11's to write.
_HOP_BY_HOP: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authorization", b"proxy-authenticate", b"proxy-authentication-info"),
        b"transfer-encoding",
    }
)


def end_to_end(fields: Fields) -> Fields:
    """The fields of a message that are for its other end."""
    options = {
        option.strip().lower()
        for name, value in fields
        if name == b"connection"
        for option in value.split(b",")
    }
    if any(name == b"transfer-encoding" for name, _ in fields):
        options.add(b"content-length")  # it says nothing beside the other (RFC 9112, section 6.3)
    return [(name, value) for name, value in fields if name not in _HOP_BY_HOP | options]


@attrs.define(eq=False)
class Upstream:
    """A connection to an origin. All it carries is counted as one page's."""

    stream: trio.abc.Stream
    url: URL
    passage: Passage
    _counts: ProxyCounts
    _limits: ProxyLimits
    wire: h11.Connection = attrs.field(init=False)
    answered: bool = attrs.field(default=False, init=False)
    """Whether the request that was sent last has brought a byte."""
    _requests: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.wire = h11.Connection(
            h11.CLIENT, max_incomplete_event_size=self._limits.max_header_bytes
        )

    # --- Bytes ----------------------------------------------------------------------------------

    async def send_all(self, data: bytes) -> None:
        """Raises: trio.BrokenResourceError."""
        await self.stream.send_all(data)
        self.passage.sent(len(data))
        self._counts.sent_bytes += len(data)

    async def receive_some(self, max_bytes: int = _READ_BYTES) -> bytes:
        """Raises: trio.BrokenResourceError; TooLarge: the page has received what it may."""
        data = bytes(await self.stream.receive_some(max_bytes))
        self._counts.received_bytes += len(data)
        self.passage.received(len(data))
        return data

    # --- HTTP -----------------------------------------------------------------------------------

    def can_serve(self, url: URL, passage: Passage) -> bool:
        """Whether another request may go this way: one of the same page to the same origin."""
        stream = self.stream
        if isinstance(stream, trio.SocketStream) and stream.socket.is_readable():
            return False  # it has ended, or speaks unasked
        here = (self.url.host, self.url.port)
        return passage is self.passage and (url.host, url.port) == here

    @property
    def is_stale(self) -> bool:
        """Whether a request that failed did so because the origin had closed a kept connection."""
        return self._requests > 1 and not self.answered

    async def start(self, method: bytes, fields: Fields, url: URL) -> None:
        """Send a request's head.

        Raises:
          NetworkFailure, FetchTimeout.
        """
        self._requests += 1
        self.answered = False
        authority = url.href[len(url.scheme) + 3 : len(url.href) - len(url.target)]
        request = h11.Request(
            method=method,
            target=url.target,
            # The target names the host, whatever the field says (RFC 9112, section 3.2.2).
            headers=[
                (b"host", authority.encode("ascii")),
                *((name, value) for name, value in fields if name != b"host"),
            ],
        )
        await self.write(self.wire.send(request) or b"")

    async def write(self, data: bytes) -> None:
        """Send part of a request, within the idle limit.

        Raises:
          NetworkFailure, FetchTimeout.
        """
        if not data:
            await trio.lowlevel.checkpoint()
            return
        try:
            with trio.move_on_after(self._limits.idle_seconds):
                await self.send_all(data)
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NetworkFailure("the connection was lost before there was a response") from None
        raise self._too_slow("sending the request")

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        """The next event of the response, interim ones left out.

        Raises:
          NetworkFailure, FetchTimeout, TooLarge.
        """
        while True:
            try:
                event = self.wire.next_event()
            except h11.RemoteProtocolError:
                raise NetworkFailure("the response is not valid HTTP, or incomplete") from None
            if event is h11.NEED_DATA:
                self.wire.receive_data(await self._read())
            elif isinstance(event, h11.ConnectionClosed):
                raise NetworkFailure("the origin closed the connection without a response")
            elif not isinstance(event, h11.InformationalResponse):
                await trio.lowlevel.checkpoint()
                return event  # type: ignore[return-value]

    async def _read(self) -> bytes:
        in_head = self.wire.their_state is h11.SEND_RESPONSE
        try:
            with trio.move_on_after(self._limits.idle_seconds):
                data = await self.receive_some(_HEAD_READ_BYTES if in_head else _READ_BYTES)
                self.answered = self.answered or bool(data)
                return data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NetworkFailure("the connection was lost within the response") from None
        raise self._too_slow("waiting for the response")

    def is_reusable(self) -> bool:
        """Whether its exchange is over and another may begin; makes it ready for that."""
        if self.wire.our_state is h11.DONE and self.wire.their_state is h11.DONE:
            self.wire.start_next_cycle()
            return True
        return False

    def _too_slow(self, what: str) -> FetchTimeout:
        seconds = self._limits.idle_seconds
        return FetchTimeout(
            f"{what} took longer than {seconds:g} seconds",
            context={"timeout_threshold_ms": round(seconds * 1000)},
        )
