"""How the crawling peers read a page: to Markdown or text, with its metadata."""

from collections.abc import Callable
from typing import Any

_PAGE = b"""<!doctype html><html lang="en"><head><title>A page</title>
<meta name="author" content="Somebody"><meta name="date" content="2026-01-02"></head><body><article>
<h1>A page</h1><p>Whoever reads this has read it before all others, which takes a while.</p>
</article></body></html>"""
Read = Callable[[bytes, str], dict[str, Any]]


def trafilatura_reader(*, fast: bool = False) -> Read:
    """Markdown with links and images kept, and metadata: what our documents have as well."""
    import trafilatura
    from trafilatura.settings import Extractor

    def read(body: bytes, url: str) -> dict[str, Any]:
        options = Extractor(
            output_format="markdown",
            url=url,
            with_metadata=True,
            comments=False,
            links=True,
            images=True,
            fast=fast,
        )
        text = trafilatura.extract(body, options=options)
        return {"markdown": text or ""}

    return read


def resiliparse_reader() -> Read:
    """Main content as plain text (it knows no Markdown), and the title."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    def read(body: bytes, _: str) -> dict[str, Any]:
        tree = HTMLTree.parse(bytes_to_str(body, detect_encoding(body, html5_compatible=True)))
        text = extract_plain_text(tree, main_content=True, links=True)
        return {"title": tree.title, "markdown": text}

    return read


def no_reader() -> Read:
    """Nothing is read: the page is there, and that is all."""
    return lambda body, _: {"bytes": len(body)}


def warm(read: Read) -> Read:
    """A reader that has read a page: what it loads at its first one is in nobody's figure."""
    read(_PAGE, "http://warm.example/")
    return read


READERS: dict[str, Callable[[], Read]] = {
    "trafilatura": trafilatura_reader,
    "trafilatura-fast": lambda: trafilatura_reader(fast=True),
    "resiliparse": resiliparse_reader,
    "nothing": no_reader,
}
