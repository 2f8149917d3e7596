"""What each route does: ``docs/wire.rst``. WebSockets have a module of their own."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.streams import HTTPStream, limit_origins, wishes_of
from eventmesh_trio.errors import ConflictError, NotFoundError, RequestError, ValidationError
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Position, Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.codec import decode_json, encode_json
from eventmesh_trio.wire.dialects import Shape
from eventmesh_trio.wire.encoders import StreamFraming
from eventmesh_trio.wire.headers import parse_identifier, wish_fields
from eventmesh_trio.wire.negotiation import accepts
from eventmesh_trio.wire.requests import CrawlRequest

__all__ = [
    "attach",
    "control_session",
    "crawl",
    "crawl_sse",
    "deepsearch",
    "delete_session",
    "get_session",
    "list_sessions",
]

_MAX_KEY_BYTES: Final = 255


# --- Crawls --------------------------------------------------------------------------------------


async def crawl(mesh: Mesh, call: Call, *, framing: StreamFraming) -> None:
    """``POST``: start a crawl, or attach to the same one, and stream it."""
    limit_origins(mesh, call, framing)
    request, fingerprint = await _read_crawl(mesh, call)
    stream = HTTPStream.of(mesh, call, framing, "both")
    session = _session_of(mesh, call)
    start = partial(mesh.start_crawl, session, request)
    _, subscriber = _joined(call, session, stream, fingerprint, start)
    if subscriber is None:
        await call.exchange.send_response(204, call.fields())
        return
    await stream.serve(session, subscriber)


def _joined(
    call: Call,
    session: Session,
    stream: HTTPStream,
    fingerprint: str,
    start: Callable[..., tuple[Run, Subscriber | None]],
) -> tuple[Run | None, Subscriber | None]:
    """The run that a POST asks for, and its reader: of the same run again, or of one that starts.

    No reader: the run has ended, and the client's cursor is behind its last event.
    """
    run = _equal_run(call, session, fingerprint)
    if run is None:
        return start(
            request_id=call.request_id,
            reader=stream.reader_spec(call.request_id),
            idempotency_key=_idempotency_key(call),
            fingerprint=fingerprint,
        )
    position = _position_in(session, run, call.last_event_id)
    if position.gap is None and run.is_exhausted(position.after):
        return run, None
    subscriber = session.subscribe(
        stream.reader_spec(run.request_id),
        after=position.after,
        gap=position.gap,
    )
    return run, subscriber


async def crawl_sse(mesh: Mesh, call: Call) -> None:
    """``POST`` on the SSE route: stream, or start the run and say where a GET attaches."""
    request = call.exchange.request
    streams = accepts(request.field(b"accept"), b"text/event-stream")
    if streams or request.field(b"x-session-id") is None:
        await crawl(mesh, call, framing="sse")
        return
    limit_origins(mesh, call, "sse")
    wanted, fingerprint = await _read_crawl(mesh, call)
    wishes = wishes_of(mesh, call)
    session = _session_of(mesh, call)
    run = _equal_run(call, session, fingerprint)
    if run is None:
        run, _ = mesh.start_crawl(
            session,
            wanted,
            request_id=call.request_id,
            reader=None,
            idempotency_key=_idempotency_key(call),
            fingerprint=fingerprint,
        )
    await call.send_json(
        {
            "session_id": session.session_id,
            "request_id": run.request_id,
            "stream_url": f"/crawl/sse/stream?session_id={session.session_id}",
            "status": "started",
        },
        fields=wish_fields(
            wishes,
            capacity=wishes.buffer_size,
            used=0,
            session_id=session.session_id,
            request_id=run.request_id,
        ),
    )


async def attach(mesh: Mesh, call: Call, *, framing: StreamFraming, shape: Shape) -> None:
    """``GET``: follow a session from the client's cursor, or from its oldest live run."""
    limit_origins(mesh, call, framing)
    session_id = call.query.get("session_id")
    if session_id is None:
        raise ValidationError("session_id is missing from the query", field="session_id")
    parse_identifier(session_id, "session_id")
    stream = HTTPStream.of(mesh, call, framing, shape)
    session = await _wait_session(mesh, session_id)
    position = session.resolve(call.last_event_id)
    if position.gap is None and not session.live_runs and session.is_exhausted(position.after):
        await call.exchange.send_response(204, call.fields())
        return
    if call.exchange.request.method == "HEAD":
        await stream.send_head(session)
        return
    subscriber = session.subscribe(stream.reader_spec(), after=position.after, gap=position.gap)
    await stream.serve(session, subscriber)


async def _wait_session(mesh: Mesh, session_id: str) -> Session:
    """The session of that id, which may be about to begin. Raises `NotFoundError`."""
    session: Session | None = None
    with (
        trio.move_on_after(mesh.config.mesh.attach_wait_seconds) as scope,
        mesh.service.interrupting(scope),  # once it drains nothing begins any more
    ):
        session = await mesh.hub.wait_session(session_id)
    # One that is known although nothing has begun in it, such as that of an idle WebSocket, is not
    # missing: there is nothing to be told of it but, for a cursor of another log, the gap.
    session = session or mesh.hub.find(session_id)
    if session is None:
        mesh.admission.require_serving()
        raise NotFoundError(f"there is no session {session_id}")
    return session


