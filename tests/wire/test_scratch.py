"""What batches are encoded in, and what is kept of it."""

import tracemalloc
from threading import Thread

import pytest

from eventmesh_trio.wire.codec import encode_json_lines, encode_json_parts
from eventmesh_trio.wire.scratch import Scratch, written

VALUES = [{"text": "x" * 1_400}] * 45


def test_batches_are_what_was_appended_whatever_was_written_before() -> None:
    scratch = Scratch()
    for size in (1, 70_000, 3, 200_000, 64_000, 64_000, 5, 0):
        buffer, start = scratch.begin()
        for at in range(size):
            buffer.append(at % 251)
        assert written(buffer, start) == bytes(at % 251 for at in range(size))


def test_a_batch_as_large_as_those_before_takes_no_new_memory_to_write_in() -> None:
    scratch = Scratch()
    taken = []
    for _ in range(12):
        buffer, start = scratch.begin()
        for _ in range(45):
            buffer += b"x" * 1_400
        taken.append((buffer.__alloc__(), start))
    assert len(set(taken[8:])) == 1


def test_memory_that_one_large_batch_needed_is_given_back() -> None:
    scratch = Scratch()
    buffer, _ = scratch.begin()
    buffer += bytes(20 * 2**20)
    buffer, start = scratch.begin()
    assert (buffer.__alloc__(), start) == (0, 0)


def test_each_thread_writes_in_its_own() -> None:
    scratch = Scratch()
    ours, start = scratch.begin()
    ours += b"ours"

    def write() -> None:
        theirs, _ = scratch.begin()
        theirs += b"theirs"

    thread = Thread(target=write)
    thread.start()
    thread.join()
    assert written(ours, start) == b"ours"


@pytest.mark.parametrize("framing", ["lines", "parts"])
def test_a_batch_that_is_kept_holds_no_more_memory_than_it_fills(framing: str) -> None:
    def encode() -> bytes:
        if framing == "lines":
            return encode_json_lines(VALUES)[0]
        return encode_json_parts(VALUES, [b"data: "] * len(VALUES), b"\n\n")[0]

    for _ in range(12):  # until what is written in is large enough
        encode()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = encode()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(kept) <= held <= len(kept) + 1_000
