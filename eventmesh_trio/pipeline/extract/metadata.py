"""What a page says about itself: JSON-LD, OpenGraph, Twitter cards, Dublin Core, its own text."""

import re
from collections.abc import Iterable
from typing import Final

import attrs
from selectolax.lexbor import LexborHTMLParser, LexborNode

from eventmesh_trio.pipeline.extract import jsonld
from eventmesh_trio.pipeline.extract.dates import parse_date, url_date
from eventmesh_trio.pipeline.extract.language import normalise
from eventmesh_trio.pipeline.extract.links import absolute
from eventmesh_trio.pipeline.extract.outline import Outline
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["Metadata", "complete", "read_metadata"]

MAX_TAGS: Final = 50
_MAX_VALUE_CHARS: Final = 2000
_MAX_AUTHOR_CHARS: Final = 120
_BYLINE_BLOCKS: Final = 25
_BYLINE_CHARS: Final = 120
_SEPARATOR: Final = re.compile(r"\s+[|\-–—·•»«:/]+\s+|\s*[|»]\s*|:\s+")
_BY: Final = re.compile(
    r"^\s*(?:(?:written|posted|published|story)\s+)?(?:by|von|par|por|di|автор)\b[:\s]+", re.I
)
_ADDRESS: Final = re.compile(r"^(?:https?:|www\.|/|@?\S+@\S+\.)", re.I)
_BYLINE_END: Final = re.compile(r"\s+(?:[|•·–—]|on\s|\d).*$|,\s*(?:\w+\.?,?\s+){0,3}\d.*$", re.S)
_PUBLISHED: Final = (
    "article:published_time", "og:article:published_time", "og:published_time",
    "datepublished", "publishdate", "publish-date", "publish_date", "pubdate",
    "parsely-pub-date", "sailthru.date", "article.published", "dc.date.issued",
    "dcterms.issued", "dcterms.created", "dc.date.created", "dc.date", "dcterms.date",
    "citation_publication_date", "date", "cxenseparse:recs:publishtime", "bt:pubdate",
    "article_date_original",
)  # fmt: skip
_MODIFIED: Final = (
    "article:modified_time", "og:updated_time", "datemodified", "last-modified", "lastmod",
    "dcterms.modified", "dc.date.modified",
)  # fmt: skip
_AUTHORS: Final = (
    "author", "article:author", "og:article:author", "parsely-author", "sailthru.author",
    "dc.creator", "dcterms.creator", "citation_author", "byl", "cxenseparse:author",
    "twitter:creator_name",
)  # fmt: skip
_BYLINES: Final = (
    '[itemprop="author"] [itemprop="name"], [itemprop="author"]',
    '[rel="author"]',
    ".byline-name, .author-name, .byline__name, .author__name, .post-author-name",
    ".byline a, .author a, .post-author a, .entry-author a, .vcard .fn",
    ".byline, .author, .post-author, .entry-author, .article-author",
)
_PAGE_TYPES: Final = (
    (re.compile(r"(?:Product|ProductGroup)$"), "product"),
    (re.compile(r"(?:DiscussionForumPosting|QAPage|Question)$"), "forum"),
    (re.compile(r"(?:Article|BlogPosting|Report|Recipe|Review)$"), "article"),
    (re.compile(r"(?:CollectionPage|ItemList|SearchResultsPage)$"), "collection"),
    (re.compile(r"(?:VideoObject)$"), "video"),
    (re.compile(r"(?:ProfilePage)$"), "profile"),
    (re.compile(r"(?:Service)$"), "service"),
)


@attrs.frozen(kw_only=True)
class Metadata:
    """The members of a `Document` that are read, not computed. None: the page does not say."""

    title: str = ""
    author: str | None = None
    date: str | None = None
    modified: str | None = None
    site_name: str | None = None
    description: str | None = None
    language: str | None = None
    canonical_url: str | None = None
    image: str | None = None
    favicon: str | None = None
    page_type: str | None = None
    tags: tuple[str, ...] = ()
    body: str | None = None  # ``articleBody`` of JSON-LD, perhaps with markup
    has_opengraph: bool = False
    has_article_jsonld: bool = False


class _Values(dict[str, str]):
    """``<meta>`` values by lower-case name; the first of a name counts."""

    def first(self, *names: str) -> str | None:
        for name in names:
            value = self.get(name)
            if value:
                return value
        return None


