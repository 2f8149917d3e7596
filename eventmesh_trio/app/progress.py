"""The progress bar of ``eventmesh crawl``: on stderr, and only where that is a terminal."""

from types import TracebackType
from typing import Final, Self

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventmesh_trio.wire import events

__all__ = ["ProgressBar"]

_REFRESH_SECONDS: Final = 0.1


class ProgressBar:
    """Drawn by whoever shows it events: it has no thread and no timer of its own."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("crawling", total=total)
        self._drawn_at = float("-inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, event: events.Event) -> None:
        """Move on by a result; a summary is printed, and stays."""
        if not self._console.is_terminal:
            return
        if isinstance(event, events.Result):
            self._progress.update(self._task, completed=event.progress.completed)
        elif isinstance(event, events.Summary):
            self._progress.update(self._task, completed=event.successful + event.failed)
            self._console.print(
                f"{event.status}: {event.successful} fine, {event.failed} failed, "
                f"{event.cancelled} cancelled, {event.total_time_ms / 1000:.1f} s",
                highlight=False,
            )
        now = trio.current_time()
        if now - self._drawn_at >= _REFRESH_SECONDS:
            self._drawn_at = now
            self._progress.refresh()
