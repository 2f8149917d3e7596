"""HTTP/1.1 connections over any trio stream: requests in turn, deadlines, errors, the farewell."""

import secrets
from collections.abc import Awaitable, Callable

import structlog
import trio

from eventmesh_trio.abc import Exchange, Request
from eventmesh_trio.errors import (
    ConnectionBroken,
    EventMeshError,
    InternalError,
    RemoteProtocolError,
    RequestError,
    WebSocketClosed,
    bare,
    leaves,
)
from eventmesh_trio.transport.departures import Departures
from eventmesh_trio.transport.drain import Drain
from eventmesh_trio.transport.exchange import HTTPExchange, date_field
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.transport.link import Link
from eventmesh_trio.wire.http11 import Head, ServerConnection
from eventmesh_trio.wire.problem import error_body, error_fields, error_status

__all__ = ["Handler", "Outcome", "run_handler", "serve_connection"]

Handler = Callable[[Exchange], Awaitable[None]]

logger = structlog.get_logger("eventmesh_trio.transport")


async def serve_connection(
    stream: trio.abc.Stream,
    handler: Handler,
    limits: TransportLimits,
    *,
    scheme: str = "http",
    peer: str = "",
    drain: Drain | None = None,
    departures: Departures | None = None,
) -> None:
    """Serve the requests of one connection, one after the other, and close it.

    The handler runs in this task. What it raises ends this connection only: an error with a status
    becomes a JSON response if none was started, anything else is logged and becomes a 500 or,
    in the middle of a response, an abort that the client can see.

    Args:
      scheme, peer: what the requests say about where they came from.
      drain: when it begins, the connection closes after the response at hand, or at once if idle.
      departures: who notices that a peer leaves; None: a task beside each response does.
    Cancelled: the stream is closed at once, whatever was being written.
    """
    link = Link(stream, limits, departures)
    connection = _Connection(link, handler, limits, scheme, peer, drain)
    try:
        await connection.serve()
    finally:
        if not link.close_nowait():
            # The farewell bounds itself; without it a cancelled connection would keep its socket.
            with trio.move_on_after(2 * limits.farewell_seconds, shield=True):
                await link.close()


