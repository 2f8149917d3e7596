"""One HTTP/1.1 request on one connection, for a client: h11 over any trio stream.

Nothing is pooled: a stream holds its connection to the end, and control requests are rare.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import h11
import trio

from eventmesh_trio.client.address import Address
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.errors import ConnectionBroken, RemoteProtocolError, TLSFailure

__all__ = ["ConnectFailed", "OpenStream", "Response", "connect", "dial", "receive", "request"]

logger = logging.getLogger(__name__)

OpenStream = Callable[[Address], Awaitable[trio.abc.Stream]]
"""How a connection is made. Raises OSError or `trio.BrokenResourceError`; cancellable."""

_READ_BYTES: Final = 65_536


class ConnectFailed(ConnectionBroken):
    """No connection could be made, so nothing was sent."""

    code = "CONNECT_FAILED"


async def dial(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Open a TCP, TLS or Unix stream; https needs a context. Cancelled: closes what it opened."""
    if address.unix_path is not None:
        return await trio.open_unix_socket(address.unix_path)
    stream = await trio.open_tcp_stream(address.host, address.port)
    if address.scheme != "https":
        return stream
    assert ssl_context is not None, "open_client makes one for https"
    secured = trio.SSLStream(
        stream, ssl_context, server_hostname=address.host, https_compatible=True
    )
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


async def connect(
    open_stream: OpenStream, address: Address, limits: ClientLimits
) -> trio.abc.Stream:
    """Dial within ``connect_seconds``.

    Raises:
      ConnectFailed: refused, unreachable, unknown name, or out of time.
      TLSFailure: the certificate is not acceptable; another attempt would not help.
    """
    with trio.move_on_after(limits.connect_seconds):
        try:
            return await open_stream(address)
        except UnicodeError as error:  # a name that IDNA has no form of
            raise ConnectFailed(f"cannot connect to {address}: {error}") from error
        except (OSError, trio.BrokenResourceError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise TLSFailure(f"the certificate of {address} is refused: {cause}") from error
            raise ConnectFailed(f"cannot connect to {address}: {cause or error}") from error
    raise ConnectFailed(f"cannot connect to {address} within {limits.connect_seconds:g} s")


async def receive(stream: trio.abc.ReceiveStream, idle_seconds: float) -> bytes:
    """Receive some bytes, ``b""`` at the end of the stream. Cancellation loses nothing.

    Raises:
      ConnectionBroken: reset, or silent for ``idle_seconds``.
    """
    with trio.move_on_after(idle_seconds):
        try:
            return bytes(await stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionBroken("the connection to the server broke") from error
    raise ConnectionBroken(f"the server was silent for {idle_seconds:g} s")


class Response:
    """A response whose head has come; made by `request`. It owns its connection.

    One task reads.
    """

    def __init__(self, stream: trio.abc.Stream, connection: h11.Connection, idle: float) -> None:
        self._stream = stream
        self._connection = connection
        self._idle_seconds = idle
        self._at_eof = False
        self.status = 0
        self._fields: dict[bytes, bytes] = {}

    def field(self, name: bytes) -> bytes | None:
        """The value of the last field of that (lower-case) name."""
        return self._fields.get(name)

    async def receive_head(self) -> None:
        """Read up to the final response's head; interim responses (1xx) are skipped."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self._fields = dict(event.headers)
                return
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionBroken("the server closed the connection before it answered")

    async def receive_some(self) -> bytes:
        """The next piece of the body; ``b""`` when it has come whole. Cancellation loses nothing.

        Raises:
          ConnectionBroken: cut, reset or silent before the end of the body.
          RemoteProtocolError: bytes that are not HTTP.
        """
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises `RemoteProtocolError` if it is larger than ``max_bytes``."""
        body = bytearray()
        while piece := await self.receive_some():
            body += piece
            if len(body) > max_bytes:
                raise RemoteProtocolError(f"the response is larger than {max_bytes} bytes")
        return bytes(body)

    async def aclose(self) -> None:
        """Drop the connection at once; safe in a cancelled scope."""
        await trio.aclose_forcefully(self._stream)

    def _poll(self) -> h11.Event | type[h11.PAUSED] | None:
        """The next event of what was received; None where more is needed."""
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            if self._at_eof:
                raise ConnectionBroken("the connection ended in mid-response") from error
            raise RemoteProtocolError(f"the response is not HTTP: {error}") from error
        return None if event is h11.NEED_DATA else event  # type: ignore[return-value]

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        await trio.lowlevel.checkpoint()  # it may be here already
        while (event := self._poll()) is None:
            data = await receive(self._stream, self._idle_seconds)
            self._at_eof = not data
            self._connection.receive_data(data)
        return event


async def request(
    stream: trio.abc.Stream,
    address: Address,
    method: str,
    target: str,
    *,
    fields: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    limits: ClientLimits,
) -> Response:
    """Send a request, wait for the head of its response. Takes over ``stream``.

    Cancellation closes the connection; whether the request was executed is then unknown.

    Raises:
      ConnectionBroken: no head came; whether the request was executed is unknown.
      RemoteProtocolError: an answer that is not HTTP.
    """
    connection = h11.Connection(h11.CLIENT)
    response = Response(stream, connection, limits.idle_seconds)
    sent = [
        ("Host", address.authority),
        ("User-Agent", "eventmesh-trio"),
        ("Connection", "close"),
        *([("Content-Length", str(len(body)))] if body or method == "POST" else []),
        *fields,
    ]
    try:
        # In here, for h11 may refuse a field: the stream is ours to close then, too.
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in sent]
        pieces = [connection.send(h11.Request(method=method, target=target, headers=headers))]
        if body:
            pieces.append(connection.send(h11.Data(data=body)))
        pieces.append(connection.send(h11.EndOfMessage()))
        try:
            with trio.move_on_after(limits.idle_seconds) as scope:
                await stream.send_all(b"".join(piece for piece in pieces if piece))
        except trio.BrokenResourceError as error:
            # A server may refuse and close before it has read all; its answer may be there.
            logger.debug("the request to %s was not taken whole: %s", address, error)
        if scope.cancelled_caught:
            raise ConnectionBroken(f"the server took nothing for {limits.idle_seconds:g} s")
        await response.receive_head()
    except BaseException:
        await response.aclose()
        raise
    return response
