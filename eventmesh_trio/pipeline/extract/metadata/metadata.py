"""What a page says about itself: one value of each kind, of the many that it may hold.

Where sources disagree, the order of trust decides; `docs/pipeline.rst` ("Metadata") tells it, and
the tables below are it. Structured data (JSON-LD, microdata) is written for machines and knows who
is an author and which date is which, so it comes first for these; what is written for people who
share a page (OpenGraph, Twitter) comes first for titles, descriptions and images; the visible text
comes last, for what nothing declares.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs
from selectolax.lexbor import LexborHTMLParser

from eventmesh_trio.pipeline.extract.links import absolute
from eventmesh_trio.pipeline.extract.metadata import jsonld
from eventmesh_trio.pipeline.extract.metadata.byline import (
    is_by_label,
    join_names,
    near_heading,
    read_byline,
)
from eventmesh_trio.pipeline.extract.metadata.dates import (
    is_day_first,
    local_form,
    parse_date,
    url_date,
)
from eventmesh_trio.pipeline.extract.metadata.head import Head, read_head, tidy
from eventmesh_trio.pipeline.extract.metadata.language import normalise
from eventmesh_trio.pipeline.extract.metadata.titles import choose_title, fold
from eventmesh_trio.pipeline.extract.page.outline import Outline
from eventmesh_trio.pipeline.extract.selection.kinds import Kind, declared_kind
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["Metadata", "complete", "read_kind", "read_metadata"]

MAX_TAGS: Final = 50
MAX_TAG_CHARS: Final = 60
MAX_TYPE_CHARS: Final = 40
_TITLES: Final = (
    ("og:title", "og:title:content", "twitter:title"),
    ("citation_title", "dc.title", "dcterms.title", "title"),
)  # before and behind the ``<title>`` element
_PUBLISHED: Final = (
    "article:published_time", "og:article:published_time", "og:published_time",
    "datepublished", "publishdate", "publish-date", "publish_date", "pubdate",
    "parsely-pub-date", "sailthru.date", "article.published", "citation_publication_date",
    "citation_date", "dc.date.issued", "dcterms.issued", "dcterms.created", "dc.date.created",
    "dc.date", "dcterms.date", "date", "cxenseparse:recs:publishtime", "bt:pubdate",
    "article_date_original", "article:publicationdate",
)  # fmt: skip
_MODIFIED: Final = (
    "article:modified_time", "og:article:modified_time", "og:updated_time", "datemodified",
    "last-modified", "lastmod", "dcterms.modified", "dc.date.modified", "revised",
)  # fmt: skip
_AUTHORS: Final = (
    "author", "article:author", "og:article:author", "parsely-author", "sailthru.author",
    "citation_author", "citation_authors", "dc.creator", "dcterms.creator", "dc.creator.name",
    "byl", "byline", "cxenseparse:author", "article:author_name", "twitter:creator_name",
)  # fmt: skip
_SITES: Final = ("og:site_name", "application-name", "al:ios:app_name")
_SITES_BEHIND: Final = ("apple-mobile-web-app-title", "dc.publisher", "dcterms.publisher",
                        "citation_journal_title")  # fmt: skip
_DESCRIPTIONS: Final = (
    "og:description", "description", "twitter:description", "dc.description", "dcterms.description",
    "dcterms.abstract", "sailthru.description",
)  # fmt: skip
_IMAGES: Final = (
    "og:image", "og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src",
    "thumbnail",
)  # fmt: skip
_LABELS: Final = (("twitter:label1", "twitter:data1"), ("twitter:label2", "twitter:data2"))
_KEYWORDS: Final = ("keywords", "news_keywords", "parsely-tags", "sailthru.tags", "dc.subject")
_LANGUAGES: Final = (
    ("content-language",), ("og:locale",), ("dc.language", "dcterms.language", "citation_language"),
)  # fmt: skip
_ASKED: Final = frozenset(
    (
        *itertools.chain(*_TITLES, *_LABELS, *_LANGUAGES),
        *(*_PUBLISHED, *_MODIFIED, *_AUTHORS, *_SITES, *_SITES_BEHIND, *_DESCRIPTIONS, *_IMAGES),
        *(*_KEYWORDS, "article:tag", "generator", "og:type", "og:url"),
    )
)
"""All ``<meta>`` names that are looked at below."""
_ITEM_DATES: Final = ("datePublished", "dateCreated", "uploadDate")
_THREADS: Final[frozenset[Kind]] = frozenset(("forum", "topic"))
_KIND_QUERY: Final = (
    'script[type*="json" i], meta[property="og:type" i], meta[name="og:type" i],'
    ' meta[name="generator" i]'
)
_PRODUCTS: Final = frozenset(("Product", "ProductGroup", "IndividualProduct"))
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

    base: str | None = None  # what relative addresses of the page are relative to
    title: str = ""
    author: str | None = None
    is_person: bool = False  # the author is not merely the site
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
    body: str | None = None  # of JSON-LD, an article's or a product's, perhaps with markup
    has_opengraph: bool = False
    has_article_jsonld: bool = False
    kind: Kind = "unknown"  # what the page is, by its own account; ``page_type`` in our words


def read_metadata(tree: LexborHTMLParser, url: str | None, page: Outline) -> Metadata:
    """Read a parsed page's metadata. Never raises: what is malformed is as if it were not there."""
    head = read_head(tree, url, _ASKED)
    base = head.base
    shown = {fold(h.text) for h in head.headings if h.level == 1} | {fold(head.title)}

    def is_titled(headline: str) -> bool:
        return fold(headline) in shown

    items = [*head.items, *jsonld.alone(head.marked, is_titled)]
    main = jsonld.main_item(items, is_titled) or {}
    site = _site_name(head, items, main)
    language = _language(head, main)
    author, is_person = _author(head, items, main, site)
    date = _published(head, items, main) or url_date(url)
    modified = _date(main.get("dateModified")) or next(_dates(head, _MODIFIED), None)
    if not is_person or date is None:
        byline = read_byline(page.signed, day_first=is_day_first(language))
        if not is_person and byline.author is not None:
            author, is_person = byline.author, True
        date = date or byline.date
        modified = modified or byline.modified
    return Metadata(
        base=base,
        title=_title(head, main, site, url),
        author=author,
        is_person=is_person,
        date=date,
        modified=modified,
        site_name=site,
        description=head.first(*_DESCRIPTIONS) or _text(main.get("description")),
        language=language,
        canonical_url=head.links.get("canonical") or _address(head.first("og:url"), base),
        image=_address(head.first(*_IMAGES), base)
        or _address(_image(main.get("image") or main.get("thumbnailUrl")), base)
        or head.links.get("image_src"),
        favicon=head.links.get("icon") or head.links.get("apple-touch-icon"),
        page_type=_page_type(jsonld.types(main), head),
        tags=_tags(head, main),
        body=_body(main),
        has_opengraph=head.has_opengraph,
        has_article_jsonld=any(map(jsonld.is_article, head.items)),
        kind=_kind(head.items, head.first("og:type"), head.first("generator"), url),
    )


