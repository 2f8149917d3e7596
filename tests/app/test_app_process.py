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


def growth_mib(*arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _GROWTH, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_thread_of_a_serving_process_has_no_memory_of_its_own() -> None:
    assert growth_mib("kept") >= 60  # what glibc maps for one by itself
    assert growth_mib() < 60
