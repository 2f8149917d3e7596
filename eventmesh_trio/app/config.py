"""Every setting, as one tree: a file (TOML) under the environment under flags.

The leaves are the limits of each floor, so that a limit and its setting are one thing. A setting's
name is its path in the tree, ``mesh.linger_seconds``: a table and a key in the file,
``EVENTMESH_MESH__LINGER_SECONDS`` in the environment, ``--set mesh.linger_seconds=10`` as a flag.
Sizes and durations may carry a unit ("64KB", "500ms"); without one they are in that of their name.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import attrs
import msgspec

from eventmesh_trio import __version__
from eventmesh_trio.errors import ConfigError
from eventmesh_trio.mesh.limits import MeshLimits
from eventmesh_trio.pipeline.cache import CacheLimits
from eventmesh_trio.pipeline.crawl import CrawlLimits
from eventmesh_trio.pipeline.fetch_limits import FetchLimits
from eventmesh_trio.pipeline.politeness import PolitenessLimits
from eventmesh_trio.pipeline.workers import WorkerLimits
from eventmesh_trio.transport.limits import TransportLimits
from eventmesh_trio.wire.headers import WindowBounds

__all__ = [
    "ENVIRONMENT_PREFIX",
    "Config",
    "ServerConfig",
    "StreamConfig",
    "load_config",
    "settings",
]

ENVIRONMENT_PREFIX: Final = "EVENTMESH_"

_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_BYTES: Final = {"": 1, "b": 1, "kb": 1 << 10, "kib": 1 << 10, "mb": 1 << 20, "mib": 1 << 20}
_BYTES.update({"gb": 1 << 30, "gib": 1 << 30})
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@attrs.frozen
class ServerConfig:
    """The server as a whole.

    Attributes:
      bind: addresses to listen on, ``HOST:PORT`` or ``unix:PATH``.
      insecure_bind: allow addresses that other machines can reach, although there is no
        authentication yet.
      max_urls: how many URLs one crawl may have.
      drain_seconds: how long streams may take to end after SIGTERM.
      enable_cors: answer pages of other origins at all.
      cors_origins: which origins; ``*`` is every one, without credentials.
    """

    bind: tuple[str, ...] = ("127.0.0.1:8080",)
    insecure_bind: bool = False
    max_urls: int = 10_000
    drain_seconds: float = 30.0
    enable_cors: bool = True
    cors_origins: tuple[str, ...] = ("*",)


@attrs.frozen(kw_only=True)
class FetchConfig(FetchLimits):
    """What is fetched, and as whom; with the limits of one fetch and of all together.

    Attributes:
      allow_private: networks that are fetched although they are not public.
      user_agent: what origins are told, where a request names none.
    """

    allow_private: tuple[IPv4Network | IPv6Network, ...] = ()
    user_agent: str = f"eventmesh_trio/{__version__}"


@attrs.frozen
class StreamConfig:
    """How streams present themselves.

    Attributes:
      window: the range of ``X-Buffer-Size``, in events.
      sse_retry_milliseconds: what SSE clients are told to wait before they reconnect.
      heartbeat_seconds: the silence after which an HTTP stream carries a heartbeat.
      flush_interval_milliseconds: the least time between two progress events of a run.
    """

    window: WindowBounds = attrs.field(factory=WindowBounds)
    sse_retry_milliseconds: int = 3000
    heartbeat_seconds: float = 30.0
    flush_interval_milliseconds: int = 50


@attrs.frozen
class Config:
    """The whole tree; each part's own docstring tells of its settings."""

    server: ServerConfig = attrs.field(factory=ServerConfig)
    transport: TransportLimits = attrs.field(factory=TransportLimits)
    stream: StreamConfig = attrs.field(factory=StreamConfig)
    mesh: MeshLimits = attrs.field(factory=MeshLimits)
    crawl: CrawlLimits = attrs.field(factory=CrawlLimits)
    fetch: FetchConfig = attrs.field(factory=FetchConfig)
    politeness: PolitenessLimits = attrs.field(factory=PolitenessLimits)
    workers: WorkerLimits = attrs.field(factory=WorkerLimits)
    cache: CacheLimits = attrs.field(factory=CacheLimits)


