"""What each route does: WIRE.md, sections 1 to 3. WebSockets have a module of their own."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import attrs
import trio

from eventmesh_trio.abc import Fields
from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.delivery import deliver
from eventmesh_trio.app.lifespan import Mesh
from eventmesh_trio.errors import (
    ConflictError,
    ConnectionBroken,
    DependencyError,
    NotFoundError,
    OverloadedError,
    StreamingError,
    ValidationError,
)
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.run import Run
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.dialects import Shape
from eventmesh_trio.wire.encoders import HTTPEncoder, StreamFraming
from eventmesh_trio.wire.headers import (
    STREAM_FIELDS,
    ReaderWishes,
    parse_identifier,
    parse_wishes,
    wish_fields,
)
from eventmesh_trio.wire.negotiation import MEDIA_TYPES, accepts, stream_encoder
from eventmesh_trio.wire.requests import CrawlRequest, parse_crawl_request, parse_deepsearch_request

__all__ = [
    "attach",
    "control_session",
    "crawl",
    "crawl_sse",
    "deepsearch",
    "delete_session",
    "get_session",
    "list_sessions",
    "reader_spec",
    "require_serving",
]

_RETRY: Final = b"retry: %d\n"
_BUSY_RETRY_SECONDS: Final = 5.0
_MAX_KEY_BYTES: Final = 255


# --- Crawls --------------------------------------------------------------------------------------


async def crawl(mesh: Mesh, call: Call, *, framing: StreamFraming) -> None:
    """``POST``: start a crawl, or attach to the same one, and stream it."""
    request, fingerprint = await _read_crawl(mesh, call)
    wishes = _wishes(mesh, call)
    encoder = stream_encoder(framing, "both", call.query.get("shape"))
    session = _session_of(mesh, call)
    spec = reader_spec(mesh, call, wishes, encoder)
    subscriber = _attach_to_equal(call, session, fingerprint, spec)
    if subscriber is None:
        require_serving(mesh)
        _, subscriber = mesh.start_crawl(
            session,
            request,
            request_id=call.request_id,
            reader=attrs.evolve(spec, until="run", request_id=call.request_id),
            idempotency_key=_idempotency_key(call),
            fingerprint=fingerprint,
        )
        assert subscriber is not None, "a run with a reader has a subscriber"
    await _stream(mesh, call, session, subscriber, wishes, framing)


async def crawl_sse(mesh: Mesh, call: Call) -> None:
    """``POST`` on the SSE route: stream, or start the run and say where a GET attaches."""
    request = call.exchange.request
    streams = accepts(request.field(b"accept"), b"text/event-stream")
    if streams or request.field(b"x-session-id") is None:
        await crawl(mesh, call, framing="sse")
        return
    wanted, fingerprint = await _read_crawl(mesh, call)
    wishes = _wishes(mesh, call)
    session = _session_of(mesh, call)
    run = _equal_run(call, session, fingerprint)
    if run is None:
        require_serving(mesh)
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
    session_id = call.query.get("session_id")
    if session_id is None:
        raise ValidationError("session_id is missing from the query", field="session_id")
    parse_identifier(session_id, "session_id")
    wishes = _wishes(mesh, call)
    encoder = stream_encoder(framing, shape, call.query.get("shape"))
    session: Session | None = None
    with trio.move_on_after(mesh.config.mesh.attach_wait_seconds):
        session = await mesh.hub.wait_session(session_id)
    if session is None:
        raise NotFoundError(f"there is no session {session_id}")
    position = session.resolve(call.last_event_id)
    if position.gap is None and not session.live_runs and session.is_exhausted(position.after):
        await call.exchange.send_response(204, call.fields())
        return
    if call.exchange.request.method == "HEAD":
        # Not a reader: it would take over a place that is held for one, and read nothing.
        head = _stream_fields(
            wishes,
            framing,
            capacity=wishes.buffer_size,
            used=0,
            session_id=session.session_id,
            request_id=call.request_id,
        )
        await call.exchange.start_response(200, call.fields(*head))
        await call.exchange.end_response()
        return
    spec = reader_spec(mesh, call, wishes, encoder)
    subscriber = session.subscribe(spec, after=position.after, gap=position.gap)
    await _stream(mesh, call, session, subscriber, wishes, framing)


async def deepsearch(mesh: Mesh, call: Call) -> None:
    """``POST``: no search provider is there yet, and a client is told so before a stream begins."""
    parse_deepsearch_request(await call.read_json(mesh.config.transport.max_body_bytes))
    raise DependencyError(
        "no search provider is configured on this server", retry_after_seconds=3600
    )


async def _read_crawl(mesh: Mesh, call: Call) -> tuple[CrawlRequest, str]:
    body = await call.read_json(mesh.config.transport.max_body_bytes)
    request = parse_crawl_request(body, max_urls=mesh.config.server.max_urls)
    return request, hashlib.sha256(encode_json(request)).hexdigest()


def _session_of(mesh: Mesh, call: Call) -> Session:
    given = call.exchange.request.field(b"x-session-id")
    return mesh.hub.open_session(None if given is None else parse_identifier(given, "X-Session-ID"))


def _wishes(mesh: Mesh, call: Call) -> ReaderWishes:
    return parse_wishes(call.exchange.request.field, mesh.config.stream.window)


def _idempotency_key(call: Call) -> str | None:
    given = call.exchange.request.field(b"idempotency-key")
    if given is not None and len(given) > _MAX_KEY_BYTES:
        raise ValidationError(
            f"Idempotency-Key is over {_MAX_KEY_BYTES} bytes", field="Idempotency-Key"
        )
    return given.decode("latin-1") if given else None


def _equal_run(call: Call, session: Session, fingerprint: str) -> Run | None:
    """The run that this POST asks for again, if any: WIRE.md, section 3.

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


