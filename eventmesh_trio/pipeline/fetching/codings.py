"""Content codings (RFC 9110, section 8.4): gzip, deflate, br, zstd, in any nesting, within a limit.

Everything here is synchronous and incremental: what comes out of one `BodyDecoder.decode` comes in
pieces, and nothing is ever larger than a piece, however small its input was.
"""

from __future__ import annotations  # zlib's class has a name in its stubs only

import zlib
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

from eventmesh_trio.errors import NetworkFailure, TooLarge, UnsupportedContent

__all__ = ["ACCEPT_ENCODING", "MAX_CODINGS", "MAX_MEMBERS", "BodyDecoder", "parse_codings"]

ACCEPT_ENCODING: Final = b"gzip, deflate, br, zstd"
MAX_CODINGS: Final = 4  # layers on one body; honest origins use one
MAX_MEMBERS: Final = 1024  # of one gzip or zstd body; each costs its own decoder, even if empty
_PIECE_BYTES: Final = 64 * 1024
_BROTLI_BYTES: Final = 16 * 1024  # within its first output block, of 32 KiB; more is overshot
_MAX_FIELD_CHARACTERS: Final = 256

# zstandard's push interface has no output limit. Its output is bounded by its input, though: a
# block has a header of 3 bytes and at least one of content, and holds at most 128 KiB (RFC 8878,
# section 3.1.1.2). So 64 bytes at a time cannot become more than 17 blocks, 2.1 MiB.
_ZSTD_FEED_BYTES: Final = 64
_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024  # what a decoder has to support, and no more: RFC 9659


class _Coding(Protocol):
    name: str

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The pieces that ``data`` leads to. Raises `ValueError` for what is not of this coding."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""
        ...


def parse_codings(fields: Sequence[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """The codings of a body, in the order in which they were applied; ``identity`` is left out.

    Raises:
      UnsupportedContent: one that we do not know, or more than `MAX_CODINGS`.
    """
    value = b",".join(value for name, value in fields if name == b"content-encoding")
    text = value.decode("latin-1").lower()
    if len(text) > _MAX_FIELD_CHARACTERS:
        raise UnsupportedContent("the response has too many content codings")
    names = [name for part in text.split(",") if (name := part.strip()) not in ("", "identity")]
    for name in names:
        if name not in _CODINGS:
            raise UnsupportedContent(f"the content coding {name[:32]!r} is not one that we read")
    if len(names) > MAX_CODINGS:
        raise UnsupportedContent(
            f"the body has {len(names)} content codings on each other; {MAX_CODINGS} are read"
        )
    return tuple(names)


class BodyDecoder:
    """Removes the codings of one body. Synchronous, not reusable.

    Args:
      codings: as `parse_codings` gives them.
      max_decoded_bytes: what comes out of each layer, the inner ones included.
    """

    def __init__(self, codings: Sequence[str], *, max_decoded_bytes: int) -> None:
        self._layers = [_CODINGS[name]() for name in reversed(codings)]
        self._decoded = [0] * len(self._layers)
        self._limit = max_decoded_bytes
        self._empty = True

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the body; exhaust the iterator before the next call.

        Some pieces are empty: each step between two of them is short, so a caller that yields to
        others now and then keeps them waiting for milliseconds only.

        Raises:
          TooLarge: a layer has grown over its limit.
          UnsupportedContent: the bytes are not what their coding should be.
        """
        if not data:
            return iter(())
        self._empty = False
        return self._through(0, data)

    def finish(self) -> None:
        """Say that the body is over.

        Raises:
          NetworkFailure: a layer is not. An empty body of any coding is fine.
        """
        if self._empty:
            return
        for layer in self._layers:
            if not layer.complete:
                raise NetworkFailure(f"the body ended before its {layer.name} coding did")

    def _through(self, index: int, data: bytes) -> Iterator[bytes]:
        if index == len(self._layers):
            yield data
            return
        layer = self._layers[index]
        pieces = layer.decode(data)
        while True:
            try:
                piece = next(pieces, None)
            except (ValueError, zlib.error, brotli.error, zstandard.ZstdError):
                raise UnsupportedContent(f"the body is not valid {layer.name}") from None
            if piece is None:
                return
            self._decoded[index] += len(piece)
            if self._decoded[index] > self._limit:
                raise TooLarge(
                    "the body is too large once its content coding is removed",
                    context={"limit_bytes": self._limit},
                )
            yield from self._through(index + 1, piece)
            yield b""


class _Gzip:
    """RFC 1952, several members too. What follows the last member is padding, and ignored."""

    name = "gzip"

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._members = 0
        self._started = False
        self._over = False

    @property
    def complete(self) -> bool:
        return self._over or (self._members > 0 and not self._started)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data and not self._over:
            if not self._started and self._members and data[0] != 0x1F:
                self._over = True
                return
            self._started = True
            if piece := self._member.decompress(data, _PIECE_BYTES):
                yield piece
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                self._members = _one_more(self._members)
                self._started = False
            else:
                data = self._member.unconsumed_tail


class _Deflate:
    """RFC 9110, section 8.4.1.2: zlib data; and bare deflate data, as some origins send."""

    name = "deflate"

    def __init__(self) -> None:
        self._head = b""
        self._decoder: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        return self._decoder is not None and self._decoder.eof

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            # RFC 1950: method 8, and a check of both bytes modulo 31.
            wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            self._head = b""
        while not self._decoder.eof:
            if piece := self._decoder.decompress(data, _PIECE_BYTES):
                yield piece
            data = self._decoder.unconsumed_tail
            # A full piece may have more behind it though all input is taken: bare deflate data has
            # no checksum at its end that would wait for its turn.
            if not data and len(piece) < _PIECE_BYTES:
                return


class _Brotli:
    """RFC 7932."""

    name = "br"

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    @property
    def complete(self) -> bool:
        return bool(self._decoder.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._decoder.is_finished():
            return
        piece = self._decoder.process(data, output_buffer_limit=_BROTLI_BYTES)
        # Not by `can_accept_more_data` alone: it may say so (1.2) while output is held back.
        while piece or not self._decoder.can_accept_more_data():
            if piece:
                yield piece
            if self._decoder.is_finished():
                return
            piece = self._decoder.process(b"", output_buffer_limit=_BROTLI_BYTES)


class _Zstandard:
    """RFC 8878, several frames too, in windows of at most 8 MiB (RFC 9659)."""

    name = "zstd"

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._frames = 0
        self._started = False

    @property
    def complete(self) -> bool:
        return self._frames > 0 and not self._started

    def decode(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        for start in range(0, len(data), _ZSTD_FEED_BYTES):
            rest = bytes(view[start : start + _ZSTD_FEED_BYTES])
            while rest:
                self._started = True
                decoded = self._frame.decompress(rest)
                for cut in range(0, len(decoded), _PIECE_BYTES):
                    yield decoded[cut : cut + _PIECE_BYTES]
                rest = b""
                if self._frame.eof:
                    rest = self._frame.unused_data
                    self._frame = self._decompressor.decompressobj()
                    self._frames = _one_more(self._frames)
                    self._started = False


def _one_more(members: int) -> int:
    if members >= MAX_MEMBERS:
        raise UnsupportedContent("the body is made of too many compressed parts")
    return members + 1


_CODINGS: Final[dict[str, type[_Coding]]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstandard,
}
