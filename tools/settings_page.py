#!/usr/bin/env python3
"""Write the tables of ``docs/configuration.rst`` from the code: names, defaults and meanings.

    .venv/bin/python tools/settings_page.py

``tests/test_docs.py`` fails where page and code differ.
"""

from collections.abc import Iterable
from pathlib import Path

from eventmesh_trio.app.meanings import default_text, meaning
from eventmesh_trio.app.profiles import PROFILES
from eventmesh_trio.app.settings import Setting, settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.rst"
SETTINGS = (".. settings begin\n", ".. settings end\n")
PROFILE_TABLE = (".. profiles begin\n", ".. profiles end\n")


def main() -> None:
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")


def with_tables(page: str) -> str:
    """The page with its tables renewed."""
    return _with(_with(page, SETTINGS, tables()), PROFILE_TABLE, profiles())


def _with(page: str, marks: tuple[str, str], content: str) -> str:
    begin, end = marks
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{content}\n{end}{tail}"


def tables() -> str:
    """One table a section, in the order of the tree."""
    sections: dict[str, list[Setting]] = {}
    for setting in settings().values():
        sections.setdefault(setting.path.rpartition(".")[0], []).append(setting)
    parts: list[str] = []
    for name, members in sections.items():
        parts += [f"``{name}``", "~" * (len(name) + 4), ""]
        rows = ((f"``{s.path}``", _default(s), _type(s), meaning(s)) for s in members)
        parts += _list_table(("Setting", "Default", "Type", "Meaning"), "30 14 12 44", rows)
    return "\n".join(parts)


def profiles() -> str:
    """What each profile changes, setting by setting."""
    paths = [path for path in settings() if any(path in values for values in PROFILES.values())]
    rows = (
        (
            f"``{path}``",
            _default(settings()[path]),
            *(_value(settings()[path], values.get(path)) for values in PROFILES.values()),
        )
        for path in paths
    )
    titles = ("Setting", "Default", *(f"``{name}``" for name in PROFILES))
    return "\n".join(_list_table(titles, "36 16 16 16 16", rows))


def _list_table(titles: Iterable[str], widths: str, rows: Iterable[Iterable[str]]) -> list[str]:
    parts = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (titles, *rows):
        first, *others = row
        parts += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return [*parts, ""]


def _default(setting: Setting) -> str:
    text = default_text(setting)
    if text in ("none", "of the machine"):
        return text
    return ", ".join(f"``{part}``" for part in text.split(", "))


def _value(setting: Setting, value: object) -> str:
    return (
        ""
        if value is None
        else f"``{setting.show(value) if not isinstance(value, str) else value}``"
    )


def _type(setting: Setting) -> str:
    if setting.unit_name in ("", "must be given"):
        return setting.type_name
    return f"{setting.type_name}, {setting.unit_name}"


if __name__ == "__main__":
    main()
