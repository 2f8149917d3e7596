"""``eventmesh crawl`` and ``search``: in this process or on a server, as lines or as Markdown."""

import errno
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, Final, Protocol

import attrs
import click
import trio
from msgspec import UNSET

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.lifespan import open_mesh
from eventmesh_trio.app.output import drop_output, unwritable
from eventmesh_trio.app.progress import ProgressBar
from eventmesh_trio.client.client import open_client
from eventmesh_trio.errors import (
    ConfigError,
    ConnectionBroken,
    EventMeshError,
    NotFoundError,
    OverloadedError,
    TLSFailure,
    WebSocketClosed,
    leaves,
)
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.events import (
    ErrorInfo,
    Event,
    Result,
    SearchHit,
    SearchResult,
    SearchResults,
    Summary,
    UnknownEvent,
)

__all__ = ["run_crawl", "run_search"]

SOME_FAILED: Final = 1
WRONG_USAGE: Final = 2
NO_SERVER: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 128 + signal.SIGINT
PIPE_CLOSED: Final = 128 + signal.SIGPIPE
_GATEWAY: Final = (502, 504)
"""What a proxy answers when the server is away; 503 is the server's own word, too."""

_LINES: Final = HTTPEncoder("ndjson")


class Crawl(Protocol):
    """What the ways to crawl and to search have in common."""

    def __aiter__(self) -> "Crawl": ...

    async def __anext__(self) -> Event | UnknownEvent: ...

    async def cancel(self) -> None: ...


async def run_crawl(
    config: Config,
    urls: Sequence[str],
    *,
    server: str | None,
    output: Path | None,
    style: str,
    concurrency: int | None,
) -> int:
    """Crawl and write; returns the exit code. Cancelled: the crawl is cancelled too."""
    options = {} if concurrency is None else {"concurrency": concurrency}
    opening = (
        _crawl_here(config, urls, options)
        if server is None
        else _crawl_there(server, urls, options)
    )
    return await _write_run(opening, server, output, style, len(urls))


async def run_search(
    config: Config,
    query: str,
    *,
    limit: int,
    include_content: bool,
    country: str | None,
    locale: str | None,
    server: str | None,
    output: Path | None,
    style: str,
) -> int:
    """Search, crawl what is found, and write; otherwise as `run_crawl`."""
    options: dict[str, Any] = {
        "limit": limit,
        "include_content": include_content,
        "country": country,
        "locale": locale,
    }
    opening = (
        _search_here(config, query, options)
        if server is None
        else _search_there(server, query, options)
    )
    return await _write_run(opening, server, output, style, limit if include_content else 0)


async def _write_run(
    opening: AbstractAsyncContextManager[Crawl],
    server: str | None,
    output: Path | None,
    style: str,
    total: int,
) -> int:
    code = SOME_FAILED
    try:
        file = _open_output(output)
    except OSError as error:
        click.echo(f"eventmesh: {unwritable(error, output)}", err=True)
        return WRONG_USAGE
    try:
        with file:
            code = await _follow(opening, _STYLES[style], file, total)
    except* BrokenPipeError:
        drop_output()  # ``| head`` has what it wanted
        code = PIPE_CLOSED
    except* EventMeshError as group:
        failure = next(leaves(group))
        click.echo(f"eventmesh: {failure}", err=True)
        code = _code_of(failure, server)
    except* OSError as group:  # the output's, as when the disk is full
        failure = next(leaves(group))
        assert isinstance(failure, OSError)
        click.echo(f"eventmesh: {unwritable(failure, output)}", err=True)
        code = SOME_FAILED
    return code


def _code_of(error: BaseException, server: str | None) -> int:
    """What a failure says of itself in the exit code."""
    if isinstance(error, ConfigError):  # the server's URL; here, a browser that cannot be used
        return WRONG_USAGE
    if server is None:
        return SOME_FAILED
    lost = isinstance(error, (ConnectionBroken, TLSFailure, WebSocketClosed))
    by_proxy = isinstance(error, OverloadedError) and error.context.get("status") in _GATEWAY
    return NO_SERVER if lost or by_proxy else REFUSED


@asynccontextmanager
async def _crawl_here(
    config: Config, urls: Sequence[str], options: Mapping[str, int]
) -> AsyncIterator[Crawl]:
    async with open_mesh(config) as mesh, mesh.crawl(urls, **options) as stream:
        yield stream


@asynccontextmanager
async def _crawl_there(
    server: str, urls: Sequence[str], options: Mapping[str, int]
) -> AsyncIterator[Crawl]:
    async with (
        open_client(server) as client,
        client.crawl(urls, options=options) as stream,
    ):
        yield stream