def read_metadata(tree: LexborHTMLParser, url: str | None, base: str | None) -> Metadata:
    """Read a parsed page's metadata. Never raises: what is malformed is as if it were not there."""
    metas = _Values()
    lists: dict[str, list[str]] = {}
    for element in tree.css("meta"):
        attributes = element.attributes
        content = attributes.get("content")
        if not content:
            continue
        value = _tidy(content)
        for key in ("property", "name", "itemprop", "http-equiv"):
            name = (attributes.get(key) or "").lower()
            if name and value:
                metas.setdefault(name, value)
                lists.setdefault(name, []).append(value)
    items = [
        item
        for script in tree.css('script[type^="application/ld+json" i]')
        for item in jsonld.read_items(script.text())
    ]
    main = jsonld.main_item(items) or {}
    types = jsonld.types(main)
    links = _links(tree, base)
    site = metas.first("og:site_name", "application-name", "al:ios:app_name") or _publisher(
        main, items
    )
    body = main.get("articleBody")
    return Metadata(
        title=_title(tree, metas, main, site),
        author=_author(tree, lists, main),
        date=_first_date(main.get("datePublished"), main.get("dateCreated"), main.get("uploadDate"))
        or _first_date(*(metas.get(name) for name in _PUBLISHED))
        or _first_date(*(item.get("datePublished") for item in items))
        or url_date(url)
        or _visible_date(tree),
        modified=_first_date(main.get("dateModified"), *(metas.get(name) for name in _MODIFIED)),
        site_name=site,
        description=metas.first(
            "og:description", "description", "twitter:description", "dc.description"
        )
        or _ld_text(main.get("description")),
        language=_language(tree, metas, main),
        canonical_url=links.get("canonical") or _address(metas.get("og:url"), base),
        image=_address(
            metas.first("og:image", "og:image:url", "twitter:image", "twitter:image:src"), base
        )
        or _address(_image(main.get("image")), base)
        or links.get("image_src"),
        favicon=links.get("icon"),
        page_type=_page_type(types, metas),
        tags=_tags(tree, metas, lists, main),
        body=clean(body) if isinstance(body, str) and body.strip() else None,
        has_opengraph=any(name.startswith("og:") for name in metas),
        has_article_jsonld=any(map(jsonld.is_article, items)),
    )


def _tidy(text: str) -> str:
    return clean(" ".join(text.split()))[:_MAX_VALUE_CHARS]


def _ld_text(value: object) -> str | None:
    text = jsonld.text_of(value)
    return (_tidy(text) or None) if text else None


def _address(value: str | None, base: str | None) -> str | None:
    return absolute(value, base) if value else None


def _image(value: object) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("url", value.get("contentUrl"))
    return value if isinstance(value, str) else None


