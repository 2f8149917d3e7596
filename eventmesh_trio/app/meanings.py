"""What each setting means, as its class says it, and the whole list as text or JSON.

A meaning is the string below an attribute, the comment beside it, or its entry under
``Attributes:`` in the docstring: what a reader of the code reads, an operator reads too.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs

from eventmesh_trio.app.config import Config
from eventmesh_trio.app.settings import DOCUMENTED, Setting, settings

__all__ = ["default_text", "meaning", "settings_as_json", "settings_as_text"]


def meaning(setting: Setting) -> str:
    """What the class says of a setting.

    Raises:
      LookupError: it says nothing; it must.
    """
    owner: type = Config
    for section in setting.place[:-1]:
        owner = getattr(attrs.fields(attrs.resolve_types(owner)), section).type
    for kind in inspect.getmro(owner):
        if kind is not object and (text := _field_texts(kind).get(setting.place[-1])):
            return _renamed(" ".join(text.split()))
    raise LookupError(f"nothing tells what {setting.path} means; say it in {owner.__name__}")


def default_text(setting: Setting) -> str:
    """The default as a table shows it."""
    if setting.default_is_of_the_machine:
        return "of the machine"
    return setting.show(setting.default) or "none"


def settings_as_text() -> str:
    """Every setting, its type, default, unit, meaning and name in the environment."""
    parts = []
    for setting in settings().values():
        kind = setting.type_name
        if setting.unit_name:
            kind += f" ({_unit_text(setting)})"
        text = textwrap.fill(meaning(setting).replace("`", ""), 84)
        parts.append(
            f"{setting.path}\n"
            f"    {kind}, default {default_text(setting)}\n"
            f"{textwrap.indent(text, '    ')}\n"
            f"    {setting.environment}\n"
        )
    return "\n".join(parts)


def _unit_text(setting: Setting) -> str:
    if setting.unit_name == "must be given":
        return "with its unit"
    return f"in {setting.unit_name}"


def settings_as_json() -> list[dict[str, Any]]:
    """The same for programs; a default as `Setting.show` writes it."""
    return [
        {
            "path": setting.path,
            "type": setting.type_name,
            "unit": setting.unit_name or None,
            "default": None if setting.default_is_of_the_machine else setting.show(setting.default),
            "description": meaning(setting),
            "environment": setting.environment,
        }
        for setting in settings().values()
    ]


def _renamed(text: str) -> str:
    """Attributes that are mentioned by their settings' names."""
    for place, path in DOCUMENTED.items():
        name = place.rpartition(".")[2]
        text = re.sub(rf"``{name}``", f"``{path.rpartition('.')[2]}``", text)
    return text


@cache
def _field_texts(kind: type) -> Mapping[str, str]:
    source = textwrap.dedent(inspect.getsource(kind))
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    texts = dict(_docstring_entries(ast.get_docstring(node) or ""))
    lines = source.splitlines()
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[field.target.id] = str(below.value.value)
        elif comment := re.search(r"  # (.+)$", lines[(field.end_lineno or field.lineno) - 1]):
            texts[field.target.id] = f"{comment[1][:1].upper()}{comment[1][1:]}"
    return texts


def _docstring_entries(docstring: str) -> list[tuple[str, str]]:
    _, _, block = docstring.partition("Attributes:\n")
    found = re.findall(r"^ {2}(\w+): (.*(?:\n {4}.*)*)", block, re.MULTILINE)
    return [(name, f"{text[:1].upper()}{text[1:]}") for name, text in found]