@asynccontextmanager
async def _search_here(
    config: Config, query: str, options: Mapping[str, Any]
) -> AsyncIterator[Crawl]:
    async with open_mesh(config) as mesh, mesh.deepsearch(query, **options) as stream:
        yield stream


@asynccontextmanager
async def _search_there(
    server: str, query: str, options: Mapping[str, Any]
) -> AsyncIterator[Crawl]:
    async with open_client(server) as client, client.deepsearch(query, **options) as stream:
        yield stream


async def _follow(
    opening: AbstractAsyncContextManager[Crawl],
    style: "_Style",
    file: RawIOBase,
    total: int,
) -> int:
    interrupted = False
    stream: Crawl | None = None
    summary: Summary | None = None
    following = trio.CancelScope()

    async def watch_interrupt() -> None:
        nonlocal interrupted
        await anext(signals)
        interrupted = True
        if stream is None:  # the server has not answered yet
            nursery.cancel_scope.cancel()
            return
        # A task of its own: a server that does not answer must not hold up a second signal.
        nursery.start_soon(_cancel, stream)
        await anext(signals)
        following.cancel()

    try:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_interrupt)
                async with opening as stream:
                    with following, ProgressBar(total) as bar:
                        async for event in stream:
                            if isinstance(event, UnknownEvent):
                                continue
                            bar.show(event)
                            if not style.has_failures and (words := _failure_of(event)):
                                bar.say(words)
                            if data := style.render(event):
                                # In a thread: a pager that nobody scrolls must not hold up Ctrl-C.
                                await trio.to_thread.run_sync(
                                    _write, file, data, abandon_on_cancel=True
                                )
                            if isinstance(event, Summary):
                                summary = event
                nursery.cancel_scope.cancel()
    except* EventMeshError as group:
        failure = next(leaves(group))
        if not interrupted:
            if stream is not None and isinstance(failure, NotFoundError):
                raise ConnectionBroken(f"the server was lost: {failure.message}") from failure
            raise
        click.echo(f"eventmesh: {failure}", err=True)
    if interrupted:
        return INTERRUPTED
    if summary is None:
        raise ConnectionBroken("the stream ended without its summary")
    whole = summary.status == "completed" and summary.successful == summary.total_urls
    return 0 if whole else SOME_FAILED


async def _cancel(stream: Crawl) -> None:
    try:
        await stream.cancel()  # its summary still comes, and ends the loop that follows it
    except EventMeshError as error:
        click.echo(f"eventmesh: not cancelled yet: {error}", err=True)


def _write(file: RawIOBase, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = file.write(rest)
        if written is None:  # whoever opened the pipe made it non-blocking
            select.select([], [file], [])
        else:
            rest = rest[written:]


def _open_output(output: Path | None) -> RawIOBase:
    # Unbuffered: closing a buffered file waits for a write that an abandoned thread is still in.
    if output is not None:
        return output.open("wb", buffering=0)
    if sys.stdout is None:  # it was closed when we were started
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)


def _render_markdown(event: Event) -> bytes:
    if isinstance(event, SearchResults):
        return "".join(map(_hit_as_markdown, event.results)).encode()
    if isinstance(event, SearchResult) and event.content is not None:
        return f"<!-- {event.url} -->\n\n{event.content.markdown.strip()}\n\n".encode()
    if not isinstance(event, Result) or event.result is UNSET or event.result.document is None:
        return b""
    document = event.result.document
    return f"<!-- {document.url} -->\n\n{document.markdown.strip()}\n\n".encode()


def _hit_as_markdown(hit: SearchHit) -> str:
    return f"{hit.rank}. <{hit.url}> {hit.search_title}\n   {hit.search_snippet}\n\n"


def _failure_of(event: Event) -> str | None:
    """What is said of a URL that failed, where the output has no place for it."""
    error = event.error if isinstance(event, Result | SearchResult) else None
    if not isinstance(event, Result | SearchResult) or not isinstance(error, ErrorInfo):
        return None
    return f"eventmesh: {event.url}: {error.type}: {error.message}"


@attrs.frozen
class _Style:
    """A format of the output; ``has_failures``: it tells of URLs that failed, too."""

    render: Callable[[Event], bytes]
    has_failures: bool


_STYLES: Final[dict[str, _Style]] = {
    "ndjson": _Style(_LINES.encode, has_failures=True),
    "markdown": _Style(_render_markdown, has_failures=False),
}