def settings(
    section: type = Config, prefix: str = ""
) -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    """Every setting's path and attribute, in the order of the tree."""
    for attribute in attrs.fields(attrs.resolve_types(section)):
        path = f"{prefix}{attribute.name}"
        if attribute.type is not None and attrs.has(attribute.type):
            yield from settings(attribute.type, f"{path}.")
        else:
            yield path, attribute


def load_config(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read the tree: defaults < file < environ < assignments (``KEY=VALUE``) < overrides.

    Raises:
      ConfigError: a key that is not known (with the one that was perhaps meant), a value of a wrong
        type or unit, a file that cannot be read. The message names the setting and where it was.
    """
    known = dict(settings())
    values: dict[str, Any] = {}
    for path, value, origin in _sources(file, environ or {}, assignments, overrides or {}):
        if path not in known:
            raise ConfigError(f"{origin}: there is no setting {path}{_suggestion(path, known)}")
        values[path] = _read(known[path], path, value, origin)
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    config: Config = _build(Config, tree)
    return config


def _build(section: type, tree: Mapping[str, Any]) -> Any:
    members = {}
    for attribute in attrs.fields(section):
        if attribute.name in tree:
            value = tree[attribute.name]
            nested = attribute.type is not None and attrs.has(attribute.type)
            members[attribute.name] = _build(attribute.type, value) if nested else value
    try:
        return section(**members)
    except ValueError as error:
        raise ConfigError(f"{section.__name__}: {error}") from None


def _sources(
    file: Path | None,
    environ: Mapping[str, str],
    assignments: Iterable[str],
    overrides: Mapping[str, Any],
) -> Iterator[tuple[str, Any, str]]:
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
        yield from ((path, value, str(file)) for path, value in _flatten(tree))
    for name, value in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield path, value, name
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write it as KEY=VALUE")
        yield path.strip(), value.strip(), f"--set {path.strip()}"
    yield from ((path, value, "a flag") for path, value in overrides.items())


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _suggestion(path: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(path, known, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _read(attribute: "attrs.Attribute[Any]", path: str, value: Any, origin: str) -> Any:
    target: Any = attribute.type
    if get_origin(target) is tuple:
        (item, _) = get_args(target)
        value = [_plain(part, path) for part in _listed(value)]
        if IPv4Network in (item, *get_args(item)):
            return tuple(_network(part, path, origin) for part in value)
    else:
        value = _plain(value, path)
    try:
        read = msgspec.convert(value, target, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {path}: {error}") from None
    if isinstance(read, (int, float)) and not isinstance(read, bool) and not read >= 0:
        raise ConfigError(f"{origin}: {path} must not be negative")
    return read


def _listed(value: Any) -> list[Any]:
    """A list as a file has it, a JSON list, or words between commas."""
    if isinstance(value, (list, tuple)):
        return list(value)
    text = str(value).strip()
    if text.startswith("["):
        try:
            return list(msgspec.json.decode(text, type=list))
        except msgspec.DecodeError:
            return [text]
    return [part.strip() for part in text.split(",") if part.strip()]


def _plain(value: Any, path: str) -> Any:
    """Resolve a unit, where the setting's name says what it measures."""
    if not isinstance(value, str) or (found := _QUANTITY.fullmatch(value)) is None:
        return value
    number, unit = float(found[1]), found[2].lower()
    if path.endswith("_bytes") and unit in _BYTES:
        return int(number * _BYTES[unit])
    if path.endswith("_seconds") and unit in _SECONDS:
        return number * _SECONDS[unit]
    if path.endswith("_milliseconds") and unit in _SECONDS:
        return round(number * _SECONDS[unit] * 1000)
    return value


def _network(value: Any, path: str, origin: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value), strict=False)
    except ValueError as error:
        raise ConfigError(f"{origin}: {path}: {error}") from None
