"""The ``eventmesh`` command.

What a command needs is imported by it: ``--help`` and a usage error must not wait for the server.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio

from eventmesh_trio import __version__
from eventmesh_trio.app.config_command import config as config_command
from eventmesh_trio.app.explain_command import explain as explain_command
from eventmesh_trio.app.options import (
    absolute_url,
    allow_private_option,
    browser_option,
    escape_unprintable,
    format_option,
    output_option,
    read_options,
    settings_options,
    store_option,
    with_user_store,
)
from eventmesh_trio.app.output import drop_output, unwritable
from eventmesh_trio.errors import EventMeshError, ValidationError, leaves
from eventmesh_trio.wire.requests import parse_crawl_request, parse_deepsearch_request

__all__ = ["main"]

_INTERRUPTED: Final = 128 + signal.SIGINT
_STDERR: Final = 2


class _Group(click.Group):
    """A group whose commands end quietly on Ctrl-C, where they do not take the signal themselves.

    Click says "Aborted!" and exits with 1, which is the code of a crawl with failed URLs. What
    cannot be written is one line; `click` catches only a pipe that was left.
    """

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.filename is not None:  # no output of ours
                raise
            drop_output()
            click.echo(f"Error: {unwritable(error)}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        interrupted = False
        try:
            return super().invoke(ctx)
        except* KeyboardInterrupt:
            interrupted = True
        if interrupted:
            ctx.exit(_INTERRUPTED)


# What settles the crawls of this process, by parameters' names.
_OURS: Final = frozenset({"allow_private", "browser", "file", "profile", "assignments"})
_COMMAND_LINE: Final = click.core.ParameterSource.COMMANDLINE


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="eventmesh")
def main() -> None:
    """URLs in, clean documents out, streamed over NDJSON, SSE or WebSocket."""
    if sys.stderr is None:
        _open_stderr()


def _open_stderr() -> None:
    """Let a closed stderr be the null device, before a socket or a store becomes descriptor 2."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null == _STDERR:
        os.set_inheritable(null, True)
    else:  # stdin or stdout is closed, too
        os.dup2(null, _STDERR)
        os.close(null)
    sys.stderr = open(  # noqa: SIM115 - as Python's own, to the end of the process
        _STDERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False
    )


main.add_command(config_command)
main.add_command(explain_command)


@main.command()
@click.option("--bind", multiple=True, metavar="HOST:PORT", help="Or unix:PATH; repeatable.")
@click.option("--insecure-bind", is_flag=True, help="Allow addresses that others can reach.")
@click.option(
    "--tls-certificate",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Serve TLS, with this chain of certificates (PEM).",
)
@click.option(
    "--tls-key",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The certificate's key, where it is in another file.",
)
@store_option
@allow_private_option
@browser_option
@settings_options
def serve(
    bind: Sequence[str],
    insecure_bind: bool,
    tls_certificate: str | None,
    tls_key: str | None,
    store: str | None,
    file: Path | None,
    profile: str | None,
    assignments: Sequence[str],
    allow_private: Sequence[str],
    browser: str | None,
) -> None:
    """Serve crawls until SIGTERM or Ctrl-C.

    Exits with 0 when every stream came to its own end, 1 when some were cut or it could not start,
    2 on wrong usage, 130 or 143 when a second signal cut them at once.
    """
    from eventmesh_trio.app.observability import configure_logging
    from eventmesh_trio.app.process import settle_process
    from eventmesh_trio.app.server import serve as run_server

    flags: dict[str, Any] = {
        "server.bind": list(bind) or None,
        "server.insecure_bind": insecure_bind or None,
        "fetch.allow_private": list(allow_private) or None,
        "cache.store": store,
        "render.browser": browser,
    }
    config = with_user_store(read_options(file, profile, assignments, **flags), only_if_there=False)
    configure_logging(as_json=not sys.stderr.isatty())
    ssl_context = _tls(tls_certificate, tls_key)
    settle_process()
    try:
        code = trio.run(partial(run_server, config, ssl_context=ssl_context))
    except* (EventMeshError, OSError) as group:
        raise click.ClickException("; ".join(map(_reason, leaves(group)))) from None
    sys.exit(code)


def _reason(error: BaseException) -> str:
    """Without the number where the words say it all."""
    bare = isinstance(error, OSError) and error.filename is None
    return str(getattr(error, "strerror", None) or error) if bare else str(error)


