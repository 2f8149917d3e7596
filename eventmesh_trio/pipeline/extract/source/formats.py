"""What kind of text a body is, and that text as a page: by its type, and by its first element.

HTML stays what it is. Everything else becomes markup that says the same, so that one way leads to
text, Markdown, links and metadata.
"""

import html
import json
import re
from typing import Any, Final

import attrs

from eventmesh_trio.pipeline.extract.source.decode import Source
from eventmesh_trio.pipeline.extract.source.xmltext import (
    FEED_ROOTS,
    HEAD_CHARS,
    SITEMAP_ROOTS,
    Entry,
    feed_markup,
    read_feed,
    root_of,
    sitemap_markup,
    xml_markup,
)
from eventmesh_trio.pipeline.extract.text import as_markup
from eventmesh_trio.pipeline.fetching.content_types import essence_of

__all__ = ["Markup", "to_markup"]

_XHTML: Final = frozenset({"application/xhtml+xml", "application/xhtml"})
_XML: Final = re.compile(r"(?:application|text)/xml|[^/]+/.+\+xml")
_JSON: Final = re.compile(r".+/(?:.+\+)?json|application/(?:x-ndjson|json-seq)")
_CODE: Final = re.compile(
    r"(?:text|application)/(?:x-)?(javascript|ecmascript|yaml|css|csv|tab-separated-values|python"
    r"|c|c\+\+|java|sh|diff|patch|toml|sql)"
)
_PLAIN: Final = re.compile(r"text/(?!html|sgml)")
_CDATA: Final = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
_RAW: Final = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_EMPTY_TAG: Final = re.compile(
    r"""<([a-zA-Z][^\s/<>]*+)((?:[^<>"'/]++|/(?!>)|"[^"<]*+"|'[^'<]*+')*+)/>"""
)
_FEED_HEAD_CHARS: Final = 1024  # where a JSON Feed names its version, as first member
_VOID_WORDS: Final = """
    area base br col embed hr img input link meta param source track wbr circle ellipse line path
    polygon polyline rect stop use
"""
_VOID: Final = frozenset(_VOID_WORDS.split())  # and what closes itself in drawings, in HTML too


@attrs.frozen
class Markup:
    """A page's markup, and the way it came about (``extraction_method``); None: it is HTML."""

    html: bytes
    method: str | None = None
    truncated: bool = False
    tags: int | None = None  # how often there is a "<", if that is known


def to_markup(source: Source, content_type: str | None) -> Markup:
    """Say what a decoded body is, and give it as HTML.

    Args:
      content_type: as sent. Feeds and sitemaps are known by their root element too, whatever their
        type; without a type, anything else is HTML.
    """
    essence = essence_of(content_type or "")
    if essence == "text/plain":
        return _made(as_markup(source.text), "plain-text")
    root = root_of(source.head(HEAD_CHARS))
    if root in FEED_ROOTS:
        return _made(feed_markup(*read_feed(source.text)), "feed")
    if root in SITEMAP_ROOTS:
        return _made(sitemap_markup(read_feed(source.text)[1]), "sitemap")
    if essence in _XHTML or (root == "html" and _XML.fullmatch(essence)):
        return Markup(_as_html(source.text).encode())
    if _XML.fullmatch(essence):
        return _made(xml_markup(source.text), "xml")
    if _JSON.fullmatch(essence):
        feed = _json_feed(source.text)
        return (
            _made(feed, "feed") if feed is not None else _made(_code(source.text, "json"), "json")
        )
    if code := _CODE.fullmatch(essence):
        return _made(_code(source.text, code[1]), "plain-text")
    if _PLAIN.match(essence):
        return _made(as_markup(source.text), "plain-text")
    return Markup(source.utf8, tags=source.tags)


def _made(markup: str, method: str) -> Markup:
    return Markup(markup.encode("utf-8", "replace"), method)


def _code(text: str, language: str) -> str:
    return f'<pre><code class="language-{language}">{html.escape(text)}</code></pre>'


def _as_html(text: str) -> str:
    """XHTML in HTML's own syntax: its CDATA is text, and every element may be closed in its tag."""
    parts: list[str] = []
    position = 0
    for raw in _RAW.finditer(text):
        # ``<script src="x"/>`` has no content; what follows it is the page.
        opening = _EMPTY_TAG.match(text, raw.start())
        end = raw.end() if opening is None else opening.end()
        if raw.start() < position:
            continue
        parts.append(_without_xml(text[position : raw.start()]))
        parts.append(text[raw.start() : end] if opening is None else _closed(opening))
        position = end
    parts.append(_without_xml(text[position:]))
    return "".join(parts)


def _without_xml(text: str) -> str:
    text = _CDATA.sub(lambda match: html.escape(match[1], quote=False), text)
    return _EMPTY_TAG.sub(_closed, text)


def _closed(match: re.Match[str]) -> str:
    if match[1].lower() in _VOID:
        return match[0]
    return f"<{match[1]}{match[2]}></{match[1]}>"


def _json_feed(text: str) -> str | None:
    """A JSON Feed as markup; None for any other JSON. Source: https://www.jsonfeed.org/version/1.1"""
    if "jsonfeed.org/version" not in text[:_FEED_HEAD_CHARS]:
        return None
    try:
        feed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(feed, dict) or not isinstance(feed.get("items"), list):
        return None
    entries = [_json_entry(item) for item in feed["items"] if isinstance(item, dict)]
    head = Entry(
        title=_string(feed, "title"),
        summary=html.escape(_string(feed, "description")),
        language=_string(feed, "language"),
    )
    return feed_markup(head, entries)


def _json_entry(item: dict[str, Any]) -> Entry:
    plain = as_markup(_string(item, "content_text") or _string(item, "summary"))
    return Entry(
        title=_string(item, "title"),
        link=_string(item, "url"),
        content=_string(item, "content_html") or plain,
        date=_string(item, "date_published"),
        modified=_string(item, "date_modified"),
    )


def _string(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""
