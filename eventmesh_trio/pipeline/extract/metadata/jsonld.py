"""JSON-LD as found in the wild: ``@graph``, references, nesting, and JSON that is not quite JSON.

Source: https://www.w3.org/TR/json-ld11/ and https://schema.org/
"""

import html
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from eventmesh_trio.pipeline.extract.page.cues import MAX_NAMES_CHARS

__all__ = [
    "Item",
    "alone",
    "is_article",
    "is_type",
    "main_item",
    "names",
    "read_items",
    "text_of",
    "types",
]

Item = dict[str, Any]

MAX_SCRIPT_CHARS: Final = 4 * 1024 * 1024
"""Of one script. The largest of real pages are some 300 KB: shops with all variants."""
MAX_VALUES: Final = 5000
"""Objects and lists looked at, of all scripts of a page."""
MAX_NAMES: Final = 50
RESCUED_CHARS: Final = 32 * 1024
"""How far a script that stays broken is looked through, member by member."""

_MEDIA_TYPE: Final = "application/ld+json"
_WRAPPER: Final = re.compile(
    r"^\s*(?:<!--|//\s*<!\[CDATA\[|/\*\s*<!\[CDATA\[\s*\*/|<!\[CDATA\[)"
    r"|(?:-->|//\s*\]\]>|/\*\s*\]\]>\s*\*/|\]\]>)\s*+;?\s*+$"
)
# A string that never ends goes on to the end of the text: to look for an end from each of its
# quotes anew would take time that grows with the square of its length.
_STRING: Final = r'"(?:[^"\\]|\\.)*+"?'
_COMMENT: Final = re.compile(rf"({_STRING})|/\*.*?(?:\*/|\Z)|//[^\n]*", re.DOTALL)
_COMMA_TOO_MANY: Final = re.compile(rf"({_STRING})|,(?=\s*+[,}}\]])", re.DOTALL)
_COMMA_TOO_FEW: Final = re.compile(rf"({_STRING})|\}}(?=\s*+\{{)", re.DOTALL)
_ESCAPE: Final = re.compile(r'\\(?:(["\\/bfnrt]|u[0-9a-fA-F]{4})|)', re.DOTALL)
# The value may hold quotes that should have been escaped: it ends where a member ends.
_MEMBER: Final = re.compile(
    r'"(@type|headline|name|datePublished|dateModified|dateCreated|description|articleSection)"'
    r'\s*+:\s*+"(.{1,1000}?)"\s*+[,}\]\n]'
)
_AUTHOR: Final = re.compile(
    r'"author"\s*+:\s*+(?:\[\s*+)?(?:\{[^{}]{0,500}?"name"\s*+:\s*+)?"(.{1,200}?)"\s*+[,}\]\n]'
)
_TAG: Final = re.compile(r"<[^>]{1,200}>")
_PREFIX: Final = re.compile(r"^(?:.*[/#]|schema:)")
# schema.org's Article and all types below it, APIReference and the deprecated ones included.
_ARTICLE_WORDS: Final = """
    Article AdvertiserContentArticle NewsArticle AnalysisNewsArticle AskPublicNewsArticle
    BackgroundNewsArticle OpinionNewsArticle ReportageNewsArticle ReviewNewsArticle Report
    SatiricalArticle ScholarlyArticle MedicalScholarlyArticle SocialMediaPosting BlogPosting
    LiveBlogPosting DiscussionForumPosting TechArticle APIReference
"""
_ARTICLES: Final = frozenset(_ARTICLE_WORDS.split())
_RANKS: Final = (
    re.compile(r"Article$|BlogPosting$|Report$|Review$|Recipe$|HowTo$|LiveBlogPosting$"),
    re.compile(r"DiscussionForumPosting$|QAPage$|Question$|SocialMediaPosting$"),
    re.compile(
        r"Product(?:Group)?$|SoftwareApplication$|Event$|JobPosting$|Course$|VideoObject$|Book$|Movie$"
    ),
    re.compile(r"Page$|Service$"),
)
_INSIDE: Final = ("@graph", "mainEntity", "mainEntityOfPage")
_REFERRING: Final = ("author", "creator", "editor", "publisher", "image")


def is_type(value: str | None) -> bool:
    """Whether a script's ``type`` is JSON-LD's, with or without parameters."""
    return value is not None and value.partition(";")[0].strip().lower() == _MEDIA_TYPE


def read_items(scripts: Sequence[str]) -> list[Item]:
    """All typed objects of a page's scripts, outermost first, with references followed.

    A script that is not JSON is mended where it is plain how; of one that stays broken the members
    that can be told by themselves are taken. Never raises.
    """
    values = [value for script in scripts for value in _read(script)]
    items = list(_typed(values))
    if any('"@id"' in script for script in scripts):
        known = _by_identifier(values)
        for item in items:
            for key in _REFERRING:
                if key in item:
                    item[key] = _followed(item[key], known)
    return items


# --- JSON that is not quite JSON -----------------------------------------------------------------


def _read(script: str) -> list[Any]:
    text = script.strip()
    if not text or len(text) > MAX_SCRIPT_CHARS:
        return []
    try:
        return [msgspec.json.decode(text)]
    except (ValueError, RecursionError):
        pass
    text = _unwrap(text)
    return _decode_all(text) or _decode_all(_mend(text)) or _rescue(text)


def _decode_all(text: str) -> list[Any]:
    """One value or several, one after the other; none where there is anything else."""
    decoder = json.JSONDecoder(strict=False)  # line ends within strings are common
    values = []
    position = 0
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            values.append(value)
            while position < len(text) and text[position] in " \t\r\n,;":
                position += 1
    except (ValueError, RecursionError):
        return []
    return values


