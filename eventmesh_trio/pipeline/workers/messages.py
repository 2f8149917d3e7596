"""What a server and its extraction processes say to each other.

A frame is a 4-byte big-endian length and a msgpack array: of jobs on the way in, so that a frame
can carry several, and of answers on the way out. A module of its own, for the server speaks of jobs
and extracts nothing: without that it would hold 6 MB of modules that it never runs.
"""

import struct
from typing import Final, Literal

import msgspec

from eventmesh_trio.abc import Extraction
from eventmesh_trio.wire.requests import ExtractMode

__all__ = ["HEADER", "Answer", "ExtractJob", "FailureKind"]

HEADER: Final = struct.Struct(">I")

FailureKind = Literal["unsupported", "memory", "error"]


class ExtractJob(msgspec.Struct, frozen=True, array_like=True):
    job_id: int
    body: bytes
    url: str
    charset: str | None
    content_type: str
    mode: ExtractMode
    max_text_chars: int | None


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """Either an extraction, or why there is none; ``message`` is fit for the client to read."""

    job_id: int
    extraction: Extraction | None
    failure: FailureKind | None = None
    message: str = ""
