"""What a process holds when it has nothing to do, to be compared with what it held before."""

import gc
import os
import sys
import threading
from collections import Counter

import attrs
import trio
from trio._core import _run  # no public name: see `Held.measure`

from tests.helpers.processes import resident_bytes

__all__ = ["Held", "newest_of", "threads_end"]


@attrs.frozen
class Held:
    """What a process holds when it has nothing to do."""

    objects: Counter[str]
    blocks: int  # of Python's own memory: what the collector does not track, as strings, is in them
    resident: int
    tasks: int
    descriptors: int

    @classmethod
    def measure(cls) -> "Held":
        # Trio drops the deadlines of scopes that were left only now and then, a thousand at once.
        _run.GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
        for _ in range(3):
            gc.collect()
        objects = Counter(
            f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects()
        )
        return cls(
            objects=objects,
            blocks=sys.getallocatedblocks(),
            resident=resident_bytes("self"),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            descriptors=len(os.listdir("/proc/self/fd")),
        )

    def grown(self, before: "Held") -> dict[str, tuple[int, int]]:
        """The types of which there are more than before."""
        return {
            name: (before.objects[name], count)
            for name, count in self.objects.items()
            if count > before.objects[name]
        }


def newest_of(name: str, most: int = 3) -> list[str]:
    """The last objects of a type that outlived a collection: what a message of a leak shows."""
    found = [
        thing
        for thing in gc.get_objects()
        if f"{type(thing).__module__}.{type(thing).__qualname__}" == name
    ]
    return [repr(thing)[:300] for thing in found[-most:]]


async def threads_end() -> None:
    """Trio keeps a thread for ten seconds after its last use, such as starting a worker anew."""
    with trio.fail_after(30):
        while any("rio thread" in thread.name for thread in threading.enumerate()):
            await trio.sleep(0.1)
