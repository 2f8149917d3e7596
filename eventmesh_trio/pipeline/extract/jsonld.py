"""JSON-LD as found in the wild: ``@graph``, lists, nesting, and JSON that is not quite JSON.

Source: https://www.w3.org/TR/json-ld11/ and https://schema.org/
"""

import html
import json
import re
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["Item", "is_article", "main_item", "names", "read_items", "text_of", "types"]

Item = dict[str, Any]

_MAX_BYTES: Final = 4 * 1024 * 1024
_MAX_ITEMS: Final = 500
_WRAPPER: Final = re.compile(
    r"^\s*(?:<!--|//\s*<!\[CDATA\[|/\*\s*<!\[CDATA\[\s*\*/|<!\[CDATA\[)|(?:-->|//\s*\]\]>|/\*\s*\]\]>\s*\*/|\]\]>)\s*;?\s*$"
)
_TRAILING_COMMA: Final = re.compile(r",(\s*[}\]])")
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


def read_items(script: str) -> list[Item]:
    """All typed objects of one script element, outermost first. What cannot be read gives none."""
    if len(script) > _MAX_BYTES:
        return []
    text = _WRAPPER.sub("", _WRAPPER.sub("", script)).strip().rstrip(";")
    for candidate in (text, _TRAILING_COMMA.sub(r"\1", text)):
        try:
            return list(_typed(json.loads(candidate, strict=False)))
        except (ValueError, RecursionError):
            continue
    return []


def _typed(value: Any) -> Iterator[Item]:
    queue = [value]
    seen = 0
    while queue and seen < _MAX_ITEMS:
        value = queue.pop(0)
        seen += 1
        if isinstance(value, list):
            queue = value[:_MAX_ITEMS] + queue
        elif isinstance(value, dict):
            if "@type" in value:
                yield value
            queue.extend(
                value[key] for key in ("@graph", "mainEntity", "mainEntityOfPage") if key in value
            )


def types(item: Item) -> list[str]:
    value = item.get("@type")
    found = value if isinstance(value, list) else [value]
    return [_PREFIX.sub("", name) for name in found if isinstance(name, str)]


def is_article(item: Item) -> bool:
    """Whether an object is an Article of schema.org, or of any kind of it."""
    return not _ARTICLES.isdisjoint(types(item))


def main_item(items: list[Item]) -> Item | None:
    """The object that the page is about: an article before a thread, a product, a web page."""
    for rank in _RANKS:
        for item in items:
            if any(rank.search(name) for name in types(item)):
                return item
    return None


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
    text = " ".join(_TAG.sub("", html.unescape(value)).split())
    return text or None


def names(value: Any) -> list[str]:
    """Names of the persons or organisations in an ``author`` or ``publisher`` value."""
    values = value if isinstance(value, list) else [value]
    found = []
    for entry in values[:20]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        text = text_of(name)
        if text and text not in found:
            found.append(text)
    return found
