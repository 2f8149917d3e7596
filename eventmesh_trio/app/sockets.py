"""The WebSocket route: commands in, events of any number of runs out (``docs/wire.rst``).

One task reads commands and posts replies to the subscriber; `deliver_messages` is the one writer.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio

from eventmesh_trio.abc import Encoder, WebSocket
from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.delivery import deliver_messages
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.readers import reader_spec
from eventmesh_trio.errors import (
    ConflictError,
    EventMeshError,
    ForbiddenError,
    InvalidRequest,
    RequestError,
    StreamingError,
    UpgradeRequired,
    WebSocketClosed,
    bare,
)
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.commands import OPERATIONS, PROTOCOL_VERSION, Command, Reply, parse_command
from eventmesh_trio.wire.dialects import Dialect
from eventmesh_trio.wire.encoders import MessageFraming
from eventmesh_trio.wire.errors import error_info
from eventmesh_trio.wire.headers import is_allowed_origin, parse_identifier, parse_wishes
from eventmesh_trio.wire.identifiers import new_identifier
from eventmesh_trio.wire.negotiation import message_encoder
from eventmesh_trio.wire.timestamps import utc_timestamp
from eventmesh_trio.wire.websocket import encode_frame

__all__ = ["crawl_websocket"]

_GOING_AWAY: Final = 1001
_TRY_LATER: Final = 1013


def _now() -> str:
    return utc_timestamp(time.time())


async def crawl_websocket(mesh: Mesh, call: Call) -> None:
    """``GET`` with an upgrade: welcome, then commands and events until the peer leaves."""
    request = call.exchange.request
    if not request.wants_websocket:
        raise UpgradeRequired("connect to this route with a WebSocket")
    if call.origin is not None and not is_allowed_origin(call.origin, call.origins):
        raise ForbiddenError("this origin may not open a WebSocket here")
    mesh.admission.require_serving()
    wishes = parse_wishes(request.field, mesh.config.stream.buffer)
    given = call.query.get("session_id")
    session = mesh.hub.open_session(parse_identifier(given, "session_id") if given else None)
    position = session.resolve(call.last_event_id)
    socket = await call.exchange.accept_websocket(call.fields())
    connection = _Connection(mesh, session, socket, request.connection_id, trio.current_time())
    spec = reader_spec(
        mesh.config.stream,
        wishes,
        protocol="websocket",
        encoder_for=partial(_encoder_for, mesh, session.session_id, socket),
        until="never",
        connection_id=request.connection_id,
        requested_at=request.received_at,
    )
    connection.subscriber = session.subscribe(spec, after=position.after, gap=position.gap)
    if mesh.is_draining:  # since the handshake was taken
        connection.subscriber.end_when_idle()
    await connection.serve(request.received_at)


def _encoder_for(mesh: Mesh, session_id: str, socket: WebSocket, track: Track | None) -> Encoder:
    """Each run's events in the dialect that it was started in.

    No method of `_Connection`: its reader asks it, which would make of both, and of the session's
    log, a cycle that only the collector of garbage frees.
    """
    dialect = None if track is None else mesh.dialects.get(track, "envelope")
    framing: MessageFraming = "frame" if socket.takes_frames else "message"
    return message_encoder(dialect, framing, session_id, socket.frame_style)


@attrs.define(eq=False)
class _Connection:
    """What one socket knows; the runs belong to the session and outlive it by contract."""

    mesh: Mesh
    session: Session
    socket: WebSocket
    connection_id: str
    connected_at: float
    commanded_at: float = attrs.field(default=0.0, init=False)  # when the last command came
    subscriber: Subscriber = attrs.field(init=False)

    async def serve(self, requested_at: float) -> None:
        close_code = 1000
        # Before the writer starts: the welcome is the first frame, whatever is replayed.
        self.subscriber.post_nowait(self._encoded(None, self._reply("welcome", self._welcome())))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_commands, nursery.cancel_scope)
                self.subscriber.cancel_when_cut_off(nursery.cancel_scope)
                try:
                    await deliver_messages(
                        self.subscriber,
                        self.socket,
                        requested_at=requested_at,
                        first_byte=partial(self.mesh.metrics.first_byte, "websocket"),
                    )
                except WebSocketClosed:
                    pass  # the reader is told the same, and has nothing left to do
                except StreamingError as error:
                    if error is not self.subscriber.failure:
                        raise
                nursery.cancel_scope.cancel()
            if (evicted := self.subscriber.failure) is not None:
                self.mesh.note_eviction(bare(evicted))
                close_code = _TRY_LATER
            if self.mesh.is_draining:
                close_code = _GOING_AWAY
        finally:
            self.subscriber.close(keep_place=True)
        await self.socket.aclose(close_code)

    async def _read_commands(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                message = await self.socket.receive()
                self.commanded_at = trio.current_time()
                await self._obey(message)
        except (WebSocketClosed, trio.ClosedResourceError):  # the peer left, or was cut off
            scope.cancel()

    async def _obey(self, message: str | bytes) -> None:
        try:
            command = parse_command(message)
        except InvalidRequest as error:
            given = error.context.pop("request_id", None)
            await self._refuse(error, given if isinstance(given, str) else None)
            return
        try:
            await _OPERATIONS[command.operation](self, command)
        except (RequestError, InvalidRequest) as error:
            await self._refuse(error, command.request_id)

    # --- Operations ------------------------------------------------------------------------

    async def _crawl(self, command: Command) -> None:
        self.mesh.admission.require_serving()
        request = self.mesh.read_request(command.arguments)
        self._start(command, partial(self.mesh.start_crawl, self.session, request))

    async def _deepsearch(self, command: Command) -> None:
        # Begun at once: a socket must obey while a provider thinks. Its failure is the run's.
        self.mesh.admission.require_serving()
        request = self.mesh.read_search(command.arguments)
        self._start(command, partial(self.mesh.start_search, self.session, request))

    def _start(self, command: Command, start: Callable[..., tuple[Run, Subscriber | None]]) -> None:
        request_id = command.request_id or new_identifier("req")
        run = self.session.runs.get(request_id)
        if run is not None and run.live:
            raise ConflictError("a run with this id is live")
        run, _ = start(request_id=request_id, reader=None)
        self.mesh.dialects[run.track] = command.dialect or "envelope"
        self.subscriber.note_asked(request_id, self.commanded_at)

    async def _control(self, command: Command) -> None:
        request_id = command.request_id
        if request_id is not None and request_id not in self.session.runs:
            raise InvalidRequest(f"this session has no run {request_id}")
        addressed = self._addressed(request_id)
        change, tag = _CONTROLS[command.operation]
        change(self.session, request_id)
        members = {"requests": [run.request_id for run in addressed]} if request_id is None else {}
        named = request_id or (addressed[0].request_id if len(addressed) == 1 else None)
        dialect = command.dialect
        if dialect is None and addressed:
            dialect = self.mesh.dialects.get(addressed[0].track)
        await self._post(dialect, self._reply(tag, members, named))

    async def _status(self, command: Command) -> None:
        statistics = self.subscriber.statistics()
        members = {
            "is_healthy": not statistics.is_slow,
            "message_count": statistics.messages_sent,
            "connected_duration_ms": round((trio.current_time() - self.connected_at) * 1000),
            "backpressure_count": statistics.warnings,
            "requests": [
                {
                    "request_id": run.request_id,
                    "state": run.state,
                    "completed": run.counts.completed,
                    "total": run.total,
                }
                for run in self.session.runs.values()
            ],
        }
        await self._post(command.dialect, self._reply("status", members, command.request_id))

    async def _ping(self, command: Command) -> None:
        await self._post(command.dialect, self._reply("pong", {}, command.request_id))

    # --- Replies ------------------------------------------------------------------------------

    def _addressed(self, request_id: str | None) -> list[Run]:
        return (
            list(self.session.live_runs) if request_id is None else [self.session.runs[request_id]]
        )

    def _welcome(self) -> Mapping[str, Any]:
        return {
            "server_time": _now(),
            "protocol_version": PROTOCOL_VERSION,
            "supported_operations": OPERATIONS,
            "connection_id": self.connection_id,
            "last_event_id": self.session.last_event_id,
        }

    def _reply(self, tag: str, members: Mapping[str, Any], request_id: str | None = None) -> Reply:
        return Reply(tag, members, self.session.session_id, _now(), request_id)

    async def _refuse(self, error: EventMeshError, request_id: str | None) -> None:
        """Reply with an error; never with the id of a live run: clients would drop that run."""
        details = dict(error.context)
        run = self.session.runs.get(request_id) if request_id is not None else None
        if run is not None and run.live:
            details["request_id"], request_id = request_id, None
        reply = Reply.error(
            error_info(error, _now()),
            session_id=self.session.session_id,
            request_id=request_id,
            details=details,
        )
        await self._post(None, reply)

    async def _post(self, dialect: Dialect | None, reply: Reply) -> None:
        """Hand a reply to the writer; while its queue is full, read no more commands."""
        notice = self._encoded(dialect, reply)
        while True:
            try:
                self.subscriber.post_nowait(notice)
                return
            except trio.WouldBlock:
                await self.subscriber.wait_notice_room()

    def _encoded(self, dialect: Dialect | None, reply: Reply) -> bytes:
        body = reply.encode(dialect)
        return encode_frame(body) if self.socket.takes_frames else body


_OPERATIONS: Final = {
    "crawl": _Connection._crawl,
    "deepsearch": _Connection._deepsearch,
    "pause": _Connection._control,
    "resume": _Connection._control,
    "cancel": _Connection._control,
    "status": _Connection._status,
    "ping": _Connection._ping,
}
_CONTROLS: Final = {
    "pause": (Session.pause, "paused"),
    "resume": (Session.resume, "resumed"),
    "cancel": (Session.cancel, "cancelled"),
}
