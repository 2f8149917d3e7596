"""What a silent stream costs the server."""

import os
from functools import partial

import pytest

from benchmarks.contestants import OURS
from benchmarks.idle import attached_streams, measure

STREAMS = 1_100


@pytest.mark.slow
@pytest.mark.parametrize(("framing", "allowed"), [("sse", 14_000), ("websocket", 19_000)])
def test_a_silent_stream_of_a_quiet_session_costs_little_memory(framing: str, allowed: int) -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("resident memory is read from procfs")
    held = measure(OURS, STREAMS, partial(attached_streams, framing=framing))
    assert held.stream_bytes <= allowed, f"{held.stream_bytes:,.0f} bytes for each stream"