def _tls(certificate: str | None, key: str | None) -> Any:
    import ssl

    if certificate is None:
        if key is not None:
            raise click.UsageError("--tls-key goes with --tls-certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise click.UsageError(f"{certificate}: {error}") from None
    return context


@main.command()
@click.argument("urls", nargs=-1)
@click.option(
    "-i",
    "--input",
    "source",
    type=click.File("r", encoding="utf-8-sig"),
    help="URLs, one a line; - is stdin.",
)
@click.option("--server", metavar="URL", help="Crawl on this server, not in this process.")
@output_option
@format_option
@click.option("--concurrency", type=click.IntRange(1, 64), metavar="N", help="Fetches at once.")
@allow_private_option
@browser_option
@settings_options
def crawl(
    urls: Sequence[str],
    source: Any,
    server: str | None,
    output: Path | None,
    style: str,
    concurrency: int | None,
    file: Path | None,
    profile: str | None,
    assignments: Sequence[str],
    allow_private: Sequence[str],
    browser: str | None,
) -> None:
    """Crawl URLs and write what they say.

    Exits with 0 when every URL has a document, 1 when some failed, 2 on wrong usage, 3 when the
    server cannot be reached or was lost, 4 when it refused the crawl, 130 after Ctrl-C, 141 when
    nobody reads the output any more.
    """
    from eventmesh_trio.app.crawling import run_crawl
    from eventmesh_trio.app.observability import configure_logging

    configure_logging(as_json=not sys.stderr.isatty(), level=logging.WARNING)
    wanted = [absolute_url(url) for url in (*urls, *_lines(source))]
    if not wanted:
        raise click.UsageError("no URLs: name some, or give a list with -i FILE")
    flags = _flags_of_ours(server, allow_private, browser)
    config = read_options(file, profile, assignments, **flags).config
    # How many URLs a server takes is for itself to say.
    max_urls = config.server.max_urls if server is None else len(wanted)
    try:
        parse_crawl_request({"urls": wanted}, max_urls=max_urls)
    except ValidationError as error:
        raise click.UsageError(error.message) from None
    sys.exit(
        trio.run(
            partial(
                run_crawl,
                config,
                wanted,
                server=server,
                output=output,
                style=style,
                concurrency=concurrency,
            )
        )
    )


@main.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(1, 50), default=10, help="URLs at most; 10.")
@click.option("--only-search", is_flag=True, help="Do not crawl what is found.")
@click.option("--country", metavar="CC", help="Where to search, such as DE.")
@click.option("--locale", metavar="LOCALE", help="In which language, such as pt-BR.")
@click.option("--server", metavar="URL", help="Search on this server, not in this process.")
@output_option
@format_option
@allow_private_option
@browser_option
@settings_options
def search(
    query: str,
    limit: int,
    only_search: bool,
    country: str | None,
    locale: str | None,
    server: str | None,
    output: Path | None,
    style: str,
    file: Path | None,
    profile: str | None,
    assignments: Sequence[str],
    allow_private: Sequence[str],
    browser: str | None,
) -> None:
    """Search, crawl what is found, and write what it says.

    The provider is that of search.provider: by default what `eventmesh serve` has crawled for this
    user; with --server it is the server's. Exits as crawl does.
    """
    from eventmesh_trio.app.crawling import run_search
    from eventmesh_trio.app.observability import configure_logging

    configure_logging(as_json=not sys.stderr.isatty(), level=logging.WARNING)
    flags = _flags_of_ours(server, allow_private, browser)
    wanted = {"query": query, "limit": limit, "country": country, "locale": locale}
    try:
        parse_deepsearch_request(wanted)
    except ValidationError as error:
        raise click.UsageError(error.message) from None
    settled = read_options(file, profile, assignments, **flags)
    is_local = server is None and settled.config.search.provider == "local"
    config = with_user_store(settled, only_if_there=True) if is_local else settled.config
    sys.exit(
        trio.run(
            partial(
                run_search,
                config,
                query,
                limit=limit,
                include_content=not only_search,
                country=country,
                locale=locale,
                server=server,
                output=output,
                style=style,
            )
        )
    )


def _flags_of_ours(
    server: str | None, allow_private: Sequence[str], browser: str | None
) -> dict[str, Any]:
    """The settings that flags give to work in this process; a server has its own."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if server is not None and parameter.name in _OURS and given is _COMMAND_LINE:
            raise click.UsageError(f"{parameter.opts[0]} is the server's to give")
    return {"fetch.allow_private": list(allow_private) or None, "render.browser": browser}


def _lines(source: Any) -> list[str]:
    if source is None:
        return []
    try:
        lines = [line.strip() for line in source]
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the list of URLs is not {error.encoding} text") from None
    return [line for line in lines if line and not line.startswith("#")]


@main.command()
@click.option("--exit", "exit_after", is_flag=True, help="End after the crawl.")
def demo(exit_after: bool) -> None:
    """Serve a small bundled site, crawl it over HTTP, and stay up to be played with."""
    from eventmesh_trio.demo.command import run_demo

    escape_unprintable()
    sys.exit(trio.run(partial(run_demo, exit_after=exit_after)))
