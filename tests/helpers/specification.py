"""The clients that the specification shows, taken out of its text and left as they are."""

import json
import re
from typing import Any

from tests.helpers.programs import shared_folder

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"<script>\n(.*?)</script>", re.DOTALL)


def code_block(language: str, containing: str, *, document: str = "streaming-api.md") -> str:
    """The one block of a language that contains a text, such as ``class EventMeshSSEClient``."""
    text = (shared_folder() / "spec" / document).read_text("utf-8")
    found = [body for name, body in _BLOCK.findall(text) if name == language and containing in body]
    assert len(found) == 1, f"{len(found)} {language} blocks of {document} contain {containing!r}"
    return str(found[0])


def json_examples(document: str = "streaming-api.md") -> list[dict[str, Any]]:
    """Every JSON object that a document shows, in order; ``...`` and ``a|b`` left as they are."""
    text = (shared_folder() / "spec" / document).read_text("utf-8")
    decoder = json.JSONDecoder()
    found = []
    for name, body in _BLOCK.findall(text):
        if name != "json":
            continue
        rest = re.sub(r"^//.*$", "", body, flags=re.MULTILINE).replace("{ ... }", "{}").strip()
        while rest:
            example, end = decoder.raw_decode(rest)
            found.append(example)
            rest = rest[end:].strip()
    return found


def page_script(containing: str) -> str:
    """The text of the script of the one HTML page that contains a text."""
    scripts = _SCRIPT.findall(code_block("html", containing))
    assert len(scripts) == 1
    return str(scripts[0])
