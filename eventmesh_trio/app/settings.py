"""Every setting by its name: where it stands in the tree, what it measures, how it is written.

A setting's name is its path in `Config`, with the unit of a number in it: ``mesh.linger_seconds``.
Only where the streaming API document names a setting it has that name, whatever floor its limit
lives on: ``stream.websocket.ping_interval`` is ``TransportLimits.ping_idle_seconds``. `DOCUMENTED`
is the whole table of those.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, get_args, get_origin

import attrs

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.quantities import Unit, show_quantity, unit_of
from eventmesh_trio.pipeline.searching.secret import Secret

__all__ = ["DOCUMENTED", "ENVIRONMENT_PREFIX", "Setting", "settings"]

ENVIRONMENT_PREFIX: Final = "EVENTMESH_"

DOCUMENTED: Final[Mapping[str, str]] = {
    "stream.buffer.default_events": "stream.buffer.default_size",
    "stream.buffer.min_events": "stream.buffer.min_size",
    "stream.buffer.max_events": "stream.buffer.max_size",
    "stream.buffer.slow_send_threshold_ms": "stream.buffer.slow_send_threshold",
    "stream.buffer.backpressure_window_sends": "stream.buffer.backpressure_window",
    "stream.buffer.memory_limit_bytes": "stream.buffer.memory_limit_per_connection",
    "mesh.max_total_bytes": "stream.buffer.global_memory_limit",
    "stream.ndjson.flush_interval_seconds": "stream.ndjson.flush_interval",
    "stream.ndjson.keep_alive_interval_seconds": "stream.ndjson.keep_alive_interval",
    "stream.ndjson.max_connection_seconds": "stream.ndjson.max_connection_time",
    "stream.ndjson.max_line_bytes": "stream.ndjson.max_line_length",
    "stream.sse.flush_interval_seconds": "stream.sse.flush_interval",
    "stream.sse.keep_alive_interval_seconds": "stream.sse.keep_alive_interval",
    "stream.sse.max_connection_seconds": "stream.sse.max_connection_time",
    "stream.sse.retry_interval_seconds": "stream.sse.retry_interval",
    "stream.websocket.flush_interval_seconds": "stream.websocket.flush_interval",
    "stream.websocket.backpressure_threshold_events": "stream.websocket.backpressure_threshold",
    "transport.ping_idle_seconds": "stream.websocket.ping_interval",
    "transport.pong_seconds": "stream.websocket.pong_timeout",
    "transport.close_seconds": "stream.websocket.close_timeout",
    "transport.max_message_bytes": "stream.websocket.max_message_size",
    "transport.enable_deflate": "stream.websocket.enable_compression",
    "transport.min_deflate_bytes": "stream.websocket.min_compression_size",
    "transport.max_deflate_bytes": "stream.websocket.max_compression_size",
}
"""From a path in `Config` to the name that the streaming API document gives the setting there."""


@attrs.frozen
class Setting:
    """One leaf of the tree."""

    path: str
    """Its name, as a file, ``--set`` and messages have it."""
    place: tuple[str, ...]
    """Where it stands in `Config`."""
    attribute: "attrs.Attribute[Any]"

    @property
    def environment(self) -> str:
        return ENVIRONMENT_PREFIX + self.path.upper().replace(".", "__")

    @property
    def unit(self) -> Unit | None:
        """What it measures, where that is time or bytes."""
        return unit_of(self.attribute.name)

    @property
    def unit_is_named(self) -> bool:
        """Whether the setting's own name tells its unit, so that a value need not."""
        return unit_of(self.path) is not None

    @property
    def item(self) -> type | None:
        """What a list has in it; None where the setting is no list."""
        kind = self.attribute.type
        return get_args(kind)[0] if get_origin(kind) is tuple else None

    @property
    def default(self) -> Any:
        default: Any = self.attribute.default
        return default.factory() if self.default_is_of_the_machine else default

    @property
    def default_is_of_the_machine(self) -> bool:
        return hasattr(self.attribute.default, "factory")

    @property
    def type_name(self) -> str:
        """The type, as one tells it to people."""
        if self.unit is not None:
            return "size" if self.unit == "bytes" else "duration"
        if self.item is not None:
            return "table" if get_origin(self.item) is tuple else "list"
        names = {bool: "boolean", int: "integer", float: "number", Secret: "secret"}
        return names.get(self.attribute.type, "text")  # type: ignore[arg-type]

    @property
    def unit_name(self) -> str:
        """What a bare number is in; empty where it counts things that the description names."""
        if self.unit is None:
            last = self.attribute.name.rpartition("_")[2]
            return last if last in ("events", "sends") else ""
        if self.unit_is_named or self.unit == "bytes":
            return self.unit
        return "must be given"

    def value_in(self, config: Config) -> Any:
        value: Any = config
        for name in self.place:
            value = getattr(value, name)
        return value

    def show(self, value: Any) -> str:
        """A value as a message or a table shows it."""
        if callable(self.attribute.repr):  # a part of it is secret
            return self.attribute.repr(value)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            parts = (": ".join(item) if isinstance(item, tuple) else str(item) for item in value)
            return ", ".join(parts)
        if self.unit is not None:
            return show_quantity(value, self.unit)
        return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its name: in the order of the tree, those of one table together."""
    found = list(_leaves(Config, ()))
    tables: dict[str, int] = {}
    for setting in found:
        tables.setdefault(".".join(setting.place[:-1]), len(tables))
    found.sort(key=lambda setting: tables[_table(setting)])
    return {setting.path: setting for setting in found}


def _table(setting: Setting) -> str:
    return setting.path.rpartition(".")[0]


def _leaves(section: type, place: Sequence[str]) -> Iterator[Setting]:
    for attribute in attrs.fields(attrs.resolve_types(section)):
        here = (*place, attribute.name)
        if attribute.type is not None and attrs.has(attribute.type):
            yield from _leaves(attribute.type, here)
        else:
            dotted = ".".join(here)
            yield Setting(DOCUMENTED.get(dotted, dotted), here, attribute)
