"""How long a run has worked: a clock that stands still while nobody works."""

from types import TracebackType

import trio

__all__ = ["Stopwatch"]


class Stopwatch:
    """Runs within its ``with`` blocks, which may lie in one another."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since = 0.0
        self._depth = 0

    @property
    def elapsed_seconds(self) -> float:
        """How long it has run, this moment included."""
        running = trio.current_time() - self._since if self._depth else 0.0
        return self._seconds + running

    def __enter__(self) -> None:
        if not self._depth:
            self._since = trio.current_time()
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._depth == 1:
            self._seconds = self.elapsed_seconds
        self._depth -= 1
