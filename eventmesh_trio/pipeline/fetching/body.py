"""One response body: received, decoded and judged piece by piece, within its limits."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from io import BytesIO
from typing import Final

import attrs
import httpcore2
import trio

from eventmesh_trio.abc import Fields
from eventmesh_trio.errors import FetchTimeout, TooLarge, UnsupportedContent
from eventmesh_trio.pipeline.fetching.codings import BodyDecoder, parse_codings
from eventmesh_trio.pipeline.fetching.content_types import is_readable, looks_binary
from eventmesh_trio.pipeline.fetching.decode_turn import DecodeTurn

__all__ = ["BodyLimits", "BodyReader"]

_SNIFF_BYTES: Final = 512
_PARSE_SECONDS: Final = 0.002  # how long chunks are taken apart without letting other tasks run


@attrs.frozen
class BodyLimits:
    """What one body may be."""

    max_body_bytes: int  # as received
    max_decoded_bytes: int  # out of each content coding
    cut: bool = False  # what is over ``max_body_bytes`` is cut off, not refused
    any_type: bool = False


class BodyReader:
    """Reads one body. ``wire_bytes`` is what was received of it, however it ended.

    Args:
      turn: shared with the bodies that are read beside it.
    """

    def __init__(self, turn: DecodeTurn | None = None) -> None:
        self.wire_bytes = 0
        self._turn = turn or DecodeTurn()
        self._since = time.perf_counter()

    async def read(
        self, response: httpcore2.Response, fields: Fields, content_type: str, limits: BodyLimits
    ) -> bytes:
        """The body without its content codings.

        Raises:
          UnsupportedContent: by its type, its coding, or its first bytes; as early as it is known.
          TooLarge: over a limit; as early as it is known.
          NetworkFailure: it ended before its coding did.
          httpcore2.ProtocolError, httpcore2.NetworkError, FetchTimeout: as the connection says.
        """
        readable = True if limits.any_type else is_readable(content_type)
        if readable is False:
            kind = content_type.partition(";")[0].strip()[:64]
            raise UnsupportedContent(
                f"content of the type {kind!r} is not read", context={"content_type": kind}
            )
        if not limits.cut and _declared(fields) > limits.max_body_bytes:
            raise _too_large(limits)
        codings = parse_codings(fields)
        decoder = BodyDecoder(codings, max_decoded_bytes=limits.max_decoded_bytes)
        body = BytesIO()  # its value is no copy, as the bytes of a bytearray would be
        sniffed = readable is True
        async with _chunks(response) as chunks:
            async for chunk in chunks:
                self.wire_bytes += len(chunk)
                if self.wire_bytes > limits.max_body_bytes and not limits.cut:
                    raise _too_large(limits)
                if not codings:
                    body.write(chunk)  # that takes no time, and so no turn
                else:
                    async with self._turn.held():
                        for piece in decoder.decode(chunk):
                            body.write(piece)
                            await self._turn.pause()
                            if limits.cut and body.tell() >= limits.max_body_bytes:
                                return body.getvalue()[: limits.max_body_bytes]
                if limits.cut and self.wire_bytes >= limits.max_body_bytes:
                    return body.getvalue()[: limits.max_body_bytes]
                if not sniffed and body.tell() >= _SNIFF_BYTES:
                    _sniff(body)
                    sniffed = True
                await self._let_others_run()
        decoder.finish()
        if not sniffed:
            _sniff(body)
        return body.getvalue()

    async def discard(self, response: httpcore2.Response, max_bytes: int) -> None:
        """Read a body that nobody wants, so that its connection can serve again; give up early.

        However it ends is fine: what was not read to its end, the connection is closed for.
        """
        try:
            async with _chunks(response) as chunks:
                async for chunk in chunks:
                    self.wire_bytes += len(chunk)
                    if self.wire_bytes > max_bytes:
                        break
                    await self._let_others_run()
        except (httpcore2.ProtocolError, httpcore2.NetworkError, FetchTimeout, TooLarge):
            await trio.lowlevel.checkpoint()

    async def _let_others_run(self) -> None:  # noqa: ASYNC910  # only when it is time to
        # Not only decoding takes time: one read may bring ten thousand chunks of a byte each.
        if time.perf_counter() - self._since > _PARSE_SECONDS:
            await trio.lowlevel.checkpoint()
            self._since = time.perf_counter()


def _chunks(
    response: httpcore2.Response,
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """The pieces as the connection has them; `Response.aiter_stream` is two generators around."""
    assert isinstance(response.stream, AsyncIterable)
    chunks = aiter(response.stream)
    return aclosing(chunks) if isinstance(chunks, AsyncGenerator) else nullcontext(chunks)


def _declared(fields: Fields) -> int:
    return max([int(value) for name, value in fields if name == b"content-length"], default=0)


def _sniff(body: BytesIO) -> None:
    with body.getbuffer() as view:
        beginning = bytes(view[: 4 * _SNIFF_BYTES])
    if looks_binary(beginning):
        raise UnsupportedContent("the content has no type and is not text")


def _too_large(limits: BodyLimits) -> TooLarge:
    return TooLarge(
        f"the body is larger than {limits.max_body_bytes} bytes",
        context={"limit_bytes": limits.max_body_bytes},
    )
