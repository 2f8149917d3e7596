"""`Shares`: batches as they were written to one reader, for the next one at the same place."""

from typing import Final, NamedTuple

from eventmesh_trio.abc import Encoder
from eventmesh_trio.mesh.flow import Track
from eventmesh_trio.mesh.reader import Batch

__all__ = ["LEAST_SHARED", "Share", "Shares", "Step"]

LEAST_SHARED: Final = 2
"""Fewer pieces are one already."""
_MOST_BYTES: Final = 512 * 1024
"""Half of a window: readers that keep up stand within that."""
_MOST_STEPS: Final = 8
"""Readers that keep up stand at one place or two, those of a run that waits for them at a few."""
_MOST_ALONE_BYTES: Final = 64 * 1024
"""Of a step that is no share, for the log may forget its events' bytes sooner than this does: it is
one event, or its messages are not joined."""


class Share(NamedTuple):
    """``taken`` events in one piece; ``shown`` of them are in it."""

    data: bytes
    taken: int
    shown: int


class Step(NamedTuple):
    """A whole batch that was a run's events alone, for whoever stands just before ``start``.

    ``taken`` logged events of ``track``, which weigh ``weight``.
    """

    start: int
    taken: int
    weight: int
    track: Track
    batch: Batch


class Shares:
    """What readers of one log have been written lately, by encoder and first sequence number.

    Readers of one run wake together and stand at the same places. To pick out, measure and join the
    same pieces for each of them was a third of what a batch costs where there are fifty.

    ``nbytes``: what is kept; the oldest goes where it would be more than half a mebibyte.
    ``steps``: the last batches that readers took, where the next may take them as they are. They
    consist of what is kept here, or of at most 64 KiB of single events' bytes, which the log keeps.
    """

    __slots__ = ("_kept", "nbytes", "steps")

    def __init__(self) -> None:
        self._kept: dict[tuple[Encoder, int], Share] = {}
        self.steps: dict[tuple[Encoder, int], Step] = {}
        self.nbytes = 0

    def find(self, encoder: Encoder, start: int) -> Share | None:
        """The events from ``start`` on, as many as some reader took."""
        return self._kept.get((encoder, start))

    def keep(self, encoder: Encoder, start: int, share: Share) -> None:
        """Keep a batch for the next reader; in place of an older one from the same event on."""
        old = self._kept.pop((encoder, start), None)
        if old is not None:
            self.nbytes -= len(old.data)
            self.steps.pop((encoder, start), None)
        self._kept[encoder, start] = share
        self.nbytes += len(share.data)
        while self.nbytes > _MOST_BYTES:
            oldest = next(iter(self._kept))
            self.nbytes -= len(self._kept.pop(oldest).data)
            self.steps.pop(oldest, None)

    def keep_step(self, encoder: Encoder, step: Step) -> None:
        """Keep a whole batch for who stands before it; in place of the oldest."""
        alone = step.taken == 1 or not encoder.joins
        if alone and step.batch.nbytes > _MOST_ALONE_BYTES:
            return
        if not alone and (encoder, step.start) not in self._kept:
            return  # it was too large to be kept
        self.steps[encoder, step.start] = step
        if len(self.steps) > _MOST_STEPS:
            del self.steps[next(iter(self.steps))]

    def clear(self) -> None:
        self._kept.clear()
        self.steps.clear()
        self.nbytes = 0
