"""One value as people write it, in a file, the environment or a flag, as its setting's type."""

import re
import sys
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from math import isfinite
from typing import Any, Final, get_args, get_origin

import msgspec

from eventmesh_trio.app.quantities import read_quantity
from eventmesh_trio.app.settings import Setting
from eventmesh_trio.pipeline.searching.secret import Secret

__all__ = ["read_value"]

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|inf|nan)")
_LARGEST: Final = int(sys.float_info.max)  # what no float can be, no limit can be compared with
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def read_value(setting: Setting, value: Any) -> Any:
    """A value as somebody wrote it, as one of the setting's type.

    Raises:
      ValueError: it cannot be read as that; whether it is in range is for the tree to say.
    """
    item = setting.item
    if item is None:
        return _one(setting, value)
    if get_origin(item) is tuple:
        return tuple(_pair(part) for part in _pairs(value))
    parts = _listed(value)
    if IPv4Network in (item, *get_args(item)):
        return tuple(ip_network(str(part), strict=False) for part in parts)
    return msgspec.convert(tuple(parts), setting.attribute.type, strict=False)


def _one(setting: Setting, value: Any) -> Any:
    if setting.attribute.type is Secret:
        return _secret(value)
    unit = setting.unit
    bare = _is_number(value)
    if isinstance(value, str) and setting.attribute.type is bool:
        value = _BOOLEANS.get(value.strip().lower(), value)
    elif isinstance(value, str) and bare:
        value = value.replace("_", "")  # as TOML allows it
    elif isinstance(value, str) and unit is not None:
        value = read_quantity(value, unit)
    _check_size(value)
    wants_unit = unit not in (None, "bytes") and not setting.unit_is_named
    if wants_unit and bare and float(value) and isfinite(float(value)):
        raise ValueError(f"a duration needs a unit: write {value}ms or {value}s")
    read = msgspec.convert(value, setting.attribute.type, strict=False)
    _check_size(read)
    if isinstance(read, (int, float)) and not isinstance(read, bool) and not read >= 0:
        raise ValueError("it must not be negative")
    return read


def _check_size(value: Any) -> None:
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("it is too large")


def _secret(value: Any) -> Secret:
    if not isinstance(value, str):
        raise ValueError("a key is a text")  # and nothing of it is repeated
    if value.strip() == repr(Secret("key")):
        raise ValueError("this stands where a key is not shown; give the key itself, or a file")
    return Secret(value.strip())


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(value: Any) -> list[Any]:
    """A list as a file has it, a JSON list, or words between commas."""
    if isinstance(value, (list, tuple)):
        return list(value)
    text = str(value).strip()
    if text.startswith("["):
        return list(_json(text, list))
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(value: Any) -> list[Any]:
    """A table of texts, a JSON object, or one or several of ``Name: value``."""
    if isinstance(value, str) and value.strip().startswith("{"):
        value = _json(value, dict)
    elif isinstance(value, str) and value.strip().startswith("["):
        value = _json(value, list)
    if isinstance(value, Mapping):
        return list(value.items())
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def _pair(part: Any) -> tuple[str, str]:
    if isinstance(part, str):
        name, colon, text = part.partition(":")
        if not colon:
            raise ValueError(f"{part!r} is not of the form Name: value")
        return name.strip(), text.strip()
    is_list = isinstance(part, (list, tuple))
    if not is_list or len(part) != 2 or not all(isinstance(text, str) for text in part):
        raise ValueError(f"{part!r} is no pair of texts")
    return part[0], part[1]


def _json(text: str, kind: type) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{text!r} is no JSON {kind.__name__}: {error}") from None
