"""How far a crawl is: a bar on stderr, and only where that is a terminal."""

import sys
from types import TracebackType
from typing import Final, Self

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventmesh_trio.wire import events

__all__ = ["Bar", "ProgressBar"]

_REFRESH_SECONDS: Final = 0.1


class Bar:
    """The bar itself. It has no thread and no timer: `refresh` draws it.

    Everything but `say` does nothing where stderr is no terminal; ``is_drawn`` tells which it is.
    """

    def __init__(self, total: int) -> None:
        # Asked here: rich takes anything for a terminal where FORCE_COLOR is set.
        self._console = Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("crawling", total=total, note="")
        self.is_drawn = self._console.is_terminal

    def __enter__(self) -> Self:
        if self.is_drawn:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_drawn:
            self._progress.stop()

    def advance(self, completed: int, note: str = "") -> None:
        """Move on; ``note`` stands behind the bar."""
        self._progress.update(self._task, completed=completed, note=note)

    def expect(self, total: int) -> None:
        """Say how many there are, where that was not known at first."""
        self._progress.update(self._task, total=total)

    def refresh(self) -> None:
        if self.is_drawn:
            self._progress.refresh()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one. It stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class ProgressBar(Bar):
    """The bar of ``eventmesh crawl``: drawn by whoever shows it events."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._drawn_at = float("-inf")
        self._crawled = 0  # of a search, whose results do not count themselves

    def show(self, event: events.Event) -> None:
        """Move on by a result; a summary is printed, and stays."""
        if not self.is_drawn:
            return
        if isinstance(event, events.Result):
            self.advance(event.progress.completed)
        elif isinstance(event, events.CrawlStart):
            self.expect(event.total_urls)
        elif isinstance(event, events.SearchResult):
            self._crawled += 1
            self.advance(self._crawled)
        elif isinstance(event, events.Summary):
            self.advance(event.successful + event.failed)
            self.say(
                f"{event.status}: {event.successful} fine, {event.failed} failed, "
                f"{event.cancelled} cancelled, {event.total_time_ms / 1000:.1f} s"
            )
        now = trio.current_time()
        if now - self._drawn_at >= _REFRESH_SECONDS:
            self._drawn_at = now
            self.refresh()
