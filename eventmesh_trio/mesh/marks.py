"""`Marks`: which state of each run's progress one reader was told of, and when it is told next."""

from math import inf

import attrs

from eventmesh_trio.mesh.flow import Track

__all__ = ["Marks"]


@attrs.define
class _Mark:
    version: int = 0
    told_at: float = -inf
    due: float = -inf


class Marks:
    """Kept by a reader; a run is remembered from its first progress to its summary."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        # None where there are none: an empty dict takes 64 bytes of each idle stream.
        self._marks: dict[Track, _Mark] | None = None

    def is_news(self, track: Track) -> bool:
        """Whether the run has gone on since the reader was told."""
        mark = self._marks.get(track) if self._marks else None
        return mark is None or mark.version != track.version

    def told_at(self, track: Track) -> float:
        """When the reader was last told of the run; minus infinity: never."""
        mark = self._marks.get(track) if self._marks else None
        return -inf if mark is None else mark.told_at

    def due(self, track: Track) -> float:
        """When it is the reader's turn to be told again; minus infinity: it was never told."""
        mark = self._marks.get(track) if self._marks else None
        return -inf if mark is None else mark.due

    def note(self, track: Track, now: float, due: float) -> int:
        """The reader is told of the newest state; how many before it were skipped."""
        if self._marks is None:
            self._marks = {}
        mark = self._marks.setdefault(track, _Mark())
        skipped = max(0, track.version - mark.version - 1)
        mark.version, mark.told_at, mark.due = track.version, now, due
        return skipped

    def forget(self, track: Track) -> None:
        """The run's summary was handed out."""
        if self._marks is not None:
            self._marks.pop(track, None)
            self._marks = self._marks or None
