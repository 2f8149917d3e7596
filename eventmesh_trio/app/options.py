"""The flags that every command with a configuration has, and what they come to."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import click

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.loading import Settled, settle
from eventmesh_trio.app.profiles import PROFILES
from eventmesh_trio.app.settings import ENVIRONMENT_PREFIX
from eventmesh_trio.errors import ConfigError

__all__ = [
    "absolute_url",
    "allow_private_option",
    "browser_option",
    "escape_unprintable",
    "format_option",
    "output_option",
    "read_options",
    "settings_options",
    "store_option",
    "with_user_store",
]

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

allow_private_option = click.option(
    "--allow-private",
    multiple=True,
    metavar="CIDR",
    help="Let this network be fetched although it is not public; repeatable.",
)
browser_option = click.option(
    "--browser",
    metavar="BROWSER",
    help="Render pages that scripts build with this browser: auto, its path, or the DevTools "
    "endpoint of one that runs.",
)
format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["ndjson", "markdown"]),
    default="ndjson",
    help="Events as lines of JSON (the default), or documents as Markdown.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of to stdout.",
)
store_option = click.option(
    "--store",
    metavar="STORE",
    help="Where documents are kept: memory:, or sqlite:PATH. By default a file in the user's "
    "data directory.",
)

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(command: Command) -> Command:
    """Give a command ``--config``, ``--profile`` and ``--set``."""
    for option in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one setting (mesh.linger_seconds=10); repeatable.",
        ),
        click.option(
            "--profile",
            metavar="NAME",
            help=f"Settings for one kind of work: {', '.join(PROFILES)}.",
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            envvar=f"{ENVIRONMENT_PREFIX}CONFIG",
            help=f"A TOML file with settings (or {ENVIRONMENT_PREFIX}CONFIG).",
        ),
    ):
        command = option(command)
    return command


def read_options(
    file: Path | None, profile: str | None, assignments: Sequence[str], **flags: Any
) -> Settled:
    """What the flags and the environment come to; ``flags`` by their settings' names.

    Raises:
      click.UsageError: with one line for each mistake.
    """
    try:
        return settle(
            file=file,
            environ=os.environ,
            profile=profile,
            assignments=assignments,
            overrides={path: value for path, value in flags.items() if value is not None},
        )
    except ConfigError as error:
        raise click.UsageError(error.message) from None


def with_user_store(settled: Settled, *, only_if_there: bool) -> Config:
    """The configuration, with the file that ``eventmesh serve`` keeps where no store was named.

    Args:
      only_if_there: make no such file for those who only look into it.
    """
    from eventmesh_trio.pipeline.caching.opening import (  # noqa: PLC0415 - loading takes a while
        user_store,
    )

    config, store = settled.config, user_store(os.environ)
    if "cache.store" in settled.origins:
        return config
    # Not `Path.expanduser`: it fails where there is no home directory.
    if only_if_there and not os.path.exists(os.path.expanduser(store.removeprefix("sqlite:"))):
        return config
    return attrs.evolve(config, cache=attrs.evolve(config.cache, store=store))


def absolute_url(url: str) -> str:
    """What was meant by a URL on the command line: https, where it does not say."""
    return url if _SCHEME.match(url) is not None else f"https://{url}"


def escape_unprintable() -> None:
    r"""Let stdout show what its encoding has no character for as ``\u2026``, and not fail."""
    if isinstance(sys.stdout, TextIOWrapper):  # None where it is closed
        sys.stdout.reconfigure(errors="backslashreplace")
