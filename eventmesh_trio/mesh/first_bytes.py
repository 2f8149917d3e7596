"""`FirstBytes`: how long each run took to its first event, where one connection asks for many."""

from collections.abc import Sequence

__all__ = ["FirstBytes"]


class FirstBytes:
    """Kept by a `Subscriber` whose client asks for runs on the connection that reads them.

    Times are those of `trio.current_time`. A run is remembered from the asking to its summary.
    """

    __slots__ = ("_asked_at", "_fresh", "_seconds")

    def __init__(self) -> None:
        self._asked_at: dict[str, float] = {}
        self._fresh: list[float] = []
        self._seconds: dict[str, float] = {}

    def note_asked(self, request_id: str, at: float) -> None:
        """The client asked for a run; its first event is still to come."""
        self._asked_at[request_id] = at

    def note_opened(self, request_id: str, now: float) -> None:
        """A run's first event is in the batch that is written next."""
        at = self._asked_at.pop(request_id, None)
        if at is not None:
            self._seconds[request_id] = now - at
            self._fresh.append(now - at)

    def take_fresh(self) -> Sequence[float]:
        """The seconds of each run that was opened since the last call."""
        if not self._fresh:
            return ()
        fresh, self._fresh = self._fresh, []
        return fresh

    def seconds(self, request_id: str) -> float | None:
        """From the asking to the first event; None where the run was not asked for here."""
        return self._seconds.get(request_id)

    def forget(self, request_id: str) -> None:
        """The run's summary is in the batch that is written next."""
        self._seconds.pop(request_id, None)
