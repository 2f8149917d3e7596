"""One streamed response over HTTP: what its reader asked for, its fields, its coding, its end."""

from functools import partial
from math import inf
from typing import Any, Final, Self

import attrs

from eventmesh_trio.abc import Fields
from eventmesh_trio.app.calls import Call
from eventmesh_trio.app.delivery import deliver
from eventmesh_trio.app.mesh import Mesh
from eventmesh_trio.app.readers import reader_spec
from eventmesh_trio.errors import ConnectionBroken, StreamingError, bare
from eventmesh_trio.mesh.reader import ReaderSpec
from eventmesh_trio.mesh.session import Session
from eventmesh_trio.mesh.subscriber import Subscriber
from eventmesh_trio.wire.content_coding import GzipEncoder, GzipSize, gzip_size
from eventmesh_trio.wire.dialects import Shape
from eventmesh_trio.wire.encoders import HTTPEncoder, StreamFraming
from eventmesh_trio.wire.headers import STREAM_FIELDS, ReaderWishes, parse_wishes, wish_fields
from eventmesh_trio.wire.negotiation import MEDIA_TYPES, prefers_gzip, stream_encoder

__all__ = ["HTTPStream", "limit_origins", "wishes_of"]

_RETRY: Final = b"retry: %d\n"


def limit_origins(mesh: Mesh, call: Call, framing: StreamFraming) -> None:
    """Where SSE is for pages of our own origin only, tell no other that it may read this."""
    if framing == "sse" and not mesh.config.stream.sse.enable_cors:
        call.origins = ()


def wishes_of(mesh: Mesh, call: Call) -> ReaderWishes:
    """What the request's tuning fields ask for. Raises `ValidationError`."""
    return parse_wishes(call.exchange.request.field, mesh.config.stream.buffer)


@attrs.frozen
class HTTPStream:
    """A stream as it was asked for; made before anything is begun, for it may be refused.

    ``gzip``: how its content is coded; None: not at all.
    """

    mesh: Mesh
    call: Call
    wishes: ReaderWishes
    encoder: HTTPEncoder
    gzip: GzipSize | None

    @classmethod
    def of(cls, mesh: Mesh, call: Call, framing: StreamFraming, shape: Shape) -> Self:
        """Read it from a request; ``shape`` is the route's own. Raises `ValidationError`."""
        wishes = wishes_of(mesh, call)
        encoder = stream_encoder(
            framing,
            shape,
            call.query.get("shape"),
            max_line_bytes=mesh.config.stream.ndjson.max_line_bytes if framing == "ndjson" else inf,
        )
        fields = call.exchange.request.fields
        wants_gzip = mesh.config.stream.general.enable_compression and prefers_gzip(
            [value for name, value in fields if name == b"accept-encoding"]
        )
        return cls(
            mesh, call, wishes, encoder, gzip_size(wishes.max_memory_bytes) if wants_gzip else None
        )

    def reader_spec(self, request_id: str | None = None) -> ReaderSpec:
        """What the headers and the settings make of the reader; None: of all of its session."""
        taken = 0 if self.gzip is None else self.gzip.memory_bytes
        return reader_spec(
            self.mesh.config.stream,
            self.wishes,
            protocol=self.encoder.framing,
            encoder_for=lambda _: self.encoder,
            until="idle" if request_id is None else "run",
            request_id=request_id,
            connection_id=self.call.exchange.request.connection_id,
            requested_at=self.call.exchange.request.received_at,
            coder_bytes=taken,
        )

    async def send_head(self, session: Session) -> None:
        """Answer HEAD. Not a reader: it would take over a place held for one, and read nothing."""
        fields = self._fields(
            capacity=self.wishes.buffer_size,
            used=0,
            session_id=session.session_id,
            request_id=self.call.request_id,
        )
        await self.call.exchange.start_response(200, self.call.fields(*fields))
        await self.call.exchange.end_response()

    async def serve(self, session: Session, subscriber: Subscriber) -> None:
        """Stream what the subscriber has, and close it; it keeps its place if it did not end.

        Raises:
          ConnectionBroken: the peer left, or the reader was evicted: the response stays unfinished.
        """
        framing = self.encoder.framing
        retry = round(self.mesh.config.stream.sse.retry_interval_seconds * 1000)
        finished = False
        try:
            await self.call.exchange.start_response(200, self._head_fields(session, subscriber))
            finished = await deliver(
                subscriber,
                self.call.exchange,
                preamble=_RETRY % retry if framing == "sse" else b"",
                coder=None if self.gzip is None else GzipEncoder(self.gzip),
                first_byte=partial(self.mesh.observe_first_byte, subscriber, framing),
                before_end=self.call.before_end,
            )
            if not finished:
                raise ConnectionBroken("the peer left, or the stream was open for too long")
        except ConnectionBroken:
            raise
        except StreamingError as error:
            self.mesh.note_eviction(error)
            # Cut, not ended: a client must not take what it has for the whole.
            raise ConnectionBroken(error.message) from bare(error)
        finally:
            # A reader that left before its end keeps its place: it may come back to it.
            subscriber.close(keep_place=not finished)

    def _head_fields(self, session: Session, subscriber: Subscriber) -> Fields:
        """All response fields. Held by nobody: a stream may live for hours after them."""
        used, capacity = subscriber.window
        fields = self._fields(
            capacity=capacity,
            used=used,
            session_id=session.session_id,
            request_id=subscriber.spec.request_id or self.call.request_id,
        )
        return self.call.fields(*fields)

    def _fields(self, **window: Any) -> Fields:
        """The response fields, but for CORS; ``window`` is what `wish_fields` wants."""
        stream, framing = self.mesh.config.stream, self.encoder.framing
        fields = [(b"content-type", MEDIA_TYPES[framing]), *STREAM_FIELDS]
        if self.gzip is not None:
            fields.append((b"content-encoding", b"gzip"))
        if stream.general.enable_compression:
            fields.append((b"vary", b"Accept-Encoding"))
        custom = stream.sse.custom_headers if framing == "sse" else ()
        return [
            *fields,
            *wish_fields(self.wishes, **window),
            *((name.lower().encode(), value.encode()) for name, value in custom),
        ]
