"""MathML as what it was written in.

Source: https://www.w3.org/TR/MathML3/chapter5.html (annotations).
"""

from typing import Final

from selectolax.lexbor import LexborNode

__all__ = ["formula"]

_MAX_ANNOTATIONS: Final = 8
"""Of one formula, that are looked at; converters write one or two. Each is searched for in all of
the formula's text, so their time would grow with the square of their number."""
_TEX_ENCODINGS: Final = frozenset(("application/x-tex", "application/x-latex", "tex", "latex"))


def formula(node: LexborNode) -> tuple[str, str]:
    """The TeX of a ``<math>`` element, "" where the page gives none, and the characters shown."""
    tex = ""
    shown = node.text()
    for annotation in node.css("annotation, annotation-xml")[:_MAX_ANNOTATIONS]:
        content = annotation.text()
        if not content:
            continue
        head, _, tail = shown.rpartition(content)
        shown = head + tail
        if (annotation.attributes.get("encoding") or "").lower() in _TEX_ENCODINGS:
            tex = content
    tex = (tex or node.attributes.get("alttext") or "").strip()
    if tex.startswith("{\\displaystyle") and tex.endswith("}"):
        tex = tex[len("{\\displaystyle") : -1].strip()
    return tex, shown
