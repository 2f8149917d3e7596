"""What the demo shows: a line a page on stdout, how far it is on stderr."""

import sys
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventmesh_trio.wire.events import PageResult, Summary

__all__ = ["Display", "page_line", "summary_lines"]

_REFRESH_SECONDS: Final = 0.1
_PLAIN_SECONDS: Final = 1.0


class Display:
    """A live bar where stderr is a terminal, now and then a plain line where it is not.

    It has no thread: `animate` is its only task, and whoever opens it starts that.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._completed = 0
        self._said = 0  # of those, by a plain line
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[url]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("crawling", total=total, url="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        elif self._completed != self._said:
            self._say()

    async def animate(self) -> None:
        """Redraw, or say where we are, until cancelled."""
        while True:
            if self._console.is_terminal:
                self._bar.refresh()
                await trio.sleep(_REFRESH_SECONDS)
            else:
                await trio.sleep(_PLAIN_SECONDS)
                self._say()

    def _say(self) -> None:
        self._said = self._completed
        self._console.print(f"{self._completed} of {self._total} pages", highlight=False)

    def line(self, text: str) -> None:
        """Write a line to stdout; where both are one terminal, above the bar."""
        if self._console.is_terminal and sys.stdout.isatty():
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            # Blocks where nobody reads the pipe. A demo's lines are few enough for its buffer.
            print(text, flush=True)

    def advance(self, completed: int, url: str) -> None:
        self._completed = completed
        self._bar.update(self._task, completed=completed, url=urlsplit(url).path)


def page_line(result: PageResult) -> str:
    """One page as one line: status, words, milliseconds, path, and its title or what went wrong."""
    split = urlsplit(result.url)
    path = f"{split.path}?{split.query}" if split.query else split.path
    document = result.document
    words = f"{document.word_count:>6} words" if document else " " * 12
    if result.error is not None:
        said = f"{result.error.type}: {result.error.message}"
    else:
        said = (document.title if document else "") or "(no title)"
    if result.gate_decision == "headless":
        said += " (built by a script: needs a browser)"
    if result.from_cache:
        said += " (cached)"
    status = result.status or "-"  # none: nothing was fetched
    return f"{status:>3} {words} {result.processing_time_ms:>6} ms  {path:<27} {said}"


def summary_lines(summary: Summary) -> tuple[str, ...]:
    """The end of a crawl in two or three lines."""
    seconds = summary.total_time_ms / 1000
    performance = summary.performance_summary
    lines = [
        f"{summary.status}: {summary.total_urls} pages, {summary.successful} fine, "
        f"{summary.failed} failed, {summary.cancelled} cancelled, {summary.from_cache} from cache",
        f"in {seconds:.2f} s, {performance.throughput_per_second:.1f} pages/s, "
        f"{performance.total_bytes_transferred / 1024:.0f} KiB received (compressed); "
        f"a page took {performance.fastest_processing_ms} to "
        f"{performance.slowest_processing_ms} ms",
    ]
    if summary.error_analysis.error_types:
        kinds = summary.error_analysis.error_types.items()
        lines.append("errors: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds)))
    return tuple(lines)
