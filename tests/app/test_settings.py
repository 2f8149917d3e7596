"""Every setting has a test that shows what it changes."""

import ast
from collections import Counter
from pathlib import Path

from eventmesh_trio.app.settings import settings


def shown() -> Counter[str]:
    """The settings that tests are marked to show, by ``@shows``."""
    found: Counter[str] = Counter()
    for module in Path(__file__).parent.glob("test_settings_*.py"):
        for node in ast.parse(module.read_text("utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "shows":
                    assert node.name.startswith("test_"), f"{node.name} is no test"
                    assert len(mark.args) == 1, "one test shows one setting"
                    found.update([ast.literal_eval(mark.args[0])])
    return found


def test_every_setting_has_one_test_that_shows_its_effect() -> None:
    found = shown()
    assert settings().keys() - found.keys() == set(), "nothing shows what these settings change"
    assert found.keys() - settings().keys() == set(), "there are no such settings"
    assert not [path for path, times in found.items() if times > 1]
