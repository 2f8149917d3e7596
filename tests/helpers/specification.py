"""The clients that the specification shows, taken out of its text and left as they are."""

import re

from tests.helpers.programs import shared_folder

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"<script>\n(.*?)</script>", re.DOTALL)


def code_block(language: str, containing: str, *, document: str = "streaming-api.md") -> str:
    """The one block of a language that contains a text, such as ``class EventMeshSSEClient``."""
    text = (shared_folder() / "spec" / document).read_text("utf-8")
    found = [body for name, body in _BLOCK.findall(text) if name == language and containing in body]
    assert len(found) == 1, f"{len(found)} {language} blocks of {document} contain {containing!r}"
    return str(found[0])


def page_script(containing: str) -> str:
    """The text of the script of the one HTML page that contains a text."""
    scripts = _SCRIPT.findall(code_block("html", containing))
    assert len(scripts) == 1
    return str(scripts[0])
