"""What an element's name, role and class say about it, before any of its text is looked at."""

import re
from functools import lru_cache
from typing import Final

__all__ = ["ASIDE", "COMMENTS", "CONTENT", "MAIN", "NOISE", "NOTE", "cues_of"]


# Flags of one int: enum.IntFlag costs a microsecond an operation, and a page has thousands.
NOISE: Final = 1  # navigation, advertising, sharing: left out unless it is most of the page
COMMENTS: Final = 2  # readers' comments: content of a forum, not of an article
CONTENT: Final = 4  # named as content by its class or id
MAIN: Final = 8  # named as the main part by HTML or ARIA
ASIDE: Final = 16
NOTE: Final = 32  # an admonition of documentation: content though it stands in an aside


_NOISE_TAGS: Final = frozenset(("nav", "footer", "menu", "button"))
_NOISE_ROLES: Final = frozenset(
    [
        "navigation",
        "banner",
        "contentinfo",
        "complementary",
        "search",
        "menu",
        "menubar",
        "dialog",
        "alertdialog",
        "toolbar",
        "tablist",
        "button",
        "tooltip",
        "alert",
    ]
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD: Final = re.compile(r"[a-z]+")
_LAYOUT: Final = re.compile(r"\b(?:has|with|no|without|hide|show|is)[-_]\S*")
_NOISE_WORDS: Final = """
    nav navbar navigation navi subnav topnav menu submenu menubar breadcrumb breadcrumbs
    crumbs footer foot sidebar sidenav share sharing sharebar shares sharedaddy social socials
    related recommend recommended recommendation recommendations recirc promo promos promotion
    promoted sponsor sponsored sponsors advert adverts advertisement advertising ad ads
    adsense adslot dfp banner banners cookie cookies consent gdpr newsletter subscribe
    subscription popup modal overlay pagination pager paging paginator masthead skiplink skip
    signup login signin outbrain taboola addthis addtoany sharethis tooltip dropdown offcanvas
    drawer toc trending popular copyright disclaimer credits byline widget widgets toolbar
    tagcloud tags taglist readmore morelinks seealso paywall registration rating ratings
    breaking ticker carousel slideshow donate jumplinks noprint printonly screenreader
    visuallyhidden editsection catlinks navbox metadata hatnote meganav sitenav
"""
_NOISE: Final = frozenset(_NOISE_WORDS.split())
_NOISE_PAIRS: Final = re.compile(
    r"(?:side[-_ ]?bar|bread[-_]crumb|read[-_](?:more|next|also)"
    r"|more[-_](?:from|stories|news|articles|posts)"
    r"|most[-_](?:read|popular|viewed)|see[-_]also|you[-_]may|up[-_]next|next[-_]article|sign[-_]up|log[-_]in"
    r"|skip[-_](?:to|link)|sr[-_]only|screen[-_]reader|visually[-_]hidden|author[-_](?:bio|box|info|card)"
    r"|about[-_]the[-_]author|post[-_](?:meta|tags|footer|nav)|entry[-_](?:meta|footer)|article[-_](?:meta|tags|footer)"
    r"|edit[-_]section|call[-_]to[-_]action|site[-_](?:header|footer|nav)|global[-_](?:header|nav|footer)"
    r"|page[-_](?:header|footer|nav)|tag[-_]list|back[-_]to[-_]top|pull[-_]?quote)"
)
_COMMENTS_WORDS: Final = """
    comment comments commentlist commentary disqus replies respond discussion livefyre
    talkback
"""
_COMMENTS: Final = frozenset(_COMMENTS_WORDS.split())
_CONTENT: Final = re.compile(
    r"article[-_]?(?:body|content|text)|(?:post|entry|page|main|story|blog|news|body|single)[-_]?"
    r"(?:body|content|text|article)|articlebody|\b(?:article|content|entry|post|story|main|body|text|prose"
    r"|hentry|markdown|mw-parser-output|rich-?text|wysiwyg)\b"
)
_NOTES_WORDS: Final = """
    note admonition callout warning tip caution important info hint aside-note
"""
_NOTES: Final = frozenset(_NOTES_WORDS.split())


@lru_cache(maxsize=4096)
def _cues_of_names(names: str) -> int:
    text = _CAMEL.sub("-", names).lower()
    text = _LAYOUT.sub(" ", text)
    words = set(_WORD.findall(text))
    cues = 0
    if not words.isdisjoint(_NOISE) or _NOISE_PAIRS.search(text) is not None:
        cues |= NOISE
    if not words.isdisjoint(_COMMENTS):
        cues |= COMMENTS
    if _CONTENT.search(text) is not None:
        cues |= CONTENT
    if not words.isdisjoint(_NOTES):
        cues |= NOTE
    return cues


def cues_of(tag: str, attributes: dict[str, str | None]) -> int:
    """What the element says about itself. Class and id are read once per distinct string."""
    cues = 0
    if tag in _NOISE_TAGS:
        cues = NOISE
    elif tag in ("article", "main"):
        cues = MAIN
    elif tag == "aside":
        cues = ASIDE
    if not attributes:
        return cues
    names = attributes.get("class") or ""
    identity = attributes.get("id")
    if identity:
        names = f"{names} {identity}"
    if names:
        cues |= _cues_of_names(names[:256])
    role = attributes.get("role")
    if role:
        if role in _NOISE_ROLES:
            cues |= NOISE
        elif role in ("main", "article"):
            cues |= MAIN
    if (attributes.get("itemprop") or "").lower() == "articlebody":
        cues |= MAIN | CONTENT
    return cues