def read_kind(tree: LexborHTMLParser, url: str | None) -> Metadata:
    """Read no more than what finding the main text takes: the page's kind, and a declared body."""
    scripts: list[str] = []
    declared: dict[str, str | None] = {}
    for element in tree.css(_KIND_QUERY):
        attributes = element.attributes
        if element.tag == "script":
            if jsonld.is_type(attributes.get("type")):
                scripts.append(element.text(deep=False))
        else:
            name = (attributes.get("property") or attributes.get("name") or "").lower()
            declared.setdefault(name, attributes.get("content"))
    items = jsonld.read_items(scripts)
    main = jsonld.main_item(items, lambda _: False) or {}
    return Metadata(
        kind=_kind(items, declared.get("og:type"), declared.get("generator"), url),
        body=_body(main),
    )


def _kind(
    items: Iterable[jsonld.Item], og_type: str | None, generator: str | None, url: str | None
) -> Kind:
    return declared_kind(
        {name for item in items for name in jsonld.types(item)}, og_type, generator, url
    )


def _body(main: jsonld.Item) -> str | None:
    body = main.get("articleBody")
    if not body and not _PRODUCTS.isdisjoint(jsonld.types(main)):
        body = main.get("description")  # where a program draws the page, all there is of it
    return clean(body) if isinstance(body, str) and body.strip() else None


