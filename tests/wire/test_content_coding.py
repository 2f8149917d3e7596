"""gzip for streams: every batch can be read when it is written, and memory is what was promised."""

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.wire.content_coding import GzipEncoder, GzipSize, gzip_size

batches = st.lists(st.binary(max_size=300) | st.text("ab ", max_size=5000).map(str.encode))


@given(batches, st.sampled_from([16_384, 32_768, 65_536, 131_072, 262_144]), st.data())
def test_each_batch_can_be_read_whole_when_it_was_flushed(
    sent: list[bytes], max_memory_bytes: int, data: st.DataObject
) -> None:
    size = gzip_size(max_memory_bytes)
    assert size is not None
    encoder, reader = GzipEncoder(size), zlib.decompressobj(31)
    for batch in sent:
        cut = data.draw(st.integers(0, len(batch)))
        wire = encoder.compress(batch[:cut]) + encoder.compress(memoryview(batch)[cut:])
        assert reader.decompress(wire + encoder.flush()) == batch
    assert reader.decompress(encoder.end()) == b""
    assert reader.eof


def test_a_stream_that_was_cut_cannot_be_taken_for_a_whole_one() -> None:
    encoder, reader = GzipEncoder(GzipSize(12, 5)), zlib.decompressobj(31)
    assert reader.decompress(encoder.compress(b"half") + encoder.flush()) == b"half"
    assert not reader.eof


@pytest.mark.parametrize(
    ("max_memory_bytes", "size"),
    [
        (4096, None),
        (16_383, None),
        (16_384, GzipSize(9, 1)),
        (32_768, GzipSize(11, 3)),
        (65_536, GzipSize(12, 5)),
        (131_072, GzipSize(13, 6)),
        (262_144, GzipSize(14, 7)),
        (1 << 20, GzipSize(15, 8)),
    ],
)
def test_an_encoder_takes_eleven_sixteenths_of_a_connections_memory_at_most(
    max_memory_bytes: int, size: GzipSize | None
) -> None:
    assert gzip_size(max_memory_bytes) == size
    if size is not None:
        assert size.memory_bytes * 16 <= max_memory_bytes * 11


@pytest.mark.parametrize("max_memory_bytes", [16_384, 32_768, 65_536, 131_072, 262_144])
def test_an_encoder_holds_no_more_than_its_size_says(max_memory_bytes: int) -> None:
    size = gzip_size(max_memory_bytes)
    assert size is not None
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        encoder = GzipEncoder(size)
        for _ in range(3):
            encoder.compress(bytes(range(256)) * 1000)
            encoder.flush()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"{size}: {held} bytes")
    assert size.memory_bytes / 2 < held <= size.memory_bytes


def test_events_that_resemble_each_other_shrink_most() -> None:
    event = b'{"event":"progress","completed":%d,"total":1000,"current_url":"http://e.org/%d"}\n'
    size = gzip_size(65_536)
    assert size is not None
    encoder = GzipEncoder(size)
    plain = coded = 0
    for number in range(1000):
        batch = event % (number, number)
        plain += len(batch)
        coded += len(encoder.compress(batch) + encoder.flush())
    assert coded * 2 < plain
