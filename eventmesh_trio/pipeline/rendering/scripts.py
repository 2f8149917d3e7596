"""What is run in a page, all of it in an isolated world: the page's scripts cannot change it.

Its elements could: one named ``URL`` or ``documentElement`` hides the document's own property, in
every world. So those are read by the getters of their prototypes.
"""

import json
from typing import Final

__all__ = ["SLICE_CHARACTERS", "has_selector", "scroll", "slice_of_text", "take_text"]

SLICE_CHARACTERS: Final = 256 * 1024

_GET: Final = (
    "const get = name =>"
    " Object.getOwnPropertyDescriptor(Document.prototype, name).get.call(document);"
)


def has_selector(selector: str) -> str:
    """Whether an element fits; throws ``SyntaxError`` where the selector is none."""
    return f"Document.prototype.querySelector.call(document, {json.dumps(selector)}) !== null"


def scroll() -> str:
    """Scroll down by a window; whether that moved anything."""
    return (
        "(() => { const before = scrollY;"
        " window.scrollTo({top: before + innerHeight, behavior: 'instant'});"
        " return scrollY > before; })()"
    )


def take_text(max_bytes: int) -> str:
    """Keep the document's text in the world, and tell of it; its text only if not too large."""
    return (
        f"(() => {{ {_GET}"
        """
        const root = get("documentElement"), type = get("contentType");
        const serialise = node => new XMLSerializer().serializeToString(node);
        const markup = type === "text/html" || type === "application/xhtml+xml";
        let text = "";
        if (markup) {
          const doctype = get("doctype");
          if (root) text = (doctype ? serialise(doctype) + "\\n" : "") + root.outerHTML;
        } else if (/[/+]xml$/.test(type)) {
          text = serialise(document);
        } else if (root) {
          const pre = Document.prototype.querySelector.call(document, "pre");
          text = (pre ?? root).textContent;
        }
        const found = {type, url: get("URL"), characters: text.length, bytes: text.length};
        """
        f"if (text.length <= {max_bytes}) {{"
        """
          text = text.toWellFormed();
          found.bytes = new TextEncoder().encode(text).length;
          globalThis.eventmeshText = text;
        }
        return found;
        })()"""
    )


def slice_of_text(start: int) -> str:
    """A piece of the text that `take_text` kept, cut between characters: ``[piece, end]``."""
    return (
        f"(() => {{ const text = eventmeshText; let end = {start + SLICE_CHARACTERS};"
        " const last = text.charCodeAt(end - 1);"
        " if (last >= 0xd800 && last < 0xdc00) end += 1;"
        f" return [text.slice({start}, end), Math.min(end, text.length)]; }})()"
    )
