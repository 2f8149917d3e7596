"""``eventmesh demo``: the bundled site, a server, and a crawl of the one through the other."""

import errno
import logging
import os
import signal
import sys
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import trio
from msgspec import UNSET

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.loading import load_config
from eventmesh_trio.app.observability import configure_logging
from eventmesh_trio.app.server import serve
from eventmesh_trio.client.client import open_client
from eventmesh_trio.demo.display import Display, page_line, summary_lines
from eventmesh_trio.demo.site import PATHS, Site, serve_site
from eventmesh_trio.errors import EventMeshError, leaves
from eventmesh_trio.wire.events import Progress, Result, Summary

__all__ = ["run_demo"]

_FIRST_PORT: Final = 8080
_INTERRUPTED: Final = 128 + signal.SIGINT
_EXIT_CODES: Final = {"completed": 0, "cancelled": _INTERRUPTED}
_PIPE_CLOSED: Final = 128 + signal.SIGPIPE
_AGAIN: Final = "The same again, as it comes over the wire"
_AGAIN_WITHOUT_EXIT: Final = (
    "Site and server end here. Without --exit they stay up, for the same again over the wire"
)


async def run_demo(*, exit_after: bool = False) -> int:
    """Serve, crawl, show; then stay up until SIGINT or SIGTERM, or end at once.

    All of it lives in one nursery: site and server end with this function, however it ends.

    Returns:
      The exit code: 0 when the crawl completed, 1 when not, 130 when interrupted before its end,
      141 when nobody reads stdout.
    """
    configure_logging(as_json=False, level=logging.WARNING)
    state = _State()
    try:
        async with trio.open_nursery() as nursery:
            site: str = await nursery.start(serve_site, Site())
            server = await _start_server(site, nursery)
            await _crawl(site, server, state)
            if state.code == 0:
                _say_how_to_play(site, server, stays_up=not exit_after)
            if exit_after or state.code:
                nursery.cancel_scope.cancel()
            else:
                print(f"The server stays up at {server}; Ctrl-C ends it.", flush=True)
    except* KeyboardInterrupt:
        pass  # before the server took the signal over
    except* BrokenPipeError:
        # ``| head`` has what it wanted. Nothing may be flushed to the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        state.code = _PIPE_CLOSED
    except* (EventMeshError, OSError) as group:
        print(f"eventmesh demo: {'; '.join(map(str, leaves(group)))}", file=sys.stderr)
        state.code = 1
    return state.code


class _State:
    code: int = _INTERRUPTED


async def _start_server(site: str, nursery: trio.Nursery) -> str:
    """Start a server on port 8080, or on one that is free; its address as ``http://...``."""
    for port in (_FIRST_PORT, 0):
        running = partial(_serve_until_stopped, _config(site, port), nursery.cancel_scope)
        try:
            addresses: list[str] = await nursery.start(running)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == 0:
                raise
        else:
            return addresses[0]
    raise AssertionError("port 0 is never in use")


def _config(site: str, port: int) -> Config:
    return load_config(
        overrides={
            "server.bind": [f"127.0.0.1:{port}"],
            "server.drain_seconds": 2.0,
            "fetch.allow_private": [f"{urlsplit(site).hostname}/32"],
        }
    )


async def _serve_until_stopped(  # noqa: ASYNC128 - `serve` is who calls `started`
    config: Config,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The server takes SIGINT and SIGTERM; when it has drained, the demo is over."""
    await serve(config, announce=lambda _: None, task_status=task_status)
    everything.cancel()


async def _crawl(site: str, server: str, state: _State) -> None:
    urls = [site + path for path in PATHS]
    print(f"Crawling {len(urls)} pages of {site} through {server}/crawl/stream\n", flush=True)
    summary: Summary | None = None
    async with open_client(server) as client, client.crawl(urls, protocol="ndjson") as stream:
        with Display(len(urls)) as display:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(display.animate)
                async for event in stream:
                    if isinstance(event, Result) and event.result is not UNSET:
                        display.line(page_line(event.result))
                        display.show_page(event.progress.completed, event.result.url)
                    elif isinstance(event, Progress):
                        display.show_page(event.completed, event.current_url or "")
                    elif isinstance(event, Summary):
                        summary = event
                nursery.cancel_scope.cancel()
    if summary is not None:
        print("\n" + "\n".join(summary_lines(summary)), flush=True)
        state.code = _EXIT_CODES.get(summary.status, 1)


def _say_how_to_play(site: str, server: str, *, stays_up: bool) -> None:
    post = f"curl -sN -H 'Content-Type: application/json' {server}"
    one = f'{{"urls": ["{site}/news/lighthouse"]}}'
    print(
        f"\n{_AGAIN if stays_up else _AGAIN_WITHOUT_EXIT}:\n\n"
        f"  curl -s {site}/crawl.json | {post}/crawl/stream -d @-\n\n"
        "Or one page, as server-sent events:\n\n"
        f"  {post}/crawl/sse -d '{one}'\n",
        flush=True,
    )
