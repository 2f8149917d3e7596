"""``eventmesh explain``: what would happen to a URL, and why."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click
import msgspec
import trio

from eventmesh_trio.app.options import (
    absolute_url,
    allow_private_option,
    browser_option,
    escape_unprintable,
    read_options,
    settings_options,
    store_option,
    with_user_store,
)
from eventmesh_trio.app.output import drop_output, unwritable
from eventmesh_trio.errors import ConfigError, EventMeshError, ValidationError, leaves
from eventmesh_trio.wire.requests import CrawlRequest, parse_crawl_request

if TYPE_CHECKING:
    from eventmesh_trio.app.config import Config
    from eventmesh_trio.app.explanation import Explanation

__all__ = ["explain"]

WOULD_FAIL: Final = 1
PIPE_CLOSED: Final = 128 + signal.SIGPIPE


@click.command()
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--render-mode",
    type=click.Choice(["static", "adaptive", "dynamic"]),
    help="Render never, as the gate decides (the default), or at once.",
)
@click.option(
    "--extract-mode",
    type=click.Choice(["article", "full", "metadata", "raw"]),
    help="What is taken of the page; article by default.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="For the URL, retries included.")
@click.option("--user-agent", metavar="TEXT", help="What the origin is told.")
@click.option("--ignore-robots", is_flag=True, help="As with respect_robots: false.")
@allow_private_option
@browser_option
@store_option
@settings_options
def explain(
    url: str,
    as_json: bool,
    render_mode: str | None,
    extract_mode: str | None,
    timeout: float | None,
    user_agent: str | None,
    ignore_robots: bool,
    allow_private: Sequence[str],
    browser: str | None,
    store: str | None,
    file: Path | None,
    profile: str | None,
    assignments: Sequence[str],
) -> None:
    """Say what would happen to a URL, and why.

    Guard, robots.txt, politeness, cache, each request with its times, the gate's features and
    score, rendering, extraction: as a crawl with these settings would go. Origins are asked for
    real; nothing is kept.

    Exits with 0 when the URL would give a document without the cache, 1 when it would fail, 2 on
    wrong usage, 130 after Ctrl-C, 141 when nobody reads the output any more.
    """
    from eventmesh_trio.app.observability import configure_logging

    escape_unprintable()
    configure_logging(as_json=not sys.stderr.isatty(), level=logging.WARNING)
    flags: dict[str, Any] = {
        "fetch.allow_private": list(allow_private) or None,
        "cache.store": store,
        "render.browser": browser,
    }
    settled = read_options(file, profile, assignments, **flags)
    config, trouble = _without_new_store(with_user_store(settled, only_if_there=True))
    wanted = {
        "render_mode": render_mode,
        "extract_mode": extract_mode,
        "timeout_seconds": timeout,
        "user_agent": user_agent,
        "respect_robots": False if ignore_robots else None,
    }
    body = {
        "urls": [absolute_url(url)],
        "options": {name: value for name, value in wanted.items() if value is not None},
    }
    try:
        request = parse_crawl_request(body, max_urls=1)
    except ValidationError as error:
        raise click.UsageError(error.message.removeprefix("urls[0] ")) from None
    try:
        explanation = trio.run(partial(_explain, config, request))
    except* ConfigError as group:  # as of a browser that cannot be used
        raise click.UsageError("; ".join(map(str, leaves(group)))) from None
    except* (EventMeshError, OSError) as group:
        raise click.ClickException("; ".join(map(str, leaves(group)))) from None
    if trouble is not None:
        cache = attrs.evolve(explanation.cache, trouble=trouble)
        explanation = attrs.evolve(explanation, cache=cache)
    try:
        _write(explanation, as_json=as_json)
    except BrokenPipeError:  # ``| head`` has what it wanted
        drop_output()
        sys.exit(PIPE_CLOSED)
    except OSError as error:  # as when the disk is full
        drop_output()
        raise click.ClickException(unwritable(error)) from None
    sys.exit(0 if explanation.outcome.error is None else WOULD_FAIL)


def _without_new_store(config: "Config") -> tuple["Config", str | None]:
    """The configuration without a file that is not there yet, and what is to be told of that.

    To open it would make it, and its directory.
    """
    path = config.cache.store.removeprefix("sqlite:")
    if path == config.cache.store or os.path.exists(os.path.expanduser(path)):
        return config, None
    cache = attrs.evolve(config.cache, store="memory:")
    return attrs.evolve(config, cache=cache), f"there is no file {path}"


async def _explain(config: "Config", request: CrawlRequest) -> "Explanation":
    from eventmesh_trio.app.explain import explain as explain_url
    from eventmesh_trio.app.lifespan import open_mesh

    async with open_mesh(config) as mesh:
        return await explain_url(mesh, request.urls[0], request.options)


def _write(explanation: "Explanation", *, as_json: bool) -> None:
    from eventmesh_trio.app.explain_text import sections_of, write_sections

    if sys.stdout is None:  # it was closed when we were started
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if as_json:
        # As a dict: msgspec would sort the members, and they are in the order of events.
        data = msgspec.json.encode(attrs.asdict(explanation))
        # Past the text layer: JSON is UTF-8 whatever the locale says (RFC 8259, section 8.1).
        sys.stdout.buffer.write(msgspec.json.format(data) + b"\n")
    else:
        write_sections(sections_of(explanation), sys.stdout)
    sys.stdout.flush()
