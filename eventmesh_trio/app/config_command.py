"""``eventmesh config``: is it right, what does it come to, and what is there to say."""

import json
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from math import isfinite
from pathlib import Path
from typing import Any

import click

from eventmesh_trio.app.loading import Settled
from eventmesh_trio.app.meanings import settings_as_json, settings_as_text
from eventmesh_trio.app.options import read_options, settings_options
from eventmesh_trio.app.settings import Setting, settings
from eventmesh_trio.pipeline.searching.secret import Secret

__all__ = ["as_tables", "as_toml", "config"]

_DEFAULT = "default"


@click.group()
def config() -> None:
    """Check, show and explain settings."""


@config.command()
@settings_options
def check(file: Path | None, profile: str | None, assignments: tuple[str, ...]) -> None:
    """Say what is wrong with file, environment and flags: all of it at once.

    Exits with 0 when nothing is, else with 2.
    """
    try:
        settled = read_options(file, profile, assignments)
    except click.UsageError as error:
        click.echo(error.message, err=True)
        sys.exit(error.exit_code)
    used = f", profile {settled.profile}" if settled.profile else ""
    click.echo(f"no mistakes; settings changed: {len(settled.origins)}{used}")


@config.command()
@click.option("--origin", is_flag=True, help="Tell where each value came from.")
@click.option("--format", "style", type=click.Choice(["toml", "json"]), default="toml")
@settings_options
def show(
    origin: bool,
    style: str,
    file: Path | None,
    profile: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Write the effective settings; the TOML can be read back with --config."""
    settled = read_options(file, profile, assignments)
    if style == "toml":
        click.echo(as_toml(settled, origin=origin), nl=False)
    else:
        click.echo(json.dumps(as_tables(settled, origin=origin), indent=2))


@config.command()
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def docs(style: str) -> None:
    """Write every setting: type, default, unit, meaning, name in the environment."""
    if style == "text":
        click.echo(settings_as_text(), nl=False)
    else:
        click.echo(json.dumps(settings_as_json(), indent=2))


def as_toml(settled: Settled, *, origin: bool = False) -> str:
    """Every setting with its value, a table for each section of the tree."""
    return "\n".join(_toml_lines(settled, origin)) + "\n"


def _toml_lines(settled: Settled, origin: bool) -> Iterator[str]:
    open_table: str | None = None
    for path, setting in settings().items():
        table, _, name = path.rpartition(".")
        if table != open_table:
            if open_table is not None:
                yield ""
            yield f"[{table}]"
            open_table = table
        line = f"{name} = {_toml(_plain(setting, setting.value_in(settled.config)))}"
        yield f"{line}  # {settled.origins.get(path, _DEFAULT)}" if origin else line


def as_tables(settled: Settled, *, origin: bool = False) -> dict[str, Any]:
    """The same as nested tables; with ``origin`` each leaf is ``{"value", "origin"}``."""
    tree: dict[str, Any] = {}
    for path, setting in settings().items():
        *tables, name = path.split(".")
        table = tree
        for part in tables:
            table = table.setdefault(part, {})
        value = _plain(setting, setting.value_in(settled.config))
        said = settled.origins.get(path, _DEFAULT)
        table[name] = {"value": value, "origin": said} if origin else value
    return tree


def _plain(setting: Setting, value: Any) -> Any:
    """A value as a file has it: with its unit where the setting's name tells none.

    A secret is not shown, only whether there is one.
    """
    if isinstance(value, Secret) or callable(setting.attribute.repr):
        return setting.show(value)
    if isinstance(value, tuple):
        if any(isinstance(item, tuple) for item in value) or setting.type_name == "table":
            return dict(value)
        networks = (IPv4Network, IPv6Network)
        return [str(item) if isinstance(item, networks) else item for item in value]
    if setting.unit is not None and not setting.unit_is_named:
        text = setting.show(value)
        return int(text) if text.isdecimal() else text
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no such number, and every setting reads it as a text
    return value


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