def complete(metadata: Metadata, page: Outline) -> Metadata:
    """Fill in what is missing of author and dates from the short lines by the first heading.

    A page that tells only when it was last changed is dated so.
    """
    author, date, modified = metadata.author, metadata.date, metadata.modified
    if metadata.is_person and date is not None:
        return metadata
    byline = near_heading(
        page,
        day_first=is_day_first(metadata.language),
        comments=metadata.kind in _THREADS,
    )
    author = author if metadata.is_person else byline.author or author
    date, modified = date or byline.date, modified or byline.modified
    return attrs.evolve(metadata, author=author, date=date or modified, modified=modified)


def _text(value: object) -> str | None:
    text = jsonld.text_of(value)
    return (tidy(text) or None) if text else None


def _address(value: str | None, base: str | None) -> str | None:
    return absolute(value, base) if value else None


def _image(value: object) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("url", value.get("contentUrl"))
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) else None


def _title(head: Head, main: jsonld.Item, site: str | None, url: str | None) -> str:
    shared, described = _TITLES
    declared = (
        *(head.first(name) for name in shared),
        head.title,
        *(head.first(name) for name in described),
        _text(main.get("headline") or main.get("name")),
    )
    return choose_title([title for title in declared if title], head.headings, site, url)


def _site_name(head: Head, items: list[jsonld.Item], main: jsonld.Item) -> str | None:
    found = head.first(*_SITES)
    if found:
        return found
    for item in items:
        if "WebSite" in jsonld.types(item) and (name := _text(item.get("name"))):
            return name
    publisher = jsonld.names(main.get("publisher"))
    return tidy(publisher[0]) if publisher else head.first(*_SITES_BEHIND)


def _author(
    head: Head, items: list[jsonld.Item], main: jsonld.Item, site: str | None
) -> tuple[str | None, bool]:
    """The declared author, and whether it is another than the site itself.

    Many pages declare their site as the author of everything, and show the person in their text.
    """
    own = fold(site or "")
    of_site: str | None = None
    for names in _declared_names(head, items, main):
        found = join_names(names)
        if found is not None:
            if fold(found) != own:
                return found, True
            of_site = of_site or found
    return of_site, False


def _declared_names(
    head: Head, items: list[jsonld.Item], main: jsonld.Item
) -> Iterator[Iterable[str]]:
    yield jsonld.names(main.get("author") or main.get("creator"))
    yield from (head.metas.get(name, ()) for name in _AUTHORS)
    for label, data in _LABELS:
        if is_by_label(head.first(label) or ""):
            yield head.metas.get(data, ())
    yield from (jsonld.names(item.get("author")) for item in items if "author" in item)
    yield head.authors[:1]


def _published(head: Head, items: list[jsonld.Item], main: jsonld.Item) -> str | None:
    of_main = next(filter(None, (_date(main.get(name)) for name in _ITEM_DATES)), None)
    declared = list(_dates(head, _PUBLISHED))
    if of_main is not None:
        return local_form(of_main, declared)
    if declared:
        return declared[0]
    return next(filter(None, (_date(item.get("datePublished")) for item in items)), None)


def _dates(head: Head, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        found = _date(head.metas.get(name))
        if found is not None:
            yield found


def _date(value: object) -> str | None:
    text = value[0] if isinstance(value, list) and value else value
    return parse_date(text) if isinstance(text, str) else None


def _language(head: Head, main: jsonld.Item) -> str | None:
    declared = (
        head.language,
        *(head.first(*names) for names in _LANGUAGES),
        _text(main.get("inLanguage")),
    )
    return next(filter(None, map(normalise, declared)), None)


def _page_type(types: list[str], head: Head) -> str | None:
    for pattern, name in _PAGE_TYPES:
        if any(pattern.search(entry) for entry in types):
            return name
    declared = (head.first("og:type") or "").lower().strip()
    return declared.rpartition(":")[2].rpartition(".")[2][:MAX_TYPE_CHARS] or None


def _tags(head: Head, main: jsonld.Item) -> tuple[str, ...]:
    values = list(head.metas.get("article:tag", ()))
    words = main.get("keywords")
    entries = words[:MAX_TAGS] if isinstance(words, list) else [words]
    declared = head.first(*_KEYWORDS)
    for entry in [*entries, declared]:
        text = _text(entry)
        values += re.split(r"[,;]", text) if text else ()
    tags: dict[str, str] = {}
    for value in [*values, *head.tags]:
        tag = tidy(value).lstrip("#").strip()
        if 0 < len(tag) <= MAX_TAG_CHARS:
            tags.setdefault(tag.casefold(), tag)
    return tuple(tags.values())[:MAX_TAGS]
