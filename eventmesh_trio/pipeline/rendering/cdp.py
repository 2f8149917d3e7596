"""The Chrome DevTools Protocol, client side: commands, events and flat sessions over a transport.

One task reads and one writes, both owned by `open_cdp`. A command is answered or fails with a
`CDPError`; events go to the session that wants them, through a channel bounded by number and bytes.
Source: https://chromedevtools.github.io/devtools-protocol/
"""

import logging
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import attrs
import trio

from eventmesh_trio.pipeline.rendering.cdp_messages import (
    AnswerTooLarge,
    CDPError,
    CDPEvent,
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    Result,
    SessionClosed,
    decode,
    encode,
    parse,
)
from eventmesh_trio.pipeline.rendering.cdp_transports import (
    MessageTooLarge,
    Transport,
    TransportLost,
)

__all__ = ["CDPConnection", "CDPLimits", "CDPSession", "open_cdp"]

logger = logging.getLogger(__name__)

_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
_HEAD_ID: Final = re.compile(rb'^\{"id":(\d+)[,}]')
_TAIL_SESSION: Final = re.compile(rb'"sessionId":"([0-9A-Za-z-]+)"\}$')


@attrs.frozen(kw_only=True)
class CDPLimits:
    """What one connection may take."""

    command_seconds: float = 10.0
    """How long a command may wait for its answer."""
    max_events: int = 4096
    """Events that wait in one session's channel; one more closes the session."""
    queue_commands: int = 16_384
    """Commands that wait to be written; further ones wait for room, `CDPSession.notify` fails. A
    page's requests come at once, and each that is left out is one of some 150 bytes."""


@attrs.define(eq=False)
class _Pending:
    """One command that waits for its answer."""

    method: str
    session_id: str | None
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Result | None = None
    error: CDPError | None = None

    def settle(self, outcome: "Result | CDPError") -> None:
        if isinstance(outcome, CDPError):
            self.error = outcome
        else:
            self.result = outcome
        self.done.set()


class CDPSession:
    """A conversation with one target; the browser itself is the session without an id.

    Any number of tasks may `execute`; one task receives the events.
    """

    def __init__(
        self,
        connection: "CDPConnection",
        session_id: str | None,
        wanted: Collection[str],
        max_event_bytes: int,
    ) -> None:
        self._connection = connection
        self.session_id = session_id
        self._wanted = frozenset(wanted)
        self._max_event_bytes = max_event_bytes
        self._closed: CDPError | None = None
        self._queued_bytes = 0
        self._send: trio.MemorySendChannel[tuple[CDPEvent, int]]
        self._receive: trio.MemoryReceiveChannel[tuple[CDPEvent, int]]
        self._send, self._receive = trio.open_memory_channel(connection.limits.max_events)

    async def execute(self, method: str, **params: Any) -> Result:
        """Send a command and wait for its answer. Cancelled: the answer is thrown away.

        Raises:
          CommandFailed, CommandTimeout, AnswerTooLarge, SessionClosed, ConnectionLost.
        """
        return await self.execute_within(self._connection.limits.command_seconds, method, **params)

    async def execute_within(self, seconds: float, method: str, **params: Any) -> Result:
        """As `execute`, for a command that may take longer, or must not take as long."""
        if self._closed is not None:
            await trio.lowlevel.checkpoint()
            raise self._why()
        return await self._connection.command(method, params, self.session_id, seconds)

    def notify(self, method: str, **params: Any) -> None:
        """Send a command whose answer nobody waits for; synchronous.

        A session that is closed takes no notice. Where the browser reads so slowly that commands
        pile up, the connection is lost.
        """
        if self._closed is None:
            self._connection.notify(method, params, self.session_id)

    async def receive(self) -> CDPEvent:
        """The next event. Raises `SessionClosed` or `ConnectionLost` after the last."""
        try:
            event, nbytes = await self._receive.receive()
        except trio.EndOfChannel:
            raise self._why() from None
        self._queued_bytes -= nbytes
        return event

    def close(self, error: CDPError | None = None) -> None:
        """Take no further events or commands; idempotent. What was queued can be received."""
        if self._closed is None:
            self._closed = error or SessionClosed("the session was closed")
            self._send.close()
            self._connection.forget(self)

    def _why(self) -> CDPError:
        """Why it is closed, as an error of its own for each who is told."""
        assert self._closed is not None
        return type(self._closed)(str(self._closed))

    def wants(self, method: str) -> bool:
        return self._closed is None and method in self._wanted

    def deliver(self, event: CDPEvent, nbytes: int) -> None:
        """Queue an event; a session that does not keep up is closed."""
        if self._queued_bytes + nbytes > self._max_event_bytes:
            self.close(SessionClosed("the page's events are too many to be handled"))
            return
        try:
            self._send.send_nowait((event, nbytes))
        except trio.WouldBlock:
            self.close(SessionClosed("the page's events are too many to be handled"))
            return
        self._queued_bytes += nbytes