def _unwrap(text: str) -> str:
    """Take off what hides a script from old browsers, and escapes that were meant for text."""
    text = _WRAPPER.sub("", _WRAPPER.sub("", text)).strip().rstrip(";")
    return html.unescape(text) if "&quot;" in text and '"' not in text else text


def _mend(text: str) -> str:
    """Take out comments, commas too many and escapes that JSON does not know; add commas."""
    text = _ESCAPE.sub(lambda match: match[0] if match[1] else "", text)
    text = _COMMENT.sub(lambda match: match[1] or "", text)
    text = _COMMA_TOO_MANY.sub(lambda match: match[1] or "", text)
    return _COMMA_TOO_FEW.sub(lambda match: match[1] or "},", text)


def _rescue(text: str) -> list[Item]:
    """The first of each plain member, where quotes within a text or a cut end spoil the rest."""
    text = text[:RESCUED_CHARS]
    item: Item = {}
    for match in _MEMBER.finditer(text):
        item.setdefault(match[1], match[2].replace('\\"', '"').replace("\\/", "/"))
    author = _AUTHOR.search(text)
    if author is not None:
        item["author"] = author[1]
        if item.get("name") == author[1]:
            del item["name"]
    return [item]


# --- objects -------------------------------------------------------------------------------------


def _typed(values: Iterable[Any]) -> Iterator[Item]:
    queue = deque(values)
    seen = 0
    while queue and seen < MAX_VALUES:
        value = queue.popleft()
        seen += 1
        if isinstance(value, list):
            queue.extendleft(reversed(value[:MAX_VALUES]))
        elif isinstance(value, dict):
            if "@type" in value:
                yield value
            if "FAQPage" not in types(value):  # its questions are parts of it, each one of many
                queue.extend(value[key] for key in _INSIDE if key in value)


def _by_identifier(values: Iterable[Any]) -> dict[str, Item]:
    """The objects that others may refer to: they have an ``@id`` and say more than that."""
    queue = deque(values)
    known: dict[str, Item] = {}
    seen = 0
    while queue and seen < MAX_VALUES:
        value = queue.popleft()
        seen += 1
        if isinstance(value, dict):
            identifier = value.get("@id")
            if isinstance(identifier, str) and ("name" in value or "url" in value):
                known.setdefault(identifier, value)
            queue.extend(inner for inner in value.values() if isinstance(inner, dict | list))
        elif isinstance(value, list):
            queue.extend(inner for inner in value if isinstance(inner, dict | list))
    return known


def _followed(value: Any, known: dict[str, Item]) -> Any:
    if isinstance(value, list):
        return [_followed_one(entry, known) for entry in value[:MAX_NAMES]]
    return _followed_one(value, known)


def _followed_one(value: Any, known: dict[str, Item]) -> Any:
    if isinstance(value, dict) and "name" not in value and "url" not in value:
        identifier = value.get("@id")
        if isinstance(identifier, str):
            return known.get(identifier, value)
    return value


def types(item: Item) -> list[str]:
    value = item.get("@type")
    found = value if isinstance(value, list) else [value]
    return [_without_prefix(name[:MAX_NAMES_CHARS]) for name in found if isinstance(name, str)]


# Pages use a few dozen types, and each is asked for up to ten times.
@lru_cache(maxsize=1024)
def _without_prefix(name: str) -> str:
    return _PREFIX.sub("", name)


@lru_cache(maxsize=1024)
def _rank(name: str) -> int:
    """The place of a type among `_RANKS`; behind them all for one of which no page is about."""
    return next((i for i, rank in enumerate(_RANKS) if rank.search(name)), len(_RANKS))


def is_article(item: Item) -> bool:
    """Whether an object is an Article of schema.org, or of any kind of it."""
    return not _ARTICLES.isdisjoint(types(item))


def main_item(items: Sequence[Item], is_titled: Callable[[str], bool]) -> Item | None:
    """The object that the page is about: an article before a thread, a product, a web page.

    ``is_titled`` tells whether a headline is that of the page: of several articles, the page is
    about the one that has it, else about the first.
    """
    ranks = [min(map(_rank, types(item)), default=len(_RANKS)) for item in items]
    best = min(ranks, default=len(_RANKS))
    if best == len(_RANKS):
        return None
    found = [item for item, rank in zip(items, ranks, strict=True) if rank == best]
    return next((item for item in found if _is_titled(item, is_titled)), found[0])


def alone(items: Sequence[Item], is_titled: Callable[[str], bool]) -> list[Item]:
    """The objects that are the only one of their type on the page, or have its title.

    Microdata marks every teaser of a list as much as the article of a page.
    """
    count = Counter(name for item in items for name in types(item))
    return [
        item
        for item in items
        if any(count[name] == 1 for name in types(item)) or _is_titled(item, is_titled)
    ]


def _is_titled(item: Item, is_titled: Callable[[str], bool]) -> bool:
    headline = text_of(item.get("headline") or item.get("name"))
    return headline is not None and is_titled(headline)


def text_of(value: Any) -> str | None:
    """A plain string out of a value that may be a list or a language-tagged literal."""
    for _ in range(4):
        if isinstance(value, list):
            value = value[0] if value else None
        elif isinstance(value, dict):
            value = value.get("@value", value.get("name", value.get("url")))
        else:
            break
    if not isinstance(value, str):
        return None
    text = html.unescape(value)
    if "<" in text:
        text = _TAG.sub("", text)
    text = " ".join(text.split())
    return text or None


def names(value: Any) -> list[str]:
    """Names of the persons or organisations in an ``author`` or ``publisher`` value."""
    values = value if isinstance(value, list) else [value]
    found = []
    for entry in values[:MAX_NAMES]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        for text in name if isinstance(name, list) else [name]:
            plain = text_of(text)
            if plain and plain not in found:
                found.append(plain)
    return found
