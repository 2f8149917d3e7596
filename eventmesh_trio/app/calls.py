"""One request as a handler sees it: the exchange, its route's parameters, and how to answer."""

import uuid
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl

import attrs

from eventmesh_trio.abc import Exchange, Fields
from eventmesh_trio.app.routes import RouteTable
from eventmesh_trio.errors import (
    EventMeshError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationError,
)
from eventmesh_trio.wire.codec import decode_json, encode_json
from eventmesh_trio.wire.headers import cors_fields, parse_identifier
from eventmesh_trio.wire.problem import error_body, error_fields, error_status

__all__ = ["Call"]

_JSON: Final = (b"content-type", b"application/json")
_MAX_QUERY_FIELDS: Final = 64
_PLAIN: Final = (b"", b"identity")


@attrs.define(eq=False, slots=False)  # for cached_property
class Call:
    """``origins`` are those that may read responses; empty where CORS is switched off.

    ``before_end`` is called before the last bytes of a stream are written.
    """

    exchange: Exchange
    routes: RouteTable
    origins: Collection[str]
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    before_end: Callable[[], None] = lambda: None

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query's fields; of a repeated one the last.

        Raises:
          ValidationError: more than 64 of them.
        """
        text = self.exchange.request.query.decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            raise ValidationError(f"the query has more than {_MAX_QUERY_FIELDS} fields") from None
        return dict(pairs)

    @cached_property
    def request_id(self) -> str:
        """``X-Request-ID``, or one made here. Raises `ValidationError` for a malformed one."""
        given = self.exchange.request.field(b"x-request-id")
        if given is None:
            return f"req-{uuid.uuid4()}"
        return parse_identifier(given, "X-Request-ID")

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

    def fields(self, *more: tuple[bytes, bytes]) -> Fields:
        """Response fields: CORS, and ``more``."""
        return [*more, *cors_fields(self.origin, self.origins)]

    async def read_json(self, max_body_bytes: int) -> Any:
        """Read the whole body as JSON.

        Raises:
          UnsupportedMediaType, PayloadTooLarge, ValidationError; and what `receive_some` raises.
        """
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
        pieces: list[bytes] = []
        size = 0
        while piece := await self.exchange.receive_some():
            size += len(piece)
            if size > max_body_bytes:
                raise PayloadTooLarge(f"the body is over {max_body_bytes} bytes")
            pieces.append(piece)
        return decode_json(b"".join(pieces))

    async def send_json(self, body: object, status: int = 200, fields: Fields = ()) -> None:
        await self.exchange.send_response(
            status, self.fields(_JSON, *fields), encode_json(body) + b"\n"
        )

    async def send_error(self, error: EventMeshError) -> None:
        """Answer with the error's own status and its JSON object (``docs/wire.rst``, "Errors")."""
        try:
            request_id = self.request_id
        except ValidationError:
            request_id = f"req-{uuid.uuid4()}"
        fields = [*error_fields(error), (b"x-request-id", request_id.encode())]
        await self.exchange.send_response(
            error_status(error), self.fields(*fields), error_body(error, request_id)
        )
