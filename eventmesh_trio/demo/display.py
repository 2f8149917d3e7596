"""What the demo shows: a line a page on stdout, how far it is on stderr."""

import sys
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

import trio

from eventmesh_trio.app.progress import Bar
from eventmesh_trio.wire.events import PageResult, Summary

__all__ = ["Display", "page_line", "summary_lines"]

_REFRESH_SECONDS: Final = 0.1
_PLAIN_SECONDS: Final = 1.0


class Display(Bar):
    """A live bar where stderr is a terminal, now and then a plain line where it is not.

    `animate` is its only task, and whoever opens it starts that.
    """

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._total = total
        self._completed = 0
        self._said = 0  # of those, by a plain line

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if not self.is_drawn and self._completed != self._said:
            self._say_completed()

    async def animate(self) -> None:
        """Redraw, or say where we are, until cancelled."""
        while True:
            if self.is_drawn:
                self.refresh()
                await trio.sleep(_REFRESH_SECONDS)
            else:
                await trio.sleep(_PLAIN_SECONDS)
                self._say_completed()

    def _say_completed(self) -> None:
        self._said = self._completed
        self.say(f"{self._completed} of {self._total} pages")

    def line(self, text: str) -> None:
        """Write a line to stdout; where both are one terminal, above the bar."""
        if self.is_drawn and sys.stdout is not None and sys.stdout.isatty():
            self.say(text)
        else:
            # Blocks where nobody reads the pipe. A demo's lines are few enough for its buffer.
            print(text, flush=True)

    def show_page(self, completed: int, url: str) -> None:
        """Move on, with the path of the page that was the last."""
        self._completed = completed
        self.advance(completed, urlsplit(url).path)


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
