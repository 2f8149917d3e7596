"""XML that is no page, as markup that is one: feeds, sitemaps, and the text of any other.

Read by a scanner that forgives what feeds get wrong (stray ampersands, HTML names, unclosed tags)
and expands no entity of a document type, so that nothing grows. Time is linear.

Sources: https://www.rssboard.org/rss-specification, RFC 4287 (Atom), https://www.sitemaps.org.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from html import escape, unescape
from typing import Final

import attrs

from eventmesh_trio.pipeline.extract.source.parse import parse

__all__ = [
    "HEAD_CHARS",
    "Entry",
    "feed_markup",
    "read_feed",
    "root_of",
    "sitemap_markup",
    "xml_markup",
]

FEED_ROOTS: Final = frozenset({"rss", "feed", "rdf:rdf"})
SITEMAP_ROOTS: Final = frozenset({"urlset", "sitemapindex"})
HEAD_CHARS: Final = 4096  # what may stand before a root: declaration, document type, comments
_ROOT: Final = re.compile(
    r"\s*+(?:<\?[^>]*+>\s*+|<!--.*?-->\s*+|<!DOCTYPE(?:[^>\[]++|\[[^\]]*+\])*+>\s*+)*+<([^\s/>!?]++)",
    re.DOTALL | re.IGNORECASE,
)
_TOKEN: Final = re.compile(
    r"""<!\[CDATA\[(?P<data>.*?)(?:\]\]>|\Z)
      | <!--.*?(?:-->|\Z)
      | <\?.*?(?:\?>|\Z)
      | <![^<>]*+>?+
      | <(?P<end>/?)(?P<name>[^\s/>!?<]++)
        (?P<attributes>(?:[^<>"']++|"[^"<]*+"|'[^'<]*+')*+)[^<>]*+>?+""",
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE: Final = re.compile(r"""([\w:.-]++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)')""")
_FIELDS: Final = {
    "title": "title",
    "link": "link",
    "loc": "link",
    "description": "summary",
    "summary": "summary",
    "subtitle": "summary",
    "content": "content",
    "content:encoded": "content",
    "pubdate": "date",
    "published": "date",
    "dc:date": "date",
    "updated": "modified",
    "lastbuilddate": "modified",
    "lastmod": "modified",
    "dc:creator": "author",
    "author": "author",
    "name": "author",
    "managingeditor": "author",
    "language": "language",
    "dc:language": "language",
}
_ENTRIES: Final = frozenset({"item", "entry", "url", "sitemap"})
_CONTAINERS: Final = frozenset({"author", "contributor"})  # in Atom, where names are in them


@attrs.frozen(kw_only=True)
class Entry:
    """A feed, or one entry of it. ``summary`` and ``content`` are markup, the rest is text."""

    title: str = ""
    link: str = ""
    summary: str = ""
    content: str = ""
    date: str = ""
    modified: str = ""
    author: str = ""
    language: str = ""


def root_of(text: str) -> str:
    """The name of the first element, in lower case; "" where nothing looks like one."""
    match = _ROOT.match(text[:HEAD_CHARS])
    return match[1].lower() if match is not None else ""


def read_feed(text: str) -> tuple[Entry, list[Entry]]:
    """What a feed or a sitemap says of itself, and its entries in order."""
    feed: dict[str, str] = {}
    records = [feed]
    record = feed
    atom = root_of(text) == "feed"
    field = ""
    raw = False  # markup that stands in the feed as it is
    depth = position = 0
    pieces: list[str] = []
    for token in _TOKEN.finditer(text):
        gap = text[position : token.start()]
        position = token.end()
        if field and gap:
            pieces.append(gap if raw else unescape(gap))
        name = token["name"]
        if name is None:
            if field and (data := token["data"]):
                pieces.append(escape(data) if raw else data)
            continue
        name = name.lower()
        attributes = token["attributes"]
        closed = attributes.endswith("/")
        if token["end"]:
            if not field:
                record = feed if name in _ENTRIES else record
            elif depth:
                depth -= 1
                pieces.append(token[0])
            else:
                record.setdefault(field, "".join(pieces).strip())
                field = ""
        elif field:
            depth += not closed
            pieces.append(token[0])
        elif name in _ENTRIES:
            record = {}
            records.append(record)
        elif name == "link" and "href" in attributes:
            _add_link(record, attributes)
        elif name in _FIELDS and not closed and not (atom and name in _CONTAINERS):
            field, depth, pieces = _FIELDS[name], 0, []
            raw = "xhtml" in attributes
    return _entry(feed), [_entry(record) for record in records[1:]]


def _add_link(record: dict[str, str], attributes: str) -> None:
    values = {name.lower(): one or other for name, one, other in _ATTRIBUTE.findall(attributes)}
    if values.get("rel", "alternate") == "alternate":
        record.setdefault("link", unescape(values.get("href", "")).strip())


def _entry(record: dict[str, str]) -> Entry:
    return Entry(
        title=_words(record.get("title", "")),
        link=record.get("link", ""),
        summary=record.get("summary", ""),
        content=record.get("content", ""),
        date=_iso_date(record.get("date", "")),
        modified=_iso_date(record.get("modified", "")),
        author=_words(record.get("author", "")),
        language=record.get("language", ""),
    )


def _words(markup: str) -> str:
    """The text of a title: feeds escape it once, twice, or not at all."""
    return " ".join(unescape(re.sub(r"</?[a-zA-Z][^<>]*>", "", markup)).split())


def _iso_date(value: str) -> str:
    """RFC 3339, of RFC 822's or its own; "" for what is neither."""
    value = value.strip()
    try:
        return datetime.fromisoformat(value).isoformat()
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""


def feed_markup(feed: Entry, entries: list[Entry]) -> str:
    """A page with an article for every entry: its title as a link, date and author, its text."""
    parts = [_head(feed), f"<h1>{escape(feed.title)}</h1>", _inner(feed.summary)]
    for entry in entries:
        title = escape(entry.title or entry.link)
        if entry.link:
            title = f'<a href="{escape(entry.link)}">{title}</a>'
        about = " · ".join(filter(None, (entry.date or entry.modified, entry.author)))
        parts.append(f"<article><h2>{title}</h2>")
        if about:
            parts.append(f"<p>{escape(about)}</p>")
        parts.append(f"{_inner(entry.content or entry.summary)}</article>")
    return "".join(parts)


def _head(feed: Entry) -> str:
    metas = {
        "description": _words(feed.summary),
        "author": feed.author,
        "article:published_time": feed.date,
        "article:modified_time": feed.modified,
    }
    return (
        f'<!DOCTYPE html><html lang="{escape(feed.language)}"><title>{escape(feed.title)}</title>'
        + "".join(
            f'<meta name="{name}" content="{escape(value)}">'
            for name, value in metas.items()
            if value
        )
    )


def _inner(markup: str) -> str:
    """An entry's markup, complete in itself: what it leaves open must not swallow the next."""
    if "<" not in markup:
        return f"<p>{markup}</p>" if markup else ""
    body = parse(markup).body
    return (body.inner_html or "") if body is not None else ""


def sitemap_markup(entries: list[Entry]) -> str:
    """A list of the pages that a sitemap names, each with when it was changed."""
    items = (
        f'<li><a href="{escape(entry.link)}">{escape(entry.link)}</a> {escape(entry.modified)}</li>'
        for entry in entries
        if entry.link
    )
    return f"<!DOCTYPE html><ul>{''.join(items)}</ul>"


def xml_markup(text: str) -> str:
    """Any other XML: a paragraph for each element that has text of its own, in order."""
    title = ""
    paragraphs: list[str] = []
    for name, words in _texts(text):
        if name == "title" and not title:
            title = words
        paragraphs.append(f"<p>{escape(words)}</p>")
    return f"<!DOCTYPE html><title>{escape(title)}</title>{''.join(paragraphs)}"


def _texts(text: str) -> Iterator[tuple[str, str]]:
    """The elements with text of their own: name, and text with that of the elements in it."""
    owner, depth, owner_depth, position = "", 0, 0, 0
    name = ""
    pieces: list[str] = []
    for token in _TOKEN.finditer(text):
        words = unescape(text[position : token.start()])
        position = token.end()
        if token["data"] is not None:
            words += token["data"]
        if words and (pieces or not words.isspace()):
            if not pieces:
                owner, owner_depth = name, depth
            pieces.append(words)
        tag = token["name"]
        if tag is None:
            continue
        if not token["end"]:
            if not token["attributes"].endswith("/"):
                depth += 1
                name = tag.rpartition(":")[2].lower()
            continue
        if pieces and depth <= owner_depth:
            yield owner, " ".join("".join(pieces).split())
            pieces = []
        depth -= depth > 0
    pieces.append(unescape(text[position:]))
    rest = " ".join("".join(pieces).split())
    if rest:
        yield owner, rest
