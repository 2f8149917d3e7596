"""What a serving process sets for itself: each in a process of its own, for it cannot be undone."""

import subprocess
import sys

import pytest

from tests.helpers.programs import CHECKOUT

_GROWTH = """
import sys, threading

def mapped_mib():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmSize:")) / 1024

from eventmesh_trio.app.process import keep_little_free

if "kept" not in sys.argv:
    assert keep_little_free()
before = mapped_mib()
block = []
thread = threading.Thread(target=lambda: block.append(b"x" * 50_000))
thread.start()
thread.join()
print(mapped_mib() - before)
"""

_FAULTS = """
import resource
from benchmarks.synthetic import LARGE, MAKERS
from eventmesh_trio.app.process import keep_little_free
from eventmesh_trio.wire.encoders import EnvelopeEncoder

BATCHES = 100
assert keep_little_free()
events = [MAKERS[LARGE](index, 8, "r") for index in range(8)]
encode = EnvelopeEncoder("frame").encode_batch
for number in range(2 * BATCHES):
    if number == BATCHES:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    encode(events, 2**18)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / BATCHES)
"""


def printed(program: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_thread_of_a_serving_process_has_no_memory_of_its_own() -> None:
    assert printed(_GROWTH, "kept") >= 60  # what glibc maps for one by itself
    assert printed(_GROWTH) < 60


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_batch_of_large_events_is_encoded_in_memory_that_is_there() -> None:
    assert printed(_FAULTS) < 1  # new pages for each batch; they were 24
