"""One server as a client sees it: how to reach it, and one request to it at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import trio

from eventmesh_trio.client.address import Address
from eventmesh_trio.client.connection import OpenStream, Response, connect, request
from eventmesh_trio.client.limits import ClientLimits
from eventmesh_trio.client.refusal import error_from_response
from eventmesh_trio.errors import (
    ConnectionBroken,
    EventMeshError,
    LocalProtocolError,
    RemoteProtocolError,
    ValidationError,
)
from eventmesh_trio.wire.codec import decode_json

__all__ = ["Endpoint", "convert"]

T = TypeVar("T")


class Endpoint:
    """An address, how it is dialled, and the fields of each request.

    Any number of tasks may use it. After `close` every call raises `LocalProtocolError`.
    """

    def __init__(
        self,
        address: Address,
        open_stream: OpenStream,
        limits: ClientLimits,
        fields: Sequence[tuple[str, str]],
    ) -> None:
        self.address = address
        self.limits = limits
        self.fields = tuple(fields)
        self._open_stream = open_stream
        self._closed = False

    def close(self) -> None:
        self._closed = True

    async def connect(self) -> trio.abc.Stream:
        """A new connection. Raises `ConnectFailed`, `TLSFailure`; cancellation closes it."""
        if self._closed:
            raise LocalProtocolError("this client is closed")
        return await connect(self._open_stream, self.address, self.limits)

    async def request(
        self,
        method: str,
        target: str,
        fields: Sequence[tuple[str, str]],
        body: bytes = b"",
        stream: trio.abc.Stream | None = None,
    ) -> Response:
        """Send a request on a connection of its own; the response's head has come.

        Args:
          stream: the connection, where it is made already.
        Raises what `connect` raises; ConnectionBroken, RemoteProtocolError.
        """
        return await request(
            await self.connect() if stream is None else stream,
            self.address,
            method,
            target,
            fields=[*self.fields, *fields],
            body=body,
            limits=self.limits,
        )

    async def call(self, method: str, target: str) -> Mapping[str, Any]:
        """A request that is answered with a JSON object, within ``response_seconds``.

        Raises what `request` raises, and the error that the server answered with.
        """
        with trio.move_on_after(self.limits.response_seconds):
            response = await self.request(method, target, [("Accept", "application/json")])
            try:
                if response.status != 200:
                    raise await self.refusal(response)
                body = await response.read(self.limits.max_response_bytes)
            finally:
                await response.aclose()
            try:
                document = decode_json(body)
            except ValidationError as error:
                raise RemoteProtocolError(f"the answer is {error.message}") from error
            if not isinstance(document, dict):
                raise RemoteProtocolError("the answer is no JSON object")
            return document
        raise ConnectionBroken(f"no answer within {self.limits.response_seconds:g} s")

    async def refusal(self, response: Response) -> EventMeshError:
        """Read a response that is not the one hoped for, as the error that it stands for."""
        body = await response.read(self.limits.max_response_bytes)
        return error_from_response(
            response.status, body, retry_after=response.field(b"retry-after")
        )


def convert(document: Any, expected: type[T]) -> T:
    """A decoded document as a struct. Raises `RemoteProtocolError` if it is of another shape."""
    try:
        return msgspec.convert(document, expected)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"the answer is of another shape: {error}") from error
