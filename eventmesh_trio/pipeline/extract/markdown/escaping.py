"""What a page says is data: the characters that Markdown or HTML would act on are escaped.

Only these, and only where they would act, so that ordinary prose stays as it was written: a single
``*`` between spaces, ``snake_case``, ``[brackets]`` and ``C:\\dir`` need no backslash.

Source: https://spec.commonmark.org/0.31.2/ and https://github.github.com/gfm/
"""

import re
from typing import Final

__all__ = [
    "ANY_SPECIAL",
    "escape",
    "escape_block",
    "escape_cell",
    "escape_destination",
    "escape_lines",
]

# All alternatives begin with a plain character: it is these that are looked for then, in an eighth
# of the time.
_INLINE: Final = (
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # before punctuation only
    r"|`"
    r"|\*(?:(?<!\s\*)|(?!\s))"
    r"|_(?:(?<![^\W_]_)|(?![^\W_]))"
    r"|~"
    r"|&(?=#?\w+;)"
    r"|<(?![\s\d=.,-])"
)
_SPECIAL: Final = re.compile(_INLINE + r"|\[(?=\^)|\](?=[(:])")
_SPECIAL_IN_LABEL: Final = re.compile(_INLINE + r"|\[|\]")
ANY_SPECIAL: Final = re.compile(r"[\\`*_~\[\]&<]")
"""Without one of these a text is written as it is."""
_REPLACED: Final = {"<": "&lt;", "&": "&amp;"}

# Block structure that a line of a paragraph could be taken for.
_LINE_START: Final = re.compile(
    r"^(?:"
    r"(?P<sign>\#{1,6}(?=\s|$)|[-+*](?=\s|$)|>|=+\s*$|[|:-][|:\-\s]*$|\[(?=[ xX]\]\s))"
    r"|(?P<number>\d{1,9})(?=[.)](?:\s|$))"
    r"|(?P<note>\[\^[^\]\n]+\])(?=:)"
    r")",
    re.MULTILINE,
)
# A link whose text is code can be taken for the definition of a reference: [`a]: b`](...)
_DEFINITION: Final = re.compile(r"\[(?:[^\[\]\\]|\\.)+\]:", re.DOTALL)
_MAY_START: Final = frozenset("#-+*>=|:[0123456789")

_ODD_IN_HREF: Final = re.compile(r"[<> \\`]")
_HREF: Final = str.maketrans({"<": "%3C", ">": "%3E", " ": "%20", "\\": "%5C", "`": "%60"})
_MAX_PARENTHESES: Final = 3
"""How deep parentheses may nest in a link: readers need not follow further (CommonMark, 6.3)."""


def escape(text: str, *, paired: bool = True, label: bool = False) -> str:
    """Text as Markdown shows it, inside a line.

    Args:
      paired: a backtick or tilde is not alone; one without a partner in its block is no markup.
      label: it stands between the brackets of a link or an image.
    """
    if ANY_SPECIAL.search(text) is None:
        return text
    special = _SPECIAL_IN_LABEL if label else _SPECIAL
    return special.sub(_escaped if paired else _escaped_unpaired, text)


def escape_block(text: str) -> str:
    """Likewise the whole text of a block: whether its backticks have partners is seen in it."""
    if ANY_SPECIAL.search(text) is None:
        return text
    return escape(text, paired=text.count("`") > 1 or text.count("~") > 1)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return _REPLACED.get(character) or "\\" + character


def _escaped_unpaired(match: re.Match[str]) -> str:
    character = match[0]
    return character if character in "`~" else _escaped(match)


def escape_lines(content: str) -> str:
    """Escaped inline content as a paragraph: no line of it begins a list, a heading, a table..."""
    several = "\n" in content
    if content[0] not in _MAY_START and not several:
        return content
    if content[0] == "[" and _DEFINITION.match(content) is not None:
        content = "&#32;" + content  # code cannot be escaped: a space in front, as a reference
    if several:
        return _LINE_START.sub(_line_escaped, content)
    match = _LINE_START.match(content)  # and not for each character of a paragraph
    return content if match is None else _line_escaped(match) + content[match.end() :]


def _line_escaped(match: re.Match[str]) -> str:
    if match["sign"]:
        return "\\" + match["sign"]
    return f"{match['number'] or match['note']}\\"


def escape_cell(content: str) -> str:
    """Inline content as a table cell: GFM reads a pipe as the cell's end, even in code."""
    return content.replace("|", "\\|") if "|" in content else content


def escape_destination(address: str) -> str:
    """An absolute address as the destination of a link; the address that is read back is equal."""
    if _ODD_IN_HREF.search(address) is not None:
        address = address.translate(_HREF)
    if "(" in address or ")" in address:
        depth = deepest = 0
        for character in address:
            if character == "(":
                depth += 1
                deepest = max(deepest, depth)
            elif character == ")":
                depth -= 1
                if depth < 0:
                    break
        if depth or deepest > _MAX_PARENTHESES:
            return address.replace("(", "\\(").replace(")", "\\)")
    return address
