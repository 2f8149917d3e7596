"""One request as a handler sees it: the exchange, its route's parameters, and how to answer."""

from collections.abc import Callable, Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl

import attrs

from eventmesh_trio.abc import Exchange, Fields
from eventmesh_trio.app.routes import RouteTable
from eventmesh_trio.errors import (
    EventMeshError,
    ForbiddenError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationError,
)
from eventmesh_trio.wire.codec import encode_json
from eventmesh_trio.wire.headers import cors_fields, is_allowed_origin, parse_identifier
from eventmesh_trio.wire.identifiers import new_identifier
from eventmesh_trio.wire.problem import error_body, error_fields, error_status

__all__ = ["Call"]

_JSON: Final = (b"content-type", b"application/json")
_MAX_QUERY_FIELDS: Final = 64
_PLAIN: Final = (b"", b"identity")


@attrs.define(eq=False)
class Call:
    """``origins`` are those that may read responses; empty where CORS is switched off.

    ``before_end`` is called before the last bytes of a stream are written.
    """

    exchange: Exchange
    routes: RouteTable
    origins: Collection[str]
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    before_end: Callable[[], None] = lambda: None
    _query: Mapping[str, str] | None = attrs.field(default=None, init=False)
    _request_id: str | None = attrs.field(default=None, init=False)

    @property
    def query(self) -> Mapping[str, str]:
        """The query's fields; of a repeated one the last.

        Raises:
          ValidationError: more than 64 of them.
        """
        if self._query is None:
            self._query = self._read_query() if self.exchange.request.query else {}
        return self._query

    def _read_query(self) -> Mapping[str, str]:
        text = self.exchange.request.query.decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            raise ValidationError(f"the query has more than {_MAX_QUERY_FIELDS} fields") from None
        return dict(pairs)

    @property
    def request_id(self) -> str:
        """``X-Request-ID``, or one made here. Raises `ValidationError` for a malformed one."""
        if self._request_id is None:
            given = self.exchange.request.field(b"x-request-id")
            self._request_id = (
                new_identifier("req") if given is None else parse_identifier(given, "X-Request-ID")
            )
        return self._request_id

    @property
    def last_event_id(self) -> str | None:
        """Where the client wants to go on: the header, or ``last_event_id`` or ``after``.

        An empty one is none: what an `EventSource` holds before it has been given any.
        """
        given = self.exchange.request.field(b"last-event-id")
        if given:
            return given.decode("latin-1")
        return self.query.get("last_event_id") or self.query.get("after") or None

    @property
    def origin(self) -> bytes | None:
        return self.exchange.request.field(b"origin")

    def require_allowed_origin(self) -> None:
        """Let no page of another origin have something done here, unless ``origins`` allow it.

        A browser keeps such a page from reading the answer, not from asking, where the request
        needs no preflight (Fetch standard, "CORS-safelisted"): to cancel a run, or to crawl.

        Raises:
          ForbiddenError: it is not allowed, nor the origin that ``Host`` names.
        """
        origin = self.origin
        if origin is None or is_allowed_origin(origin, self.origins):
            return
        authority = origin.partition(b"://")[2].lower()  # none of "null"
        host = self.exchange.request.field(b"host")
        if not authority or host is None or authority != host.lower():
            raise ForbiddenError("pages of this origin may not ask for this here")

    def fields(self, *more: tuple[bytes, bytes]) -> Fields:
        """Response fields: CORS, and ``more``."""
        return [*more, *cors_fields(self.origin, self.origins)]

    def require_json(self) -> None:
        """Raises `UnsupportedMediaType`: the body is no plain JSON, by what its fields say."""
        media_type = self.exchange.request.field(b"content-type") or b"application/json"
        name = media_type.partition(b";")[0].strip().lower()
        if name != b"application/json" and not name.endswith(b"+json"):
            raise UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")
        for field_name, value in self.exchange.request.fields:
            if field_name == b"content-encoding" and value.strip().lower() not in _PLAIN:
                raise UnsupportedMediaType(
                    "send the body as it is, without a Content-Encoding",
                    accept_encoding="identity",
                )

    async def read_body(self, max_body_bytes: int) -> bytes:
        """Read the whole body. Raises `PayloadTooLarge`, and what `receive_some` raises."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.exchange.receive_some():
            size += len(piece)
            if size > max_body_bytes:
                raise PayloadTooLarge(f"the body is over {max_body_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def send_json(self, body: object, status: int = 200, fields: Fields = ()) -> None:
        await self.exchange.send_response(
            status, self.fields(_JSON, *fields), encode_json(body) + b"\n"
        )

    async def send_error(self, error: EventMeshError) -> None:
        """Answer with the error's own status and its JSON object (``docs/wire.rst``, "Errors")."""
        try:
            request_id = self.request_id
        except ValidationError:
            request_id = new_identifier("req")
        fields = [*error_fields(error), (b"x-request-id", request_id.encode())]
        await self.exchange.send_response(
            error_status(error), self.fields(*fields), error_body(error, request_id)
        )
