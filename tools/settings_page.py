#!/usr/bin/env python3
"""Write the tables of ``docs/configuration.rst`` from the code: names, defaults and meanings.

    .venv/bin/python tools/settings_page.py

A setting's meaning is what stands in its class: the string below it, the comment beside it, or its
entry under ``Attributes:`` in the docstring. ``tests/test_docs.py`` fails where page and code
differ.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from eventmesh_trio.app.config import Config, settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.rst"
BEGIN = ".. settings begin\n"
END = ".. settings end\n"


def main() -> None:
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


def with_tables(page: str) -> str:
    """The page with its tables renewed."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


def tables() -> str:
    """One table a section, in the order of the tree."""
    parts: list[str] = []
    for section in attrs.fields(attrs.resolve_types(Config)):
        assert section.type is not None
        parts += [f"``{section.name}``", "~" * (len(section.name) + 4), ""]
        parts += [".. list-table::", "   :header-rows: 1", "   :widths: 35 15 50", ""]
        parts += ["   * - Setting", "     - Default", "     - Meaning"]
        for path, attribute in settings(section.type, f"{section.name}."):
            parts.append(f"   * - ``{path}``")
            parts.append(f"     - {default_text(path, attribute)}")
            parts.append(f"     - {meaning(path)}")
        parts.append("")
    return "\n".join(parts)


def default_text(path: str, attribute: "attrs.Attribute[Any]") -> str:
    value = attribute.default
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return "of the machine"
    if isinstance(value, bool):
        return f"``{str(value).lower()}``"
    if isinstance(value, tuple):
        return ", ".join(f"``{item}``" for item in value) or "none"
    if path.endswith("_bytes"):
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"{value // size} {unit}"
    return f"``{value:g}``" if isinstance(value, float) else f"``{value}``"


def meaning(path: str) -> str:
    """What the class says of a setting; it must say something."""
    *sections, name = path.split(".")
    owner: type = Config
    for section in sections:
        owner = getattr(attrs.fields(attrs.resolve_types(owner)), section).type
    for kind in inspect.getmro(owner):
        if kind is not object and (text := _field_texts(kind).get(name)):
            return " ".join(text.split())
    raise LookupError(f"nothing tells what {path} means; say it in {owner.__name__}")


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


if __name__ == "__main__":
    main()