def _links(tree: LexborHTMLParser, base: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in tree.css("link[rel][href]"):
        attributes = element.attributes
        words = (attributes.get("rel") or "").lower().split()
        for word in words:
            if word in ("canonical", "icon", "image_src") and word not in found:
                address = absolute(attributes.get("href") or "", base)
                if address is not None:
                    found[word] = address
    return found


def _publisher(main: jsonld.Item, items: Iterable[jsonld.Item]) -> str | None:
    for name in jsonld.names(main.get("publisher")):
        return _tidy(name)
    for item in items:
        if "WebSite" in jsonld.types(item):
            return _ld_text(item.get("name"))
    return None


def complete(metadata: Metadata, page: Outline) -> Metadata:
    """Fill in author and date from the short lines by the first heading, as readers do."""
    if metadata.author is not None and metadata.date is not None:
        return metadata
    author, date = metadata.author, metadata.date
    blocks = page.blocks
    start = next((i for i, block in enumerate(blocks) if block.tag == "h1"), 0)
    for block in blocks[max(0, start - 5) : start + _BYLINE_BLOCKS]:
        if not 0 < block.chars <= _BYLINE_CHARS:
            continue
        text = clean(block.text)
        if author is None and _BY.match(text):
            author = _names([_BYLINE_END.sub("", text)])
        if date is None:
            date = parse_date(text)
    return attrs.evolve(metadata, author=author, date=date)


# --- title ---------------------------------------------------------------------------------------


def _title(tree: LexborHTMLParser, metas: _Values, main: jsonld.Item, site: str | None) -> str:
    head = tree.css_first("head > title") or tree.css_first("title")
    if head is not None and head.parent is not None and head.parent.tag == "svg":
        head = None
    document_title = _tidy(head.text()) if head is not None else ""
    headings = [text for text in (_tidy(h.text()) for h in tree.css("h1")[:8]) if text]
    declared = metas.first(
        "og:title", "twitter:title", "dc.title", "dcterms.title", "citation_title", "title"
    )
    declared = declared or _ld_text(main.get("headline"))
    whole = declared or document_title
    folded = whole.casefold()
    for heading in headings:
        if len(heading) >= 4 and heading.casefold() in folded and (not site or heading != site):
            return heading if len(heading) * 2 >= len(whole) or _SEPARATOR.search(whole) else whole
    title = _without_site(whole, site)
    if title:
        return title
    return headings[0] if headings else ""


def _without_site(title: str, site: str | None) -> str:
    """``Story | The Site`` to ``Story``: by the site's own name, else by the usual separators."""
    pieces = [
        piece.strip()
        for piece in re.split(r"\s+[|–—·•»-]\s+|\s*\|\s*|\s+»\s*", title)
        if piece.strip()
    ]
    if len(pieces) < 2:
        return title
    if site:
        name = site.casefold()
        rest = [
            piece
            for piece in pieces
            if piece.casefold() not in name and name not in piece.casefold()
        ]
        if rest and len(rest) < len(pieces):
            start = title.find(rest[0])
            return title[start : title.find(rest[-1], start) + len(rest[-1])]
    longest = max(pieces, key=len)
    if len(pieces[-1]) <= 30 and len(longest.split()) >= 3 and longest != pieces[-1]:
        return title[: title.rfind(pieces[-1])].rstrip(" |-–—·•»")
    return title


# --- author --------------------------------------------------------------------------------------


def _author(tree: LexborHTMLParser, lists: dict[str, list[str]], main: jsonld.Item) -> str | None:
    found = _names(jsonld.names(main.get("author") or main.get("creator")))
    if found:
        return found
    for name in _AUTHORS:
        found = _names(lists.get(name, ()))
        if found:
            return found
    for selector in _BYLINES:
        found = _names(_byline(element) for element in tree.css(selector)[:3])
        if found:
            return found
    return None


def _byline(element: LexborNode) -> str:
    content = element.attributes.get("content")
    return _BYLINE_END.sub("", _tidy(content or element.text(separator=" ")))


def _names(values: Iterable[str]) -> str | None:
    kept: list[str] = []
    for value in values:
        name = _BY.sub("", _tidy(value)).strip(" ,;|-–—•·")
        if not name or len(name) > _MAX_AUTHOR_CHARS or _ADDRESS.match(name):
            continue
        if not any(character.isalpha() for character in name) or len(name.split()) > 12:
            continue
        if name.casefold() not in (known.casefold() for known in kept):
            kept.append(name)
    return ", ".join(kept[:8]) or None


# --- the rest ------------------------------------------------------------------------------------


def _first_date(*values: object) -> str | None:
    for value in values:
        text = value[0] if isinstance(value, list) and value else value
        found = parse_date(text) if isinstance(text, str) else None
        if found:
            return found
    return None


def _visible_date(tree: LexborHTMLParser) -> str | None:
    for selector in (
        '[itemprop="datePublished"]',
        "time[pubdate]",
        "article time, main time, header time",
        "time[datetime]",
        ".published, .post-date, .entry-date, .article-date, .date, .dateline, .timestamp, .byline",
    ):
        for element in tree.css(selector)[:3]:
            attributes = element.attributes
            found = parse_date(
                attributes.get("datetime") or attributes.get("content")
            ) or parse_date(_tidy(element.text(separator=" ")))
            if found:
                return found
    return None


def _language(tree: LexborHTMLParser, metas: _Values, main: jsonld.Item) -> str | None:
    root = tree.root
    attributes = root.attributes if root is not None else {}
    for value in (
        attributes.get("lang"),
        attributes.get("xml:lang"),
        metas.get("content-language"),
        metas.get("og:locale"),
        metas.get("dc.language"),
        _ld_text(main.get("inLanguage")),
    ):
        found = normalise(value)
        if found:
            return found
    return None


def _page_type(types: list[str], metas: _Values) -> str | None:
    for pattern, name in _PAGE_TYPES:
        if any(pattern.search(entry) for entry in types):
            return name
    declared = (metas.get("og:type") or "").lower().strip()
    return declared.rpartition(":")[2].rpartition(".")[2][:40] or None


def _tags(
    tree: LexborHTMLParser, metas: _Values, lists: dict[str, list[str]], main: jsonld.Item
) -> tuple[str, ...]:
    values = list(lists.get("article:tag", ()))
    words = main.get("keywords")
    entries = words if isinstance(words, list) else [words]
    for entry in [*entries, metas.first("keywords", "news_keywords", "parsely-tags")]:
        text = _ld_text(entry)
        values += re.split(r"[,;]", text) if text else ()
    values += [_tidy(element.text()) for element in tree.css('a[rel~="tag"]')[:MAX_TAGS]]
    tags: dict[str, str] = {}
    for value in values:
        tag = _tidy(value).lstrip("#").strip()
        if 0 < len(tag) <= 60:
            tags.setdefault(tag.casefold(), tag)
    return tuple(tags.values())[:MAX_TAGS]