class Outcome:
    """How a handler ended; ``failure`` is what the client may be told."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure: EventMeshError | None = None


async def run_handler(handler: Handler, exchange: Exchange) -> Outcome:
    """Run a handler and contain its exceptions: this is the connection's boundary.

    `trio.Cancelled` and what is no `Exception` pass through. Bugs are logged, with their traceback;
    a peer that left or broke the protocol is no bug.
    """
    outcome = Outcome()
    try:
        await handler(exchange)
    except* (ConnectionBroken, WebSocketClosed) as group:
        outcome.failure = _first(group)
    except* (RequestError, RemoteProtocolError) as group:
        outcome.failure = _first(group)
    except* Exception as group:
        outcome.failure = InternalError("the server failed to answer")
        request = exchange.request
        logger.error(
            "the handler of a request failed",
            method=request.method,
            path=request.path,
            connection_id=request.connection_id,
            exc_info=group,
        )
    return outcome


def _first(group: BaseExceptionGroup[EventMeshError]) -> EventMeshError:
    error = next(leaves(group))
    assert isinstance(error, EventMeshError)
    return bare(error)


class _Connection:
    __slots__ = (
        "_connection_id",
        "_drain",
        "_handler",
        "_limits",
        "_peer",
        "_scheme",
        "_served",
        "_wire",
        "link",
    )

    def __init__(
        self,
        link: Link,
        handler: Handler,
        limits: TransportLimits,
        scheme: str,
        peer: str,
        drain: Drain | None,
    ) -> None:
        self.link = link
        self._handler = handler
        self._limits = limits
        self._scheme = scheme
        self._peer = peer
        self._drain = drain or Drain()
        self._connection_id = f"conn-{secrets.token_hex(8)}"
        self._served = 0
        self._wire = ServerConnection(limits)

    async def serve(self) -> None:
        while True:
            try:
                request = await self._next_request()
            except RemoteProtocolError as error:
                await self._refuse(error)
                return
            if request is None or not await self._serve_request(request):
                return

    # --- one request's head -----------------------------------------------------------------

    async def _next_request(self) -> Request | None:
        head = await self._next_head()
        return None if head is None else self._request(head)

    async def _next_head(self) -> Head | None:
        """The next head; None when the peer left, or stayed away, or the service is ending."""
        head = self._wire.next_head()
        if head is not None:
            # It came along with the one before: hundreds would be answered in one turn of the loop.
            await trio.lowlevel.checkpoint()
            return head
        began = trio.current_time()
        if not self._wire.buffered and not await self._wait_first_byte():
            return None
        if (head := self._wire.next_head()) is not None:  # as a rule it comes in one piece
            return head
        limits, drain = self._limits, self._drain
        if self._served:  # the wait for its first byte was `keep_alive_seconds`'
            began = trio.current_time()
        with (
            trio.move_on_at(began + limits.header_seconds) as scope,
            drain.interrupting(scope, limits.farewell_seconds),
        ):
            while (head := self._wire.next_head()) is None and not self.link.peer_left:
                self._wire.receive_data(await self.link.read())
            return head  # None: nothing had come but the empty line that may stand before a head
        raise RemoteProtocolError("the request's head did not come in time", status_hint=408)

    async def _wait_first_byte(self) -> bool:
        limits, drain = self._limits, self._drain
        seconds = limits.keep_alive_seconds if self._served else limits.header_seconds
        # The first request of one that is new may be on its way when a drain begins, and a reset
        # would not tell why; one that rested is just closed.
        patience = 0.0 if self._served else limits.farewell_seconds
        data = b""
        # `move_on_after` would be 2 us more, of each connection and each request.
        scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        with scope, drain.interrupting(scope, patience):
            data = await self.link.read()
        if data:
            self._wire.receive_data(data)
        return bool(data)

    async def _refuse(self, error: RemoteProtocolError) -> None:
        """Answer bytes that are no request, and have the connection closed."""
        self.link.linger = True
        if not self._wire.can_answer or self.link.peer_left:
            return
        is_head = self._wire.is_head_request
        body = error_body(error, None)
        fields = [*error_fields(error), (b"content-length", b"%d" % len(body))]
        fields += [(b"connection", b"close"), date_field()]
        data = self._wire.send_head(error_status(error), fields, head_request=is_head)
        if not is_head:  # h11 was not told of it, and would add what ends a body
            data += self._wire.send_body(body) + self._wire.send_end()
        try:
            await self.link.write(data)
        except ConnectionBroken:
            self.link.linger = False

    # --- one exchange ---------------------------------------------------------------------------

    async def _serve_request(self, request: Request) -> bool:
        """Run the handler; whether another request may follow."""
        self._served += 1
        exchange = HTTPExchange(request, self.link, self._wire, self._must_close)
        try:
            outcome = await run_handler(self._handler, exchange)
        except BaseException:
            # Cancelled: half a response must not end like a whole one. Nothing waits in there, so
            # the scope only says that it is bounded.
            if exchange.started and not exchange.ended and not self.link.broken:
                with trio.move_on_after(self._limits.farewell_seconds, shield=True):
                    await exchange.abort()
            raise
        if self.link.broken or (self.link.peer_left and not self._wire.request_complete):
            return False  # in the middle of a write, or of its request: nobody is there to answer
        if exchange.websocket is not None:
            await exchange.websocket.aclose(1000 if outcome.failure is None else 1011)
            return False
        if exchange.started and not exchange.ended:
            if outcome.failure is None and not self.link.peer_left:
                logger.error("a handler returned in the middle of its response", path=request.path)
            await exchange.abort()
            return False
        try:
            if not exchange.started:
                await self._answer_failure(exchange, outcome.failure)
        except ConnectionBroken:
            return False
        return await self._next_cycle(exchange)

    def _request(self, head: Head) -> Request:
        return Request(
            method=head.method,
            path=head.path,
            query=head.query,
            fields=head.fields,
            http_version=head.http_version,
            scheme=self._scheme,
            peer=self._peer,
            connection_id=self._connection_id,
            received_at=trio.current_time(),
            wants_websocket=head.wants_websocket,
        )

    async def _answer_failure(self, exchange: HTTPExchange, failure: EventMeshError | None) -> None:
        if failure is None:
            logger.error("a handler returned without a response", path=exchange.request.path)
            failure = InternalError("the server failed to answer")
        fields = error_fields(failure)
        if isinstance(failure, RemoteProtocolError):
            fields = [*fields, (b"connection", b"close")]
        await exchange.send_response(error_status(failure), fields, error_body(failure, None))

    async def _next_cycle(self, exchange: HTTPExchange) -> bool:
        wire = self._wire
        if not wire.keeps_alive:
            # Who did not ask for the end may have sent its next request already.
            self.link.linger = not wire.request_complete or wire.buffered > 0 or wire.peer_goes_on
            return False
        if not (wire.request_complete or await exchange.discard_body()):
            self.link.linger = True
            return False
        return wire.start_next_cycle()

    def _must_close(self) -> bool:
        full = self._served >= self._limits.max_requests_per_connection
        return full or self._drain.begun