class CDPConnection:
    """A browser's end of the protocol; made by `open_cdp`."""

    def __init__(
        self, transport: Transport, limits: CDPLimits, browser_events: Collection[str]
    ) -> None:
        self._transport = transport
        self.limits = limits
        self._ids = count(1)
        self._pending: dict[int, _Pending] = {}
        self._sessions: dict[str | None, CDPSession] = {}
        self._outgoing: trio.MemorySendChannel[bytes]
        self._to_write: trio.MemoryReceiveChannel[bytes]
        self._outgoing, self._to_write = trio.open_memory_channel(limits.queue_commands)
        self._lost = trio.Event()
        self._reason: ConnectionLost | None = None
        self.skipped_messages = 0
        self.browser = self.open_session(None, browser_events)

    @property
    def is_lost(self) -> bool:
        return self._lost.is_set()

    async def wait_lost(self) -> None:
        """Return when the browser is gone, or was given up. Safe to cancel."""
        await self._lost.wait()

    def open_session(
        self,
        session_id: str | None,
        wanted: Collection[str],
        *,
        max_event_bytes: int = _MAX_EVENT_BYTES,
    ) -> CDPSession:
        """The session of an attached target.

        Args:
          wanted: the events that its reader is to receive; others are passed over unread.
          max_event_bytes: what those that wait may hold together; over it the session is closed.
        """
        session = CDPSession(self, session_id, wanted, max_event_bytes)
        if self._reason is not None:
            session.close(self._reason)
        else:
            self._sessions[session_id] = session
        return session

    async def command(
        self, method: str, params: Result, session_id: str | None, seconds: float | None = None
    ) -> Result:
        """As `CDPSession.execute`, for the session of that id; ``seconds`` instead of the limit."""
        seconds = seconds or self.limits.command_seconds
        if self._reason is not None:
            await trio.lowlevel.checkpoint()
            raise ConnectionLost(str(self._reason))
        ident = next(self._ids)
        pending = self._pending[ident] = _Pending(method, session_id)
        try:
            with trio.move_on_after(seconds):
                try:
                    await self._outgoing.send(encode(ident, method, params, session_id))
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    raise ConnectionLost(str(self._reason)) from None
                await pending.done.wait()
        finally:
            del self._pending[ident]
        if pending.error is not None:
            raise pending.error
        if pending.result is None:
            raise CommandTimeout(f"{method} had no answer within {seconds:g} seconds")
        return pending.result

    def notify(self, method: str, params: Result, session_id: str | None) -> None:
        """As `CDPSession.notify`, for the session of that id."""
        try:
            self._outgoing.send_nowait(encode(next(self._ids), method, params, session_id))
        except trio.WouldBlock:
            self.lose("the browser does not read its commands")
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # lost already, as everybody who waits is told

    def forget(self, session: CDPSession) -> None:
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]

    def lose(self, reason: str) -> None:
        """Give the browser up: all commands and sessions fail from here on; idempotent."""
        if self._reason is not None:
            return
        self._reason = ConnectionLost(reason)
        self._lost.set()
        self._outgoing.close()
        for pending in self._pending.values():
            pending.settle(ConnectionLost(reason))
        for session in list(self._sessions.values()):
            session.close(ConnectionLost(reason))

    # --- The two tasks -----------------------------------------------------------------------

    async def run_writer(self) -> None:
        """Write commands in order, each within the time of a command."""
        async with self._to_write:
            async for message in self._to_write:
                written = False
                try:
                    with trio.move_on_after(self.limits.command_seconds):
                        await self._transport.send(message)
                        written = True
                except TransportLost as error:
                    self.lose(str(error))
                    return
                if not written:
                    self.lose("the browser does not read its commands")
                    return

    async def run_reader(self) -> None:
        """Hand out answers and events until the transport ends."""
        while True:
            try:
                message = await self._transport.receive()
            except MessageTooLarge as error:
                self._skipped(error)
                continue
            except TransportLost as error:
                self.lose(str(error))
                return
            try:
                self._dispatch(message)
            except (ValueError, RecursionError):
                # The framing holds, so that one message is lost and no more.
                self.skipped_messages += 1
                logger.warning("a message of the browser is not one of its protocol")

    def _dispatch(self, data: bytes) -> None:
        message = parse(data)
        if message.id is not None:
            pending = self._pending.get(message.id)
            if pending is None or pending.done.is_set():
                return  # given up, or a notice
            if message.error is not None:
                pending.settle(
                    CommandFailed(pending.method, message.error.code, message.error.message)
                )
            else:
                pending.settle(decode(message.result))
        elif message.method == "Target.detachedFromTarget":
            self._detached(decode(message.params).get("sessionId"))
        elif message.method is not None:
            session = self._sessions.get(message.session_id)
            if session is not None and session.wants(message.method):
                session.deliver(CDPEvent(message.method, decode(message.params)), len(data))

    def _detached(self, session_id: object) -> None:
        """A target is gone: what waits for it must not wait for its deadline."""
        if not isinstance(session_id, str):
            return
        for pending in self._pending.values():
            if pending.session_id == session_id:
                pending.settle(SessionClosed("the page is gone"))
        if (session := self._sessions.get(session_id)) is not None:
            session.close(SessionClosed("the page is gone"))

    def _skipped(self, message: MessageTooLarge) -> None:
        """A message too large to be taken is known by its edges: who waits for it is told."""
        self.skipped_messages += 1
        if (head := _HEAD_ID.search(message.head)) is not None:
            if (pending := self._pending.get(int(head[1]))) is not None:
                pending.settle(AnswerTooLarge(f"the answer to {pending.method} is too large"))
            return
        tail = _TAIL_SESSION.search(message.tail)
        session = self._sessions.get(tail[1].decode("ascii")) if tail is not None else None
        if session is not None:
            session.close(SessionClosed("an event of the page is too large"))


@asynccontextmanager
async def open_cdp(
    transport: Transport,
    limits: CDPLimits | None = None,
    *,
    browser_events: Collection[str] = (),
) -> AsyncIterator[CDPConnection]:
    """Speak the protocol over a transport, which stays its owner's to close.

    A browser that ends is no exception here: `CDPConnection.wait_lost` returns, and commands fail.

    Args:
      browser_events: those that `CDPConnection.browser` receives.
    """
    connection = CDPConnection(transport, limits or CDPLimits(), browser_events)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run_writer)
        nursery.start_soon(connection.run_reader)
        try:
            yield connection
        finally:
            connection.lose("the connection was closed")
            nursery.cancel_scope.cancel()
