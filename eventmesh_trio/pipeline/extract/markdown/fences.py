"""Preformatted text as fenced code: byte for byte, with its language where the page names one."""

import re
from typing import Final

from eventmesh_trio.pipeline.extract.page.outline import Block, Node
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["code_of", "fence"]

_PREFIXED: Final = re.compile(
    r"(?:^|[\s;])(?:language|lang|brush|highlight-source|highlight-text|highlight|src|code)"
    r"(?:[-:]\s*)([\w+#.-]{1,30})"
)
_MARKERS: Final = frozenset(("hljs", "sourcecode", "highlight", "prettyprint", "code", "shiki"))
_LANGUAGE_WORDS: Final = """
    bash c clojure cpp csharp css dart diff dockerfile elixir erlang go graphql groovy haskell html
    ini java javascript js json jsx julia kotlin lua makefile markdown nginx nix objectivec ocaml
    perl php powershell python r ruby rust scala sh shell sql swift toml tsx typescript ts vim xml
    yaml zig
"""
_LANGUAGES: Final = frozenset(_LANGUAGE_WORDS.split())
_NO_LANGUAGE: Final = frozenset(
    (
        "default",
        "none",
        "notranslate",
        "block",
        "box",
        "wrapper",
        "container",
        "nohighlight",
        "auto",
    )
)
_BACKTICKS: Final = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_ANCESTORS: Final = 3
"""How many elements around a listing may name its language; highlighters wrap it in up to three."""


def code_of(block: Block) -> str:
    """The characters of a preformatted block, without the line end that closes the last line."""
    code = clean("".join([part for part in block.parts if isinstance(part, str)]))
    return code[:-1] if code.endswith("\n") else code


def fence(block: Block, nodes: list[Node]) -> str:
    """A fenced code block; "" when there is nothing in it."""
    code = code_of(block)
    if not code.strip():
        return ""
    longest = max(map(len, _BACKTICKS.findall(code)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{_language(block, nodes)}\n{code}\n{ticks}"


def _language(block: Block, nodes: list[Node]) -> str:
    for part in block.parts:
        if not isinstance(part, str) and part[0] == "lang":
            found = _named(part[1])
            if found:
                return found
    index = block.node
    for level in range(_ANCESTORS + 1):
        if index < 0:
            break
        attributes = nodes[index].attributes
        if attributes:
            for name in ("data-lang", "data-language", "lang" if level == 0 else "data-code-lang"):
                value = (attributes.get(name) or "").strip().lower()
                # An element's own "lang" may be that of its words.
                if value and (name != "lang" or value in _LANGUAGES):
                    return value if re.fullmatch(r"[\w+#.-]{1,30}", value) else ""
            found = _named(attributes.get("class") or "")
            if found:
                return found
        index = nodes[index].parent
    return ""


def _named(names: str) -> str:
    """The language that class names tell: ``language-js``, ``brush: js``, ``hljs python``."""
    if not names:
        return ""
    names = names.lower()
    for match in _PREFIXED.finditer(names):
        if match[1] not in _NO_LANGUAGE:
            return match[1].rstrip("-.")
    words = names.replace(";", " ").split()
    if not _MARKERS.isdisjoint(words) or len(words) == 1:
        for word in words:
            if word in _LANGUAGES:
                return word
    return ""