async def deepsearch(mesh: Mesh, call: Call, *, framing: StreamFraming) -> None:
    """``POST``: start a deep search, or attach to the same one, and stream it.

    The response begins when the provider has answered: where it cannot serve, that is the response.
    """
    limit_origins(mesh, call, framing)
    request = mesh.read_search(await _read_body(mesh, call))
    fingerprint = hashlib.sha256(encode_json(request)).hexdigest()
    stream = HTTPStream.of(mesh, call, framing, "both")
    session = _session_of(mesh, call)
    start = partial(mesh.start_search, session, request)
    run, subscriber = _joined(call, session, stream, fingerprint, start)
    if run is None or subscriber is None:
        await call.exchange.send_response(204, call.fields())
        return
    try:
        await _wait_answer(mesh, call, run)
    except BaseException:
        subscriber.close(keep_place=True)  # as a reader that left before the end of its stream
        raise
    await stream.serve(session, subscriber)


async def _wait_answer(mesh: Mesh, call: Call, run: Run) -> None:
    """As `Mesh.wait_answer`, until the client leaves: what then is done is up to its stream."""
    failure: RequestError | None = None

    async def wait() -> None:
        nonlocal failure
        try:
            await mesh.wait_answer(run)
        except RequestError as error:
            failure = error
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await call.exchange.wait_disconnected()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _read_crawl(mesh: Mesh, call: Call) -> tuple[CrawlRequest, str]:
    request = mesh.read_request(await _read_body(mesh, call))
    return request, hashlib.sha256(encode_json(request)).hexdigest()


async def _read_body(mesh: Mesh, call: Call) -> Any:
    """The JSON of a request for new work. Raises `OverloadedError` when the drain comes first.

    No checkpoint where the body came with the head, as it does as a rule: the answer is one.
    """
    call.require_json()
    body = None if mesh.service.begun else call.exchange.body_nowait()
    if body is None:
        body = await _wait_body(mesh, call)
    return decode_json(body)


async def _wait_body(mesh: Mesh, call: Call) -> bytes:
    with trio.CancelScope() as scope, mesh.service.interrupting(scope):
        return await call.read_body(mesh.config.transport.max_body_bytes)
    raise mesh.admission.going_away()


def _session_of(mesh: Mesh, call: Call) -> Session:
    given = call.exchange.request.field(b"x-session-id")
    return mesh.hub.open_session(None if given is None else parse_identifier(given, "X-Session-ID"))


def _idempotency_key(call: Call) -> str | None:
    given = call.exchange.request.field(b"idempotency-key")
    if given is not None and len(given) > _MAX_KEY_BYTES:
        raise ValidationError(
            f"Idempotency-Key is over {_MAX_KEY_BYTES} bytes", field="Idempotency-Key"
        )
    return given.decode("latin-1") if given else None


def _equal_run(call: Call, session: Session, fingerprint: str) -> Run | None:
    """The run that this POST asks for again, if any ("Resuming" in ``docs/wire.rst``).

    The key of a run that has ended gives its replay: a lost response can be asked for again.

    Raises:
      ConflictError: the session has a live run, and it is another one; or the key is that of a
        run that has ended and was asked for by another body.
    """
    key = _idempotency_key(call)
    if key is not None:
        for run in reversed(list(session.runs.values())):
            if run.idempotency_key != key:
                continue
            if run.live or run.fingerprint == fingerprint:
                return run
            raise ConflictError("this Idempotency-Key was used for another request")
    live = session.live_runs
    for run in live:
        if run.fingerprint == fingerprint and not run.has_reader:
            return run
    if live:
        raise ConflictError(
            f"the session {session.session_id} has a live run already",
            context={"live_request_id": live[0].request_id},
        )
    return None


def _position_in(session: Session, run: Run, last_event_id: str | None) -> Position:
    """Where a POST that attaches begins: at the run's start, or behind the cursor that it has."""
    if last_event_id is None:
        return Position(run.first_seq - 1, None)
    return session.resolve(last_event_id)


# --- Sessions ----------------------------------------------------------------------------------


async def list_sessions(mesh: Mesh, call: Call) -> None:
    await call.send_json(
        {"sessions": [session.document() for session in mesh.hub.sessions.values()]}
    )


async def get_session(mesh: Mesh, call: Call) -> None:
    await call.send_json(_known_session(mesh, call).document())


async def delete_session(mesh: Mesh, call: Call) -> None:
    """Cancels the live runs; what they published is kept as that of any finished session."""
    session = _known_session(mesh, call)
    session.cancel(None)
    await call.send_json(session.document())


async def control_session(mesh: Mesh, call: Call, *, command: str) -> None:
    """``pause``, ``resume`` or ``cancel``: one run by ``?request_id=``, else all live ones."""
    session = _known_session(mesh, call)
    request_id = call.query.get("request_id")
    if request_id is not None and request_id not in session.runs:
        raise NotFoundError(f"the session has no run {request_id[:128]}")
    _COMMANDS[command](session, request_id)
    await call.send_json(session.document())


_COMMANDS: Final[Mapping[str, Any]] = {
    "pause": Session.pause,
    "resume": Session.resume,
    "cancel": Session.cancel,
}


def _known_session(mesh: Mesh, call: Call) -> Session:
    session_id = call.parameters["id"]
    session = mesh.hub.find(session_id)
    if session is None:
        raise NotFoundError(f"there is no session {session_id[:128]}")
    return session
