"""Content codings: they are removed, and a small body never becomes a large one."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from eventmesh_trio.errors import NetworkFailure, TooLarge, UnsupportedContent
from eventmesh_trio.pipeline.fetching.codings import (
    MAX_CODINGS,
    MAX_MEMBERS,
    BodyDecoder,
    parse_codings,
)

MIB = 1024 * 1024
Encode = Callable[[bytes], bytes]


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def zstd_unsized(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(data)


ENCODERS: dict[str, tuple[str, Encode]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", raw_deflate),
    "br": ("br", lambda data: bytes(brotli.compress(data, quality=5))),
    "zstd": ("zstd", zstandard.compress),
    "zstd of unknown size": ("zstd", zstd_unsized),
    "gzip in two members": (
        "gzip",
        lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    ),
    "zstd in two frames": (
        "zstd",
        lambda data: zstandard.compress(data[:7]) + zstd_unsized(data[7:]),
    ),
}


def decode(codings: Sequence[str], pieces: Sequence[bytes], limit: int = 10 * MIB) -> bytes:
    decoder = BodyDecoder(codings, max_decoded_bytes=limit)
    body = b"".join(out for piece in pieces for out in decoder.decode(piece))
    decoder.finish()
    return body


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("name", ENCODERS)
@given(
    text=st.binary(max_size=5000),
    repeats=st.sampled_from([1, 2, 100]),
    size=st.sampled_from([1, 2, 3, 63, 64, 65, 1000, 65536]),
)
def test_what_was_coded_comes_back_however_it_is_cut(
    name: str, text: bytes, repeats: int, size: int
) -> None:
    coding, encode = ENCODERS[name]
    data = text * repeats
    wire = encode(data)
    assert decode([coding], cut(wire, max(size, len(wire) // 500))) == data


@pytest.mark.parametrize("name", ENCODERS)
@given(length=st.integers(0, 400_000), size=st.sampled_from([1, 100, 65536]))
@example(length=65537, size=100)  # one byte more than a piece, and no input left
def test_long_runs_of_one_byte_come_back_whole(name: str, length: int, size: int) -> None:
    coding, encode = ENCODERS[name]
    wire = encode(bytes(length))
    body = decode([coding], cut(wire, size))
    # Not compared as bytes: a failure would print them.
    assert len(body) == length
    assert not body.strip(b"\0")


@given(
    data=st.binary(max_size=3000),
    names=st.lists(st.sampled_from(sorted(ENCODERS)), min_size=1, max_size=MAX_CODINGS),
)
def test_nested_codings_are_removed_in_reverse(data: bytes, names: list[str]) -> None:
    wire = data
    for name in names:
        wire = ENCODERS[name][1](wire)
    assert decode([ENCODERS[name][0] for name in names], cut(wire, 700)) == data


@given(codings=st.sampled_from(["gzip", "deflate", "br", "zstd"]), data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_as_documented(codings: str, data: bytes) -> None:
    with suppress(UnsupportedContent, NetworkFailure):
        decode([codings], [data])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_body_that_ends_within_its_coding_is_not_whole(name: str) -> None:
    coding, encode = ENCODERS[name]
    wire = encode(b"some text that is long enough to be cut short " * 50)
    for length in (1, len(wire) // 2, len(wire) - 1):
        with pytest.raises(NetworkFailure, match="ended before"):
            decode([coding], [wire[:length]])


def test_an_empty_body_is_whole_in_any_coding() -> None:
    assert decode(["gzip", "br"], []) == b""
    assert decode(["zstd"], [b""]) == b""


def test_padding_after_gzip_is_ignored() -> None:
    wire = gzip.compress(b"text") + b"\0" * 100
    assert decode(["gzip"], cut(wire, 10)) == b"text"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_plain_text_under_a_coding_is_refused(coding: str) -> None:
    with pytest.raises((UnsupportedContent, NetworkFailure)):
        decode([coding], [b"<!doctype html><title>not coded at all</title>"])


# --- bombs ----------------------------------------------------------------------------------------

ZEROES = bytes(8 * MIB)


def gzip_bomb(mebibytes: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    parts = [compressor.compress(bytes(MIB)) for _ in range(mebibytes)]
    return b"".join(parts) + compressor.flush()


def zstd_bomb(mebibytes: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    parts = [compressor.compress(bytes(MIB)) for _ in range(mebibytes)]
    return b"".join(parts) + compressor.flush()


def brotli_bomb(mebibytes: int) -> bytes:
    compressor = brotli.Compressor(quality=5)
    parts = [compressor.process(bytes(MIB)) for _ in range(mebibytes)]
    return b"".join(parts) + bytes(compressor.finish())


def hollow_deflate(blocks: int) -> bytes:
    """Empty stored blocks of 5 bytes each, and nothing in them."""
    return (
        b"\x78\x9c" + b"\0\0\0\xff\xff" * blocks + b"\x03\0" + zlib.adler32(b"").to_bytes(4, "big")
    )


BOMBS: dict[str, tuple[list[str], Callable[[], bytes]]] = {
    "gzip": (["gzip"], lambda: gzip_bomb(200)),
    "deflate": (["deflate"], lambda: zlib.compress(bytes(200 * MIB), 9)),
    "br": (["br"], lambda: brotli_bomb(200)),
    "zstd": (["zstd"], lambda: zstd_bomb(200)),
    "gzip in gzip": (["gzip", "gzip"], lambda: gzip.compress(gzip_bomb(200))),
    "zstd in zstd": (["zstd", "zstd"], lambda: zstandard.compress(zstd_bomb(200))),
    "gzip in zstd in br": (
        ["gzip", "zstd", "br"],
        lambda: bytes(brotli.compress(zstandard.compress(gzip_bomb(200)))),
    ),
    # The innermost result is small; what lies between is not.
    "a wide middle": (["deflate", "zstd"], lambda: zstandard.compress(hollow_deflate(4 * MIB))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_little_memory_and_little_time(name: str) -> None:
    codings, build = BOMBS[name]
    wire = build()
    chunks = cut(wire, 65536)
    decoder = BodyDecoder(codings, max_decoded_bytes=10 * MIB)
    largest, longest = 0, 0.0
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge) as caught:  # noqa: PT012
            for chunk in chunks:
                since = time.perf_counter()
                for piece in decoder.decode(chunk):
                    largest = max(largest, len(piece))
                    longest = max(longest, time.perf_counter() - since)
                    since = time.perf_counter()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.context == {"limit_bytes": 10 * MIB}
    assert largest <= 65536
    assert peak < 8 * MIB, f"{peak} bytes held"
    assert longest < 0.5, f"{longest} s without a pause"


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("zstd", zstandard.compress)]
)
def test_a_body_of_countless_small_parts_is_refused(coding: str, encode: Encode) -> None:
    assert len(decode([coding], [encode(b"x") * MAX_MEMBERS])) == MAX_MEMBERS
    with pytest.raises(UnsupportedContent, match="too many"):
        decode([coding], [encode(b"x") * (MAX_MEMBERS + 1)])


def test_a_zstd_window_larger_than_the_web_allows_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    wire = compressor.compress(bytes(40 * MIB)) + compressor.flush()
    with pytest.raises(UnsupportedContent):
        decode(["zstd"], [wire], limit=100 * MIB)


def test_a_body_of_just_the_limit_passes() -> None:
    for coding, encode in ENCODERS.values():
        wire = encode(ZEROES[:MIB])
        assert len(decode([coding], cut(wire, 5000), limit=MIB)) == MIB
        with pytest.raises(TooLarge):
            decode([coding], cut(wire, 5000), limit=MIB - 1)


# --- the field ------------------------------------------------------------------------------------


def test_codings_are_read_in_any_spelling_and_over_several_fields() -> None:
    fields = [(b"content-encoding", b" GZIP ,identity"), (b"content-encoding", b"br,")]
    assert parse_codings(fields) == ("gzip", "br")
    assert parse_codings([]) == ()


@pytest.mark.parametrize("value", [b"compress", b"gzip, aes128gcm", b"gzip," * 5, b"x" * 1000])
def test_codings_that_we_do_not_read_are_refused(value: bytes) -> None:
    with pytest.raises(UnsupportedContent):
        parse_codings([(b"content-encoding", value)])
