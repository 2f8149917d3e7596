"""What a page declares about itself, gathered in one pass: the head, JSON-LD, microdata, headings.

A query costs a walk over the whole tree, whatever it asks for, so there is one for everything that
every page is asked for. What stands in the visible text (bylines, dates) is another matter:
`eventmesh_trio.pipeline.extract.metadata.byline` looks there, and only for what was not declared.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import Final

import attrs
from selectolax.lexbor import LexborHTMLParser, LexborNode

from eventmesh_trio.pipeline.extract.links import absolute
from eventmesh_trio.pipeline.extract.metadata import jsonld, microdata
from eventmesh_trio.pipeline.extract.page.cues import MAX_NAMES_CHARS
from eventmesh_trio.pipeline.extract.text import clean

__all__ = ["Head", "Heading", "read_head", "tidy"]

MAX_VALUE_CHARS: Final = 2000
"""Of one value. The longest description of a real page is some 600 characters."""
MAX_VALUES: Final = 100
"""Of one name: scientific articles name all their authors, each in a ``<meta>`` of its own."""
MAX_HEADINGS: Final = 12
"""Of either level. The title is among the first; to read a heading's text is a walk in itself."""
MAX_MARKED: Final = 50
"""Links marked ``rel="author"`` or ``rel="tag"``, each."""

# Its time is that of the elements of the page times the selectors: `a[rel]` and a look at the few
# that it finds takes 120 us a page, where two selectors for the words of `rel` took 175.
_QUERY: Final = (
    'meta, link, title, h1, h2, script[type*="json" i], [itemprop], [itemscope], a[rel], base'
)
_NAMES: Final = ("property", "name", "itemprop", "http-equiv")
_RELATIONS: Final = frozenset(("canonical", "icon", "apple-touch-icon", "image_src"))
_MARKS: Final = ("author", "tag")
_ANCHORS: Final = " ¶#§🔗"  # what generators of documentation hang on a heading as a link to it


@attrs.frozen
class Heading:
    level: int  # 1 or 2
    text: str


@attrs.define(eq=False)
class Head:
    """Declared values as they stand. Names are lower case, values have their spaces collapsed."""

    base: str | None = None  # what relative addresses are relative to
    title: str = ""
    language: str | None = None
    metas: dict[str, list[str]] = attrs.field(factory=dict)
    links: dict[str, str] = attrs.field(factory=dict)  # first usable address by word of ``rel``
    headings: list[Heading] = attrs.field(factory=list)
    items: list[jsonld.Item] = attrs.field(factory=list)  # of JSON-LD
    marked: list[jsonld.Item] = attrs.field(factory=list)  # of microdata
    authors: list[str] = attrs.field(factory=list)  # texts of links that say they lead to one
    tags: list[str] = attrs.field(factory=list)
    has_opengraph: bool = False

    def first(self, *names: str) -> str | None:
        """The first value of the first of these ``<meta>`` names that has one."""
        for name in names:
            values = self.metas.get(name)
            if values:
                return values[0]
        return None


def tidy(text: str) -> str:
    """A value with its spaces collapsed, made of visible characters, and of bounded length."""
    return clean(" ".join(text[: 4 * MAX_VALUE_CHARS].split()))[:MAX_VALUE_CHARS]


def read_head(tree: LexborHTMLParser, url: str | None, asked: Collection[str]) -> Head:
    """Gather what a page declares. Never raises: what is malformed is as if it were not there.

    Args:
      url: the page's address. The first ``<base href>``, itself under it, is the base.
      asked: names of ``<meta>`` elements; of the others, most of a page's, no value is kept.
    """
    head = Head(base=url)
    root = tree.root
    if root is not None:
        attributes = root.attributes
        head.language = attributes.get("lang") or attributes.get("xml:lang")
    marked: list[LexborNode] = []
    scripts: list[str] = []
    counts = {"h1": 0, "h2": 0}
    links: list[dict[str, str | None]] = []
    based = False
    last = 0
    for element in tree.css(_QUERY):
        attributes = element.attributes
        if "itemprop" in attributes or "itemscope" in attributes:
            # Only such are found by several of the selectors, and come once for each, in a row.
            identity = element.mem_id
            if identity == last:
                continue
            last = identity
            marked.append(element)
        tag = element.tag
        if tag == "meta":
            _add_meta(head, element, attributes, asked)
        elif tag == "link":
            links.append(attributes)  # they may stand before the base
        elif tag == "a":
            if "rel" in attributes:
                _add_marked(head, element, attributes)
        elif tag in counts:
            counts[tag] += 1
            if counts[tag] <= MAX_HEADINGS:
                _add_heading(head, element, int(tag[1]))
        elif tag == "title":
            if not head.title and not _is_drawn(element):
                head.title = tidy(element.text())
        elif tag == "script":
            if jsonld.is_type(attributes.get("type")):
                scripts.append(element.text(deep=False))
        elif tag == "base" and not based and "href" in attributes:
            based = True
            href = attributes["href"]
            head.base = (absolute(href, url) if href else None) or url
    for attributes in links:
        _add_link(head, attributes)
    head.items = jsonld.read_items(scripts)
    head.marked = microdata.read_items(marked)
    return head


def _add_meta(
    head: Head, element: LexborNode, attributes: dict[str, str | None], asked: Collection[str]
) -> None:
    content = attributes.get("content")
    if not content:
        return
    value: str | None = None
    for key in _NAMES:
        name = attributes.get(key)
        if not name:
            continue
        name = name.strip().lower()
        shared = not head.has_opengraph and name[:3] == "og:"
        if name not in asked and not shared:
            continue
        if value is None:
            value = tidy(content)
        if value and (key != "itemprop" or _is_of_page(element)):
            if shared:
                head.has_opengraph = True
            values = head.metas.setdefault(name, [])
            if len(values) < MAX_VALUES:
                values.append(value)


def _is_of_page(element: LexborNode) -> bool:
    """Whether a property is the page's own, not one of an item in its text."""
    parent = element.parent
    return parent is not None and parent.tag == "head"


def _add_link(head: Head, attributes: dict[str, str | None]) -> None:
    relation, href = attributes.get("rel"), attributes.get("href")
    if not relation or not href:
        return
    for word in _relations(relation[:MAX_NAMES_CHARS]):
        if word in _RELATIONS and word not in head.links:
            address = absolute(href, head.base)
            if address is not None:
                head.links[word] = address


@lru_cache(maxsize=512)
def _relations(value: str) -> tuple[str, ...]:
    """The words of a ``rel`` that are of use here; of most there are none."""
    words = value.lower().split()
    return tuple(word for word in words if word in _RELATIONS or word in _MARKS)


def _add_heading(head: Head, element: LexborNode, level: int) -> None:
    text = tidy(element.text()).rstrip(_ANCHORS)
    if text:
        head.headings.append(Heading(level, text))


def _add_marked(head: Head, element: LexborNode, attributes: dict[str, str | None]) -> None:
    words = _relations((attributes.get("rel") or "")[:MAX_NAMES_CHARS])
    if not words:
        return
    for word, found in zip(_MARKS, (head.authors, head.tags), strict=True):
        if word in words and len(found) < MAX_MARKED:
            text = tidy(element.text(separator=" "))
            if text:
                found.append(text)


def _is_drawn(title: LexborNode) -> bool:
    """Whether a title is that of a drawing: SVG has an element of that name too."""
    parent = title.parent
    return parent is not None and parent.tag not in ("head", "html", "body")