def _attach_to_equal(
    call: Call, session: Session, fingerprint: str, spec: ReaderSpec
) -> Subscriber | None:
    run = _equal_run(call, session, fingerprint)
    if run is None:
        return None
    spec = attrs.evolve(spec, until="run", request_id=run.request_id)
    return session.subscribe(spec, after=run.first_seq - 1, gap=None)


def require_serving(mesh: Mesh) -> None:
    """Raises `OverloadedError` while the server drains."""
    if mesh.is_draining:
        raise OverloadedError(
            "the server is going away; try another, or later",
            retry_after_seconds=_BUSY_RETRY_SECONDS,
        )


def reader_spec(mesh: Mesh, call: Call, wishes: ReaderWishes, encoder: HTTPEncoder) -> ReaderSpec:
    """What the headers and the settings make of one HTTP reader."""
    return mesh.reader_spec(
        wishes,
        encoder_for=lambda _: encoder,
        until="idle",
        connection_id=call.exchange.request.connection_id,
    )


def _stream_fields(wishes: ReaderWishes, framing: StreamFraming, **window: Any) -> Fields:
    """The response fields of a stream, but for CORS; ``window`` is what `wish_fields` wants."""
    return [
        (b"content-type", MEDIA_TYPES[framing]),
        *STREAM_FIELDS,
        *wish_fields(wishes, **window),
    ]


async def _stream(
    mesh: Mesh,
    call: Call,
    session: Session,
    subscriber: Subscriber,
    wishes: ReaderWishes,
    framing: StreamFraming,
) -> None:
    preamble = _RETRY % mesh.config.stream.sse_retry_milliseconds if framing == "sse" else b""
    finished = False
    try:
        statistics = subscriber.statistics()
        await call.exchange.start_response(
            200,
            call.fields(
                *_stream_fields(
                    wishes,
                    framing,
                    capacity=statistics.capacity,
                    used=statistics.used,
                    session_id=session.session_id,
                    request_id=subscriber.spec.request_id or call.request_id,
                )
            ),
        )
        finished = await deliver(
            subscriber,
            call.exchange,
            preamble=preamble,
            first_byte=partial(mesh.observe_first_byte, subscriber, framing),
        )
    except ConnectionBroken:
        raise
    except StreamingError as error:
        mesh.note_eviction(error)
        # Cut, not ended: a client must not take what it has for the whole.
        raise ConnectionBroken(error.message) from error
    finally:
        # A reader that left before its end keeps its place: it may come back to it.
        subscriber.close(keep_place=not finished)


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
